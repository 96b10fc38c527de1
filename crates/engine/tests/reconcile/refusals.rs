//! What a cloud refuses to have put back.

use std::collections::BTreeMap;

use postern_core::{
    audit::{AuditEvent, Outcome},
    enforcer::EnforceError,
    time::{Clock as _, SystemClock},
};

use super::{forbidden, world::World};

fn source_is_gone() -> EnforceError {
    EnforceError::Conflict {
        resource: "sg-1".into(),
        code: "InvalidGroup.NotFound".into(),
    }
}

impl World {
    /// Looks several times at what is to be put back, while the cloud does this about it.
    async fn looks_while(&self, refusal: Option<EnforceError>) {
        self.cloud.state.lock().unwrap().put_back_refused = refusal;
        for _ in 0..6 {
            self.look_again().await;
            self.one_pass().await;
        }
    }

    async fn told(&self) -> Vec<Outcome> {
        let told = self.log("change.apply").await;
        told.into_iter().map(|event| event.outcome).collect()
    }

    async fn found(&self) -> Vec<AuditEvent> {
        let mut found = self.log("point.").await;
        found.retain(|event| event.details["code"] == "restore_refused");
        found
    }
}

#[tokio::test]
async fn what_is_refused_to_be_put_back_is_told_when_it_begins_changes_and_ends() {
    let world = World::new().await;
    world.cloud.state.lock().unwrap().to_put_back = true;
    world.looks_while(Some(source_is_gone())).await;
    assert!(world.cloud.state.lock().unwrap().applies > 5, "it is tried again");
    assert_eq!(world.told().await, [Outcome::Intended, Outcome::Failed]);
    let found = world.found().await;
    assert_eq!(found.len(), 1, "{found:?}");
    let message = found[0].details["message"].as_str().unwrap();
    assert!(message.contains("InvalidGroup.NotFound") && message.contains("put a rule back"));

    world.looks_while(Some(forbidden())).await;
    assert_eq!(
        world.told().await[2..],
        [Outcome::Intended, Outcome::Failed],
        "for another reason"
    );
    let found = world.found().await;
    assert_eq!(
        found.len(),
        3,
        "the new finding, and the end of the other: {found:?}"
    );

    world.looks_while(None).await;
    assert_eq!(world.told().await[4..], [Outcome::Intended, Outcome::Succeeded]);
    assert_eq!(world.found().await.len(), 4, "it is resolved");
    // The intent is told when its outcome is, and of its own time.
    let told = world.log("change.apply").await;
    let [.., intended, succeeded] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(intended.at < succeeded.at, "{told:?}");
    assert_eq!(intended.subject.change, succeeded.subject.change);
    world.assert_sound().await;
}

#[tokio::test]
async fn what_is_in_use_for_a_moment_is_tried_again_without_a_finding() {
    let world = World::new().await;
    world.cloud.state.lock().unwrap().to_put_back = true;
    let in_use = EnforceError::Conflict {
        resource: "sg-1".into(),
        code: "DependencyViolation".into(),
    };
    world.looks_while(Some(in_use)).await;
    assert!(world.cloud.state.lock().unwrap().applies > 5, "it is tried again");
    assert_eq!(world.told().await, [Outcome::Intended, Outcome::Failed]);
    world.looks_while(None).await;
    assert_eq!(world.told().await[2..], [Outcome::Intended, Outcome::Succeeded]);
    assert_eq!(world.found().await, []);
    world.assert_sound().await;
}

#[tokio::test]
async fn of_several_groups_one_that_stays_keeps_no_other_from_being_deleted() {
    let world = World::new().await;
    let in_use = EnforceError::Conflict {
        resource: "sg-1".into(),
        code: "DependencyViolation".into(),
    };
    let not_allowed = EnforceError::Forbidden {
        operation: "DeleteSecurityGroup".into(),
        code: "UnauthorizedOperation".into(),
        message: "not this one".into(),
    };
    let groups = [
        ("sg-1", Some(in_use)),
        ("sg-2", None),
        ("sg-3", Some(not_allowed)),
        ("sg-4", None),
    ];
    world.cloud.state.lock().unwrap().to_delete =
        groups.map(|(group, refusal)| (group.to_owned(), refusal)).into();
    world.looks_while(None).await;
    let left: Vec<String> = world
        .cloud
        .state
        .lock()
        .unwrap()
        .to_delete
        .keys()
        .cloned()
        .collect();
    assert_eq!(left, ["sg-1", "sg-3"]);
    let found = world.found().await;
    let [found] = &found[..] else { panic!("{found:?}") };
    let message = found.details["message"].as_str().unwrap();
    assert!(message.contains("delete group sg-3"), "{message}");
    world.assert_sound().await;
}

#[tokio::test]
async fn what_waits_for_what_is_refused_is_told_with_it() {
    let world = World::new().await;
    {
        let mut state = world.cloud.state.lock().unwrap();
        state.to_put_back = true;
        state.to_delete = BTreeMap::from([("sg-1".to_owned(), None)]);
    }
    world.looks_while(Some(forbidden())).await;
    let found = world.found().await;
    let [found] = &found[..] else { panic!("{found:?}") };
    let message = found.details["message"].as_str().unwrap();
    assert!(message.ends_with("; for it wait: delete group sg-1"), "{message}");
    world.looks_while(None).await;
    assert!(world.cloud.state.lock().unwrap().to_delete.is_empty());
    world.assert_sound().await;
}

#[tokio::test]
async fn a_refusal_to_put_something_back_is_no_failed_attempt() {
    let world = World::new().await;
    world.cloud.state.lock().unwrap().to_put_back = true;
    world.looks_while(Some(source_is_gone())).await;
    world.look_again().await;
    let leases = world
        .store
        .lease("a", 1, super::LONG, std::time::Duration::ZERO, SystemClock.now());
    for lease in leases.await.unwrap() {
        assert_eq!(lease.attempts, 0);
        world.engine.pass(lease, tokio::time::Instant::now()).await;
    }
    world.assert_sound().await;
}
