//! `GET /v1/access-requests/{id}`: one access request, with its grants.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{Problem, access_request::AccessRequest};
use postern_core::id::RequestKind;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathId},
    state::App,
};

/// One access request, with its grants and their hops. Yours, or one of whose machines you may read
/// every one.
#[utoipa::path(
    get, path = "/v1/access-requests/{id}", tag = "access-requests", operation_id = "getAccessRequest",
    params(("id" = String, Path, description = "The request's id.")),
    responses(
        (status = 200, description = "The request.", body = AccessRequest),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_access_request(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<RequestKind>,
) -> Result<Json<AccessRequest>, Failure> {
    let request = app
        .store
        .request(id)
        .await?
        .ok_or_else(|| Failure::not_found("such access request"))?;
    app.may_see_request(&caller, &request, "such access request")
        .await?;
    app.show_request(&request).await.map(Json)
}
