//! From an approved request to grants: what is checked of each machine, and what is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::TimeDelta;
use postern_api::{ErrorCode, grant as api_grant};
use postern_core::{
    approval::Stage,
    grant::{Grant, GrantState, Opening, Scheduled},
    id::{GrantId, PolicyId},
    justification::Justification,
    machine::MachineId,
    policy::{Ask, JitPolicy, Lack},
    request::{AccessRequest, Mode, Target},
    time::Instant,
};
use postern_store::{Hop, StoredMachine, Tx, Urgency};

use crate::{
    failure::Failure,
    flow::authenticate::Caller,
    shape::{access_request, grant},
    state::App,
};

/// How long a grant may take to open where a firewall stands before the machine: a write of a firewall takes minutes,
/// and waits for the one before it.
const FIREWALL_OPENS_WITHIN: TimeDelta = TimeDelta::minutes(20);

/// What a target is granted under.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The policy that covers the machine.
    pub(crate) policy: PolicyId,
    /// Its name.
    pub(crate) policy_name: String,
    /// Who must agree.
    pub(crate) stages: Vec<Stage>,
    /// What the requester had not proven when they asked, of what the policy asks for.
    pub(crate) lack: Option<Lack>,
    /// What the policy asks of the reason and the ticket.
    pub(crate) justification: Option<Justification>,
    /// How long the request waits for them, if the policy says.
    pub(crate) pending_for: Option<Duration>,
}

/// What the policy of the machine says to the target at `at`.
pub(crate) fn terms<S>(
    request: &AccessRequest<S>,
    target: &Target,
    at: usize,
    machine: &StoredMachine,
    policies: &BTreeMap<PolicyId, JitPolicy>,
) -> Result<Terms, Failure> {
    let pointer = || format!("/targets/{at}/machine");
    let policy = machine.policy.and_then(|id| policies.get(&id)).ok_or_else(|| {
        Failure::field(
            ErrorCode::NoPolicy,
            pointer(),
            format!("no JIT policy covers machine `{}`", target.machine),
        )
    })?;
    policy
        .check(&Ask {
            ports: &target.ports,
            sources: &target.sources,
            duration: request.duration,
        })
        .map_err(|refusal| access_request::refused(&refusal, at))?;
    if machine.machine.grant_points().is_empty() {
        return Err(Failure::field(
            ErrorCode::NothingToOpen,
            pointer(),
            format!(
                "nothing filters the way to machine `{}`, so there is nothing to open",
                target.machine
            ),
        ));
    }
    Ok(Terms {
        policy: policy.id,
        policy_name: policy.name.clone(),
        stages: policy.approval.stages(),
        lack: policy.authentication.lack(&request.principal, request.created_at),
        justification: policy.justification.clone(),
        pending_for: policy.pending_for,
    })
}

/// The machines that a request names.
pub(crate) fn machines_of<S>(request: &AccessRequest<S>) -> Vec<MachineId> {
    request
        .targets
        .iter()
        .map(|target| target.machine.clone())
        .collect()
}

/// Policies by their ids.
pub(crate) fn by_id(policies: Vec<JitPolicy>) -> BTreeMap<PolicyId, JitPolicy> {
    policies.into_iter().map(|policy| (policy.id, policy)).collect()
}

/// That there is no such machine, told only to who may know.
pub(crate) fn no_machine(id: &MachineId, at: usize) -> Failure {
    Failure::field(
        ErrorCode::MachineNotFound,
        format!("/targets/{at}/machine"),
        format!("machine `{id}` was not discovered, or is gone"),
    )
}

impl App {
    /// Refuses one more request that waits where the caller has as many as may. Whoever freezes or decides has to go
    /// through them all.
    pub(crate) async fn check_pending(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        now: Instant,
    ) -> Result<(), Failure> {
        let most = u64::from(self.config.limits.pending_requests);
        let requester = caller.reference();
        let counted = tx.count_pending(std::slice::from_ref(&requester), now).await?;
        let pending = counted.get(&requester).copied().unwrap_or_default();
        if pending < most {
            return Ok(());
        }
        Err(Failure::new(
            ErrorCode::TooManyPending,
            format!(
                "{pending} requests of yours wait for somebody to decide, and {most} are the most; withdraw some"
            ),
        ))
    }

