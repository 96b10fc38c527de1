//! `POST /v1/break-glass`: opens at once, without approval.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    Problem,
    access_request::{AccessRequest as Shown, AccessRequestCreate},
    review::BreakGlassQuery,
};

use super::access_requests_create::{Asked, Manner, ask};
use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::Command,
        limits::{Place, wait_of},
        query::Parameters,
    },
    state::App,
};

/// Opens ports at once in an emergency: nobody must agree. Needs `break_glass` at every machine.
///
/// The JIT policies' ports, sources and durations hold all the same, and so do guardrails and freezes. Each machine has
/// a `break_glass.use` event, which subscribers hear of, and a review stays open until somebody else closes it.
#[utoipa::path(
    post, path = "/v1/break-glass", tag = "break-glass", operation_id = "breakGlass",
    params(
        BreakGlassQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = AccessRequestCreate,
    responses(
        (status = 201, description = "The request, granted.", body = Shown),
        (status = 400, description = "`invalid_machine_id`, `invalid_ports`, `invalid_source`, `invalid_duration`, `invalid_reason`, `invalid_targets`, `unknown_field`, `malformed_json`, …", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`step_up_required` (RFC 9470), and the token's problems", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: names what is missing or forbids; `cloud_role_missing`: names what the cloud's own roles do not allow", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`machine_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`frozen`, `too_many_grants`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`no_policy`, `port_not_guarded`, `source_not_allowed`, `source_unclear`, `source_not_public`, `duration_too_long`, `nothing_to_open`, `idempotency_key_reused`; by preflight: `blocked_by_rule`, `machine_stopped`, `no_address`, `no_capacity`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn break_glass(
    State(app): State<Arc<App>>,
    caller: Caller,
    place: Place,
    Parameters(query): Parameters<BreakGlassQuery>,
    command: Command<AccessRequestCreate>,
) -> Result<Response, Failure> {
    let wait = wait_of(query.wait)?;
    match ask(&app, &caller, Manner::BreakGlass, &command, None).await? {
        Asked::Again(id, replay) => replay.with_body(app.wait_for_request(id, wait, &place).await?),
        Asked::Made(id, shown) => {
            let shown = if wait.is_zero() {
                *shown
            } else {
                app.wait_for_request(id, wait, &place).await?
            };
            Ok((StatusCode::CREATED, Json(shown)).into_response())
        }
        Asked::Tried(_) | Asked::Held(_) => {
            Err(Failure::internal("the glass is broken, not tried and not held"))
        }
    }
}
