//! `POST /v1/reviews/{id}/close`: somebody else has looked at a use of break-glass.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    review::{Review as Shown, ReviewClose},
};
use postern_core::{
    audit::{Outcome, Subject},
    id::ReviewKind,
    review::CannotClose,
    scope::Scope,
};
use serde_json::json;

use crate::{
    deciding::approving,
    failure::Failure,
    flow::{authenticate::Caller, body::Command, path::PathId},
    granting::machines_of,
    idempotency,
    shape::{access_request, review},
    state::App,
};

const EVENT: &str = "review.close";

/// Closes a review, with what was found. Needs `approve` at every machine, and is for somebody else than who broke the
/// glass.
#[utoipa::path(
    post, path = "/v1/reviews/{id}/close", tag = "break-glass", operation_id = "closeReview",
    params(
        ("id" = String, Path, description = "The review's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = ReviewClose,
    responses(
        (status = 200, description = "It is closed.", body = Shown),
        (status = 400, description = "`invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`, `own_request`, `not_a_person`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`conflict`: it was closed before; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn close_review(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<ReviewKind>,
    command: Command<ReviewClose>,
) -> Result<Response, Failure> {
    let now = app.now();
    let note = command.body.note;
    access_request::check_text(&note, "note")?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let before = tx
        .review(id)
        .await?
        .ok_or_else(|| Failure::not_found("such review"))?;
    let subject = Subject {
        request: Some(before.request),
        ..Subject::default()
    };
    let request = tx
        .request(before.request)
        .await?
        .ok_or_else(|| Failure::internal("a review is of no request"))?;
    let machines = tx.machines(&machines_of(&request)).await?;
    let mut decisions = Vec::with_capacity(request.targets.len());
    for target in &request.targets {
        let machine = machines.get(&target.machine);
        let reason = Some(note.clone());
        let mut question = approving(request.id, target, machine, request.duration, reason, now);
        question.event = EVENT;
        let decision;
        (tx, decision) = match app.allow(tx, &authorizer, &caller, question).await {
            Ok(allowed) => allowed,
            Err(refusal) => return Err(app.refusal_about(&caller, &request, "such review", refusal).await),
        };
        decisions.push(decision);
    }
    let scope = match before.scopes.as_slice() {
        [one] => one.clone(),
        _ => Scope::root(),
    };
    let mut event = app.event(&caller, EVENT, scope, subject, None, json!({}));
    event.reason = Some(note.clone());
    let closed = before
        .clone()
        .close(&caller.principal, &request.principal, now, note);
    let after = match closed {
        Ok(after) => after,
        Err(error) => {
            let code = match error {
                CannotClose::Own => ErrorCode::OwnRequest,
                CannotClose::NotAPerson(_) => ErrorCode::NotAPerson,
                CannotClose::Closed(_) => return Err(Failure::new(ErrorCode::Conflict, error.to_string())),
            };
            event.outcome = Outcome::Denied;
            event.decision = Some(json!({ "rule": error.to_string() }));
            app.write_alone(tx, event).await?;
            return Err(Failure::new(code, error.to_string()));
        }
    };
    let verdict = after
        .closed
        .as_ref()
        .ok_or_else(|| Failure::internal("a review that was closed has no verdict"))?;
    tx.close_review(id, verdict).await?;
    event.decision = Some(json!({ "authorization": decisions }));
    event.details = json!({ "before": before, "after": after });
    tx.audit(&[event]).await?;
    let shown = review::show(&after);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
