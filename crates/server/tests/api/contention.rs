//! Several at once: what waits for what, and what is not missed meanwhile.

use postern_api::{ErrorCode, access_request::AccessRequestCreateQuery, grant::GrantQuery};
use postern_core::{
    grant::Grant,
    time::{Clock, IdSource},
};
use serde_json::json;

use crate::rig::{Answer, MACHINE, Rig, ask, asks, code, http, now, policy};

const OTHER: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0fedcba9876543210";

#[tokio::test]
async fn a_grant_that_commits_while_a_policy_narrows_ends_with_the_change_itself() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let (ada, owner) = (rig.client("ada"), rig.owner());
    asks(&ada, &machine).await;
    let made = &ada.grants(&GrantQuery::default()).await.unwrap().items[0];
    let made: Grant = rig.store.grant(made.id.parse().unwrap()).await.unwrap().unwrap();
    let id = rig.only_policy().await.id;
    // Somebody is about to grant…
    let mut granting = rig.store.begin().await.unwrap();
    granting.policies().await.unwrap();
    let ids: &dyn IdSource = &rig.ids;
    let late = Grant {
        id: ids.next(rig.clock.now()),
        ..made.clone()
    };
    granting.insert_grants(std::slice::from_ref(&late)).await.unwrap();
    let mut narrower = policy("ssh", "/aws", "policy");
    narrower.guards[0].allowed_sources = vec!["198.51.100.0/24".into()];
    let narrow = owner.update_jit_policy(&id, 1, &narrower);
    // …and does once the change is under way.
    let grant = async {
        while !postern_store::testing::somebody_waits(&rig.store).await {
            tokio::task::yield_now().await;
        }
        granting.commit().await.unwrap();
    };
    let (changed, ()) = tokio::join!(narrow, grant);
    changed.unwrap();
    let events = rig.audit("jit_policy.update").await;
    assert_eq!(
        events[0].event.details["effect"]["grants_ended"],
        json!([made.id, late.id]),
        "in the change's own transaction"
    );
}

#[tokio::test]
async fn who_may_not_change_a_policy_is_told_without_waiting_for_its_lock() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let id = rig.only_policy().await.id;
    let mut granting = rig.store.begin().await.unwrap();
    granting.policies().await.unwrap();
    let ada = rig.client("ada");
    let update = ada
        .update_jit_policy(&id, 1, &policy("ssh", "/aws", "policy"))
        .await;
    assert_eq!(code(update), ErrorCode::Forbidden);
    assert_eq!(code(ada.delete_jit_policy(&id, 1).await), ErrorCode::Forbidden);
    granting.rollback().await.unwrap();
}

#[tokio::test]
async fn a_request_locks_its_machines_in_the_order_of_discovery_whatever_its_own() {
    let rig = Rig::start().await;
    let smaller = rig.discover(MACHINE).await;
    let larger = rig.discover(OTHER).await;
    rig.owner()
        .create_jit_policy(None, &policy("ssh", "/aws", "policy"))
        .await
        .unwrap();
    rig.assign("ada", "requester", "/aws").await;
    let mut finder = rig.store.begin().await.unwrap();
    finder.cover(&smaller.scope(), None).await.unwrap();
    let mut backwards = ask(OTHER);
    backwards.targets.extend(ask(MACHINE).targets);
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    let request = ada.create_access_request(None, &query, &backwards);
    let discover = async {
        while !postern_store::testing::somebody_waits(&rig.store).await {
            tokio::task::yield_now().await;
        }
        let covered = finder.cover(&larger.scope(), None).await;
        covered.expect("the request holds nothing that comes later");
        finder.commit().await.unwrap();
    };
    let (shown, ()) = tokio::join!(request, discover);
    let shown = shown.unwrap();
    let machines: Vec<&str> = shown.grants.iter().map(|grant| grant.machine.as_str()).collect();
    assert_eq!(machines, [OTHER, MACHINE], "in the order of the request");
}

#[tokio::test]
async fn the_largest_version_is_one_that_nothing_has() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let id = rig.only_policy().await.id;
    let update = rig
        .owner()
        .update_jit_policy(&id, i64::MAX, &policy("ssh", "/aws", "policy"))
        .await;
    assert_eq!(code(update), ErrorCode::VersionMismatch);
}

#[tokio::test]
async fn a_policy_that_is_made_again_under_its_key_is_answered_with_its_version() {
    let rig = Rig::start().await;
    for _ in 0..2 {
        let sent = http()
            .post(rig.url("/v1/jit-policies"))
            .bearer_auth(rig.token(crate::rig::OWNER))
            .header("idempotency-key", "one")
            .json(&policy("ssh", "/aws", "policy"))
            .send()
            .await
            .unwrap();
        let answer = Answer::of(sent).await;
        assert_eq!(
            (answer.status, &answer.headers["etag"]),
            (201, &"\"1\"".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn who_loses_a_deadlock_is_served_all_the_same_and_once() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    postern_store::testing::contend(&rig.store, "access_request.create", 2).await;
    let ada = rig.client("ada");
    asks(&ada, &machine).await;
    assert_eq!(rig.audit("access_request.create").await.len(), 1);
    assert_eq!(ada.grants(&GrantQuery::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn who_loses_every_time_is_told_to_come_again_and_nothing_is_left() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    postern_store::testing::contend(&rig.store, "access_request.create", 3).await;
    let ada = rig.client("ada");
    let refused = ada.create_access_request(None, &now(), &ask(&machine)).await;
    assert_eq!(code(refused), ErrorCode::Unavailable);
    assert!(rig.audit("access_request.create").await.is_empty());
    assert!(ada.grants(&GrantQuery::default()).await.unwrap().items.is_empty());
    // The fourth time is the first that goes through.
    asks(&ada, &machine).await;
}
