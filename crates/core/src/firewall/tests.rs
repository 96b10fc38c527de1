//! Doors and routed packets, case by case and against an oracle that asks one rule after another.

use proptest::prelude::*;

use super::*;
use crate::testing::ports;

const MACHINE: &str = "10.1.0.4";
const PUBLIC: &str = "20.0.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn matches(sources: &str, destinations: &str, range: &str) -> Match {
    let list = |text: &str| text.split(',').map(Endpoint::parse).collect();
    Match {
        protocols: vec![Protocol::Tcp],
        sources: list(sources),
        destinations: list(destinations),
        ports: vec![NsgPorts::parse(range).unwrap()],
    }
}

fn nat(name: &str, sources: &str, port: &str, to: &str, inner: u16) -> FirewallRule {
    FirewallRule {
        name: name.into(),
        description: None,
        matches: matches(sources, PUBLIC, port),
        action: Action::Translate {
            address: to.parse().ok(),
            port: inner,
        },
    }
}

fn filter(name: &str, access: Access, sources: &str, destinations: &str, range: &str) -> FirewallRule {
    FirewallRule {
        name: name.into(),
        description: None,
        matches: matches(sources, destinations, range),
        action: Action::Filter(access),
    }
}

fn collection(name: &str, priority: u16, rules: Vec<FirewallRule>) -> RuleCollection {
    RuleCollection {
        name: name.into(),
        inherited: 0,
        group_priority: 0,
        priority,
        rules,
    }
}

fn firewall(collections: Vec<RuleCollection>) -> Firewall {
    Firewall {
        id: "/azurefirewalls/edge".into(),
        public_addresses: vec![ip(PUBLIC), ip("20.0.0.2")],
        private_addresses: vec![ip("10.0.0.4")],
        inside: vec!["10.0.0.0/26".parse().unwrap()],
        collections,
    }
}

fn lines(doors: &[Door]) -> Vec<String> {
    doors
        .iter()
        .map(|door| {
            let sources: Vec<String> = door.sources.iter().map(ToString::to_string).collect();
            format!(
                "{}{} -> {}:{} -> {} by {}",
                if door.certain { "" } else { "possibly " },
                sources.join(","),
                door.address,
                door.ports.first,
                door.leads_to,
                door.rule.rule
            )
        })
        .collect()
}

#[test]
fn a_nat_rule_is_a_door_and_the_hops_behind_see_the_firewall() {
    let edge = firewall(vec![collection(
        "in",
        200,
        vec![
            nat("ssh", "203.0.113.0/24", "50022", MACHINE, 22),
            nat("other", "*", "50023", "10.1.0.5", 22),
        ],
    )]);
    let doors = edge.doors(ip(MACHINE), ports("22"));
    assert_eq!(
        lines(&doors),
        ["203.0.113.0/24 -> 20.0.0.1:50022 -> 22 by in/ssh"]
    );
    assert_eq!(
        doors[0].rule.to_string(),
        "rule `in/ssh` (priority 200) of `edge`"
    );
    assert_eq!(edge.doors(ip(MACHINE), ports("3389")), []);
    assert_eq!(edge.seen_behind(), ["10.0.0.0/26".parse::<Source>().unwrap()]);
}

#[test]
fn a_nat_rule_for_the_address_inside_is_a_door_to_whoever_is_connected() {
    let mut inside = nat("ssh", "192.168.0.0/16", "50022", MACHINE, 22);
    inside.matches.destinations = vec![Endpoint::parse("10.0.0.4")];
    let edge = firewall(vec![collection("in", 200, vec![inside])]);
    assert_eq!(
        lines(&edge.doors(ip(MACHINE), ports("22"))),
        ["possibly 192.168.0.0/16 -> 10.0.0.4:50022 -> 22 by in/ssh"]
    );
}

#[test]
fn the_first_rule_that_answers_at_a_port_decides_where_it_leads() {
    let edge = firewall(vec![
        collection("late", 300, vec![nat("all", "*", "50022", MACHINE, 22)]),
        collection(
            "early",
            200,
            vec![nat("half", "0.0.0.0/1", "50022", "10.1.0.5", 22)],
        ),
    ]);
    assert_eq!(
        lines(&edge.doors(ip(MACHINE), ports("22"))),
        ["128.0.0.0/1 -> 20.0.0.1:50022 -> 22 by late/all"]
    );
}

