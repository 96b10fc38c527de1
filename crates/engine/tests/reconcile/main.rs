//! The loop against a stateful cloud and a real store: every way through a grant's life, with faults.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

mod cloud;
mod freezes;
mod lag;
mod late;
mod leases;
mod neglect;
mod pages;
mod refusals;
mod reminders;
mod retries;
mod turns;
mod world;

use std::time::Duration;

use cloud::Fault;
use postern_core::{
    enforcer::EnforceError,
    grant::{EndCause, GrantState},
    inventory::Layer,
    point::PointRef,
    time::{Clock, SystemClock},
};
use postern_store::Urgency;
use world::{ACCOUNT, REGION, World};

const LONG: Duration = Duration::from_mins(10);
const SHORT: Duration = Duration::from_secs(1);

fn forbidden() -> EnforceError {
    EnforceError::Forbidden {
        operation: "ec2:CreateSecurityGroup".into(),
        code: "UnauthorizedOperation".into(),
        message: "no".into(),
    }
}

#[tokio::test]
async fn a_grant_opens_and_closes_when_its_time_is_over() {
    let world = World::new().await;
    let id = world.grant(SHORT, LONG).await;
    world.settle().await;
    let GrantState::Open(open) = world.grant_now(id).await.state else {
        panic!("not open")
    };
    assert_eq!(open.ends_at - open.opened_at, chrono::TimeDelta::seconds(1));
    assert!(world.present().contains(&id));

    tokio::time::sleep(SHORT).await;
    world.settle().await;
    let GrantState::Closed(closed) = world.grant_now(id).await.state else {
        panic!("not closed")
    };
    assert_eq!(closed.cause, EndCause::Expired);
    assert!(world.present().is_empty());
    world.assert_sound().await;
}

#[tokio::test]
async fn closing_one_of_two_overlapping_grants_leaves_the_other_open() {
    let world = World::new().await;
    let short = world.grant(SHORT, LONG).await;
    let long = world.grant(LONG, LONG).await;
    world.settle().await;
    tokio::time::sleep(SHORT).await;
    world.settle().await;
    assert!(world.has_closed(short).await);
    assert!(world.is_open(long).await);
    assert_eq!(world.present(), [long].into());
    world.assert_sound().await;
}

#[tokio::test]
async fn a_write_that_takes_effect_without_an_answer_is_found_by_reading_back() {
    let world = World::new().await;
    world
        .cloud
        .state
        .lock()
        .unwrap()
        .apply_faults
        .push_back(Fault::After);
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    assert!(world.is_open(id).await);
    assert_eq!(world.cloud.state.lock().unwrap().applies, 1, "not written twice");
    world.assert_sound().await;
}

#[tokio::test]
async fn closing_is_retried_until_the_cloud_lets_it() {
    let world = World::new().await;
    let id = world.grant(SHORT, LONG).await;
    world.settle().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        for _ in 0..5 {
            state.apply_faults.push_back(Fault::Before(forbidden()));
            state.observe_faults.push_back(EnforceError::Unavailable {
                operation: "Observe".into(),
                message: "reset".into(),
            });
        }
    }
    tokio::time::sleep(SHORT).await;
    world.settle().await;
    assert!(world.has_closed(id).await);
    world.assert_sound().await;
}

#[tokio::test]
async fn an_opening_that_cannot_happen_fails_at_its_deadline_and_is_cleaned_up() {
    let world = World::new().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        for _ in 0..2000 {
            state.apply_faults.push_back(Fault::Before(forbidden()));
        }
    }
    let id = world.grant(LONG, SHORT).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.settle().await;
    tokio::time::sleep(SHORT).await;
    world.cloud.state.lock().unwrap().apply_faults.clear();
    world.settle().await;
    let GrantState::Closed(closed) = world.grant_now(id).await.state else {
        panic!("not closed")
    };
    assert!(
        matches!(closed.cause, EndCause::OpenFailed { .. }),
        "{:?}",
        closed.cause
    );
    assert_eq!(closed.opened_at, None);
    world.assert_sound().await;
}

