//! The access check: may somebody do something somewhere, and what says so.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// What to check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessCheckQuery {
    /// Who; yourself when absent. Others need `assign` or `audit` at the scope. For somebody else only what
    /// assignments say of the name itself is known, not the groups that a token would bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// `read`, `request`, `approve`, `revoke`, `configure`, `audit`, `assign` or `break_glass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Where; a machine's own scope to have its tags considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The ports that would be asked for, such as `22`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// From where, such as `203.0.113.7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// For how long, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<u64>,
    /// Whether a reason would be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<bool>,
    /// Whether to look for what would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedies: Option<bool>,
}

/// The decision, with what made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessCheck {
    /// Who.
    pub principal: String,
    /// What.
    pub action: String,
    /// Where.
    pub scope: String,
    /// Whether it is allowed.
    pub allowed: bool,
    /// What decided, in a sentence: the role assignments that allow it, the guardrail that forbids it, or what
    /// is missing.
    pub explanation: String,
    /// The same for programs.
    pub decision: Value,
    /// What the cloud's own role assignments say, where the installation demands them at this machine for this action
    /// and Postern's own roles allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_roles: Option<Value>,
    /// What would allow it, where that was asked for: each line a way of its own past the guardrails, and the role
    /// assignment that is needed besides.
    #[serde(default)]
    pub remedies: Vec<String>,
}
