//! `DELETE /v1/role-assignments/{id}`: takes a role away from somebody.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use postern_api::{ErrorCode, Problem};
use postern_core::{audit::Subject, id::AssignmentKind};
use serde_json::json;

use super::role_assignments_create::question;
use crate::{
    bootstrap,
    failure::Failure,
    flow::{authenticate::Caller, path::PathId},
    state::App,
};

/// Takes a role away from somebody. Needs `assign` at the assignment's scope. The last owner stays.
#[utoipa::path(
    delete, path = "/v1/role-assignments/{id}", tag = "access", operation_id = "deleteRoleAssignment",
    params(("id" = String, Path, description = "The role assignment's id.")),
    responses(
        (status = 204, description = "It is removed."),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`last_owner`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn delete_role_assignment(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<AssignmentKind>,
) -> Result<StatusCode, Failure> {
    let found = app
        .store
        .assignment(id)
        .await?
        .ok_or_else(|| Failure::not_found("such role assignment"))?;
    let authorizer = app.authorizer().await?;
    let tx = app.store.begin().await?;
    let asked = question(&app, "role_assignment.delete", found.scope.clone());
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    let removed = tx.delete_assignment(id).await?;
    // From here on no other change of assignments commits before this one does, so the others that are
    // committed now are all that there are.
    if bootstrap::is_owner(&removed) {
        let others = tx.authz().await?.assignments;
        if !others
            .iter()
            .any(|other| other.id != id && bootstrap::is_owner(other))
        {
            tx.rollback().await?;
            return Err(Failure::new(
                ErrorCode::LastOwner,
                "this is the last owner of the installation; make another one first",
            ));
        }
    }
    let event = app.event(
        &caller,
        "role_assignment.delete",
        removed.scope.clone(),
        Subject::default(),
        Some(&decision),
        json!({ "before": removed, "after": null }),
    );
    tx.audit(&[event]).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
