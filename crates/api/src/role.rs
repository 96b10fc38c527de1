//! Roles and role assignments, as the API takes and shows them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A named set of actions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// Lower-case letters, digits and hyphens, 1 to 40.
    pub name: String,
    /// What it allows: `read`, `request`, `approve`, `revoke`, `configure`, `audit`, `assign`, `break_glass`,
    /// `freeze`.
    pub actions: BTreeSet<String>,
    /// Whether it ships with Postern and cannot be changed.
    pub built_in: bool,
}

/// A custom role to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleCreate {
    /// Lower-case letters, digits and hyphens, 1 to 40.
    #[schema(example = "night-shift", min_length = 1, max_length = 40)]
    pub name: String,
    /// What it allows.
    #[schema(example = json!(["read", "revoke"]), min_items = 1)]
    pub actions: BTreeSet<String>,
}

/// Binds a role to a principal at a scope and everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleAssignment {
    /// Its id.
    #[schema(example = "ra_01990000000070008000000000000001")]
    pub id: String,
    /// The role's name.
    pub role: String,
    /// Who has it.
    #[schema(example = "group:corp/sre")]
    pub principal: String,
    /// Where.
    pub scope: String,
    /// Who made the assignment.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Only for machines that carry all of these tags, and what is about them; for everything at the scope when absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// When it ends by itself; from then on it counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
}

/// A role assignment to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleAssignmentCreate {
    /// The role's name.
    #[schema(example = "requester")]
    pub role: String,
    /// `user:<issuer>/<subject>`, `group:<issuer>/<group>` or `workload:<issuer>/<subject>`.
    #[schema(example = "group:corp/sre")]
    pub principal: String,
    /// Where.
    #[schema(example = "/aws/123456789012")]
    pub scope: String,
    /// Only for machines that carry all of these tags, 20 at most; for everything at the scope when absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// When it ends by itself; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
}

/// How to make or remove a role assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RoleAssignmentChangeQuery {
    /// `true`: change nothing, and answer with who would gain or lose what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// What somebody would newly be allowed to do, or no more, on how many machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReachOfAction {
    /// What: `read`, `request`, …
    pub action: String,
    /// Whether it changes for what is at the scope and about no machine (policies, and roles at `/`), and for machines to
    /// come; not where a guardrail forbids all of that whatever is asked for.
    pub at_scope: bool,
    /// On how many of the discovered machines it changes.
    pub machines: usize,
    /// Those machines, by id; the first 50 of them.
    pub examples: Vec<String>,
    /// On how many more it would change but for guardrails, which forbid it there whatever is asked for.
    #[serde(default)]
    pub forbidden: usize,
    /// The guardrails that have a say, by id: those that are not here never forbid it, neither on these machines nor at the
    /// scope.
    #[serde(default)]
    pub guardrails: Vec<GuardrailOnReach>,
}

/// When a guardrail forbids something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardrailForbids {
    /// Whatever is asked for.
    Always,
    /// By what is asked for, by the token, or by the time.
    AtTimes,
}

/// What a guardrail says to something that somebody would be allowed by role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuardrailOnReach {
    /// Its id.
    pub id: String,
    /// What it tells the refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// On how many machines it forbids it whatever is asked for; they count in `forbidden`.
    pub always: usize,
    /// On how many of `machines` it may forbid it, by what is asked for, by the token, or by the time.
    pub at_times: usize,
    /// Whether it forbids it for what is at the scope and about no machine, and for machines to come, where the role
    /// assignment changes that; absent where it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_scope: Option<GuardrailForbids>,
}

/// What making or removing a role assignment would do. Nothing of it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleAssignmentPlan {
    /// Always true.
    pub dry_run: bool,
    /// The role assignment that would be made or removed. One that would be made has an id that names nothing.
    pub assignment: RoleAssignment,
    /// What its principal would gain, compared with the other role assignments that name it. Members of a group may have
    /// it by themselves already.
    pub gains: Vec<ReachOfAction>,
    /// What its principal would lose.
    pub loses: Vec<ReachOfAction>,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RoleAssignmentQuery {
    /// Only assignments of this principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Only assignments of this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only assignments at or below this scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}
