//! What the planner does, case by case.

use std::net::IpAddr;

use postern_core::{
    enforcer::{Desired, Observed, Verb},
    id::GrantId,
    testing::{an_id, at},
};
use serde_json::{Value, json};

use super::{
    Seat,
    model::{Model, Packet, converge, desired, foreign, grant, guard, member},
};
use crate::{config::PriorityBand, operation::Operation};

fn rule<'m>(model: &'m Model, part: &str) -> &'m Value {
    model
        .rules()
        .iter()
        .find(|rule| rule["name"].as_str().unwrap().contains(part))
        .unwrap_or_else(|| panic!("no rule `{part}` in {:#?}", model.rules()))
}

fn priority(model: &Model, part: &str) -> u64 {
    rule(model, part)["properties"]["priority"].as_u64().unwrap()
}

fn one_guarded() -> Desired {
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22", "3389"]));
    desired(vec![vm])
}

#[test]
fn a_deny_stands_right_above_the_allow_that_it_overrules_and_a_grant_right_above_the_deny() {
    let mut model = Model::new(&[
        foreign("web", 200, "Allow", "Tcp", "*", "*", "443"),
        foreign("ssh", 300, "Allow", "Tcp", "*", "*", "22"),
        foreign("taken", 298, "Allow", "Tcp", "*", "*", "443"),
    ]);
    let mut wanted = one_guarded();
    converge(&mut model, &wanted);
    assert_eq!(priority(&model, "-deny-"), 299);
    wanted.members[0].grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    converge(&mut model, &wanted);
    assert_eq!(priority(&model, "-allow-"), 297);
    let deny = &rule(&model, "-deny-")["properties"];
    assert_eq!(deny["destinationPortRanges"], json!(["22", "3389"]));
    assert_eq!(deny["sourceAddressPrefix"], json!("*"));
    let allow = rule(&model, "-allow-");
    let id: GrantId = an_id(1001);
    assert_eq!(allow["name"], json!(format!("postern-test-allow-{}", id.hex())));
    assert_eq!(
        allow["properties"]["description"],
        json!(format!(
            "postern:test grant={} end=2026-01-01T00:10:00Z",
            id.hex()
        ))
    );
    assert_eq!(allow["properties"]["sourceAddressPrefix"], json!("203.0.113.7"));
    assert_eq!(allow["properties"]["destinationAddressPrefix"], json!("10.0.0.4"));
}

#[test]
fn two_address_families_and_two_protocols_are_rules_of_their_own() {
    let mut vm = member(1, &["10.0.0.4", "fd00::4"]);
    vm.guard = Some(guard(1, &["22", "53/udp"]));
    vm.grants = vec![grant(
        1,
        &["22", "53/udp"],
        &["203.0.113.7", "203.0.113.0/24", "2001:db8::7"],
    )];
    let mut model = Model::new(&[]);
    converge(&mut model, &desired(vec![vm]));
    assert_eq!(model.rules().len(), 8);
    let id: GrantId = an_id(1001);
    for suffix in ["", "-6", "-udp", "-udp-6"] {
        rule(&model, &format!("{}{suffix}", id.hex()));
    }
    let v4 = &rule(&model, &format!("allow-{}", id.hex()))["properties"];
    assert_eq!(
        v4["sourceAddressPrefix"],
        json!("203.0.113.0/24"),
        "a list may not overlap"
    );
}

#[test]
fn a_foreign_allow_with_no_number_above_it_is_named() {
    let mut model = Model::new(&[foreign("first", 100, "Allow", "*", "*", "*", "*")]);
    let wanted = one_guarded();
    let plan = model.plan(&wanted);
    assert_eq!(plan.changes, []);
    assert_eq!(plan.obstacles[0].code, "foreign_rule_in_the_way");
    assert!(
        plan.obstacles[0].message.contains("`first` (priority 100)"),
        "{plan:?}"
    );
    assert_eq!(plan.obstacles[0].policies, [an_id(1)]);

    let crowd = (100..110).map(|n| foreign(&format!("f{n}"), n, "Allow", "Tcp", "*", "*", "443"));
    model = Model::new(&crowd.collect::<Vec<_>>());
    model.band = PriorityBand {
        first: 100,
        last: 109,
    };
    let plan = model.plan(&wanted);
    assert_eq!(plan.obstacles[0].code, "no_free_priority");
}

#[test]
fn a_foreign_deny_is_never_overruled() {
    let mut model = Model::new(&[
        foreign("theirs", 298, "Deny", "Tcp", "203.0.113.0/24", "*", "22"),
        foreign("ssh", 300, "Allow", "Tcp", "*", "*", "22"),
    ]);
    let mut wanted = one_guarded();
    wanted.members[0].grants = vec![
        grant(1, &["22"], &["203.0.113.7"]),
        grant(2, &["22"], &["198.51.100.1"]),
    ];
    let plan = model.plan(&wanted);
    assert_eq!(plan.obstacles.len(), 1);
    assert_eq!(plan.obstacles[0].code, "foreign_rule_in_the_way");
    assert!(
        plan.obstacles[0].message.contains("`theirs` (priority 298)"),
        "{plan:?}"
    );
    assert_eq!(plan.obstacles[0].grants, [an_id(1001)]);
    converge(&mut model, &wanted);
    assert_eq!(model.rules().len(), 4, "the other grant stands");
}

