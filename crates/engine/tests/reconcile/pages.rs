//! Discoveries of several pages, and what a page that fails costs.

use std::time::Duration;

use postern_core::{
    enforcer::EnforceError,
    scope::Scope,
    time::{Clock as _, Instant, SystemClock},
};
use postern_engine::discovery::Discovered;
use postern_store::Urgency;

use crate::{
    cloud::unavailable,
    world::{World, a_machine},
};

/// Three machines on a page each, discovered once.
async fn three_pages() -> World {
    let world = World::new().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.machines = (1..=3).map(a_machine).collect();
        state.page_size = 1;
        state.pages.clear();
    }
    let first = discover(&world).await;
    assert_eq!(
        first,
        (
            vec![0, 1, 2],
            Discovered {
                machines: 3,
                changed: 2,
                ..Discovered::default()
            }
        )
    );
    world.settle().await;
    world
}

/// Discovers once; which pages were asked for, and what was found.
async fn discover(world: &World) -> (Vec<usize>, Discovered) {
    let found = world.engine.discover_all().await;
    (
        std::mem::take(&mut world.cloud.state.lock().unwrap().pages),
        found,
    )
}

fn fails_at(world: &World, page: usize, error: EnforceError) {
    world
        .cloud
        .state
        .lock()
        .unwrap()
        .page_faults
        .push_back((page, error));
}

fn found(machines: usize) -> Discovered {
    Discovered {
        machines,
        ..Discovered::default()
    }
}

fn failed() -> Discovered {
    Discovered {
        failed_accounts: 1,
        ..Discovered::default()
    }
}

#[tokio::test]
async fn a_discovery_that_failed_at_a_page_goes_on_there_and_the_next_changes_nothing() {
    let world = three_pages().await;
    fails_at(&world, 1, unavailable());
    assert_eq!(discover(&world).await, (vec![0, 1], failed()));
    assert_eq!(discover(&world).await, (vec![1, 2], found(2)));
    let before = (
        world.log("").await.len(),
        world.cloud.state.lock().unwrap().observes,
    );
    assert_eq!(discover(&world).await, (vec![0, 1, 2], found(3)));
    world.settle().await;
    let after = (
        world.log("").await.len(),
        world.cloud.state.lock().unwrap().observes,
    );
    assert_eq!(before, after, "nothing was told and no point was looked at");
}

#[tokio::test]
async fn a_page_that_fails_again_does_not_keep_the_pages_before_it_from_being_read() {
    let world = three_pages().await;
    fails_at(&world, 1, unavailable());
    fails_at(&world, 1, unavailable());
    fails_at(&world, 2, unavailable());
    assert_eq!(discover(&world).await, (vec![0, 1], failed()));
    assert_eq!(discover(&world).await, (vec![1], failed()));
    assert_eq!(discover(&world).await, (vec![0, 1, 2], failed()));
    assert_eq!(discover(&world).await, (vec![2], found(1)));
}

#[tokio::test]
async fn a_page_that_the_cloud_does_not_know_any_more_is_found_from_the_first_on() {
    let stale = || EnforceError::Refused {
        operation: "ec2:DescribeInstances".into(),
        code: "InvalidPaginationToken".into(),
        message: "the token has expired".into(),
    };
    let world = three_pages().await;
    fails_at(&world, 1, unavailable());
    assert_eq!(discover(&world).await, (vec![0, 1], failed()));
    fails_at(&world, 1, stale());
    assert_eq!(discover(&world).await, (vec![1, 0, 1, 2], found(3)));
    fails_at(&world, 1, stale());
    assert_eq!(discover(&world).await, (vec![0, 1], failed()));
    assert_eq!(discover(&world).await, (vec![0, 1, 2], found(3)));
}

#[tokio::test]
async fn only_discoveries_of_all_pages_say_that_a_machine_is_gone() {
    let world = three_pages().await;
    let order = |numbers: [u32; 3]| {
        world.cloud.state.lock().unwrap().machines = numbers.map(a_machine).into();
    };
    // The third machine is on a page that was read, each time before it is read, and on one that was not, after.
    for _ in 0..3 {
        fails_at(&world, 1, unavailable());
        assert_eq!(discover(&world).await, (vec![0, 1], failed()));
        order([3, 1, 2]);
        assert_eq!(discover(&world).await, (vec![1, 2], found(2)));
        order([1, 2, 3]);
    }
    assert_eq!(discover(&world).await, (vec![0, 1, 2], found(3)));
    world.cloud.state.lock().unwrap().machines.pop();
    fails_at(&world, 1, unavailable());
    assert_eq!(discover(&world).await, (vec![0, 1], failed()));
    assert_eq!(discover(&world).await, (vec![1], found(1)));
    assert_eq!(
        discover(&world).await,
        (vec![0, 1], found(2)),
        "seen by the last that was whole"
    );
    let last = Discovered { gone: 1, ..found(2) };
    assert_eq!(discover(&world).await, (vec![0, 1], last));
}

fn throttled(retry_after: Option<Duration>) -> EnforceError {
    EnforceError::Throttled {
        operation: "ec2:DescribeInstances".into(),
        retry_after,
    }
}

