//! `POST /v1/access-requests/{id}/withdraw`: takes one's own request back.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{Problem, access_request::AccessRequest as Shown};
use postern_core::{
    audit::Subject,
    id::RequestKind,
    request::{AccessRequest, InvalidTransition},
};
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::{NoFields, OptionalCommand},
        path::PathId,
    },
    idempotency,
    shape::access_request,
    state::App,
};

const EVENT: &str = "access_request.withdraw";

/// Takes your own request back, before it is decided.
#[utoipa::path(
    post, path = "/v1/access-requests/{id}/withdraw", tag = "access-requests",
    operation_id = "withdrawAccessRequest",
    params(
        ("id" = String, Path, description = "The request's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    responses(
        (status = 200, description = "It is withdrawn.", body = Shown),
        (status = 403, description = "`not_the_requester`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`already_decided`, `request_lapsed`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn withdraw_access_request(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<RequestKind>,
    command: OptionalCommand<NoFields>,
) -> Result<Response, Failure> {
    let NoFields {} = command.body;
    let now = app.now();
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let request = tx
        .request(id)
        .await?
        .ok_or_else(|| Failure::not_found("such access request"))?;
    // Whose it is before how it stands, which is nobody else's business.
    if request.requester != caller.reference() {
        let error = InvalidTransition::NotTheRequester;
        let refusal = app.impossible(tx, &caller, id, EVENT, &error).await;
        let what = "such access request";
        return Err(app.refusal_about(&caller, &request, what, refusal).await);
    }
    let withdrawn: AccessRequest = match request
        .pending(now)
        .and_then(|pending| pending.withdraw(&caller.reference(), now))
    {
        Ok(withdrawn) => withdrawn.into(),
        Err(error) => return Err(app.impossible(tx, &caller, id, EVENT, &error).await),
    };
    tx.save_request(&withdrawn).await?;
    let events: Vec<_> = withdrawn
        .targets
        .iter()
        .map(|target| {
            let subject = Subject {
                request: Some(id),
                machine: Some(target.machine.clone()),
                ..Subject::default()
            };
            let mut event = app.event(&caller, EVENT, target.machine.scope(), subject, None, json!({}));
            event.decision = Some(json!({ "rule": "a request is withdrawn by who made it" }));
            event
        })
        .collect();
    tx.audit(&events).await?;
    let shown = access_request::show(&withdrawn, Vec::new(), now);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
