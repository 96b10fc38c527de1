//! Access reviews and their items.

use std::collections::BTreeMap;

use postern_core::{
    access_review::{
        AccessReview, AccessReviewItem, AccessReviewState, AtDeadline, ItemState, ItemVerdict, LastUse,
        Recommendation, RecommendedBecause, Undecided,
    },
    audit::{Actor, AuditEvent, Outcome, Subject},
    id::{AccessReviewId, AssignmentId},
    role::{OWNER, RoleAssignment},
    scope::Scope,
    testing::{an_id, at},
};
use serde_json::{Value, json};

use crate::{
    AccessReviewFilter, ItemCounts, Store, Tx, Visible,
    testing::{fresh_store, somebody_waits},
};

fn an_assignment(number: u128, role: &str, principal: &str, scope: &str) -> RoleAssignment {
    RoleAssignment {
        id: an_id(number),
        role: role.into(),
        principal: principal.parse().unwrap(),
        scope: scope.parse().unwrap(),
        created_by: "user:corp/root".into(),
        created_at: at(0),
        tags: BTreeMap::new(),
        ends_at: None,
    }
}

fn a_review(number: u128, scope: &str) -> AccessReview {
    AccessReview {
        id: an_id(number),
        series: an_id(number),
        round: 1,
        name: "who needs what".into(),
        scope: scope.parse().unwrap(),
        reviewers: ["user:corp/lea".parse().unwrap()].into(),
        undecided: Undecided::Remove,
        unused_after_days: 90,
        recurrence: None,
        created_by: "user:corp/root".parse().unwrap(),
        started_at: at(0),
        deadline: at(1000),
        made_as: None,
        maker_seen_at: None,
        next_round_at: None,
        not_started: None,
        unread: None,
        state: AccessReviewState::Open,
    }
}

fn an_item(number: u128, review: AccessReviewId, assignment: &RoleAssignment) -> AccessReviewItem {
    AccessReviewItem {
        id: an_id(number),
        review,
        assignment: assignment.clone(),
        last_use: None,
        recommendation: Some(Recommendation {
            verdict: ItemVerdict::Remove,
            because: RecommendedBecause::Unused,
        }),
        state: ItemState::Open,
    }
}

