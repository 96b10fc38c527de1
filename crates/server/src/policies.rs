//! What a change to a JIT policy means: other coverage, grants that end, points to look at.

use std::collections::{BTreeMap, BTreeSet};

use postern_api::ErrorCode;
use postern_authz::{Authorizer, Context, Decision, Resource, ResourceKind};
use postern_core::{
    audit::{Outcome, Subject},
    freeze::Freeze,
    grant::{EndCause, Grant},
    id::{GrantId, PolicyId},
    inventory::Machine,
    machine::MachineId,
    net::Ports,
    policy::{Ask, JitPolicy, Lockdown},
    role::{Action, Role},
    scope::Scope,
    time::{Instant, written},
};
use postern_store::{CoverageChange, Due, MachineFilter, Tx, Urgency, Visible};
use serde::Serialize;
use serde_json::json;

use crate::{decide::Question, failure::Failure, flow::authenticate::Caller, granting, state::App};

/// A change to one policy.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Made(&'a JitPolicy),
    Replaced {
        before: &'a JitPolicy,
        after: &'a JitPolicy,
    },
    Removed(&'a JitPolicy),
}

/// What a change brought about, for the audit log.
#[derive(Debug, Serialize)]
pub(crate) struct Effect {
    /// How many machines another policy covers than before.
    pub(crate) machines_covered_otherwise: usize,
    /// How many enforcement points are looked at.
    pub(crate) points_marked: usize,
    /// The grants that ended.
    pub(crate) grants_ended: Vec<GrantId>,
    /// Their machines, in the same order.
    #[serde(skip)]
    pub(crate) machines_of_ended: Vec<MachineId>,
    /// The machines that another policy covers than before, by id.
    #[serde(skip)]
    pub(crate) coverage: Vec<CoverageChange>,
    /// How many machines it covers as before.
    #[serde(skip)]
    pub(crate) stayed: usize,
}

/// The most machines that a plan tells of.
pub(crate) const MOST: usize = 200;

/// The audit subject of a policy.
pub(crate) fn subject(id: PolicyId) -> Subject {
    Subject {
        policy: Some(id),
        ..Subject::default()
    }
}

fn no_policy() -> Failure {
    Failure::not_found("such JIT policy")
}

/// The question whether somebody may do something to a policy at `scope`.
pub(crate) fn question(
    app: &App,
    action: Action,
    event: &'static str,
    id: PolicyId,
    scope: Scope,
) -> Question {
    Question {
        action,
        resource: Resource {
            scope,
            tags: BTreeMap::new(),
            kind: ResourceKind::JitPolicy,
        },
        context: Context::at(app.now()),
        event,
        subject: subject(id),
        reason: None,
    }
}

/// Checks that there is every role that a stage asks for, and that it lets people approve; otherwise requests would wait
/// for nobody. The roles stay until the transaction ends.
pub(crate) async fn check_roles(tx: &mut Tx, policy: &JitPolicy) -> Result<(), Failure> {
    let stages = policy.approval.stages();
    let names: Vec<String> = stages.iter().filter_map(|stage| stage.role.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut roles = Role::built_in();
    roles.extend(tx.roles_named(&names).await?);
    for (at, stage) in stages.iter().enumerate() {
        let Some(name) = &stage.role else { continue };
        let why = match roles.iter().find(|role| role.name == *name) {
            None => format!("there is no role `{name}`"),
            Some(role) if !role.actions.contains(&Action::Approve) => {
                format!("role `{name}` does not have the action `approve`")
            }
            Some(_) => continue,
        };
        return Err(Failure::field(
            ErrorCode::InvalidPolicy,
            format!("/approval/stages/{at}/role"),
            why,
        ));
    }
    Ok(())
}

impl Change<'_> {
    /// The policy as it was, where there was one.
    pub(crate) const fn before(&self) -> Option<&JitPolicy> {
        match self {
            Self::Made(_) => None,
            Self::Replaced { before, .. } | Self::Removed(before) => Some(before),
        }
    }

    /// The policy as it is, where it is not removed.
    pub(crate) const fn after(&self) -> Option<&JitPolicy> {
        match self {
            Self::Made(after) | Self::Replaced { after, .. } => Some(after),
            Self::Removed(_) => None,
        }
    }

    fn policy(&self) -> PolicyId {
        match self {
            Self::Made(policy) | Self::Removed(policy) => policy.id,
            Self::Replaced { after, .. } => after.id,
        }
    }

    /// The scopes whose machines may be covered otherwise: one, where one holds the other.
    fn scopes(&self) -> Vec<&Scope> {
        match self {
            Self::Made(policy) | Self::Removed(policy) => vec![&policy.scope],
            Self::Replaced { before, after } if before.scope.contains(&after.scope) => vec![&before.scope],
            Self::Replaced { before, after } if after.scope.contains(&before.scope) => vec![&after.scope],
            Self::Replaced { before, after } => vec![&before.scope, &after.scope],
        }
    }
}

