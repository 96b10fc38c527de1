//! `GET /v1/access-requests`: the access requests that the caller may see.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    access_request::{AccessRequest, AccessRequestQuery},
};
use postern_authz::{Resource, ResourceKind};
use postern_core::{machine::MachineId, request::Target, role::Action};
use postern_store::{RequestFilter, Visible};

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        page,
        query::{Parameters, principal},
    },
    granting::machines_of,
    state::App,
};

/// Your own access requests and those of whose machines you may read every one, the newest first.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
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
            scopes: authorizer.scopes(&caller.principal, Action::Read, app.now()),
            own: Some(caller.reference()),
        },
        requester: principal(query.requester.as_deref(), &caller)?,
        status: query.status,
        machine: None,
    };
    let found = app.store.requests(&filter, after, limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    let machines: Vec<MachineId> = found.items.iter().flat_map(machines_of).collect();
    let tags = app.store.tags_of(&machines).await?;
    let own = caller.reference();
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |request| {
        if request.requester == own {
            return Vec::new();
        }
        let resource = |target: &Target| Resource {
            scope: target.machine.scope(),
            tags: tags.get(&target.machine).cloned().unwrap_or_default(),
            kind: ResourceKind::AccessRequest,
        };
        request.targets.iter().map(resource).collect()
    });
    let items = app.show_requests(&visible).await?;
    Ok(Json(Page { items, next_cursor }))
}
