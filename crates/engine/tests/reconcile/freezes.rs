//! What a freeze closes goes before everything else, whatever became of the passes over it.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use postern_core::{
    enforcer::EnforceError,
    freeze::Freeze,
    grant::EndCause,
    id::{FreezeId, GrantId, PointId},
    point::PointRef,
    time::{Clock, IdSource, RandomIds, SystemClock},
};
use postern_engine::{Engine, EngineConfig};
use postern_store::{Lease, Urgency};

use super::{
    LONG,
    cloud::Fault,
    world::{World, a_machine},
};

/// A world with a second machine, whose point is another's to close.
async fn with_another() -> (World, PointRef) {
    let world = World::new().await;
    let machine = a_machine(2);
    let other = machine.grant_points().into_iter().next().unwrap();
    world.cloud.state.lock().unwrap().machines.push(machine);
    tokio::time::sleep(Duration::from_millis(5)).await;
    world.engine.discover_all().await;
    world.settle().await;
    (world, other)
}

async fn point(world: &World, of: &PointRef) -> PointId {
    world.store.point(of).await.unwrap().unwrap().id
}

/// Ends the grant as a freeze does.
async fn freeze(world: &World, id: GrantId) {
    let ids: &dyn IdSource = &RandomIds;
    let now = SystemClock.now();
    let made = Freeze {
        id: ids.next::<postern_core::id::FreezeKind>(now),
        scope: world.machine.scope(),
        reason: "keys leaked".into(),
        created_by: "user:corp/sam".parse().unwrap(),
        created_at: now,
        lifted: None,
    };
    let cause = EndCause::Frozen {
        freeze: FreezeId::from_uuid(made.id.uuid()),
        by: made.created_by.clone(),
        reason: made.reason.clone(),
    };
    let mut tx = world.store.begin().await.unwrap();
    tx.insert_freeze(&made).await.unwrap();
    let grant = tx.grant(id).await.unwrap().unwrap();
    let ended = grant.live().unwrap().end(cause, now);
    tx.save_grants(&[ended.into()]).await.unwrap();
    let points = tx.points_of(&[id]).await.unwrap();
    tx.mark_due(&points, now, Urgency::Freeze).await.unwrap();
    tx.commit().await.unwrap();
}

/// Another's closing has waited for a while.
async fn somebody_else_waits(world: &World, other: &PointRef) {
    let other = point(world, other).await;
    let mut tx = world.store.begin().await.unwrap();
    let long_ago = SystemClock.now() - TimeDelta::hours(1);
    tx.mark_due(&[other], long_ago, Urgency::Closing).await.unwrap();
    tx.commit().await.unwrap();
}

/// What would be looked at first in a minute from now.
async fn first_in_a_minute(world: &World) -> Lease {
    let then = SystemClock.now() + TimeDelta::minutes(1);
    let lease_for = Duration::from_millis(600);
    let leases = world
        .store
        .lease("a", 1, lease_for, Duration::ZERO, then)
        .await
        .unwrap();
    leases.into_iter().next().unwrap()
}

async fn pass(world: &World, engine: &Engine) {
    let asked = tokio::time::Instant::now();
    let lease = first_in_a_minute(world).await;
    engine.pass(lease, asked).await;
}

#[tokio::test]
async fn what_a_freeze_closes_is_first_also_after_the_cloud_refused() {
    let (world, other) = with_another().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    freeze(&world, id).await;
    somebody_else_waits(&world, &other).await;
    assert_eq!(first_in_a_minute(&world).await.point_ref, world.point, "at first");
    tokio::time::sleep(Duration::from_millis(650)).await;
    for _ in 0..4 {
        let fault = EnforceError::Forbidden {
            operation: "ec2:RevokeSecurityGroupIngress".into(),
            code: "UnauthorizedOperation".into(),
            message: "no".into(),
        };
        world
            .cloud
            .state
            .lock()
            .unwrap()
            .apply_faults
            .push_back(Fault::Before(fault));
    }
    pass(&world, &world.engine).await;
    assert!(world.present().contains(&id));
    assert_eq!(first_in_a_minute(&world).await.point_ref, world.point, "again");
}

#[tokio::test]
async fn what_a_freeze_closes_is_first_also_after_a_pass_was_lost() {
    let (world, other) = with_another().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    freeze(&world, id).await;
    somebody_else_waits(&world, &other).await;
    // A replica without an enforcer for the cloud gives the point back with nothing done.
    let config = EngineConfig::new("test".parse().unwrap(), "b");
    let blind = World::engine_with(&world.store, [], Arc::new(SystemClock), config);
    pass(&world, &blind).await;
    assert!(world.present().contains(&id));
    assert_eq!(first_in_a_minute(&world).await.point_ref, world.point);
}

#[tokio::test]
async fn what_a_freeze_closes_is_first_while_an_opening_may_still_take_effect() {
    let (world, other) = with_another().await;
    world.cloud.state.lock().unwrap().patience = Duration::from_secs(30);
    let lost = EnforceError::Unavailable {
        operation: "Apply".into(),
        message: "connection reset".into(),
    };
    for _ in 0..3 {
        world
            .cloud
            .state
            .lock()
            .unwrap()
            .apply_faults
            .push_back(Fault::Before(lost.clone()));
    }
    let id = world.grant(LONG, LONG).await;
    pass(&world, &world.engine).await;
    freeze(&world, id).await;
    somebody_else_waits(&world, &other).await;
    pass(&world, &world.engine).await;
    assert!(world.is_closing(id).await, "the call may still be under way");
    assert_eq!(first_in_a_minute(&world).await.point_ref, world.point);
}
