//! How urgent a point is at which a pass failed and nothing is wanted.

use std::time::Duration;

use chrono::TimeDelta;
use postern_core::{
    enforcer::EnforceError,
    id::{GrantId, PointId},
    point::PointRef,
    testing::an_id,
    time::{Clock, SystemClock},
};
use postern_store::{Lease, Urgency};

use super::{
    LONG,
    cloud::Fault,
    neglect::leave_a_rule,
    world::{World, a_group_that_stays},
};

fn throttled() -> EnforceError {
    EnforceError::Throttled {
        operation: "ec2:Call".into(),
        retry_after: None,
    }
}

/// The points that will be due in a minute.
async fn leased(world: &World) -> Vec<Lease> {
    let then = SystemClock.now() + TimeDelta::minutes(1);
    let leases = world.store.lease("a", 9, LONG, Duration::ZERO, then);
    leases.await.unwrap()
}

/// The only one.
async fn next(world: &World) -> Lease {
    let leases = leased(world).await;
    let [lease] = leases.as_slice() else {
        panic!("{leases:?}")
    };
    lease.clone()
}

/// What the point is due for after passes that failed, each as the ones before it left it due.
async fn after_passes(world: &World, passes: u32) -> Urgency {
    for done in 0..passes {
        let lease = next(world).await;
        assert_eq!(lease.attempts, done, "each fails");
        world.engine.pass(lease, tokio::time::Instant::now()).await;
    }
    let lease = next(world).await;
    assert_eq!(lease.attempts, passes, "the last failed, too");
    lease.urgency
}

fn nothing_can_be_read(world: &World, passes: usize) {
    let mut state = world.cloud.state.lock().unwrap();
    state.observe_faults.extend(vec![throttled(); passes]);
}

async fn mark(world: &World, urgency: Urgency) -> PointId {
    let point = world.store.point(&world.point).await.unwrap().unwrap().id;
    let mut tx = world.store.begin().await.unwrap();
    tx.mark_due(&[point], SystemClock.now(), urgency).await.unwrap();
    tx.commit().await.unwrap();
    point
}

/// A rule that nobody wants stands at the machine, and discovery found it.
async fn stray(world: &World) -> GrantId {
    let unknown = an_id(4711);
    leave_a_rule(world, unknown);
    world.engine.discover_all().await;
    unknown
}

#[tokio::test]
async fn the_closing_of_a_stray_rule_stays_one_when_the_cloud_does_not_take_it() {
    let world = World::new().await;
    let unknown = stray(&world).await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.apply_faults = vec![Fault::Before(throttled()); 2].into();
    }
    assert_eq!(after_passes(&world, 2).await, Urgency::Closing);
    assert!(world.present().contains(&unknown));
}

#[tokio::test]
async fn a_stray_rule_stays_to_be_closed_while_its_point_cannot_be_read() {
    let world = World::new().await;
    stray(&world).await;
    nothing_can_be_read(&world, 2);
    assert_eq!(after_passes(&world, 2).await, Urgency::Closing);
}

#[tokio::test]
async fn a_rule_that_a_look_finds_where_nothing_is_wanted_is_closed_as_urgently_as_any() {
    let world = World::new().await;
    let unknown = an_id(4711);
    leave_a_rule(&world, unknown);
    mark(&world, Urgency::Look).await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.apply_faults.push_back(Fault::Before(throttled()));
    }
    assert_eq!(after_passes(&world, 1).await, Urgency::Closing);
}

#[tokio::test]
async fn a_look_that_fails_where_nothing_is_wanted_stays_a_look() {
    let world = World::new().await;
    nothing_can_be_read(&world, 2);
    mark(&world, Urgency::Look).await;
    assert_eq!(after_passes(&world, 2).await, Urgency::Look);
}

#[tokio::test]
async fn a_mark_before_no_machine_stays_a_look_while_its_point_cannot_be_read() {
    let world = World::new().await;
    let left = PointRef::security_group("123456789012", "eu-central-1", "sg-0123456789abcdef0").unwrap();
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.marked = [(left, ["test".parse().unwrap()].into())].into();
    }
    world.engine.discover_all().await;
    nothing_can_be_read(&world, 2);
    assert_eq!(after_passes(&world, 2).await, Urgency::Look);
}

#[tokio::test]
async fn a_look_that_fails_where_something_of_ours_stays_does_not_wait_behind_openings() {
    let world = World::new().await;
    world.cloud.state.lock().unwrap().findings = vec![a_group_that_stays()];
    world.look_again().await;
    world
        .engine
        .pass(next(&world).await, tokio::time::Instant::now())
        .await;
    assert_eq!(world.log("point.finding").await.len(), 1);
    nothing_can_be_read(&world, 1);
    mark(&world, Urgency::Look).await;
    assert_eq!(after_passes(&world, 1).await, Urgency::Opening);
}

#[tokio::test]
async fn a_closing_without_an_answer_stays_one_where_nothing_is_wanted() {
    let world = World::new().await;
    leave_a_rule(&world, an_id(4711));
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.patience = LONG;
        state.apply_faults.push_back(Fault::Late);
    }
    mark(&world, Urgency::Look).await;
    let lease = next(&world).await;
    world.engine.pass(lease, tokio::time::Instant::now()).await;
    assert_eq!(postern_store::testing::unsettled_changes(&world.store).await, 1);
    let point = mark(&world, Urgency::Look).await;
    // As if it had been due for a look alone.
    let mut lease = next(&world).await;
    assert_eq!(lease.point, point);
    lease.urgency = Urgency::Look;
    nothing_can_be_read(&world, 1);
    world.engine.pass(lease, tokio::time::Instant::now()).await;
    assert_eq!(next(&world).await.urgency, Urgency::Closing);
}

#[tokio::test]
async fn nobody_knows_what_stands_where_a_restored_database_wants_nothing() {
    let world = World::new().await;
    let mut tx = world.store.begin().await.unwrap();
    tx.doubt_everything(SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
    let leases = leased(&world).await;
    assert!(leases.iter().all(|lease| lease.urgency == Urgency::Closing));
    for mut lease in leases {
        if lease.point_ref == world.point {
            // As if it had been due for a look alone.
            lease.urgency = Urgency::Look;
            nothing_can_be_read(&world, 1);
        }
        world.engine.pass(lease, tokio::time::Instant::now()).await;
    }
    assert_eq!(next(&world).await.urgency, Urgency::Closing);
}

#[tokio::test]
async fn a_look_that_fails_where_a_grant_is_open_is_as_urgent_as_an_opening() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    assert!(world.is_open(id).await);
    nothing_can_be_read(&world, 1);
    mark(&world, Urgency::Look).await;
    assert_eq!(after_passes(&world, 1).await, Urgency::Opening);
}
