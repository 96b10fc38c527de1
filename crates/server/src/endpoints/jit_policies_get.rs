//! `GET /v1/jit-policies/{id}`: one JIT policy, with its `ETag`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header::ETAG;
use postern_api::{Problem, jit_policy::JitPolicy};
use postern_core::{id::PolicyKind, role::Action};

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathId, precondition::etag},
    policies::question,
    shape::jit_policy,
    state::App,
};

/// One JIT policy. Its `ETag` is what a change must name in `If-Match`.
#[utoipa::path(
    get, path = "/v1/jit-policies/{id}", tag = "jit-policies", operation_id = "getJitPolicy",
    params(("id" = String, Path, description = "The policy's id.")),
    responses(
        (status = 200, description = "The policy.", body = JitPolicy,
         headers(("ETag" = String, description = "The version, in quotes."))),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_jit_policy(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<PolicyKind>,
) -> Result<Response, Failure> {
    let policy = app
        .store
        .policy(id)
        .await?
        .ok_or_else(|| Failure::not_found("such JIT policy"))?;
    let authorizer = app.authorizer().await?;
    app.allow_read(
        &authorizer,
        &caller,
        question(&app, Action::Read, "jit_policy.read", id, policy.scope.clone()),
    )
    .await?;
    Ok(([(ETAG, etag(policy.version)?)], Json(jit_policy::show(&policy))).into_response())
}