#[tokio::test]
async fn a_discovery_waits_for_the_budget_of_a_page_and_is_complete_all_the_same() {
    let mut world = three_pages().await;
    world.engine = world.patient_engine(Duration::from_secs(1));
    fails_at(&world, 1, throttled(Some(Duration::from_millis(3))));
    fails_at(&world, 1, throttled(None));
    assert_eq!(discover(&world).await, (vec![0, 1, 1, 1, 2], found(3)));

    // Nobody waits for longer than until the next discovery.
    fails_at(&world, 1, throttled(Some(Duration::from_secs(1))));
    assert_eq!(discover(&world).await, (vec![0, 1], failed()));
    assert_eq!(discover(&world).await, (vec![1, 2], found(2)));
}

#[tokio::test]
async fn accounts_that_wait_for_their_budgets_keep_no_other_from_being_read() {
    let world = World::new().await;
    let engine = world.patient_engine(Duration::from_mins(10));
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.more_accounts = (1..=8).map(|number| format!("{number:012}")).collect();
        for _ in 0..8 {
            state
                .page_faults
                .push_back((0, throttled(Some(Duration::from_mins(5)))));
        }
        state.pages.clear();
    }
    let discovering = tokio::spawn(async move { engine.discover_all().await });
    for _ in 0..2000 {
        if world.cloud.state.lock().unwrap().pages.len() == 9 {
            discovering.abort();
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the ninth account waits with the others");
}

/// An Azure subscription is one page, however many machines it has.
#[tokio::test]
async fn a_long_page_is_saved_in_parts() {
    let world = World::new().await;
    let all = 1 + 500 + 500;
    world.cloud.state.lock().unwrap().machines = (1..=1001).map(a_machine).collect();
    let found = world.engine.discover_all().await;
    // One was known.
    assert_eq!((found.machines, found.changed), (all, all - 1));
    let parts: Vec<usize> = world
        .log("machine.discover")
        .await
        .iter()
        .map(|event| event.details["machines"].as_array().unwrap().len())
        .collect();
    assert_eq!(parts, [1, 499, 500, 1]);
    assert_eq!(world.engine.discover_all().await.changed, 0);
}

/// What the points of a machine that comes now are due for.
async fn urgencies_of_a_new_machine(world: &World) -> Vec<Urgency> {
    world.settle().await;
    world.cloud.state.lock().unwrap().machines.push(a_machine(2));
    assert_eq!(world.engine.discover_all().await.changed, 1);
    let leased = world
        .store
        .lease(
            "b",
            100,
            Duration::from_mins(1),
            Duration::ZERO,
            SystemClock.now(),
        )
        .await
        .unwrap();
    leased.iter().map(|lease| lease.urgency).collect()
}

async fn remove_the_policy(world: &World) {
    let mut tx = world.store.begin().await.unwrap();
    tx.delete_policy(world.policy.id, None).await.unwrap();
    tx.cover(&Scope::root(), None).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn new_points_are_looked_at_where_something_is_wanted() {
    let covered = World::new().await;
    let urgencies = urgencies_of_a_new_machine(&covered).await;
    assert!(!urgencies.is_empty() && urgencies.iter().all(|urgency| *urgency == Urgency::Opening));

    let world = World::new().await;
    remove_the_policy(&world).await;
    assert_eq!(urgencies_of_a_new_machine(&world).await, []);
}

#[tokio::test]
async fn a_machine_that_a_page_names_twice_is_one() {
    let world = World::new().await;
    let mut renamed = a_machine(2);
    renamed.name = "later".into();
    world.cloud.state.lock().unwrap().machines = vec![a_machine(2), a_machine(1), renamed.clone()];
    assert_eq!(world.engine.discover_all().await.changed, 1);
    let stored = world.store.machine(&renamed.id).await.unwrap().unwrap();
    assert_eq!(stored.machine, renamed);
}

/// An enforcer that needs all lists for its first machine keeps what it read, and goes on by itself.
#[tokio::test]
async fn what_is_older_than_the_question_says_of_no_machine_that_it_is_gone_and_hides_nothing_newer() {
    let world = three_pages().await;
    let known_since = |since: Option<Instant>| {
        let mut state = world.cloud.state.lock().unwrap();
        state.page_size = 0;
        state.read_since = since;
    };
    world.cloud.state.lock().unwrap().machines.pop();
    for _ in 0..3 {
        known_since(Some(SystemClock.now()));
        assert_eq!(discover(&world).await.1, found(2));
    }
    known_since(None);
    assert_eq!(
        discover(&world).await.1,
        found(2),
        "seen by the last that was whole"
    );
    // The third machine is there, and then it is another.
    world.cloud.state.lock().unwrap().machines.push(a_machine(3));
    assert_eq!(discover(&world).await.1, found(3));
    let tagged = |tag: &str| {
        let mut state = world.cloud.state.lock().unwrap();
        let tags = &mut state.machines.last_mut().unwrap().tags;
        tags.insert("env".to_owned(), tag.to_owned());
    };
    let before = SystemClock.now();
    tagged("new");
    assert_eq!(
        discover(&world).await.1,
        Discovered {
            changed: 1,
            ..found(3)
        }
    );
    tagged("old");
    known_since(Some(before));
    assert_eq!(discover(&world).await.1, found(3));
    let known = world.store.machine(&a_machine(3).id).await.unwrap().unwrap();
    assert_eq!(known.machine.tags["env"], "new");
}
