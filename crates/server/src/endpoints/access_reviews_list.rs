//! `GET /v1/access-reviews`: the rounds of access reviews.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    access_review::{AccessReview, AccessReviewQuery},
};
use postern_core::role::Action;
use postern_store::{AccessReviewFilter, Visible};

use crate::{
    access_reviewing::resource,
    failure::Failure,
    flow::{authenticate::Caller, page, query::Parameters},
    shape::access_review,
    state::App,
};

/// Access reviews that name you or a group of yours as a reviewer, and those at scopes that you may read, the newest first.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/access-reviews", tag = "access-reviews", operation_id = "listAccessReviews",
    params(AccessReviewQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<AccessReview>),
        (status = 400, description = "`invalid_query`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_access_reviews(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<AccessReviewQuery>,
) -> Result<Json<Page<AccessReview>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    if !matches!(
        query.status.as_deref(),
        None | Some("open" | "completed" | "cancelled")
    ) {
        let detail = "`status` is `open`, `completed` or `cancelled`";
        return Err(Failure::new(ErrorCode::InvalidQuery, detail));
    }
    let authorizer = app.authorizer().await?;
    let filter = AccessReviewFilter {
        visible: Visible {
            scopes: authorizer.scopes(&caller.principal, Action::Read, app.now()),
            own: None,
        },
        reviewer: caller.principal.references().collect(),
        mine: query.mine.unwrap_or(false),
        status: query.status,
    };
    let found = app.store.access_reviews(&filter, after, limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |(review, _)| {
        if review.reviewer(&caller.principal).is_some() {
            return Vec::new();
        }
        vec![resource(&review.scope)]
    });
    Ok(Json(Page {
        items: visible
            .iter()
            .map(|(review, counts)| access_review::show(review, *counts))
            .collect(),
        next_cursor,
    }))
}
