//! When the EC2 simulator says that a port was open: over several groups, interfaces, lists and families.

use chrono::{DateTime, TimeDelta};
use postern_sim::ec2::{Ec2Options, Ingress, MachinePlan};
use postern_sim::{Probe, Protocol};

use crate::raw::stepped;

#[tokio::test]
async fn the_truth_log_tells_when_a_port_was_open() {
    let (clock, raw) = stepped(Ec2Options::default()).await;
    let (vpc, subnet_id, group) = raw.network();
    let list = raw.fleet().prefix_list("office", &["203.0.113.0/24"], 4).unwrap();
    let interfaces = vec![vec![], vec![group.clone()]];
    let machine = raw
        .fleet()
        .machine(&MachinePlan {
            name: "m".into(),
            subnet_id,
            interfaces,
            ..MachinePlan::default()
        })
        .unwrap();
    let probe = |source: &str, port| Probe {
        machine: machine.arn.clone(),
        source: source.parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
    };
    let at = |second| DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
    let spans = |probe: &Probe| -> Vec<(i64, Option<i64>)> {
        let seconds = |time: DateTime<chrono::Utc>| (time - DateTime::UNIX_EPOCH).num_seconds();
        raw.sim
            .open_intervals(probe)
            .iter()
            .map(|span| (seconds(span.from), span.to.map(seconds)))
            .collect()
    };
    assert!(
        !raw.sim.reachable(&probe("203.0.113.7", 22), None),
        "members of a default group are no address"
    );
    clock.advance(TimeDelta::seconds(10));
    let rule = Ingress {
        from: postern_sim::ec2::Origin::PrefixList(list),
        ..Ingress::tcp_range(20, 25, "::/0")
    };
    raw.fleet().allow(&group, std::slice::from_ref(&rule)).unwrap();
    clock.advance(TimeDelta::seconds(10));
    // A second group opens the same port: closing the first one then does not close it.
    let other = raw
        .fleet()
        .group(&vpc, "other", &[Ingress::all("203.0.113.7/32")])
        .unwrap();
    let primary = &machine.interface_ids[0];
    let before = raw
        .fleet()
        .snapshot()
        .unwrap()
        .interface(primary)
        .unwrap()
        .groups
        .clone();
    raw.fleet()
        .set_groups(primary, &[before[0].clone(), other])
        .unwrap();
    clock.advance(TimeDelta::seconds(10));
    raw.fleet().revoke(&group, &[rule]).unwrap();
    clock.advance(TimeDelta::seconds(10));
    raw.fleet().set_groups(primary, &before).unwrap();
    assert_eq!(spans(&probe("203.0.113.7", 22)), [(10, Some(40))]);
    assert_eq!(spans(&probe("203.0.113.8", 22)), [(10, Some(30))]);
    assert_eq!(spans(&probe("203.0.113.8", 26)), []);
    assert_eq!(spans(&probe("203.0.113.7", 26)), [(20, Some(40))]);
    assert_eq!(spans(&probe("2001:db8::1", 22)), []);
    assert!(
        raw.sim
            .reachable(&probe("203.0.113.8", 22), Some(postern_sim::Moment::Time(at(29))))
    );
    let by_id = Probe {
        machine: machine.instance_id.clone(),
        ..probe("203.0.113.7", 22)
    };
    assert_eq!(
        raw.sim.open_intervals(&by_id),
        raw.sim.open_intervals(&probe("203.0.113.7", 22))
    );
}
