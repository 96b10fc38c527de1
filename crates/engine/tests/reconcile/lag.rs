//! Readings that lag behind what another replica wrote.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use postern_core::{
    grant::GrantState,
    time::{Clock, Instant, SystemClock},
};
use postern_engine::EngineConfig;

use super::{LONG, world::World};

/// A replica's clock that is ten minutes ahead.
#[derive(Debug)]
struct FastClock;

impl Clock for FastClock {
    fn now(&self) -> Instant {
        SystemClock.now() + chrono::TimeDelta::minutes(10)
    }
}

#[tokio::test]
async fn a_reading_from_before_another_replica_opened_a_grant_does_not_confirm_that_it_is_closed() {
    let world = World::new().await;
    world.cloud.state.lock().unwrap().lag = Duration::from_mins(1);
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    assert!(matches!(world.grant_now(id).await.state, GrantState::Open(_)));
    // The other replica reads what was there before, and its clock is of no use.
    world.cloud.state.lock().unwrap().shown = Some(BTreeSet::new());
    let mut config = EngineConfig::new("test".parse().unwrap(), "b");
    config.backoff = Duration::from_millis(500);
    let other = World::engine_with(&world.store, [world.cloud.clone()], Arc::new(FastClock), config);
    world.revoke(id).await;
    world.settle_with(&other).await;
    let told = world.cloud.state.lock().unwrap().recalled.clone();
    assert_eq!(told[0].operation["verb"], "open");
    assert_eq!(world.present(), BTreeSet::new(), "it is closed all the same");
    assert!(
        matches!(world.grant_now(id).await.state, GrantState::Closing(_)),
        "what was read does not show the writes"
    );
    // What is read now may be old or new: the opening and the closing together leave no trace.
    world.look_again().await;
    world.settle_with(&other).await;
    assert!(matches!(world.grant_now(id).await.state, GrantState::Closed(_)));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_reading_that_only_lags_is_no_failed_attempt() {
    let world = World::new().await;
    world.cloud.state.lock().unwrap().lag = Duration::from_mins(1);
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.cloud.state.lock().unwrap().shown = Some(BTreeSet::new());
    for _ in 0..5 {
        world.look_again().await;
        let asked = tokio::time::Instant::now();
        let lease = world.store.lease("a", 1, LONG, Duration::ZERO, SystemClock.now());
        for lease in lease.await.unwrap() {
            assert_eq!(lease.attempts, 0);
            world.engine.pass(lease, asked).await;
        }
    }
    assert!(matches!(world.grant_now(id).await.state, GrantState::Open(_)));
    assert_eq!(world.cloud.state.lock().unwrap().applies, 1);
    world.cloud.state.lock().unwrap().shown = None;
    world.look_again().await;
    world.settle().await;
    world.assert_sound().await;
}
