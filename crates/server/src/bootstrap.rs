//! The first owners of an installation: made once, when nobody is owner of everything.

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    principal::PrincipalRef,
    role::{OWNER, RoleAssignment},
    scope::Scope,
    time::{Clock, IdSource},
};
use postern_store::{Conflict, Store, StoreError};
use serde_json::json;

/// Makes these principals owners, unless somebody is already. Of two replicas that start at once, one does.
pub(crate) async fn first_owners(
    store: &Store,
    clock: &dyn Clock,
    ids: &dyn IdSource,
    owners: &[PrincipalRef],
) -> Result<(), StoreError> {
    if owners.is_empty()
        || store
            .authz()
            .await?
            .assignments
            .iter()
            .any(RoleAssignment::is_lasting_owner)
    {
        return Ok(());
    }
    let now = clock.now();
    let mut tx = store.begin().await?;
    for owner in owners {
        let assignment = RoleAssignment {
            id: ids.next(now),
            role: OWNER.to_owned(),
            principal: owner.clone(),
            scope: Scope::root(),
            created_by: "system:bootstrap".to_owned(),
            created_at: now,
            tags: std::collections::BTreeMap::new(),
            ends_at: None,
        };
        match tx.insert_assignment(&assignment).await {
            Ok(()) => {}
            // Another replica was faster; what it made is what was wanted here.
            Err(StoreError::Conflict(Conflict::Assignment)) => return tx.rollback().await,
            Err(error) => return Err(error),
        }
        tx.audit(&[AuditEvent {
            id: ids.next(now),
            at: now,
            action: "role_assignment.create".to_owned(),
            outcome: Outcome::Succeeded,
            actor: Actor::System {
                component: "bootstrap".to_owned(),
            },
            scope: Scope::root(),
            reason: Some("nobody was owner, and the configuration names first owners".to_owned()),
            decision: Some(json!({ "configuration": "first_owners" })),
            details: json!({ "after": assignment }),
            subject: Subject::default(),
            http_request: None,
        }])
        .await?;
    }
    tx.commit().await
}
