//! Roles and role assignments.

use postern_core::{
    role::{Action, Role, RoleAssignment},
    testing::{an_id, at},
};

use crate::{Conflict, StoreError, testing::fresh_store};

fn a_role(name: &str, actions: &[Action]) -> Role {
    Role {
        name: name.into(),
        actions: actions.iter().copied().collect(),
        built_in: false,
    }
}

fn an_assignment(number: u128, role: &str) -> RoleAssignment {
    RoleAssignment {
        id: an_id(number),
        role: role.into(),
        principal: "group:corp/sre".parse().unwrap(),
        scope: "/aws".parse().unwrap(),
        created_by: "user:corp/ada".into(),
        created_at: at(1),
        tags: std::collections::BTreeMap::new(),
        ends_at: None,
    }
}

#[tokio::test]
async fn every_change_to_roles_and_assignments_raises_the_version() {
    let store = fresh_store().await;
    let mut version = store.authz_version().await.unwrap();
    let mut rises = async || {
        let now = store.authz_version().await.unwrap();
        let rose = now > version;
        version = now;
        rose
    };
    assert!(!rises().await);
    let mut tx = store.begin().await.unwrap();
    tx.insert_role(&a_role("on-call", &[Action::Read, Action::BreakGlass]))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert!(rises().await);
    let mut tx = store.begin().await.unwrap();
    tx.update_role(&a_role("on-call", &[Action::Read])).await.unwrap();
    tx.commit().await.unwrap();
    assert!(rises().await);
    let mut tx = store.begin().await.unwrap();
    tx.insert_assignment(&an_assignment(1, "on-call")).await.unwrap();
    tx.commit().await.unwrap();
    assert!(rises().await);
    let authz = store.authz().await.unwrap();
    assert_eq!(authz.roles, [a_role("on-call", &[Action::Read])]);
    assert_eq!(authz.assignments, [an_assignment(1, "on-call")]);
    assert_eq!(authz.version, store.authz_version().await.unwrap());
    let mut tx = store.begin().await.unwrap();
    let removal = tx.remove_assignments(&[an_id(1)]).await.unwrap();
    assert_eq!(removal.removed, [an_assignment(1, "on-call")]);
    tx.commit().await.unwrap();
    assert!(rises().await);
    assert_eq!(store.assignment(an_id(1)).await.unwrap(), None);
}

#[tokio::test]
async fn an_assignment_names_a_role_that_exists_and_stands_once() {
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    tx.insert_assignment(&an_assignment(1, "reader")).await.unwrap();
    assert!(
        tx.insert_assignment(&an_assignment(2, "no-such-role"))
            .await
            .unwrap_err()
            .is_not_found()
    );
    let error = tx
        .insert_assignment(&an_assignment(3, "reader"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::Assignment)),
        "{error}"
    );
}

#[tokio::test]
async fn a_role_goes_only_when_nobody_has_it() {
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    tx.insert_role(&a_role("on-call", &[Action::Read])).await.unwrap();
    tx.insert_assignment(&an_assignment(1, "on-call")).await.unwrap();
    let error = tx.delete_role("on-call").await.unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::RoleInUse(_))),
        "{error}"
    );
    tx.remove_assignments(&[an_id(1)]).await.unwrap();
    tx.delete_role("on-call").await.unwrap();
    assert!(tx.delete_role("on-call").await.unwrap_err().is_not_found());
    assert!(
        tx.update_role(&a_role("on-call", &[]))
            .await
            .unwrap_err()
            .is_not_found()
    );
    let again = tx.remove_assignments(&[an_id(1)]).await.unwrap();
    assert!(again.removed.is_empty() && again.last_owner.is_none());
}

#[tokio::test]
async fn an_assignment_keeps_its_tags_and_its_end() {
    let store = fresh_store().await;
    let made = RoleAssignment {
        tags: [("env".to_owned(), "dev".to_owned())].into(),
        ends_at: Some(at(60)),
        ..an_assignment(1, "reader")
    };
    let mut tx = store.begin().await.unwrap();
    tx.insert_assignment(&made).await.unwrap();
    // The same for all machines is another one, and so is the same without an end only where the tags differ.
    tx.insert_assignment(&an_assignment(2, "reader")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.assignment(made.id).await.unwrap(), Some(made.clone()));
    let mut tx = store.begin().await.unwrap();
    let twin = RoleAssignment {
        id: an_id(3),
        ends_at: None,
        ..made
    };
    let error = tx.insert_assignment(&twin).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::Assignment)),
        "{error:?}"
    );
}

#[tokio::test]
async fn assignments_lapse_at_their_end_and_the_version_rises_only_then() {
    let store = fresh_store().await;
    let ending = |number, role: &str, end| RoleAssignment {
        ends_at: Some(at(end)),
        ..an_assignment(number, role)
    };
    let mut tx = store.begin().await.unwrap();
    tx.insert_assignment(&ending(1, "reader", 60)).await.unwrap();
    tx.insert_assignment(&ending(2, "requester", 61)).await.unwrap();
    tx.insert_assignment(&an_assignment(3, "owner")).await.unwrap();
    tx.commit().await.unwrap();
    let version = store.authz_version().await.unwrap();
    let lapse = async |now| {
        let mut tx = store.begin().await.unwrap();
        let ended = tx.lapse_assignments(at(now), 100).await.unwrap();
        tx.commit().await.unwrap();
        ended.into_iter().map(|ended| ended.role).collect::<Vec<_>>()
    };
    assert!(lapse(59).await.is_empty());
    assert_eq!(store.authz_version().await.unwrap(), version);
    assert_eq!(lapse(60).await, ["reader"]);
    assert!(store.authz_version().await.unwrap() > version);
    assert_eq!(lapse(1000).await, ["requester"]);
    assert_eq!(store.authz().await.unwrap().assignments.len(), 1);
}
