//! `GET /v1/access-reviews/{id}`: one round of an access review.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{Problem, access_review::AccessReview};
use postern_core::id::AccessReviewKind;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathId},
    shape::access_review,
    state::App,
};

/// One access review, with how many of its items stand how. For its reviewers, and for who may read at its scope.
#[utoipa::path(
    get, path = "/v1/access-reviews/{id}", tag = "access-reviews", operation_id = "getAccessReview",
    params(("id" = String, Path, description = "The access review's id.")),
    responses(
        (status = 200, description = "It.", body = AccessReview),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_access_review(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<AccessReviewKind>,
) -> Result<Json<AccessReview>, Failure> {
    const WHAT: &str = "such access review";
    let (review, counts) = app
        .store
        .access_review(id)
        .await?
        .ok_or_else(|| Failure::not_found(WHAT))?;
    let authorizer = app.authorizer().await?;
    app.may_see_access_review(&authorizer, &caller, &review, WHAT)
        .await?;
    Ok(Json(access_review::show(&review, counts)))
}
