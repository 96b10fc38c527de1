//! Access reviews: who has which role, looked at from time to time, and taken away where it is not needed.

use chrono::TimeDelta;
use postern_api::{
    ErrorCode,
    access_review::{
        AccessReview, AccessReviewCancel, AccessReviewCreate, AccessReviewItem, AccessReviewItemDecide,
        AccessReviewItemQuery, AccessReviewQuery, ItemVerdict, Undecided,
    },
    delivery::DeliveryQuery,
    role::{RoleAssignmentCreate, RoleAssignmentQuery},
};
use postern_core::{audit::Outcome, time::Clock as _};
use serde_json::json;

use crate::rig::{MACHINE, Rig, ask, asks, code, now};

mod deadline;
mod evidence;
mod refused;
mod rounds;

const DAY: i64 = 86_400;

/// Of everything below `scope`, by lea and by whoever is in group `leads`, for a week.
fn campaign(rig: &Rig, scope: &str, undecided: Undecided) -> AccessReviewCreate {
    AccessReviewCreate {
        name: "who needs what".into(),
        scope: scope.into(),
        reviewers: vec!["user:corp/lea".into(), "group:corp/leads".into()],
        deadline: rig.clock.now() + TimeDelta::days(7),
        undecided,
        unused_after_days: 90,
        recurrence: None,
    }
}

async fn start(rig: &Rig, create: &AccessReviewCreate) -> AccessReview {
    rig.owner().create_access_review(None, create).await.unwrap()
}

async fn items(rig: &Rig, review: &AccessReview) -> Vec<AccessReviewItem> {
    let query = AccessReviewItemQuery::default();
    rig.owner()
        .access_review_items(&review.id, &query)
        .await
        .unwrap()
        .items
}

/// The item of somebody's assignment.
async fn item_of(rig: &Rig, review: &AccessReview, principal: &str) -> AccessReviewItem {
    let items = items(rig, review).await;
    items
        .into_iter()
        .find(|item| item.assignment.principal == principal)
        .unwrap()
}

async fn again(rig: &Rig, review: &AccessReview) -> AccessReview {
    rig.owner().access_review(&review.id).await.unwrap()
}

fn keep() -> AccessReviewItemDecide {
    AccessReviewItemDecide {
        decision: ItemVerdict::Keep,
        reason: "on the team".into(),
    }
}

fn remove() -> AccessReviewItemDecide {
    AccessReviewItemDecide {
        decision: ItemVerdict::Remove,
        reason: "moved on".into(),
    }
}

async fn assign(rig: &Rig, role: &str, principal: &str, scope: &str) -> String {
    let create = RoleAssignmentCreate {
        role: role.into(),
        principal: principal.into(),
        scope: scope.into(),
        ..RoleAssignmentCreate::default()
    };
    let made = rig.owner().create_role_assignment(None, &create).await;
    made.unwrap().id
}

/// Whose assignments at a scope and below there are.
async fn assigned(rig: &Rig, scope: &str) -> Vec<String> {
    let query = RoleAssignmentQuery {
        scope: Some(scope.into()),
        ..RoleAssignmentQuery::default()
    };
    let found = rig.owner().role_assignments(&query).await.unwrap();
    let mut found: Vec<String> = found.items.into_iter().map(|one| one.principal).collect();
    found.sort();
    found
}

/// The outcomes of the events of an action, the oldest first.
async fn outcomes(rig: &Rig, action: &str) -> Vec<&'static str> {
    let events = rig.audit(action).await;
    events
        .iter()
        .map(|stored| stored.event.outcome.as_str())
        .collect()
}

async fn turn(rig: &Rig) {
    rig.running.turn_access_reviews().await;
}

