//! `POST /v1/access-review-items/{id}/decide`: a reviewer keeps or removes a role assignment.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    access_review::{AccessReviewItem as Shown, AccessReviewItemDecide},
};
use postern_authz::Authorizer;
use postern_core::{
    access_review::{AccessReview, AccessReviewItem, CannotDecide, ItemVerdict},
    audit::{AuditEvent, Outcome, Subject},
    id::AccessReviewItemKind,
};
use postern_store::{StoredItem, Tx};
use serde_json::json;

use super::role_assignments_create::question;
use crate::{
    access_reviewing::{self, DECIDE, resource, told_with},
    failure::Failure,
    flow::{authenticate::Caller, body::Command, path::PathId},
    idempotency,
    reading::hidden,
    shape::{access_request, access_review},
    state::App,
};

const WHAT: &str = "such access review item";
const GONE: &str = "the role assignment was removed before";

/// Keeps or removes the role assignment of an item. For the people whom the access review names as reviewers, by
/// themselves or by a group, who need no role for it; nobody decides about a role assignment of their own, or of a
/// group that they are in. What guardrails forbid of `assign` they forbid here.
///
/// What is removed is removed at once, and stays so. What is kept may be decided again until the deadline.
#[utoipa::path(
    post, path = "/v1/access-review-items/{id}/decide", tag = "access-reviews", operation_id = "decideAccessReviewItem",
    params(
        ("id" = String, Path, description = "The item's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = AccessReviewItemDecide,
    responses(
        (status = 200, description = "It is decided.", body = Shown),
        (status = 400, description = "`invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`not_a_reviewer`, `own_assignment`, `not_a_person`, `forbidden`: by a guardrail", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`access_review_over`; `conflict`: the role assignment is gone; `last_owner`; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn decide_access_review_item(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<AccessReviewItemKind>,
    command: Command<AccessReviewItemDecide>,
) -> Result<Response, Failure> {
    let now = app.now();
    let reason = command.body.reason;
    access_request::check_reason(&reason)?;
    let verdict = access_review::verdict(command.body.decision);
    let of = app
        .store
        .access_review_item(id)
        .await?
        .ok_or_else(|| Failure::not_found(WHAT))?
        .review;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let not_there = || Failure::internal("an access review or its item is not there any more");
    let review = tx.access_review(of).await?.ok_or_else(not_there)?;
    let before = tx.access_review_item(id).await?.ok_or_else(not_there)?;
    let decided = before
        .clone()
        .decide(&review, &caller.principal, verdict, now, reason.clone());
    let mut event = app.event(
        &caller,
        DECIDE,
        before.assignment.scope.clone(),
        Subject::default(),
        None,
        told_with(&review, json!({ "item": before })),
    );
    event.reason = Some(reason.clone());
    let after = match decided {
        Ok(after) => after,
        Err(error) => return Err(refuse(&app, tx, &authorizer, &caller, &review, event, error).await),
    };
    // Roles do not come into it; what forbids whatever roles allow does.
    let mut asked = question(&app, DECIDE, before.assignment.scope.clone());
    asked.context.reason_present = true;
    asked.reason = Some(reason);
    let mut decision = app.decide(&authorizer, &caller.principal, &asked);
    if !decision.forbidden_by.is_empty() || !decision.errors.is_empty() {
        decision.missing = None;
        return Err(app.deny(tx, &authorizer, &caller, asked, &decision).await);
    }
    event.decision = Some(json!({
        "rule": "the access review names them as a reviewer",
        "reviewer": review.reviewer(&caller.principal),
    }));
    event.details = told_with(&review, json!({ "before": before, "after": after }));
    let mut removals = Vec::new();
    let assignment = before.assignment.id;
    if verdict == ItemVerdict::Remove {
        let removal = tx.remove_assignments(&[assignment]).await?;
        if removal.last_owner.is_some() {
            return Err(last_owner(&app, tx, &review, &before, event).await);
        }
        let [removed] = removal.removed.as_slice() else {
            return Err(Failure::new(ErrorCode::Conflict, GONE));
        };
        removals.push(removal_event(&app, &caller, &review, &before, removed));
    } else if !tx
        .standing_assignments(&[assignment])
        .await?
        .contains(&assignment)
    {
        return Err(Failure::new(ErrorCode::Conflict, GONE));
    }
    tx.save_access_review_items(std::slice::from_ref(&after)).await?;
    tx.audit(&[vec![event], removals].concat()).await?;
    let shown = access_review::show_item(&StoredItem {
        item: after,
        is_gone: false,
    });
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}

/// The event of a role assignment that goes, as that of its deletion.
fn removal_event(
    app: &App,
    caller: &Caller,
    review: &AccessReview,
    item: &AccessReviewItem,
    removed: &postern_core::role::RoleAssignment,
) -> AuditEvent {
    let mut event = app.event(
        caller,
        "role_assignment.delete",
        removed.scope.clone(),
        Subject::default(),
        None,
        access_reviewing::removed(review, item, removed),
    );
    event.decision = Some(json!({
        "rule": "a reviewer of an access review removed it",
        "reviewer": review.reviewer(&caller.principal),
    }));
    event
}

/// The failure that an impossible decision is. Where it is refused to this caller, and not to everybody, it stands in the
/// audit log; and who may not see the access review does not learn that it is there.
async fn refuse(
    app: &App,
    tx: Tx,
    authorizer: &Authorizer,
    caller: &Caller,
    review: &AccessReview,
    mut event: AuditEvent,
    error: CannotDecide,
) -> Failure {
    let code = match error {
        CannotDecide::NotAReviewer(_) => ErrorCode::NotAReviewer,
        CannotDecide::NotAPerson(_) => ErrorCode::NotAPerson,
        CannotDecide::Own(_) => ErrorCode::OwnAssignment,
        CannotDecide::Over => return Failure::new(ErrorCode::AccessReviewOver, error.to_string()),
        CannotDecide::Settled => return Failure::new(ErrorCode::Conflict, error.to_string()),
    };
    event.outcome = Outcome::Denied;
    event.decision = Some(json!({ "rule": error.to_string() }));
    if let Err(unwritten) = app.write_alone(tx, event).await {
        return unwritten;
    }
    let refusal = Failure::new(code, error.to_string());
    if code != ErrorCode::NotAReviewer || app.may_read_all(authorizer, caller, [resource(&review.scope)]) {
        refusal
    } else {
        hidden(refusal, WHAT)
    }
}

/// The last owner of the installation stays, whoever says otherwise; the item stays open.
async fn last_owner(
    app: &App,
    tx: Tx,
    review: &AccessReview,
    item: &AccessReviewItem,
    event: AuditEvent,
) -> Failure {
    let event = AuditEvent {
        outcome: Outcome::Denied,
        decision: Some(json!({ "rule": "the last owner of the installation stays" })),
        details: told_with(review, json!({ "item": item })),
        ..event
    };
    if let Err(unwritten) = app.write_alone(tx, event).await {
        return unwritten;
    }
    Failure::new(
        ErrorCode::LastOwner,
        "this is the last owner of the installation; make another one first",
    )
}
