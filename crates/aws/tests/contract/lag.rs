//! Describes that lag: what was written does not show for a while.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use postern_core::{
    enforcer::{Bindings, Change, Desired, EnforceError, Enforcer, Recalled},
    inventory::MARK_TAG,
    testing::an_id,
};
use postern_sim::{
    Probe, Protocol, SimClock, SteppedClock, SystemClock,
    ec2::{Ec2Handle, Ec2Options, Ec2Sim},
};
use serde_json::Value;

use crate::stage::{Built, Endpoint, Stage, displaced_by, grant, lock, open, tcp};

const LAG: Duration = Duration::from_secs(5);

/// A simulator whose describes lag, and the clock by which they do.
async fn lagging() -> (Ec2Handle, Endpoint, Arc<SteppedClock>) {
    let clock = Arc::new(SteppedClock::at(SystemClock.now()));
    let options = Ec2Options {
        clock: Arc::<SteppedClock>::clone(&clock),
        describe_lag: LAG,
        ..Ec2Options::default()
    };
    let handle = Ec2Sim::start(options).await.unwrap();
    let endpoint = crate::endpoint_of(&handle);
    (handle, endpoint, clock)
}

fn wait(clock: &SteppedClock) {
    clock.advance(TimeDelta::from_std(LAG).unwrap());
}

fn is_open(handle: &Ec2Handle, built: &Built) -> bool {
    let probe = Probe {
        machine: postern_core::machine::MachineId::Aws(built.machine.clone()).to_string(),
        source: "203.0.113.7".parse().unwrap(),
        port: 22,
        protocol: Protocol::Tcp,
    };
    handle.reachable(&probe, None)
}

/// Looks without writing anything: whether that settles it, and how many changes are planned.
async fn look(stage: &Stage, wanted: &Desired) -> (bool, usize) {
    let read = stage.observe(wanted).await;
    (read.settled(), read.plan(wanted).changes.len())
}

#[tokio::test]
async fn what_does_not_show_yet_is_neither_written_again_nor_confirmed() {
    let (handle, endpoint, clock) = lagging().await;
    let stage = Stage::new(&endpoint, |_| {}).await;
    let built = stage.build(Vec::new()).await;
    wait(&clock);
    let wanted = open(&built, vec![grant(1, "22")]);
    stage.pass(&wanted, usize::MAX).await;
    assert!(is_open(&handle, &built));
    let read = stage.observe(&wanted).await;
    assert_eq!((read.settled(), read.plan(&wanted).changes), (false, vec![]));
    assert!(!read.evidence(&wanted)[&an_id(1)].complete);
    wait(&clock);
    let read = stage.observe(&wanted).await;
    assert_eq!((read.settled(), read.plan(&wanted).changes), (true, vec![]));
    assert!(read.evidence(&wanted)[&an_id(1)].complete);

    let closed = open(&built, Vec::new());
    stage.pass(&closed, usize::MAX).await;
    assert!(!is_open(&handle, &built));
    let read = stage.observe(&closed).await;
    assert_eq!((read.settled(), read.plan(&closed).changes), (false, vec![]));
    assert!(read.evidence(&closed).contains_key(&an_id(1)));
    wait(&clock);
    let read = stage.observe(&closed).await;
    assert_eq!((read.settled(), read.plan(&closed).changes), (true, vec![]));
    assert!(read.evidence(&closed).is_empty());
    assert_eq!(stage.groups_of(&built.interface).await, [built.group]);
}

#[tokio::test]
async fn a_grant_that_is_revoked_before_it_shows_is_closed_at_once() {
    let (handle, endpoint, clock) = lagging().await;
    let stage = Stage::new(&endpoint, |_| {}).await;
    let built = stage.build(Vec::new()).await;
    wait(&clock);
    stage.pass(&open(&built, vec![grant(1, "22")]), usize::MAX).await;
    assert!(is_open(&handle, &built));
    let closed = open(&built, Vec::new());
    stage.pass(&closed, usize::MAX).await;
    assert!(!is_open(&handle, &built));
    assert_eq!(look(&stage, &closed).await, (true, 0));
    // A reading from between the two shows the holder once more.
    clock.advance(TimeDelta::seconds(1));
    stage.pass(&open(&built, vec![grant(2, "22")]), usize::MAX).await;
    clock.advance(TimeDelta::seconds(3));
    stage.pass(&closed, usize::MAX).await;
    clock.advance(TimeDelta::seconds(3));
    assert_eq!(look(&stage, &closed).await, (false, 0));
    wait(&clock);
    assert_eq!(look(&stage, &closed).await, (true, 0));
    assert_eq!(stage.groups_of(&built.interface).await, [built.group]);
}

