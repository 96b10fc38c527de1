//! `DELETE /v1/role-assignments/{id}`: takes a role away from somebody.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    role::{RoleAssignmentChangeQuery, RoleAssignmentPlan},
};
use postern_core::{audit::Subject, id::AssignmentKind};
use serde_json::json;

use super::role_assignments_create::question;
use crate::{
    assignment_reach::{dry_run_event, reach},
    failure::Failure,
    flow::{authenticate::Caller, path::PathId, query::Parameters},
    shape::role,
    state::App,
};

/// Takes a role away from somebody. Needs `assign` at the assignment's scope. The last owner for good stays. With `dry_run`,
/// nothing is removed, and the answer tells what the principal would not be allowed to do any more.
#[utoipa::path(
    delete, path = "/v1/role-assignments/{id}", tag = "access", operation_id = "deleteRoleAssignment",
    params(
        RoleAssignmentChangeQuery,
        ("id" = String, Path, description = "The role assignment's id.")
    ),
    responses(
        (status = 200, description = "What a dry run would have removed.", body = RoleAssignmentPlan),
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
    Parameters(query): Parameters<RoleAssignmentChangeQuery>,
) -> Result<Response, Failure> {
    let found = app
        .store
        .assignment(id)
        .await?
        .ok_or_else(|| Failure::not_found("such role assignment"))?;
    let authorizer = app.authorizer().await?;
    let tx = app.store.begin().await?;
    let asked = question(&app, "role_assignment.delete", found.scope.clone());
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    let mut removal = tx.remove_assignments(&[id]).await?;
    if removal.last_owner.is_some() {
        tx.rollback().await?;
        return Err(Failure::new(
            ErrorCode::LastOwner,
            "this is the last owner of the installation; make another one first",
        ));
    }
    let removed = removal
        .removed
        .pop()
        .ok_or_else(|| Failure::not_found("such role assignment"))?;
    if query.dry_run == Some(true) {
        let event = dry_run_event(&app, &caller, &removed, &decision);
        app.write_alone(tx, event).await?;
        let machines = app.machines_of_assignment(&removed).await?;
        let plan = RoleAssignmentPlan {
            dry_run: true,
            assignment: role::show_assignment(&removed),
            gains: Vec::new(),
            loses: reach(&authorizer, &removed, &machines, app.now()),
        };
        return Ok(Json(plan).into_response());
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
    Ok(StatusCode::NO_CONTENT.into_response())
}