#[tokio::test]
async fn a_round_begins_with_what_is_assigned_when_it_was_last_used_and_what_is_recommended() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    assign(&rig, "approver", "user:corp/bob", "/aws").await;
    assign(&rig, "requester", "user:corp/zed", "/aws").await;
    assign(&rig, "reader", "user:corp/eve", "/aws").await;
    assign(&rig, "requester", "group:corp/sre", "/aws").await;
    assign(&rig, "requester", "user:corp/elsewhere", "/azure").await;
    rig.advance(100 * DAY);
    let request = asks(&rig.client("ada"), MACHINE).await;
    let bob = rig.client("bob");
    bob.approve_access_request(&request.id, None).await.unwrap();
    rig.advance(1);
    let sam = rig.member("sam", &["sre"]);
    asks(&sam, MACHINE).await;
    rig.advance(30 * DAY);
    // What changes nothing is no use of anything.
    rig.client("zed")
        .dry_run_access_request(&ask(MACHINE))
        .await
        .unwrap();
    assign(&rig, "requester", "user:corp/new", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    assert_eq!(
        (review.status.as_str(), review.round, review.items.open),
        ("open", 1, 6)
    );
    let found = items(&rig, &review).await;
    let told: Vec<String> = found
        .iter()
        .map(|item| {
            let who = &item.assignment.principal;
            let because = &item.recommendation.as_ref().unwrap().because;
            match &item.last_use {
                Some(last) => format!("{who} {because}: {} by {}", last.action, last.by),
                None => format!("{who} {because}"),
            }
        })
        .collect();
    assert_eq!(
        told,
        [
            "user:corp/ada used: access_request.create by user:corp/ada",
            "user:corp/bob used: access_request.approve by user:corp/bob",
            "user:corp/zed unused",
            "user:corp/eve not_recorded",
            "group:corp/sre used: access_request.create by user:corp/sam",
            "user:corp/new new",
        ]
    );
    let removals: Vec<_> = found
        .iter()
        .filter(|item| item.recommendation.as_ref().unwrap().decision == ItemVerdict::Remove)
        .map(|item| item.assignment.principal.as_str())
        .collect();
    assert_eq!(removals, ["user:corp/zed"]);
    let last = found[0].last_use.as_ref().unwrap();
    assert_eq!(last.at, postern_core::testing::at(100 * DAY));
    let event = &rig.audit("access_review.start").await[0].event;
    assert_eq!(event.details["items"], 6);
    assert_eq!(event.details["recommended_removals"], 1);
    assert_eq!(
        event.details["reviewers"],
        json!(["user:corp/lea", "group:corp/leads"])
    );
}

#[tokio::test]
async fn reviewers_decide_without_any_role_and_what_they_remove_is_gone_at_once() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    assign(&rig, "requester", "user:corp/zed", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let ada = item_of(&rig, &review, "user:corp/ada").await.id;
    let zed = item_of(&rig, &review, "user:corp/zed").await.id;
    let (lea, led) = (rig.client("lea"), rig.member("len", &["leads"]));
    let mine = AccessReviewQuery {
        mine: Some(true),
        ..AccessReviewQuery::default()
    };
    assert_eq!(lea.access_reviews(&mine).await.unwrap().items.len(), 1);
    assert!(rig.owner().access_reviews(&mine).await.unwrap().items.is_empty());
    assert_eq!(led.access_review(&review.id).await.unwrap().items.open, 2);
    let kept = led
        .decide_access_review_item(&ada, Some("once"), &keep())
        .await
        .unwrap();
    let repeated = led
        .decide_access_review_item(&ada, Some("once"), &keep())
        .await
        .unwrap();
    assert_eq!(kept, repeated);
    assert_eq!(kept.status, "kept");
    let decided = kept.decided.unwrap();
    assert_eq!(decided.by.as_deref(), Some("user:corp/len"));
    assert_eq!(decided.reason.as_deref(), Some("on the team"));
    let removed = lea
        .decide_access_review_item(&zed, None, &remove())
        .await
        .unwrap();
    assert_eq!(removed.status, "removed");
    assert_eq!(assigned(&rig, "/aws").await, ["user:corp/ada"]);
    let refused = rig
        .client("zed")
        .create_access_request(None, &now(), &ask(MACHINE))
        .await;
    assert_eq!(code(refused), ErrorCode::Forbidden);
    assert_eq!(
        code(lea.decide_access_review_item(&zed, None, &keep()).await),
        ErrorCode::Conflict,
        "what is removed stays so"
    );
    // What was kept may be thought over.
    lea.decide_access_review_item(&ada, None, &remove())
        .await
        .unwrap();
    assert!(assigned(&rig, "/aws").await.is_empty());
    let counts = again(&rig, &review).await.items;
    assert_eq!((counts.open, counts.kept, counts.removed), (0, 0, 2));

    let decided = rig.audit("access_review.decide").await;
    assert_eq!(decided.len(), 3);
    assert_eq!(
        decided[0].event.decision.as_ref().unwrap()["reviewer"],
        "group:corp/leads"
    );
    let deleted = rig.audit("role_assignment.delete").await;
    assert_eq!(deleted.len(), 2);
    assert_eq!(deleted[0].event.details["before"]["principal"], "user:corp/zed");
    assert_eq!(deleted[0].event.details["access_review"], json!(review.id));
}

