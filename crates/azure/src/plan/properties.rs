//! What the planner promises, on many cases.

use std::{collections::BTreeMap, net::IpAddr};

use postern_core::{
    enforcer::{Desired, Observed},
    id::GrantId,
    net::Source,
    nsg::{Memberships, NsgRule},
    policy::Lockdown,
    reach::{Flow, RuleRef, Verdict, evaluate_nsg},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    ReadRule,
    model::{Model, converge, deferring, desired, foreign, grant, guard, member, point},
};
use crate::config::PriorityBand;

fn a_foreign_rule() -> impl Strategy<Value = (u16, Value)> {
    (
        prop_oneof![100u16..112, 296u16..304, 4088u16..=4096],
        prop::sample::select(vec!["Allow", "Deny"]),
        prop::sample::select(vec!["*", "Tcp", "Udp"]),
        prop::sample::select(vec![
            "*",
            "203.0.113.0/24",
            "203.0.113.7",
            "198.51.100.0/24",
            "2001:db8::/32",
        ]),
        prop::sample::select(vec![
            "*",
            "10.0.0.0/16",
            "10.0.0.4",
            "10.0.0.5",
            "fd00::4",
            "VirtualNetwork",
        ]),
        prop::sample::select(vec!["*", "22", "20-30", "3389", "443"]),
        prop::bool::weighted(0.1),
    )
        .prop_filter("one family", |(_, _, _, from, to, _, _)| {
            let family = |text: &str| match (text.contains(':'), text.contains('.')) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            };
            family(from)
                .zip(family(to))
                .is_none_or(|(one, other)| one == other)
        })
        .prop_map(|(priority, access, protocol, from, to, port, outbound)| {
            let mut rule = foreign(
                &format!("theirs-{priority}"),
                priority,
                access,
                protocol,
                from,
                to,
                port,
            );
            if outbound {
                rule["properties"]["direction"] = json!("Outbound");
            }
            (priority, rule)
        })
}

fn a_model() -> impl Strategy<Value = Model> {
    (
        prop::collection::btree_map(100u16..=4096, a_foreign_rule(), 0..10),
        prop::sample::select(vec![(100, 4096), (100, 104), (100, 112), (100, 300), (200, 310)]),
        prop::sample::select(vec![2usize, 4, 1000]),
    )
        .prop_map(|(rules, (first, last), bulk)| {
            let mut by_priority = BTreeMap::new();
            by_priority.extend(rules.into_values());
            let mut model = Model::new(&by_priority.into_values().collect::<Vec<_>>());
            model.band = PriorityBand { first, last };
            model.bulk = bulk;
            model
        })
}

fn a_wish() -> impl Strategy<Value = Desired> {
    let addresses = [
        vec!["10.0.0.4", "fd00::4"],
        vec!["10.0.0.5"],
        vec!["10.0.0.6", "10.0.0.7", "fd00::5"],
    ];
    let of_member = |at: usize| {
        let own = addresses[at].clone();
        (
            prop::sample::subsequence(own.clone(), 1..=own.len()),
            prop::option::weighted(0.8, prop::sample::select(vec![1u128, 2, 3])),
            prop::collection::btree_map(
                0u128..4,
                (
                    prop::sample::subsequence(vec!["22", "3389", "53/udp"], 1..=2),
                    prop::sample::subsequence(
                        vec!["198.51.100.1", "203.0.113.0/24", "203.0.113.7", "2001:db8::7"],
                        1..=3,
                    ),
                ),
                0..3,
            ),
        )
            .prop_map(move |(addresses, policy, grants)| {
                let mut one = member(at, &addresses);
                one.guard = policy.map(|policy| match policy {
                    1 => guard(1, &["22", "3389"]),
                    3 => deferring(3, &["22", "3389"]),
                    _ => guard(2, &["20-30", "53/udp"]),
                });
                one.grants = grants
                    .into_iter()
                    .map(|(number, (ports, sources))| {
                        grant(u128::try_from(at).unwrap() * 10 + number, &ports, &sources)
                    })
                    .collect();
                one
            })
    };
    (of_member(0), of_member(1), of_member(2)).prop_map(|(a, b, c)| desired(vec![a, b, c]))
}

