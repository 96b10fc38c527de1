//! Deciding on access requests: who may, what stands in the way, and the events of it.

use std::{collections::BTreeMap, time::Duration};

use postern_api::ErrorCode;
use postern_authz::{Authorizer, Context, Decision, Resource, ResourceKind};
use postern_core::{
    audit::{AuditEvent, Outcome, Subject},
    grant::Grant,
    id::{PolicyId, RequestId},
    machine::MachineId,
    policy::JitPolicy,
    request::{AccessRequest, Approved, InvalidTransition, Narrowing, Pending, Target},
    role::Action,
    scope::Scope,
    time::Instant,
};
use postern_store::{StoredMachine, Tx};
use serde_json::json;

use crate::{
    decide::Question,
    endpoints::access_requests_create,
    failure::Failure,
    flow::authenticate::Caller,
    granting::{self, Terms, machines_of},
    second_yes::SecondYes,
    shape::access_request,
    state::App,
};

/// What allowed an approval, by target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Approval<'a> {
    /// That the approver may approve.
    pub(crate) approver: &'a [Decision],
    /// That the requester may still request.
    pub(crate) requester: &'a [Decision],
    /// What the clouds say of the requester.
    pub(crate) clouds: &'a SecondYes,
}

/// The audit event of an approval.
pub(crate) const APPROVE: &str = "access_request.approve";

/// What somebody wants to say to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Approve {
        comment: Option<&'a str>,
        narrowing: &'a Narrowing,
    },
    Deny {
        reason: &'a str,
    },
}

impl Verdict<'_> {
    const fn event(self) -> &'static str {
        match self {
            Self::Approve { .. } => APPROVE,
            Self::Deny { .. } => "access_request.deny",
        }
    }

    fn reason(self) -> Option<String> {
        match self {
            Self::Approve { comment, .. } => comment.map(str::to_owned),
            Self::Deny { reason } => Some(reason.to_owned()),
        }
    }
}

/// The question whether somebody may decide on one target of a request.
pub(crate) fn approving(
    id: RequestId,
    target: &Target,
    machine: Option<&StoredMachine>,
    duration: Duration,
    reason: Option<String>,
    now: Instant,
) -> Question {
    Question {
        action: Action::Approve,
        resource: Resource {
            scope: target.machine.scope(),
            tags: machine
                .map(|stored| stored.machine.tags.clone())
                .unwrap_or_default(),
            kind: ResourceKind::AccessRequest,
        },
        context: Context {
            now,
            ports: target.ports.clone(),
            sources: target.sources.clone(),
            duration_seconds: Some(duration.as_secs()),
            reason_present: reason.is_some(),
        },
        event: APPROVE,
        subject: Subject {
            request: Some(id),
            machine: Some(target.machine.clone()),
            ..Subject::default()
        },
        reason,
    }
}

/// A request as somebody's verdict leaves it: narrowed, or what is wrong with the narrowing; or why nobody decides on it
/// any more.
type Left = Result<Result<AccessRequest<Pending>, Failure>, InvalidTransition>;

fn as_left(request: &AccessRequest, verdict: Verdict<'_>, now: Instant) -> Left {
    request.clone().pending(now).map(|pending| {
        let Verdict::Approve { narrowing, .. } = verdict else {
            return Ok(pending);
        };
        let narrowed = pending
            .narrow(narrowing)
            .map_err(|error| access_request::wider(&error))?;
        access_request::check(&narrowed).map(|()| narrowed)
    })
}

/// What somebody has to be allowed whose verdict it is, by target, and how many of the targets are left. What stands in
/// the way of it is told only to who may decide.
fn questions(
    request: &AccessRequest,
    left: &Left,
    machines: &BTreeMap<MachineId, StoredMachine>,
    verdict: Verdict<'_>,
    now: Instant,
) -> (usize, Vec<Question>) {
    let (left, duration) = match left {
        Ok(Ok(narrowed)) => (&narrowed.targets, narrowed.duration),
        Ok(Err(_)) | Err(_) => (&request.targets, request.duration),
    };
    // Somebody who leaves a machine out decides on it, too.
    let gone = request
        .targets
        .iter()
        .filter(|asked| !left.iter().any(|target| target.machine == asked.machine));
    let questions = left.iter().chain(gone).map(|target| Question {
        event: verdict.event(),
        ..approving(
            request.id,
            target,
            machines.get(&target.machine),
            duration,
            verdict.reason(),
            now,
        )
    });
    (left.len(), questions.collect())
}

