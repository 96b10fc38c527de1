//! `POST /v1/freezes`: the panic button.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    freeze::{FreezeCreate, FreezeMade},
};
use postern_core::{audit::Subject, freeze::Freeze, scope::Scope};
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, body::Command},
    freezing, idempotency,
    shape::{access_request, freeze},
    state::App,
};

const EVENT: &str = "freeze.create";

/// Closes everything at a scope and below, and keeps it closed: ends every grant, turns down every pending access
/// request, and refuses new requests and approvals with `frozen` until the freeze is lifted. Needs `freeze` there.
///
/// What it closes is closed before everything else. Connections that are already established are not cut. Freezes
/// may overlap; what any of them holds stays closed.
#[utoipa::path(
    post, path = "/v1/freezes", tag = "freezes", operation_id = "createFreeze",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")),
    request_body = FreezeCreate,
    responses(
        (status = 201, description = "It is in force.", body = FreezeMade),
        (status = 400, description = "`invalid_scope`, `invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_freeze(
    State(app): State<Arc<App>>,
    caller: Caller,
    command: Command<FreezeCreate>,
) -> Result<Response, Failure> {
    let now = app.now();
    let FreezeCreate { scope, reason } = command.body;
    access_request::check_reason(&reason)?;
    let scope: Scope = scope
        .parse()
        .map_err(|error: postern_core::scope::InvalidScope| {
            Failure::field(ErrorCode::InvalidScope, "/scope", error.to_string())
        })?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let question = freezing::question(&app, EVENT, scope.clone(), &reason);
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, question).await?;
    let made = Freeze {
        id: app.ids.next(now),
        scope,
        reason,
        created_by: caller.reference(),
        created_at: now,
        lifted: None,
    };
    tx.insert_freeze(&made).await?;
    let ended = app.close_frozen(&mut tx, &caller, &made, now).await?;
    let details = json!({
        "before": null, "after": made, "grants_ended": ended.grants, "requests_denied": ended.requests,
    });
    let scope = made.scope.clone();
    let mut event = app.event(
        &caller,
        EVENT,
        scope,
        Subject::default(),
        Some(&decision),
        details,
    );
    event.reason = Some(made.reason.clone());
    tx.audit(&[event]).await?;
    let shown = FreezeMade {
        freeze: freeze::show(&made),
        grants_ended: ended.grants,
        requests_denied: ended.requests,
    };
    let key = command.key.as_ref();
    idempotency::store(&mut tx, &caller, key, StatusCode::CREATED, &shown).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}
