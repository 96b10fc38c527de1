//! `POST /v1/freezes/{id}/lift`: ends a freeze.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    freeze::{Freeze as Shown, FreezeLift},
};
use postern_core::{audit::Subject, freeze::Lifted, id::FreezeKind, role::Action};
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, body::Command, path::PathId},
    freezing, idempotency,
    reading::hidden,
    shape::{access_request, freeze},
    state::App,
};

const EVENT: &str = "freeze.lift";

/// Lifts a freeze. What it closed stays closed: whoever still needs it asks again. Needs `freeze` at its scope.
#[utoipa::path(
    post, path = "/v1/freezes/{id}/lift", tag = "freezes", operation_id = "liftFreeze",
    params(
        ("id" = String, Path, description = "The freeze's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = FreezeLift,
    responses(
        (status = 200, description = "It is lifted.", body = Shown),
        (status = 400, description = "`invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`conflict`: it was lifted before; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn lift_freeze(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<FreezeKind>,
    command: Command<FreezeLift>,
) -> Result<Response, Failure> {
    let now = app.now();
    let reason = command.body.reason;
    access_request::check_reason(&reason)?;
    let none = || Failure::not_found("such freeze");
    let found = app.store.freeze(id).await?.ok_or_else(none)?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let question = freezing::question(&app, EVENT, found.scope.clone(), &reason);
    let allowed = app.allow(tx, &authorizer, &caller, question).await;
    let (mut tx, decision) = allowed.map_err(|refusal| {
        let mut seen = authorizer
            .scopes(&caller.principal, Action::Read, app.now())
            .into_iter();
        if seen.any(|scope| scope.contains(&found.scope) || found.scope.contains(&scope)) {
            refusal
        } else {
            hidden(refusal, "such freeze")
        }
    })?;
    let before = tx.freeze(id).await?.ok_or_else(none)?;
    let lifted = Lifted {
        by: caller.reference(),
        at: now,
        reason: reason.clone(),
    };
    let after = before
        .clone()
        .lift(lifted.clone())
        .map_err(|error| Failure::new(ErrorCode::Conflict, error.to_string()))?;
    tx.save_lift(id, &lifted).await?;
    let details = json!({ "before": before, "after": after });
    let scope = after.scope.clone();
    let mut event = app.event(
        &caller,
        EVENT,
        scope,
        Subject::default(),
        Some(&decision),
        details,
    );
    event.reason = Some(reason);
    tx.audit(&[event]).await?;
    let shown = freeze::show(&after);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
