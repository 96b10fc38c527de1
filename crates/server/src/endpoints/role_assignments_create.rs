//! `POST /v1/role-assignments`: gives somebody a role at a scope.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    role::{RoleAssignment as Shown, RoleAssignmentChangeQuery, RoleAssignmentCreate, RoleAssignmentPlan},
};
use postern_authz::{Context, Resource, ResourceKind};
use postern_core::{
    audit::Subject,
    principal::PrincipalRef,
    role::{Action, InvalidAssignment, RoleAssignment},
    scope::Scope,
};
use postern_store::StoreError;
use serde_json::json;

use crate::{
    assignment_reach::dry_run_event,
    decide::Question,
    failure::Failure,
    flow::{authenticate::Caller, body::Command, query::Parameters},
    idempotency,
    shape::role,
    state::App,
};

/// The question whether somebody may assign roles at `scope`.
pub(crate) fn question(app: &App, event: &'static str, scope: Scope) -> Question {
    Question {
        action: Action::Assign,
        resource: Resource {
            scope,
            tags: BTreeMap::new(),
            kind: ResourceKind::RoleAssignment,
        },
        context: Context::at(app.now()),
        event,
        subject: Subject::default(),
        reason: None,
    }
}

/// Gives a user, group or workload a role at a scope and below. Needs `assign` there.
///
/// With `ends_at` it ends by itself; with `tags` it is only for the machines that carry all of them. With `dry_run`,
/// nothing is made, and the answer tells what the principal would newly be allowed to do.
#[utoipa::path(
    post, path = "/v1/role-assignments", tag = "access", operation_id = "createRoleAssignment",
    params(
        RoleAssignmentChangeQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = RoleAssignmentCreate,
    responses(
        (status = 200, description = "What a dry run would have made.", body = RoleAssignmentPlan),
        (status = 201, description = "It is made.", body = Shown),
        (status = 400, description = "`invalid_role`, `invalid_principal`, `invalid_scope`, `invalid_assignment`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`conflict`: it is there already; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_role_assignment(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<RoleAssignmentChangeQuery>,
    command: Command<RoleAssignmentCreate>,
) -> Result<Response, Failure> {
    let now = app.now();
    let body = command.body;
    let principal: PrincipalRef =
        body.principal
            .parse()
            .map_err(|error: postern_core::principal::InvalidPrincipalRef| {
                Failure::field(ErrorCode::InvalidPrincipal, "/principal", error.to_string())
            })?;
    let issuer = match &principal {
        PrincipalRef::User(name) | PrincipalRef::Group(name) | PrincipalRef::Workload(name) => {
            name.split('/').next().unwrap_or_default()
        }
    };
    if !app.config.issuers.iter().any(|known| known.name == issuer) {
        return Err(Failure::field(
            ErrorCode::InvalidPrincipal,
            "/principal",
            format!("`{issuer}` is no configured issuer, so nobody could ever be `{principal}`"),
        ));
    }
    let scope: Scope = body
        .scope
        .parse()
        .map_err(|error: postern_core::scope::InvalidScope| {
            Failure::field(ErrorCode::InvalidScope, "/scope", error.to_string())
        })?;
    let made = RoleAssignment {
        id: app.ids.next(now),
        role: body.role,
        principal,
        scope,
        created_by: caller.reference().to_string(),
        created_at: now,
        tags: body.tags,
        ends_at: body.ends_at,
    };
    made.validate(now).map_err(|error| {
        let pointer = match error {
            InvalidAssignment::Ended => "/ends_at",
            InvalidAssignment::Tags => "/tags",
        };
        Failure::field(ErrorCode::InvalidAssignment, pointer, error.to_string())
    })?;
    let dry_run = query.dry_run.unwrap_or(false);
    let key = command.key.as_ref().filter(|_| !dry_run);
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, key, now).await? {
        return Ok(replay.into_response());
    }
    let asked = question(&app, "role_assignment.create", made.scope.clone());
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    tx.insert_assignment(&made).await.map_err(|error| match error {
        StoreError::NotFound { .. } => Failure::field(
            ErrorCode::InvalidRole,
            "/role",
            format!(
                "there is no role `{}`",
                made.role.chars().take(80).collect::<String>()
            ),
        ),
        other => other.into(),
    })?;
    if dry_run {
        let event = dry_run_event(&app, &caller, &made, &decision);
        app.write_alone(tx, event).await?;
        let gains = app.reach_of_assignment(authorizer, &caller, &made).await?;
        let plan = RoleAssignmentPlan {
            dry_run: true,
            assignment: role::show_assignment(&made),
            gains,
            loses: Vec::new(),
        };
        return Ok(Json(plan).into_response());
    }
    let event = app.event(
        &caller,
        "role_assignment.create",
        made.scope.clone(),
        Subject::default(),
        Some(&decision),
        json!({ "before": null, "after": made }),
    );
    tx.audit(&[event]).await?;
    let shown = role::show_assignment(&made);
    idempotency::store(&mut tx, &caller, key, StatusCode::CREATED, &shown).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}
