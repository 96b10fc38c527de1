//! What nobody looks at, what somebody else changed, and what the loop does while it cannot do anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_core::{
    audit::Outcome,
    enforcer::{EnforceError, Finding},
    grant::{EndCause, GrantState},
    id::GrantId,
    inventory::{Layer, MARK_TAG},
    mark::{Mark, Purpose},
    point::PointRef,
    sg::SecurityGroup,
    testing::an_id,
    time::{Clock, Instant, SystemClock},
};
use postern_engine::EngineConfig;
use postern_store::Urgency;
use tokio_util::sync::CancellationToken;

use super::{
    LONG, SHORT,
    world::{World, a_finding, a_group_that_stays},
};

/// The machine's clock, which counts how often it is asked.
#[derive(Debug, Clone, Default)]
struct CountingClock(Arc<AtomicUsize>);

impl Clock for CountingClock {
    fn now(&self) -> Instant {
        self.0.fetch_add(1, Ordering::Relaxed);
        SystemClock.now()
    }
}

fn config() -> EngineConfig {
    let mut config = EngineConfig::new("test".parse().unwrap(), "a");
    config.poll = Duration::from_millis(20);
    config.overdue_after = Duration::from_millis(100);
    config
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within ten seconds: {what}");
}

/// A rule of ours for `grant`, as discovery sees it: in a temporary group at the machine's interface.
fn left_over_group(grant: GrantId) -> SecurityGroup {
    let mark = |purpose| Mark {
        installation: "test".parse().unwrap(),
        purpose,
    };
    SecurityGroup {
        id: "sg-0000000000000aaaa".into(),
        name: "postern-test-i-00000000000000001".into(),
        vpc: "vpc-00000000000000001".into(),
        ingress: vec![],
        egress: vec![],
        tags: [
            (MARK_TAG.to_owned(), mark(Purpose::Holder).to_string()),
            (
                "grant".to_owned(),
                mark(Purpose::Grant {
                    grant,
                    end: SystemClock.now(),
                })
                .to_string(),
            ),
        ]
        .into(),
    }
}

/// A rule for a grant that the database does not know stands at the point, and discovery can see it.
pub(crate) fn leave_a_rule(world: &World, grant: GrantId) {
    let mut state = world.cloud.state.lock().unwrap();
    state
        .present
        .entry(world.point.clone())
        .or_default()
        .insert(grant);
    let Layer::SecurityGroups { groups } = &mut state.machines[0].interfaces[0].layers[0] else {
        panic!("an EC2 machine")
    };
    groups.push(left_over_group(grant));
}

#[tokio::test]
async fn a_cloud_that_asks_for_a_day_does_not_get_it() {
    let world = World::new().await;
    world
        .cloud
        .state
        .lock()
        .unwrap()
        .observe_faults
        .push_back(EnforceError::Throttled {
            operation: "Observe".into(),
            retry_after: Some(Duration::from_hours(24)),
        });
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    assert!(world.is_open(id).await);
    world.assert_sound().await;
}

