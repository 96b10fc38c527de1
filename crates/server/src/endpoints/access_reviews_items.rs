//! `GET /v1/access-reviews/{id}/items`: the role assignments that an access review is about.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    access_review::{AccessReviewItem, AccessReviewItemQuery},
};
use postern_core::{id::AccessReviewKind, scope::Scope};

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, page, path::PathId, query::Parameters},
    shape::access_review,
    state::App,
};

/// The items of an access review: its role assignments as they were when the round started, each with its last use, a
/// recommendation and what was decided. For its reviewers, and for who may read at its scope.
#[utoipa::path(
    get, path = "/v1/access-reviews/{id}/items", tag = "access-reviews", operation_id = "listAccessReviewItems",
    params(
        ("id" = String, Path, description = "The access review's id."),
        AccessReviewItemQuery
    ),
    responses(
        (status = 200, description = "A page of them.", body = Page<AccessReviewItem>),
        (status = 400, description = "`invalid_query`, `invalid_scope`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_access_review_items(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<AccessReviewKind>,
    Parameters(query): Parameters<AccessReviewItemQuery>,
) -> Result<Json<Page<AccessReviewItem>>, Failure> {
    const WHAT: &str = "such access review";
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let status = access_review::item_status(query.status.as_deref())?;
    let scope = query
        .scope
        .map(|scope| {
            scope
                .parse::<Scope>()
                .map_err(|error| Failure::new(ErrorCode::InvalidScope, error.to_string()))
        })
        .transpose()?;
    let (review, _) = app
        .store
        .access_review(id)
        .await?
        .ok_or_else(|| Failure::not_found(WHAT))?;
    let authorizer = app.authorizer().await?;
    app.may_see_access_review(&authorizer, &caller, &review, WHAT)
        .await?;
    let found = app
        .store
        .access_review_items(id, status, scope.as_ref(), after, limit)
        .await?;
    Ok(Json(Page {
        next_cursor: found.next.as_ref().map(page::cursor),
        items: found.items.iter().map(access_review::show_item).collect(),
    }))
}
