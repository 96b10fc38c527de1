//! `POST /v1/access-requests/{id}/approve`: agrees to somebody else's request.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    access_request::{AccessRequest as Shown, AccessRequestApprove},
};
use postern_core::{
    approval::Agreement,
    id::RequestKind,
    request::{AccessRequest, Approved, Narrowing, Pending, RequestState, Target},
};
use serde_json::{Value, json};

use super::grants_extend;
use crate::{
    agreeing::Agreed,
    deciding::{APPROVE, Approval, Verdict},
    failure::Failure,
    flow::{authenticate::Caller, body::OptionalCommand, path::PathId},
    freezing, granting, idempotency,
    shape::access_request,
    state::App,
};

/// What an agreement makes of a request.
enum Said {
    Last(AccessRequest<Approved>),
    OneOf(AccessRequest<Pending>),
}

/// What somebody agreed to on one machine, and whom the request waits for now.
fn granted_for(request: &AccessRequest, target: &Target) -> Value {
    let awaits = match &request.state {
        RequestState::Pending(pending) => json!(pending.awaits),
        _ => Value::Null,
    };
    json!({
        "target": target,
        "duration_seconds": request.duration.as_secs(),
        "narrowed": request.agreements.last().is_some_and(|agreement| agreement.narrowed),
        "awaits": awaits,
    })
}

