//! Rounds that start by themselves, and by whose right.

use chrono::TimeDelta;
use postern_api::{
    ErrorCode,
    access_review::{
        AccessReviewCancel, AccessReviewCreate, AccessReviewQuery, AccessReviewRecurrence, Undecided,
    },
    delivery::DeliveryQuery,
};
use postern_core::{audit::Outcome, time::Clock as _};

use crate::rig::{Plan, Rig, code};

use super::{DAY, again, assign, assigned, campaign, item_of, outcomes, remove, start, turn};

/// By everybody, every so many days for so many.
fn recurring(rig: &Rig, scope: &str, every_days: u32, round_days: u32) -> AccessReviewCreate {
    AccessReviewCreate {
        recurrence: Some(AccessReviewRecurrence {
            every_days,
            round_days,
        }),
        ..campaign(rig, scope, Undecided::Keep)
    }
}

/// By everybody, every 30 days for a week.
fn monthly(rig: &Rig, scope: &str) -> AccessReviewCreate {
    recurring(rig, scope, 30, 7)
}

#[tokio::test]
async fn a_recurring_one_starts_its_next_round_by_itself_and_once() {
    let rig = Rig::start().await;
    rig.assign("zed", "requester", "/aws").await;
    let create = recurring(&rig, "/aws", 30, 10);
    let first = start(&rig, &create).await;
    let due = rig.clock.now() + TimeDelta::days(30);
    assert_eq!(first.next_round_at, Some(due));
    rig.advance(7 * DAY);
    turn(&rig).await;
    let rounds = async || {
        let query = AccessReviewQuery::default();
        rig.owner().access_reviews(&query).await.unwrap().items
    };
    assert_eq!(rounds().await.len(), 1, "not yet");
    rig.assign("new", "requester", "/aws").await;
    rig.advance(23 * DAY);
    let other = rig.replica().await;
    tokio::join!(rig.running.turn_access_reviews(), other.turn_access_reviews());
    let found = rounds().await;
    assert_eq!(found.len(), 2);
    let second = &found[0];
    assert_eq!((second.round, second.series.as_str()), (2, first.id.as_str()));
    assert_eq!(second.status, "open");
    assert_eq!(second.items.open, 2, "what is assigned by now");
    assert_eq!(second.deadline, rig.clock.now() + TimeDelta::days(10));
    assert_eq!(second.next_round_at, Some(due + TimeDelta::days(30)));
    assert_eq!(found[1].next_round_at, None);
    assert_eq!(outcomes(&rig, "access_review.start").await, ["succeeded"; 2]);
    // Reviewers of the new round decide about its items.
    let zed = item_of(&rig, second, "user:corp/zed").await.id;
    let lea = rig.client("lea");
    lea.decide_access_review_item(&zed, None, &remove())
        .await
        .unwrap();
    assert_eq!(assigned(&rig, "/aws").await, ["user:corp/new"]);
    // Cancelled, it neither goes on nor starts again.
    let stop = AccessReviewCancel {
        reason: "another tool does it".into(),
    };
    let owner = rig.owner();
    let cancelled = owner.cancel_access_review(&second.id, None, &stop).await.unwrap();
    assert_eq!(
        (cancelled.status.as_str(), cancelled.next_round_at),
        ("cancelled", None)
    );
    rig.advance(365 * DAY);
    turn(&rig).await;
    assert_eq!(rounds().await.len(), 2);
    assert_eq!(assigned(&rig, "/aws").await, ["user:corp/new"]);
}

