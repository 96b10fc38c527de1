//! Delivering from a real outbox to a receiver on a real socket.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use chrono::TimeDelta;
use http::StatusCode;
use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    testing::an_id,
    time::{Clock, CountingIds, ManualClock, SystemClock},
};
use postern_notify::{Notifier, NotifyConfig, NotifyMetrics, Setting};
use postern_store::{DeliveryFilter, DeliveryStatus, Store, testing::fresh_store};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Somebody who is told: answers as the script says, and with 204 after its end.
#[derive(Clone, Default)]
struct Receiver {
    script: Arc<Mutex<VecDeque<StatusCode>>>,
    taken: Arc<Mutex<Vec<Value>>>,
    /// How long each answer takes.
    delay: Arc<Mutex<Duration>>,
}

impl Receiver {
    async fn listen(script: &[StatusCode]) -> (Self, String) {
        let receiver = Self {
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            ..Self::default()
        };
        let router = Router::new()
            .route(
                "/hook",
                post(
                    async |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| {
                        let status = receiver.take(&headers, &body);
                        let delay = *receiver.delay.lock().unwrap();
                        tokio::time::sleep(delay).await;
                        status
                    },
                ),
            )
            .with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        drop(tokio::spawn(async move { axum::serve(listener, router).await }));
        (receiver, url)
    }

    fn take(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        let status = self
            .script
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(StatusCode::NO_CONTENT);
        // As every receiver should: what is not signed is not taken.
        if Webhook::new(SECRET).unwrap().verify(body, headers).is_err() {
            return StatusCode::IM_A_TEAPOT;
        }
        if status.is_success() {
            let event: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(headers["webhook-id"], event["id"].as_str().unwrap());
            self.taken.lock().unwrap().push(event);
        }
        status
    }

