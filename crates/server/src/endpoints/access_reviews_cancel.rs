//! `POST /v1/access-reviews/{id}/cancel`: ends an access review early.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    access_review::{AccessReview as Shown, AccessReviewCancel},
};
use postern_core::{audit::Subject, id::AccessReviewKind};
use serde_json::json;

use super::role_assignments_create::question;
use crate::{
    access_reviewing::{resource, told_with},
    failure::Failure,
    flow::{authenticate::Caller, body::Command, path::PathId},
    idempotency,
    reading::hidden,
    shape::{access_request, access_review},
    state::App,
};

const EVENT: &str = "access_review.cancel";

/// Ends an access review early: what was decided stays so, what nobody decided stays as it is, and no further round
/// starts. One that is over is cancelled before its next round starts. Needs `assign` at the scope.
#[utoipa::path(
    post, path = "/v1/access-reviews/{id}/cancel", tag = "access-reviews", operation_id = "cancelAccessReview",
    params(
        ("id" = String, Path, description = "The access review's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = AccessReviewCancel,
    responses(
        (status = 200, description = "It has ended.", body = Shown),
        (status = 400, description = "`invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`access_review_over`; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn cancel_access_review(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<AccessReviewKind>,
    command: Command<AccessReviewCancel>,
) -> Result<Response, Failure> {
    const WHAT: &str = "such access review";
    let now = app.now();
    let reason = command.body.reason;
    access_request::check_reason(&reason)?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let before = tx
        .access_review(id)
        .await?
        .ok_or_else(|| Failure::not_found(WHAT))?;
    let mut asked = question(&app, EVENT, before.scope.clone());
    asked.context.reason_present = true;
    asked.reason = Some(reason.clone());
    let (mut tx, decision) = match app.allow(tx, &authorizer, &caller, asked).await {
        Ok(allowed) => allowed,
        Err(refusal) => {
            let sees = before.reviewer(&caller.principal).is_some()
                || app.may_read_all(&authorizer, &caller, [resource(&before.scope)]);
            return Err(if sees { refusal } else { hidden(refusal, WHAT) });
        }
    };
    let after = before
        .clone()
        .cancel(caller.reference(), now, reason.clone())
        .map_err(|error| Failure::new(ErrorCode::AccessReviewOver, error.to_string()))?;
    tx.save_access_review(&after).await?;
    let counts = tx.access_review_counts(id).await?;
    let mut event = app.event(
        &caller,
        EVENT,
        after.scope.clone(),
        Subject::default(),
        Some(&decision),
        told_with(
            &after,
            json!({ "before": before.state, "after": after.state, "open": counts.open }),
        ),
    );
    event.reason = Some(reason);
    tx.audit(&[event]).await?;
    let shown = access_review::show(&after, counts);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
