//! `GET /v1/role-assignments`: who has which role where.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    role::{RoleAssignment as Shown, RoleAssignmentQuery},
};
use postern_core::{id::AssignmentId, principal::PrincipalRef, role::Action, scope::Scope};
use postern_store::{AssignmentFilter, Visible};

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        page,
        query::{Parameters, principal},
    },
    shape::role,
    state::App,
};

/// Your own role assignments, and those at scopes where you have `read`, `assign` or `audit`, by id.
#[utoipa::path(
    get, path = "/v1/role-assignments", tag = "access", operation_id = "listRoleAssignments",
    params(RoleAssignmentQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Shown>),
        (status = 400, description = "`invalid_query`, `invalid_principal`, `invalid_scope`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_role_assignments(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<RoleAssignmentQuery>,
) -> Result<Json<Page<Shown>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after: Option<AssignmentId> = page::key(query.cursor.as_deref())?;
    let wanted = principal(query.principal.as_deref(), &caller)?;
    let scope = query
        .scope
        .map(|scope| {
            scope
                .parse::<Scope>()
                .map_err(|error| Failure::new(ErrorCode::InvalidScope, error.to_string()))
        })
        .transpose()?;
    let authorizer = app.authorizer().await?;
    let own: Vec<PrincipalRef> = caller.principal.references().collect();
    let seen: Vec<Scope> = [Action::Read, Action::Assign, Action::Audit]
        .into_iter()
        .flat_map(|action| authorizer.scopes(&caller.principal, action, app.now()))
        .collect();
    let filter = AssignmentFilter {
        visible: Visible {
            scopes: seen,
            own: None,
        },
        own,
        principal: wanted,
        role: query.role,
        scope,
    };
    let found = app.store.assignments(&filter, after, limit).await?;
    Ok(Json(Page {
        next_cursor: found.next.as_ref().map(page::cursor),
        items: found.items.iter().map(role::show_assignment).collect(),
    }))
}
