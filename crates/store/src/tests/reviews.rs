//! Reviews of broken glass: who is to close one is reminded at its times, once, until it is closed.

use std::time::Duration;

use postern_core::{
    review::{Reminder, Review, Verdict},
    testing::{a_request, an_id, at},
};

use crate::{Store, Tx, testing::fresh_store};

const WITHIN: Duration = Duration::from_secs(1000);

/// An open review of a request of its own, opened at 0.
async fn open(store: &Store, number: u128) -> Review {
    let mut request = a_request();
    request.id = an_id(number);
    let review = Review {
        id: an_id(1000 + number),
        request: request.id,
        requester: request.requester.clone(),
        scopes: vec![request.targets[0].machine.scope()],
        reason: "primary is down".into(),
        opened_at: at(0),
        closed: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.insert_review(&review).await.unwrap();
    tx.commit().await.unwrap();
    review
}

async fn take(tx: &mut Tx, seconds: i64) -> Vec<(Review, Reminder)> {
    tx.take_review_reminders(at(seconds), WITHIN, 10).await.unwrap()
}

async fn reminded(store: &Store, seconds: i64) -> Vec<Reminder> {
    let mut tx = store.begin().await.unwrap();
    let taken = take(&mut tx, seconds).await;
    tx.commit().await.unwrap();
    taken.into_iter().map(|(_, how)| how).collect()
}

async fn close(store: &Store, review: &Review) {
    let verdict = Verdict {
        by: "user:corp/eve".parse().unwrap(),
        at: at(1),
        note: "was needed".into(),
    };
    let mut tx = store.begin().await.unwrap();
    tx.close_review(review.id, &verdict).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn an_open_review_is_reminded_of_at_half_its_time_and_escalated_at_each_end_of_it_until_it_is_closed() {
    let store = fresh_store().await;
    let review = open(&store, 1).await;
    for (seconds, expected) in [
        (499, None),
        (500, Some(Reminder::Again)),
        (501, None),
        (999, None),
        (1000, Some(Reminder::Escalated)),
        (1999, None),
        (2000, Some(Reminder::Escalated)),
        // Nobody looked for a while: what was missed is made up for once.
        (5500, Some(Reminder::Escalated)),
        (5999, None),
        (6000, Some(Reminder::Escalated)),
        // A clock that is behind.
        (5500, None),
    ] {
        let expected: Vec<Reminder> = expected.into_iter().collect();
        assert_eq!(reminded(&store, seconds).await, expected, "at {seconds} s");
    }
    close(&store, &review).await;
    assert_eq!(reminded(&store, 7000).await, []);
}

#[tokio::test]
async fn a_review_is_escalated_at_once_where_nobody_looked_until_its_time_was_over() {
    let store = fresh_store().await;
    let review = open(&store, 1).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(take(&mut tx, 1200).await, [(review, Reminder::Escalated)]);
}

#[tokio::test]
async fn no_two_servers_remind_of_the_same_and_one_that_dies_leaves_it_due() {
    let store = fresh_store().await;
    let review = open(&store, 1).await;
    let mut dying = store.begin().await.unwrap();
    assert_eq!(take(&mut dying, 500).await.len(), 1);
    let mut other = store.begin().await.unwrap();
    assert_eq!(take(&mut other, 500).await, [], "held, and not waited for");
    other.commit().await.unwrap();
    dying.rollback().await.unwrap();
    let mut other = store.begin().await.unwrap();
    assert_eq!(take(&mut other, 500).await, [(review, Reminder::Again)]);
    other.commit().await.unwrap();
    assert_eq!(reminded(&store, 500).await, []);
}

#[tokio::test]
async fn as_many_are_reminded_of_as_asked_for_and_the_others_next() {
    let store = fresh_store().await;
    for number in 1..=3 {
        open(&store, number).await;
    }
    let mut found = Vec::new();
    for expected in [2, 1, 0] {
        let mut tx = store.begin().await.unwrap();
        let taken = tx.take_review_reminders(at(500), WITHIN, 2).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(taken.len(), expected);
        found.extend(taken.into_iter().map(|(review, _)| review.id));
    }
    found.sort();
    assert_eq!(found, [an_id(1001), an_id(1002), an_id(1003)]);
}
