//! `POST /v1/jit-policies`: makes a JIT policy; its machines are locked down.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::ETAG};
use postern_api::{
    Problem,
    jit_policy::{JitPolicy, JitPolicyChangeQuery, JitPolicyPlan, JitPolicyWrite},
};
use postern_core::role::Action;
use serde_json::json;

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, body::Command, precondition::etag, query::Parameters},
    idempotency,
    policies::{Change, check_roles, question, subject},
    shape::jit_policy,
    state::App,
};

/// Makes a JIT policy. The machines that it covers are locked down. With `dry_run`, nothing is made, and the answer
/// tells what that would do.
#[utoipa::path(
    post, path = "/v1/jit-policies", tag = "jit-policies", operation_id = "createJitPolicy",
    params(
        JitPolicyChangeQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = JitPolicyWrite,
    responses(
        (status = 200, description = "What a dry run would have done.", body = JitPolicyPlan),
        (status = 201, description = "It is made.", body = JitPolicy,
         headers(("ETag" = String, description = "The version, in quotes."))),
        (status = 400, description = "`invalid_policy`, `invalid_scope`, `invalid_ports`, `invalid_source`, `invalid_duration`, `unknown_field`, `malformed_json`, …", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`conflict`: the name is taken; `frozen`: it would take a guard away in a frozen scope; `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_jit_policy(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<JitPolicyChangeQuery>,
    command: Command<JitPolicyWrite>,
) -> Result<Response, Failure> {
    let now = app.now();
    let dry_run = query.dry_run.unwrap_or(false);
    let key = command.key.as_ref().filter(|_| !dry_run);
    let policy = jit_policy::read(&command.body, app.ids.next(now), now)?;
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, key, now).await? {
        return Ok(([(ETAG, etag(jit_policy::FIRST_VERSION)?)], replay).into_response());
    }
    let asked = question(
        &app,
        Action::Configure,
        "jit_policy.create",
        policy.id,
        policy.scope.clone(),
    );
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    let freezes = tx.freezes_in_force().await?;
    check_roles(&mut tx, &policy).await?;
    tx.insert_policy(&policy).await?;
    let change = Change::Made(&policy);
    let effect = app.apply_policy_change(&mut tx, &caller, &change, now).await?;
    let mut tx = app
        .check_frozen(tx, &caller, "jit_policy.create", &freezes, &change, &effect)
        .await?;
    let event = app.event(
        &caller,
        "jit_policy.create",
        policy.scope.clone(),
        subject(policy.id),
        Some(&decision),
        json!({ "before": null, "after": policy, "effect": effect }),
    );
    if dry_run {
        let plan = app
            .plan_policy_change(tx, (&authorizer, &caller), event, effect, &change, Vec::new())
            .await?;
        return Ok(Json(plan).into_response());
    }
    tx.audit(&[event]).await?;
    let shown = jit_policy::show(&policy);
    idempotency::store(&mut tx, &caller, key, StatusCode::CREATED, &shown).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, [(ETAG, etag(policy.version)?)], Json(shown)).into_response())
}
