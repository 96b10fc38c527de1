//! `POST /v1/leases/{id}/heartbeat`: the holder is still there.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Problem,
    lease::{Lease as Shown, LeaseWaitQuery},
};
use postern_core::{id::LeaseKind, lease::Held};

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::{NoFields, OptionalCommand},
        limits::{Place, wait_of},
        path::PathId,
        query::Parameters,
    },
    state::App,
};

/// Says that you, who hold the lease, are still there. Safe to repeat. A lease that has ended, or whose grants have,
/// is refused: stop what you do with it. With `wait`, the answer comes when every grant is open or has ended, or when
/// the time is over: so a holder waits on for the opening.
#[utoipa::path(
    post, path = "/v1/leases/{id}/heartbeat", tag = "leases", operation_id = "heartbeatLease",
    params(
        LeaseWaitQuery,
        ("id" = String, Path, description = "The lease's id.")
    ),
    responses(
        (status = 200, description = "The lease, which lasts until the next heartbeat is missed.", body = Shown),
        (status = 403, description = "`not_the_holder`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`lease_ended`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn heartbeat_lease(
    State(app): State<Arc<App>>,
    caller: Caller,
    place: Place,
    PathId(id): PathId<LeaseKind>,
    Parameters(query): Parameters<LeaseWaitQuery>,
    command: OptionalCommand<NoFields>,
) -> Result<Json<Shown>, Failure> {
    let NoFields {} = command.body;
    let wait = wait_of(query.wait)?;
    let tx = app.store.begin().await?;
    let (mut tx, lease) = app.own_lease(tx, &caller, id, "lease.heartbeat").await?;
    if let Some((at, cause)) = lease.ended {
        return Err(Failure::new(
            ErrorCode::LeaseEnded,
            format!(
                "the lease ended at {}: {}",
                postern_core::time::written(at),
                cause.as_str()
            ),
        ));
    }
    tx.hear_lease(&lease, wait).await?;
    tx.commit().await?;
    let shown = app.await_lease(&lease, wait, &place).await?;
    let nothing_left = [Held::Refused, Held::Closing, Held::Closed];
    if nothing_left.iter().any(|held| held.as_str() == shown.status) {
        let why = shown
            .request
            .grants
            .iter()
            .find_map(|grant| grant.cause.as_ref())
            .map_or_else(
                || format!("the request is {}", shown.request.status),
                |cause| {
                    let reason = cause.reason.as_deref().map(|reason| format!(" ({reason})"));
                    format!("its grants ended: {}{}", cause.kind, reason.unwrap_or_default())
                },
            );
        return Err(Failure::new(ErrorCode::LeaseEnded, why));
    }
    Ok(Json(shown))
}