/// How many groups of ours there really are, whatever describes show.
fn holders(handle: &Ec2Handle, built: &Built) -> usize {
    let (account, region) = (built.machine.account(), built.machine.region());
    let groups = handle.fleet(account, region).snapshot().unwrap().groups;
    let is_marked = |tags: &std::collections::BTreeMap<String, String>| tags.contains_key(MARK_TAG);
    groups.iter().filter(|group| is_marked(&group.tags)).count()
}

#[tokio::test]
async fn a_process_that_does_not_see_what_another_wrote_makes_no_second_holder_and_the_other_closes_it_all() {
    for stop in 1..4 {
        let (handle, endpoint, clock) = lagging().await;
        let stage = Stage::new(&endpoint, |_| {}).await;
        let built = stage.build(Vec::new()).await;
        wait(&clock);
        let wanted = open(&built, vec![grant(1, "22")]);
        stage.pass(&wanted, stop).await;
        let other = Stage::new(&endpoint, |_| {}).await;
        let plan = other.observe(&wanted).await.plan(&wanted);
        let first = plan.changes.first().unwrap();
        let refused = other
            .enforcer
            .apply(&wanted.point, first, &mut Bindings::new())
            .await;
        // To look again, not to give up: that is what the loop does on a conflict, and on no other refusal.
        assert!(
            matches!(refused, Err(EnforceError::Conflict { .. })),
            "{stop}: {refused:?}"
        );
        assert_eq!(holders(&handle, &built), 1, "{stop}");
        assert!(
            !other
                .observe(&wanted)
                .await
                .evidence(&wanted)
                .contains_key(&an_id(1))
        );
        wait(&clock);
        other.pass(&wanted, usize::MAX).await;
        assert!(is_open(&handle, &built), "{stop}");
        assert_eq!(holders(&handle, &built), 1, "{stop}");
        wait(&clock);
        assert!(other.observe(&wanted).await.evidence(&wanted)[&an_id(1)].complete);

        // The first process closes what it half remembers and the other completed.
        let closed = open(&built, Vec::new());
        stage.pass(&closed, usize::MAX).await;
        assert!(!is_open(&handle, &built), "{stop}");
        wait(&clock);
        stage.pass(&closed, usize::MAX).await;
        assert_eq!(holders(&handle, &built), 0, "{stop}");
        wait(&clock);
        assert_eq!(look(&stage, &closed).await, (true, 0));
        assert_eq!(look(&other, &closed).await, (true, 0));
        assert_eq!(stage.groups_of(&built.interface).await, [built.group]);
    }
}

/// What the journal would tell of the changes that a process made.
fn recalled(done: Vec<(Change, Value)>) -> Vec<Recalled> {
    done.into_iter()
        .zip(10_000..)
        .map(|((change, answer), age)| Recalled {
            before: change.before,
            operation: change.operation,
            answer,
            // Their order is the order of the list, also where a later one seems to be older.
            age: Duration::from_micros(age),
        })
        .collect()
}

/// As [`Stage::pass`], and what was done.
async fn told_pass(stage: &Stage, desired: &Desired) -> Vec<Recalled> {
    let plan = stage.observe(desired).await.plan(desired);
    let (mut bindings, mut done) = (Bindings::new(), Vec::new());
    for change in plan.changes {
        let answer = stage.enforcer.apply(&desired.point, &change, &mut bindings).await;
        done.push((change, answer.unwrap()));
    }
    recalled(done)
}

