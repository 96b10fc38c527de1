//! Microsoft.Authorization: who is in which group, role definitions, role assignments and deny assignments, and the
//! questions about them on the wire.
//!
//! Sources: Azure REST API specifications, Microsoft.Authorization 2022-04-01; Azure RBAC documentation, "List Azure
//! role assignments using the REST API", "List Azure deny assignments", "Azure built-in roles" and "Troubleshoot
//! Azure RBAC"; the refusal of a filter as it stands in public reports of it (`UnsupportedQuery`).
//!
//! It holds what is to be known about others. What callers of the simulator may do is what [`super::ArmClient`] says.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::refusal::ArmError;
use super::state::State;

mod built_in;
mod filter;
mod kind;
mod show;
mod write;

use filter::{Filter, quoted};
pub(super) use kind::{AuthorizationKind, check_version};
use show::{show_assignment, show_definition};

const PROVIDER: &str = "Microsoft.Authorization";
const MANAGEMENT_GROUPS: &str = "/providers/microsoft.management/managementgroups/";
const EVERYBODY: &str = "00000000-0000-0000-0000-000000000000";
/// From when on role assignments show their conditions.
const CONDITIONS_SINCE: &str = "2020-03-01-preview";

/// A role assignment to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleGrant {
    /// Where: `/`, a management group's, subscription's, resource group's or resource's ARM id.
    pub scope: String,
    /// The name of a role, or the name (a UUID) of its definition.
    pub role: String,
    /// To whom: an object id.
    pub principal: String,
    /// Under which condition.
    pub condition: Option<String>,
}

/// A deny assignment to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Where.
    pub scope: String,
    /// What it is called.
    pub name: String,
    /// What it takes.
    pub actions: Vec<String>,
    /// What of it not.
    pub not_actions: Vec<String>,
    /// From whom, object ids; empty for everybody.
    pub principals: Vec<String>,
    /// From whom not.
    pub excluded: Vec<String>,
    /// Whether it stops at its own scope.
    pub only_there: bool,
}

