//! Of several replicas one discovers, and another takes over when it dies.

use std::{sync::Arc, time::Duration};

use postern_core::time::SystemClock;
use postern_engine::EngineConfig;
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// A replica that discovers every 200 ms, and whose turn runs out two seconds after it dies.
fn replica(world: &World, owner: &str) -> postern_engine::Engine {
    let mut config = EngineConfig::new("test".parse().unwrap(), owner);
    config.lease = Duration::from_secs(2);
    config.discovery_interval = Duration::from_millis(200);
    World::engine_with(&world.store, [world.cloud.clone()], Arc::new(SystemClock), config)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn of_three_replicas_one_discovers_at_a_time_and_no_oftener_than_one_alone() {
    let world = World::new().await;
    let before = world.cloud.state.lock().unwrap().discoveries;
    let stop = CancellationToken::new();
    let began = tokio::time::Instant::now();
    let runs: Vec<_> = ["a", "b", "c"]
        .map(|owner| tokio::spawn(replica(&world, owner).run(stop.clone())))
        .into();
    let discoveries = || world.cloud.state.lock().unwrap().discoveries - before;
    until("five discoveries", || discoveries() >= 5).await;
    let seen = u128::from(discoveries());
    let intervals = began.elapsed().as_millis() / 175 + 1;
    stop.cancel();
    for run in runs {
        run.await.unwrap();
    }
    // A turn begins at the earliest seven eighths of an interval after the one before.
    assert!(seen <= intervals, "{seen} discoveries in {intervals} intervals");
    assert_eq!(world.cloud.state.lock().unwrap().discovering, (0, 1));
}

#[tokio::test]
async fn another_replica_discovers_when_the_one_that_did_is_dead() {
    let world = World::new().await;
    let before = world.cloud.state.lock().unwrap().discoveries;
    world.cloud.state.lock().unwrap().discovery_stuck = true;
    let stop = CancellationToken::new();
    let doomed = tokio::spawn(replica(&world, "doomed").run(stop.clone()));
    let discoveries = || world.cloud.state.lock().unwrap().discoveries - before;
    until("the first discovery", || discoveries() == 1).await;
    let heir = tokio::spawn(replica(&world, "heir").run(stop.clone()));
    // Longer than a turn lasts: its owner lives, and renews it.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(discoveries(), 1, "the turn is kept while its owner lives");

    doomed.abort();
    let _ = doomed.await;
    world.cloud.state.lock().unwrap().discovery_stuck = false;
    until("the heir's discovery", || discoveries() >= 2).await;
    stop.cancel();
    heir.await.unwrap();
    assert_eq!(world.cloud.state.lock().unwrap().discovering, (0, 1));
}
