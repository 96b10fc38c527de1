//! `GET /v1/reviews`: what was opened by breaking the glass, and who looked at it.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    review::{Review, ReviewQuery},
};
use postern_core::{role::Action, scope::Scope};
use postern_store::{ReviewFilter, Visible};

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, page, query::Parameters},
    reviewing,
    shape::review,
    state::App,
};

/// Reviews of your own uses of break-glass and of those at whose machines you may read, the newest first.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/reviews", tag = "break-glass", operation_id = "listReviews",
    params(ReviewQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Review>),
        (status = 400, description = "`invalid_query`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_reviews(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<ReviewQuery>,
) -> Result<Json<Page<Review>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let open = match query.status.as_deref() {
        None => None,
        Some("open") => Some(true),
        Some("closed") => Some(false),
        Some(_) => {
            let detail = "`status` is `open` or `closed`";
            return Err(Failure::new(ErrorCode::InvalidQuery, detail));
        }
    };
    let authorizer = app.authorizer().await?;
    let filter = ReviewFilter {
        visible: Visible {
            scopes: authorizer.scopes(&caller.principal, Action::Read, app.now()),
            own: Some(caller.reference()),
        },
        open,
    };
    let found = app.store.reviews(&filter, after, limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    let scopes: Vec<Scope> = found
        .items
        .iter()
        .flat_map(|review| review.scopes.clone())
        .collect();
    let tags = app.store.tags_at(&scopes).await?;
    let own = caller.reference();
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |review| {
        if review.requester == own {
            return Vec::new();
        }
        reviewing::resources(review, &tags)
    });
    Ok(Json(Page {
        items: visible.iter().map(review::show).collect(),
        next_cursor,
    }))
}