#[tokio::test]
async fn nobody_reviews_their_own_assignment_and_nobody_who_is_not_named_reviews_any() {
    let rig = Rig::start().await;
    assign(&rig, "requester", "user:corp/lea", "/aws").await;
    assign(&rig, "requester", "group:corp/sre", "/aws").await;
    assign(&rig, "owner", "user:corp/second", "/").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let own = item_of(&rig, &review, "user:corp/lea").await.id;
    let group = item_of(&rig, &review, "group:corp/sre").await.id;
    let lea = rig.member("lea", &["sre"]);
    for item in [&own, &group] {
        for decision in [keep(), remove()] {
            let decided = lea.decide_access_review_item(item, None, &decision).await;
            assert_eq!(code(decided), ErrorCode::OwnAssignment);
        }
    }
    // Another spelling of one's own name is no other person.
    let disguised = rig.member("LEA", &["leads"]);
    let decided = disguised.decide_access_review_item(&own, None, &keep()).await;
    assert_eq!(code(decided), ErrorCode::OwnAssignment);
    let mut claims = rig.claims("bot");
    claims["groups"] = json!(["leads"]);
    claims["idtyp"] = json!("app");
    let bot = rig.client("bot").with_token(rig.key.sign(&claims));
    let decided = bot.decide_access_review_item(&own, None, &keep()).await;
    assert_eq!(code(decided), ErrorCode::NotAPerson);
    // An owner sees it, and is not named; a stranger does not learn that it is there.
    let decided = rig.owner().decide_access_review_item(&own, None, &keep()).await;
    assert_eq!(code(decided), ErrorCode::NotAReviewer);
    let stranger = rig.client("mal");
    let decided = stranger.decide_access_review_item(&own, None, &keep()).await;
    assert_eq!(code(decided), ErrorCode::NotFound);
    assert_eq!(
        code(stranger.access_review(&review.id).await),
        ErrorCode::NotFound
    );
    let listed = stranger.access_reviews(&AccessReviewQuery::default()).await;
    assert!(listed.unwrap().items.is_empty());
    assert_eq!(outcomes(&rig, "access_review.decide").await, ["denied"; 8]);
    assert_eq!(again(&rig, &review).await.items.open, 2);
    // Somebody else who is named does.
    let led = rig.member("len", &["leads"]);
    led.decide_access_review_item(&own, None, &keep()).await.unwrap();
}

#[tokio::test]
async fn an_assignment_that_goes_meanwhile_is_gone_and_one_made_anew_is_not_touched() {
    let rig = Rig::start().await;
    let first = assign(&rig, "requester", "user:corp/zed", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    let item = item_of(&rig, &review, "user:corp/zed").await;
    rig.owner().delete_role_assignment(&first).await.unwrap();
    let second = assign(&rig, "requester", "user:corp/zed", "/aws").await;
    assert_eq!(item_of(&rig, &review, "user:corp/zed").await.status, "gone");
    let counts = again(&rig, &review).await.items;
    assert_eq!((counts.open, counts.gone), (0, 1));
    let gone = AccessReviewItemQuery {
        status: Some("gone".into()),
        ..AccessReviewItemQuery::default()
    };
    let listed = rig.owner().access_review_items(&review.id, &gone).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let lea = rig.client("lea");
    for decision in [keep(), remove()] {
        let decided = lea.decide_access_review_item(&item.id, None, &decision).await;
        assert_eq!(code(decided), ErrorCode::Conflict);
    }
    rig.advance(7 * DAY);
    turn(&rig).await;
    assert_eq!(again(&rig, &review).await.items.gone, 1);
    let left = rig
        .owner()
        .role_assignments(&RoleAssignmentQuery {
            principal: Some("user:corp/zed".into()),
            ..RoleAssignmentQuery::default()
        })
        .await
        .unwrap()
        .items;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, second);
    assert_eq!(rig.audit("role_assignment.delete").await.len(), 1);
}

