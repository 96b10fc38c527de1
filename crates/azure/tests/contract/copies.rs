//! Rules of ours that others copied, moved or emptied: what is taken away of it, and what stays because it is theirs.

use std::time::Duration;

use postern_core::enforcer::{Bindings, Desired, Enforcer as _, Marked, Plan};
use postern_sim::When;
use serde_json::{Value, json};

use crate::{
    firewall::{ADA, Gate, OFFICE, want},
    others::{Way, shut},
    scene::{fault, status},
};

/// Opens one door and one passage, and copies our collections, under their names and under others, into a group; its id.
async fn copied(gate: &Gate, into: &str, collection: impl Fn(&str) -> String) -> String {
    Way::of(gate, &[want(1, ADA), want(2, OFFICE)])
        .await
        .converge()
        .await;
    let policy = gate.policy.as_ref().unwrap();
    let ours = gate
        .fleet
        .get(&format!("{policy}/ruleCollectionGroups/postern-test"))
        .unwrap();
    let mut collections: Vec<Value> = ours["properties"]["ruleCollections"].as_array().unwrap().clone();
    for one in &mut collections {
        one["name"] = json!(collection(one["name"].as_str().unwrap()));
    }
    let id = format!("{policy}/ruleCollectionGroups/{into}");
    let body = json!({ "properties": { "priority": 500, "ruleCollections": collections } });
    gate.fleet.put(&id, body).unwrap();
    id
}

fn collections(gate: &Gate, group: &str) -> usize {
    let group = gate.fleet.get(group).unwrap();
    group["properties"]["ruleCollections"].as_array().unwrap().len()
}

/// What the sweeper finds at firewalls.
async fn marked(way: &Way) -> Vec<Marked> {
    let account = way.edge().members[0].machine.account();
    let mut found = way
        .enforcer
        .marked(&account, &way.edge().installation)
        .await
        .unwrap();
    found.retain(|one| one.resource.contains("rulecollection"));
    found
}

#[tokio::test]
async fn a_group_of_others_that_held_nothing_but_copies_of_ours_stays_when_these_are_closed() {
    let gate = shut(true).await;
    let group = copied(&gate, "theirs-too", |name| format!("copy-of-{name}")).await;
    let way = Way::of(&gate, &[]).await;
    assert_eq!(way.pass(way.edge()).await, []);
    assert_eq!(collections(&gate, &group), 0);
    assert_eq!(marked(&way).await, []);
}

#[tokio::test]
async fn a_closing_of_copies_that_was_taken_and_then_failed_is_written_again() {
    let gate = shut(true).await;
    let group = copied(&gate, "theirs-too", |name| format!("copy-of-{name}")).await;
    let way = Way::of(&gate, &[]).await;
    let edge = way.edge();
    let plan = async |wanted: &Desired| way.enforcer.observe(wanted).await.unwrap().plan(wanted);
    let changes = plan(edge).await.changes;
    let closing = changes.iter().find(|one| one.target == group.to_lowercase());
    gate.sim.completions().add(fault(
        "FirewallPolicyRuleCollectionGroups.CreateOrUpdate",
        When::Next(1),
        status(500, "InternalServerError", None),
    ));
    let taken = way
        .enforcer
        .apply(&edge.point, closing.unwrap(), &mut Bindings::new())
        .await;
    assert!(taken.is_err(), "{taken:?}");
    assert_eq!(collections(&gate, &group), 0, "it is shown");
    assert!(!way.enforcer.observe(edge).await.unwrap().settled());
    let quiet = Desired {
        unsettled: false,
        ..edge.clone()
    };
    let is_theirs = |plan: &Plan| plan.changes.iter().any(|one| one.target == group.to_lowercase());
    assert!(!is_theirs(&plan(&quiet).await), "others' failures are theirs");
    assert!(is_theirs(&plan(edge).await));
    assert_eq!(way.pass(edge).await, []);
    let observed = way.enforcer.observe(edge).await.unwrap();
    assert!(observed.settled());
    assert_eq!(observed.plan(edge).changes, []);
}

