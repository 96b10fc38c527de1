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
use postern_authz::Authorizer;
use postern_core::{
    audit::{Outcome, Subject},
    id::AssignmentKind,
    role::{Action, RoleAssignment},
};
use serde_json::json;

use super::role_assignments_create::question;
use crate::{
    assignment_reach::dry_run_event,
    failure::Failure,
    flow::{authenticate::Caller, path::PathId, query::Parameters},
    reading::hidden,
    shape::role,
    state::App,
};

const EVENT: &str = "role_assignment.delete";
const WHAT: &str = "such role assignment";

/// Whether the caller would find the role assignment in the list.
fn may_see(app: &App, authorizer: &Authorizer, caller: &Caller, assignment: &RoleAssignment) -> bool {
    let is_own = caller
        .principal
        .references()
        .any(|own| own == assignment.principal);
    is_own
        || [Action::Read, Action::Assign, Action::Audit]
            .into_iter()
            .flat_map(|action| authorizer.scopes(&caller.principal, action, app.now()))
            .any(|scope| scope.contains(&assignment.scope))
}

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
        .ok_or_else(|| Failure::not_found(WHAT))?;
    let authorizer = app.authorizer().await?;
    let tx = app.store.begin().await?;
    let asked = question(&app, EVENT, found.scope.clone());
    let (mut tx, decision) = match app.allow(tx, &authorizer, &caller, asked).await {
        Ok(allowed) => allowed,
        // Who may not see it does not learn that it is there.
        Err(refusal) if may_see(&app, &authorizer, &caller, &found) => return Err(refusal),
        Err(refusal) => return Err(hidden(refusal, WHAT)),
    };
    let mut removal = tx.remove_assignments(&[id]).await?;
    if let Some(last) = removal.last_owner {
        let subject = Subject::default();
        let details = json!({ "before": last });
        let mut event = app.event(&caller, EVENT, last.scope.clone(), subject, None, details);
        event.outcome = Outcome::Denied;
        event.decision = Some(json!({ "rule": "the last owner of the installation stays" }));
        app.write_alone(tx, event).await?;
        return Err(Failure::new(
            ErrorCode::LastOwner,
            "this is the last owner of the installation; make another one first",
        ));
    }
    let removed = removal.removed.pop().ok_or_else(|| Failure::not_found(WHAT))?;
    if query.dry_run == Some(true) {
        let event = dry_run_event(&app, &caller, &removed, &decision);
        app.write_alone(tx, event).await?;
        let loses = app.reach_of_assignment(authorizer, &caller, &removed).await?;
        let plan = RoleAssignmentPlan {
            dry_run: true,
            assignment: role::show_assignment(&removed),
            gains: Vec::new(),
            loses,
        };
        return Ok(Json(plan).into_response());
    }
    let event = app.event(
        &caller,
        EVENT,
        removed.scope.clone(),
        Subject::default(),
        Some(&decision),
        json!({ "before": removed, "after": null }),
    );
    tx.audit(&[event]).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
