//! What is refused, and what guardrails forbid.

use postern_api::{
    ErrorCode,
    access_review::{
        AccessReviewCreate, AccessReviewItemDecide, AccessReviewQuery, AccessReviewRecurrence, Undecided,
    },
};
use postern_core::time::Clock as _;
use serde_json::json;

use crate::rig::{Plan, Rig, code};

use super::{campaign, item_of, keep, remove, start};

#[tokio::test]
async fn guardrails_bind_reviewers_as_they_bind_who_assigns_and_readers_as_ever() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("assign-with-mfa") forbid (principal, action == Action::"assign", resource)
            unless { principal.mfa || principal.subject == "root" };
            @id("no-reading") forbid (principal, action == Action::"read", resource)
            when { principal.subject == "eve" };
        "#,
        ..Plan::default()
    })
    .await;
    rig.assign("zed", "requester", "/aws").await;
    rig.assign("eve", "reader", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let zed = item_of(&rig, &review, "user:corp/zed").await.id;
    let weak = rig.client("lea");
    let decided = weak.decide_access_review_item(&zed, None, &remove()).await;
    let problem = decided.unwrap_err();
    let problem = problem.problem().unwrap();
    assert_eq!(problem.code, ErrorCode::Forbidden);
    assert!(problem.detail.contains("assign-with-mfa"), "{}", problem.detail);
    let mut claims = rig.claims("lea");
    claims["amr"] = json!(["mfa"]);
    let strong = rig.client("lea").with_token(rig.key.sign(&claims));
    strong
        .decide_access_review_item(&zed, None, &remove())
        .await
        .unwrap();
    let eve = rig.client("eve");
    let listed = eve.access_reviews(&AccessReviewQuery::default()).await.unwrap();
    assert!(listed.items.is_empty());
    assert_eq!(code(eve.access_review(&review.id).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_cannot_be_reviewed_is_refused_with_its_place() {
    let rig = Rig::start().await;
    let good = campaign(&rig, "/aws", Undecided::Keep);
    let refused = async |create: AccessReviewCreate| {
        let failed = rig.owner().create_access_review(None, &create).await.unwrap_err();
        let problem = failed.problem().unwrap().clone();
        (problem.code, problem.errors[0].pointer.clone())
    };
    let invalid = |pointer: &str| (ErrorCode::InvalidAccessReview, pointer.to_owned());
    let of = |reviewers: &[&str]| AccessReviewCreate {
        reviewers: reviewers.iter().map(|one| (*one).to_owned()).collect(),
        ..good.clone()
    };
    assert_eq!(refused(of(&[])).await, invalid("/reviewers"));
    assert_eq!(refused(of(&["workload:corp/bot"])).await, invalid("/reviewers"));
    let elsewhere = (ErrorCode::InvalidPrincipal, "/reviewers/1".to_owned());
    assert_eq!(refused(of(&["user:corp/lea", "user:nowhere/x"])).await, elsewhere);
    let named = AccessReviewCreate {
        name: " ".into(),
        ..good.clone()
    };
    assert_eq!(refused(named).await, invalid("/name"));
    let late = AccessReviewCreate {
        deadline: rig.clock.now(),
        ..good.clone()
    };
    assert_eq!(refused(late).await, invalid("/deadline"));
    let overlapping = AccessReviewCreate {
        recurrence: Some(AccessReviewRecurrence {
            every_days: 7,
            round_days: 8,
        }),
        ..good.clone()
    };
    assert_eq!(refused(overlapping).await, invalid("/recurrence"));
    let nowhere = AccessReviewCreate {
        scope: "aws".into(),
        ..good.clone()
    };
    assert_eq!(refused(nowhere).await.0, ErrorCode::InvalidScope);
    let silent = AccessReviewItemDecide {
        reason: " ".into(),
        ..keep()
    };
    rig.assign("zed", "requester", "/aws").await;
    let review = start(&rig, &good).await;
    let zed = item_of(&rig, &review, "user:corp/zed").await.id;
    let decided = rig
        .client("lea")
        .decide_access_review_item(&zed, None, &silent)
        .await;
    assert_eq!(code(decided), ErrorCode::InvalidReason);
}
