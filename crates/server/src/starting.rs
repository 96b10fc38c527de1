//! Grants that begin later: when their time comes they are decided again, and begin to open or end.
//!
//! Every replica looks. The request's row is locked first, so that one of them starts its grants, and the others find
//! them started.

use std::{sync::Arc, time::Duration};

use postern_api::ErrorCode;
use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    grant::{EndCause, Grant, GrantState, Live},
    id::RequestId,
    request::{AccessRequest, Decider, Mode, RequestState},
    role::Action,
    time::Instant,
};
use postern_store::Urgency;
use serde_json::{Value, json};

use crate::{
    endpoints::access_requests_create,
    failure::Failure,
    freezing,
    granting::{self, machines_of},
    state::App,
    step_up,
    turning::keep_looking,
};

/// The longest between two looks: how late one may be noticed that another replica made meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// How many requests at a time.
const AT_ONCE: u32 = 100;

/// What was decided about one grant when its time came.
struct Again {
    /// Why it may not be had any more.
    refused: Option<String>,
    decision: Value,
    /// What the cloud's own roles say.
    clouds: Value,
}

/// Starts what is due until the server stops.
pub(crate) async fn start_forever(app: Arc<App>) {
    let look = |app: Arc<App>| async move { app.start_due().await };
    keep_looking(app, LOOK, "scheduled grants were not started", look).await;
}

impl App {
    /// Starts everything whose time has come; says when the next one's does.
    pub(crate) async fn start_due(&self) -> Result<Option<Instant>, Failure> {
        let next = self.store.next_start().await?;
        if next.is_none_or(|at| at > self.now()) {
            return Ok(next);
        }
        let mut failed = false;
        for request in self.store.due_starts(self.now(), AT_ONCE).await? {
            if let Err(failure) = self.start_request(request).await {
                // The others need not wait for it. It stays due, and fails at its deadline.
                tracing::warn!(%request, detail = failure.detail(), "a scheduled request was not started; trying again");
                failed = true;
            }
        }
        let next = self.store.next_start().await?;
        Ok(if failed { None } else { next })
    }

