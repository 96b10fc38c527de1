//! `POST /v1/roles`: makes a custom role.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    Problem,
    role::{Role as Shown, RoleCreate},
};
use postern_authz::{Context, Resource, ResourceKind};
use postern_core::{audit::Subject, role::Action, scope::Scope};
use serde_json::json;

use crate::{
    decide::Question,
    failure::Failure,
    flow::{authenticate::Caller, body::Command},
    idempotency,
    shape::role,
    state::App,
};

/// The question whether somebody may make and remove custom roles: `configure` at `/`.
pub(crate) fn question(app: &App, event: &'static str) -> Question {
    Question {
        action: Action::Configure,
        resource: Resource {
            scope: Scope::root(),
            tags: BTreeMap::new(),
            kind: ResourceKind::Role,
        },
        context: Context::at(app.now()),
        event,
        subject: Subject::default(),
        reason: None,
    }
}

/// Makes a custom role. Needs `configure` at `/`.
#[utoipa::path(
    post, path = "/v1/roles", tag = "access", operation_id = "createRole",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")),
    request_body = RoleCreate,
    responses(
        (status = 201, description = "It is made.", body = Shown),
        (status = 400, description = "`invalid_role`, `invalid_action`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`conflict`: the name is taken; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    command: Command<RoleCreate>,
) -> Result<Response, Failure> {
    let now = app.now();
    let made = role::read(&command.body)?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let asked = question(&app, "role.create");
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    tx.insert_role(&made).await?;
    let event = app.event(
        &caller,
        "role.create",
        Scope::root(),
        Subject::default(),
        Some(&decision),
        json!({ "before": null, "after": made }),
    );
    tx.audit(&[event]).await?;
    let shown = role::show(&made);
    idempotency::store(
        &mut tx,
        &caller,
        command.key.as_ref(),
        StatusCode::CREATED,
        &shown,
    )
    .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}