#[derive(Debug, Clone)]
struct RoleAssignment {
    name: String,
    scope: String,
    /// The name of the definition.
    role: String,
    principal: String,
    principal_type: String,
    condition: Option<String>,
    description: Option<String>,
    at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
struct Definition {
    name: String,
    role_name: String,
    description: String,
    built_in: bool,
    permissions: Value,
    assignable: Vec<String>,
    at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
struct DenyAssignment {
    id: String,
    denial: Denial,
    at: DateTime<Utc>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Authorization {
    /// By id in lower case.
    assignments: BTreeMap<String, RoleAssignment>,
    /// By name.
    definitions: BTreeMap<String, Definition>,
    /// By id in lower case.
    denies: BTreeMap<String, DenyAssignment>,
    /// The members of groups, by the group's object id.
    groups: BTreeMap<String, BTreeSet<String>>,
    /// The management groups above a subscription, outermost first.
    above: BTreeMap<String, Vec<String>>,
}

/// A scope without its slash at the end, `/` for the root.
pub(super) fn scope_text(scope: &str) -> String {
    let scope = scope.trim_matches('/');
    format!("/{scope}")
}

pub(super) fn id_of(scope: &str, kind: AuthorizationKind, name: &str) -> String {
    let scope = scope.trim_end_matches('/');
    format!("{scope}/providers/{PROVIDER}/{}/{name}", kind.segment())
}

pub(super) fn subscription_of(scope: &str) -> Option<&str> {
    let mut segments = scope.trim_start_matches('/').split('/');
    segments
        .next()
        .filter(|first| first.eq_ignore_ascii_case("subscriptions"))?;
    segments.next()
}

fn is_within(inner: &str, outer: &str) -> bool {
    let (inner, outer) = (inner.to_ascii_lowercase(), outer.to_ascii_lowercase());
    let outer = outer.trim_end_matches('/');
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn texts(list: &[String]) -> Value {
    json!(list)
}

impl Authorization {
    /// Whether what is at `outer` reaches `inner`.
    fn reaches(&self, outer: &str, inner: &str) -> bool {
        let outer = scope_text(outer);
        if outer == "/" {
            return true;
        }
        if let Some(group) = outer.to_ascii_lowercase().strip_prefix(MANAGEMENT_GROUPS) {
            let above = subscription_of(inner).and_then(|id| self.above.get(&id.to_ascii_lowercase()));
            return is_within(inner, &outer)
                || above.is_some_and(|above| above.iter().any(|one| one.eq_ignore_ascii_case(group)));
        }
        is_within(inner, &outer)
    }

    /// The principal and every group that it is in, however deep.
    fn with_groups(&self, principal: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::from([principal.to_ascii_lowercase()]);
        loop {
            let more: Vec<String> = self
                .groups
                .iter()
                .filter(|(group, members)| {
                    !all.contains(*group) && members.iter().any(|one| all.contains(one))
                })
                .map(|(group, _)| group.clone())
                .collect();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    fn wanted(&self, filter: &Filter, at: &str, here: &str, principals: &[&str]) -> bool {
        let placed = self.reaches(at, here) || (!filter.at_scope && self.reaches(here, at));
        let theirs = filter.assigned_to.as_ref().is_none_or(|id| {
            // "You cannot pass an object ID for a group."
            let who = self.with_groups(id);
            !self.groups.contains_key(id)
                && principals
                    .iter()
                    .any(|one| who.contains(&one.to_ascii_lowercase()))
        });
        let named = filter
            .principal
            .as_ref()
            .is_none_or(|id| principals.iter().any(|one| one.eq_ignore_ascii_case(id)));
        placed && theirs && named
    }

    /// What a list at a scope has, by key.
    pub(super) fn list(
        &self,
        kind: AuthorizationKind,
        scope: &str,
        filter: Option<&str>,
        version: &str,
    ) -> Result<Vec<(String, Value)>, ArmError> {
        if kind == AuthorizationKind::RoleDefinition {
            return self.list_definitions(scope, filter);
        }
        let filter = Filter::parse(kind, filter)?;
        Ok(match kind {
            AuthorizationKind::DenyAssignment => self
                .denies
                .iter()
                .filter(|(_, deny)| {
                    let principals: Vec<&str> = deny.denial.principals.iter().map(String::as_str).collect();
                    self.wanted(&filter, &deny.denial.scope, scope, &principals)
                        && filter
                            .name
                            .as_ref()
                            .is_none_or(|name| deny.denial.name.eq_ignore_ascii_case(name))
                })
                .map(|(key, deny)| (key.clone(), self.show_deny(deny)))
                .collect(),
            _ => self
                .assignments
                .iter()
                .filter(|(_, one)| self.wanted(&filter, &one.scope, scope, &[&one.principal]))
                .map(|(key, one)| (key.clone(), show_assignment(one, version)))
                .collect(),
        })
    }

    fn list_definitions(&self, scope: &str, filter: Option<&str>) -> Result<Vec<(String, Value)>, ArmError> {
        let name = match filter.map(str::trim).filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let name = text
                    .split_once(" eq ")
                    .filter(|(left, _)| left.trim().eq_ignore_ascii_case("roleName"))
                    .and_then(|(_, right)| quoted(right));
                let Some(name) = name else {
                    return Err(ArmError::new(
                        400,
                        "UnsupportedQuery",
                        format!("The filter '{text}' is not supported."),
                    ));
                };
                Some(name)
            }
        };
        Ok(self
            .definitions
            .values()
            .filter(|one| {
                name.as_ref()
                    .is_none_or(|name| one.role_name.eq_ignore_ascii_case(name))
            })
            .filter(|one| one.assignable.iter().any(|at| self.reaches(at, scope)))
            .map(|one| (one.name.clone(), show_definition(one, scope)))
            .collect())
    }

    /// One of them, as seen from a scope.
    pub(super) fn get(
        &self,
        kind: AuthorizationKind,
        scope: &str,
        name: &str,
        version: &str,
    ) -> Result<Value, ArmError> {
        let key = id_of(scope, kind, name).to_ascii_lowercase();
        match kind {
            AuthorizationKind::RoleAssignment => self
                .assignments
                .get(&key)
                .map(|one| show_assignment(one, version))
                .ok_or_else(|| {
                    let text = format!("The role assignment '{name}' is not found.");
                    ArmError::new(404, "RoleAssignmentNotFound", text)
                }),
            AuthorizationKind::DenyAssignment => self
                .denies
                .get(&key)
                .map(|one| self.show_deny(one))
                .ok_or_else(|| {
                    let text = format!("The deny assignment '{name}' is not found.");
                    ArmError::new(404, "DenyAssignmentNotFound", text)
                }),
            AuthorizationKind::RoleDefinition => self
                .definitions
                .get(&name.to_ascii_lowercase())
                .filter(|one| {
                    let related = |at: &String| self.reaches(at, scope) || self.reaches(scope, at);
                    one.assignable.iter().any(related)
                })
                .map(|one| show_definition(one, scope))
                .ok_or_else(|| {
                    let text = format!("The specified role definition with ID '{name}' does not exist.");
                    ArmError::new(404, "RoleDefinitionDoesNotExist", text)
                }),
        }
    }

    fn type_of(&self, principal: &str) -> String {
        let group = self.groups.contains_key(&principal.to_ascii_lowercase());
        if group { "Group" } else { "User" }.to_owned()
    }

    fn show_deny(&self, one: &DenyAssignment) -> Value {
        let Denial {
            scope,
            name,
            actions,
            not_actions,
            principals,
            excluded,
            only_there,
        } = &one.denial;
        let people = |ids: &[String]| -> Vec<Value> {
            ids.iter()
                .map(|id| json!({ "id": id, "type": self.type_of(id) }))
                .collect()
        };
        let principals = if principals.is_empty() {
            vec![json!({ "id": EVERYBODY, "type": "SystemDefined" })]
        } else {
            people(principals)
        };
        json!({
            "id": one.id,
            "name": one.id.rsplit('/').next(),
            "type": "Microsoft.Authorization/denyAssignments",
            "properties": {
                "denyAssignmentName": name,
                "description": null,
                "permissions": [{
                    "actions": texts(actions), "notActions": texts(not_actions),
                    "dataActions": [], "notDataActions": [],
                }],
                "scope": scope,
                "doNotApplyToChildScopes": only_there,
                "principals": principals,
                "excludePrincipals": people(excluded),
                "isSystemProtected": true,
                "createdOn": one.at, "updatedOn": one.at, "createdBy": null, "updatedBy": null,
            },
        })
    }
}

/// Refuses a scope in a resource group that is not there.
pub(super) fn check_scope(state: &State, scope: &str) -> Result<(), ArmError> {
    let segments: Vec<&str> = scope.trim_matches('/').split('/').collect();
    if let ["", ..] | [_, _] | [_] = segments.as_slice() {
        return Ok(());
    }
    if let [first, subscription, groups, group, ..] = segments.as_slice()
        && first.eq_ignore_ascii_case("subscriptions")
        && groups.eq_ignore_ascii_case("resourceGroups")
        && state.group(subscription, group).is_none()
    {
        return Err(super::write::group_missing(group));
    }
    Ok(())
}