    async fn start_request(&self, id: RequestId) -> Result<(), Failure> {
        let authorizer = self.authorizer().await?;
        let clouds = self.second_yes_of(&authorizer, id).await?;
        if let Some(unknown) = clouds.unknown() {
            // Nothing starts on what is not known. It stays due until its deadline.
            return Err(Failure::new(ErrorCode::CloudRolesUnknown, unknown));
        }
        let mut tx = self.store.begin().await?;
        // Freezes before policies before requests before machines before grants, as everybody locks them.
        let freezes = tx.freezes_in_force().await?;
        let policies = granting::by_id(tx.policies().await?);
        let request = tx
            .request(id)
            .await?
            .ok_or_else(|| Failure::internal("a grant has no request"))?;
        let machines = tx.machines(&machines_of(&request)).await?;
        let now = self.now();
        let due: Vec<Grant> = tx
            .grants_of_request(id)
            .await?
            .into_iter()
            .filter(|grant| matches!(&grant.state, GrantState::Scheduled(scheduled) if scheduled.starts_at <= now))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut terms = Vec::with_capacity(request.targets.len());
        let mut begins = Vec::with_capacity(request.targets.len());
        let mut found: Vec<Again> = Vec::with_capacity(due.len());
        for grant in &due {
            let at = request
                .targets
                .iter()
                .position(|target| target.machine == grant.machine)
                .unwrap_or_default();
            let Some(target) = request.targets.get(at) else {
                return Err(Failure::internal("a grant has no target"));
            };
            let machine = machines.get(&target.machine);
            let question = access_requests_create::question(Action::Request, &request, target, machine, now);
            let decision = self.decide(&authorizer, &request.principal, &question);
            if decision.allowed && machine.is_some() && clouds.was_not_asked(&target.machine) {
                // Postern's own roles said no a moment ago. It stays due, and the cloud is asked at the next look.
                return Err(Failure::new(
                    ErrorCode::CloudRolesUnknown,
                    format!("the cloud was not asked about machine `{}`", target.machine),
                ));
            }
            let stands_against = || {
                if !decision.allowed {
                    return Err(decision.explain());
                }
                if let Some(against) = clouds.against(&target.machine) {
                    return Err(against.explain());
                }
                if let Some(freeze) = freezing::over(&freezes, target) {
                    return Err(format!("`{}` is frozen: {}", freeze.scope, freeze.reason));
                }
                let machine = machine
                    .filter(|machine| machine.gone_at.is_none())
                    .ok_or_else(|| "the machine is gone".to_owned())?;
                let terms = granting::terms(&request, target, at, machine, &policies)
                    .map_err(|failure| failure.detail().to_owned())?;
                // The policy may ask for more by now than when the request was made.
                if let Some(lack) = terms.lack {
                    return Err(format!(
                        "{}, which the requester had not proven",
                        step_up::unproven(&terms, lack)
                    ));
                }
                terms
                    .still_justified(&request)
                    .map_err(|error| error.to_string())?;
                Ok(terms)
            };
            let refused = match stands_against() {
                Ok(of_target) => {
                    terms.push(of_target);
                    begins.push(target.clone());
                    None
                }
                Err(reason) => Some(reason),
            };
            found.push(Again {
                refused,
                decision: json!(decision),
                clouds: clouds.shown(&target.machine),
            });
        }
        // Who agreed must still be enough for what is left: policies and roles may have changed since.
        let broke_glass =
            matches!(&request.state, RequestState::Approved(one) if one.by == Decider::BreakGlass);
        if !broke_glass && !begins.is_empty() {
            let left = AccessRequest {
                targets: begins,
                ..request.clone()
            };
            let awaited = self.awaited_still(&authorizer, &left, &terms, &machines);
            if let Some(awaited) = awaited.first() {
                let reason = format!(
                    "policy `{}` asks by now for people who did not agree, in stage {} of {}",
                    awaited.policy_name, awaited.stage, awaited.of
                );
                for again in &mut found {
                    again.refused.get_or_insert_with(|| reason.clone());
                }
            }
        }
        let first_refused = due
            .iter()
            .zip(&found)
            .find_map(|(grant, again)| Some((grant.machine.clone(), again.refused.clone()?)));
        let mut events = Vec::with_capacity(due.len());
        let (mut started, mut ended, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (grant, again) in due.into_iter().zip(found) {
            let Ok(Live::Scheduled(scheduled)) = grant.live() else {
                continue;
            };
            let together = first_refused
                .as_ref()
                .filter(|_| request.mode == Mode::AllOrNothing);
            let cause = match (again.refused, together) {
                (Some(reason), _) => Some(EndCause::NotAllowed { reason }),
                (None, Some((machine, reason))) => Some(EndCause::NotTogether {
                    machine: machine.clone(),
                    reason: reason.clone(),
                }),
                (None, None) => None,
            };
            let after: Grant = match cause {
                None => scheduled.start().into(),
                Some(cause) => Live::Scheduled(scheduled).end(cause, now).into(),
            };
            events.push(self.start_event(&request, &after, (&again.decision, &again.clouds), now));
            if after.state.is_wanted() {
                started.push(after.id);
            } else {
                ended.push(after.id);
            }
            all.push(after);
        }
        tx.save_grants(&all).await?;
        tx.audit(&events).await?;
        // Points by id, in one step each: whoever else marks them does so in that order.
        let closing = tx.points_of(&ended).await?;
        let opening = tx.points_of(&started).await?;
        let due: Vec<postern_store::Due> = closing
            .into_iter()
            .map(|point| (point, Urgency::Closing))
            .chain(opening.into_iter().map(|point| (point, Urgency::Opening)))
            .map(|(point, urgency)| postern_store::Due {
                point,
                at: now,
                urgency,
            })
            .collect();
        tx.mark_each_due(&due).await?;
        tx.commit().await?;
        Ok(())
    }

    /// That a grant began to open, or ended because it may not be had any more.
    fn start_event(
        &self,
        request: &AccessRequest,
        grant: &Grant,
        (decision, clouds): (&Value, &Value),
        now: Instant,
    ) -> AuditEvent {
        let started = grant.state.is_wanted();
        AuditEvent {
            id: self.ids.next(now),
            at: now,
            action: if started { "grant.start" } else { "grant.end" }.to_owned(),
            outcome: Outcome::Succeeded,
            actor: Actor::System {
                component: "scheduler".to_owned(),
            },
            scope: grant.machine.scope(),
            reason: grant
                .state
                .cause()
                .map_or_else(|| Some(request.reason.clone()), |cause| Some(cause.words())),
            decision: Some(
                json!({ "decided_by": "lifecycle", "rule": "decided again at the start", "requester": decision, "cloud_roles": clouds }),
            ),
            details: json!({ "requester": grant.requester, "starts_at": request.starts_at, "state": grant.state }),
            subject: Subject {
                request: Some(grant.request),
                grant: Some(grant.id),
                policy: Some(grant.policy),
                machine: Some(grant.machine.clone()),
                ..Subject::default()
            },
            http_request: None,
        }
    }
}
