//! `GET /v1/freezes`: what is frozen, and what was.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    freeze::{Freeze, FreezeQuery},
};
use postern_authz::Resource;
use postern_core::role::Action;
use postern_store::{FreezeFilter, Visible};

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, page, query::Parameters},
    shape::freeze,
    state::App,
};

/// The freezes that hold, or held, something at scopes that you may read, the newest first.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/freezes", tag = "freezes", operation_id = "listFreezes",
    params(FreezeQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Freeze>),
        (status = 400, description = "`invalid_query`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_freezes(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<FreezeQuery>,
) -> Result<Json<Page<Freeze>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let in_force = match query.status.as_deref() {
        None => None,
        Some("in_force") => Some(true),
        Some("lifted") => Some(false),
        Some(_) => {
            let detail = "`status` is `in_force` or `lifted`";
            return Err(Failure::new(ErrorCode::InvalidQuery, detail));
        }
    };
    let authorizer = app.authorizer().await?;
    let scopes = authorizer.scopes(&caller.principal, Action::Read, app.now());
    let filter = FreezeFilter {
        visible: Visible {
            scopes: scopes.clone(),
            own: None,
        },
        in_force,
    };
    let found = app.store.freezes(&filter, after, limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    // A freeze from above is seen by who may read any of the scopes that it holds.
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |freeze| {
        let below = scopes.iter().find(|scope| freeze.scope.contains(scope));
        vec![Resource::scope(below.unwrap_or(&freeze.scope).clone())]
    });
    Ok(Json(Page {
        items: visible.iter().map(freeze::show).collect(),
        next_cursor,
    }))
}
