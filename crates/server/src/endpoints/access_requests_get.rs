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
/// every one. While it is pending, with how its ports can be reached without it (`exposures`).
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
    let mut shown = app.show_request(&request).await?;
    if shown.status == "pending" {
        shown.exposures = app.exposures_now(&caller, &request.targets).await?;
    }
    Ok(Json(shown))
}