#[test]
fn groups_come_before_collections_and_parents_may_come_first() {
    let with = |name: &str, inherited: u8, group_priority: u16, priority: u16, to: &str| RuleCollection {
        inherited,
        group_priority,
        ..collection(name, priority, vec![nat("r", "*", "50022", to, 22)])
    };
    let base = with("base", 1, 60_000, 60_000, MACHINE);
    let early = with("early", 0, 100, 200, "10.1.0.5");
    let later = with("later", 0, 100, 300, MACHINE);
    let all = firewall(vec![later.clone(), early.clone(), base]);
    assert_eq!(
        lines(&all.doors(ip(MACHINE), ports("22"))),
        ["possibly 0.0.0.0/0 -> 20.0.0.1:50022 -> 22 by base/r"]
    );
    assert_eq!(
        firewall(vec![later.clone(), early]).doors(ip(MACHINE), ports("22")),
        []
    );
    // A parent's may take what the policy's own lead on, and may not.
    let elsewhere = RuleCollection {
        rules: vec![nat("r", "203.0.113.0/24", "50022", "10.1.0.5", 22)],
        ..with("base", 1, 60_000, 60_000, MACHINE)
    };
    let all = firewall(vec![later, elsewhere]).doors(ip(MACHINE), ports("22"));
    let (sure, perhaps): (Vec<&Door>, Vec<&Door>) = all.iter().partition(|door| door.certain);
    let own = "203.0.113.0/24".parse().unwrap();
    assert!(perhaps.iter().all(|door| door.sources == [own]), "{perhaps:?}");
    assert!(!sure.is_empty() && !perhaps.is_empty(), "{all:?}");
    assert!(sure.iter().all(|door| !door.sources.contains(&own)), "{sure:?}");
}

#[test]
fn names_and_network_denies_make_a_door_possible_and_not_certain() {
    let edge = firewall(vec![
        collection(
            "in",
            200,
            vec![
                nat("group", "/ipgroups/office", "50022", MACHINE, 22),
                nat("host", "203.0.113.7", "50023", "host.example", 22),
                nat("sure", "203.0.113.8", "50024", MACHINE, 22),
                nat("denied", "203.0.113.9", "50025", MACHINE, 22),
            ],
        ),
        collection(
            "no",
            100,
            vec![filter("nine", Access::Deny, "203.0.113.9", MACHINE, "*")],
        ),
    ]);
    assert_eq!(
        lines(&edge.doors(ip(MACHINE), ports("22"))),
        [
            "possibly 0.0.0.0/0 -> 20.0.0.1:50022 -> 22 by in/group",
            "possibly 203.0.113.7/32 -> 20.0.0.1:50023 -> 22 by in/host",
            "203.0.113.8/32 -> 20.0.0.1:50024 -> 22 by in/sure",
            "possibly 203.0.113.9/32 -> 20.0.0.1:50025 -> 22 by in/denied",
        ]
    );
}

#[test]
fn routed_packets_pass_by_a_network_rule_and_are_denied_without_one() {
    let edge = firewall(vec![
        collection(
            "low",
            300,
            vec![filter(
                "site",
                Access::Allow,
                "192.168.0.0/16",
                "10.1.0.0/24",
                "22",
            )],
        ),
        collection(
            "top",
            200,
            vec![filter("lab", Access::Deny, "192.168.9.1-192.168.9.9", "*", "*")],
        ),
        collection("nat", 100, vec![nat("all", "*", "22", MACHINE, 22)]),
    ]);
    let verdict = |source: &str| edge.passes(source.parse().unwrap(), ip(MACHINE), ports("22")).0;
    assert_eq!(verdict("192.168.1.0/24"), Verdict::Allowed);
    assert_eq!(verdict("192.168.9.0/24"), Verdict::Partly);
    assert_eq!(verdict("192.168.9.4"), Verdict::Denied);
    assert_eq!(verdict("172.16.0.1"), Verdict::Denied);
    let (_, rules) = edge.passes("192.168.9.0/24".parse().unwrap(), ip(MACHINE), ports("22"));
    let names: Vec<&str> = rules.iter().map(|rule| rule.rule.as_str()).collect();
    assert_eq!(names, ["top/lab", "low/site"]);
}

