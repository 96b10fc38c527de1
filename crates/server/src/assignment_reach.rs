//! What a role assignment adds to the others of its principal: who newly gains or loses what, before it is changed.

use std::{collections::BTreeMap, sync::Arc};

use postern_api::role::{GuardrailOnReach, ReachOfAction};
use postern_authz::{Authorizer, AuthzError, Decision, Forbids, GuardrailSet, Resource};
use postern_core::{
    audit::{AuditEvent, Subject},
    machine::MachineId,
    role::{Action, RoleAssignment},
    time::Instant,
};
use postern_store::{MachineFilter, Visible};
use serde_json::json;

use crate::{failure::Failure, flow::authenticate::Caller, state::App};

/// How many machines are read at a time.
const PAGE: u32 = 500;
/// The most machines that are named for each action.
const EXAMPLES: usize = 50;

/// A machine that an assignment is for.
#[derive(Debug)]
struct Reached {
    id: MachineId,
    resource: Resource,
}

/// That somebody asked what an assignment adds, for the audit log.
pub(crate) fn dry_run_event(
    app: &App,
    caller: &Caller,
    assignment: &RoleAssignment,
    decision: &Decision,
) -> AuditEvent {
    app.event(
        caller,
        "role_assignment.dry_run",
        assignment.scope.clone(),
        Subject::default(),
        Some(decision),
        json!({ "assignment": assignment }),
    )
}

/// What the assignment allows that no other assignment to the same principal does, an entry per action of its role that
/// makes a difference anywhere, or would but for guardrails. One that has ended makes none.
fn reach(
    authorizer: &Authorizer,
    assignment: &RoleAssignment,
    machines: &[Reached],
    now: Instant,
) -> Result<Vec<ReachOfAction>, AuthzError> {
    if !assignment.counts_at(now) {
        return Ok(Vec::new());
    }
    let at_scope = Resource::scope(assignment.scope.clone());
    let mut outlook = authorizer.outlook(&assignment.principal)?;
    let reach = authorizer.actions_of(&assignment.role).into_iter().map(|action| {
        let is_new = |resource: &Resource| {
            assignment.is_for(&resource.tags)
                && !authorizer.has_by_name(&assignment.principal, action, resource, now, assignment.id)
        };
        let mut found = Found::default();
        let mut is_at_scope = is_new(&at_scope);
        if is_at_scope {
            let said = outlook.within(action, &assignment.scope);
            is_at_scope = !said.values().any(|said| *said == Forbids::Always);
            found.hear(said.into_keys());
        }
        for machine in machines.iter().filter(|machine| is_new(&machine.resource)) {
            found.add(&machine.id, outlook.at(action, &machine.resource));
        }
        found.told(action, is_at_scope, authorizer.guardrails())
    });
    Ok(reach
        .filter(|reach| reach.at_scope || reach.machines > 0 || reach.forbidden > 0)
        .collect())
}

/// What is found of one action.
#[derive(Debug, Default)]
struct Found<'a> {
    reached: Vec<&'a MachineId>,
    forbidden: usize,
    /// By guardrail: on how many machines it forbids always, and at times.
    guardrails: BTreeMap<String, (usize, usize)>,
}

impl<'a> Found<'a> {
    /// These guardrails have a say.
    fn hear(&mut self, guardrails: impl Iterator<Item = String>) {
        for guardrail in guardrails {
            self.guardrails.entry(guardrail).or_default();
        }
    }

    fn add(&mut self, machine: &'a MachineId, said: BTreeMap<String, Forbids>) {
        let is_forbidden = said.values().any(|said| *said == Forbids::Always);
        if is_forbidden {
            self.forbidden += 1;
        } else {
            self.reached.push(machine);
        }
        for (guardrail, said) in said {
            let (always, at_times) = self.guardrails.entry(guardrail).or_default();
            match said {
                Forbids::Always => *always += 1,
                Forbids::AtTimes if !is_forbidden => *at_times += 1,
                Forbids::AtTimes => {}
            }
        }
    }

    fn told(self, action: Action, at_scope: bool, guardrails: &GuardrailSet) -> ReachOfAction {
        let told = self.guardrails.into_iter().map(|(id, (always, at_times))| {
            let message = guardrails
                .get(&id)
                .and_then(|guardrail| guardrail.message.clone());
            GuardrailOnReach {
                id,
                message,
                always,
                at_times,
            }
        });
        ReachOfAction {
            action: action.to_string(),
            at_scope,
            machines: self.reached.len(),
            examples: self
                .reached
                .iter()
                .take(EXAMPLES)
                .map(ToString::to_string)
                .collect(),
            forbidden: self.forbidden,
            guardrails: told.collect(),
        }
    }
}

impl App {
    /// What the assignment makes a difference to, on every discovered machine that it is for.
    pub(crate) async fn reach_of_assignment(
        &self,
        authorizer: Arc<Authorizer>,
        assignment: &RoleAssignment,
    ) -> Result<Vec<ReachOfAction>, Failure> {
        let machines = self.machines_of_assignment(assignment).await?;
        let (assignment, now) = (assignment.clone(), self.now());
        // One at a time, and off the threads that answer requests: guardrails may have to be evaluated for each machine.
        let _turn = self.decider.remedies.acquire().await.map_err(Failure::internal)?;
        tokio::task::spawn_blocking(move || reach(&authorizer, &assignment, &machines, now))
            .await
            .map_err(Failure::internal)?
            .map_err(Failure::internal)
    }

    /// The discovered machines that the assignment is for.
    async fn machines_of_assignment(&self, assignment: &RoleAssignment) -> Result<Vec<Reached>, Failure> {
        let filter = MachineFilter {
            visible: Visible::everything(),
            scope: Some(assignment.scope.clone()),
            tags: assignment.tags.clone(),
            ..MachineFilter::default()
        };
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.machines(&filter, after.as_ref(), PAGE).await?;
            found.extend(page.items.into_iter().map(|stored| Reached {
                resource: Resource::machine(stored.machine.id.scope(), stored.machine.tags),
                id: stored.machine.id,
            }));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }
}
