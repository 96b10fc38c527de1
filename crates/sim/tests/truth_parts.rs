//! A question about one machine is answered from the changes that concern it, as a replay of the whole log would.
#![expect(clippy::indexing_slicing, reason = "a test may fail by panicking")]

use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use postern_sim::{
    Moment, Probe, Protocol, SteppedClock,
    arm::{ArmJudge, ArmOptions, ArmSim, Fleet, FleetMachine, inbound},
    ec2::{Ec2Options, Ec2Sim, GroupJudge, Ingress, MachinePlan, Origin},
    truth::{Judge, Truth, World},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

/// Says nothing of what it hangs on, so that the whole log is replayed.
struct Whole<J>(J);

impl<J: Judge> Judge for Whole<J> {
    fn allows(&self, world: &World, probe: &Probe) -> bool {
        self.0.allows(world, probe)
    }
}

fn probe(machine: &str, source: [u8; 4], port: u16) -> Probe {
    Probe {
        machine: machine.to_owned(),
        source: source.into(),
        port,
        protocol: Protocol::Tcp,
    }
}

/// How many questions were answered with yes and with no.
fn agree<J: Judge + Copy>(truth: &Truth, judge: J, probes: &[Probe]) -> [usize; 2] {
    let mut answers = [0, 0];
    for probe in probes {
        assert_eq!(
            truth.open_intervals(&judge, probe),
            truth.open_intervals(&Whole(judge), probe),
            "{probe:?}"
        );
        let last = truth.last();
        let moments = (0..=last).step_by(3).map(Moment::Seq).chain(
            truth
                .all()
                .into_iter()
                .step_by(7)
                .map(|change| Moment::Time(change.at)),
        );
        for moment in moments.map(Some).chain([None]) {
            let answer = truth.reachable(&judge, probe, moment);
            let replayed = truth.reachable(&Whole(judge), probe, moment);
            assert_eq!(answer, replayed, "{probe:?} at {moment:?}");
            answers[usize::from(answer)] += 1;
        }
    }
    answers
}

fn one_of<'a, T>(random: &mut StdRng, all: &'a [T]) -> &'a T {
    &all[random.random_range(0..all.len())]
}

/// What somebody does to the Azure fleet; a refusal is as good as a change.
fn edit_azure(random: &mut StdRng, fleet: &Fleet, machines: &[FleetMachine], groups: &[String]) {
    let machine = one_of(random, machines);
    let group = one_of(random, groups);
    let subnet = fleet.id("Microsoft.Network/virtualNetworks/net/subnets/front");
    let name = format!("rule-{}", random.random_range(0..4));
    let source = *one_of(
        random,
        &["*", "203.0.113.0/24", "Internet", "Storage", "VirtualNetwork"],
    );
    let port = *one_of(random, &["22", "*", "443"]);
    let access = *one_of(random, &["Allow", "Deny"]);
    let _may_be_refused = match random.random_range(0..9) {
        0..=3 => {
            let rule = inbound(&name, random.random_range(100..110), access, source, port);
            let id = format!("{group}/securityRules/{name}");
            fleet.put(&id, rule)
        }
        4 | 5 => fleet
            .delete(&format!("{group}/securityRules/{name}"))
            .map(|()| json!(null)),
        6 => fleet.put(
            &subnet,
            json!({ "properties": { "addressPrefix": "10.0.1.0/24",
                "networkSecurityGroup": { "id": group } } }),
        ),
        7 => fleet.put(
            &subnet,
            json!({ "properties": { "addressPrefix": "10.0.1.0/24" } }),
        ),
        _ => fleet
            .delete(&machine.machine)
            .and_then(|()| fleet.delete(&machine.interface))
            .map(|()| json!(null)),
    };
}

