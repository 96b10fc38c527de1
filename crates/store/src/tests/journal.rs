//! The journal.

use std::time::Duration;

use postern_core::{
    audit::Outcome,
    testing::{an_id, at},
};
use serde_json::{Value, json};

use super::{a_change, a_pass, mark, some_points};
use crate::{Conflict, Lease, SettledChange, Store, StoreError, Urgency, testing::fresh_store};

async fn a_lease(store: &Store) -> Lease {
    let points = some_points(store, 1).await;
    mark(store, &points, 0, Urgency::Look).await;
    store
        .lease("a", 1, Duration::from_mins(1), Duration::ZERO, at(1))
        .await
        .unwrap()
        .remove(0)
}

#[tokio::test]
async fn an_intent_is_outstanding_until_it_has_an_outcome_and_gets_one_once() {
    let store = fresh_store().await;
    let lease = a_lease(&store).await;
    let pass = a_pass(1);
    let (first, second, third) = (
        a_change(&[an_id(7)]),
        a_change(&[]),
        a_change(&[an_id(7), an_id(8)]),
    );
    let mut tx = store.begin().await.unwrap();
    tx.intend(&pass, &lease, &[(an_id(10), &first), (an_id(11), &second)], at(2))
        .await
        .unwrap();
    tx.intend(&pass, &lease, &[(an_id(12), &third)], at(3))
        .await
        .unwrap();
    let outstanding = tx.outstanding(lease.point).await.unwrap();
    assert_eq!(
        outstanding.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [an_id(10), an_id(11), an_id(12)]
    );
    let entry = &outstanding[0];
    assert_eq!(
        (entry.verb, &entry.operation, &entry.after),
        (first.verb, &first.operation, &first.after)
    );
    assert_eq!(
        (entry.pass, entry.generation, entry.intended_at),
        (pass.id, lease.generation, at(2))
    );
    assert_eq!((&entry.before, &entry.outcome), (&None, &None));

    let settled = |number, outcome| SettledChange {
        id: an_id(number),
        outcome,
        detail: Value::Null,
    };
    tx.settle(
        &[settled(10, Outcome::Succeeded), settled(12, Outcome::Unknown)],
        at(4),
    )
    .await
    .unwrap();
    assert_eq!(tx.outstanding(lease.point).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    for number in [10, 99] {
        let mut tx = store.begin().await.unwrap();
        let error = tx
            .settle(
                &[settled(11, Outcome::Failed), settled(number, Outcome::Failed)],
                at(5),
            )
            .await;
        assert!(
            matches!(error, Err(StoreError::Conflict(Conflict::Settled))),
            "{error:?}"
        );
    }
    let of_grant = store.journal_of_grant(an_id(7)).await.unwrap();
    let outcomes: Vec<_> = of_grant
        .iter()
        .map(|entry| (entry.outcome, entry.settled_at))
        .collect();
    assert_eq!(
        outcomes,
        [
            (Some(Outcome::Succeeded), Some(at(4))),
            (Some(Outcome::Unknown), Some(at(4)))
        ]
    );
}

#[tokio::test]
async fn what_was_recorded_together_is_told_in_its_order_with_one_age() {
    let store = fresh_store().await;
    let lease = a_lease(&store).await;
    let changes: Vec<_> = (0..200)
        .map(|number| {
            let mut change = a_change(&[]);
            change.operation = json!({ "number": number });
            (an_id(1000 - number), change)
        })
        .collect();
    let intents: Vec<_> = changes.iter().map(|(id, change)| (*id, change)).collect();
    let outcomes: Vec<_> = intents
        .iter()
        .map(|(id, _)| SettledChange {
            id: *id,
            outcome: Outcome::Succeeded,
            detail: Value::Null,
        })
        .collect();
    let mut tx = store.begin().await.unwrap();
    tx.intend(&a_pass(1), &lease, &intents, at(2)).await.unwrap();
    tx.settle(&outcomes, at(3)).await.unwrap();
    let within = Duration::from_mins(1);
    let told = tx.recorded_lately(lease.point, within).await.unwrap();
    let numbers: Vec<_> = told
        .iter()
        .map(|recalled| recalled.operation["number"].clone())
        .collect();
    assert_eq!(numbers, (0..200).map(Value::from).collect::<Vec<_>>());
    // A reader who sorts by age must not find the last one the oldest.
    assert!(told.iter().all(|recalled| recalled.age == told[0].age));
}

#[tokio::test]
async fn an_intent_alone_makes_the_backstop_look() {
    let store = fresh_store().await;
    let lease = a_lease(&store).await;
    let pass = a_pass(1);
    let mut tx = store.begin().await.unwrap();
    tx.intend(&pass, &lease, &[(an_id(10), &a_change(&[]))], at(2))
        .await
        .unwrap();
    tx.finish(&lease, crate::Next::Never, &[]).await.unwrap();
    assert_eq!(tx.due_points_backstop(at(3)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_report_is_news_only_when_it_differs() {
    let store = fresh_store().await;
    let point = some_points(&store, 1).await[0];
    let mut tx = store.begin().await.unwrap();
    assert!(
        tx.replace_report(point, &json!({ "findings": [] }))
            .await
            .unwrap()
    );
    assert!(
        !tx.replace_report(point, &json!({ "findings": [] }))
            .await
            .unwrap()
    );
    assert!(
        tx.replace_report(point, &json!({ "findings": [1] }))
            .await
            .unwrap()
    );
    tx.commit().await.unwrap();
    assert_eq!(
        store.report(point).await.unwrap(),
        Some(json!({ "findings": [1] }))
    );
}

#[tokio::test]
async fn a_doubt_about_a_change_begins_once_and_runs_out() {
    let store = fresh_store().await;
    let lease = a_lease(&store).await;
    let pass = a_pass(1);
    let mut tx = store.begin().await.unwrap();
    let changes = [(an_id(10), &a_change(&[])), (an_id(11), &a_change(&[]))];
    tx.intend(&pass, &lease, &changes, at(2)).await.unwrap();
    let hour = Duration::from_hours(1);
    tx.leave_undecided(&[an_id(10)], hour).await.unwrap();
    tx.leave_undecided(&[an_id(10)], Duration::ZERO).await.unwrap();
    tx.leave_undecided(&[], hour).await.unwrap();
    let look = tx.look(&"test".parse().unwrap(), lease.point).await.unwrap();
    for seen in [&look.left_over, &tx.outstanding(lease.point).await.unwrap()] {
        let left = seen[0].doubted_for.unwrap();
        assert!(left > Duration::from_mins(30) && left <= hour, "{left:?}");
        assert_eq!(seen[1].doubted_for, None, "nobody looked");
    }
    tx.leave_undecided(&[an_id(11)], Duration::ZERO).await.unwrap();
    let seen = tx.outstanding(lease.point).await.unwrap();
    assert_eq!(seen[1].doubted_for, Some(Duration::ZERO), "over");
}
