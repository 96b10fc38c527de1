//! A dry run says what would be written, and writes nothing.

use std::time::Duration;

use postern_api::{
    access_request::AccessRequestCreateQuery,
    grant::GrantQuery,
    role::{RoleAssignmentCreate, RoleCreate},
};
use postern_tests::{Person, World, WorldOptions, world::a_request};
use serde_json::Value;

/// What a rule says but for the names and marks that carry a grant's id.
fn said(rule: &Value) -> Value {
    let said = rule.get("properties").unwrap_or(rule);
    [
        "priority",
        "access",
        "sourceAddressPrefix",
        "destinationPortRange",
        "destinationAddressPrefix",
    ]
    .iter()
    .map(|key| said.get(*key).cloned().unwrap_or_default())
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tells_each_write_that_the_request_then_makes_and_makes_none() {
    let (world, _server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await;
    let ada = world.client(Person::Ada);
    let request = a_request(&[&world.fleet.web, &world.fleet.app], 600);
    let truth = || (world.fleet.arm.truth().last(), world.fleet.ec2.truth().last());
    let before = truth();
    let dry = ada.dry_run_access_request(&request).await.unwrap();
    assert_eq!(truth(), before, "nothing is written");
    assert!(
        dry.writes.iter().all(|point| point.unread.is_none()),
        "{:?}",
        dry.writes
    );
    let grants = ada.grants(&GrantQuery::default()).await.unwrap();
    assert!(grants.items.is_empty(), "and nothing exists");

    let made = ada
        .create_access_request(
            None,
            &AccessRequestCreateQuery {
                wait: Some(30),
                ..AccessRequestCreateQuery::default()
            },
            &request,
        )
        .await
        .unwrap();
    assert!(made.grants.iter().all(|grant| grant.status == "open"), "{made:?}");
    // A requester may read the machines, and so sees the rules.
    for grant in &made.grants {
        for hop in &grant.hops {
            let told = dry.writes.iter().find(|point| point.point == hop.point).unwrap();
            assert!(!told.changes.is_empty() && told.obstacles.is_empty(), "{told:?}");
            assert!(
                told.changes.iter().all(|change| change.verb == "open"),
                "{told:?}"
            );
            let foretold: Vec<Value> = told
                .changes
                .iter()
                .filter_map(|change| change.after.as_ref().map(said))
                .collect();
            if hop.point.starts_with("azure") {
                let written: Vec<Value> = hop.rules.as_array().unwrap().iter().map(said).collect();
                assert_eq!(foretold, written, "{told:?}");
            } else {
                assert!(
                    told.changes
                        .iter()
                        .any(|change| change.summary.contains("203.0.113.7")),
                    "{told:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_read_the_machines_is_told_what_happens_and_not_by_which_rules() {
    let (world, _server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await;
    let olga = world.client(Person::Olga);
    let only_asks = RoleCreate {
        name: "asks".to_owned(),
        actions: ["request".to_owned()].into(),
    };
    olga.create_role(None, &only_asks).await.unwrap();
    let assignment = RoleAssignmentCreate {
        role: "asks".to_owned(),
        principal: "user:demo/eve".to_owned(),
        scope: "/".to_owned(),
        ..RoleAssignmentCreate::default()
    };
    olga.create_role_assignment(None, &assignment).await.unwrap();
    let eve = world.client(Person::Eve);
    let dry = tokio::time::timeout(
        Duration::from_secs(30),
        eve.dry_run_access_request(&a_request(&[&world.fleet.web], 600)),
    )
    .await
    .unwrap()
    .unwrap();
    let changes: Vec<_> = dry.writes.iter().flat_map(|point| &point.changes).collect();
    assert!(!changes.is_empty());
    assert!(
        changes
            .iter()
            .all(|change| change.before.is_none() && change.after.is_none()),
        "{changes:?}"
    );
}