#[tokio::test]
async fn an_obstacle_fails_the_opening_at_once_and_says_why() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.cloud.state.lock().unwrap().no_room_for.insert(id);
    world.settle().await;
    let GrantState::Closed(closed) = world.grant_now(id).await.state else {
        panic!("not closed")
    };
    assert_eq!(
        closed.cause,
        EndCause::OpenFailed {
            reason: "no room".into()
        }
    );
    // Who is told of it is led to the request.
    let told = world.log("point.obstacle").await;
    assert_eq!(told[0].subject.grant, Some(id));
    assert_eq!(told[0].subject.request, Some(world.grant_now(id).await.request));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_rule_that_somebody_deletes_comes_back_at_the_next_look() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.cloud.state.lock().unwrap().present.clear();
    let mut tx = world.store.begin().await.unwrap();
    let points = tx.points_of(&[id]).await.unwrap();
    tx.mark_due(&points, SystemClock.now(), Urgency::Look)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world.settle().await;
    assert!(world.present().contains(&id));
    world.assert_sound().await;
}

#[tokio::test]
async fn grants_on_a_point_that_is_gone_end() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.cloud.state.lock().unwrap().gone.insert(world.point.clone());
    let mut tx = world.store.begin().await.unwrap();
    let points = tx.points_of(&[id]).await.unwrap();
    tx.mark_due(&points, SystemClock.now(), Urgency::Look)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world.settle().await;
    let GrantState::Closed(closed) = world.grant_now(id).await.state else {
        panic!("not closed")
    };
    assert_eq!(closed.cause, EndCause::MachineGone);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_machine_that_two_discoveries_do_not_see_is_gone_and_one_that_cannot_be_read_is_not() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;

    world.cloud.state.lock().unwrap().discover_fault = Some(forbidden());
    for _ in 0..3 {
        assert_eq!(world.engine.discover_all().await.failed_accounts, 1);
    }
    world.settle().await;
    assert!(world.is_open(id).await);

    {
        let mut state = world.cloud.state.lock().unwrap();
        state.discover_fault = None;
        state.machines.clear();
    }
    assert_eq!(
        world.engine.discover_all().await.gone,
        0,
        "seen only one discovery ago"
    );
    assert_eq!(world.engine.discover_all().await.gone, 1);
    world.settle().await;
    let GrantState::Closed(closed) = world.grant_now(id).await.state else {
        panic!("not closed")
    };
    assert_eq!(closed.cause, EndCause::MachineGone);
    world.assert_sound().await;
}

#[tokio::test]
async fn an_account_that_does_not_tell_its_regions_stops_no_other_and_loses_no_machine() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    let discover = async |unlisted: &str| {
        world.cloud.state.lock().unwrap().unlisted = vec![unlisted.to_owned()];
        let found = world.engine.discover_all().await;
        (found.machines, found.gone, found.failed_accounts)
    };
    assert_eq!(discover("/aws/222233334444").await, (1, 0, 1));
    let itself = format!("/aws/{ACCOUNT}");
    for _ in 0..3 {
        assert_eq!(discover(&itself).await, (0, 0, 1));
    }
    assert_eq!(discover("/aws/222233334444").await, (1, 0, 1));
    world.settle().await;
    assert!(world.is_open(id).await);
    world.assert_sound().await;
}

#[tokio::test]
async fn a_pass_that_dies_after_its_intent_is_settled_by_the_next_owner() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    // The first owner commits its intents and hangs in the cloud call for ever: its future is dropped.
    world.cloud.state.lock().unwrap().observe_faults.clear();
    let asked = tokio::time::Instant::now();
    let lease = world
        .store
        .lease(
            "dead",
            1,
            Duration::from_millis(200),
            Duration::from_millis(50),
            SystemClock.now(),
        )
        .await
        .unwrap()
        .remove(0);
    world
        .cloud
        .state
        .lock()
        .unwrap()
        .apply_faults
        .push_back(Fault::After);
    let dying = World::engine_named(&world.store, &world.cloud, "dead");
    let pass = tokio::spawn(async move { dying.pass(lease, asked).await });
    // Wait until the intent stands, then kill the pass wherever it is.
    for _ in 0..1000 {
        if postern_store::testing::unsettled_changes(&world.store).await > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    pass.abort();
    let _ = pass.await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.settle().await;
    assert!(world.is_open(id).await);
    assert!(world.present().contains(&id));
    world.assert_sound().await;
}