fn without_grants(wanted: &Desired) -> Desired {
    let mut bare = wanted.clone();
    for member in &mut bare.members {
        member.grants.clear();
    }
    bare
}

fn without_anything(wanted: &Desired) -> Desired {
    let mut bare = without_grants(wanted);
    for member in &mut bare.members {
        member.guard = None;
    }
    bare
}

/// What holds of an NSG at rest.
fn check_at_rest(model: &Model, wanted: &Desired) {
    let observed = model.observed();
    let plan = observed.plan(wanted);
    assert_eq!(plan.changes, []);
    let evidence = observed.evidence(wanted);
    let rules: Vec<NsgRule> = observed
        .rules
        .iter()
        .chain(&observed.defaults)
        .map(|rule| rule.rule.clone())
        .collect();
    let hop = |source: Source, destination: IpAddr, ports| {
        let flow = Flow {
            source,
            destination,
            ports,
        };
        let network = ["10.0.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()];
        evaluate_nsg(&point(), &rules, Memberships::Unknown, &network, &flow)
    };
    let verdict = |source, destination, ports| hop(source, destination, ports).verdict;
    let troubled = |policy| plan.obstacles.iter().any(|o| o.policies.contains(&policy));
    for member in &wanted.members {
        for grant in &member.grants {
            let hopeless = plan.obstacles.iter().any(|o| o.grants.contains(&grant.grant));
            let found = evidence.get(&grant.grant);
            assert_eq!(hopeless, found.is_none(), "{plan:?}");
            let Some(found) = found else { continue };
            assert_eq!(found.complete, found.blocked_by.is_none(), "{found:?}");
            if found.complete {
                for (source, ports, to) in grant.sources.iter().flat_map(|source| {
                    grant
                        .ports
                        .iter()
                        .flat_map(move |ports| member.addresses.iter().map(move |to| (*source, *ports, *to)))
                }) {
                    if source.net().addr().is_ipv6() == to.is_ipv6() {
                        assert_eq!(
                            verdict(source, to, ports),
                            Verdict::Allowed,
                            "{source} {ports} {to}"
                        );
                    }
                }
            }
        }
        if let Some(guard) = member.guard.as_ref().filter(|guard| !troubled(guard.policy))
            && member.grants.is_empty()
        {
            {
                for to in &member.addresses {
                    let any = if to.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
                    for ports in &guard.ports {
                        if guard.lockdown == Lockdown::Defer {
                            let hop = hop(any.parse().unwrap(), *to, *ports);
                            let by_default =
                                |rule: &RuleRef| rule.priority.is_none_or(|number| number >= 65_000);
                            assert!(!hop.allowed_by.iter().any(by_default), "{to} {ports} {hop:?}");
                            continue;
                        }
                        assert_eq!(
                            verdict(any.parse().unwrap(), *to, *ports),
                            Verdict::Denied,
                            "{to} {ports}"
                        );
                    }
                }
            }
        }
    }
    let known: Vec<GrantId> = wanted
        .members
        .iter()
        .flat_map(|m| &m.grants)
        .map(|g| g.grant)
        .collect();
    assert!(evidence.keys().all(|grant| known.contains(grant)));
    if plan.obstacles.is_empty() {
        for rule in &observed.rules {
            if rule.role(&wanted.installation).is_some() {
                assert!((model.band.first..=model.band.last).contains(&rule.rule.priority));
            }
        }
    }
}

/// Somebody's hands on a rule.
fn tamper(model: &mut Model, choices: &[(prop::sample::Index, u8)]) {
    for (index, what) in choices {
        let rules = model.raw["properties"]["securityRules"].as_array_mut().unwrap();
        let ours: Vec<usize> = (0..rules.len())
            .filter(|at| rules[*at]["name"].as_str().unwrap().starts_with("postern-test-"))
            .collect();
        if ours.is_empty() {
            return;
        }
        let at = ours[index.index(ours.len())];
        let properties = &mut rules[at]["properties"];
        match what % 7 {
            0 => {
                rules.remove(at);
            }
            1 => properties["access"] = json!("Allow"),
            2 => properties["access"] = json!("Deny"),
            3 => {
                properties
                    .as_object_mut()
                    .unwrap()
                    .remove("sourceAddressPrefixes");
                properties["sourceAddressPrefix"] = json!("*");
            }
            4 => properties["description"] = json!("mine now"),
            5 => properties["protocol"] = json!("*"),
            _ => properties["provisioningState"] = json!("Failed"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_wanted_next_is_reached_without_touching_foreign_rules_or_opening_on_the_way(
        mut model in a_model(),
        wishes in prop::collection::vec(a_wish(), 1..4),
        tampering in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let foreign_rules = model.foreign_rules();
        for wanted in &wishes {
            converge(&mut model, wanted);
            check_at_rest(&model, wanted);
            prop_assert_eq!(model.foreign_rules(), foreign_rules.clone());
            tamper(&mut model, &tampering);
        }
    }

    #[test]
    fn opening_and_closing_leaves_the_lockdown_and_lifting_it_leaves_nothing(mut model in a_model(), wanted in a_wish()) {
        let untouched = model.raw.clone();
        converge(&mut model, &without_grants(&wanted));
        let locked = model.content();
        converge(&mut model, &wanted);
        converge(&mut model, &without_grants(&wanted));
        prop_assert_eq!(model.content(), locked);
        converge(&mut model, &without_anything(&wanted));
        prop_assert_eq!(model.raw, untouched);
    }

    #[test]
    fn overlapping_grants_come_and_go_in_any_order(
        mut model in a_model(),
        wanted in a_wish(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let mut now = without_grants(&wanted);
        converge(&mut model, &now);
        for index in order {
            let slots: Vec<(usize, usize)> = wanted
                .members
                .iter()
                .enumerate()
                .flat_map(|(at, member)| (0..member.grants.len()).map(move |grant| (at, grant)))
                .collect();
            if slots.is_empty() {
                break;
            }
            let (at, slot) = slots[index.index(slots.len())];
            let grant = wanted.members[at].grants[slot].clone();
            let before = model.clone();
            let held = &mut now.members[at].grants;
            if let Some(place) = held.iter().position(|one| one.grant == grant.grant) {
                held.remove(place);
            } else {
                held.push(grant.clone());
                held.sort_by_key(|one| one.grant);
            }
            converge(&mut model, &now);
            check_at_rest(&model, &now);
            // Every other rule is as it was.
            let others = |model: &Model| -> Vec<Value> {
                model.content().into_iter().filter(|rule| !rule["name"].as_str().unwrap().contains(&grant.grant.hex())).collect()
            };
            let freed = others(&model).len() > others(&before).len();
            // A rule that grants share, or that one grant left to another, is not one grant's.
            let shared = |model: &Model| model.rules().iter().filter_map(ReadRule::read).any(|rule| {
                let grants = rule.label.map(|label| label.grants()).unwrap_or_default();
                grants.iter().any(|grant| !rule.rule.name.contains(&grant.hex())) || grants.len() > 1
            });
            if !freed && !shared(&before) && !shared(&model) {
                prop_assert_eq!(others(&model), others(&before));
            }
        }
    }

    #[test]
    fn a_pass_that_dies_after_any_change_is_completed_by_the_next(
        mut model in a_model(),
        first in a_wish(),
        second in a_wish(),
        died in any::<prop::sample::Index>(),
    ) {
        model.bulk = 1000;
        converge(&mut model, &first);
        let changes = model.plan(&second).changes;
        for change in changes.iter().take(died.index(changes.len() + 1)) {
            model.apply(change);
        }
        converge(&mut model, &second);
        check_at_rest(&model, &second);
    }
}