#[tokio::test]
async fn who_may_assign_there_starts_and_cancels_one_and_what_is_undecided_then_stays() {
    let rig = Rig::start().await;
    rig.assign("zed", "requester", "/aws").await;
    rig.assign("adm", "owner", "/azure").await;
    let adm = rig.client("adm");
    let create = campaign(&rig, "/aws", Undecided::Remove);
    assert_eq!(
        code(adm.create_access_review(None, &create).await),
        ErrorCode::Forbidden
    );
    let owner = rig.owner();
    let review = owner.create_access_review(Some("once"), &create).await.unwrap();
    let repeated = owner.create_access_review(Some("once"), &create).await.unwrap();
    assert_eq!(review.id, repeated.id);
    let zed = item_of(&rig, &review, "user:corp/zed").await.id;
    let stop = AccessReviewCancel {
        reason: "wrong scope".into(),
    };
    let cancel =
        async |client: &postern_api::Client| client.cancel_access_review(&review.id, None, &stop).await;
    assert_eq!(code(cancel(&adm).await), ErrorCode::NotFound);
    // A reviewer sees it, and may not.
    assert_eq!(code(cancel(&rig.client("lea")).await), ErrorCode::Forbidden);
    let cancelled = cancel(&owner).await.unwrap();
    assert_eq!(cancelled.cancelled.unwrap().reason, "wrong scope");
    assert_eq!(code(cancel(&owner).await), ErrorCode::AccessReviewOver);
    let late = rig
        .client("lea")
        .decide_access_review_item(&zed, None, &remove())
        .await;
    assert_eq!(code(late), ErrorCode::AccessReviewOver);
    rig.advance(7 * DAY);
    turn(&rig).await;
    assert_eq!(assigned(&rig, "/aws").await, ["user:corp/zed"]);
    assert_eq!(
        outcomes(&rig, "access_review.cancel").await,
        ["denied", "denied", "succeeded"]
    );
}

#[tokio::test]
async fn reviewers_are_told_of_the_start_and_reminded_once_of_what_is_undecided() {
    let rig = Rig::start().await;
    rig.assign("zed", "requester", "/aws").await;
    rig.subscribe(
        "leads",
        &["access_review.start", "access_review.remind"],
        Outcome::Succeeded,
    )
    .await;
    start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    let done = start(&rig, &campaign(&rig, "/aws", Undecided::Remove)).await;
    let zed = item_of(&rig, &done, "user:corp/zed").await.id;
    rig.client("lea")
        .decide_access_review_item(&zed, None, &keep())
        .await
        .unwrap();
    rig.advance(5 * DAY);
    turn(&rig).await;
    assert!(rig.audit("access_review.remind").await.is_empty(), "too early");
    rig.advance(DAY);
    turn(&rig).await;
    turn(&rig).await;
    let reminded = rig.audit("access_review.remind").await;
    assert_eq!(reminded.len(), 1, "only where something is undecided");
    assert_eq!(reminded[0].event.details["open"], 1);
    assert_eq!(reminded[0].event.details["reviewers"][0], "user:corp/lea");
    let told = rig.owner().deliveries(&DeliveryQuery::default()).await.unwrap();
    let mut told: Vec<_> = told.items.into_iter().map(|one| one.action).collect();
    told.sort();
    assert_eq!(
        told,
        [
            "access_review.remind",
            "access_review.start",
            "access_review.start"
        ]
    );
}

#[tokio::test]
async fn lists_come_in_pages() {
    let rig = Rig::start().await;
    for number in 0..5 {
        rig.assign(&format!("p{number}"), "requester", "/aws/123456789012")
            .await;
    }
    rig.assign("other", "requester", "/aws").await;
    let review = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let query = AccessReviewItemQuery {
            scope: Some("/aws/123456789012".into()),
            limit: Some(2),
            cursor,
            ..AccessReviewItemQuery::default()
        };
        let page = rig
            .client("lea")
            .access_review_items(&review.id, &query)
            .await
            .unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|item| item.assignment.principal));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let all: Vec<String> = (0..5).map(|number| format!("user:corp/p{number}")).collect();
    assert_eq!(seen, all);
    let second = start(&rig, &campaign(&rig, "/aws", Undecided::Keep)).await;
    let query = AccessReviewQuery {
        limit: Some(1),
        ..AccessReviewQuery::default()
    };
    let page = rig.owner().access_reviews(&query).await.unwrap();
    assert_eq!(page.items[0].id, second.id, "the newest first");
    let query = AccessReviewQuery {
        cursor: page.next_cursor,
        ..query
    };
    let page = rig.owner().access_reviews(&query).await.unwrap();
    assert_eq!(page.items[0].id, review.id);
    assert_eq!(page.next_cursor, None);
}
