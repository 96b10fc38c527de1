//! `POST /v1/access-reviews`: starts an access review of role assignments.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    access_review::{AccessReview as Shown, AccessReviewCreate},
};
use postern_core::{access_review::AccessReview, audit::Subject};
use serde_json::json;

use super::role_assignments_create::question;
use crate::{
    access_reviewing::{self, NotStarted, START, told_with, too_large},
    failure::Failure,
    flow::{authenticate::Caller, body::Command},
    idempotency,
    shape::access_review,
    state::App,
};

const EVENT: &str = "access_review.create";

/// Starts an access review: its items are the role assignments at the scope and below as they are now, each with its last
/// use and a recommendation. Needs `assign` at the scope.
///
/// Where the audit log is long, some items have their last use and their recommendation a little later: until then
/// `evidence` is `gathering`. The reviewers it names decide about the items until the deadline, and need no role for that.
/// Then what nobody decided is removed or kept, as `undecided` says. With `recurrence`, further rounds start by themselves,
/// for as long as whoever made it may `assign` at the scope.
#[utoipa::path(
    post, path = "/v1/access-reviews", tag = "access-reviews", operation_id = "createAccessReview",
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")),
    request_body = AccessReviewCreate,
    responses(
        (status = 201, description = "Its first round has started.", body = Shown),
        (status = 400, description = "`invalid_access_review`, `invalid_scope`, `invalid_principal`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`access_review_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_access_review(
    State(app): State<Arc<App>>,
    caller: Caller,
    command: Command<AccessReviewCreate>,
) -> Result<Response, Failure> {
    let now = app.now();
    let id = app.ids.next(now);
    let mut review = access_review::read(command.body, &app.config, id, &caller.principal, now)?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let asked = question(&app, EVENT, review.scope.clone());
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    let items = app
        .start_round(&mut tx, &authorizer, &mut review)
        .await
        .map_err(|error| match error {
            NotStarted::TooLarge(found) => {
                Failure::field(ErrorCode::AccessReviewTooLarge, "/scope", too_large(found))
            }
            NotStarted::Failed(failure) => failure,
        })?;
    let event = |action, details| {
        let subject = Subject::default();
        app.event(
            &caller,
            action,
            review.scope.clone(),
            subject,
            Some(&decision),
            details,
        )
    };
    // The actor says who it was; what else their token said is nobody else's to read.
    let after = AccessReview {
        made_as: None,
        ..review.clone()
    };
    let made = event(
        EVENT,
        told_with(&review, json!({ "before": null, "after": after })),
    );
    let mut started = event(START, access_reviewing::started(&review, &items));
    started.reason = Some(access_reviewing::summary(&review, items.len()));
    tx.audit(&[made, started]).await?;
    let shown = access_review::show(&review, access_reviewing::all_open(&items));
    let key = command.key.as_ref();
    idempotency::store(&mut tx, &caller, key, StatusCode::CREATED, &shown).await?;
    tx.commit().await?;
    if review.recurrence.is_some() {
        app.makers.made(caller.reference());
    }
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}