#[tokio::test]
async fn as_many_role_assignments_as_one_access_review_takes_are_reviewed_and_one_more_are_not() {
    let rig = Rig::start().await;
    postern_store::testing::assign_many(&rig.store, 10_000).await;
    let every_month = monthly(&rig, "/aws");
    let review = start(&rig, &every_month).await;
    assert_eq!(review.items.open, 10_000);
    let one_more = assign(&rig, "reader", "user:corp/one-more", "/aws").await;
    let too_many = rig.owner().create_access_review(None, &every_month).await;
    assert_eq!(code(too_many), ErrorCode::AccessReviewTooLarge);

    // The deadline keeps them all, in one step.
    rig.advance(7 * DAY);
    turn(&rig).await;
    let after = again(&rig, &review).await;
    assert_eq!((after.status.as_str(), after.items.kept), ("completed", 10_000));

    // The next round would have one too many: that is told, and put off to the round after it.
    rig.advance(23 * DAY);
    turn(&rig).await;
    turn(&rig).await;
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "failed"]
    );
    rig.owner().delete_role_assignment(&one_more).await.unwrap();
    turn(&rig).await;
    assert_eq!(outcomes(&rig, "access_review.start").await.len(), 2);
    rig.advance(30 * DAY);
    turn(&rig).await;
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "failed", "succeeded"]
    );
    let rounds = rig
        .owner()
        .access_reviews(&AccessReviewQuery::default())
        .await
        .unwrap();
    let rounds: Vec<_> = rounds
        .items
        .iter()
        .map(|one| (one.round, one.items.open))
        .collect();
    assert_eq!(rounds, [(2, 10_000), (1, 0)]);
}

/// How many rounds there are.
async fn rounds(rig: &Rig) -> usize {
    let query = AccessReviewQuery::default();
    rig.owner().access_reviews(&query).await.unwrap().items.len()
}

/// Lets so many days pass, with a look of the server every five.
async fn days(rig: &Rig, days: i64) {
    for _ in 0..days / 5 {
        rig.advance(5 * DAY);
        turn(rig).await;
        turn(rig).await;
    }
}

#[tokio::test]
async fn a_round_starts_by_the_right_that_its_maker_has_then_and_otherwise_not() {
    let rig = Rig::start().await;
    let may_assign = assign(&rig, "owner", "user:corp/max", "/aws").await;
    rig.assign("zed", "requester", "/aws").await;
    let max = rig.client("max");
    let first = max
        .create_access_review(None, &monthly(&rig, "/aws"))
        .await
        .unwrap();
    days(&rig, 30).await;
    assert_eq!(rounds(&rig).await, 2, "by a right that stands");
    let started = rig.audit("access_review.start").await;
    let by = &started[1].event.decision.as_ref().unwrap()["authorization"]["allowed_by"];
    assert_eq!(by[0]["assignment"], may_assign.as_str());

    // The right is taken away while the second round runs.
    rig.subscribe("admins", &["access_review.start"], Outcome::Denied)
        .await;
    rig.owner().delete_role_assignment(&may_assign).await.unwrap();
    days(&rig, 30).await;
    assert_eq!(rounds(&rig).await, 2);
    let outcomes_of = outcomes(&rig, "access_review.start").await;
    assert_eq!(
        outcomes_of,
        ["succeeded", "succeeded", "denied"],
        "once, and told"
    );
    let refused = &rig.audit("access_review.start").await[2].event;
    let reason = refused.reason.as_ref().unwrap();
    assert!(
        reason.contains("user:corp/max") && reason.contains("makes it anew"),
        "{reason}"
    );
    let decision = refused.decision.as_ref().unwrap();
    assert_eq!(decision["authorization"]["allowed"], false);
    let told = rig.owner().deliveries(&DeliveryQuery::default()).await.unwrap();
    assert_eq!(told.items.len(), 1);
    let shown = rig
        .owner()
        .access_reviews(&AccessReviewQuery::default())
        .await
        .unwrap();
    let second = &shown.items[0];
    assert_eq!((second.series.as_str(), second.round), (first.id.as_str(), 2));
    let missed = second.not_started.as_ref().unwrap();
    assert_eq!(&missed.reason, reason);
    assert!(second.next_round_at.unwrap() > missed.at);

    // Given back, the round after that starts.
    assign(&rig, "owner", "user:corp/max", "/").await;
    days(&rig, 30).await;
    assert_eq!(rounds(&rig).await, 3);
    let second = rig.owner().access_review(&second.id).await.unwrap();
    assert_eq!((second.not_started, second.next_round_at), (None, None));
}

#[tokio::test]
async fn a_right_of_the_makers_group_counts_for_as_long_as_the_group_has_it() {
    let rig = Rig::start().await;
    let of_group = assign(&rig, "owner", "group:corp/admins", "/aws").await;
    let ann = rig.member("ann", &["admins"]);
    ann.create_access_review(None, &monthly(&rig, "/aws"))
        .await
        .unwrap();
    days(&rig, 30).await;
    assert_eq!(rounds(&rig).await, 2);
    rig.owner().delete_role_assignment(&of_group).await.unwrap();
    days(&rig, 30).await;
    assert_eq!(rounds(&rig).await, 2);
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "succeeded", "denied"]
    );
}

