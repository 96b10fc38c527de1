//! `POST /v1/access-requests/{id}/approve`: agrees to somebody else's request.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{Problem, access_request::AccessRequest as Shown};
use postern_core::{
    id::RequestKind,
    request::{AccessRequest, Approved},
};

use crate::{
    deciding::{Approval, Verdict},
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::{NoFields, OptionalCommand},
        path::PathId,
    },
    granting, idempotency,
    shape::access_request,
    state::App,
};

/// Agrees to somebody else's request: each machine gets a grant. Needs `approve` at every machine.
#[utoipa::path(
    post, path = "/v1/access-requests/{id}/approve", tag = "access-requests",
    operation_id = "approveAccessRequest",
    params(
        ("id" = String, Path, description = "The request's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    responses(
        (status = 200, description = "It is approved.", body = Shown),
        (status = 403, description = "`forbidden`, `own_request`, `not_a_person`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`, `machine_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`already_decided`, `request_lapsed`, `too_many_grants`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`no_policy`, `port_not_guarded`, `source_not_allowed`, `duration_too_long`, `nothing_to_open`, `requester_not_allowed`: the policies or the requester's roles changed since it was asked; `blocked_by_rule`, `machine_stopped`, `no_address`, `no_capacity`: the way to the machine did", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn approve_access_request(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<RequestKind>,
    command: OptionalCommand<NoFields>,
) -> Result<Response, Failure> {
    let NoFields {} = command.body;
    let now = app.now();
    let authorizer = app.authorizer().await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    // Policies before requests, as everybody locks them; the request's row lock makes two approvals one.
    let policies = granting::by_id(tx.policies().await?);
    let (mut tx, pending, decisions) = app
        .may_decide(tx, &authorizer, &caller, id, Verdict::Approve, None)
        .await?;
    let machines = tx.machines(&granting::machines_of(&pending)).await?;
    let (tx, still) = app
        .may_still_request(tx, &authorizer, &caller, &pending, &machines)
        .await?;
    let approved: AccessRequest<Approved> = match pending.approve(caller.reference(), now) {
        Ok(approved) => approved,
        Err(error) => {
            return Err(app
                .impossible(tx, &caller, id, "access_request.approve", &error)
                .await);
        }
    };
    let mut tx = tx;
    let mut terms = Vec::with_capacity(approved.targets.len());
    for (at, target) in approved.targets.iter().enumerate() {
        let machine = machines
            .get(&target.machine)
            .filter(|machine| machine.gone_at.is_none())
            .ok_or_else(|| granting::no_machine(&target.machine, at))?;
        terms.push(granting::terms(&approved, target, at, machine, &policies)?);
        if let Some(refusal) = app.preflight(target, machine, now).refusal(at) {
            return Err(refusal);
        }
    }
    tx.save_request(&approved.clone().into()).await?;
    let grants = app.grant_all(&mut tx, &approved, &terms, now).await?;
    let events = app.granted(
        &caller,
        "access_request.approve",
        &approved,
        &terms,
        &grants,
        Some(Approval {
            approver: &decisions,
            requester: &still,
        }),
    );
    tx.audit(&events).await?;
    let hops = tx
        .hops_of(&grants.iter().map(|grant| grant.id).collect::<Vec<_>>())
        .await?;
    let shown = access_request::show(&approved.into(), granting::show_all(&grants, hops), now);
    idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
    tx.commit().await?;
    Ok(Json(shown).into_response())
}
