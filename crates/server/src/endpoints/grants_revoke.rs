//! `POST /v1/grants/{id}/revoke`: ends a grant.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    Problem,
    grant::{Grant as Shown, GrantRevoke},
};
use postern_core::{
    grant::{EndCause, Grant},
    id::GrantKind,
    role::Action,
};
use postern_store::Urgency;
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, body::OptionalCommand, path::PathId},
    granting, idempotency,
    reading::hidden,
    shape::access_request,
    state::App,
};

const EVENT: &str = "grant.revoke";

/// Ends a grant: yours, one that you approved, as long as you may approve there, or another's with `revoke` at its machine. Its rules are taken away at once; connections
/// that are already established are not cut. A grant that has ended is answered as it is.
#[utoipa::path(
    post, path = "/v1/grants/{id}/revoke", tag = "grants", operation_id = "revokeGrant",
    params(
        ("id" = String, Path, description = "The grant's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = GrantRevoke,
    responses(
        (status = 200, description = "It ended.", body = Shown),
        (status = 400, description = "`invalid_reason`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn revoke_grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<GrantKind>,
    command: OptionalCommand<GrantRevoke>,
) -> Result<Response, Failure> {
    let now = app.now();
    let reason = command.body.reason;
    if let Some(reason) = &reason {
        access_request::check_reason(reason)?;
    }
    let grant = app
        .store
        .grant(id)
        .await?
        .ok_or_else(|| Failure::not_found("such grant"))?;
    let question = app
        .about_grant(&grant, Action::Revoke, EVENT, reason.clone())
        .await?;
    let subject = question.subject.clone();
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let decision = if grant.requester == caller.reference() {
        json!({ "rule": "a grant is ended by whose it is" })
    } else if let Some(decision) = app
        .approved_by(&authorizer, &caller, &grant, reason.clone())
        .await?
    {
        json!({ "rule": "a grant is ended by who approved it, and may still approve", "authorization": decision })
    } else {
        let resource = question.resource.clone();
        let allowed = app.allow(tx, &authorizer, &caller, question).await;
        let decision;
        (tx, decision) = allowed.map_err(|refusal| {
            if app.may_read_all(&authorizer, &caller, [resource]) {
                refusal
            } else {
                hidden(refusal, "such grant")
            }
        })?;
        json!(decision)
    };
    let locked = tx
        .grant(id)
        .await?
        .ok_or_else(|| Failure::not_found("such grant"))?;
    let ended: Grant = match locked.clone().live() {
        Err(_) => locked,
        Ok(live) => {
            let cause = EndCause::Revoked {
                by: caller.reference(),
                reason: reason.clone(),
            };
            let closing: Grant = live.end(cause, now).into();
            tx.save_grants(std::slice::from_ref(&closing)).await?;
            let mut event = app.event(
                &caller,
                EVENT,
                closing.machine.scope(),
                subject,
                None,
                json!({ "before": locked.state, "after": closing.state }),
            );
            event.reason = reason;
            event.decision = Some(decision);
            tx.audit(&[event]).await?;
            let points = tx.points_of(&[id]).await?;
            tx.mark_due(&points, now, Urgency::Closing).await?;
            closing
        }
    };
    let hops = tx.hops_of(&[id]).await?;
    let shown = granting::show_all(std::slice::from_ref(&ended), hops)
        .pop()
        .ok_or_else(|| Failure::internal("one grant is shown as one"))?;
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
