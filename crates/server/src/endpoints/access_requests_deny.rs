//! `POST /v1/access-requests/{id}/deny`: turns a request down.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    Problem,
    access_request::{AccessRequest as Shown, AccessRequestDeny},
};
use postern_core::{id::RequestKind, request::AccessRequest};

use crate::{
    deciding::Verdict,
    failure::Failure,
    flow::{authenticate::Caller, body::Command, path::PathId},
    idempotency,
    shape::access_request,
    state::App,
};

/// Turns a request down, with what the requester is told. Needs `approve` at every machine.
#[utoipa::path(
    post, path = "/v1/access-requests/{id}/deny", tag = "access-requests", operation_id = "denyAccessRequest",
    params(
        ("id" = String, Path, description = "The request's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = AccessRequestDeny,
    responses(
        (status = 200, description = "It is turned down.", body = Shown),
        (status = 400, description = "`invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`already_decided`, `request_lapsed`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn deny_access_request(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<RequestKind>,
    command: Command<AccessRequestDeny>,
) -> Result<Response, Failure> {
    let now = app.now();
    let reason = command.body.reason;
    access_request::check_reason(&reason)?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let (mut tx, pending, decisions) = app
        .may_decide(tx, &authorizer, &caller, id, Verdict::Deny { reason: &reason })
        .await?;
    let denied: AccessRequest = pending.deny(caller.reference(), reason.clone(), now).into();
    tx.save_request(&denied).await?;
    let events = app.decided(&caller, "access_request.deny", &denied, &decisions, &reason);
    tx.audit(&events).await?;
    let shown = access_request::show(&denied, Vec::new(), now);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
