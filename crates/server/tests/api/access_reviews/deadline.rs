//! The deadline: what nobody decided by then is removed or kept, once, whatever dies meanwhile.

use postern_api::{
    ErrorCode,
    access_review::Undecided,
    role::{RoleAssignmentCreate, RoleAssignmentQuery},
};
use postern_core::id::AccessReviewId;

use crate::rig::{OWNER, Rig, code};

use super::{DAY, again, assigned, campaign, item_of, keep, outcomes, remove, start, turn};

#[tokio::test]
async fn at_the_deadline_two_servers_remove_what_nobody_decided_once() {
    let rig = Rig::start().await;
    rig.assign("ada", "requester", "/aws").await;
    rig.assign("zed", "requester", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    let ada = item_of(&rig, &review, "user:corp/ada").await.id;
    let lea = rig.client("lea");
    lea.decide_access_review_item(&ada, None, &keep()).await.unwrap();
    let other = rig.replica().await;
    // Somebody holds it when its deadline comes, so that both servers wait for the same row.
    let id: AccessReviewId = review.id.parse().unwrap();
    let mut held = rig.store.begin().await.unwrap();
    held.access_review(id).await.unwrap().unwrap();
    rig.advance(7 * DAY);
    let release = async {
        while !postern_store::testing::somebody_waits(&rig.store).await {
            tokio::task::yield_now().await;
        }
        held.commit().await.unwrap();
    };
    tokio::join!(
        rig.running.turn_access_reviews(),
        other.turn_access_reviews(),
        release
    );
    let after = again(&rig, &review).await;
    assert_eq!(after.status, "completed");
    assert_eq!(after.completed_at, Some(review.deadline));
    assert_eq!(
        (after.items.kept, after.items.removed, after.items.open),
        (1, 1, 0)
    );
    assert_eq!(assigned(&rig, "/aws").await, ["user:corp/ada"]);
    let deleted = rig.audit("role_assignment.delete").await;
    assert_eq!(deleted.len(), 1);
    assert!(
        deleted[0].event.decision.as_ref().unwrap()["rule"]
            .as_str()
            .unwrap()
            .contains("nobody decided by the deadline")
    );
    assert_eq!(outcomes(&rig, "access_review.complete").await, ["succeeded"]);
    let zed = item_of(&rig, &review, "user:corp/zed").await;
    assert_eq!(zed.status, "removed");
    assert_eq!(zed.decided.unwrap().by, None);
    let late = rig
        .client("lea")
        .decide_access_review_item(&ada, None, &remove())
        .await;
    assert_eq!(code(late), ErrorCode::AccessReviewOver);
}

#[tokio::test]
async fn a_turn_that_dies_halfway_leaves_everything_to_the_next() {
    let rig = Rig::start().await;
    rig.assign("ada", "requester", "/aws").await;
    rig.assign("zed", "requester", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    // Its last event cannot be written, after everything else was.
    postern_store::testing::contend(&rig.store, "access_review.complete", 1).await;
    rig.advance(7 * DAY);
    while again(&rig, &review).await.status == "open" {
        let before = rig.audit("role_assignment.delete").await.len();
        turn(&rig).await;
        assert!(before == 0 || before == 2, "all or nothing");
    }
    assert!(assigned(&rig, "/aws").await.is_empty());
    assert_eq!(rig.audit("role_assignment.delete").await.len(), 2);
    assert_eq!(outcomes(&rig, "access_review.complete").await, ["succeeded"]);
}

#[tokio::test]
async fn after_the_deadline_nobody_decides_even_where_no_server_has_looked_yet() {
    let rig = Rig::start().await;
    rig.assign("zed", "requester", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let zed = item_of(&rig, &review, "user:corp/zed").await.id;
    rig.advance(7 * DAY);
    let late = rig
        .client("lea")
        .decide_access_review_item(&zed, None, &remove())
        .await;
    assert_eq!(code(late), ErrorCode::AccessReviewOver);
    turn(&rig).await;
    assert_eq!(item_of(&rig, &review, "user:corp/zed").await.status, "kept");
    assert_eq!(assigned(&rig, "/aws").await, ["user:corp/zed"]);
    let decided = rig.audit("access_review.decide").await;
    let rule = decided[0].event.decision.as_ref().unwrap()["rule"]
        .as_str()
        .unwrap();
    assert!(rule.contains("keep what is undecided"), "{rule}");
}

#[tokio::test]
async fn the_last_owner_stays_whoever_decides_and_says_so() {
    let rig = Rig::start().await;
    let review = start(&rig, &campaign(&rig, "/", Undecided::Remove)).await;
    let owner = format!("user:corp/{OWNER}");
    let item = item_of(&rig, &review, &owner).await.id;
    let lea = rig.client("lea");
    let decided = lea.decide_access_review_item(&item, None, &remove()).await;
    assert_eq!(code(decided), ErrorCode::LastOwner);
    assert_eq!(outcomes(&rig, "access_review.decide").await, ["denied"]);
    assert_eq!(item_of(&rig, &review, &owner).await.status, "open");
    rig.advance(7 * DAY);
    turn(&rig).await;
    let after = again(&rig, &review).await;
    assert_eq!((after.status.as_str(), after.items.not_removed), ("completed", 1));
    assert_eq!(item_of(&rig, &review, &owner).await.status, "not_removed");
    assert_eq!(outcomes(&rig, "access_review.decide").await, ["denied", "failed"]);
    assert_eq!(assigned(&rig, "/").await, [owner]);
}

#[tokio::test]
async fn of_several_undecided_owners_the_one_who_was_there_last_stays() {
    let rig = Rig::start().await;
    rig.assign("second", "owner", "/").await;
    rig.assign("third", "owner", "/").await;
    rig.advance(DAY);
    let second = rig.client("second");
    let create = RoleAssignmentCreate {
        role: "reader".into(),
        principal: "user:corp/eve".into(),
        scope: "/azure".into(),
        ..RoleAssignmentCreate::default()
    };
    second.create_role_assignment(None, &create).await.unwrap();
    let review = second
        .create_access_review(None, &campaign(&rig, "/", Undecided::Remove))
        .await
        .unwrap();
    rig.advance(7 * DAY);
    turn(&rig).await;
    let second = rig.client("second");
    let after = second.access_review(&review.id).await.unwrap();
    assert_eq!((after.items.removed, after.items.not_removed), (3, 1));
    let left = second
        .role_assignments(&RoleAssignmentQuery::default())
        .await
        .unwrap()
        .items;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].principal, "user:corp/second");
}
