//! What a change to a JIT policy means: other coverage, grants that end, points to look at.

use std::collections::{BTreeMap, BTreeSet};

use postern_authz::{Context, Resource, ResourceKind};
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
use postern_store::{Due, GrantFilter, Tx, Urgency, Visible};
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
    /// The grants under a policy that somebody still wants. Read before the transaction, so that no request holds
    /// two connections.
    pub(crate) async fn live_grants_under(&self, policy: PolicyId) -> Result<Vec<GrantId>, Failure> {
        let filter = GrantFilter {
            visible: Visible::everything(),
            statuses: vec!["opening".to_owned(), "open".to_owned()],
            policy: Some(policy),
            ..GrantFilter::default()
        };
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.grants(&filter, after, 1000).await?;
            ids.extend(page.items.iter().map(|grant| grant.id));
            after = page.next;
            if after.is_none() {
                return Ok(ids);
            }
        }
    }

    /// Finds out who covers what now, ends grants that nothing allows any more, and marks every affected point.
    /// The change itself is in the transaction already; `live` are grants under the policy.
    pub(crate) async fn apply_policy_change(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        change: &Change<'_>,
        live: &[GrantId],
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
        let ids: BTreeSet<GrantId> = tx
            .live_grants_of(&moved)
            .await?
            .iter()
            .map(|grant| grant.id)
            .chain(live.iter().copied())
            .collect();
        let ids: Vec<GrantId> = ids.into_iter().collect();
        let ended = self.end_unallowed(tx, caller, change.policy(), &ids, now).await?;
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

    /// Ends grants under the policy that were made between the reading of `known` and the change. Whoever grants
    /// holds off changes of policies until it commits, so that after the change none is missed.
    pub(crate) async fn end_latecomers(
        &self,
        caller: &Caller,
        policy: PolicyId,
        known: &[GrantId],
    ) -> Result<(), Failure> {
        let late: Vec<GrantId> = self
            .live_grants_under(policy)
            .await?
            .into_iter()
            .filter(|id| !known.contains(id))
            .collect();
        if late.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let mut tx = self.store.begin().await?;
        let ended = self.end_unallowed(&mut tx, caller, policy, &late, now).await?;
        let points = tx.points_of(&ended).await?;
        tx.mark_due(&points, now, Urgency::Closing).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends those of the grants that the policies allow no more, with an event each, and says which they are.
    async fn end_unallowed(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        changed: PolicyId,
        ids: &[GrantId],
        now: Instant,
    ) -> Result<Vec<GrantId>, Failure> {
        let policies = granting::by_id(tx.policies().await?);
        let mut covering: BTreeMap<MachineId, Option<PolicyId>> = BTreeMap::new();
        let mut ended: Vec<Grant> = Vec::new();
        let mut events = Vec::new();
        for grant in tx.grants_by_id(ids).await? {
            let covered_by = if let Some(known) = covering.get(&grant.machine) {
                *known
            } else {
                let found = tx.machine(&grant.machine).await?.and_then(|stored| stored.policy);
                covering.insert(grant.machine.clone(), found);
                found
            };
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