/// Agrees to somebody else's request, or to less of it. Needs `approve` at every machine.
///
/// When nobody else has to agree, each machine gets a grant. Otherwise the request stays pending, and `awaits` says for
/// whom. A person counts once, unless a stage of the policy says otherwise.
#[utoipa::path(
    post, path = "/v1/access-requests/{id}/approve", tag = "access-requests",
    operation_id = "approveAccessRequest",
    params(
        ("id" = String, Path, description = "The request's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body(content = Option<AccessRequestApprove>, description = "What to narrow; may be left out."),
    responses(
        (status = 200, description = "It is approved, or pending still.", body = Shown),
        (status = 400, description = "`invalid_machine_id`, `invalid_ports`, `invalid_source`, `invalid_duration`, `invalid_targets`, `invalid_reason`, …", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`, `own_request`, `not_a_person`, `not_an_approver`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`, `machine_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`already_decided`, `already_agreed`, `request_lapsed`, `frozen`, `too_many_grants`, `grant_not_open`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`wider_than_asked`, `not_longer`; `no_policy`, `port_not_guarded`, `source_not_allowed`, `duration_too_long`, `nothing_to_open`, `requester_not_allowed`: the policies or the requester's roles changed since it was asked; `blocked_by_rule`, `machine_stopped`, `no_address`, `no_capacity`: the way to the machine did", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`cloud_roles_unknown`: the cloud's own roles of the requester could not be read; `unavailable`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn approve_access_request(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<RequestKind>,
    command: OptionalCommand<AccessRequestApprove>,
) -> Result<Response, Failure> {
    let now = app.now();
    let narrowing = access_request::read_narrowing(&command.body)?;
    let comment = command.body.comment;
    let authorizer = app.authorizer().await?;
    let verdict = Verdict::Approve {
        comment: comment.as_deref(),
        narrowing: &narrowing,
    };
    // Of the requester; whoever approves needs no role in the cloud.
    let clouds = app
        .second_yes_for_approver(&authorizer, &caller, id, verdict)
        .await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, &caller, command.key.as_ref(), now).await? {
        return Ok(replay.into_response());
    }
    // Freezes before policies before requests, as everybody locks them; the request's row lock makes two approvals one.
    let freezes = tx.freezes_in_force().await?;
    let policies = granting::by_id(tx.policies().await?);
    let (mut tx, pending, decisions) = app.may_decide(tx, &authorizer, &caller, id, verdict).await?;
    if pending.extends.is_some() && narrowing.targets.is_some() {
        return Err(Failure::field(
            ErrorCode::InvalidTargets,
            "/targets",
            "an extension is of the whole grant: only its duration is narrowed",
        ));
    }
    for target in &pending.targets {
        if let Some(freeze) = freezing::over(&freezes, target) {
            return Err(app.frozen(tx, &caller, APPROVE, Some(id), target, freeze).await);
        }
    }
    let machines = tx.machines(&granting::machines_of(&pending)).await?;
    if let Err(error) = pending.check_approver(&caller.principal) {
        return Err(app.impossible(tx, &caller, id, APPROVE, &error).await);
    }
    // No cloud was asked for somebody whom the policy does not ask: that is what they are told.
    let not_asked = pending
        .targets
        .iter()
        .any(|target| clouds.was_not_asked(&target.machine));
    if not_asked
        && let Some(error) =
            app.would_not_count(&authorizer, &caller, &pending, &decisions, &machines, &policies)
    {
        return Err(app.impossible(tx, &caller, id, APPROVE, &error).await);
    }
    let (mut tx, still) = app
        .may_still_request(tx, &authorizer, &caller, &pending, &machines, &clouds)
        .await?;
    let mut terms = Vec::with_capacity(pending.targets.len());
    for (at, target) in pending.targets.iter().enumerate() {
        let machine = machines
            .get(&target.machine)
            .filter(|machine| machine.gone_at.is_none())
            .ok_or_else(|| granting::no_machine(&target.machine, at))?;
        let of_target = granting::terms(&pending, target, at, machine, &policies)?;
        if let Some(lack) = of_target.lack {
            return Err(app
                .refuse_approval_of_unproven(tx, &caller, id, target, &of_target, lack)
                .await);
        }
        if let Err(error) = of_target.still_justified(&pending) {
            return Err(app
                .refuse_unjustified(tx, &caller, APPROVE, &pending, target, &of_target, (&error, None))
                .await);
        }
        terms.push(of_target);
        let at_once = pending.extends.is_none() && pending.starts_at.is_none_or(|starts_at| starts_at <= now);
        if at_once && let Some(refusal) = app.preflight(target, machine, now).refusal(at) {
            return Err(refusal);
        }
    }
    let agreement = Agreement {
        by: (*caller.principal).clone(),
        at: now,
        comment: comment.clone(),
        narrowed: narrowing != Narrowing::default(),
    };
    let said = app
        .agreed(
            &authorizer,
            &caller.principal,
            &pending,
            &terms,
            &decisions,
            &machines,
        )
        .and_then(|agreed| match agreed {
            Agreed::All => pending.approve(agreement).map(Said::Last),
            Agreed::Some(awaits) => pending.agree(agreement, awaits).map(Said::OneOf),
        });
    let approved = match said {
        Ok(Said::Last(approved)) => approved,
        Ok(Said::OneOf(pending)) => {
            let pending: AccessRequest = pending.into();
            tx.save_request(&pending).await?;
            let comment = comment.unwrap_or_default();
            let mut events = app.decided(&caller, "access_request.agree", &pending, &decisions, &comment);
            for (event, target) in events.iter_mut().zip(&pending.targets) {
                event.reason.take_if(|reason| reason.is_empty());
                event.details = granted_for(&pending, target);
            }
            tx.audit(&events).await?;
            let shown = access_request::show(&pending, Vec::new(), now);
            idempotency::store(&mut tx, &caller, command.key.as_ref(), StatusCode::OK, &shown).await?;
            tx.commit().await?;
            return Ok(Json(shown).into_response());
        }
        Err(error) => return Err(app.impossible(tx, &caller, id, APPROVE, &error).await),
    };
    tx.save_request(&approved.clone().into()).await?;
    let grants = app.grant_or_extend(&mut tx, &approved, &terms, now).await?;
    let events = app.granted(
        &caller,
        if approved.extends.is_some() {
            grants_extend::EVENT
        } else {
            APPROVE
        },
        &approved,
        &terms,
        &grants,
        Some(Approval {
            approver: &decisions,
            requester: &still,
            clouds: &clouds,
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
