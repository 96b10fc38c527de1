//! Calls that take effect after nobody waits for them any more.

use std::{collections::BTreeSet, time::Duration};

use postern_core::{audit::Outcome, enforcer::EnforceError};

use super::{LONG, cloud::Fault, world::World};

/// How long these calls may still be under way. Long beside a pass, so that what is asserted between two passes does
/// not depend on how fast they are.
const PATIENCE: Duration = Duration::from_secs(4);

impl World {
    async fn patient() -> Self {
        let world = Self::new().await;
        world.cloud.state.lock().unwrap().patience = PATIENCE;
        world
    }

    fn next_call_meets(&self, fault: Fault) {
        self.cloud.state.lock().unwrap().apply_faults.push_back(fault);
    }

    /// The outcomes of changes that the log tells, in their order, without what was intended.
    async fn outcomes(&self) -> Vec<Outcome> {
        let told = self
            .log("change.apply")
            .await
            .into_iter()
            .map(|event| event.outcome);
        told.filter(|outcome| *outcome != Outcome::Intended).collect()
    }

    /// Passes until `done`.
    async fn passes_until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let started = tokio::time::Instant::now();
        while !done().await {
            assert!(started.elapsed() < PATIENCE * 10, "never: {what}");
            self.one_pass().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Passes until every change has an outcome.
    async fn passes_until_settled(&self) {
        let settled = async || postern_store::testing::unsettled_changes(&self.store).await == 0;
        self.passes_until("settled", settled).await;
    }
}

fn refused() -> EnforceError {
    EnforceError::Refused {
        operation: "Apply".into(),
        code: "No".into(),
        message: "no".into(),
    }
}

#[tokio::test]
async fn a_closing_without_an_answer_has_not_failed_while_it_may_still_take_effect() {
    let world = World::patient().await;
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.revoke(id).await;
    world.next_call_meets(Fault::Late);
    // Nor is it tried again with success, so that what is seen later is the first call's doing.
    for _ in 0..200 {
        world.next_call_meets(Fault::Before(refused()));
    }
    world.one_pass().await;
    assert_eq!(world.outcomes().await, [Outcome::Succeeded], "the opening");
    assert!(world.present().contains(&id), "not yet");

    assert_eq!(world.cloud.state.lock().unwrap().land(), 1);
    world.look_again().await;
    world
        .passes_until("closed", async || world.has_closed(id).await)
        .await;
    world.cloud.state.lock().unwrap().apply_faults.clear();
    world.passes_until_settled().await;
    let told = world.outcomes().await;
    let succeeded = told
        .iter()
        .filter(|outcome| **outcome == Outcome::Succeeded)
        .count();
    assert_eq!(succeeded, 2, "the opening and the late closing: {told:?}");
    world.assert_sound().await;
}

#[tokio::test]
async fn a_closing_that_can_no_longer_take_effect_has_failed() {
    let world = World::patient().await;
    world.cloud.state.lock().unwrap().patience = Duration::from_millis(100);
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.revoke(id).await;
    world.next_call_meets(Fault::Late);
    for _ in 0..10_000 {
        world.next_call_meets(Fault::Before(refused()));
    }
    let lost = async || {
        let told = world.log("change.apply").await;
        told.iter().any(|event| {
            event.outcome == Outcome::Failed
                && event.details["note"]
                    .as_str()
                    .is_some_and(|note| note.contains("judged by what was read"))
        })
    };
    world.passes_until("said to have failed", lost).await;
    assert!(world.present().contains(&id));
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.apply_faults.clear();
        state.late.clear();
    }
    world
        .passes_until("closed", async || world.has_closed(id).await)
        .await;
    world.assert_sound().await;
}

#[tokio::test]
async fn an_opening_that_lands_after_its_second_try_was_closed_again_is_found_and_closed() {
    let world = World::patient().await;
    world.next_call_meets(Fault::Late);
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    assert!(world.is_open(id).await, "the second try is in effect");
    world.revoke(id).await;
    world.settle().await;
    assert_eq!(world.present(), BTreeSet::new(), "what was opened is shut");
    assert!(world.is_closing(id).await, "the first try may still take effect");

    assert_eq!(world.cloud.state.lock().unwrap().land(), 1);
    assert!(world.present().contains(&id), "and does");
    // Nobody asks for a look: the doubt itself does, when it ends.
    world
        .passes_until("closed", async || world.has_closed(id).await)
        .await;
    assert_eq!(world.present(), BTreeSet::new());
    world.assert_sound().await;
}

#[tokio::test]
async fn an_opening_without_an_answer_that_is_in_effect_at_once_has_succeeded() {
    let world = World::patient().await;
    world.next_call_meets(Fault::After);
    let id = world.grant(LONG, LONG).await;
    world.one_pass().await;
    assert_eq!(world.outcomes().await, [Outcome::Succeeded]);
    world.revoke(id).await;
    world.one_pass().await;
    assert!(world.has_closed(id).await, "without waiting for what cannot come");
    world.assert_sound().await;
}

#[tokio::test]
async fn a_restore_that_was_never_made_has_not_succeeded_though_nobody_wants_it_any_more() {
    let world = World::patient().await;
    world.cloud.state.lock().unwrap().patience = Duration::from_millis(100);
    world.cloud.state.lock().unwrap().to_put_back = true;
    world.next_call_meets(Fault::Late);
    world.look_again().await;
    world.one_pass().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        assert_eq!(state.late.len(), 1, "called, without an answer");
        state.late.clear();
        state.to_put_back = false;
    }
    world.look_again().await;
    world.passes_until_settled().await;
    assert_eq!(
        world.outcomes().await,
        [Outcome::Unknown],
        "it might have been undone"
    );
    assert_eq!(
        world.cloud.state.lock().unwrap().recalled,
        [],
        "nor is it told of as made"
    );
}

#[tokio::test]
async fn a_closing_that_a_reading_does_not_show_has_not_succeeded_though_its_grant_is_closed() {
    let world = World::patient().await;
    world.cloud.state.lock().unwrap().patience = Duration::from_millis(100);
    let id = world.grant(LONG, LONG).await;
    world.settle().await;
    world.revoke(id).await;
    world.next_call_meets(Fault::Late);
    world.one_pass().await;
    // The grant is closed, and a reading says that this write is not what closed it.
    {
        let mut state = world.cloud.state.lock().unwrap();
        assert_eq!(state.land(), 1);
        state.shows = Some(false);
    }
    world.look_again().await;
    world.passes_until_settled().await;
    let told = world.outcomes().await;
    assert_eq!(
        told,
        [Outcome::Succeeded, Outcome::Unknown],
        "the opening, and the closing"
    );
    world.assert_sound().await;
}
