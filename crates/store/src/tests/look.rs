//! What a pass begins with.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::Displaced,
    grant::EndCause,
    id::PointId,
    inventory::{Layer, MARK_TAG, holder_name},
    mark::{Mark, Purpose},
    point::PointRef,
    policy::{JitPolicy, SharedGroups},
    scope::Scope,
    testing::{a_policy, an_id, at, ports},
};
use serde_json::json;

use super::{a_machine, a_row, installation, save, some_grants};
use crate::{MachineRow, Store, testing::fresh_store};

/// Machines that all stand behind the group of machine 1, in an order that is not that of their ids.
fn behind_one_group(count: u32) -> Vec<MachineRow> {
    let shared = a_machine(1).interfaces[0].layers.clone();
    (1..=count)
        .rev()
        .map(|number| {
            let mut machine = a_machine(number);
            machine.interfaces[0].layers.clone_from(&shared);
            a_row(machine, None)
        })
        .collect()
}

async fn point_named(store: &Store, point: &PointRef) -> PointId {
    store.point(point).await.unwrap().unwrap().id
}

fn the_group() -> PointRef {
    PointRef::security_group("123456789012", "eu-west-1", "sg-00000000000000001").unwrap()
}

fn the_instance() -> PointRef {
    "aws:instance:123456789012/eu-west-1/i-00000000000000001"
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_lockdown_is_wanted_where_the_point_locks_and_a_grant_where_it_opens() {
    let store = fresh_store().await;
    save(&store, &behind_one_group(3), 0).await;
    let policy = a_policy("/aws");
    let (request, grants) = some_grants(1, 3);
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    let covered = tx.cover(&Scope::root(), None).await.unwrap();
    assert_eq!(covered.changes.len(), 3);
    assert_eq!(covered.points.len(), 4, "the group, and each instance");
    tx.insert_request(&request).await.unwrap();
    let mut shuffled = grants.clone();
    shuffled.rotate_left(1);
    let points = tx.insert_grants(&shuffled).await.unwrap();
    let ended: postern_core::grant::Grant = grants[1]
        .clone()
        .live()
        .unwrap()
        .end(EndCause::Expired, at(9))
        .into();
    tx.save_grants(&[ended]).await.unwrap();
    tx.commit().await.unwrap();

    let (group, instance) = (
        point_named(&store, &the_group()).await,
        point_named(&store, &the_instance()).await,
    );
    assert_eq!(points, [instance]);
    let mut tx = store.begin().await.unwrap();
    let at_group = tx.look(&installation(), group).await.unwrap().desired;
    assert_eq!(at_group.point, the_group());
    let names: Vec<_> = at_group
        .members
        .iter()
        .map(|member| member.machine.clone())
        .collect();
    assert_eq!(names, [a_machine(1).id, a_machine(2).id, a_machine(3).id]);
    for member in &at_group.members {
        let guard = member.guard.as_ref().unwrap();
        assert_eq!(guard.policy, policy.id);
        assert_eq!(guard.ports, [ports("22"), ports("3389")]);
        assert_eq!(member.grants, [], "grants open at the instance");
    }
    assert_eq!(
        at_group.members[1].addresses,
        a_machine(2).interfaces[0].addresses
    );
    assert_eq!(
        at_group.members[1].interfaces,
        [a_machine(2).interfaces[0].id.clone()]
    );

    let at_instance = tx.look(&installation(), instance).await.unwrap().desired;
    assert_eq!(at_instance.members.len(), 1);
    assert_eq!(
        at_instance.members[0].guard, at_group.members[0].guard,
        "an instance may have a private copy of a group"
    );
    assert_eq!(
        at_instance.locked_down().count(),
        0,
        "the lockdown is kept at the group"
    );
    let wanted: Vec<_> = at_instance.members[0]
        .grants
        .iter()
        .map(|wanted| wanted.grant)
        .collect();
    assert_eq!(
        wanted,
        [grants[0].id, grants[2].id],
        "by id, without the one that ended"
    );
}

#[tokio::test]
async fn a_machine_with_a_private_copy_stands_behind_the_group_and_is_kept_at_its_instance() {
    let store = fresh_store().await;
    let policy = JitPolicy {
        shared_groups: SharedGroups::Isolate,
        ..a_policy("/aws")
    };
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.commit().await.unwrap();
    let mut machine = a_machine(1);
    let Layer::SecurityGroups { groups } = &mut machine.interfaces[0].layers[0] else {
        panic!("an instance has groups");
    };
    let of = groups[0].id.clone();
    groups[0].id = "sg-0000000000000c0de".to_owned();
    groups[0].name = format!("{}-{of}", holder_name(&installation(), "i-0123456789abcdef0"));
    let copy = Mark {
        installation: installation(),
        purpose: Purpose::Copy { of },
    };
    groups[0].tags.insert(MARK_TAG.to_owned(), copy.to_string());
    save(&store, &[a_row(machine, Some(&policy))], 0).await;

    let group = point_named(&store, &the_group()).await;
    let instance = point_named(&store, &the_instance()).await;
    let mut tx = store.begin().await.unwrap();
    for point in [group, instance] {
        let desired = tx.look(&installation(), point).await.unwrap().desired;
        assert_eq!(
            desired.members[0].interfaces,
            [a_machine(1).interfaces[0].id.clone()]
        );
        assert_eq!(desired.locked_down().count(), 1, "{}", desired.point);
    }
    assert_eq!(
        tx.due_points_backstop(at(5)).await.unwrap(),
        2,
        "both are to be looked at"
    );
}

#[tokio::test]
async fn a_machine_that_is_gone_stands_behind_nothing() {
    let store = fresh_store().await;
    save(&store, &behind_one_group(2), 0).await;
    save(&store, &behind_one_group(1), 200).await;
    let account = a_machine(1).id.account();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.discovery_done(&account, at(100), std::time::Duration::ZERO, at(101))
            .await
            .unwrap()
            .machines,
        [],
        "seen once before"
    );
    let gone = tx
        .discovery_done(&account, at(200), std::time::Duration::ZERO, at(201))
        .await
        .unwrap();
    assert_eq!(gone.machines, [a_machine(2).id]);
    assert_eq!(gone.touched_points.len(), 2);
    tx.commit().await.unwrap();
    let group = point_named(&store, &the_group()).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.look(&installation(), group)
            .await
            .unwrap()
            .desired
            .members
            .len(),
        1
    );
}