#[tokio::test]
async fn the_sweeper_leaves_a_group_of_others_that_held_nothing_but_copies_of_ours() {
    let gate = shut(true).await;
    // Under the names that ours have: it is the group's that says whose it is.
    let group = copied(&gate, "theirs-too", str::to_owned).await;
    let way = Way::of(&gate, &[]).await;
    let found = marked(&way).await;
    assert_eq!(found.len(), 4, "{found:?}");
    for one in &found {
        way.enforcer.remove(one).await.unwrap();
    }
    assert_eq!(collections(&gate, &group), 0);
    let policy = gate.policy.clone().unwrap();
    let ours = format!("{policy}/ruleCollectionGroups/postern-test");
    assert!(
        gate.fleet.get(&ours).is_err(),
        "ours goes when nothing is left in it"
    );
}

#[tokio::test]
async fn the_sweeper_leaves_a_group_with_our_name_in_which_others_keep_a_collection_of_theirs() {
    let gate = shut(true).await;
    let group = copied(&gate, "postern-test", |name| format!("kept-{name}")).await;
    let way = Way::of(&gate, &[]).await;
    let found = marked(&way).await;
    assert_eq!(found.len(), 2, "{found:?}");
    for one in &found {
        way.enforcer.remove(one).await.unwrap();
    }
    assert_eq!(marked(&way).await, []);
    // Their collections are left without a rule, and the group that holds them stands.
    assert_eq!(collections(&gate, &group), 2);
}

#[tokio::test]
async fn the_sweeper_removes_no_rule_that_lost_its_mark_meanwhile() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let way = Way::of(&gate, &[want(1, ADA)]).await;
        way.converge().await;
        let found = marked(&way).await;
        assert_eq!(found.len(), 1);
        let id = gate.policy.as_ref().map_or_else(
            || gate.firewall.clone(),
            |policy| format!("{policy}/ruleCollectionGroups/postern-test"),
        );
        let mut document = gate.fleet.get(&id).unwrap();
        unmark(&mut document);
        gate.fleet.put(&id, document).unwrap();
        let before = gate.fleet.get(&id).unwrap();
        way.enforcer.remove(&found[0]).await.unwrap();
        assert_eq!(
            gate.fleet.get(&id).unwrap(),
            before,
            "by its name alone it is not ours to sweep"
        );
    }
}

/// Takes every mark away.
fn unmark(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("description");
            members.values_mut().for_each(unmark);
        }
        Value::Array(items) => items.iter_mut().for_each(unmark),
        _ => {}
    }
}

#[tokio::test]
async fn our_group_that_somebody_took_everything_out_of_is_removed() {
    let gate = shut(true).await;
    Way::of(&gate, &[want(1, ADA)]).await.converge().await;
    let policy = gate.policy.clone().unwrap();
    let id = format!("{policy}/ruleCollectionGroups/postern-test");
    let body = json!({ "properties": { "priority": 100, "ruleCollections": [] } });
    let mut standing = gate.fleet.get(&id).unwrap();
    standing["properties"]["ruleCollections"] = body["properties"]["ruleCollections"].clone();
    gate.fleet.put(&id, standing).unwrap();
    let way = Way::of(&gate, &[]).await;
    assert_eq!(way.pass(way.edge()).await, []);
    assert!(gate.fleet.get(&id).is_err(), "the group stands");
}

#[tokio::test]
async fn a_copy_is_closed_in_the_pass_that_has_nothing_else_to_do_and_in_one_that_has() {
    for still_open in [true, false] {
        let gate = shut(true).await;
        let group = copied(&gate, "theirs-too", |name| format!("copy-of-{name}")).await;
        let grants = [want(1, ADA), want(2, OFFICE)];
        let way = Way::of(&gate, if still_open { &grants } else { &grants[..1] }).await;
        let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
        assert_eq!(plan.changes.len(), if still_open { 1 } else { 2 });
        assert_eq!(plan.changes.last().unwrap().target, group.to_lowercase());
        tokio::time::timeout(Duration::from_secs(30), way.pass(way.edge()))
            .await
            .unwrap();
        assert_eq!(collections(&gate, &group), 0);
    }
}
