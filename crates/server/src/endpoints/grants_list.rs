//! `GET /v1/grants`: the grants that the caller may see.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    grant::{Grant, GrantQuery},
};
use postern_authz::{Resource, ResourceKind};
use postern_core::{machine::MachineId, role::Action};
use postern_store::{GrantFilter, Visible};

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        page,
        query::{Parameters, parsed, principal},
    },
    granting,
    state::App,
};

/// Your own grants and those on machines that you may read, the newest first.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/grants", tag = "grants", operation_id = "listGrants",
    params(GrantQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Grant>),
        (status = 400, description = "`invalid_query`, `invalid_machine_id`, `invalid_principal`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_grants(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<GrantQuery>,
) -> Result<Json<Page<Grant>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let statuses: Vec<String> = query
        .status
        .iter()
        .flat_map(|statuses| statuses.split(','))
        .map(str::to_owned)
        .collect();
    if statuses.iter().any(|status| {
        !matches!(
            status.as_str(),
            "scheduled" | "opening" | "open" | "closing" | "closed"
        )
    }) {
        return Err(Failure::new(
            ErrorCode::InvalidQuery,
            "`status` is `scheduled`, `opening`, `open`, `closing` or `closed`, or several with commas",
        ));
    }
    let machine = query
        .machine
        .map(|id| {
            id.parse::<MachineId>()
                .map_err(|error| Failure::new(ErrorCode::InvalidMachineId, error.to_string()))
        })
        .transpose()?;
    let authorizer = app.authorizer().await?;
    let filter = GrantFilter {
        visible: Visible {
            scopes: authorizer.scopes(&caller.principal, Action::Read, app.now()),
            own: Some(caller.reference()),
        },
        requester: principal(query.requester.as_deref(), &caller)?,
        statuses,
        machine,
        scope: None,
        request: parsed("request", query.request.as_deref())?,
        policy: None,
    };
    let found = app.store.grants(&filter, after, limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    let machines: Vec<MachineId> = found.items.iter().map(|grant| grant.machine.clone()).collect();
    let tags = app.store.tags_of(&machines).await?;
    let own = caller.reference();
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |grant| {
        if grant.requester == own {
            return Vec::new();
        }
        vec![Resource {
            scope: grant.machine.scope(),
            tags: tags.get(&grant.machine).cloned().unwrap_or_default(),
            kind: ResourceKind::Grant,
        }]
    });
    let ids: Vec<_> = visible.iter().map(|grant| grant.id).collect();
    let hops = app.store.hops_of(&ids).await?;
    Ok(Json(Page {
        items: granting::show_all(&visible, hops),
        next_cursor,
    }))
}
