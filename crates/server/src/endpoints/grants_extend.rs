//! `POST /v1/grants/{id}/extend`: asks for an open grant to last longer.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use postern_api::{
    ErrorCode, Problem,
    access_request::{AccessRequest as Shown, AccessRequestCreate},
    grant::GrantExtend,
};
use postern_core::{
    audit::{Outcome, Subject},
    grant::{Grant, GrantState},
    id::{GrantId, GrantKind},
    role::Action,
    time::Instant,
};
use postern_store::{Tx, Urgency};
use serde_json::json;

use super::access_requests_create::{Asked, Asking, Manner, ask_for};
use crate::{
    failure::Failure,
    flow::{authenticate::Caller, body::Command, path::PathId},
    reading::{self, hidden},
    shape::access_request,
    state::App,
};

/// The audit event of an extension.
pub(crate) const EVENT: &str = "grant.extend";

/// Asks for your own open grant to last longer.
///
/// It is decided as a new request is: your roles and guardrails, the JIT policy's longest duration, which the whole
/// grant must keep within, and its approval. Where somebody must agree, the answer is a pending request, which lapses at
/// the latest when the grant ends. The end only moves later.
#[utoipa::path(
    post, path = "/v1/grants/{id}/extend", tag = "grants", operation_id = "extendGrant",
    params(
        ("id" = String, Path, description = "The grant's id."),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = GrantExtend,
    responses(
        (status = 201, description = "The request: approved, with the grant as it is now, or pending.", body = Shown),
        (status = 400, description = "`invalid_duration`, `invalid_reason`, `unknown_field`, `malformed_json`, …", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`step_up_required` (RFC 9470), and the token's problems", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`, `cloud_role_missing`, `not_the_requester`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`grant_not_open`, `frozen`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`not_longer`, `no_policy`, `port_not_guarded`, `source_not_allowed`, `duration_too_long`, `idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn extend_grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<GrantKind>,
    command: Command<GrantExtend>,
) -> Result<Response, Failure> {
    let now = app.now();
    let grant = app
        .store
        .grant(id)
        .await?
        .ok_or_else(|| Failure::not_found("such grant"))?;
    if grant.requester != caller.reference() {
        return Err(refuse(&app, &caller, &grant).await);
    }
    let body = AccessRequestCreate {
        targets: vec![reading::target_of(&grant)],
        duration_seconds: command.body.duration_seconds,
        reason: command.body.reason,
        ticket: app
            .store
            .request(grant.request)
            .await?
            .and_then(|request| request.ticket),
        starts_at: None,
        mode: None,
    };
    let mut request = access_request::read(
        &body,
        caller.address,
        postern_core::request::Mode::default(),
        app.ids.next(now),
        (*caller.principal).clone(),
        now,
        now,
    )?;
    request.extends = Some(id);
    // Of a grant that is over, or would be no longer, an earlier answer may still be asked for again.
    let ends_at = match (&grant.state, &command.key) {
        (GrantState::Open(open), _) => open.ends_at,
        (_, Some(_)) => now,
        (_, None) => return Err(not_open(&grant)),
    };
    let asking = Asking {
        manner: Manner::Extend { ends_at },
        request,
        from_caller: Vec::new(),
        lease: None,
    };
    match ask_for(&app, &caller, asking, command.key.as_ref()).await? {
        Asked::Again(id, replay) => {
            let request = app.store.request(id).await?;
            let request = request.ok_or_else(|| Failure::not_found("such access request"))?;
            replay.with_body(app.show_request(&request).await?)
        }
        Asked::Made(_, shown) => Ok((StatusCode::CREATED, Json(*shown)).into_response()),
        Asked::Tried(_) | Asked::Held(_) => Err(Failure::internal("an extension is not tried and not held")),
    }
}

/// Somebody else's grant is not extended, which stands in the audit log.
async fn refuse(app: &App, caller: &Caller, grant: &Grant) -> Failure {
    let rule = "a grant is extended by whose it is";
    let subject = Subject {
        request: Some(grant.request),
        grant: Some(grant.id),
        machine: Some(grant.machine.clone()),
        ..Subject::default()
    };
    let mut event = app.event(caller, EVENT, grant.machine.scope(), subject, None, json!({}));
    event.outcome = Outcome::Denied;
    event.decision = Some(json!({ "rule": rule }));
    let tx = match app.store.begin().await {
        Ok(tx) => tx,
        Err(error) => return error.into(),
    };
    if let Err(unwritten) = app.write_alone(tx, event).await {
        return unwritten;
    }
    let refusal = Failure::new(ErrorCode::NotTheRequester, rule);
    // Who may not see the grant does not learn that it is there.
    let resource = match app.about_grant(grant, Action::Read, EVENT, None).await {
        Ok(question) => question.resource,
        Err(failure) => return failure,
    };
    match app.authorizer().await {
        Ok(authorizer) if app.may_read_all(&authorizer, caller, [resource]) => refusal,
        Ok(_) => hidden(refusal, "such grant"),
        Err(failure) => failure,
    }
}

fn not_open(grant: &Grant) -> Failure {
    Failure::new(
        ErrorCode::GrantNotOpen,
        format!(
            "the grant is {}, and only an open grant is extended",
            grant.state.status()
        ),
    )
}

impl App {
    /// The grant as it would be with this duration in all; locked.
    pub(crate) async fn lengthened(
        &self,
        tx: &mut Tx,
        id: GrantId,
        duration: std::time::Duration,
        now: Instant,
    ) -> Result<Grant<postern_core::grant::Open>, Failure> {
        use postern_core::grant::NotExtended;
        let grant = tx
            .grant(id)
            .await?
            .ok_or_else(|| Failure::not_found("such grant"))?;
        grant.extend(duration, now).map_err(|error| {
            let detail = error.to_string();
            match error {
                NotExtended::NotOpen(_) | NotExtended::Over(_) => {
                    Failure::new(ErrorCode::GrantNotOpen, detail)
                }
                NotExtended::NotLonger(_) => {
                    Failure::field(ErrorCode::NotLonger, "/duration_seconds", detail)
                }
            }
        })
    }

    /// Has an open grant last longer, and wakes the loop, which puts the new end into its rules' marks.
    pub(crate) async fn lengthen(
        &self,
        tx: &mut Tx,
        id: GrantId,
        duration: std::time::Duration,
        now: Instant,
    ) -> Result<Grant, Failure> {
        let extended = self.lengthened(tx, id, duration, now).await?;
        tx.extend_grant(&extended).await?;
        let points = tx.points_of(&[id]).await?;
        tx.mark_due(&points, now, Urgency::Opening).await?;
        Ok(extended.into())
    }
}
