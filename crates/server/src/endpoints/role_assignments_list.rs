//! `GET /v1/role-assignments`: who has which role where.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    role::{RoleAssignment as Shown, RoleAssignmentQuery},
};
use postern_core::{
    id::AssignmentId,
    principal::PrincipalRef,
    role::{Action, RoleAssignment},
    scope::Scope,
};

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
    let limit = usize::try_from(page::limit(query.limit)?).map_err(Failure::internal)?;
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
    let visible = |assignment: &&RoleAssignment| {
        own.contains(&assignment.principal) || seen.iter().any(|scope| scope.contains(&assignment.scope))
    };
    let asked_for = |assignment: &&RoleAssignment| {
        after.is_none_or(|after| assignment.id > after)
            && wanted
                .as_ref()
                .is_none_or(|wanted| assignment.principal == *wanted)
            && query.role.as_ref().is_none_or(|role| assignment.role == *role)
            && scope
                .as_ref()
                .is_none_or(|scope| scope.contains(&assignment.scope))
    };
    // They are read as a whole to decide anything at all, so there is nothing to gain from paging in SQL.
    let assignments = app.store.authz().await?.assignments;
    let mut found = assignments.iter().filter(visible).filter(asked_for);
    let items: Vec<&RoleAssignment> = found.by_ref().take(limit).collect();
    let next_cursor = match (found.next(), items.last()) {
        (Some(_), Some(last)) => Some(page::cursor(&last.id)),
        _ => None,
    };
    Ok(Json(Page {
        items: items.into_iter().map(role::show_assignment).collect(),
        next_cursor,
    }))
}
