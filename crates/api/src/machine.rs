//! Machines, as the API shows them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::jit_policy::JitPolicy;

/// Where a machine stands, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Posture {
    /// `configured`, `recommended`, `healthy` or `not_applicable`.
    #[schema(example = "configured")]
    pub state: String,
    /// Why.
    pub reason: String,
}

/// A machine, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// Its cloud id: an ARM resource id (lower-case names) or an EC2 instance ARN.
    #[schema(example = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0")]
    pub id: String,
    /// `azure` or `aws`.
    pub cloud: String,
    /// Its own scope.
    #[schema(example = "/aws/123456789012/eu-west-1/i-0123456789abcdef0")]
    pub scope: String,
    /// Its name as its owner wrote it.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// `running`, `changing`, `stopped` or `unknown`.
    pub power: String,
    /// Where it stands.
    pub posture: Posture,
    /// The id of the JIT policy that covers it, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_id: Option<String>,
    /// When it was last discovered.
    pub seen_at: DateTime<Utc>,
    /// When discovery no longer found it, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<DateTime<Utc>>,
}

/// A network interface of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// ARM resource id or `eni-…`.
    pub id: String,
    /// Private addresses.
    pub addresses: Vec<String>,
    /// Public addresses that lead to it.
    pub public_addresses: Vec<String>,
}

/// An enforcement point on the way to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachinePoint {
    /// The point's id.
    pub id: String,
    /// The point's native name.
    #[schema(example = "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg")]
    pub point: String,
    /// Whether a grant opens here: it is a hop.
    pub opens: bool,
    /// Whether a lockdown closes here.
    pub locks: bool,
}

/// Something that was noticed about rules in others' hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Where: an enforcement point's native name.
    #[schema(example = "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg")]
    pub point: String,
    /// A stable word, such as `own_rule_edited`, `own_rule_missing`, `displaced_rule_returned` or
    /// `foreign_rule_opens`.
    pub code: String,
    /// What was noticed.
    pub message: String,
    /// Whether somebody changed what was as Postern wanted it.
    pub drift: bool,
    /// As it was or should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// As it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// When it was first seen.
    pub found_at: DateTime<Utc>,
    /// When it was put right, or seen no more; it stands where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<DateTime<Utc>>,
}

/// Somebody who may ask for a machine's ports, before guardrails are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MayRequest {
    /// A user, group or workload.
    pub principal: String,
    /// The role that says so.
    pub role: String,
    /// The role assignment's scope.
    pub scope: String,
    /// The role assignment.
    pub assignment_id: String,
}

/// A machine with everything known about the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineDetail {
    /// What lists show.
    #[serde(flatten)]
    pub machine: Machine,
    /// Its interfaces, the primary one first.
    pub interfaces: Vec<Interface>,
    /// The JIT policy that covers it, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<JitPolicy>,
    /// The enforcement points on the way to it.
    pub points: Vec<MachinePoint>,
    /// What was noticed there: what stands, then what was put right within 30 days, the latest first; 50 at most.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Who may ask for its ports.
    pub may_request: Vec<MayRequest>,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MachineQuery {
    /// Only machines with this posture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture: Option<String>,
    /// Only machines below this scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Only machines with this tag: `key=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only machines whose name or id contains this, whatever the case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `true`: only machines with drift, which somebody brought about, that stands or was found within a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<bool>,
    /// Only machines of this cloud: `azure` or `aws`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}
