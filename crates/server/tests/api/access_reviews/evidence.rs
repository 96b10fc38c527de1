//! What is known of use where the audit log is long: it is read in turns, after the access review has started.

use postern_api::access_review::{AccessReviewCancel, Undecided};
use postern_store::testing::skip_audit_numbers;
use serde_json::json;

use crate::rig::{MACHINE, Rig, asks};

use super::{DAY, again, campaign, item_of, keep, outcomes, start, turn};

/// More than is read at once.
const MANY: i64 = 250_000;

/// An installation with a use by ada, none by zed, and a long log since.
async fn with_a_long_log() -> Rig {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.assign("zed", "requester", "/aws").await;
    rig.advance(100 * DAY);
    asks(&rig.client("ada"), MACHINE).await;
    rig.advance(1);
    skip_audit_numbers(&rig.store, MANY).await;
    rig.assign("eve", "reader", "/azure").await;
    rig
}

#[tokio::test]
async fn a_round_over_a_long_log_starts_at_once_and_says_later_what_was_used() {
    let rig = with_a_long_log().await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    assert_eq!((review.evidence.as_str(), review.items.open), ("gathering", 2));
    let zed = item_of(&rig, &review, "user:corp/zed").await;
    assert_eq!((zed.recommendation, zed.last_use), (None, None));
    let started = rig.audit("access_review.start").await;
    assert_eq!(started[0].event.details["items"], 2);
    assert_eq!(started[0].event.details["recommended_removals"], json!(null));
    // Nobody has to wait for it to decide, and what was decided stays so.
    let lea = rig.client("lea");
    lea.decide_access_review_item(&zed.id, None, &keep())
        .await
        .unwrap();

    // So many turns, each of which reads so much: MANY in steps of 100,000, one of which was made at the start, and the
    // last of which is the one that finds something.
    let mut turns = 0;
    while again(&rig, &review).await.evidence == "gathering" {
        turn(&rig).await;
        turns += 1;
        assert!(turns <= 3, "bounded by the length of the log");
    }
    assert_eq!(again(&rig, &review).await.evidence, "complete");
    let ada = item_of(&rig, &review, "user:corp/ada").await;
    assert_eq!(ada.last_use.unwrap().action, "access_request.create");
    assert_eq!(ada.recommendation.unwrap().because, "used");
    let zed = item_of(&rig, &review, "user:corp/zed").await;
    assert_eq!((zed.status.as_str(), zed.last_use), ("kept", None));
    assert_eq!(zed.recommendation.unwrap().because, "unused");
    let gathered = rig.audit("access_review.gather").await;
    assert_eq!(gathered.len(), 1);
    assert_eq!(gathered[0].event.details["recommended_removals"], 1);
}

#[tokio::test]
async fn the_deadline_waits_for_what_is_still_read_and_a_turn_that_dies_is_made_again() {
    let rig = with_a_long_log().await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    postern_store::testing::contend(&rig.store, "access_review.gather", 1).await;
    rig.advance(7 * DAY);
    while again(&rig, &review).await.status == "open" {
        turn(&rig).await;
    }
    let after = again(&rig, &review).await;
    assert_eq!((after.evidence.as_str(), after.items.kept), ("complete", 2));
    assert_eq!(outcomes(&rig, "access_review.gather").await, ["succeeded"]);
    let ada = item_of(&rig, &review, "user:corp/ada").await;
    assert!(ada.last_use.is_some());
}

#[tokio::test]
async fn one_that_is_cancelled_is_read_no_further() {
    let rig = with_a_long_log().await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let why = AccessReviewCancel {
        reason: "wrong scope".into(),
    };
    let cancelled = rig
        .owner()
        .cancel_access_review(&review.id, None, &why)
        .await
        .unwrap();
    assert_eq!(cancelled.evidence, "partial");
    for _ in 0..5 {
        turn(&rig).await;
    }
    assert_eq!(again(&rig, &review).await.evidence, "partial");
    assert!(rig.audit("access_review.gather").await.is_empty());
}
