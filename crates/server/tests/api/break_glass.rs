//! Breaking the glass: at once, loudly, and looked at by somebody else.

use postern_api::{
    ErrorCode,
    access_request::AccessRequestCreate,
    freeze::FreezeCreate,
    review::{BreakGlassQuery, ReviewClose, ReviewQuery},
};
use postern_core::audit::Outcome;

use crate::rig::{MACHINE, Rig, ask, asks, code};

/// A machine whose policy wants an approval, and ada, who may break its glass.
async fn with_glass() -> Rig {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.on_call("/aws").await;
    rig
}

fn break_it() -> (BreakGlassQuery, AccessRequestCreate) {
    (BreakGlassQuery::default(), ask(MACHINE))
}

fn open() -> ReviewQuery {
    ReviewQuery {
        status: Some("open".into()),
        ..ReviewQuery::default()
    }
}

fn note() -> ReviewClose {
    ReviewClose {
        note: "the pager agrees".into(),
    }
}

#[tokio::test]
async fn a_broken_glass_opens_at_once_and_leaves_a_review() {
    let rig = with_glass().await;
    let ada = rig.client("ada");
    let pending = asks(&ada, MACHINE).await;
    assert_eq!(pending.status, "pending", "the usual way wants an approval");
    let (query, body) = break_it();
    let broken = ada.break_glass(Some("once"), &query, &body).await.unwrap();
    let again = ada.break_glass(Some("once"), &query, &body).await.unwrap();
    assert_eq!(again.id, broken.id);
    assert_eq!(broken.status, "approved");
    assert_eq!(broken.decision.as_ref().unwrap().by, "break_glass");
    assert_eq!(broken.grants.len(), 1);

    let used = rig.audit("break_glass").await;
    assert_eq!(used.len(), 1);
    let event = &used[0].event;
    assert_eq!(event.action, "break_glass.use");
    assert_eq!(event.reason.as_deref(), Some("disk full"));
    assert_eq!(event.subject.grant.unwrap().to_string(), broken.grants[0].id);
    assert_eq!(event.decision.as_ref().unwrap()["by"]["kind"], "break_glass");
    assert!(rig.audit("access_request.approve").await.is_empty());

    let reviews = ada.reviews(&open()).await.unwrap().items;
    assert_eq!(reviews.len(), 1);
    assert_eq!(reviews[0].request_id, broken.id);
    assert_eq!(reviews[0].requester, "user:corp/ada");
    assert_eq!(reviews[0].reason, "disk full");
}

#[tokio::test]
async fn a_review_stays_open_until_another_person_who_may_approve_closes_it() {
    let rig = with_glass().await;
    rig.assign("ada", "approver", "/aws").await;
    rig.assign("bob", "approver", "/aws").await;
    rig.assign("eve", "reader", "/aws").await;
    let (ada, bob, eve) = (rig.client("ada"), rig.client("bob"), rig.client("eve"));
    let (query, body) = break_it();
    ada.break_glass(None, &query, &body).await.unwrap();
    let review = eve.reviews(&open()).await.unwrap().items.remove(0);
    assert!(rig.client("mal").reviews(&open()).await.unwrap().items.is_empty());
    assert_eq!(
        code(ada.close_review(&review.id, None, &note()).await),
        ErrorCode::OwnRequest
    );
    assert_eq!(
        code(eve.close_review(&review.id, None, &note()).await),
        ErrorCode::Forbidden
    );
    let silent = ReviewClose { note: " ".into() };
    assert_eq!(
        code(bob.close_review(&review.id, None, &silent).await),
        ErrorCode::InvalidReason
    );
    assert_eq!(eve.reviews(&open()).await.unwrap().items.len(), 1);
    let closed = bob.close_review(&review.id, None, &note()).await.unwrap();
    let verdict = closed.closed.unwrap();
    assert_eq!(
        (verdict.by.as_str(), verdict.note.as_str()),
        ("user:corp/bob", "the pager agrees")
    );
    assert_eq!(
        code(bob.close_review(&review.id, None, &note()).await),
        ErrorCode::Conflict
    );
    assert!(eve.reviews(&open()).await.unwrap().items.is_empty());
    let events = rig.audit("review.close").await;
    let outcomes: Vec<_> = events
        .iter()
        .map(|stored| stored.event.outcome.as_str())
        .collect();
    assert_eq!(outcomes, ["denied", "denied", "succeeded"]);
}

#[tokio::test]
async fn only_who_may_breaks_the_glass_within_the_policy_and_not_through_a_freeze() {
    let rig = with_glass().await;
    rig.assign("bob", "requester", "/aws").await;
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    let (query, body) = break_it();
    assert_eq!(
        code(bob.break_glass(None, &query, &body).await),
        ErrorCode::Forbidden
    );
    assert_eq!(
        rig.audit("break_glass.use").await[0].event.outcome.as_str(),
        "denied"
    );
    let mut silent = body.clone();
    silent.reason = " ".into();
    assert_eq!(
        code(ada.break_glass(None, &query, &silent).await),
        ErrorCode::InvalidReason
    );
    let mut long = body.clone();
    long.duration_seconds = 7200;
    assert_eq!(
        code(ada.break_glass(None, &query, &long).await),
        ErrorCode::DurationTooLong
    );
    let mut elsewhere = body.clone();
    elsewhere.targets[0].sources = Some(vec!["198.51.100.7".into()]);
    assert_eq!(
        code(ada.break_glass(None, &query, &elsewhere).await),
        ErrorCode::SourceNotAllowed
    );
    let freeze = FreezeCreate {
        scope: "/aws".into(),
        reason: "keys leaked".into(),
    };
    rig.owner().create_freeze(None, &freeze).await.unwrap();
    assert_eq!(
        code(ada.break_glass(None, &query, &body).await),
        ErrorCode::Frozen
    );
    assert!(ada.reviews(&open()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn who_subscribes_to_broken_glass_is_told() {
    let rig = with_glass().await;
    rig.subscribe("pager", &["break_glass"], Outcome::Succeeded).await;
    let (query, body) = break_it();
    rig.client("ada").break_glass(None, &query, &body).await.unwrap();
    let told = rig
        .owner()
        .deliveries(&postern_api::delivery::DeliveryQuery::default())
        .await
        .unwrap()
        .items;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].subscriber, "pager");
}
