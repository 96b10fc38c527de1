//! Freezes: what one ends when it comes into force, and what it refuses while it is.

use postern_api::ErrorCode;
use postern_authz::{Context, Resource};
use postern_core::{
    audit::{Outcome, Subject},
    freeze::Freeze,
    grant::{EndCause, Grant},
    id::RequestId,
    request::{AccessRequest, MAX_REASON, Target},
    role::Action,
    scope::Scope,
    time::Instant,
};
use postern_store::{Tx, Urgency};
use serde_json::json;

use crate::{decide::Question, failure::Failure, flow::authenticate::Caller, state::App};

/// The freeze that keeps the target's machine closed, if one does.
pub(crate) fn over<'a>(freezes: &'a [Freeze], target: &Target) -> Option<&'a Freeze> {
    let scope = target.machine.scope();
    freezes.iter().find(|freeze| freeze.holds(&scope))
}

/// The question whether somebody may freeze a scope, or lift a freeze of it.
pub(crate) fn question(app: &App, event: &'static str, scope: Scope, reason: &str) -> Question {
    Question {
        action: Action::Freeze,
        resource: Resource::scope(scope),
        context: Context {
            reason_present: true,
            ..Context::at(app.now())
        },
        event,
        subject: Subject::default(),
        reason: Some(reason.to_owned()),
    }
}

/// What a freeze ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// How many grants.
    pub(crate) grants: usize,
    /// How many pending requests.
    pub(crate) requests: usize,
}

impl App {
    /// Refuses what somebody was allowed and a freeze is not; stands in the audit log.
    pub(crate) async fn frozen(
        &self,
        tx: Tx,
        caller: &Caller,
        action: &str,
        request: Option<RequestId>,
        target: &Target,
        freeze: &Freeze,
    ) -> Failure {
        let scope = target.machine.scope();
        let subject = Subject {
            request,
            machine: Some(target.machine.clone()),
            ..Subject::default()
        };
        let mut event = self.event(caller, action, scope, subject, None, json!({}));
        event.outcome = Outcome::Denied;
        event.decision = Some(json!({ "freeze": freeze }));
        if let Err(unwritten) = self.write_alone(tx, event).await {
            return unwritten;
        }
        Failure::new(
            ErrorCode::Frozen,
            format!(
                "`{}` is frozen by {} since {}, machine `{}` with it: {}",
                freeze.scope,
                freeze.created_by,
                postern_core::time::written(freeze.created_at),
                target.machine,
                freeze.reason
            ),
        )
    }

    /// Ends every grant and turns down every pending request at the scope of the freeze, with an event each. The
    /// freeze is in the transaction already, so that none is made meanwhile.
    pub(crate) async fn close_frozen(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        freeze: &Freeze,
        now: Instant,
    ) -> Result<Ended, Failure> {
        let mut events = Vec::new();
        let mut denied: Vec<AccessRequest> = Vec::new();
        for request in tx.pending_requests_in(&freeze.scope).await? {
            // One that lapsed by itself is for the housekeeping to say so.
            let Ok(pending) = request.pending(now) else {
                continue;
            };
            let reason = format!("frozen: {}", freeze.reason);
            let reason = reason.chars().take(MAX_REASON).collect();
            let one: AccessRequest = pending.deny(freeze.created_by.clone(), reason, now).into();
            for target in &one.targets {
                let subject = Subject {
                    request: Some(one.id),
                    machine: Some(target.machine.clone()),
                    ..Subject::default()
                };
                let details = json!({ "state": one.state });
                let scope = target.machine.scope();
                let mut event = self.event(caller, "access_request.deny", scope, subject, None, details);
                event.reason = Some(freeze.reason.clone());
                event.decision = Some(json!({ "freeze": freeze.id }));
                events.push(event);
            }
            denied.push(one);
        }
        tx.save_requests(&denied).await?;
        let mut ended: Vec<Grant> = Vec::new();
        for before in tx.live_grants_in(&freeze.scope).await? {
            let state = before.state.clone();
            let Ok(live) = before.live() else { continue };
            let cause = EndCause::Frozen {
                freeze: freeze.id,
                by: freeze.created_by.clone(),
                reason: freeze.reason.clone(),
            };
            let grant: Grant = live.end(cause, now).into();
            let subject = Subject {
                request: Some(grant.request),
                grant: Some(grant.id),
                policy: Some(grant.policy),
                machine: Some(grant.machine.clone()),
                ..Subject::default()
            };
            let details = json!({ "before": state, "after": grant.state });
            let mut event = self.event(caller, "grant.end", grant.machine.scope(), subject, None, details);
            event.reason = Some(freeze.reason.clone());
            event.decision = Some(json!({ "freeze": freeze.id }));
            events.push(event);
            ended.push(grant);
        }
        tx.save_grants(&ended).await?;
        tx.audit(&events).await?;
        let ids: Vec<_> = ended.iter().map(|grant| grant.id).collect();
        let points = tx.points_of(&ids).await?;
        tx.mark_due(&points, now, Urgency::Freeze).await?;
        Ok(Ended {
            grants: ended.len(),
            requests: denied.len(),
        })
    }
}
