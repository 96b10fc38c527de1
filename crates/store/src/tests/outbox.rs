//! Whom to tell of what: nothing is forgotten, nobody is told out of order, one server tells.

use std::time::Duration;

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    testing::{an_id, at},
};
use serde_json::json;

use crate::{Attempted, DeliveryFilter, DeliveryStatus, Store, Subscription, testing::fresh_store};

const MINUTE: Duration = Duration::from_mins(1);

fn an_event(number: u128, action: &str, outcome: Outcome, scope: &str) -> AuditEvent {
    AuditEvent {
        id: an_id(number),
        at: at(0),
        action: action.into(),
        outcome,
        actor: Actor::System {
            component: "test".into(),
        },
        scope: scope.parse().unwrap(),
        reason: None,
        decision: None,
        details: json!({}),
        subject: Subject::default(),
        http_request: None,
    }
}

fn a_subscription(name: &str) -> Subscription {
    Subscription {
        name: name.into(),
        actions: vec!["grant".into()],
        outcomes: vec![Outcome::Succeeded],
        scope: "/aws/123456789012/eu-west-1".parse().unwrap(),
    }
}

async fn write(store: &Store, numbers: impl IntoIterator<Item = u128>) {
    let mut tx = store.begin().await.unwrap();
    let events: Vec<AuditEvent> = numbers
        .into_iter()
        .map(|number| {
            an_event(
                number,
                "grant.open",
                Outcome::Succeeded,
                "/aws/123456789012/eu-west-1",
            )
        })
        .collect();
    tx.audit(&events).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_subscriber_is_told_of_what_it_asked_for_and_of_nothing_else() {
    let store = fresh_store().await;
    let mut narrow = a_subscription("narrow");
    narrow.actions = vec!["access_request.create".into(), "grant.open".into()];
    store
        .subscribe(&[a_subscription("wide"), narrow], at(0))
        .await
        .unwrap();
    let mut tx = store.begin().await.unwrap();
    let scope = "/aws/123456789012/eu-west-1/i-0123456789abcdef0";
    tx.audit(&[
        an_event(1, "grant.open", Outcome::Succeeded, scope),
        an_event(2, "grant.open", Outcome::Failed, scope),
        an_event(3, "grants.open", Outcome::Succeeded, scope),
        an_event(4, "grant.close", Outcome::Succeeded, scope),
        an_event(5, "grant.open", Outcome::Succeeded, "/aws"),
        an_event(
            6,
            "grant.open",
            Outcome::Succeeded,
            "/aws/123456789012/eu-west-11",
        ),
        an_event(7, "access_request.create", Outcome::Succeeded, scope),
    ])
    .await
    .unwrap();
    tx.commit().await.unwrap();
    for (name, expected) in [("wide", vec![1, 4]), ("narrow", vec![1, 7])] {
        let filter = DeliveryFilter {
            subscriber: Some(name.into()),
            ..DeliveryFilter::default()
        };
        let found = store.deliveries(&filter, None, 10).await.unwrap();
        let mut events: Vec<_> = found.items.iter().map(|delivery| delivery.event).collect();
        events.reverse();
        assert_eq!(
            events,
            expected.into_iter().map(an_id).collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_event_of_a_transaction_that_failed_is_told_to_nobody() {
    let store = fresh_store().await;
    store.subscribe(&[a_subscription("one")], at(0)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.audit(&[an_event(
        1,
        "grant.open",
        Outcome::Succeeded,
        "/aws/123456789012/eu-west-1",
    )])
    .await
    .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(
        store.lease_subscriber("a", MINUTE, 10, at(1)).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn one_server_delivers_in_order_and_a_failure_holds_up_what_comes_after_it() {
    let store = fresh_store().await;
    store.subscribe(&[a_subscription("one")], at(0)).await.unwrap();
    write(&store, 1..=3).await;
    let lease = store
        .lease_subscriber("a", MINUTE, 10, at(1))
        .await
        .unwrap()
        .unwrap();
    let events: Vec<_> = lease
        .waiting
        .iter()
        .map(|waiting| waiting.event.event.id)
        .collect();
    assert_eq!(events, [an_id(1), an_id(2), an_id(3)]);
    assert_eq!(
        store.lease_subscriber("b", MINUTE, 10, at(1)).await.unwrap(),
        None,
        "leased"
    );

    let ids: Vec<i64> = lease.waiting.iter().map(|waiting| waiting.id).collect();
    let said = |id, attempted| {
        let (store, lease) = (store.clone(), lease.clone());
        async move {
            store
                .attempted(&lease, id, &attempted, MINUTE, at(2))
                .await
                .unwrap()
        }
    };
    assert!(said(ids[0], Attempted::Delivered).await);
    let again = Attempted::Again {
        at: at(60),
        error: "500".into(),
    };
    assert!(said(ids[1], again).await);
    store.release_subscriber(&lease).await.unwrap();
    assert_eq!(
        store.lease_subscriber("b", MINUTE, 10, at(59)).await.unwrap(),
        None,
        "3 waits for 2"
    );
    assert_eq!(store.next_delivery().await.unwrap(), Some(at(60)));
    let later = store
        .lease_subscriber("b", MINUTE, 10, at(60))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        later
            .waiting
            .iter()
            .map(|w| (w.id, w.attempts))
            .collect::<Vec<_>>(),
        [(ids[1], 1), (ids[2], 0)]
    );
    assert!(
        !said(ids[2], Attempted::Delivered).await,
        "the first server's lease is over"
    );
}

#[tokio::test]
async fn a_lease_that_ran_out_is_anothers() {
    let store = fresh_store().await;
    store.subscribe(&[a_subscription("one")], at(0)).await.unwrap();
    write(&store, [1]).await;
    let dead = store
        .lease_subscriber("a", Duration::ZERO, 10, at(1))
        .await
        .unwrap()
        .unwrap();
    let alive = store
        .lease_subscriber("b", MINUTE, 10, at(1))
        .await
        .unwrap()
        .unwrap();
    let id = alive.waiting[0].id;
    assert!(
        !store
            .attempted(&dead, id, &Attempted::Delivered, MINUTE, at(1))
            .await
            .unwrap()
    );
    assert!(
        store
            .attempted(&alive, id, &Attempted::Delivered, MINUTE, at(1))
            .await
            .unwrap()
    );
    store.release_subscriber(&dead).await.unwrap();
    assert!(
        store
            .attempted(&alive, id, &Attempted::Delivered, MINUTE, at(1))
            .await
            .unwrap(),
        "still its own"
    );
}

#[tokio::test]
async fn what_was_given_up_is_replayed_and_what_arrived_is_forgotten() {
    let store = fresh_store().await;
    store.subscribe(&[a_subscription("one")], at(0)).await.unwrap();
    write(&store, 1..=2).await;
    let lease = store
        .lease_subscriber("a", MINUTE, 10, at(1))
        .await
        .unwrap()
        .unwrap();
    let ids: Vec<i64> = lease.waiting.iter().map(|waiting| waiting.id).collect();
    let dead = Attempted::Dead { error: "410".into() };
    store
        .attempted(&lease, ids[0], &dead, MINUTE, at(1))
        .await
        .unwrap();
    store
        .attempted(&lease, ids[1], &Attempted::Delivered, MINUTE, at(1))
        .await
        .unwrap();
    store.release_subscriber(&lease).await.unwrap();
    assert_eq!(store.count_deliveries().await.unwrap(), (0, 1));
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.replay_delivery(ids[1], at(2)).await.unwrap(),
        None,
        "it arrived"
    );
    let replayed = tx.replay_delivery(ids[0], at(2)).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    assert_eq!((replayed.status, replayed.attempts), (DeliveryStatus::Waiting, 0));
    assert_eq!(
        replayed.last_error.as_deref(),
        Some("410"),
        "what happened is not forgotten"
    );
    assert_eq!(store.forget_deliveries(at(2)).await.unwrap(), 1);
    assert_eq!(
        store
            .deliveries(&DeliveryFilter::default(), None, 10)
            .await
            .unwrap()
            .items
            .len(),
        1
    );
}

#[tokio::test]
async fn what_waits_for_somebody_who_is_not_configured_any_more_is_given_up() {
    let store = fresh_store().await;
    store
        .subscribe(&[a_subscription("one"), a_subscription("two")], at(0))
        .await
        .unwrap();
    write(&store, [1]).await;
    store.subscribe(&[a_subscription("two")], at(5)).await.unwrap();
    write(&store, [2]).await;
    let dead = DeliveryFilter {
        status: Some(DeliveryStatus::Dead),
        ..DeliveryFilter::default()
    };
    let dead = store.deliveries(&dead, None, 10).await.unwrap().items;
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].subscriber.as_str(), dead[0].event), ("one", an_id(1)));
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.replay_delivery(dead[0].id, at(6)).await.unwrap(),
        None,
        "there is nobody to tell"
    );
}

#[tokio::test]
async fn a_listener_hears_when_there_is_something_to_deliver() {
    let store = fresh_store().await;
    store.subscribe(&[a_subscription("one")], at(0)).await.unwrap();
    let mut listener = store.outbox_listener().await.unwrap();
    write(&store, [1]).await;
    tokio::time::timeout(Duration::from_secs(10), listener.heard())
        .await
        .unwrap()
        .unwrap();
}
