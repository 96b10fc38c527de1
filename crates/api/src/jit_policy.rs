//! JIT policies, as the API takes and shows them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How a lockdown deals with rules that already allow a guarded port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// The guarded ports are closed whatever others' rules say.
    #[default]
    Strict,
}

/// What a lockdown does with a security group that machines outside every policy share (AWS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedGroups {
    /// Leave the group alone, keep the port open and name the others.
    #[default]
    Refuse,
    /// Displace the rules all the same: the others lose them too.
    Revoke,
}

/// Who must agree before a request under the policy is granted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Nobody: the policy itself approves.
    #[default]
    Policy,
    /// One person with the `approve` action at the machine, who is not the requester.
    One,
}

/// Ports that a policy guards, and on what terms they open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardedPorts {
    /// A port or a range; TCP when no protocol is named.
    #[schema(example = "22/tcp")]
    pub ports: String,
    /// Networks that a requested source must lie in.
    #[schema(example = json!(["203.0.113.0/24"]), min_items = 1, max_items = 50)]
    pub allowed_sources: Vec<String>,
    /// The longest a grant may last.
    #[schema(example = 10800, minimum = 10, maximum = 86400)]
    pub max_duration_seconds: i64,
}

/// A JIT policy to make, or what an existing one shall become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JitPolicyWrite {
    /// A name for people, unique.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// The machines below this scope…
    #[schema(example = "/aws/123456789012")]
    pub scope: String,
    /// …that carry all of these tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What is guarded.
    #[schema(min_items = 1, max_items = 50)]
    pub guards: Vec<GuardedPorts>,
    /// How strictly.
    #[serde(default)]
    pub lockdown: Lockdown,
    /// What happens to shared groups (AWS).
    #[serde(default)]
    pub shared_groups: SharedGroups,
    /// Who must agree.
    #[serde(default)]
    pub approval: Approval,
}

/// A JIT policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JitPolicy {
    /// Its id.
    #[schema(example = "pol_01990000000070008000000000000001")]
    pub id: String,
    /// A name for people, unique.
    pub name: String,
    /// The machines below this scope…
    pub scope: String,
    /// …that carry all of these tags.
    pub tags: BTreeMap<String, String>,
    /// What is guarded.
    pub guards: Vec<GuardedPorts>,
    /// How strictly.
    pub lockdown: Lockdown,
    /// What happens to shared groups (AWS).
    pub shared_groups: SharedGroups,
    /// Who must agree.
    pub approval: Approval,
    /// Counts the changes; the `ETag`, in quotes, that a change must name in `If-Match`.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JitPolicyQuery {
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}
