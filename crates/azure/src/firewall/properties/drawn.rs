//! What the firewall's planner promises, on many drawn firewalls and wishes: whatever is opened, edited by others and closed
//! again.

use proptest::prelude::*;

use super::*;

fn a_source() -> prop::sample::Select<&'static str> {
    prop::sample::select(vec![
        "*",
        "203.0.113.0/24",
        "203.0.113.7",
        "198.51.100.0-198.51.100.9",
        "Internet",
    ])
}

fn collections_of(
    action: Vec<&'static str>,
    rule: impl Strategy<Value = Value> + Clone + 'static,
) -> impl Strategy<Value = Vec<Value>> {
    let one = (prop::sample::select(action), prop::collection::vec(rule, 0..3));
    let priority = prop_oneof![100u16..103, Just(150), Just(4000)];
    prop::collection::btree_map(priority, one, 0..3).prop_map(|all| {
        let named = all.into_iter().map(|(priority, (action, mut rules))| {
            for (at, rule) in rules.iter_mut().enumerate() {
                rule["name"] = json!(format!("rule-{at}"));
            }
            collection(&format!("theirs-{priority}"), priority, action, &rules)
        });
        named.collect()
    })
}

fn a_model() -> impl Strategy<Value = Model> {
    let nat_rule = (
        a_source(),
        prop::sample::select(vec![FRONT, SIDE]),
        prop::sample::select(vec!["50000", "50001", "50022", "50000-50003"]),
        prop::sample::select(vec![("10.1.0.4", "22"), ("10.1.0.5", "22"), ("10.1.0.9", "22")]),
    )
        .prop_map(|(source, address, port, to)| nat("n", source, address, port, to));
    let network_rule = (
        a_source(),
        prop::sample::select(vec!["*", "10.1.0.4", "10.1.0.0/24"]),
        prop::sample::select(vec!["22", "*"]),
    )
        .prop_map(|(source, to, port)| network("n", source, to, port));
    (
        collections_of(vec!["Dnat"], nat_rule),
        collections_of(vec!["Allow", "Deny"], network_rule),
        any::<bool>(),
    )
        .prop_map(|(nat, network, policy)| {
            if policy {
                Model::policy(&nat, &network)
            } else {
                Model::classic(&nat, &network)
            }
        })
}

fn a_passage() -> impl Strategy<Value = Passage> {
    (
        1u128..5,
        prop::sample::subsequence(
            vec!["203.0.113.7", "203.0.113.0/24", "198.51.100.1", "0.0.0.0/0"],
            1..=2,
        ),
        prop::sample::select(MACHINES.to_vec()),
        prop::option::of(prop::sample::select(vec![FRONT, SIDE])),
    )
        .prop_map(|(grant, sources, (machine, port), address)| {
            let way = address.map_or(Way::Routed, |address| by_door(ip(address)));
            passage(grant, &sources, machine, port, way)
        })
}

fn check_at_rest(model: &Model, wish: &Wanted, start: &Value) -> Result<(), TestCaseError> {
    prop_assert_eq!(&model.foreign(), start);
    let observed = model.observed();
    let plan = observed.plan(wish);
    let evidence = observed.evidence(wish);
    let entries = observed.entries(wish);
    let whole = observed.whole();
    for passage in &wish.passages {
        let refused = plan
            .obstacles
            .iter()
            .any(|one| one.grants.contains(&passage.grant));
        let found = evidence.get(&passage.grant);
        prop_assert_eq!(refused, found.is_none(), "{:?}", plan);
        let Some(found) = found else { continue };
        prop_assert!(found.complete || found.blocked_by.is_some());
        if passage.way != Way::Routed {
            let entry = |entry: &&Entry| {
                entry.grant == passage.grant
                    && entry.port == passage.ports
                    && by_door(entry.address) == passage.way
            };
            let mapped: Vec<u16> = entries
                .iter()
                .filter(entry)
                .map(|entry| entry.mapped_port)
                .collect();
            let doors = whole.doors(passage.machine, passage.ports);
            for source in &passage.sources {
                let lets_in = doors.iter().any(|door| {
                    by_door(door.address) == passage.way
                        && mapped.iter().any(|port| door.ports.overlaps(*port, *port))
                        && door
                            .sources
                            .iter()
                            .any(|net| net.contains(&source.net()) || source.net().contains(net))
                });
                prop_assert!(lets_in, "{source} {mapped:?} {doors:?}");
            }
        }
    }
    for grant in evidence.keys() {
        prop_assert!(wish.passages.iter().any(|passage| passage.grant == *grant));
    }
    Ok(())
}

/// Somebody's hands on our rules.
fn tamper(model: &mut Model, choices: &[u8]) {
    for what in choices {
        let classic = model.form == Form::Classic;
        let mut own = model.rules();
        if own.is_empty() {
            return;
        }
        let collection = own.remove(usize::from(*what) % own.len());
        let inner = if classic {
            &mut collection["properties"]
        } else {
            collection
        };
        match what / 2 % 6 {
            0 => inner["rules"] = json!([]),
            1 => inner["priority"] = json!(60000),
            2 => inner["action"]["type"] = json!("Deny"),
            3 => {
                for rule in inner["rules"].as_array_mut().unwrap() {
                    rule["sourceAddresses"] = json!(["*"]);
                }
            }
            4 => {
                for rule in inner["rules"].as_array_mut().unwrap() {
                    rule.as_object_mut().unwrap().remove("description");
                }
            }
            _ => inner["rules"].as_array_mut().unwrap().truncate(1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_wanted_next_is_reached_in_one_write_without_touching_what_is_not_ours(
        mut model in a_model(),
        wishes in prop::collection::vec(prop::collection::vec(a_passage(), 0..5), 1..4),
        hands in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let (start, others) = (model.foreign(), model.others.clone());
        for passages in wishes {
            let wish = wanted(passages);
            model.converge(&wish);
            check_at_rest(&model, &wish, &start)?;
            prop_assert_eq!(&model.others, &others);
            tamper(&mut model, &hands);
        }
    }

    #[test]
    fn opening_in_any_order_and_closing_in_any_other_leaves_the_document_as_it_was(
        mut model in a_model(),
        passages in prop::collection::vec(a_passage(), 1..6),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let (before, start) = (model.document.clone(), model.foreign());
        let mut open: Vec<Passage> = Vec::new();
        for index in order {
            let one = index.get(&passages).clone();
            match open.iter().position(|other| *other == one) {
                Some(at) => { open.remove(at); }
                None => open.push(one),
            }
            let wish = wanted(open.clone());
            model.converge(&wish);
            check_at_rest(&model, &wish, &start)?;
        }
        while let Some(_gone) = open.pop() {
            model.converge(&wanted(open.clone()));
        }
        prop_assert_eq!(model.document, before);
    }

    #[test]
    fn doors_to_other_machines_stay_as_they_are(mut model in a_model(), passages in prop::collection::vec(a_passage(), 1..5)) {
        let before = model.doors("10.1.0.9", "22");
        model.converge(&wanted(passages));
        prop_assert_eq!(model.doors("10.1.0.9", "22"), before);
    }
}
