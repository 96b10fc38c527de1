//! What a role assignment adds to the others of its principal: who newly gains or loses what, before it is changed.

use postern_api::role::ReachOfAction;
use postern_authz::{Authorizer, Decision, Resource};
use postern_core::{
    audit::{AuditEvent, Subject},
    machine::MachineId,
    role::RoleAssignment,
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
pub(crate) struct Reached {
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
/// makes a difference anywhere. One that has ended makes none.
pub(crate) fn reach(
    authorizer: &Authorizer,
    assignment: &RoleAssignment,
    machines: &[Reached],
    now: Instant,
) -> Vec<ReachOfAction> {
    if !assignment.counts_at(now) {
        return Vec::new();
    }
    let at_scope = Resource::scope(assignment.scope.clone());
    authorizer
        .actions_of(&assignment.role)
        .into_iter()
        .map(|action| {
            let is_new = |resource: &Resource| {
                assignment.is_for(&resource.tags)
                    && !authorizer.has_by_name(&assignment.principal, action, resource, now, assignment.id)
            };
            let reached: Vec<&MachineId> = machines
                .iter()
                .filter(|machine| is_new(&machine.resource))
                .map(|machine| &machine.id)
                .collect();
            ReachOfAction {
                action: action.to_string(),
                at_scope: is_new(&at_scope),
                machines: reached.len(),
                examples: reached.iter().take(EXAMPLES).map(ToString::to_string).collect(),
            }
        })
        .filter(|reach| reach.at_scope || reach.machines > 0)
        .collect()
}

impl App {
    /// The discovered machines that the assignment is for.
    pub(crate) async fn machines_of_assignment(
        &self,
        assignment: &RoleAssignment,
    ) -> Result<Vec<Reached>, Failure> {
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