async fn assign(store: &Store, assignments: &[RoleAssignment]) {
    let mut tx = store.begin().await.unwrap();
    for assignment in assignments {
        tx.insert_assignment(assignment).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// A review of these assignments.
async fn start(
    store: &Store,
    review: &AccessReview,
    assignments: &[RoleAssignment],
) -> Vec<AccessReviewItem> {
    let first = review.id.uuid().as_u128() & 0xffff_ffff;
    let items: Vec<AccessReviewItem> = (1..)
        .zip(assignments)
        .map(|(number, assignment)| an_item(first * 1000 + number, review.id, assignment))
        .collect();
    let mut tx = store.begin().await.unwrap();
    tx.insert_access_review(review, &items).await.unwrap();
    tx.commit().await.unwrap();
    items
}

fn an_event(number: u128, seconds: i64, action: &str, decision: Value) -> AuditEvent {
    AuditEvent {
        id: an_id(number),
        at: at(seconds),
        action: action.into(),
        outcome: Outcome::Succeeded,
        actor: Actor::Principal {
            principal: "user:corp/ada".parse().unwrap(),
        },
        scope: Scope::root(),
        reason: None,
        decision: Some(decision),
        details: json!({}),
        subject: Subject::default(),
        http_request: None,
    }
}

#[tokio::test]
async fn items_are_kept_counted_and_gone_when_their_assignment_is() {
    let store = fresh_store().await;
    let assignments = [
        an_assignment(1, "requester", "user:corp/ada", "/aws"),
        an_assignment(2, "requester", "user:corp/bob", "/aws/123456789012"),
        an_assignment(3, "requester", "user:corp/cyd", "/aws"),
    ];
    assign(&store, &assignments).await;
    let review = a_review(50, "/aws");
    let items = start(&store, &review, &assignments).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.access_review(review.id).await.unwrap(), Some(review.clone()));
    assert_eq!(tx.undecided_items(review.id).await.unwrap(), items);
    let kept = items[0].clone().at_deadline(AtDeadline::Kept, at(5));
    tx.save_access_review_items(std::slice::from_ref(&kept))
        .await
        .unwrap();
    assert_eq!(tx.undecided_items(review.id).await.unwrap(), items[1..]);
    tx.remove_assignments(&[an_id(3)]).await.unwrap();
    tx.commit().await.unwrap();
    let (found, counts) = store.access_review(review.id).await.unwrap().unwrap();
    assert_eq!(found, review);
    let expected = ItemCounts {
        open: 1,
        kept: 1,
        gone: 1,
        ..ItemCounts::default()
    };
    assert_eq!(counts, expected);
    let page = store
        .access_review_items(review.id, None, None, None, 2)
        .await
        .unwrap();
    assert_eq!(page.items[0].item, kept);
    assert_eq!(page.next, Some(items[1].id));
    let rest = store
        .access_review_items(review.id, None, None, page.next, 2)
        .await
        .unwrap();
    assert_eq!(rest.items.len(), 1);
    assert!(rest.items[0].is_gone);
    let below = "/aws/123456789012".parse().unwrap();
    let some = store
        .access_review_items(review.id, Some("open"), Some(&below), None, 10)
        .await
        .unwrap();
    assert_eq!(some.items.len(), 1);
    assert_eq!(some.items[0].item, items[1]);
}

#[tokio::test]
async fn access_reviews_are_seen_by_scope_and_by_reviewers() {
    let store = fresh_store().await;
    start(&store, &a_review(1, "/aws/123456789012"), &[]).await;
    start(&store, &a_review(2, "/"), &[]).await;
    let seen = async |filter: AccessReviewFilter| {
        let page = store.access_reviews(&filter, None, 10).await.unwrap();
        page.items
            .into_iter()
            .map(|(review, _)| review.id)
            .collect::<Vec<_>>()
    };
    let of = |scopes: &[&str]| AccessReviewFilter {
        visible: Visible {
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            own: None,
        },
        ..AccessReviewFilter::default()
    };
    assert_eq!(seen(of(&["/"])).await, [an_id(2), an_id(1)], "the newest first");
    assert_eq!(seen(of(&["/aws"])).await, [an_id(1)]);
    assert_eq!(seen(of(&["/aws/999999999999"])).await, []);
    assert_eq!(seen(of(&[])).await, []);
    let named = |who: &str, mine| AccessReviewFilter {
        reviewer: vec![who.parse().unwrap()],
        mine,
        ..of(&["/aws"])
    };
    assert_eq!(seen(named("user:corp/lea", false)).await, [an_id(2), an_id(1)]);
    assert_eq!(seen(named("user:corp/eve", false)).await, [an_id(1)]);
    assert_eq!(seen(named("user:corp/eve", true)).await, []);
    let completed = AccessReviewFilter {
        status: Some("completed".into()),
        ..of(&["/"])
    };
    assert_eq!(seen(completed).await, []);
}

#[tokio::test]
async fn what_time_does_is_due_at_its_time_and_once() {
    let store = fresh_store().await;
    let review = AccessReview {
        next_round_at: Some(at(900)),
        ..a_review(1, "/")
    };
    start(&store, &review, &[]).await;
    assert_eq!(store.next_access_review_step().await.unwrap(), Some(at(750)));
    let due = async |seconds| store.due_access_reviews(at(seconds), 10).await.unwrap();
    assert_eq!(due(749).await, []);
    assert_eq!(due(750).await, [review.id]);
    let mut tx = store.begin().await.unwrap();
    let mut take = async |seconds| {
        tx.take_access_review_reminder(review.id, at(seconds))
            .await
            .unwrap()
    };
    assert!(!take(749).await);
    assert!(take(750).await);
    assert!(!take(751).await);
    tx.commit().await.unwrap();
    assert_eq!(store.next_access_review_step().await.unwrap(), Some(at(1000)));
    assert_eq!(due(999).await, [], "its next round waits for its end");
    assert_eq!(due(1000).await, [review.id]);
    let completed = AccessReview {
        state: AccessReviewState::Completed { at: at(1000) },
        ..review
    };
    let mut tx = store.begin().await.unwrap();
    tx.save_access_review(&completed).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(due(1000).await, [completed.id], "its next round");
    assert_eq!(store.next_access_review_step().await.unwrap(), Some(at(900)));
    let over = AccessReview {
        next_round_at: None,
        ..completed
    };
    let mut tx = store.begin().await.unwrap();
    tx.save_access_review(&over).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(due(100_000).await, []);
    assert_eq!(store.next_access_review_step().await.unwrap(), None);
}

#[tokio::test]
async fn a_round_of_a_series_is_there_once() {
    let store = fresh_store().await;
    start(&store, &a_review(1, "/"), &[]).await;
    let twin = AccessReview {
        series: an_id(1),
        ..a_review(2, "/")
    };
    let mut tx = store.begin().await.unwrap();
    assert!(tx.insert_access_review(&twin, &[]).await.is_err());
}

/// The last uses since then, read so many events at a time, and in how many steps.
async fn uses(
    tx: &mut Tx,
    wanted: &[AssignmentId],
    since: i64,
    step: i64,
) -> (BTreeMap<AssignmentId, LastUse>, usize) {
    let mut unread = tx.events_since(at(since)).await.unwrap();
    let (mut found, mut steps) = (BTreeMap::new(), 0);
    while let Some(part) = unread {
        let left: Vec<AssignmentId> = wanted
            .iter()
            .copied()
            .filter(|id| !found.contains_key(id))
            .collect();
        let uses = tx.read_last_uses_by(&left, at(since), part, step).await.unwrap();
        found.extend(uses.found);
        unread = uses.unread;
        steps += 1;
    }
    (found, steps)
}

#[tokio::test]
async fn the_last_use_is_the_latest_success_that_the_assignment_allowed() {
    let store = fresh_store().await;
    let by = |number: u128| {
        let id: AssignmentId = an_id(number);
        json!([{ "assignment": id, "role": "requester", "scope": "/", "principal": "user:corp/ada" }])
    };
    let both = [by(1), by(2)]
        .iter()
        .flat_map(|one| one.as_array().unwrap().clone())
        .collect::<Vec<_>>();
    let denied = AuditEvent {
        outcome: Outcome::Denied,
        ..an_event(13, 60, "grant.revoke", json!({ "allowed_by": by(1) }))
    };
    let system = AuditEvent {
        actor: Actor::System {
            component: "scheduler".into(),
        },
        ..an_event(14, 60, "grant.start", json!({ "allowed_by": by(1) }))
    };
    let silent = AuditEvent {
        decision: None,
        ..an_event(15, 60, "grant.open", json!({}))
    };
    let log = [
        an_event(10, 10, "access_request.create", json!({ "allowed_by": by(1) })),
        an_event(11, 20, "access_request.create", json!({ "allowed_by": both })),
        an_event(
            12,
            30,
            "access_request.approve",
            json!({ "authorization": { "allowed_by": by(3) }, "requester": { "allowed_by": by(1) } }),
        ),
        an_event(
            16,
            40,
            "review.close",
            json!({ "authorization": [{ "allowed_by": by(4) }, { "allowed_by": by(4) }] }),
        ),
        denied,
        system,
        silent,
        an_event(17, 60, "jit_policy.dry_run", json!({ "allowed_by": by(1) })),
        an_event(18, 60, "access_request.withdraw", json!({ "rule": "one's own" })),
    ];
    let mut tx = store.begin().await.unwrap();
    tx.audit(&log).await.unwrap();
    let wanted: Vec<AssignmentId> = [1, 2, 3, 4, 5].into_iter().map(an_id).collect();
    let (found, _) = uses(&mut tx, &wanted, 0, 1_000).await;
    for step in [1, 2, 5] {
        let (stepwise, steps) = uses(&mut tx, &wanted, 0, step).await;
        assert_eq!(stepwise, found, "{step} at a time");
        assert_eq!(
            steps,
            log.len().div_ceil(usize::try_from(step).unwrap()),
            "no more than there are"
        );
    }
    let told: Vec<_> = found
        .iter()
        .map(|(id, last)| (*id, last.action.as_str(), last.at, last.event))
        .collect();
    assert_eq!(
        told,
        [
            (an_id(1), "access_request.create", at(20), an_id(11)),
            (an_id(2), "access_request.create", at(20), an_id(11)),
            (an_id(3), "access_request.approve", at(30), an_id(12)),
            (an_id(4), "review.close", at(40), an_id(16)),
        ]
    );
    assert_eq!(found[&an_id(1)].by.to_string(), "user:corp/ada");
    let (later, _) = uses(&mut tx, &wanted, 25, 1_000).await;
    assert_eq!(later.keys().copied().collect::<Vec<_>>(), [an_id(3), an_id(4)]);
    assert_eq!(uses(&mut tx, &[an_id(5)], 0, 1_000).await.0, [].into());
    // It ends as soon as all are found, and begins not at all where there is nothing to find.
    assert_eq!(uses(&mut tx, &[an_id(4)], 0, 5).await.1, 2);
    assert_eq!(uses(&mut tx, &[], 0, 5).await.1, 1);
    assert_eq!(tx.events_since(at(1_000)).await.unwrap(), None);
}

#[tokio::test]
async fn removing_leaves_the_last_owner_and_takes_the_others_in_order() {
    let store = fresh_store().await;
    let owner = |number| an_assignment(number, OWNER, &format!("user:corp/{number}"), "/");
    let temporary = RoleAssignment {
        ends_at: Some(at(500)),
        ..owner(3)
    };
    let reader = an_assignment(4, "reader", "user:corp/4", "/");
    assign(&store, &[owner(1), owner(2), temporary.clone(), reader.clone()]).await;
    let mut tx = store.begin().await.unwrap();
    let order: Vec<AssignmentId> = [4, 2, 9, 3, 1].into_iter().map(an_id).collect();
    let removal = tx.remove_assignments(&order).await.unwrap();
    assert_eq!(removal.removed, [reader, owner(2), temporary]);
    assert_eq!(removal.last_owner, Some(owner(1)));
    tx.commit().await.unwrap();
    assert_eq!(store.authz().await.unwrap().assignments, [owner(1)]);
    let version = store.authz_version().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let removal = tx.remove_assignments(&[an_id(1), an_id(2)]).await.unwrap();
    assert_eq!(removal.removed, []);
    tx.commit().await.unwrap();
    assert_eq!(store.authz_version().await.unwrap(), version, "nothing went");
}

#[tokio::test]
async fn of_two_that_remove_the_last_two_owners_at_once_one_keeps_its_own() {
    let store = fresh_store().await;
    let owner = |number| an_assignment(number, OWNER, &format!("user:corp/{number}"), "/");
    assign(&store, &[owner(1), owner(2)]).await;
    let mut first = store.begin().await.unwrap();
    let gone = first.remove_assignments(&[an_id(1)]).await.unwrap();
    assert_eq!(gone.removed, [owner(1)]);
    let second = async {
        let mut second = store.begin().await.unwrap();
        let removal = second.remove_assignments(&[an_id(2)]).await.unwrap();
        second.commit().await.unwrap();
        removal
    };
    let release = async {
        while !somebody_waits(&store).await {
            tokio::task::yield_now().await;
        }
        first.commit().await.unwrap();
    };
    let (removal, ()) = tokio::join!(second, release);
    assert_eq!(removal.last_owner, Some(owner(2)));
    assert_eq!(store.authz().await.unwrap().assignments, [owner(2)]);
}
