//! Who holds what at a resource: role assignments, role definitions and deny assignments, weighed. Pure.
//!
//! Sources, all Azure RBAC documentation: "What is Azure RBAC" (role assignments add up; deny assignments are looked at
//! first and win), "Understand Azure role definitions" (`notActions` are taken from the actions of their own role
//! and from no other), "Understand scope" (a scope reaches everything below it), "Understand Azure deny
//! assignments" (all principals are the zero UUID; excluded principals; not for child scopes).
//!
//! What is not understood never helps: an assignment with a condition counts for nothing, a deny assignment with a
//! condition counts as if it had none.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use postern_core::cloud_roles::{Held, Lack};

use super::pattern::Pattern;

/// Everybody, in a deny assignment.
const EVERYBODY: &str = "00000000-0000-0000-0000-000000000000";
const MANAGEMENT_GROUPS: &str = "/providers/microsoft.management/managementgroups/";

/// Actions and what is taken from them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permission {
    /// What is meant.
    pub actions: Vec<Pattern>,
    /// What of it is not.
    pub not_actions: Vec<Pattern>,
    /// Whether it holds under a condition only.
    pub conditional: bool,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleDefinition {
    /// Its ARM id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// What it allows: each by itself.
    pub permissions: Vec<Permission>,
}

/// A role, given to somebody somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleAssignment {
    /// Its ARM id.
    pub id: String,
    /// The scope that it is at.
    pub scope: String,
    /// The key of the role in [`Facts::definitions`].
    pub role: String,
    /// To whom, in lower case.
    pub principal: String,
    /// Whether that is a group.
    pub is_group: bool,
    /// Whether it holds under a condition only.
    pub conditional: bool,
}

/// Something taken from somebody somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyAssignment {
    /// Its ARM id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// The scope that it is at.
    pub scope: String,
    /// What it takes.
    pub permissions: Vec<Permission>,
    /// From whom, in lower case.
    pub principals: BTreeSet<String>,
    /// From whom not, in lower case.
    pub excluded: BTreeSet<String>,
    /// Whether it stops at its own scope.
    pub only_there: bool,
    /// Whether Azure itself says that it is assigned to the principal, through a group of any depth.
    pub assigned: bool,
}

/// Who asks, as Entra ID knows them, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The object id.
    pub object_id: String,
    /// The object ids of the groups that they are known to be in.
    pub groups: BTreeSet<String>,
    /// Whether Azure chose the role assignments for this principal, and answers for the groups among them.
    pub chosen_by_azure: bool,
}

impl Who {
    fn is(&self, principal: &str) -> bool {
        self.object_id == principal || self.groups.contains(principal)
    }
}

/// What Azure said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Role assignments at the resource and above.
    pub assignments: Vec<RoleAssignment>,
    /// The roles of these, by key.
    pub definitions: BTreeMap<String, RoleDefinition>,
    /// Deny assignments at the resource and above.
    pub denies: Vec<DenyAssignment>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// What is held, in the order of the demand.
    pub held: Vec<Held>,
    /// What is not.
    pub lacks: Vec<Lack>,
    /// What was there and did not count.
    pub notes: Vec<String>,
}

/// Whether the principal holds everything that is demanded at the resource (an ARM id).
///
/// An action that is demanded with a wildcard is held where one role holds all of it.
pub fn evaluate(demanded: &[Pattern], facts: &Facts, who: &Who, resource: &str) -> Findings {
    let mut findings = Findings {
        held: Vec::new(),
        lacks: Vec::new(),
        notes: Vec::new(),
    };
    // Groups that Azure's own choice shows them to be in.
    let mut who = who.clone();
    if who.chosen_by_azure {
        let groups = facts.assignments.iter().filter(|one| one.is_group);
        who.groups.extend(groups.map(|one| one.principal.clone()));
    }
    let mut counting: Vec<(&RoleAssignment, &RoleDefinition)> = Vec::new();
    for assignment in &facts.assignments {
        if !covers(&assignment.scope, resource) || !who.is(&assignment.principal) {
            continue;
        }
        match facts.definitions.get(&assignment.role) {
            _ if assignment.conditional => findings.notes.push(format!(
                "the role assignment `{}` has a condition and is not counted",
                assignment.id
            )),
            Some(role) => counting.push((assignment, role)),
            None => findings.notes.push(format!(
                "the role of the role assignment `{}` is not there",
                assignment.id
            )),
        }
    }
    for action in demanded {
        let taken = facts
            .denies
            .iter()
            .find(|deny| applies(deny, &who, resource) && takes(deny, action));
        if let Some(deny) = taken {
            findings.lacks.push(Lack::Denied {
                action: action.to_string(),
                by: deny.id.clone(),
                name: deny.name.clone(),
            });
            continue;
        }
        let by = counting.iter().find(|(_, role)| allows(role, action));
        match by {
            Some((assignment, role)) => findings.held.push(Held {
                action: action.to_string(),
                assignment: assignment.id.clone(),
                role: role.id.clone(),
                role_name: role.name.clone(),
            }),
            None => findings.lacks.push(Lack::Missing {
                action: action.to_string(),
            }),
        }
    }
    if findings.lacks.is_empty() {
        findings.notes.clear();
    }
    findings
}

/// Whether a scope reaches a resource. What is at a management group or at the root reaches it because ARM listed it
/// there: a list at a resource has what is at it, above and (with other filters) below, and nothing that is below a
/// machine is at a management group.
fn covers(scope: &str, resource: &str) -> bool {
    let scope = scope.to_lowercase();
    let scope = scope.trim_end_matches('/');
    if scope.is_empty() || scope.starts_with(MANAGEMENT_GROUPS) {
        return true;
    }
    resource
        .to_lowercase()
        .strip_prefix(scope)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the role allows all of the action. `notActions` of the role are taken from all of its actions.
fn allows(role: &RoleDefinition, action: &Pattern) -> bool {
    let allowed = role
        .permissions
        .iter()
        .filter(|permission| !permission.conditional)
        .flat_map(|permission| &permission.actions)
        .any(|pattern| pattern.includes(action));
    let taken = role
        .permissions
        .iter()
        .flat_map(|permission| &permission.not_actions)
        .any(|pattern| pattern.meets(action));
    allowed && !taken
}

fn applies(deny: &DenyAssignment, who: &Who, resource: &str) -> bool {
    let there = if deny.only_there {
        deny.scope.trim_end_matches('/').eq_ignore_ascii_case(resource)
    } else {
        covers(&deny.scope, resource)
    };
    let named =
        deny.assigned || deny.principals.contains(EVERYBODY) || deny.principals.iter().any(|id| who.is(id));
    there && named && !deny.excluded.iter().any(|id| who.is(id))
}

/// Whether it takes some of the action.
fn takes(deny: &DenyAssignment, action: &Pattern) -> bool {
    deny.permissions.iter().any(|permission| {
        permission.actions.iter().any(|pattern| {
            let spared = |not: &Pattern| not.includes(pattern) || not.includes(action);
            pattern.meets(action) && !permission.not_actions.iter().any(spared)
        })
    })
}