#[test]
fn a_grant_below_a_foreign_deny_is_there_but_blocked_and_says_by_what() {
    let mut model = Model::new(&[foreign("theirs", 150, "Deny", "Tcp", "*", "*", "22")]);
    let mut wanted = one_guarded();
    wanted.members[0].grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    converge(&mut model, &wanted);
    let evidence = model.observed().evidence(&wanted);
    let found = &evidence[&an_id(1001)];
    assert!(!found.complete);
    assert!(found.blocked_by.as_ref().unwrap().contains("theirs"), "{found:?}");
    assert_eq!(model.plan(&wanted).findings[0].code, "foreign_rule_blocks");
}

#[test]
fn rules_of_ours_that_somebody_edited_are_found_and_put_right() {
    let mut wanted = one_guarded();
    wanted.members[0].grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    let mut model = Model::new(&[foreign("ssh", 300, "Allow", "Tcp", "*", "*", "22")]);
    converge(&mut model, &wanted);
    let good = model.content();
    for (part, member, value) in [
        ("-allow-", "sourceAddressPrefix", json!("*")),
        ("-allow-", "description", json!("hello")),
        ("-allow-", "priority", json!(4000)),
        ("-allow-", "access", json!("Deny")),
        ("-allow-", "destinationPortRange", json!("*")),
        ("-allow-", "direction", json!("Outbound")),
        ("-deny-", "access", json!("Allow")),
        ("-deny-", "sourceAddressPrefix", json!("8.8.8.8")),
        ("-deny-", "protocol", json!("Udp")),
    ] {
        let mut edited = model.clone();
        for rule in edited.raw["properties"]["securityRules"].as_array_mut().unwrap() {
            if rule["name"].as_str().unwrap().contains(part) {
                rule["properties"][member] = value.clone();
            }
        }
        let plan = edited.plan(&wanted);
        assert_eq!(plan.changes.len(), 1, "{part} {member}");
        assert_eq!(plan.changes[0].verb, Verb::Repair, "{part} {member}");
        assert!(
            plan.findings
                .iter()
                .any(|finding| finding.code == "own_rule_edited"),
            "{part} {member}"
        );
        if part == "-allow-" {
            assert!(
                !edited.observed().evidence(&wanted)[&an_id(1001)].complete,
                "{member}"
            );
        }
        converge(&mut edited, &wanted);
        assert_eq!(edited.content(), good, "{part} {member}");
    }
}

#[test]
fn a_rule_with_our_mark_and_no_grant_is_closed_and_another_installations_is_not() {
    let id: GrantId = an_id(77);
    let with = |name: &str, priority: u16, description: &str| {
        let mut rule = foreign(name, priority, "Allow", "Tcp", "*", "*", "22");
        rule["properties"]["description"] = json!(description);
        rule
    };
    let theirs = [
        with(&format!("postern-test-deny-allow-{}", id.hex()), 110, "theirs"),
        with("postern-other", 111, "postern:other holder"),
        with(
            &format!("postern-test-allow-{}", id.hex()),
            112,
            &format!("postern:other grant={} end=2026-01-01T00:00:00Z", id.hex()),
        ),
        with("postern-test-allow-zz", 113, "no id"),
        with(&format!("postern-test-2-allow-{}", id.hex()), 114, "another name"),
    ];
    let ours = [
        with(
            "copied",
            120,
            &format!("postern:test grant={} end=2026-01-01T00:00:00Z", id.hex()),
        ),
        with(
            &format!("Postern-Test-Allow-{}-UDP", id.hex()),
            121,
            "edited away",
        ),
    ];
    let mut model = Model::new(&theirs.iter().chain(&ours).cloned().collect::<Vec<_>>());
    let nothing = desired(vec![member(1, &["10.0.0.4"])]);
    assert_eq!(
        model
            .observed()
            .evidence(&nothing)
            .keys()
            .copied()
            .collect::<Vec<GrantId>>(),
        [id]
    );
    for change in model.plan(&nothing).changes {
        assert_eq!(change.verb, Verb::Close);
        model.apply(&change);
    }
    assert_eq!(model.plan(&nothing).changes, []);
    assert_eq!(model.rules().as_slice(), theirs);
}

#[test]
fn many_changes_are_one_write() {
    let mut model = Model::new(&[foreign("ssh", 4000, "Allow", "Tcp", "*", "*", "22")]);
    model.bulk = 4;
    let mut wanted = one_guarded();
    converge(&mut model, &wanted);
    let before = model.content();
    wanted.members[0].grants = (0..500).map(|n| grant(n, &["22"], &["203.0.113.7"])).collect();
    let plan = model.plan(&wanted);
    assert_eq!((plan.changes.len(), plan.obstacles.len()), (1, 0));
    assert_eq!(plan.changes[0].grants.len(), 500);
    assert_eq!(plan.changes[0].verb, Verb::Open);
    model.apply(&plan.changes[0]);
    assert!(
        model
            .observed()
            .evidence(&wanted)
            .values()
            .all(|evidence| evidence.complete)
    );
    wanted.members[0].grants.clear();
    let plan = model.plan(&wanted);
    assert_eq!(plan.changes.len(), 1);
    assert_eq!(plan.changes[0].verb, Verb::Close);
    model.apply(&plan.changes[0]);
    assert_eq!(model.content(), before);
}

