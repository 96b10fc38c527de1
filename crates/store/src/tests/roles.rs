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
    assert_eq!(
        tx.delete_assignment(an_id(1)).await.unwrap(),
        an_assignment(1, "on-call")
    );
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
    tx.delete_assignment(an_id(1)).await.unwrap();
    tx.delete_role("on-call").await.unwrap();
    assert!(tx.delete_role("on-call").await.unwrap_err().is_not_found());
    assert!(
        tx.update_role(&a_role("on-call", &[]))
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(tx.delete_assignment(an_id(1)).await.unwrap_err().is_not_found());
}
