//! Reachability by example: the defaults, tags, order, hops and families.

use std::collections::BTreeSet;

use super::{
    oracle::{GROUP, MACHINE, network, nsg},
    *,
};
use crate::{
    nsg::{AddressPrefix, NsgProtocol, Side},
    testing::an_nsg_rule,
};

fn rule(priority: u16, access: Access, source: &str, ports: (u16, u16)) -> NsgRule {
    let range = format!("{}-{}", ports.0, ports.1);
    NsgRule {
        protocol: NsgProtocol::Tcp,
        ..an_nsg_rule(&format!("r{priority}"), priority, access, source, &range)
    }
}

fn defaults() -> Vec<NsgRule> {
    let all = |priority, access, source| NsgRule {
        protocol: NsgProtocol::Any,
        ..rule(priority, access, source, (0, 65535))
    };
    vec![
        all(65000, Access::Allow, "VirtualNetwork"),
        all(65001, Access::Allow, "AzureLoadBalancer"),
        all(65500, Access::Deny, "*"),
    ]
}

fn flow(source: &str, ports: &str) -> Flow {
    Flow {
        source: source.parse().unwrap(),
        destination: MACHINE.parse().unwrap(),
        ports: ports.parse().unwrap(),
    }
}

#[test]
fn the_internet_is_denied_by_the_default_rule_and_the_network_is_let_in() {
    let found = nsg(&defaults(), &flow("0.0.0.0/0", "22"));
    assert_eq!(found.verdict, Verdict::Denied);
    assert_eq!(found.rule.unwrap().priority, Some(65500));
    assert_eq!(
        nsg(&defaults(), &flow("203.0.113.7", "22")).verdict,
        Verdict::Denied
    );
    let found = nsg(&defaults(), &flow("10.0.0.1", "22"));
    assert_eq!(found.verdict, Verdict::Allowed);
    assert_eq!(found.rule.unwrap().priority, Some(65000));
    assert_eq!(
        nsg(&defaults(), &flow("168.63.129.16", "22")).verdict,
        Verdict::Allowed
    );
}

#[test]
fn a_private_address_outside_the_network_may_be_of_a_peered_one() {
    let found = nsg(&defaults(), &flow("10.9.0.1", "22"));
    assert_eq!(found.verdict, Verdict::Partly);
    assert_eq!(found.unsure.len(), 1);
    assert_eq!(found.unsure[0].priority, Some(65000));
}

#[test]
fn the_tag_internet_lets_all_of_the_internet_in() {
    let mut rules = defaults();
    rules.push(rule(300, Access::Allow, "Internet", (22, 22)));
    for source in ["0.0.0.0/0", "203.0.113.7"] {
        let found = nsg(&rules, &flow(source, "22"));
        assert_eq!(found.verdict, Verdict::Allowed, "{source}");
        assert_eq!(
            found.rule.unwrap().to_string(),
            "rule `r300` (priority 300) of `web`"
        );
    }
    assert_eq!(nsg(&rules, &flow("0.0.0.0/0", "22-23")).verdict, Verdict::Partly);
}

#[test]
fn a_deny_above_an_allow_wins_and_one_below_does_not() {
    let mut rules = defaults();
    rules.push(rule(200, Access::Deny, "*", (22, 22)));
    rules.push(rule(300, Access::Allow, "*", (22, 22)));
    let found = nsg(&rules, &flow("203.0.113.7", "22"));
    assert_eq!(
        (found.verdict, found.rule.unwrap().priority),
        (Verdict::Denied, Some(200))
    );
    rules.push(rule(100, Access::Allow, "203.0.113.7", (22, 22)));
    assert_eq!(nsg(&rules, &flow("203.0.113.7", "22")).verdict, Verdict::Allowed);
    let wider = nsg(&rules, &flow("203.0.113.0/24", "22"));
    assert_eq!(wider.verdict, Verdict::Partly);
    assert_eq!(wider.rule.unwrap().priority, Some(200));
    assert_eq!(wider.allowed_by[0].priority, Some(100));
}

#[test]
fn a_service_tag_above_a_deny_is_named_as_unsure() {
    let mut rules = defaults();
    rules.push(rule(100, Access::Allow, "AzureDevOps", (22, 22)));
    let found = nsg(&rules, &flow("203.0.113.7", "22"));
    assert_eq!(found.verdict, Verdict::Partly);
    assert_eq!(found.unsure[0].rule, "r100");
    // Where the certain rules say the same, it does not matter.
    rules.push(rule(101, Access::Allow, "*", (22, 22)));
    assert_eq!(nsg(&rules, &flow("203.0.113.7", "22")).verdict, Verdict::Allowed);
}

