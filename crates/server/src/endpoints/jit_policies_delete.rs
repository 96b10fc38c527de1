//! `DELETE /v1/jit-policies/{id}`: removes a JIT policy; what its lockdown displaced is put back.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    Problem,
    jit_policy::{JitPolicyChangeQuery, JitPolicyPlan},
};
use postern_core::id::PolicyKind;
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathId, precondition::IfMatch, query::Parameters},
    policies::{Change, subject},
    state::App,
};

/// Removes a JIT policy. Its live grants end, and what its lockdown displaced is put back. With `dry_run`,
/// nothing changes, and the answer tells what that would do.
#[utoipa::path(
    delete, path = "/v1/jit-policies/{id}", tag = "jit-policies", operation_id = "deleteJitPolicy",
    params(
        JitPolicyChangeQuery,
        ("id" = String, Path, description = "The policy's id."),
        ("If-Match" = String, Header, description = "The `ETag` of the version that you saw.")
    ),
    responses(
        (status = 200, description = "What a dry run would have done.", body = JitPolicyPlan),
        (status = 204, description = "It is removed."),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`frozen`: it would take a guard away in a frozen scope", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "`version_mismatch`: somebody changed it meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "`precondition_required`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn delete_jit_policy(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<PolicyKind>,
    IfMatch(version): IfMatch,
    Parameters(query): Parameters<JitPolicyChangeQuery>,
) -> Result<Response, Failure> {
    let now = app.now();
    let authorizer = app.authorizer().await?;
    let (mut tx, freezes, before, decision) = app
        .policy_to_change(&authorizer, &caller, (id, version), "jit_policy.delete")
        .await?;
    tx.delete_policy(id, Some(version)).await?;
    let change = Change::Removed(&before);
    let effect = app.apply_policy_change(&mut tx, &caller, &change, now).await?;
    let mut tx = app
        .check_frozen(tx, &caller, "jit_policy.delete", &freezes, &change, &effect)
        .await?;
    let event = app.event(
        &caller,
        "jit_policy.delete",
        before.scope.clone(),
        subject(id),
        Some(&decision),
        json!({ "before": before, "after": null, "effect": effect }),
    );
    if query.dry_run.unwrap_or(false) {
        let plan = app
            .plan_policy_change(tx, (&authorizer, &caller), event, effect, &change, Vec::new())
            .await?;
        return Ok(Json(plan).into_response());
    }
    tx.audit(&[event]).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
