//! A database that was restored from an older backup beneath running servers: decisions follow what it says, and not what
//! servers remember.

use postern_api::access_check::AccessCheckQuery;
use postern_store::testing::{assign_many, back_up_roles, restore_roles};

use crate::rig::Rig;

async fn may_request(rig: &Rig, subject: &str) -> bool {
    let query = AccessCheckQuery {
        action: Some("request".to_owned()),
        scope: Some("/aws".to_owned()),
        ..AccessCheckQuery::default()
    };
    rig.client(subject).access_check(&query).await.unwrap().allowed
}

#[tokio::test]
async fn what_was_assigned_after_the_backup_allows_nothing_and_what_was_taken_since_allows_again() {
    let rig = Rig::start().await;
    rig.assign("ada", "requester", "/aws").await;
    back_up_roles(&rig.store).await;
    let assignments = rig.store.authz().await.unwrap().assignments;
    let of_ada = assignments
        .iter()
        .find(|one| one.principal.to_string() == "user:corp/ada")
        .unwrap();
    let of_ada = of_ada.id.to_string();
    rig.owner().delete_role_assignment(&of_ada).await.unwrap();
    rig.assign("eve", "requester", "/aws").await;
    assert!(!may_request(&rig, "ada").await);
    assert!(may_request(&rig, "eve").await);

    restore_roles(&rig.store).await;
    assert!(may_request(&rig, "ada").await);
    assert!(!may_request(&rig, "eve").await);
    // And so it stays, however often it is asked.
    assert!(may_request(&rig, "ada").await);
}

#[tokio::test]
async fn as_many_changes_after_the_restore_as_there_were_before_it_are_not_taken_for_those() {
    let rig = Rig::start().await;
    back_up_roles(&rig.store).await;
    let backed_up = rig.store.authz_version().await.unwrap();
    rig.assign("eve", "requester", "/aws").await;
    assert!(may_request(&rig, "eve").await);
    let seen = rig.store.authz_version().await.unwrap();

    restore_roles(&rig.store).await;
    assert_eq!(rig.store.authz_version().await.unwrap(), backed_up);
    // As many changes, of which this server has seen none.
    assign_many(&rig.store, 1).await;
    assert_ne!(rig.store.authz_version().await.unwrap(), seen);
    assert!(!may_request(&rig, "eve").await);
}
