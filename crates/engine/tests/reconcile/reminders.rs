//! What waits for somebody is told again: by one of several servers, in the outbox with the event, until it is done.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use postern_core::{
    audit::{AuditEvent, Outcome},
    id::IdKind,
    id::{RequestId, ReviewId},
    request::{Pending, RequestState},
    review::{Review, Verdict},
    scope::Scope,
    testing::a_request,
    time::{Clock, IdSource, ManualClock, RandomIds, SystemClock},
};
use postern_engine::EngineConfig;
use postern_store::{DeliveryFilter, Store, Subscription};
use tokio_util::sync::CancellationToken;

use super::world::World;

const DAY: Duration = Duration::from_hours(24);

/// Two servers over one database, whose clock stands still until it is moved.
struct Replicas {
    world: World,
    clock: ManualClock,
    stop: CancellationToken,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Replicas {
    async fn start(subscribed: &[&str]) -> Self {
        let world = World::new().await;
        let clock = ManualClock::new(SystemClock.now());
        let subscription = Subscription {
            name: "pager".into(),
            actions: subscribed.iter().map(|action| (*action).to_owned()).collect(),
            outcomes: vec![Outcome::Succeeded],
            scope: Scope::root(),
        };
        world.store.subscribe(&[subscription], clock.now()).await.unwrap();
        let stop = CancellationToken::new();
        let running = ["a", "b"]
            .into_iter()
            .map(|name| {
                let mut config = EngineConfig::new("test".parse().unwrap(), name);
                config.poll = Duration::from_millis(10);
                config.review_within = DAY;
                let clouds = [world.cloud.clone()];
                let engine = World::engine_with(&world.store, clouds, Arc::new(clock.clone()), config);
                tokio::spawn(engine.run(stop.clone()))
            })
            .collect();
        Self {
            world,
            clock,
            stop,
            running,
        }
    }

    /// What stands in the log of an action as soon as something of it does beyond `before`.
    async fn told(&self, action: &str, before: usize) -> Vec<AuditEvent> {
        for _ in 0..800 {
            let log = self.world.log(action).await;
            if log.len() > before {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not within twenty seconds: {action}");
    }

    /// Both have stopped; what is in the log then is all that they wrote.
    async fn stopped(self) -> World {
        self.stop.cancel();
        for replica in self.running {
            replica.await.unwrap();
        }
        self.world
    }
}

fn new_id<K: IdKind>(clock: &ManualClock) -> postern_core::id::Id<K> {
    let ids: &dyn IdSource = &RandomIds;
    ids.next(clock.now())
}

async fn insert_request(store: &Store, clock: &ManualClock, state: RequestState) -> RequestId {
    let mut request = a_request();
    request.id = new_id(clock);
    request.created_at = clock.now();
    request.state = state;
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.commit().await.unwrap();
    request.id
}

/// A review of a glass that was broken now, on the machine and another one.
async fn open(store: &Store, clock: &ManualClock) -> ReviewId {
    let request = insert_request(store, clock, a_request().state).await;
    let review = Review {
        id: new_id(clock),
        request,
        requester: "user:corp/ada".parse().unwrap(),
        scopes: [
            "/aws/123456789012/eu-west-1/i-00000000000000001",
            "/aws/123456789012/eu-west-1/i-00000000000000002",
        ]
        .map(|scope| scope.parse().unwrap())
        .into(),
        reason: "primary is down".into(),
        opened_at: clock.now(),
        closed: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.insert_review(&review).await.unwrap();
    tx.commit().await.unwrap();
    review.id
}

async fn deliveries(world: &World) -> Vec<String> {
    let all = world
        .store
        .deliveries(&DeliveryFilter::default(), None, 100)
        .await
        .unwrap();
    let mut actions: Vec<String> = all.items.into_iter().map(|delivery| delivery.action).collect();
    actions.sort();
    actions
}

#[tokio::test]
async fn the_review_of_a_broken_glass_is_reminded_of_and_escalated_until_it_is_closed() {
    let both = Replicas::start(&["review"]).await;
    let store = both.world.store.clone();
    let (open_one, closed_one) = (open(&store, &both.clock).await, open(&store, &both.clock).await);

    both.clock.advance(TimeDelta::hours(12));
    let reminded = both.told("review.remind", 3).await;
    let scopes = |of: ReviewId, log: &[AuditEvent]| -> Vec<String> {
        log.iter()
            .filter(|event| event.details["review"] == of.to_string())
            .map(|event| event.scope.to_string())
            .collect()
    };
    assert_eq!(
        scopes(open_one, &reminded),
        [
            "/aws/123456789012/eu-west-1/i-00000000000000001",
            "/aws/123456789012/eu-west-1/i-00000000000000002"
        ],
        "whoever hears of a machine hears of it"
    );
    assert_eq!(reminded[0].reason.as_deref(), Some("primary is down"));
    assert_eq!(
        reminded[0].decision.as_ref().unwrap()["rule"],
        "half of the time to close the review has passed"
    );
    assert!(both.world.log("review.escalate").await.is_empty(), "too early");

    let verdict = Verdict {
        by: "user:corp/eve".parse().unwrap(),
        at: both.clock.now(),
        note: "was needed".into(),
    };
    let mut tx = store.begin().await.unwrap();
    tx.close_review(closed_one, &verdict).await.unwrap();
    tx.commit().await.unwrap();

    both.clock.advance(TimeDelta::hours(12));
    both.told("review.escalate", 1).await;
    both.clock.advance(TimeDelta::hours(24));
    both.told("review.escalate", 3).await;
    let world = both.stopped().await;
    let escalated = world.log("review.escalate").await;
    assert_eq!(scopes(open_one, &escalated).len(), 4, "twice, each once");
    assert_eq!(scopes(closed_one, &escalated).len(), 0);
    assert_eq!(world.log("review.remind").await.len(), 4);
    let mut expected = vec!["review.escalate"; 4];
    expected.extend(["review.remind"; 4]);
    assert_eq!(deliveries(&world).await, expected, "each is to be told");
}

#[tokio::test]
async fn a_request_that_waits_is_reminded_of_and_escalated_once_by_two_servers() {
    let both = Replicas::start(&["access_request"]).await;
    let store = both.world.store.clone();
    let waits = Pending {
        lapses_at: both.clock.now() + TimeDelta::hours(8),
        awaits: Vec::new(),
    };
    let request = insert_request(&store, &both.clock, RequestState::Pending(waits)).await;
    both.clock.advance(TimeDelta::hours(4));
    let reminded = both.told("access_request.remind", 0).await;
    assert_eq!(reminded[0].subject.request, Some(request));
    both.clock.advance(TimeDelta::hours(2));
    both.told("access_request.escalate", 0).await;
    both.clock.advance(TimeDelta::hours(2));
    both.told("access_request.lapse", 0).await;
    let world = both.stopped().await;
    assert_eq!(
        deliveries(&world).await,
        [
            "access_request.escalate",
            "access_request.lapse",
            "access_request.remind"
        ]
    );
}
