//! Where numbers run out: grants that share a rule.

use std::{collections::BTreeSet, net::IpAddr};

use postern_core::{
    enforcer::{Desired, Member, Observed, Verb, WantedGrant},
    id::GrantId,
    mark::{Mark, Purpose},
    nsg::SharedMark,
    testing::{an_id, at},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    ReadRule, Rest,
    model::{Model, Packet, converge, desired, foreign, grant, guard, member},
    without,
};
use crate::config::PriorityBand;

/// An NSG with an allow at 300 and room for our rules from `first` to 299 only.
fn tight(first: u16) -> Model {
    let mut model = Model::new(&[foreign("ssh", 300, "Allow", "Tcp", "*", "*", "22")]);
    model.band = PriorityBand { first, last: 999 };
    model
}

fn bastion(grants: Vec<WantedGrant>) -> Desired {
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22"]));
    vm.grants = grants;
    desired(vec![vm])
}

fn from(number: u128, source: &str) -> WantedGrant {
    WantedGrant {
        not_after: at(600 + i64::try_from(number).unwrap()),
        ..grant(number, &["22"], &[source])
    }
}

fn passes(model: &Model, source: &str, to: &str) -> bool {
    model.filter().passes(Packet {
        from: source.parse().unwrap(),
        to: to.parse().unwrap(),
        port: 22,
        udp: false,
    })
}

