//! `POST /v1/deliveries/{id}/replay`: tries once more what was given up.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{ErrorCode, Problem, delivery::Delivery};
use postern_authz::{Context, Resource};
use postern_core::{audit::Subject, role::Action, scope::Scope};
use serde_json::json;

use crate::{
    decide::Question,
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::{NoFields, OptionalCommand},
        path::PathText,
    },
    idempotency,
    shape::delivery,
    state::App,
};

const EVENT: &str = "delivery.replay";

/// Lets a delivery that was given up be tried again, before those that were written after it. Needs `configure` at
/// `/`.
#[utoipa::path(
    post, path = "/v1/deliveries/{id}/replay", tag = "audit", operation_id = "replayDelivery",
    params(
        ("id" = i64, Path, description = "The delivery's number."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    responses(
        (status = 200, description = "It waits.", body = Delivery),
        (status = 400, description = "`invalid_id`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: none that was given up, or nobody is configured to get it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn replay_delivery(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(id): PathText,
    command: OptionalCommand<NoFields>,
) -> Result<Response, Failure> {
    let NoFields {} = command.body;
    let id: i64 = id
        .parse()
        .map_err(|_| Failure::new(ErrorCode::InvalidId, "a delivery's id is a number"))?;
    let now = app.now();
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    let question = Question {
        action: Action::Configure,
        resource: Resource::scope(Scope::root()),
        context: Context::at(now),
        event: EVENT,
        subject: Subject::default(),
        reason: None,
    };
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, question).await?;
    let replayed = tx.replay_delivery(id, now).await?.ok_or_else(|| {
        Failure::not_found("such delivery that was given up, to a subscriber that is configured")
    })?;
    let details = json!({
        "delivery": replayed.id, "subscriber": replayed.subscriber, "event": replayed.event,
    });
    let event = app.event(
        &caller,
        EVENT,
        Scope::root(),
        Subject::default(),
        Some(&decision),
        details,
    );
    tx.audit(&[event]).await?;
    let shown = delivery::show(replayed);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