#[tokio::test]
async fn with_every_worker_busy_what_is_due_waits_without_being_asked_about_all_the_time() {
    let world = World::new().await;
    let clock = CountingClock::default();
    let mut config = config();
    config.workers = 1;
    config.poll = Duration::from_millis(100);
    let engine = World::engine_with(
        &world.store,
        [world.cloud.clone()],
        Arc::new(clock.clone()),
        config,
    );
    world.cloud.state.lock().unwrap().stuck = true;
    let id = world.grant(LONG, LONG).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    until("the only worker is at it", async || {
        world
            .store
            .point(&world.point)
            .await
            .unwrap()
            .is_some_and(|_| clock.0.load(Ordering::Relaxed) > 3)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.look_again().await;
    let before = clock.0.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = clock.0.load(Ordering::Relaxed) - before;
    assert!(asked < 150, "asked {asked} times in a second for ten polls");
    world.cloud.state.lock().unwrap().stuck = false;
    until("it opens", async || world.is_open(id).await).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn grants_in_a_cloud_that_nobody_has_an_enforcer_for_end_and_say_why_they_are_not_closed() {
    let world = World::new().await;
    let open = world.grant(SHORT, LONG).await;
    world.settle().await;
    let opening = world.grant(LONG, Duration::from_millis(300)).await;
    let engine = World::engine_with(&world.store, [], Arc::new(SystemClock), config());
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    until("both ended", async || {
        let ended = async |id| world.is_closing(id).await;
        ended(open).await && ended(opening).await
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let cause = async |id| match world.grant_now(id).await.state {
        GrantState::Closing(closing) => closing.cause,
        other => panic!("{other:?}"),
    };
    assert_eq!(cause(open).await, EndCause::Expired);
    assert!(matches!(cause(opening).await, EndCause::OpenFailed { .. }));
    for id in [open, opening] {
        let hops = world.store.hops_of(&[id]).await.unwrap();
        let obstacle = hops[&id][0].obstacle.clone().unwrap();
        assert!(obstacle.contains("no server has looked"), "{obstacle}");
        let told = world.log("grant.overdue").await;
        assert!(told.iter().any(|event| event.subject.grant == Some(id)));
    }
    assert!(
        world.present().contains(&open),
        "its rule stands, and nobody says otherwise"
    );

    world.settle().await;
    assert!(world.has_closed(open).await);
    assert!(world.present().is_empty());
    world.assert_sound().await;
}

#[tokio::test]
async fn a_replica_leaves_the_points_of_other_clouds_to_those_who_can() {
    let world = World::new().await;
    let engine = World::engine_with(&world.store, [], Arc::new(SystemClock), config());
    let stop = CancellationToken::new();
    let running = tokio::spawn(engine.run(stop.clone()));
    let id = world.grant(LONG, LONG).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let point = world.store.point(&world.point).await.unwrap().unwrap();
    assert_eq!((point.attempts, point.last_error), (0, None), "nobody tried");
    world.settle().await;
    assert!(world.is_open(id).await);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_rule_that_the_database_does_not_know_is_found_by_discovery_and_closed() {
    let world = World::new().await;
    let unknown: GrantId = an_id(4711);
    leave_a_rule(&world, unknown);
    let point = world.store.point(&world.point).await.unwrap().unwrap();
    assert_eq!(point.due_at, None, "nothing is wanted there");
    world.engine.discover_all().await;
    world.settle().await;
    assert!(world.present().is_empty());
    let told = world.log("point.stray_rules").await;
    assert!(told[0].details.to_string().contains(&world.point.to_string()));
    let closed = world.log("change.apply").await;
    assert!(
        closed
            .iter()
            .any(|event| event.outcome == Outcome::Succeeded && event.subject.grant == Some(unknown)),
        "the log names what was closed"
    );
    world.assert_sound().await;
}

#[tokio::test]
async fn a_rule_where_no_machine_is_known_is_found_by_discovery_and_closed() {
    let world = World::new().await;
    let left = PointRef::security_group("123456789012", "eu-central-1", "sg-0123456789abcdef0").unwrap();
    assert!(world.store.point(&left).await.unwrap().is_none());
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.machines.clear();
        state.present.insert(left.clone(), [an_id(4711)].into());
        let others = "others".parse().unwrap();
        state.marked = [
            (left.clone(), [config().installation].into()),
            (world.point.clone(), [others].into()),
        ]
        .into();
    }
    world.engine.discover_all().await;
    world.settle().await;
    assert!(world.cloud.state.lock().unwrap().present[&left].is_empty());
    let told = world.log("point.stray_rules").await;
    assert_eq!(told[0].details["points"], serde_json::json!([left]));

    // The mark is told of for a while after it is gone: then that is no news.
    for (lag, told) in [(LONG, 1), (Duration::ZERO, 2)] {
        world.cloud.state.lock().unwrap().lag = lag;
        world.engine.discover_all().await;
        world.settle().await;
        assert_eq!(world.log("point.stray_rules").await.len(), told, "{lag:?}");
    }
    world.assert_sound().await;
}

#[tokio::test]
async fn what_has_to_stay_where_nothing_is_wanted_is_told_once_and_looked_at_again() {
    let world = World::new().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.marked = [(world.point.clone(), [config().installation].into())].into();
        state.findings = vec![a_group_that_stays()];
    }
    let mut config = config();
    config.drift_interval = Duration::from_hours(24);
    let clock = Arc::new(SystemClock);
    let engine = World::engine_with(&world.store, [world.cloud.clone()], clock, config.clone());
    let due = async || world.store.point(&world.point).await.unwrap().unwrap().due_at;
    for _ in 0..3 {
        engine.discover_all().await;
        let leases = world.store.lease("a", 1, LONG, Duration::ZERO, SystemClock.now());
        for lease in leases.await.unwrap() {
            engine.pass(lease, tokio::time::Instant::now()).await;
        }
        let (due, now) = (due().await.unwrap(), SystemClock.now());
        let interval = config.discovery_interval;
        assert!(due > now + interval / 2, "not at once: {due}");
        // Discovery leaves to the next look what somebody puts there until then.
        assert!(due <= now + interval, "no later than discovery would: {due}");
        world.look_again().await;
    }
    assert_eq!(world.log("point.stray_rules").await.len(), 1);
    assert_eq!(world.log("point.finding").await.len(), 1);
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.marked.clear();
        state.findings.clear();
    }
    world.look_again().await;
    world.settle().await;
    assert_eq!(world.log("point.resolved").await.len(), 1);
    assert_eq!(due().await, None, "and not again");
    world.assert_sound().await;
}

#[tokio::test]
async fn a_point_that_was_gone_and_comes_back_with_a_rule_of_ours_is_closed() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.cloud.state.lock().unwrap().gone.insert(world.point.clone());
    world.look_again().await;
    world.settle().await;
    assert!(world.has_closed(id).await);
    world.cloud.state.lock().unwrap().gone.clear();
    leave_a_rule(&world, id);
    world.engine.discover_all().await;
    world.settle().await;
    assert!(world.present().is_empty(), "it came back with its rule");
    world.assert_sound().await;
}

#[tokio::test]
async fn what_somebody_did_to_a_rule_of_ours_is_told_although_it_is_put_right_at_once() {
    let world = World::new().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    let edited = Finding {
        before: Some(serde_json::json!({ "rule": id })),
        grants: vec![id],
        ..a_finding("own_rule_missing", "somebody deleted it")
    };
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.present.clear();
        state.findings = vec![edited];
    }
    world.look_again().await;
    world.settle().await;
    assert!(world.present().contains(&id), "put right");
    let told = world.log("point.finding").await;
    assert_eq!(told.len(), 1, "once: {told:?}");
    assert_eq!(told[0].subject.grant, Some(id));
    world.assert_sound().await;
}

#[tokio::test]
async fn what_others_keep_doing_is_told_once_and_again_when_it_is_new() {
    let world = World::new().await;
    let _open = world.grant(LONG, LONG).await;
    world.settle().await;
    let foreign = |name: &str| a_finding("foreign_rule_opens", name);
    for findings in [vec!["a"], vec!["a"], vec!["a", "b"], vec![], vec!["a"]] {
        world.cloud.state.lock().unwrap().findings = findings.into_iter().map(foreign).collect();
        world.look_again().await;
        world.settle().await;
    }
    let told: Vec<_> = world
        .log("point.finding")
        .await
        .into_iter()
        .map(|event| event.details["message"].clone())
        .collect();
    assert_eq!(told, ["a", "b", "a"], "the last after it was away");
}

#[tokio::test]
async fn a_grant_that_the_database_has_as_open_and_the_cloud_does_not_is_looked_at_and_put_right() {
    let world = World::new().await;
    let over = world.grant(SHORT, LONG).await;
    let lasting = world.grant(LONG, LONG).await;
    world.settle().await;
    // The backup is of this moment; the cloud lost both since, and more stands there than the backup knows.
    let unknown: GrantId = an_id(4712);
    world.cloud.state.lock().unwrap().present = [(world.point.clone(), [unknown].into())].into();
    tokio::time::sleep(SHORT).await;
    let point = world.store.point(&world.point).await.unwrap().unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.mark_due(&[point.id], SystemClock.now(), Urgency::Look)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world.settle().await;
    assert!(world.has_closed(over).await);
    assert!(world.is_open(lasting).await);
    assert_eq!(world.present(), [lasting].into());
    let changed = world.log("change.apply").await;
    assert!(changed.iter().any(|event| event.subject.grant == Some(unknown)));
    world.assert_sound().await;
}

#[tokio::test]
async fn a_role_assignment_that_ended_is_removed_and_told_once_and_the_others_stay() {
    let world = World::new().await;
    let assignment = |number, ends_at| postern_core::role::RoleAssignment {
        id: an_id(number),
        role: "reader".into(),
        principal: format!("user:corp/person-{number}").parse().unwrap(),
        scope: "/aws".parse().unwrap(),
        created_by: "user:corp/root".into(),
        created_at: SystemClock.now(),
        tags: std::collections::BTreeMap::new(),
        ends_at,
    };
    let now = SystemClock.now();
    let mut tx = world.store.begin().await.unwrap();
    for (number, ends_at) in [
        (1, Some(now - chrono::TimeDelta::seconds(1))),
        (2, Some(now + chrono::TimeDelta::hours(1))),
        (3, None),
    ] {
        tx.insert_assignment(&assignment(number, ends_at)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let stop = CancellationToken::new();
    let engine = World::engine_with(
        &world.store,
        [world.cloud.clone()],
        Arc::new(SystemClock),
        config(),
    );
    let running = tokio::spawn(engine.run(stop.clone()));
    until("it is removed", async || {
        world.store.authz().await.unwrap().assignments.len() == 2
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    let told = world.log("role_assignment.lapse").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].details["before"]["principal"], "user:corp/person-1");
    assert_eq!(told[0].decision.as_ref().unwrap()["rule"], "its end has come");
}
