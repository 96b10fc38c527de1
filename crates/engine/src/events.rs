//! The audit events that the loop writes.

use std::{collections::BTreeMap, time::Duration};

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    enforcer::{Change, Finding, Obstacle},
    grant::{Closed, Closing, EndCause, Grant, Open},
    id::{ChangeId, GrantId, PassId, RequestId},
    lease::AccessLease,
    machine::MachineId,
    point::PointRef,
    request::{AccessRequest, Lapsed, Reminder, RequestState, Withdrawn},
    review::{self, Review},
    role::RoleAssignment,
    scope::Scope,
    time::{IdSource, Instant},
};
use postern_store::Hop;
use serde_json::{Value, json};

/// Makes events of one instant.
pub(crate) struct Events<'a> {
    ids: &'a dyn IdSource,
    now: Instant,
}

impl<'a> Events<'a> {
    pub(crate) const fn at(now: Instant, ids: &'a dyn IdSource) -> Self {
        Self { ids, now }
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    fn event(
        &self,
        action: &str,
        outcome: Outcome,
        scope: Scope,
        subject: Subject,
        details: Value,
    ) -> AuditEvent {
        AuditEvent {
            id: self.ids.next(self.now),
            at: self.now,
            action: action.to_owned(),
            outcome,
            actor: Actor::System {
                component: "reconciler".to_owned(),
            },
            scope,
            reason: None,
            decision: None,
            details,
            subject,
            http_request: None,
        }
    }

    /// A grant is not wanted any more, and the loop itself decided so.
    pub(crate) fn grant_ended(&self, grant: &Grant<Closing>) -> AuditEvent {
        let mut event = self.event(
            "grant.end",
            Outcome::Succeeded,
            grant.machine.scope(),
            grant_subject(grant),
            json!({ "cause": grant.state.cause, "opened_at": grant.state.opened_at }),
        );
        event.decision = Some(json!({
            "decided_by": "lifecycle",
            "rule": match &grant.state.cause {
                EndCause::Expired => "the grant's time was over",
                EndCause::OpenFailed { .. } => "the grant could not be opened",
                EndCause::MachineGone => "the machine is gone",
                EndCause::NotAllowed { .. } => "decided again when it was to start",
                EndCause::NotTogether { .. } => "the request wants all or nothing",
                EndCause::PolicyRemoved => "the policy does not cover the machine any more",
                EndCause::Revoked { .. } => "the grant was revoked",
                EndCause::Released => "the lease was released",
                EndCause::HeartbeatMissed => "heartbeat missed",
                EndCause::DatabaseRestored => {
                    "the database was restored, and nothing of the grant stood any more"
                }
                EndCause::Frozen { .. } => "the scope was frozen",
            },
            "created_at": grant.created_at,
            "duration_seconds": grant.duration.as_secs(),
            "not_after": grant.not_after,
        }));
        event
    }

    /// Every hop was read back as open.
    pub(crate) fn grant_opened(&self, grant: &Grant<Open>, hops: &[Hop]) -> AuditEvent {
        self.event(
            "grant.open",
            Outcome::Succeeded,
            grant.machine.scope(),
            grant_subject(grant),
            json!({ "ends_at": grant.state.ends_at, "hops": hops }),
        )
    }

    /// Every hop was read back as closed. Connections that were established before are not cut by either cloud,
    /// which is why this says that the rule is closed and not that the access ended.
    pub(crate) fn grant_closed(&self, grant: &Grant<Closed>) -> AuditEvent {
        self.event(
            "grant.rule_closed",
            Outcome::Succeeded,
            grant.machine.scope(),
            grant_subject(grant),
            json!({
                "cause": grant.state.cause,
                "ended_at": grant.state.ended_at,
                "lag_ms": (grant.state.closed_at - grant.state.ended_at).num_milliseconds(),
            }),
        )
    }

    /// A grant ended a while ago and its rules still stand.
    pub(crate) fn grant_overdue(&self, grant: &Grant<Closing>, error: &str) -> AuditEvent {
        self.event(
            "grant.overdue",
            Outcome::Failed,
            grant.machine.scope(),
            grant_subject(grant),
            json!({ "ended_at": grant.state.since, "error": error }),
        )
    }

    /// The holder of a lease was not heard of in time.
    pub(crate) fn heartbeat_missed(
        &self,
        lease: &AccessLease,
        ended: &[Grant],
        withdrawn: bool,
    ) -> AuditEvent {
        let scope = match ended {
            [one] => one.machine.scope(),
            _ => Scope::root(),
        };
        let subject = Subject {
            request: Some(lease.request),
            ..Subject::default()
        };
        let details = json!({
            "lease": lease.id,
            "key": lease.key,
            "holder": lease.holder,
            "heard_at": lease.heard_at,
            "heartbeat_by": lease.deadline,
            "heartbeat_every_seconds": lease.heartbeat_every.as_secs(),
            "grants_ended": ended.iter().map(|grant| grant.id).collect::<Vec<_>>(),
            "request_withdrawn": withdrawn,
        });
        let mut event = self.event("lease.end", Outcome::Succeeded, scope, subject, details);
        event.reason = Some("heartbeat missed".to_owned());
        event.decision = Some(json!({ "decided_by": "lifecycle", "rule": "heartbeat missed" }));
        event
    }

    /// A change is about to be made.
    pub(crate) fn change_intended(&self, pass: &PassRef<'_>, id: ChangeId, change: &Change) -> AuditEvent {
        self.change(pass, id, change, Outcome::Intended, &Value::Null)
    }

    /// How a change went.
    pub(crate) fn change(
        &self,
        pass: &PassRef<'_>,
        id: ChangeId,
        change: &Change,
        outcome: Outcome,
        detail: &Value,
    ) -> AuditEvent {
        let mut subject = pass.subject();
        subject.change = Some(id);
        subject.grant = only(&change.grants);
        subject.policy = only(&change.policies);
        let details = if outcome == Outcome::Intended {
            json!({
                "verb": change.verb, "target": change.target, "summary": change.summary,
                "grants": change.grants, "policies": change.policies,
                "before": change.before, "after": change.after, "displaces": change.displaces,
            })
        } else {
            json!({
                "verb": change.verb, "target": change.target, "summary": change.summary,
                "grants": change.grants, "policies": change.policies, "answer": detail,
            })
        };
        self.event("change.apply", outcome, pass.scope(), subject, details)
    }

    /// Something that was noticed about rules in others' hands.
    pub(crate) fn finding(&self, pass: &PassRef<'_>, finding: &Finding) -> AuditEvent {
        self.of_finding("point.finding", pass, finding)
    }

    /// What was noticed is not so any more: put right by us, or by somebody else.
    pub(crate) fn finding_resolved(&self, pass: &PassRef<'_>, finding: &Finding) -> AuditEvent {
        self.of_finding("point.resolved", pass, finding)
    }

    fn of_finding(&self, action: &'static str, pass: &PassRef<'_>, finding: &Finding) -> AuditEvent {
        self.event(
            action,
            Outcome::Succeeded,
            pass.scope(),
            pass.subject_of(&finding.grants),
            json!(finding),
        )
    }

    /// Something that is wanted and cannot be had.
    pub(crate) fn obstacle(&self, pass: &PassRef<'_>, obstacle: &Obstacle) -> AuditEvent {
        let mut subject = pass.subject_of(&obstacle.grants);
        subject.policy = only(&obstacle.policies);
        self.event(
            "point.obstacle",
            Outcome::Failed,
            pass.scope(),
            subject,
            json!(obstacle),
        )
    }

    /// A lockdown's displaced rules are back as they were.
    pub(crate) fn restored(&self, pass: &PassRef<'_>, displaced: &Value) -> AuditEvent {
        self.event(
            "lockdown.restored",
            Outcome::Succeeded,
            pass.scope(),
            pass.subject(),
            json!({ "displaced": displaced }),
        )
    }

    /// A point was looked at for the first time after the database was restored.
    pub(crate) fn point_settled_after_restore(&self, point: &PointRef, details: Value) -> AuditEvent {
        let subject = Subject {
            point: Some(point.to_string()),
            ..Subject::default()
        };
        self.event(
            "point.settle_after_restore",
            Outcome::Succeeded,
            point.account().scope(),
            subject,
            details,
        )
    }

    /// Nobody decided a request in time.
    pub(crate) fn request_lapsed(&self, request: &AccessRequest<Lapsed>) -> AuditEvent {
        let scope = match request.targets.as_slice() {
            [one] => one.machine.scope(),
            _ => Scope::root(),
        };
        let subject = Subject {
            request: Some(request.id),
            ..Subject::default()
        };
        let details = json!({ "requester": request.requester, "machines": machines(request) });
        let mut event = self.event(
            "access_request.lapse",
            Outcome::Succeeded,
            scope,
            subject,
            details,
        );
        event.decision = Some(json!({ "decided_by": "lifecycle", "rule": "nobody decided in time" }));
        event
    }

    /// A request was taken back, because whoever made it was not heard of any more.
    pub(crate) fn request_withdrawn(&self, request: &AccessRequest<Withdrawn>) -> AuditEvent {
        let scope = match request.targets.as_slice() {
            [one] => one.machine.scope(),
            _ => Scope::root(),
        };
        let subject = Subject {
            request: Some(request.id),
            ..Subject::default()
        };
        let details = json!({ "requester": request.requester, "machines": machines(request) });
        let mut event = self.event(
            "access_request.withdraw",
            Outcome::Succeeded,
            scope,
            subject,
            details,
        );
        event.decision = Some(json!({ "decided_by": "lifecycle", "rule": "heartbeat missed" }));
        event
    }

    /// Somebody is reminded that a request waits for them, machine by machine, so that whoever hears of a scope does.
    pub(crate) fn request_reminder(&self, request: &AccessRequest, how: Reminder) -> Vec<AuditEvent> {
        let RequestState::Pending(pending) = &request.state else {
            return Vec::new();
        };
        request
            .targets
            .iter()
            .map(|target| {
                let subject = Subject {
                    request: Some(request.id),
                    grant: request.extends,
                    machine: Some(target.machine.clone()),
                    ..Subject::default()
                };
                let details = json!({
                    "requester": request.requester,
                    "lapses_at": pending.lapses_at,
                    "awaits": pending.awaits,
                });
                let scope = target.machine.scope();
                let mut event = self.event(how.action(), Outcome::Succeeded, scope, subject, details);
                event.reason = Some(request.reason.clone());
                event.decision = Some(json!({ "decided_by": "lifecycle", "rule": how.rule() }));
                event
            })
            .collect()
    }

    /// Somebody is reminded of a review that is to be closed `within` so long, machine by machine, so that whoever hears of
    /// a scope does.
    pub(crate) fn review_reminder(
        &self,
        review: &Review,
        how: review::Reminder,
        within: Duration,
    ) -> Vec<AuditEvent> {
        review
            .scopes
            .iter()
            .map(|scope| {
                let subject = Subject {
                    request: Some(review.request),
                    ..Subject::default()
                };
                let details = json!({
                    "review": review.id,
                    "requester": review.requester,
                    "opened_at": review.opened_at,
                    "to_close_by": review.opened_at + within,
                });
                let mut event = self.event(how.action(), Outcome::Succeeded, scope.clone(), subject, details);
                event.reason = Some(review.reason.clone());
                event.decision = Some(json!({ "decided_by": "lifecycle", "rule": how.rule() }));
                event
            })
            .collect()
    }

    /// A role assignment's end has come.
    pub(crate) fn assignment_lapsed(&self, assignment: &RoleAssignment) -> AuditEvent {
        let mut event = self.event(
            "role_assignment.lapse",
            Outcome::Succeeded,
            assignment.scope.clone(),
            Subject::default(),
            json!({ "before": assignment, "after": null }),
        );
        event.decision = Some(json!({ "decided_by": "lifecycle", "rule": "its end has come" }));
        event
    }

    /// What an earlier pass intended and left without an outcome was looked at.
    pub(crate) fn change_settled_late(
        &self,
        pass: &PassRef<'_>,
        id: ChangeId,
        outcome: Outcome,
        details: &Value,
    ) -> AuditEvent {
        let mut subject = pass.subject();
        subject.change = Some(id);
        self.event("change.apply", outcome, pass.scope(), subject, details.clone())
    }
}

/// The pass and the point that an event belongs to.
pub(crate) struct PassRef<'a> {
    pub(crate) id: PassId,
    pub(crate) point: &'a PointRef,
    /// Which request each grant with a part in the point is of.
    pub(crate) requests: &'a BTreeMap<GrantId, RequestId>,
}

impl PassRef<'_> {
    fn subject(&self) -> Subject {
        Subject {
            pass: Some(self.id),
            point: Some(self.point.to_string()),
            ..Subject::default()
        }
    }

    /// What was noticed is about one grant, or about none in particular. Who is told of a grant wants to see its request.
    fn subject_of(&self, grants: &[GrantId]) -> Subject {
        let grant = only(grants);
        Subject {
            grant,
            request: grant.and_then(|grant| self.requests.get(&grant).copied()),
            ..self.subject()
        }
    }

    fn scope(&self) -> Scope {
        self.point.account().scope()
    }
}

fn machines<S>(request: &AccessRequest<S>) -> Vec<&MachineId> {
    request.targets.iter().map(|target| &target.machine).collect()
}

fn grant_subject<S>(grant: &Grant<S>) -> Subject {
    Subject {
        request: Some(grant.request),
        grant: Some(grant.id),
        policy: Some(grant.policy),
        machine: Some(grant.machine.clone()),
        ..Subject::default()
    }
}

fn only<T: Copy>(items: &[T]) -> Option<T> {
    match items {
        [one] => Some(*one),
        _ => None,
    }
}