impl App {
    /// The request as somebody would approve it, as far as can be said without locking it: none if they may not, if their
    /// agreement would not count, or if nobody can. Not a decision that anything comes of, so it is not counted or written.
    pub(crate) async fn would_approve(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        request: &AccessRequest,
        verdict: Verdict<'_>,
    ) -> Result<Option<AccessRequest<Pending>>, Failure> {
        let now = self.now();
        let narrowed = as_left(request, verdict, now);
        let Ok(Ok(pending)) = &narrowed else {
            return Ok(None);
        };
        if pending.check_approver(&caller.principal).is_err() {
            return Ok(None);
        }
        let mut machines = BTreeMap::new();
        for id in machines_of(request) {
            if let Some(machine) = self.store.machine(&id).await? {
                machines.insert(id, machine);
            }
        }
        let (left, questions) = questions(request, &narrowed, &machines, verdict, now);
        let mut decisions = Vec::with_capacity(questions.len());
        for question in questions {
            let (resource, context) = (&question.resource, &question.context);
            let decision = authorizer.decide(&caller.principal, question.action, resource, context);
            if !decision.allowed {
                return Ok(None);
            }
            decisions.push(decision);
        }
        decisions.truncate(left);
        let mut policies = BTreeMap::new();
        for id in machines.values().filter_map(|machine| machine.policy) {
            if let Some(policy) = self.store.policy(id).await? {
                policies.insert(id, policy);
            }
        }
        let counts = self.would_not_count(authorizer, caller, pending, &decisions, &machines, &policies);
        Ok(match counts {
            Some(_) => None,
            None => narrowed.ok().and_then(Result::ok),
        })
    }

    /// Why the agreement of somebody who may approve would not count, if the stages of the policies ask for others. What
    /// the policies do not allow any more is not for this to say.
    pub(crate) fn would_not_count(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        request: &AccessRequest<Pending>,
        decisions: &[Decision],
        machines: &BTreeMap<MachineId, StoredMachine>,
        policies: &BTreeMap<PolicyId, JitPolicy>,
    ) -> Option<InvalidTransition> {
        let terms = request.targets.iter().enumerate().map(|(at, target)| {
            let machine = machines.get(&target.machine)?;
            granting::terms(request, target, at, machine, policies).ok()
        });
        let terms: Vec<Terms> = terms.collect::<Option<_>>()?;
        self.agreed(
            authorizer,
            &caller.principal,
            request,
            &terms,
            decisions,
            machines,
        )
        .err()
    }

    /// The request, locked, pending and narrowed, if the caller may decide on it: `approve` at every machine that was
    /// asked for. The decisions go with the targets that are left.
    pub(crate) async fn may_decide(
        &self,
        mut tx: Tx,
        authorizer: &Authorizer,
        caller: &Caller,
        id: RequestId,
        verdict: Verdict<'_>,
    ) -> Result<(Tx, AccessRequest<Pending>, Vec<Decision>), Failure> {
        let request = tx
            .request(id)
            .await?
            .ok_or_else(|| Failure::not_found("such access request"))?;
        let machines = tx.machines(&machines_of(&request)).await?;
        let narrowed = as_left(&request, verdict, self.now());
        let (left, questions) = questions(&request, &narrowed, &machines, verdict, self.now());
        let mut decisions = Vec::with_capacity(request.targets.len());
        for question in questions {
            let decision;
            (tx, decision) = match self.allow(tx, authorizer, caller, question).await {
                Ok(allowed) => allowed,
                Err(refusal) => {
                    let what = "such access request";
                    return Err(self.refusal_about(caller, &request, what, refusal).await);
                }
            };
            decisions.push(decision);
        }
        decisions.truncate(left);
        let pending = match narrowed {
            Ok(narrowed) => narrowed?,
            Err(error) => return Err(self.impossible(tx, caller, id, verdict.event(), &error).await),
        };
        Ok((tx, pending, decisions))
    }