#[tokio::test]
async fn a_round_that_takes_its_makers_right_is_the_last() {
    let rig = Rig::start().await;
    assign(&rig, "owner", "user:corp/max", "/aws").await;
    let max = rig.client("max");
    let create = AccessReviewCreate {
        undecided: Undecided::Remove,
        ..monthly(&rig, "/aws")
    };
    max.create_access_review(None, &create).await.unwrap();
    days(&rig, 30).await;
    assert_eq!(assigned(&rig, "/aws").await, [""; 0]);
    assert_eq!(rounds(&rig).await, 1);
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied"]
    );
}

#[tokio::test]
async fn a_makers_group_that_no_token_named_for_long_starts_no_round_until_one_does() {
    let rig = Rig::start().await;
    assign(&rig, "owner", "group:corp/admins", "/aws").await;
    let create = recurring(&rig, "/aws", 90, 7);
    let ann = rig.member("ann", &["admins"]);
    let first = ann.create_access_review(None, &create).await.unwrap();
    days(&rig, 90).await;
    assert_eq!(rounds(&rig).await, 1, "she may have left the group meanwhile");
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied"]
    );
    let missed = again(&rig, &first).await.not_started.unwrap();
    assert!(missed.reason.contains("30 days"), "{}", missed.reason);

    // Somebody of the same group, and she without it, change nothing.
    let other = rig.member("bob", &["admins"]);
    other.access_review(&first.id).await.unwrap();
    days(&rig, 5).await;
    assert_eq!(rounds(&rig).await, 1);

    rig.member("ann", &["admins"])
        .access_review(&first.id)
        .await
        .unwrap();
    turn(&rig).await;
    turn(&rig).await;
    assert_eq!(rounds(&rig).await, 2, "at once, not a quarter later");
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied", "succeeded"]
    );
    // She is seen from time to time, so the next round comes when it should.
    for _ in 0..4 {
        days(&rig, 20).await;
        rig.member("ann", &["admins"])
            .access_review(&first.id)
            .await
            .unwrap();
        turn(&rig).await;
    }
    days(&rig, 10).await;
    assert_eq!(rounds(&rig).await, 3);
}

#[tokio::test]
async fn a_group_that_the_makers_latest_token_does_not_name_starts_no_round() {
    let rig = Rig::start().await;
    assign(&rig, "owner", "group:corp/admins", "/aws").await;
    assign(&rig, "reader", "user:corp/ann", "/aws").await;
    let ann = rig.member("ann", &["admins"]);
    let first = ann
        .create_access_review(None, &monthly(&rig, "/aws"))
        .await
        .unwrap();
    days(&rig, 10).await;
    rig.member("ann", &["others"])
        .access_review(&first.id)
        .await
        .unwrap();
    days(&rig, 20).await;
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied"]
    );

    // Being seen again without the group is no reason to try again before the next round is due.
    rig.member("ann", &[]).access_review(&first.id).await.unwrap();
    days(&rig, 10).await;
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied"]
    );
    rig.member("ann", &["admins"])
        .access_review(&first.id)
        .await
        .unwrap();
    days(&rig, 20).await;
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied", "succeeded"]
    );
}

#[tokio::test]
async fn a_guardrail_about_a_group_holds_for_a_maker_whose_groups_are_old() {
    let rig = Rig::with(Plan {
        guardrails: r#"@id("no-contractors") forbid (principal in Group::"corp/contractors", action == Action::"assign", resource);"#,
        ..Plan::default()
    })
    .await;
    let ann = rig.member("ann", &[]);
    assign(&rig, "owner", "user:corp/ann", "/aws").await;
    let create = recurring(&rig, "/aws", 60, 7);
    let first = ann.create_access_review(None, &create).await.unwrap();
    rig.member("ann", &["contractors"])
        .access_review(&first.id)
        .await
        .unwrap();
    days(&rig, 60).await;
    assert_eq!(
        outcomes(&rig, "access_review.start").await,
        ["succeeded", "denied"]
    );
}