fn interface(layers: Vec<Layer>, addresses: &[&str]) -> Interface {
    Interface {
        id: "eni-1".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        public_addresses: vec![],
        network: network(),
        network_id: "vpc-1".into(),
        layers,
    }
}

fn layer(place: Place, rules: Vec<NsgRule>) -> Layer {
    Layer::Nsg {
        point: PointRef::nsg("00000000-0000-0000-0000-000000000001", "prod", "web").unwrap(),
        place,
        rules,
        memberships: BTreeSet::new(),
        possible_memberships: BTreeSet::new(),
    }
}

#[test]
fn where_the_groups_of_the_destination_are_not_known_a_rule_for_one_may_match() {
    let mut rules = defaults();
    let mut deny = rule(100, Access::Deny, "*", (22, 22));
    deny.destination = Side {
        prefixes: vec![],
        groups: vec![GROUP.to_uppercase()],
    };
    rules.extend([deny, rule(200, Access::Allow, "*", (22, 22))]);
    let point = PointRef::nsg("00000000-0000-0000-0000-000000000001", "prod", "web").unwrap();
    let verdict = |known| evaluate_nsg(&point, &rules, known, &network(), &flow("203.0.113.7", "22"));
    let found = verdict(Memberships::Unknown);
    assert_eq!(found.verdict, Verdict::Partly);
    assert_eq!(found.unsure[0].rule, "r100");
    let (none, web) = (BTreeSet::new(), BTreeSet::from([GROUP.to_owned()]));
    let known = |certain, possible| verdict(Memberships::Known { certain, possible }).verdict;
    assert_eq!(known(&none, &none), Verdict::Allowed);
    assert_eq!(known(&none, &web), Verdict::Partly);
    assert_eq!(known(&web, &none), Verdict::Denied);
}

#[test]
fn every_hop_must_let_a_packet_through() {
    let open = || {
        let mut rules = defaults();
        rules.push(rule(300, Access::Allow, "*", (22, 22)));
        rules
    };
    let half = || {
        let mut rules = defaults();
        rules.push(rule(300, Access::Allow, "203.0.113.0/25", (22, 22)));
        rules
    };
    let verdict = |subnet, nic| {
        reach(
            &interface(
                vec![layer(Place::Subnet, subnet), layer(Place::Interface, nic)],
                &[MACHINE],
            ),
            "203.0.113.0/24".parse().unwrap(),
            "22".parse().unwrap(),
        )
    };
    assert_eq!(verdict(open(), open()).verdict, Verdict::Allowed);
    assert_eq!(verdict(open(), half()).verdict, Verdict::Partly);
    let denied = verdict(open(), defaults());
    assert_eq!(denied.verdict, Verdict::Denied);
    assert_eq!(denied.hops.len(), 2);
    assert_eq!(denied.hops[0].verdict, Verdict::Allowed);
    assert_eq!(denied.hops[1].place, Some(Place::Interface));
}

#[test]
fn where_nothing_filters_everything_passes_and_where_no_address_is_nothing_does() {
    let any4: Source = "0.0.0.0/0".parse().unwrap();
    let any6: Source = "::/0".parse().unwrap();
    let bare = interface(vec![], &[MACHINE]);
    assert_eq!(
        reach(&bare, any4, "22".parse().unwrap()).verdict,
        Verdict::Allowed
    );
    assert_eq!(reach(&bare, any6, "22".parse().unwrap()).verdict, Verdict::Denied);
}

#[test]
fn addresses_of_one_interface_that_fare_differently_are_reached_partly() {
    let mut rules = defaults();
    rules.push(NsgRule {
        destination: Side {
            prefixes: vec![AddressPrefix::parse(MACHINE)],
            groups: vec![],
        },
        ..rule(300, Access::Allow, "*", (22, 22))
    });
    let interface = interface(vec![layer(Place::Interface, rules)], &[MACHINE, "10.0.0.3"]);
    let found = reach(&interface, "203.0.113.7".parse().unwrap(), "22".parse().unwrap());
    assert_eq!(found.verdict, Verdict::Partly);
    assert_eq!(found.hops.len(), 2);
}

#[test]
fn ipv6_is_matched_as_ipv4_is() {
    let mut rules = defaults();
    rules.push(rule(300, Access::Allow, "2001:db8::/32", (22, 22)));
    let flow = |source: &str| Flow {
        source: source.parse().unwrap(),
        destination: "2001:db8:1::4".parse().unwrap(),
        ports: "22".parse().unwrap(),
    };
    assert_eq!(nsg(&rules, &flow("2001:db8:ffff::/48")).verdict, Verdict::Allowed);
    assert_eq!(nsg(&rules, &flow("2001:db9::/48")).verdict, Verdict::Denied);
    assert_eq!(nsg(&rules, &flow("::/0")).verdict, Verdict::Partly);
}