fn described(model: &Model, part: &str) -> Vec<String> {
    model
        .rules()
        .iter()
        .filter(|rule| rule["name"].as_str().unwrap().contains(part))
        .map(|rule| rule["properties"]["description"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn four_times_as_many_people_as_numbers_reach_a_machine() {
    let mut model = tight(100);
    let source = |number: u128| format!("198.51.{}.{}", 100 + number / 200, number % 200);
    let mut wanted = bastion((0..800).map(|number| from(number, &source(number))).collect());
    converge(&mut model, &wanted);
    let plan = model.plan(&wanted);
    assert_eq!(plan.changes, []);
    // 199 numbers above the deny at 299, less the deny's own.
    assert_eq!(plan.obstacles.len(), 800 - 4 * 199);
    assert!(
        plan.obstacles
            .iter()
            .all(|obstacle| obstacle.code == "no_free_priority")
    );
    assert_eq!(model.rules().len(), 1 + 1 + 199);
    let evidence = model.observed().evidence(&wanted);
    assert_eq!(evidence.len(), 4 * 199);
    assert!(evidence.values().all(|evidence| evidence.complete));
    assert!(passes(&model, &source(0), "10.0.0.4") && passes(&model, &source(795), "10.0.0.4"));
    assert!(!passes(&model, "8.8.8.8", "10.0.0.4"));
    wanted.members[0].grants.clear();
    converge(&mut model, &wanted);
    assert_eq!(model.rules().len(), 2);
}

#[test]
fn a_grant_that_leaves_a_shared_rule_takes_its_source_along_and_nothing_else() {
    let mut model = tight(298);
    let all = [
        from(1, "203.0.113.7"),
        from(2, "198.51.100.1"),
        from(3, "198.51.100.1"),
    ];
    let mut wanted = bastion(all[..1].to_vec());
    converge(&mut model, &wanted);
    let id: GrantId = an_id(1001);
    assert_eq!(
        described(&model, "-allow-"),
        [format!(
            "postern:test grant={} end=2026-01-01T00:10:01Z",
            id.hex()
        )]
    );
    wanted = bastion(all.to_vec());
    let plan = model.plan(&wanted);
    assert_eq!(plan.changes.len(), 1, "{plan:#?}");
    assert_eq!(plan.changes[0].verb, Verb::Open);
    assert_eq!(plan.changes[0].grants, [an_id(1002), an_id(1003)]);
    assert_eq!(plan.findings, []);
    converge(&mut model, &wanted);
    let texts = described(&model, "-allow-");
    assert_eq!(SharedMark::parse(&texts[0]).unwrap().shares.len(), 3, "{texts:?}");
    assert!(passes(&model, "198.51.100.1", "10.0.0.4"));

    // The founder goes: the rule keeps its name and lets the others in.
    wanted = bastion(all[1..].to_vec());
    let plan = model.plan(&wanted);
    assert_eq!(plan.changes.len(), 1);
    assert_eq!(
        (plan.changes[0].verb, &plan.changes[0].grants),
        (Verb::Close, &vec![an_id(1001)])
    );
    assert_eq!(plan.findings, []);
    assert!(
        model.observed().evidence(&wanted).contains_key(&an_id(1001)),
        "it stands until it is gone"
    );
    converge(&mut model, &wanted);
    assert!(!passes(&model, "203.0.113.7", "10.0.0.4") && passes(&model, "198.51.100.1", "10.0.0.4"));
    let evidence = model.observed().evidence(&wanted);
    assert_eq!(
        evidence.keys().copied().collect::<Vec<GrantId>>(),
        [an_id(1002), an_id(1003)]
    );

    // One of two with the same source goes.
    wanted = bastion(all[2..].to_vec());
    converge(&mut model, &wanted);
    assert!(passes(&model, "198.51.100.1", "10.0.0.4"));
    assert_eq!(model.observed().unseated(&wanted).len(), 0, "nothing to look up");
    wanted = bastion(Vec::new());
    converge(&mut model, &wanted);
    assert_eq!(model.rules().len(), 2);
}

#[test]
fn one_source_to_many_machines_shares_by_destination() {
    let mut model = tight(297);
    let machines: Vec<Member> = (1..=6_usize)
        .map(|number| {
            let mut vm = member(number, &[&format!("10.0.0.{number}")]);
            vm.guard = Some(guard(1, &["22"]));
            vm.grants = vec![from(u128::try_from(number).unwrap(), "203.0.113.7")];
            vm
        })
        .collect();
    let wanted = desired(machines);
    converge(&mut model, &wanted);
    assert_eq!(described(&model, "-allow-").len(), 2);
    assert_eq!(model.plan(&wanted).obstacles, []);
    for number in 1..=6 {
        assert!(passes(&model, "203.0.113.7", &format!("10.0.0.{number}")));
    }
    assert!(!passes(&model, "203.0.113.8", "10.0.0.1"));
}

#[test]
fn rules_that_differ_on_both_sides_or_overlap_are_never_joined() {
    let mut model = tight(298);
    let mut vm = member(1, &["10.0.0.1"]);
    vm.grants = vec![from(1, "203.0.113.7"), from(2, "203.0.113.0/24")];
    let mut other = member(2, &["10.0.0.2"]);
    other.grants = vec![from(3, "198.51.100.1")];
    for one in [&mut vm, &mut other] {
        one.guard = Some(guard(1, &["22"]));
    }
    let wanted = desired(vec![vm, other]);
    converge(&mut model, &wanted);
    let plan = model.plan(&wanted);
    let refused: Vec<GrantId> = plan.obstacles.iter().flat_map(|o| o.grants.clone()).collect();
    assert_eq!(refused, [an_id(1002), an_id(1003)]);
    assert!(!passes(&model, "198.51.100.1", "10.0.0.1") && !passes(&model, "203.0.113.9", "10.0.0.1"));
}

#[test]
fn a_shared_rule_that_somebody_edited_is_found_and_put_right() {
    let mut model = tight(298);
    let wanted = bastion(vec![from(1, "203.0.113.7"), from(2, "198.51.100.1")]);
    converge(&mut model, &wanted);
    let good = model.content();
    for (member, value) in [
        ("sourceAddressPrefixes", json!(["203.0.113.7", "198.51.100.0/24"])),
        (
            "sourceAddressPrefixes",
            json!(["203.0.113.7", "198.51.100.1", "8.8.8.8"]),
        ),
        ("description", json!("mine")),
        ("destinationPortRange", json!("*")),
        ("protocol", json!("*")),
    ] {
        let mut edited = model.clone();
        for rule in edited.raw["properties"]["securityRules"].as_array_mut().unwrap() {
            if rule["name"].as_str().unwrap().contains("-allow-") {
                rule["properties"][member] = value.clone();
            }
        }
        let plan = edited.plan(&wanted);
        assert_eq!(plan.changes.len(), 1, "{member}");
        if member != "sourceAddressPrefixes" || value.as_array().unwrap().len() != 2 {
            assert!(
                plan.findings.iter().any(|found| found.code == "own_rule_edited"),
                "{member}"
            );
        }
        converge(&mut edited, &wanted);
        assert_eq!(edited.content(), good, "{member}");
    }
}

#[test]
fn addresses_are_counted_for_each_side_of_the_whole_nsg() {
    let list: Vec<Value> = (0..3998)
        .map(|n| json!(format!("172.16.{}.{}", n / 250, n % 250)))
        .collect();
    let mut crowd = foreign("crowd", 4000, "Allow", "Tcp", "*", "10.9.9.9", "443");
    crowd["properties"]
        .as_object_mut()
        .unwrap()
        .remove("sourceAddressPrefix");
    crowd["properties"]["sourceAddressPrefixes"] = json!(list);
    let mut model = Model::new(&[crowd]);
    let wanted = bastion(vec![
        from(1, "203.0.113.7"),
        from(2, "198.51.100.1"),
        from(3, "198.51.100.9"),
        from(4, "198.51.100.1"),
    ]);
    converge(&mut model, &wanted);
    let plan = model.plan(&wanted);
    assert_eq!(plan.obstacles.len(), 1);
    assert_eq!(plan.obstacles[0].code, "addresses_per_group");
    assert_eq!(
        plan.obstacles[0].grants,
        [an_id(1003)],
        "one without a new source fits"
    );
}

/// Takes the grant out of every rule as the sweeper does, with nothing but the rules.
fn sweep(model: &mut Model, grant: GrantId) {
    let mark = Mark {
        installation: "test".parse().unwrap(),
        purpose: Purpose::Grant { grant, end: at(0) },
    };
    let rules = model.raw["properties"]["securityRules"].as_array_mut().unwrap();
    rules.retain_mut(|raw| {
        let read = ReadRule::read(raw).unwrap();
        match read.label.is_some().then(|| without(&read, &mark)) {
            Some(Rest::Nothing) if read.label.unwrap().grants().is_empty() => true,
            Some(Rest::Nothing) => false,
            Some(Rest::Same) | None => true,
            Some(Rest::Others { properties, .. }) => {
                raw["properties"] = Value::Object(properties);
                true
            }
        }
    });
}

fn a_crowd() -> impl Strategy<Value = Desired> {
    let sources = vec![
        "203.0.113.7",
        "203.0.113.0/28",
        "198.51.100.1",
        "198.51.100.2",
        "192.0.2.0/24",
    ];
    let grants = move |at: u128| {
        let sources = sources.clone();
        prop::collection::btree_map(
            0u128..8,
            (
                prop::sample::subsequence(sources.clone(), 1..=2),
                prop::sample::select(vec![vec!["22"], vec!["22"], vec!["22", "53/udp"]]),
            ),
            0..7,
        )
        .prop_map(move |all| {
            all.into_iter()
                .map(|(number, (sources, ports))| grant(at * 10 + number, &ports, &sources))
                .collect::<Vec<_>>()
        })
    };
    (grants(0), grants(1), grants(2)).prop_map(|(a, b, c)| {
        let machines = [
            (a, vec!["10.0.0.4"]),
            (b, vec!["10.0.0.5"]),
            (c, vec!["10.0.0.6", "10.0.0.7"]),
        ];
        let members = machines.into_iter().enumerate().map(|(at, (grants, addresses))| {
            let mut one = member(at, &addresses);
            one.guard = Some(guard(1, &["22", "53/udp"]));
            one.grants = grants;
            one
        });
        desired(members.collect())
    })
}

/// Exactly the packets of the grants pass, and of no others.
fn check_packets(model: &Model, wanted: &Desired, open: &BTreeSet<GrantId>) -> Result<(), TestCaseError> {
    let filter = model.filter();
    for from in [
        "203.0.113.7",
        "203.0.113.9",
        "198.51.100.1",
        "198.51.100.2",
        "192.0.2.99",
        "8.8.8.8",
    ] {
        for to in ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"] {
            for (port, udp) in [(22, false), (53, true)] {
                let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
                let text = if udp { "53/udp" } else { "22" };
                let granted = wanted.members.iter().any(|member| {
                    member.addresses.contains(&to)
                        && member.grants.iter().any(|grant| {
                            open.contains(&grant.grant)
                                && grant.sources.iter().any(|source| source.net().contains(&from))
                                && grant.ports.contains(&text.parse().unwrap())
                        })
                });
                prop_assert_eq!(
                    filter.passes(Packet { from, to, port, udp }),
                    granted,
                    "{} {} {}",
                    from,
                    to,
                    port
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whoever_shares_a_rule_gets_what_a_rule_of_its_own_would_give_and_the_sweeper_takes_out_just_one(
        wishes in prop::collection::vec(a_crowd(), 1..4),
        first in 290u16..297,
        bulk in prop::sample::select(vec![2usize, 1000]),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut model = tight(first);
        model.bulk = bulk;
        for wanted in &wishes {
            converge(&mut model, wanted);
            let evidence = model.observed().evidence(wanted);
            let mut open: BTreeSet<GrantId> = evidence.keys().copied().collect();
            prop_assert!(evidence.values().all(|evidence| evidence.complete), "{:#?}", evidence);
            let refused = model.plan(wanted).obstacles;
            let all: BTreeSet<GrantId> = wanted.members.iter().flat_map(|m| &m.grants).map(|g| g.grant).collect();
            let out: BTreeSet<GrantId> = refused.iter().flat_map(|o| o.grants.clone()).collect();
            prop_assert_eq!(&out | &open, all);
            prop_assert!(out.is_disjoint(&open));
            check_packets(&model, wanted, &open)?;
            for index in &order {
                let Some(grant) = (!open.is_empty()).then(|| *open.iter().nth(index.index(open.len())).unwrap()) else {
                    break;
                };
                sweep(&mut model, grant);
                open.remove(&grant);
                check_packets(&model, wanted, &open)?;
                let standing: BTreeSet<GrantId> = model.observed().evidence(wanted).into_keys().collect();
                prop_assert_eq!(&standing, &open);
            }
        }
    }
}