    /// Makes the grants of an approved request, or has the one last longer that it extends.
    pub(crate) async fn grant_or_extend<S>(
        &self,
        tx: &mut Tx,
        request: &AccessRequest<S>,
        terms: &[Terms],
        now: Instant,
    ) -> Result<Vec<Grant>, Failure> {
        match request.extends {
            Some(grant) => Ok(vec![self.lengthen(tx, grant, request.duration, now).await?]),
            None => self.grant_all(tx, request, terms, now).await,
        }
    }

    /// Makes the grants of an approved request and wakes the loop, unless they begin later.
    async fn grant_all<S>(
        &self,
        tx: &mut Tx,
        request: &AccessRequest<S>,
        terms: &[Terms],
        now: Instant,
    ) -> Result<Vec<Grant>, Failure> {
        let most = self.config.limits.grants_per_machine;
        if let Some((machine, live)) = tx
            .count_live_grants(&request.requester, &machines_of(request))
            .await?
            .into_iter()
            .find(|(_, live)| *live >= u64::from(most))
        {
            return Err(Failure::new(
                ErrorCode::TooManyGrants,
                format!(
                    "`{}` has {live} live grants on machine `{machine}`, and {most} are the most",
                    request.requester
                ),
            ));
        }
        let delta = |duration| TimeDelta::from_std(duration).map_err(Failure::internal);
        // One whose time came while somebody had to agree begins at once.
        let later = request.starts_at.filter(|starts_at| *starts_at > now);
        let duration = delta(request.duration)?;
        let begins = later.unwrap_or(now);
        let soon = begins + delta(self.config.limits.open_timeout())?;
        let late = soon.max(begins + FIREWALL_OPENS_WITHIN);
        let slow: BTreeSet<MachineId> = tx
            .machines(&machines_of(request))
            .await?
            .into_iter()
            .filter(|(_, stored)| {
                let mut interfaces = stored.machine.interfaces.iter();
                interfaces.any(|interface| interface.approach().is_some())
            })
            .map(|(id, _)| id)
            .collect();
        let grants: Vec<Grant> = request
            .targets
            .iter()
            .zip(terms)
            .map(|(target, terms)| {
                let mut ports = target.ports.clone();
                ports.sort_unstable();
                ports.dedup();
                let mut sources = target.sources.clone();
                sources.sort_unstable();
                sources.dedup();
                let deadline = if slow.contains(&target.machine) {
                    late
                } else {
                    soon
                };
                Grant {
                    id: self.ids.next(now),
                    request: request.id,
                    policy: terms.policy,
                    requester: request.requester.clone(),
                    machine: target.machine.clone(),
                    ports,
                    sources,
                    duration: request.duration,
                    created_at: now,
                    not_after: deadline + duration,
                    together: request.mode == Mode::AllOrNothing && request.targets.len() > 1,
                    state: match later {
                        Some(starts_at) => GrantState::Scheduled(Scheduled { starts_at, deadline }),
                        None => GrantState::Opening(Opening { deadline }),
                    },
                }
            })
            .collect();
        let points = tx.insert_grants(&grants).await?;
        if later.is_none() {
            tx.mark_due(&points, now, Urgency::Opening).await?;
        }
        Ok(grants)
    }
}

/// The grants as the API shows them, each with its hops.
pub(crate) fn show_all(grants: &[Grant], mut hops: BTreeMap<GrantId, Vec<Hop>>) -> Vec<api_grant::Grant> {
    grants
        .iter()
        .map(|one| {
            let hops = hops.remove(&one.id).unwrap_or_default();
            grant::show(one, hops.into_iter().map(grant::hop).collect())
        })
        .collect()
}
