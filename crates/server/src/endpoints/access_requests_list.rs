//! `GET /v1/access-requests`: the access requests that the caller may see.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    access_request::{AccessRequest, AccessRequestQuery},
};
use postern_core::role::Action;
use postern_store::{RequestFilter, Visible};

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        page,
        query::{Parameters, principal},
    },
    state::App,
};

/// Your own access requests and those for machines that you may read, the newest first.
#[utoipa::path(
    get, path = "/v1/access-requests", tag = "access-requests", operation_id = "listAccessRequests",
    params(AccessRequestQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<AccessRequest>),
        (status = 400, description = "`invalid_query`, `invalid_principal`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_access_requests(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<AccessRequestQuery>,
) -> Result<Json<Page<AccessRequest>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    if let Some(status) = &query.status
        && !matches!(
            status.as_str(),
            "pending" | "approved" | "denied" | "withdrawn" | "lapsed"
        )
    {
        return Err(Failure::new(
            ErrorCode::InvalidQuery,
            "`status` is `pending`, `approved`, `denied`, `withdrawn` or `lapsed`",
        ));
    }
    let authorizer = app.authorizer().await?;
    let filter = RequestFilter {
        visible: Visible {
            scopes: authorizer.scopes(&caller.principal, Action::Read),
            own: Some(caller.reference()),
        },
        requester: principal(query.requester.as_deref(), &caller)?,
        status: query.status,
        machine: None,
    };
    let found = app.store.requests(&filter, after, limit).await?;
    let mut items = Vec::with_capacity(found.items.len());
    for request in &found.items {
        items.push(app.show_request(request).await?);
    }
    Ok(Json(Page {
        items,
        next_cursor: found.next.as_ref().map(page::cursor),
    }))
}