#[test]
fn what_is_routed_through_is_told_with_what_may_be() {
    let edge = firewall(vec![
        collection(
            "top",
            200,
            vec![
                filter("vendor", Access::Allow, "Vendor", "*", "22"),
                filter("lab", Access::Deny, "192.168.9.0/24", "*", "*"),
                filter("maybe", Access::Deny, "Partner", "*", "443"),
            ],
        ),
        collection(
            "low",
            300,
            vec![
                filter("site", Access::Allow, "192.168.8.0/23", "10.1.0.0/24", "20-22"),
                filter("web", Access::Allow, "192.168.8.0/23", "10.1.0.0/24", "443"),
            ],
        ),
    ]);
    let routed = edge.routed(ip(MACHINE), ports("1-1000"), 5).unwrap();
    for (from, port, certain) in [
        ("192.168.8.1", 21, Some(true)),
        ("192.168.8.1", 22, Some(true)),
        ("192.168.8.1", 19, None),
        ("192.168.9.1", 21, None),
        // The vendor may be there.
        ("192.168.9.1", 22, Some(false)),
        ("203.0.113.7", 22, Some(false)),
        // The partner may.
        ("192.168.8.1", 443, Some(false)),
        ("203.0.113.7", 443, None),
    ] {
        let mut found = routed.iter().filter(|one| {
            (one.ports.first()..=one.ports.last()).contains(&port)
                && one.sources.iter().any(|net| net.contains(&ip(from)))
        });
        assert_eq!(
            found.next().map(|one| one.certain),
            certain,
            "{from} to {port}: {routed:#?}"
        );
        assert_eq!(found.next(), None, "{from} to {port}");
    }
    assert_eq!(
        edge.routed(ip("10.1.1.4"), ports("443"), 3),
        Some(vec![]),
        "another machine"
    );
    assert_eq!(
        edge.routed(ip(MACHINE), ports("1-1000"), 4),
        None,
        "too many to ask"
    );
}

#[test]
fn a_mapped_port_is_one_that_people_know_or_the_lowest_that_is_free() {
    let edge = firewall(vec![collection(
        "in",
        200,
        vec![
            nat("ssh", "203.0.113.0/24", "50022", MACHINE, 22),
            nat("range", "*", "50000-50002", "10.1.0.9", 443),
        ],
    )]);
    let port = |text: &str, band| edge.mapped_port(ip(PUBLIC), ip(MACHINE), ports(text), band);
    assert_eq!(port("22", 50000..=50100), Some(50022));
    assert_eq!(port("3389", 50000..=50100), Some(50003));
    assert_eq!(port("3389", 50000..=50002), None);
}

fn a_rule() -> impl Strategy<Value = FirewallRule> {
    let sources = prop::sample::select(vec![
        "*",
        "203.0.113.0/30",
        "203.0.113.1",
        "203.0.113.2-203.0.113.9",
    ]);
    let range = prop::sample::select(vec!["50022", "50020-50030", "22", "*"]);
    let action = prop_oneof![
        (
            prop::sample::select(vec![MACHINE, "10.1.0.5"]),
            prop::sample::select(vec![22u16, 3389])
        )
            .prop_map(|(to, port)| Action::Translate {
                address: Some(ip(to)),
                port
            }),
        any::<bool>().prop_map(|allow| Action::Filter(if allow { Access::Allow } else { Access::Deny })),
    ];
    (sources, range, action).prop_map(|(sources, range, action)| FirewallRule {
        name: "r".into(),
        description: None,
        matches: matches(
            sources,
            if matches!(action, Action::Translate { .. }) {
                PUBLIC
            } else {
                "10.1.0.0/24"
            },
            range,
        ),
        action,
    })
}