impl App {
    /// The policy as the caller saw it, locked, if the caller may change it. Nobody who may not makes others
    /// wait for the lock.
    pub(crate) async fn policy_to_change(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        (id, version): (PolicyId, i64),
        event: &'static str,
    ) -> Result<(Tx, Vec<Freeze>, JitPolicy, Decision), Failure> {
        let seen = self.store.policy(id).await?.ok_or_else(no_policy)?;
        let tx = self.store.begin().await?;
        let asked = question(self, Action::Configure, event, id, seen.scope.clone());
        let (mut tx, decision) = self.allow(tx, authorizer, caller, asked).await?;
        // Freezes before policies, as everybody locks them.
        let freezes = tx.freezes_in_force().await?;
        let found = tx.policy(id).await?.ok_or_else(no_policy)?;
        // What was allowed was a change where the policy stood then.
        if found.version != version || found.scope != seen.scope {
            return Err(Failure::new(
                ErrorCode::VersionMismatch,
                format!("JIT policy `{id}` is not at version {version}, or changes at this moment"),
            ));
        }
        Ok((tx, freezes, found, decision))
    }

    /// Finds out who covers what now, ends grants that nothing allows any more, and marks every affected point.
    /// The change itself is in the transaction already. Whoever grants holds off changes of policies until it
    /// commits, so that no grant is missed.
    pub(crate) async fn apply_policy_change(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        change: &Change<'_>,
        now: Instant,
    ) -> Result<Effect, Failure> {
        let mut moved: BTreeMap<MachineId, CoverageChange> = BTreeMap::new();
        let mut due: Vec<Due> = Vec::new();
        let mut stayed = 0;
        for scope in change.scopes() {
            let covered = tx.cover(scope, Some(change.policy())).await?;
            stayed += covered.stayed;
            for change in covered.changes {
                moved.insert(change.machine.clone(), change);
            }
            due.extend(covered.points.into_iter().map(|point| Due {
                point,
                at: now,
                urgency: Urgency::Opening,
            }));
        }
        let names: Vec<MachineId> = moved.keys().cloned().collect();
        let live = tx.live_grants_under(change.policy(), &names).await?;
        let ended = self.end_unallowed(tx, caller, change.policy(), live, now).await?;
        let (ended, machines_of_ended): (Vec<GrantId>, Vec<MachineId>) = ended.into_iter().unzip();
        due.extend(tx.points_of(&ended).await?.into_iter().map(|point| Due {
            point,
            at: now,
            urgency: Urgency::Closing,
        }));
        let points: BTreeSet<_> = due.iter().map(|due| due.point).collect();
        tx.mark_each_due(&due).await?;
        Ok(Effect {
            machines_covered_otherwise: names.len(),
            points_marked: points.len(),
            grants_ended: ended,
            machines_of_ended,
            coverage: moved.into_values().collect(),
            stayed,
        })
    }