#[tokio::test]
async fn a_process_that_is_told_of_anothers_writes_takes_a_reading_from_before_them_for_old() {
    let (handle, endpoint, clock) = lagging().await;
    let stage = Stage::new(&endpoint, |_| {}).await;
    let built = stage.build(Vec::new()).await;
    wait(&clock);
    let wanted = open(&built, vec![grant(1, "22")]);
    let mut written = told_pass(&stage, &wanted).await;
    assert_eq!(written.len(), 4, "{written:?}");

    // Nothing of it shows: it is neither done again nor taken for closed.
    let other = Stage::new(&endpoint, |_| {}).await;
    other.enforcer.recall(&wanted.point, &written);
    assert_eq!(look(&other, &wanted).await, (false, 0));
    let closed = open(&built, Vec::new());
    let read = other.observe(&closed).await;
    assert!(!read.settled() && read.evidence(&closed).contains_key(&an_id(1)));
    // Told once more, it is known.
    other.enforcer.recall(&wanted.point, &written);
    let takings = told_pass(&other, &closed).await;
    assert!(!is_open(&handle, &built));
    written.extend(takings);
    other.enforcer.recall(&wanted.point, &written);
    assert_eq!(look(&other, &closed).await, (true, 0));

    // The first process learns of what the second did.
    clock.advance(TimeDelta::seconds(1));
    stage.enforcer.recall(&wanted.point, &written);
    assert_eq!(look(&stage, &closed).await.1, 0);
    wait(&clock);
    assert_eq!(look(&stage, &closed).await, (true, 0));
    assert_eq!(stage.groups_of(&built.interface).await, [built.group]);
}

#[tokio::test]
async fn what_a_reading_showed_once_and_shows_no_more_is_somebodys_doing_though_the_journal_tells_of_it() {
    let (_handle, endpoint, clock) = lagging().await;
    let stage = Stage::new(&endpoint, |_| {}).await;
    let built = stage.build(Vec::new()).await;
    wait(&clock);
    let wanted = open(&built, vec![grant(1, "22")]);
    let written = told_pass(&stage, &wanted).await;
    let other = Stage::new(&endpoint, |_| {}).await;
    wait(&clock);
    for process in [&stage, &other] {
        process.enforcer.recall(&wanted.point, &written);
        assert_eq!(look(process, &wanted).await, (true, 0));
    }
    let detach = stage
        .admin
        .modify_network_interface_attribute()
        .network_interface_id(&built.interface)
        .groups(&built.group);
    detach.send().await.unwrap();
    wait(&clock);
    for process in [&stage, &other] {
        process.enforcer.recall(&wanted.point, &written);
        let (settled, changes) = look(process, &wanted).await;
        assert!(settled && changes > 0, "{settled} {changes}");
    }
}

#[tokio::test]
async fn a_lockdown_that_another_process_lifts_before_it_shows_loses_no_rule() {
    let (_handle, endpoint, clock) = lagging().await;
    let stage = Stage::new(&endpoint, |_| {}).await;
    let built = stage.build(vec![tcp(22, 22, "198.51.100.0/24", "office")]).await;
    wait(&clock);
    let before = stage.rules_of(&built.group, false).await;
    let locked = lock(&built, &["22"], Vec::new());
    let displaced = displaced_by(&stage.observe(&locked).await.plan(&locked));
    let written = told_pass(&stage, &locked).await;
    let other = Stage::new(&endpoint, |_| {}).await;
    other.enforcer.recall(&locked.point, &written);
    let freed = lock(&built, &[], displaced);
    let read = other.observe(&freed).await;
    assert!(!read.settled() && read.plan(&freed).settled.is_empty());
    told_pass(&other, &freed).await;
    wait(&clock);
    assert_eq!(stage.rules_of(&built.group, false).await, before);
}

#[tokio::test]
async fn a_lockdown_that_is_lifted_before_it_shows_loses_no_rule() {
    for another_process in [false, true] {
        let (_handle, endpoint, clock) = lagging().await;
        let mut stage = Stage::new(&endpoint, |_| {}).await;
        let built = stage
            .build(vec![
                tcp(20, 25, "0.0.0.0/0", "ssh and more"),
                tcp(22, 22, "198.51.100.0/24", "office"),
            ])
            .await;
        wait(&clock);
        let before = stage.rules_of(&built.group, false).await;
        let locked = lock(&built, &["22"], Vec::new());
        let displaced = displaced_by(&stage.pass(&locked, usize::MAX).await);
        assert_eq!(displaced.len(), 2);
        let locked = lock(&built, &["22"], displaced.clone());
        assert_eq!(look(&stage, &locked).await, (false, 0));

        if another_process {
            stage = Stage::new(&endpoint, |_| {}).await;
        }
        let freed = lock(&built, &[], displaced.clone());
        let plan = stage.pass(&freed, usize::MAX).await;
        assert_eq!(plan.settled, [], "{another_process}");
        let plan = stage.observe(&freed).await.plan(&freed);
        assert_eq!(
            (plan.changes, plan.settled.len()),
            (vec![], 2),
            "{another_process}"
        );
        wait(&clock);
        assert_eq!(
            stage.rules_of(&built.group, false).await,
            before,
            "{another_process}"
        );
    }
}