    async fn has(&self, count: usize) -> Vec<String> {
        let looking = async {
            loop {
                let ids: Vec<String> = self
                    .taken
                    .lock()
                    .unwrap()
                    .iter()
                    .map(|event| event["id"].as_str().unwrap().to_owned())
                    .collect();
                if ids.len() >= count {
                    return ids;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), looking)
            .await
            .unwrap()
    }
}

struct World {
    store: Store,
    clock: ManualClock,
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl World {
    async fn new() -> Self {
        // Receivers judge the time of a signature by their own clocks.
        let clock = ManualClock::new(SystemClock.now());
        Self {
            store: fresh_store().await,
            clock,
            stop: CancellationToken::new(),
            running: Vec::new(),
        }
    }

    async fn notify(&mut self, webhooks: Value, owner: &str) {
        self.notify_with(webhooks, owner, Duration::from_secs(30)).await;
    }

    async fn notify_with(&mut self, webhooks: Value, owner: &str, lease: Duration) {
        let config: NotifyConfig = serde_json::from_value(json!({
            "allow_private": true, "give_up_after_hours": 1, "webhooks": webhooks,
        }))
        .unwrap();
        let setting = Setting {
            installation: "test".parse().unwrap(),
            store: self.store.clone(),
            clock: Arc::new(self.clock.clone()),
            ids: Arc::new(CountingIds::new(1)),
            owner: owner.to_owned(),
            lease,
            metrics: NotifyMetrics::default(),
        };
        let notifier = Notifier::new(&config, setting).unwrap();
        notifier.subscribe().await.unwrap();
        self.running.push(tokio::spawn(notifier.run(self.stop.clone())));
    }

    async fn happens(&self, numbers: impl IntoIterator<Item = u128>) {
        let events: Vec<AuditEvent> = numbers
            .into_iter()
            .map(|number| AuditEvent {
                id: an_id(number),
                at: self.clock.now(),
                action: "grant.open".into(),
                outcome: Outcome::Succeeded,
                actor: Actor::System {
                    component: "test".into(),
                },
                scope: "/aws".parse().unwrap(),
                reason: None,
                decision: None,
                details: json!({}),
                subject: Subject::default(),
                http_request: None,
            })
            .collect();
        let mut tx = self.store.begin().await.unwrap();
        tx.audit(&events).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn status_of(&self, subscriber: &str) -> Vec<(DeliveryStatus, u32, Option<String>)> {
        let filter = DeliveryFilter {
            subscriber: Some(subscriber.into()),
            ..DeliveryFilter::default()
        };
        let mut found = self.store.deliveries(&filter, None, 100).await.unwrap().items;
        found.reverse();
        found
            .into_iter()
            .map(|delivery| (delivery.status, delivery.attempts, delivery.last_error))
            .collect()
    }

    async fn until(&self, subscriber: &str, done: impl Fn(&[(DeliveryStatus, u32, Option<String>)]) -> bool) {
        let looking = async {
            while !done(&self.status_of(subscriber).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), looking)
            .await
            .is_err()
        {
            assert_eq!(self.status_of(subscriber).await, [], "did not come about");
        }
    }

    async fn end(self) {
        self.stop.cancel();
        for running in self.running {
            running.await.unwrap();
        }
    }
}

fn webhook(name: &str, url: &str) -> Value {
    json!({ "name": name, "actions": ["grant"], "url": url, "secret": SECRET })
}

fn ids(numbers: impl IntoIterator<Item = u128>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| an_id::<postern_core::id::EventKind>(number).to_string())
        .collect()
}

#[tokio::test]
async fn signed_events_arrive_in_order_and_one_slow_receiver_holds_up_no_other() {
    let (good, good_url) = Receiver::listen(&[]).await;
    let (failing, failing_url) = Receiver::listen(&[StatusCode::INTERNAL_SERVER_ERROR]).await;
    let mut world = World::new().await;
    world
        .notify(
            json!([webhook("good", &good_url), webhook("failing", &failing_url)]),
            "a",
        )
        .await;
    world.happens(1..=20).await;
    assert_eq!(good.has(20).await, ids(1..=20));
    world
        .until("failing", |found| found[0].1 == 1 && found[0].2.is_some())
        .await;
    assert!(
        failing.taken.lock().unwrap().is_empty(),
        "the second waits for the first"
    );
    assert_eq!(world.status_of("failing").await[1].1, 0);
    // Time passes, and something happens that wakes the notifier.
    world.clock.advance(TimeDelta::seconds(10));
    world.happens([21]).await;
    assert_eq!(failing.has(21).await, ids(1..=21));
    world.end().await;
}

#[tokio::test]
async fn what_a_receiver_refuses_is_given_up_at_once_and_what_it_cannot_take_after_an_hour() {
    let refused = [StatusCode::UNPROCESSABLE_ENTITY];
    let (picky, picky_url) = Receiver::listen(&refused).await;
    let (down, down_url) = Receiver::listen(&[StatusCode::SERVICE_UNAVAILABLE; 2]).await;
    let mut world = World::new().await;
    world
        .notify(
            json!([webhook("picky", &picky_url), webhook("down", &down_url)]),
            "a",
        )
        .await;
    world.happens(1..=2).await;
    assert_eq!(picky.has(1).await, ids([2]));
    let found = world.status_of("picky").await;
    assert_eq!((found[0].0, found[0].1), (DeliveryStatus::Dead, 1));
    assert!(found[0].2.as_ref().unwrap().contains("422"), "{found:?}");

    world.until("down", |found| found[0].1 == 1).await;
    world.clock.advance(TimeDelta::hours(1));
    world.happens([3]).await;
    world
        .until("down", |found| found[0].0 == DeliveryStatus::Dead)
        .await;
    let found = world.status_of("down").await;
    assert_eq!(found[0].1, 2, "tried once more when its time was over");
    assert!(down.taken.lock().unwrap().is_empty());
    world.end().await;
}

#[tokio::test]
async fn two_servers_tell_once_and_in_order() {
    let (receiver, url) = Receiver::listen(&[]).await;
    let mut world = World::new().await;
    for owner in ["a", "b"] {
        world.notify(json!([webhook("one", &url)]), owner).await;
    }
    for number in 1..=30 {
        world.happens([number]).await;
    }
    assert_eq!(receiver.has(30).await, ids(1..=30));
    world
        .until("one", |found| {
            found
                .iter()
                .all(|one| one.0 == DeliveryStatus::Delivered && one.1 == 1)
        })
        .await;
    world.end().await;
    assert_eq!(receiver.taken.lock().unwrap().len(), 30, "none twice");
}

#[tokio::test]
async fn a_receiver_that_takes_longer_than_a_lease_is_told_once() {
    let (receiver, url) = Receiver::listen(&[]).await;
    *receiver.delay.lock().unwrap() = Duration::from_secs(2);
    let mut world = World::new().await;
    for owner in ["a", "b"] {
        world
            .notify_with(json!([webhook("one", &url)]), owner, Duration::from_secs(1))
            .await;
    }
    world.happens([1]).await;
    world
        .until("one", |found| found[0].0 == DeliveryStatus::Delivered)
        .await;
    world.end().await;
    assert_eq!(receiver.taken.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (receiver, url) = Receiver::listen(&[StatusCode::TEMPORARY_REDIRECT]).await;
    let mut world = World::new().await;
    world.notify(json!([webhook("one", &url)]), "a").await;
    world.happens([1]).await;
    world.until("one", |found| found[0].1 == 1).await;
    let found = world.status_of("one").await;
    assert!(found[0].2.as_ref().unwrap().contains("307"), "{found:?}");
    assert!(receiver.taken.lock().unwrap().is_empty());
    world.end().await;
}