#[tokio::test]
async fn displaced_rules_are_listed_oldest_first_until_they_are_settled() {
    let store = fresh_store().await;
    save(&store, &behind_one_group(1), 0).await;
    let group = point_named(&store, &the_group()).await;
    let displaced = |number: u128, rule: &str| Displaced {
        id: an_id(number),
        rule: json!({ "rule": rule }),
        residuals: vec![json!(1), json!(2)],
    };
    let mut tx = store.begin().await.unwrap();
    tx.save_displaced(group, &[displaced(2, "b")], at(1))
        .await
        .unwrap();
    tx.save_displaced(group, &[displaced(1, "a")], at(2))
        .await
        .unwrap();
    tx.save_displaced(group, &[displaced(2, "edited")], at(3))
        .await
        .unwrap();
    let listed = tx.look(&installation(), group).await.unwrap().desired.displaced;
    assert_eq!(
        listed,
        [displaced(2, "b"), displaced(1, "a")],
        "the first saving counts"
    );
    tx.settle_displaced(&[an_id(2)], at(4)).await.unwrap();
    assert_eq!(
        tx.look(&installation(), group).await.unwrap().desired.displaced,
        [displaced(1, "a")]
    );
    tx.save_displaced(group, &[displaced(2, "again")], at(5))
        .await
        .unwrap();
    let listed = tx.look(&installation(), group).await.unwrap().desired.displaced;
    assert_eq!(
        listed,
        [displaced(1, "a"), displaced(2, "again")],
        "displaced anew after it was settled"
    );
}

#[tokio::test]
async fn a_point_that_does_not_exist_is_named() {
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    assert!(
        tx.look(&installation(), an_id(77))
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn a_thousand_machines_behind_one_point_are_each_listed_once() {
    let store = fresh_store().await;
    save(&store, &behind_one_group(1000), 0).await;
    let group = point_named(&store, &the_group()).await;
    let mut tx = store.begin().await.unwrap();
    let desired = tx.look(&installation(), group).await.unwrap().desired;
    let machines: BTreeSet<_> = desired.members.iter().map(|member| &member.machine).collect();
    assert_eq!((desired.members.len(), machines.len()), (1000, 1000));
    assert!(desired.members.is_sorted_by(|a, b| a.machine < b.machine));
}
