//! What a change to a JIT policy means: other coverage, grants that end, points to look at.

use std::collections::{BTreeMap, BTreeSet};

use postern_api::ErrorCode;
use postern_authz::{Authorizer, Context, Decision, Resource, ResourceKind};
use postern_core::{
    audit::Subject,
    grant::{EndCause, Grant},
    id::{GrantId, PolicyId},
    machine::MachineId,
    policy::{Ask, JitPolicy},
    role::Action,
    scope::Scope,
    time::Instant,
};
use postern_store::{Due, Tx, Urgency};
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
    machines_covered_otherwise: usize,
    /// How many enforcement points are looked at.
    points_marked: usize,
    /// The grants that ended.
    grants_ended: Vec<GrantId>,
}

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

impl Change<'_> {
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
    ) -> Result<(Tx, JitPolicy, Decision), Failure> {
        let seen = self.store.policy(id).await?.ok_or_else(no_policy)?;
        let tx = self.store.begin().await?;
        let asked = question(self, Action::Configure, event, id, seen.scope.clone());
        let (mut tx, decision) = self.allow(tx, authorizer, caller, asked).await?;
        let found = tx.policy(id).await?.ok_or_else(no_policy)?;
        // What was allowed was a change where the policy stood then.
        if found.version != version || found.scope != seen.scope {
            return Err(Failure::new(
                ErrorCode::VersionMismatch,
                format!("JIT policy `{id}` is not at version {version}, or changes at this moment"),
            ));
        }
        Ok((tx, found, decision))
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
        let mut moved: BTreeSet<MachineId> = BTreeSet::new();
        let mut due: Vec<Due> = Vec::new();
        for scope in change.scopes() {
            let covered = tx.cover(scope, Some(change.policy())).await?;
            moved.extend(covered.changes.into_iter().map(|change| change.machine));
            due.extend(covered.points.into_iter().map(|point| Due {
                point,
                at: now,
                urgency: Urgency::Opening,
            }));
        }
        let moved: Vec<MachineId> = moved.into_iter().collect();
        let live = tx.live_grants_under(change.policy(), &moved).await?;
        let ended = self.end_unallowed(tx, caller, change.policy(), live, now).await?;
        due.extend(tx.points_of(&ended).await?.into_iter().map(|point| Due {
            point,
            at: now,
            urgency: Urgency::Closing,
        }));
        let points: BTreeSet<_> = due.iter().map(|due| due.point).collect();
        tx.mark_each_due(&due).await?;
        Ok(Effect {
            machines_covered_otherwise: moved.len(),
            points_marked: points.len(),
            grants_ended: ended,
        })
    }

    /// Ends those of the grants that the policies allow no more, with an event each, and says which they are.
    async fn end_unallowed(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        changed: PolicyId,
        live: Vec<Grant>,
        now: Instant,
    ) -> Result<Vec<GrantId>, Failure> {
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
        Ok(ended.iter().map(|grant| grant.id).collect())
    }
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