fn some_collections() -> impl Strategy<Value = Vec<RuleCollection>> {
    let one = (
        0u8..2,
        prop::sample::select(vec![0u16, 100]),
        prop::collection::vec(a_rule(), 1..3),
    );
    prop::collection::btree_map(100u16..110, one, 0..5).prop_map(|all| {
        all.into_iter()
            .map(|(priority, (inherited, group_priority, rules))| RuleCollection {
                inherited,
                group_priority,
                ..collection(&format!("c{priority}"), priority, rules)
            })
            .collect()
    })
}

/// The first rule of the kind that matches, asked one after another; with or without translating rules of parents.
fn first(
    edge: &Firewall,
    (translating, parents): (bool, bool),
    from: IpAddr,
    to: IpAddr,
    port: u16,
) -> Option<&FirewallRule> {
    let mut all: Vec<&RuleCollection> = edge.collections.iter().collect();
    all.retain(|one| parents || !translating || one.inherited == 0);
    all.sort_by(|a, b| {
        let key = |one: &RuleCollection| (255 - one.inherited, one.group_priority, one.priority);
        key(a).cmp(&key(b))
    });
    let holds = |list: &[Endpoint], address: IpAddr| list.iter().any(|one| one.is(address) == Some(true));
    all.into_iter().flat_map(|one| &one.rules).find(|rule| {
        matches!(rule.action, Action::Translate { .. }) == translating
            && holds(&rule.matches.sources, from)
            && holds(&rule.matches.destinations, to)
            && rule.matches.ports.iter().any(|range| range.overlaps(port, port))
    })
}

proptest! {
    #[test]
    fn doors_and_verdicts_are_what_asking_rule_by_rule_says(collections in some_collections()) {
        let edge = firewall(collections);
        let doors = edge.doors(ip(MACHINE), ports("22"));
        let routed = edge.routed(ip(MACHINE), Ports::range(Protocol::Tcp, 1, u16::MAX).unwrap(), usize::MAX).unwrap();
        for last in [0u8, 1, 2, 3, 9, 10] {
            let from = IpAddr::from([203, 0, 113, last]);
            for port in [22u16, 50019, 50022, 50030] {
                let leads = |parents| first(&edge, (true, parents), from, ip(PUBLIC), port).is_some_and(|rule| {
                    rule.action == Action::Translate { address: Some(ip(MACHINE)), port: 22 }
                });
                let (with, without) = (leads(true), leads(false));
                let said: Vec<&Door> = doors
                    .iter()
                    .filter(|door| door.address == ip(PUBLIC) && door.ports.overlaps(port, port))
                    .filter(|door| door.sources.iter().any(|net| net.contains(&from)))
                    .collect();
                prop_assert!(!said.is_empty() || !(with || without), "{} {} {:?}", from, port, said);
                let sure = said.iter().filter(|door| door.certain).count();
                prop_assert!(sure <= usize::from(with && without), "{} {} {:?}", from, port, said);
                if edge.collections.iter().all(|one| one.inherited == 0) {
                    prop_assert_eq!(said.len(), usize::from(with), "{} {} {:?}", from, port, said);
                }
                let denied = first(&edge, (false, true), from, ip(MACHINE), 22)
                    .is_some_and(|rule| rule.action == Action::Filter(Access::Deny));
                prop_assert!(!said.iter().any(|door| door.certain && denied), "{} {}", from, port);

                let allowed = first(&edge, (false, true), from, ip(MACHINE), port)
                    .is_some_and(|rule| rule.action == Action::Filter(Access::Allow));
                let one = Ports::one(Protocol::Tcp, port).unwrap();
                let expected = if allowed { Verdict::Allowed } else { Verdict::Denied };
                prop_assert_eq!(edge.passes(from.into(), ip(MACHINE), one).0, expected);
                let let_through: Vec<bool> = routed
                    .iter()
                    .filter(|one| (one.ports.first()..=one.ports.last()).contains(&port))
                    .filter(|one| one.sources.iter().any(|net| net.contains(&from)))
                    .map(|one| one.certain)
                    .collect();
                prop_assert_eq!(let_through, vec![true; usize::from(allowed)], "{} {}", from, port);
            }
        }
    }
}
