//! Readings that lag behind what another replica wrote.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use postern_core::{
    enforcer::Displaced,
    testing::an_id,
    time::{Clock, Instant, SystemClock},
};
use postern_engine::EngineConfig;
use serde_json::json;

use super::{LONG, cloud::Fault, world::World};

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
    assert!(world.is_open(id).await);
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
        world.is_closing(id).await,
        "what was read does not show the writes"
    );
    // What is read now may be old or new: the opening and the closing together leave no trace.
    world.look_again().await;
    world.settle_with(&other).await;
    assert!(world.has_closed(id).await);
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
    assert!(world.is_open(id).await);
    assert_eq!(world.cloud.state.lock().unwrap().applies, 1);
    world.cloud.state.lock().unwrap().shown = None;
    world.look_again().await;
    world.settle().await;
    world.assert_sound().await;
}

impl World {
    /// How many displaced rules the database means to put back.
    async fn to_restore(&self) -> usize {
        let point = self.store.point(&self.point).await.unwrap().unwrap().id;
        let mut tx = self.store.begin().await.unwrap();
        let look = tx.look(&"test".parse().unwrap(), point).await.unwrap();
        tx.commit().await.unwrap();
        look.desired.displaced.len()
    }

    /// One pass over what is due, or nothing.
    pub(crate) async fn one_pass(&self) {
        let asked = tokio::time::Instant::now();
        let lease = self
            .store
            .lease("a", 1, Duration::from_secs(5), Duration::ZERO, SystemClock.now());
        for lease in lease.await.unwrap() {
            self.engine.pass(lease, asked).await;
        }
    }
}

#[tokio::test]
async fn a_displaced_rule_that_still_shows_is_kept_for_restoring_while_its_lockdown_may_yet_take_effect() {
    let world = World::new().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.patience = Duration::from_secs(2);
        state.in_the_way = Some(Displaced {
            id: an_id(1),
            rule: json!({ "name": "office" }),
            residuals: vec![],
        });
        state.apply_faults.push_back(Fault::After);
    }
    // There is no answer, and the rule shows: the lockdown is planned again.
    world.look_again().await;
    world.one_pass().await;
    {
        // The lockdown is not wanted any more, and the rule still shows.
        let mut state = world.cloud.state.lock().unwrap();
        state.in_the_way = None;
        state.stands = true;
    }
    world.look_again().await;
    world.one_pass().await;
    assert_eq!(world.to_restore().await, 1, "it may have been displaced");
    // Once nothing is under way any more, what stands needs no restoring.
    let started = tokio::time::Instant::now();
    while world.to_restore().await > 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "it is never settled");
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.one_pass().await;
    }
    world.assert_sound().await;
}
