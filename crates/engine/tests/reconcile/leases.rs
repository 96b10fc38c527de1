//! Access leases: what was opened for somebody who is not heard of any more is closed.

use std::{sync::Arc, time::Duration};

use postern_core::{
    grant::{EndCause, GrantState},
    id::{GrantId, LeaseId, RequestId},
    lease::LeaseEnd,
    request::{Pending, RequestState},
    time::{Clock, IdSource, RandomIds, SystemClock},
};
use postern_engine::EngineConfig;
use postern_store::NewAccessLease;
use tokio_util::sync::CancellationToken;

use super::{LONG, world::World};

const EVERY: Duration = Duration::from_secs(1);

fn config(owner: &str) -> EngineConfig {
    let mut config = EngineConfig::new("test".parse().unwrap(), owner);
    config.poll = Duration::from_millis(20);
    config
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..800 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within twenty seconds: {what}");
}

fn new_lease(request: RequestId, key: &str) -> NewAccessLease {
    let ids: &dyn IdSource = &RandomIds;
    NewAccessLease {
        id: ids.next(SystemClock.now()),
        request,
        holder: "workload:ci/build".parse().unwrap(),
        key: key.parse().unwrap(),
        fingerprint: [0; 32],
        heartbeat_every: EVERY,
        created_at: SystemClock.now(),
    }
}

async fn keep(world: &World, lease: &NewAccessLease) {
    let mut tx = world.store.begin().await.unwrap();
    tx.insert_lease(lease, Duration::ZERO).await.unwrap();
    tx.commit().await.unwrap();
}

/// A lease on a grant, heard of once.
async fn hold(world: &World, grant: GrantId, key: &str) -> LeaseId {
    let lease = new_lease(world.grant_now(grant).await.request, key);
    keep(world, &lease).await;
    lease.id
}

/// A request that waits for approval, and lapses after so long; and a lease on it, heard of once.
async fn waiting(world: &World, lapses_after: Duration) -> (RequestId, LeaseId) {
    let ids: &dyn IdSource = &RandomIds;
    let now = SystemClock.now();
    let mut request = postern_core::testing::a_request();
    request.id = ids.next(now);
    request.requester = "workload:ci/build".parse().unwrap();
    request.created_at = now;
    request.state = RequestState::Pending(Pending {
        lapses_at: now + lapses_after,
        awaits: Vec::new(),
    });
    let lease = new_lease(request.id, "gone");
    let mut tx = world.store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.insert_lease(&lease, Duration::ZERO).await.unwrap();
    tx.commit().await.unwrap();
    (request.id, lease.id)
}

#[tokio::test]
async fn a_missed_heartbeat_closes_its_own_grant_once_whatever_the_replicas_and_no_other() {
    let world = World::new().await;
    let (dead, alive) = (world.grant(LONG, LONG).await, world.grant(LONG, LONG).await);
    world.settle().await;
    let dead_lease = hold(&world, dead, "dead").await;
    let alive_lease = hold(&world, alive, "alive").await;
    let stop = CancellationToken::new();
    let replicas: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let clouds = [world.cloud.clone()];
            let engine = World::engine_with(&world.store, clouds, Arc::new(SystemClock), config(name));
            tokio::spawn(engine.run(stop.clone()))
        })
        .collect();
    until("the dead one's grant is closed", async || {
        let mut tx = world.store.begin().await.unwrap();
        let lease = tx.access_lease(alive_lease).await.unwrap().unwrap();
        tx.hear_lease(&lease, Duration::ZERO).await.unwrap();
        tx.commit().await.unwrap();
        world.has_closed(dead).await
    })
    .await;
    stop.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
    let GrantState::Closed(closed) = world.grant_now(dead).await.state else {
        panic!("closed")
    };
    assert_eq!(closed.cause, EndCause::HeartbeatMissed);
    let lease = world.store.access_lease(dead_lease).await.unwrap().unwrap();
    assert_eq!(lease.ended.unwrap().1, LeaseEnd::HeartbeatMissed);
    assert!(lease.deadline <= closed.ended_at + chrono::TimeDelta::milliseconds(50));
    assert!(world.is_open(alive).await);
    assert!(world.present().contains(&alive) && !world.present().contains(&dead));
    let told = world.log("lease.end").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].reason.as_deref(), Some("heartbeat missed"));
    assert_eq!(told[0].details["grants_ended"][0], dead.to_string());
    let ended = world.log("grant.end").await;
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].decision.as_ref().unwrap()["rule"], "heartbeat missed");
    world.assert_sound().await;
}

#[tokio::test]
async fn a_request_that_waits_for_approval_is_withdrawn_when_its_holder_is_gone() {
    let world = World::new().await;
    let (request, _) = waiting(&world, Duration::from_hours(1)).await;
    let stop = CancellationToken::new();
    let engine = World::engine_with(
        &world.store,
        [world.cloud.clone()],
        Arc::new(SystemClock),
        config("a"),
    );
    let running = tokio::spawn(engine.run(stop.clone()));
    until("it is withdrawn", async || {
        let request = world.store.request(request).await.unwrap().unwrap();
        matches!(request.state, RequestState::Withdrawn(_))
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let told = world.log("lease.end").await;
    assert_eq!(told[0].details["request_withdrawn"], true);
}

#[tokio::test]
async fn a_request_that_lapsed_by_this_servers_clock_is_over_for_all_when_its_holder_is_gone() {
    let world = World::new().await;
    let (request, lease) = waiting(&world, Duration::from_secs(1)).await;
    let stop = CancellationToken::new();
    let mut config = config("a");
    // The housekeeping that would lapse it comes by once, at the start, and no more.
    config.poll = Duration::from_hours(1);
    let engine = World::engine_with(&world.store, [world.cloud.clone()], Arc::new(SystemClock), config);
    let running = tokio::spawn(engine.run(stop.clone()));
    until("the lease has ended", async || {
        let lease = world.store.access_lease(lease).await.unwrap().unwrap();
        lease.ended.is_some()
    })
    .await;
    let after = world.store.request(request).await.unwrap().unwrap();
    assert!(
        matches!(after.state, RequestState::Lapsed(_)),
        "{:?}",
        after.state
    );
    stop.cancel();
    running.await.unwrap();
}