#[test]
fn an_nsg_holds_a_thousand_rules_and_what_is_over_is_named() {
    let crowd = (0..998).map(|n| foreign(&format!("f{n}"), 1000 + n, "Allow", "Tcp", "*", "*", "443"));
    let mut model = Model::new(&crowd.collect::<Vec<_>>());
    let mut wanted = one_guarded();
    wanted.members[0].grants = vec![
        grant(1, &["22"], &["203.0.113.7"]),
        grant(2, &["22"], &["203.0.113.0/24"]),
    ];
    let plan = model.plan(&wanted);
    assert_eq!(plan.obstacles.len(), 1);
    assert_eq!(plan.obstacles[0].code, "rules_per_group");
    converge(&mut model, &wanted);
    assert_eq!(model.rules().len(), 1000);
}

#[test]
fn a_machine_that_moved_is_opened_where_it_is_and_one_that_left_is_not() {
    let mut wanted = one_guarded();
    wanted.members[0].grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    let mut model = Model::new(&[]);
    let machine = wanted.members[0].machine.clone();
    let look = |model: &Model, addresses: &[&str]| {
        let mut observed = model.observed();
        assert_eq!(observed.unseated(&wanted).len(), 1);
        let addresses = addresses
            .iter()
            .map(|text| text.parse::<IpAddr>().unwrap())
            .collect();
        observed.seat(machine.clone(), Seat { addresses });
        observed
    };
    for change in look(&model, &["10.0.0.9"]).plan(&wanted).changes {
        model.apply(&change);
    }
    assert_eq!(
        rule(&model, "-allow-")["properties"]["destinationAddressPrefix"],
        json!("10.0.0.9")
    );
    let settled = look(&model, &["10.0.0.9"]);
    assert_eq!(settled.plan(&wanted).changes, []);
    assert!(settled.evidence(&wanted)[&an_id(1001)].complete);
    let gone = look(&model, &[]).plan(&wanted);
    assert_eq!(gone.obstacles[0].code, "machine_not_behind_point");
    assert_eq!(gone.changes[0].verb, Verb::Close);
}

#[test]
fn a_failed_nsg_is_written_again_and_a_changing_one_is_waited_for() {
    let mut model = Model::new(&[]);
    let wanted = one_guarded();
    converge(&mut model, &wanted);
    model.raw["properties"]["provisioningState"] = json!("Updating");
    assert!(model.observed().in_flux());
    model.raw["properties"]["provisioningState"] = json!("Failed");
    assert!(!model.observed().in_flux());
    let plan = model.plan(&wanted);
    assert_eq!(plan.changes.len(), 1);
    let operation: Operation = serde_json::from_value(plan.changes[0].operation.clone()).unwrap();
    assert_eq!(
        operation,
        Operation::PutNsg {
            remove: Vec::new(),
            put: Vec::new()
        }
    );
    assert_eq!(model.plan(&desired(Vec::new())).changes.len(), 1, "the deny goes");
    let mut theirs = Model::new(&[]);
    theirs.raw["properties"]["provisioningState"] = json!("Failed");
    let mut nothing = desired(Vec::new());
    assert_eq!(theirs.plan(&nothing).changes, [], "not ours to mend");
    nothing.unsettled = true;
    assert_eq!(theirs.plan(&nothing).changes.len(), 1);
    converge(&mut theirs, &nothing);
    assert_eq!(theirs.plan(&nothing).changes, []);
}

#[test]
fn a_longer_grant_gets_a_later_end_and_no_finding() {
    let mut model = Model::new(&[]);
    let mut wanted = one_guarded();
    wanted.members[0].grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    converge(&mut model, &wanted);
    wanted.members[0].grants[0].not_after = at(1200);
    let plan = model.plan(&wanted);
    assert_eq!(plan.findings, []);
    converge(&mut model, &wanted);
    assert!(
        rule(&model, "-allow-")["properties"]["description"]
            .as_str()
            .unwrap()
            .ends_with("00:20:00Z")
    );
}

#[test]
fn one_flow_is_one_protocol() {
    // The two protocols of a port are guarded apart: a guard on TCP says nothing of UDP.
    let mut model = Model::new(&[foreign("dns", 300, "Allow", "*", "*", "*", "22")]);
    converge(&mut model, &one_guarded());
    let packet = |udp| Packet {
        from: "8.8.8.8".parse().unwrap(),
        to: "10.0.0.4".parse().unwrap(),
        port: 22,
        udp,
    };
    assert!(!model.filter().passes(packet(false)));
    assert!(model.filter().passes(packet(true)));
}