    /// Refuses a change that takes a guard away from a machine in a frozen scope: what a lockdown displaced would be put
    /// back, and a port that the freeze closed would stand open. That is a decision, and stands in the audit log. The
    /// freezes were asked for before the policies were locked.
    pub(crate) async fn check_frozen(
        &self,
        mut tx: Tx,
        caller: &Caller,
        event: &str,
        freezes: &[Freeze],
        change: &Change<'_>,
        effect: &Effect,
    ) -> Result<Tx, Failure> {
        if freezes.is_empty() {
            return Ok(tx);
        }
        let mut policies = granting::by_id(tx.policies().await?);
        // As they were, where the change took or replaced one; as they are now, the others.
        let after = policies.clone();
        if let Change::Replaced { before, .. } | Change::Removed(before) = change {
            policies.insert(before.id, (*before).clone());
        }
        let moved = effect.coverage.iter().find_map(|one| {
            let scope = one.machine.scope();
            let freeze = freezes.iter().find(|freeze| freeze.holds(&scope))?;
            let was = one.before.and_then(|id| policies.get(&id))?;
            let is = one.after.and_then(|id| after.get(&id));
            is.is_none_or(|is| !guards_as_much(is, was)).then_some(freeze)
        });
        // Those that it covers as before are not listed, so the scopes say it.
        let stayed = match change {
            Change::Replaced { before, after } if !guards_as_much(after, before) => freezes
                .iter()
                .find(|freeze| freeze.holds(&before.scope) || before.scope.contains(&freeze.scope)),
            _ => None,
        };
        let Some(freeze) = moved.or(stayed) else {
            return Ok(tx);
        };
        let scope = freeze.scope.clone();
        let mut denied = self.event(caller, event, scope, subject(change.policy()), None, json!({}));
        denied.outcome = Outcome::Denied;
        denied.decision = Some(json!({ "freeze": freeze }));
        self.write_alone(tx, denied).await?;
        Err(Failure::new(
            ErrorCode::Frozen,
            format!(
                "`{}` is frozen by {} since {}, and the change would take a guard away there: {}",
                freeze.scope,
                freeze.created_by,
                written(freeze.created_at),
                freeze.reason
            ),
        ))
    }

    /// The machines that the policy covers now, as a plan tells of them. Asked before a transaction begins, so that
    /// no request holds two connections.
    pub(crate) async fn covered_now(&self, id: PolicyId) -> Result<Vec<Machine>, Failure> {
        let filter = MachineFilter {
            visible: Visible::everything(),
            policy: Some(id),
            ..MachineFilter::default()
        };
        let most = u32::try_from(MOST).map_err(Failure::internal)?;
        let found = self.store.machines(&filter, None, most).await?;
        Ok(found.items.into_iter().map(|stored| stored.machine).collect())
    }

    /// Ends those of the grants that the policies allow no more, with an event each, and says which they are.
    async fn end_unallowed(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        changed: PolicyId,
        live: Vec<Grant>,
        now: Instant,
    ) -> Result<Vec<(GrantId, MachineId)>, Failure> {
        let policies = granting::by_id(tx.policies().await?);
        let machines: BTreeSet<MachineId> = live.iter().map(|grant| grant.machine.clone()).collect();
        let machines: Vec<MachineId> = machines.into_iter().collect();
        let machines = tx.machines(&machines).await?;
        let mut ended: Vec<Grant> = Vec::new();
        let mut events = Vec::new();
        for grant in live {
            let covered_by = machines.get(&grant.machine).and_then(|stored| stored.policy);
            let removed = !policies.contains_key(&grant.policy);
            if !removed && still_allowed(&grant, covered_by.and_then(|id| policies.get(&id))) {
                continue;
            }
            // One that ended by itself meanwhile needs nothing more.
            let Ok(live) = grant.live() else { continue };
            let grant: Grant = live.end(EndCause::PolicyRemoved, now).into();
            let subject = Subject {
                request: Some(grant.request),
                grant: Some(grant.id),
                policy: Some(changed),
                machine: Some(grant.machine.clone()),
                ..Subject::default()
            };
            let details = json!({ "state": grant.state });
            let mut event = self.event(caller, "grant.end", grant.machine.scope(), subject, None, details);
            event.reason = Some("the JIT policy was removed or does not allow it any more".to_owned());
            event.decision = Some(json!({ "policy": changed, "covered_by": covered_by }));
            events.push(event);
            ended.push(grant);
        }
        tx.save_grants(&ended).await?;
        tx.audit(&events).await?;
        Ok(ended.into_iter().map(|grant| (grant.id, grant.machine)).collect())
    }
}

/// Whether every port that `was` guards is guarded by one of `is`, and as strictly.
fn guards_as_much(is: &JitPolicy, was: &JitPolicy) -> bool {
    let guarded = |ports: &Ports| is.guards.iter().any(|guard| guard.ports.contains(*ports));
    (is.lockdown == Lockdown::Strict || was.lockdown == Lockdown::Defer)
        && was.guards.iter().all(|guard| guarded(&guard.ports))
}

/// Whether the policy that covers the grant's machine now allows its ports and sources. The duration was promised.
fn still_allowed(grant: &Grant, policy: Option<&JitPolicy>) -> bool {
    policy.is_some_and(|policy| {
        let ask = Ask {
            ports: &grant.ports,
            sources: &grant.sources,
            duration: std::time::Duration::ZERO,
        };
        policy.check(&ask).is_ok()
    })
}
