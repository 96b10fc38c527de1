//! `GET /v1/leases/{id}`: one lease.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{Problem, lease::Lease as Shown};
use postern_core::id::LeaseKind;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathId},
    state::App,
};

/// One lease, with what it holds. Yours, or one all of whose machines you may read. Reading is no heartbeat.
#[utoipa::path(
    get, path = "/v1/leases/{id}", tag = "leases", operation_id = "getLease",
    params(("id" = String, Path, description = "The lease's id.")),
    responses(
        (status = 200, description = "The lease.", body = Shown),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_lease(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<LeaseKind>,
) -> Result<Json<Shown>, Failure> {
    let lease = app
        .store
        .access_lease(id)
        .await?
        .ok_or_else(|| Failure::not_found("such lease"))?;
    let request = app
        .store
        .request(lease.request)
        .await?
        .ok_or_else(|| Failure::internal("a lease holds no request"))?;
    app.may_see_request(&caller, &request, "such lease").await?;
    app.show_lease(id).await.map(Json)
}
