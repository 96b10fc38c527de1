//! `POST /v1/leases`: makes a lease, or finds one's own.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    access_request::AccessRequestCreate,
    lease::{Lease as Shown, LeaseCreate, LeaseWaitQuery},
};

use crate::{
    endpoints::access_requests_create::{Asked, Manner, ask},
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::Command,
        limits::{Place, wait_of},
        query::Parameters,
    },
    leasing::{WantedLease, fingerprint},
    my_address,
    shape::lease,
    state::App,
};

/// Asks for ports for as long as you are heard of, and no longer than a time.
///
/// While the lease lasts, sending the same again with the same `key` finds it, and its holder is heard of. Every few
/// seconds, as agreed, you say that you are still there; when you were not heard of for three times as long, what it
/// opened is closed. With `wait`, the answer comes when every grant is open or has ended, or when the time is over;
/// send it again to wait on. Two leases never close each other's ports, also behind the same address.
#[utoipa::path(
    post, path = "/v1/leases", tag = "leases", operation_id = "createLease",
    params(
        LeaseWaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe, also after the lease ended. The lease's key, where the body names none.")
    ),
    request_body = LeaseCreate,
    responses(
        (status = 200, description = "The lease that you hold under the key.", body = Shown),
        (status = 201, description = "A new lease.", body = Shown),
        (status = 400, description = "`invalid_lease`, and what `POST /v1/access-requests` answers", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`step_up_required` (RFC 9470), and the token's problems", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: names what is missing or forbids; `cloud_role_missing`: names what the cloud's own roles do not allow", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`machine_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`frozen`, `lease_key_in_use`, `too_many_grants`, `too_many_pending`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "What `POST /v1/access-requests` answers", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_lease(
    State(app): State<Arc<App>>,
    caller: Caller,
    place: Place,
    Parameters(query): Parameters<LeaseWaitQuery>,
    command: Command<LeaseCreate>,
) -> Result<Response, Failure> {
    let wait = wait_of(query.wait)?;
    let body = command.body;
    let id = app.ids.next(app.now());
    let heartbeat_every = lease::heartbeat_every(body.heartbeat_every_seconds)?;
    let key = match (&body.key, &command.key) {
        (Some(key), _) => lease::key(key)?,
        (None, Some(header)) => lease::key(&header.key)?,
        (None, None) => lease::key(&postern_core::id::LeaseId::to_string(&id))?,
    };
    let asked = AccessRequestCreate {
        targets: body.targets,
        duration_seconds: body.duration_seconds,
        reason: body.reason,
        ticket: body.ticket,
        starts_at: None,
        mode: None,
    };
    let wanted = WantedLease {
        id,
        key,
        heartbeat_every,
        wait,
        // From elsewhere it is another lease: what the first one opens would be of no use.
        fingerprint: fingerprint(&my_address::filled(&asked, caller.address)?, heartbeat_every)?,
    };
    let command = Command {
        body: asked,
        key: command.key,
    };
    let (request, status) = match ask(&app, &caller, Manner::Ask, &command, Some(&wanted)).await? {
        Asked::Made(id, _) => (id, StatusCode::CREATED),
        Asked::Again(id, _) | Asked::Held(id) => (id, StatusCode::OK),
        Asked::Tried(_) => return Err(Failure::internal("a lease was asked for, not tried")),
    };
    let held = app
        .store
        .lease_of_request(request)
        .await?
        .ok_or_else(|| Failure::new(ErrorCode::LeaseEnded, "the request was not held by a lease"))?;
    let shown = app.await_lease(&held, wait, &place).await?;
    Ok((status, Json(shown)).into_response())
}
