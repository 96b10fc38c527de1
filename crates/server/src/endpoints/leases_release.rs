//! `POST /v1/leases/{id}/release`: gives a lease back.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{Problem, lease::Lease as Shown};
use postern_core::id::LeaseKind;

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::{NoFields, OptionalCommand},
        path::PathId,
    },
    state::App,
};

/// Gives your lease back: what it opened is closed at once. A lease that has ended is answered as it is, so that this
/// may be repeated. Other leases and grants on the same ports stay open.
#[utoipa::path(
    post, path = "/v1/leases/{id}/release", tag = "leases", operation_id = "releaseLease",
    params(("id" = String, Path, description = "The lease's id.")),
    responses(
        (status = 200, description = "The lease, which has ended.", body = Shown),
        (status = 403, description = "`not_the_holder`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn release_lease(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<LeaseKind>,
    command: OptionalCommand<NoFields>,
) -> Result<Json<Shown>, Failure> {
    let NoFields {} = command.body;
    let now = app.now();
    let tx = app.store.begin().await?;
    let (mut tx, lease) = app.own_lease(tx, &caller, id, "lease.release").await?;
    if lease.ended.is_none() {
        app.release(&mut tx, &caller, &lease, now).await?;
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    app.show_lease(id).await.map(Json)
}
