//! What a role assignment adds to the others of its principal: who newly gains or loses what, before it is changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use postern_api::role::{GuardrailForbids, GuardrailOnReach, ReachOfAction};
use postern_authz::{Authorizer, AuthzError, Context, Decision, Forbids, GuardrailSet, Resource};
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
    may_read: &mut impl FnMut(&Reached) -> bool,
) -> Result<Vec<ReachOfAction>, AuthzError> {
    if !assignment.counts_at(now) {
        return Ok(Vec::new());
    }
    let at_scope = Resource::scope(assignment.scope.clone());
    let mut outlook = authorizer.outlook(&assignment.principal)?;
    let mut found = Vec::new();
    for action in authorizer.actions_of(&assignment.role) {
        let is_new = |resource: &Resource| {
            assignment.is_for(&resource.tags)
                && !authorizer.has_by_name(&assignment.principal, action, resource, now, assignment.id)
        };
        let mut of_action = Found::default();
        if is_new(&at_scope) {
            of_action.at_scope = Some(outlook.within(action, &assignment.scope));
        }
        for machine in machines {
            let without_tags;
            let resource = if action.is_about_tags() {
                &machine.resource
            } else {
                without_tags = Resource::machine(machine.resource.scope.clone(), BTreeMap::new());
                &without_tags
            };
            if is_new(resource) {
                of_action.add(machine, outlook.at(action, resource));
            }
        }
        if !of_action.is_nothing() {
            found.push(of_action.told(action, authorizer.guardrails(), may_read));
        }
    }
    Ok(found)
}

/// What is found of one action.
#[derive(Debug, Default)]
struct Found<'a> {
    /// What guardrails say at the scope, where the roles change anything there.
    at_scope: Option<BTreeMap<String, Forbids>>,
    reached: Vec<&'a Reached>,
    forbidden: usize,
    /// By guardrail: on how many machines it forbids always, and at times.
    guardrails: BTreeMap<String, (usize, usize)>,
}

impl<'a> Found<'a> {
    const fn is_nothing(&self) -> bool {
        self.at_scope.is_none() && self.reached.is_empty() && self.forbidden == 0
    }

    fn add(&mut self, machine: &'a Reached, said: BTreeMap<String, Forbids>) {
        let is_forbidden = said.values().any(|said| *said == Forbids::Always);
        if is_forbidden {
            self.forbidden += 1;
        } else {
            self.reached.push(machine);
        }
        for (guardrail, said) in said {
            match said {
                Forbids::Always => self.guardrails.entry(guardrail).or_default().0 += 1,
                Forbids::AtTimes if !is_forbidden => self.guardrails.entry(guardrail).or_default().1 += 1,
                Forbids::AtTimes => {}
            }
        }
    }

    fn told(
        mut self,
        action: Action,
        guardrails: &GuardrailSet,
        may_read: &mut impl FnMut(&Reached) -> bool,
    ) -> ReachOfAction {
        let is_at_scope = self
            .at_scope
            .as_ref()
            .is_some_and(|said| !said.values().any(|said| *said == Forbids::Always));
        let at_scope = self.at_scope.unwrap_or_default();
        for guardrail in at_scope.keys() {
            self.guardrails.entry(guardrail.clone()).or_default();
        }
        let told = self.guardrails.into_iter().map(|(id, (always, at_times))| {
            let known = guardrails.get(&id);
            GuardrailOnReach {
                message: known.and_then(|guardrail| guardrail.message.clone()),
                at_scope: at_scope.get(&id).map(|said| match said {
                    Forbids::Always => GuardrailForbids::Always,
                    Forbids::AtTimes => GuardrailForbids::AtTimes,
                }),
                id,
                always,
                at_times,
            }
        });
        let readable = self.reached.iter().filter(|machine| may_read(machine));
        ReachOfAction {
            action: action.to_string(),
            at_scope: is_at_scope,
            machines: self.reached.len(),
            examples: readable
                .take(EXAMPLES)
                .map(|machine| machine.id.to_string())
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
        caller: &Caller,
        assignment: &RoleAssignment,
    ) -> Result<Vec<ReachOfAction>, Failure> {
        let machines = self.machines_of_assignment(assignment).await?;
        let (assignment, now) = (assignment.clone(), self.now());
        let reader = caller.principal.clone();
        // One at a time, also when nobody waits for the answer any more, and off the threads that answer requests: guardrails
        // may have to be evaluated for each machine.
        let turn = Arc::clone(&self.decider.outlooks);
        let turn = turn.acquire_owned().await.map_err(Failure::internal)?;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // Whoever may assign roles may not for that see every machine.
            let mut known: HashMap<MachineId, bool> = HashMap::new();
            let mut may_read = |machine: &Reached| {
                *known.entry(machine.id.clone()).or_insert_with(|| {
                    authorizer
                        .decide(&reader, Action::Read, &machine.resource, &Context::at(now))
                        .allowed
                })
            };
            reach(&authorizer, &assignment, &machines, now, &mut may_read)
        })
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
