//! Preflight, as the API shows it: what a grant would run into, from the last observation.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access_request::AccessRequest;

/// A rule, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreflightRule {
    /// The NSG or security group that holds it.
    #[schema(example = "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg")]
    pub resource: String,
    /// Its name or id.
    pub rule: String,
    /// Its number, in an NSG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
}

/// Something that was seen on the way to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreflightNote {
    /// A stable word. An obstacle's is the error code that the request would get: `blocked_by_rule`,
    /// `machine_stopped`, `no_address` or `no_capacity`. A warning's may also be `may_be_blocked`, `not_running`,
    /// `observation_old`, `rules_may_not_fit` or `unfiltered_interface`.
    #[schema(example = "blocked_by_rule")]
    pub code: String,
    /// What was seen, for people.
    pub detail: String,
    /// The rule that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<PreflightRule>,
}

/// A way to a machine's port that is there without the request, by a rule of somebody else's, as last observed. A grant
/// neither opens nor closes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exposure {
    /// Which machine.
    pub machine: String,
    /// `open`: rules at the machine let packets in, or may. `translated`: a firewall's NAT rule leads to it, and the rules
    /// at the machine let the firewall in. `stopped`: a NAT rule leads to it, and what comes so is stopped at the machine as
    /// long as no grant lets the firewall in.
    #[schema(example = "open")]
    pub code: String,
    /// What was seen, for people.
    pub detail: String,
    /// The rule.
    pub rule: PreflightRule,
    /// To which of the ports asked for.
    #[schema(example = "22/tcp")]
    pub ports: String,
    /// When it was observed.
    pub observed_at: DateTime<Utc>,
}

/// What a grant on one machine would run into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preflight {
    /// Which machine.
    pub machine: String,
    /// Whether nothing certain stands in the way.
    pub opens: bool,
    /// When the way was observed.
    pub observed_at: DateTime<Utc>,
    /// What stands in the way, for certain.
    pub obstacles: Vec<PreflightNote>,
    /// What may stand in the way, or is worth knowing.
    pub warnings: Vec<PreflightNote>,
}

/// What allows one target of a request, and on whose terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunDecision {
    /// Which machine.
    pub machine: String,
    /// What allows it, in a sentence.
    pub explanation: String,
    /// The JIT policy that covers the machine. Whom it asks stands in `awaits`.
    pub policy: String,
    /// Its name.
    pub policy_name: String,
}

/// A change that would be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunChange {
    /// What it does: of a request `open`, or `repair` where it changes a rule that grants share; of a policy `lock_down`,
    /// `repair`, `restore` or `close`.
    #[schema(example = "open")]
    pub verb: String,
    /// The native id of the resource that would be written.
    pub target: String,
    /// What would happen, in one line. Names and marks would have the id of the grant, which does not exist yet.
    pub summary: String,
    /// What stands there now, where something does; of a request only for whoever may read all its machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What would stand there, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What is wanted at a point and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunObstacle {
    /// A stable word, such as `no_free_priority`.
    pub code: String,
    /// What stands in the way, by name.
    pub detail: String,
}

/// What would be written at one enforcement point, from a reading that was made for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunPoint {
    /// Which.
    #[schema(example = "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg")]
    pub point: String,
    /// In order.
    pub changes: Vec<DryRunChange>,
    /// How many rules are left out of them, because they are not only about machines behind the point that you may read. Who
    /// may read which of more than 200 others behind the points is not asked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rules_not_shown: usize,
    /// What cannot be had.
    pub obstacles: Vec<DryRunObstacle>,
    /// Why it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// What a request would be, and run into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessRequestDryRun {
    /// The request as it would be.
    #[serde(flatten)]
    pub request: AccessRequest,
    /// What allows it: one for each target, in their order.
    #[serde(default)]
    pub decisions: Vec<DryRunDecision>,
    /// One for each target, in their order.
    pub preflight: Vec<Preflight>,
    /// What would be written if it began now, at each enforcement point.
    #[serde(default)]
    pub writes: Vec<DryRunPoint>,
}