    /// Whether whoever made the request would be allowed to make it now: roles may have been taken and guardrails
    /// changed while it waited. What the requester's token said then is what is known of them. One for later is held
    /// against what holds when it begins, as it was when it was made. A no leaves the request as it is, and stands in the
    /// audit log.
    pub(crate) async fn may_still_request(
        &self,
        tx: Tx,
        authorizer: &Authorizer,
        caller: &Caller,
        request: &AccessRequest<Pending>,
        machines: &BTreeMap<MachineId, StoredMachine>,
        clouds: &SecondYes,
    ) -> Result<(Tx, Vec<Decision>), Failure> {
        let mut decisions = Vec::with_capacity(request.targets.len());
        for target in &request.targets {
            let machine = machines.get(&target.machine);
            let begins = request.begins(self.now());
            let question =
                access_requests_create::question(Action::Request, request, target, machine, begins);
            let decision = self.decide(authorizer, &request.principal, &question);
            if !decision.allowed {
                let subject = Subject {
                    request: Some(request.id),
                    ..question.subject
                };
                let scope = target.machine.scope();
                let action = APPROVE;
                let mut event = self.event(caller, action, scope, subject, Some(&decision), json!({}));
                event.outcome = Outcome::Denied;
                self.write_alone(tx, event).await?;
                return Err(Failure::new(
                    ErrorCode::RequesterNotAllowed,
                    format!(
                        "the requester may not make this request now: {}",
                        decision.explain()
                    ),
                ));
            }
            if let Some(against) = clouds.against(&target.machine) {
                return Err(self
                    .refuse_by_cloud(tx, caller, APPROVE, Some(request.id), target, &against)
                    .await);
            }
            decisions.push(decision);
        }
        Ok((tx, decisions))
    }

    /// The failure that an impossible decision is. Where it is refused to this caller, and not to everybody, that
    /// is a decision of its own and stands in the audit log.
    pub(crate) async fn impossible(
        &self,
        tx: Tx,
        caller: &Caller,
        id: RequestId,
        event: &str,
        error: &InvalidTransition,
    ) -> Failure {
        let failure = access_request::impossible(error);
        match error {
            InvalidTransition::OwnRequest
            | InvalidTransition::NotAPerson(_)
            | InvalidTransition::NotAnApprover { .. }
            | InvalidTransition::NotTheRequester => {
                let subject = Subject {
                    request: Some(id),
                    ..Subject::default()
                };
                let mut event = self.event(caller, event, Scope::root(), subject, None, json!({}));
                event.outcome = Outcome::Denied;
                event.decision = Some(json!({ "rule": error.to_string() }));
                match self.write_alone(tx, event).await {
                    Ok(()) => failure,
                    Err(unwritten) => unwritten,
                }
            }
            InvalidTransition::AlreadyDecided(_)
            | InvalidTransition::AgreedBefore(_)
            | InvalidTransition::Lapsed(_) => failure,
        }
    }

    /// The events of an approval: per machine, who or what agreed, and the grant that came of it.
    pub(crate) fn granted(
        &self,
        caller: &Caller,
        action: &str,
        request: &AccessRequest<Approved>,
        terms: &[Terms],
        grants: &[Grant],
        decided: Option<Approval<'_>>,
    ) -> Vec<AuditEvent> {
        grants
            .iter()
            .zip(terms)
            .enumerate()
            .map(|(at, (grant, terms))| {
                let subject = Subject {
                    request: Some(request.id),
                    grant: Some(grant.id),
                    policy: Some(terms.policy),
                    machine: Some(grant.machine.clone()),
                    ..Subject::default()
                };
                let mut event = self.event(
                    caller,
                    action,
                    grant.machine.scope(),
                    subject,
                    None,
                    json!({ "grant": grant }),
                );
                event.reason = Some(request.reason.clone());
                event.decision = Some(json!({
                    "by": request.state.by,
                    "policy": { "id": terms.policy, "name": terms.policy_name },
                    "authorization": decided.and_then(|by| by.approver.get(at)),
                    "requester": decided.and_then(|by| by.requester.get(at)),
                    "cloud_roles": decided.map(|by| by.clouds.shown(&grant.machine)),
                }));
                event
            })
            .collect()
    }

    /// The events of a decision without grants, one per machine.
    pub(crate) fn decided(
        &self,
        caller: &Caller,
        action: &str,
        request: &AccessRequest,
        decisions: &[Decision],
        reason: &str,
    ) -> Vec<AuditEvent> {
        request
            .targets
            .iter()
            .zip(decisions)
            .map(|(target, decision)| {
                let subject = Subject {
                    request: Some(request.id),
                    machine: Some(target.machine.clone()),
                    ..Subject::default()
                };
                let mut event = self.event(
                    caller,
                    action,
                    target.machine.scope(),
                    subject,
                    Some(decision),
                    json!({ "state": request.state }),
                );
                event.reason = Some(reason.to_owned());
                event
            })
            .collect()
    }
}
