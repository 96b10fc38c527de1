//! The store against a real Postgres.

mod access_reviews;
mod approach;
mod audit;
mod decisions;
mod due;
mod faults;
mod grants;
mod inventory;
mod journal;
mod leases;
mod look;
mod outbox;
mod progress;
mod reviews;
mod roles;
mod servers;
mod starts;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use postern_core::{
    enforcer::{Change, Verb},
    grant::{EndCause, Grant},
    id::{GrantId, PointId},
    inventory::{Interface, Layer, Machine, Power},
    mark::Installation,
    point::PointRef,
    policy::JitPolicy,
    posture::posture,
    request::AccessRequest,
    sg::SecurityGroup,
    testing::{a_grant, a_request, an_id, at},
    time::{CountingIds, IdSource},
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::json;

use crate::{MachineRow, NewPass, SavedMachines, Store, Urgency};

fn ids() -> CountingIds {
    CountingIds::new(1)
}

fn installation() -> Installation {
    "test".parse().unwrap()
}

/// An EC2 instance with one interface in one group of its own.
fn a_machine(number: u32) -> Machine {
    Machine {
        id: format!("arn:aws:ec2:eu-west-1:123456789012:instance/i-{number:017x}")
            .parse()
            .unwrap(),
        name: format!("web-{number}"),
        tags: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        power: Power::Running,
        interfaces: vec![Interface {
            id: format!("eni-{number:017x}"),
            addresses: vec![IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number))],
            public_addresses: vec![],
            network: vec!["10.0.0.0/16".parse().unwrap()],
            network_id: "vpc-1".into(),
            layers: vec![Layer::SecurityGroups {
                groups: vec![SecurityGroup {
                    id: format!("sg-{number:017x}"),
                    name: "web".into(),
                    vpc: "vpc-1".into(),
                    ingress: vec![],
                    egress: vec![],
                    tags: BTreeMap::new(),
                }],
            }],
        }],
    }
}

fn a_row(machine: Machine, policy: Option<&JitPolicy>) -> MachineRow {
    MachineRow {
        posture: posture(&machine, policy),
        policy: policy.map(|policy| policy.id),
        opens: machine.grant_points(),
        locks: machine.lockdown_points(&installation()),
        machine,
    }
}

async fn save(store: &Store, rows: &[MachineRow], seconds: i64) -> SavedMachines {
    let mut tx = store.begin().await.unwrap();
    let saved = tx
        .save_machines(rows, &ids_from(store, seconds), at(seconds))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    saved
}

/// Ids that differ from call to call of the same test.
fn ids_from(_: &Store, seconds: i64) -> CountingIds {
    CountingIds::new(u64::try_from(seconds).unwrap() << 20)
}

/// `count` points that nothing stands behind, in the order of their ids.
async fn some_points(store: &Store, count: u32) -> Vec<PointId> {
    let refs: BTreeSet<PointRef> = (0..count)
        .map(|n| PointRef::security_group("123456789012", "eu-west-1", &format!("sg-{n:017x}")).unwrap())
        .collect();
    let mut tx = store.begin().await.unwrap();
    let points = tx.ensure_points(&refs, &ids(), at(0)).await.unwrap();
    tx.commit().await.unwrap();
    let mut points: Vec<PointId> = points.into_values().collect();
    points.sort();
    points
}

async fn mark(store: &Store, points: &[PointId], seconds: i64, urgency: Urgency) {
    let mut tx = store.begin().await.unwrap();
    tx.mark_due(points, at(seconds), urgency).await.unwrap();
    tx.commit().await.unwrap();
}

/// A pending request, and `count` opening grants of it, on machine 1, with ids from `first` on.
fn some_grants(first: u128, count: u128) -> (AccessRequest, Vec<Grant>) {
    let mut request = a_request();
    request.id = an_id(first);
    request.targets[0].machine = a_machine(1).id;
    let grants = (0..count)
        .map(|n| Grant {
            id: an_id::<postern_core::id::GrantKind>(first + n),
            request: request.id,
            machine: a_machine(1).id,
            ..a_grant()
        })
        .collect();
    (request, grants)
}

/// Machine 1 with `count` opening grants on it.
async fn with_grants(store: &Store, count: u128) -> Vec<Grant> {
    save(store, &[a_row(a_machine(1), None)], 0).await;
    let (request, grants) = some_grants(1, count);
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.insert_grants(&grants).await.unwrap();
    tx.commit().await.unwrap();
    grants
}

fn a_pass(number: u128) -> NewPass {
    NewPass {
        id: an_id(number),
        snapshot: json!([]),
    }
}

/// The grant as it ended at `at(50)`, its time over.
fn expired(grant: &Grant) -> Grant {
    let live = grant.clone().live().unwrap();
    live.end(EndCause::Expired, at(50)).into()
}

fn a_change(grants: &[GrantId]) -> Change {
    Change {
        verb: Verb::Open,
        target: "sg-1".into(),
        summary: "opens 22/tcp".into(),
        grants: grants.to_vec(),
        policies: vec![],
        before: None,
        after: Some(json!({ "rule": 1 })),
        operation: json!({ "authorize": "sg-1" }),
        displaces: vec![],
    }
}

/// Values of a strategy.
fn samples<S: Strategy>(strategy: &S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::default();
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

/// Texts that have hurt databases and their clients.
const HOSTILE: [&str; 8] = [
    "'; DROP TABLE audit_events; --",
    "\" OR 1=1 --",
    "%",
    "_",
    "\\",
    "$1",
    "a\0b",
    "grant.' UNION SELECT 1 --",
];

#[tokio::test]
async fn a_database_belongs_to_the_first_installation_that_claims_it() {
    let store = crate::testing::fresh_store().await;
    store.claim_installation(&installation()).await.unwrap();
    store.claim_installation(&installation()).await.unwrap();
    let error = store
        .claim_installation(&"other".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the database belongs to installation `test`");
}

#[tokio::test]
async fn a_migrated_database_says_so_and_migrates_again_without_change() {
    let store = crate::testing::fresh_store().await;
    store.ready().await.unwrap();
    assert!(store.is_migrated().await.unwrap());
    store.migrate().await.unwrap();
    sqlx::query("DELETE FROM _sqlx_migrations")
        .execute(&store.pool)
        .await
        .unwrap();
    assert!(!store.is_migrated().await.unwrap());
}

#[test]
fn new_ids_of_one_source_differ() {
    let source: &dyn IdSource = &ids();
    assert_ne!(
        source.next::<postern_core::id::PointKind>(at(0)),
        source.next(at(0))
    );
}