#[tokio::test]
async fn two_replicas_never_write_the_same_point_at_once_and_settle_everything() {
    let world = World::new().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let runs: Vec<_> = ["a", "b"]
        .map(|owner| {
            let engine = World::engine_named(&world.store, &world.cloud, owner);
            tokio::spawn(engine.run(stop.clone()))
        })
        .into();
    let mut ids = Vec::new();
    for number in 0..20u64 {
        ids.push(world.grant(Duration::from_secs(1 + number % 2), LONG).await);
    }
    for _ in 0..200 {
        let mut open = 0;
        for id in &ids {
            open += u32::from(!world.has_closed(*id).await);
        }
        if open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    for run in runs {
        run.await.unwrap();
    }
    for id in ids {
        let GrantState::Closed(closed) = world.grant_now(id).await.state else {
            panic!("{id} is not closed")
        };
        assert_eq!(closed.cause, EndCause::Expired);
    }
    assert!(world.present().is_empty());
    world.assert_sound().await;
}

#[tokio::test]
async fn a_grant_that_ends_while_its_opening_is_planned_is_never_written() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    // Revoked by somebody else right after the pass read what is wanted.
    world.cloud.state.lock().unwrap().revoke_at_next_observe = Some(id);
    world.settle().await;
    assert!(world.has_closed(id).await);
    assert_eq!(
        world.cloud.state.lock().unwrap().applies,
        0,
        "nothing was written for an ended grant"
    );
    world.assert_sound().await;
}

#[tokio::test]
async fn an_opening_without_an_answer_that_may_still_land_keeps_its_grant_from_being_confirmed_as_closed() {
    let world = World::new().await;
    {
        let unavailable = EnforceError::Unavailable {
            operation: "Apply".into(),
            message: "timed out".into(),
        };
        let mut state = world.cloud.state.lock().unwrap();
        state.patience = Duration::from_secs(2);
        state.apply_faults.push_back(Fault::Before(unavailable));
    }
    let id = world.grant(LONG, LONG).await;
    let lease = |limit| {
        world.store.lease(
            "a",
            limit,
            Duration::from_secs(5),
            Duration::ZERO,
            SystemClock.now(),
        )
    };
    let asked = tokio::time::Instant::now();
    for lease in lease(1).await.unwrap() {
        world.engine.pass(lease, asked).await;
    }
    world.revoke(id).await;
    let started = tokio::time::Instant::now();
    for lease in lease(1).await.unwrap() {
        world.engine.pass(lease, asked).await;
    }
    assert!(world.is_closing(id).await, "the call may still land");
    while !world.has_closed(id).await {
        for lease in lease(1).await.unwrap() {
            world.engine.pass(lease, asked).await;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it never closes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.assert_sound().await;
}

#[tokio::test]
async fn a_machine_that_moves_to_a_stricter_policy_loses_what_that_policy_refuses() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    let mut strict = postern_core::testing::a_policy("/aws");
    strict.tags.insert("env".to_owned(), "prod".to_owned());
    strict.guards.retain(|guard| guard.ports.first() == 3389);
    let mut tx = world.store.begin().await.unwrap();
    tx.insert_policy(&strict).await.unwrap();
    tx.commit().await.unwrap();
    world.engine.discover_all().await;
    world.settle().await;
    assert!(world.is_open(id).await, "not tagged yet");

    world.cloud.state.lock().unwrap().machines[0]
        .tags
        .insert("env".to_owned(), "prod".to_owned());
    world.engine.discover_all().await;
    world.settle().await;
    let GrantState::Closed(closed) = world.grant_now(id).await.state else {
        panic!("not closed")
    };
    assert_eq!(closed.cause, EndCause::PolicyRemoved);
    world.assert_sound().await;
}

/// A point that is locked down without a write has nothing in the journal to be known by.
#[tokio::test]
async fn a_group_that_its_last_machine_leaves_is_released_and_looked_at_no_more() {
    let world = World::new().await;
    let due_at = async |point: &PointRef| world.store.point(point).await.unwrap().unwrap().due_at;
    let left = PointRef::security_group(ACCOUNT, REGION, "sg-00000000000000001").unwrap();
    let reported = async || {
        let point = world.store.point(&left).await.unwrap().unwrap().id;
        world.store.report(point).await.unwrap().unwrap()["locked"].clone()
    };
    assert!(due_at(&left).await.is_some(), "its lockdown is looked after");
    assert!(reported().await.is_string());

    {
        let mut state = world.cloud.state.lock().unwrap();
        let Layer::SecurityGroups { groups } = &mut state.machines[0].interfaces[0].layers[0] else {
            panic!("an instance has groups")
        };
        "sg-00000000000000002".clone_into(&mut groups[0].id);
    }
    world.engine.discover_all().await;
    world.settle().await;
    assert_eq!(due_at(&left).await, None);
    assert!(reported().await.is_null());
    let joined = PointRef::security_group(ACCOUNT, REGION, "sg-00000000000000002").unwrap();
    assert!(due_at(&joined).await.is_some());
    world.assert_sound().await;
}
