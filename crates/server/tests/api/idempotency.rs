//! A POST that is sent again.

use postern_api::{ErrorCode, access_request::AccessRequestCreateQuery, grant::GrantQuery};

use crate::rig::{Rig, ask, code, policy};

#[tokio::test]
async fn the_same_request_again_is_done_once_and_answered_alike() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    let first = ada
        .create_access_request(Some("k-1"), &query, &ask(&machine))
        .await
        .unwrap();
    let again = ada
        .create_access_request(Some("k-1"), &query, &ask(&machine))
        .await
        .unwrap();
    assert_eq!(first.id, again.id);
    assert_eq!(first.grants.len(), 1);
    assert_eq!(ada.grants(&GrantQuery::default()).await.unwrap().items.len(), 1);
    assert_eq!(rig.audit("access_request.create").await.len(), 1);
    let other = ada
        .create_access_request(Some("k-2"), &query, &ask(&machine))
        .await
        .unwrap();
    assert_ne!(first.id, other.id);
}

#[tokio::test]
async fn the_same_key_with_another_body_is_refused_and_changes_nothing() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    ada.create_access_request(Some("k-1"), &query, &ask(&machine))
        .await
        .unwrap();
    let mut other = ask(&machine);
    other.duration_seconds = 700;
    let refused = ada.create_access_request(Some("k-1"), &query, &other).await;
    assert_eq!(code(refused), ErrorCode::IdempotencyKeyReused);
    assert_eq!(ada.grants(&GrantQuery::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn keys_of_different_people_have_nothing_to_do_with_each_other() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    rig.assign("bob", "requester", "/").await;
    let query = AccessRequestCreateQuery::default();
    let one = rig
        .client("ada")
        .create_access_request(Some("k"), &query, &ask(&machine))
        .await
        .unwrap();
    let two = rig
        .client("bob")
        .create_access_request(Some("k"), &query, &ask(&machine))
        .await
        .unwrap();
    assert_ne!(one.id, two.id);
}

#[tokio::test]
async fn a_race_with_one_key_makes_one_request() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    let body = ask(&machine);
    let answers =
        futures::future::join_all((0..6).map(|_| ada.create_access_request(Some("race"), &query, &body)))
            .await;
    let mut ids: Vec<String> = Vec::new();
    for answer in answers {
        match answer {
            Ok(request) => ids.push(request.id),
            Err(error) => assert_eq!(error.problem().unwrap().code, ErrorCode::IdempotencyInFlight),
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(ada.grants(&GrantQuery::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_refused_request_does_not_use_its_key_up() {
    let rig = Rig::start().await;
    let ada = rig.client("ada");
    let refused = ada
        .create_jit_policy(Some("k"), &policy("p", "/aws", "policy"))
        .await;
    assert_eq!(code(refused), ErrorCode::Forbidden);
    rig.assign("ada", "operator", "/aws").await;
    ada.create_jit_policy(Some("k"), &policy("p", "/aws", "policy"))
        .await
        .unwrap();
}