#[tokio::test]
async fn a_question_about_an_azure_machine_is_answered_as_by_a_replay() {
    let mut answers = [0, 0];
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
        let options = ArmOptions {
            clock: Arc::clone(&clock) as Arc<_>,
            service_tags: [("Storage".to_owned(), vec!["203.0.113.0/25".parse().unwrap()])].into(),
            ..ArmOptions::default()
        };
        let sim = ArmSim::start(options).await.unwrap();
        let fleet = sim.fleet();
        fleet.group().unwrap();
        let network = fleet.network("net", "10.0.0.0/16").unwrap();
        let mut groups = vec![fleet.security_group("outer", &[]).unwrap()];
        let subnet = fleet.subnet(&network, "front", "10.0.1.0/24", None).unwrap();
        let machines: Vec<FleetMachine> = (0..3)
            .map(|number| {
                fleet
                    .machine(&format!("vm-{number}"), &subnet, &[], &json!({}))
                    .unwrap()
            })
            .collect();
        groups.extend(machines.iter().map(|machine| machine.security_group.clone()));
        for number in 0..60 {
            // Half of the seeds get a source that is a group of interfaces, or routes: then anything matters.
            if number == 40 && seed % 2 == 0 {
                let table = fleet.default_route("routes", "10.0.2.4").unwrap();
                let body = json!({ "properties": { "addressPrefix": "10.0.1.0/24", "routeTable": { "id": table } } });
                fleet.put(&subnet, body).unwrap();
            }
            edit_azure(&mut random, &fleet, &machines, &groups);
            if random.random_bool(0.6) {
                clock.advance(TimeDelta::seconds(1));
            }
        }
        let probes: Vec<Probe> = machines
            .iter()
            .flat_map(|machine| {
                [
                    ([203, 0, 113, 7], 22),
                    ([203, 0, 113, 200], 443),
                    ([10, 0, 1, 5], 22),
                ]
                .map(|(source, port)| probe(&machine.machine, source, port))
            })
            .collect();
        let found = agree(sim.truth(), ArmJudge::default(), &probes);
        answers = [answers[0] + found[0], answers[1] + found[1]];
    }
    assert!(answers.iter().all(|count| *count > 300), "{answers:?}");
}

#[tokio::test]
async fn a_question_about_an_ec2_instance_is_answered_as_by_a_replay() {
    let mut answers = [0, 0];
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
        let options = Ec2Options {
            clock: Arc::clone(&clock) as Arc<_>,
            ..Ec2Options::default()
        };
        let sim = Ec2Sim::start(options).await.unwrap();
        let fleet = sim.fleet(Ec2Sim::ACCOUNT, "eu-west-1");
        let vpc = fleet.vpc("10.30.0.0/16", false).unwrap();
        let subnet = fleet.subnet(&vpc, "10.30.1.0/24", 0).unwrap();
        let list = fleet.prefix_list("offices", &["203.0.113.0/25"], 5).unwrap();
        let groups: Vec<String> = (0..4)
            .map(|number| fleet.group(&vpc, &format!("group-{number}"), &[]).unwrap())
            .collect();
        let machines: Vec<_> = (0..3)
            .map(|number| {
                fleet
                    .machine(&MachinePlan {
                        name: format!("vm-{number}"),
                        subnet_id: subnet.clone(),
                        interfaces: vec![vec![groups[number].clone()], vec![groups[3].clone()]],
                        ..MachinePlan::default()
                    })
                    .unwrap()
            })
            .collect();
        let rules = [
            Ingress::tcp(22, "203.0.113.0/24"),
            Ingress::tcp(443, "0.0.0.0/0"),
            Ingress::all("10.0.0.0/8"),
            Ingress {
                from: Origin::PrefixList(list),
                ..Ingress::tcp(22, "192.0.2.0/24")
            },
        ];
        for _ in 0..60 {
            let group = one_of(&mut random, &groups);
            let rule = one_of(&mut random, &rules).clone();
            let machine = one_of(&mut random, &machines);
            let interface = one_of(&mut random, &machine.interface_ids);
            let _may_be_refused = match random.random_range(0..5) {
                0 | 1 => fleet.allow(group, &[rule]).map(drop),
                2 | 3 => fleet.revoke(group, &[rule]),
                _ => fleet.set_groups(interface, std::slice::from_ref(group)),
            };
            if random.random_bool(0.6) {
                clock.advance(TimeDelta::seconds(1));
            }
        }
        let probes: Vec<Probe> = machines
            .iter()
            .flat_map(|machine| {
                [
                    ([203, 0, 113, 7], 22),
                    ([203, 0, 113, 200], 443),
                    ([10, 30, 1, 5], 22),
                ]
                .map(|(source, port)| probe(&machine.arn, source, port))
            })
            .collect();
        let found = agree(sim.truth(), GroupJudge, &probes);
        answers = [answers[0] + found[0], answers[1] + found[1]];
    }
    assert!(answers.iter().all(|count| *count > 300), "{answers:?}");
}
