//! `GET /v1/jit-policies`: the JIT policies that the caller may see.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use postern_api::{
    Page, Problem,
    jit_policy::{JitPolicy, JitPolicyQuery},
};
use postern_authz::{Resource, ResourceKind};
use postern_core::role::Action;
use postern_store::Visible;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, page, query::Parameters},
    shape::jit_policy,
    state::App,
};

/// The JIT policies at scopes that you may read, by id.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/jit-policies", tag = "jit-policies", operation_id = "listJitPolicies",
    params(JitPolicyQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<JitPolicy>),
        (status = 400, description = "`invalid_query`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_jit_policies(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<JitPolicyQuery>,
) -> Result<Json<Page<JitPolicy>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let authorizer = app.authorizer().await?;
    let visible = Visible {
        scopes: authorizer.scopes(&caller.principal, Action::Read, app.now()),
        own: None,
    };
    let found = app.store.policies(&visible, after, limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |policy| {
        vec![Resource {
            scope: policy.scope.clone(),
            tags: BTreeMap::new(),
            kind: ResourceKind::JitPolicy,
        }]
    });
    Ok(Json(Page {
        items: visible.iter().map(jit_policy::show).collect(),
        next_cursor,
    }))
}
