//! `PUT /v1/jit-policies/{id}`: replaces a JIT policy.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header::ETAG;
use postern_api::{
    ErrorCode, Problem,
    jit_policy::{JitPolicyChangeQuery, JitPolicyChanged, JitPolicyWrite},
};
use postern_core::{id::PolicyKind, role::Action};
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::Command,
        path::PathId,
        precondition::{IfMatch, etag},
        query::Parameters,
    },
    policies::{Change, check_roles, question, subject},
    shape::jit_policy,
    state::App,
};

const EVENT: &str = "jit_policy.update";

/// Replaces a JIT policy. Live grants that the policies would no longer allow end. With `dry_run`, nothing
/// changes, and the answer tells what that would do.
#[utoipa::path(
    put, path = "/v1/jit-policies/{id}", tag = "jit-policies", operation_id = "updateJitPolicy",
    params(
        JitPolicyChangeQuery,
        ("id" = String, Path, description = "The policy's id."),
        ("If-Match" = String, Header, description = "The `ETag` of the version that you saw.")
    ),
    request_body = JitPolicyWrite,
    responses(
        (status = 200, description = "It is replaced; or, of a dry run, what would have been done.", body = JitPolicyChanged,
         headers(("ETag" = String, description = "The new version, in quotes. Not of a dry run."))),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`frozen`: it would take a guard away in a frozen scope", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "`version_mismatch`: somebody changed it meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "`precondition_required`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn update_jit_policy(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<PolicyKind>,
    IfMatch(version): IfMatch,
    Parameters(query): Parameters<JitPolicyChangeQuery>,
    command: Command<JitPolicyWrite>,
) -> Result<Response, Failure> {
    let now = app.now();
    let mut policy = jit_policy::read(&command.body, id, now)?;
    let authorizer = app.authorizer().await?;
    let after = version.checked_add(1).ok_or_else(|| {
        Failure::new(
            ErrorCode::VersionMismatch,
            format!("JIT policy `{id}` is not at version {version}"),
        )
    })?;
    // Where it was and where it will be: moving a policy away opens what it guarded.
    let moved = question(&app, Action::Configure, EVENT, id, policy.scope.clone());
    let is_allowed = app.allow_read(&authorizer, &caller, moved).await?;
    let covered = match query.dry_run {
        Some(true) => Some(app.covered_now(id).await?),
        _ => None,
    };
    let (mut tx, freezes, before, was_allowed) = app
        .policy_to_change(&authorizer, &caller, (id, version), EVENT)
        .await?;
    policy.version = after;
    policy.created_at = before.created_at;
    check_roles(&mut tx, &policy).await?;
    tx.update_policy(&policy).await?;
    let change = Change::Replaced {
        before: &before,
        after: &policy,
    };
    let effect = app.apply_policy_change(&mut tx, &caller, &change, now).await?;
    let mut tx = app
        .check_frozen(tx, &caller, EVENT, &freezes, &change, &effect)
        .await?;
    let mut event = app.event(
        &caller,
        EVENT,
        policy.scope.clone(),
        subject(id),
        None,
        json!({ "before": before, "after": policy, "effect": effect }),
    );
    event.decision = Some(json!({ "before": was_allowed, "after": is_allowed }));
    if let Some(covered) = covered {
        let plan = app
            .plan_policy_change(tx, (&authorizer, &caller), event, effect, &change, covered)
            .await?;
        return Ok(Json(plan).into_response());
    }
    tx.audit(&[event]).await?;
    tx.commit().await?;
    Ok(([(ETAG, etag(policy.version)?)], Json(jit_policy::show(&policy))).into_response())
}
