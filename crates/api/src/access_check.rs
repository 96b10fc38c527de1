//! The access check: may somebody do something somewhere, and what says so.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// What to check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessCheckQuery {
    /// Who; yourself when absent. Others need `assign` or `audit` at the scope. Of somebody else only the name is
    /// known: what a token of theirs would bring may be assumed with `groups`, `mfa`, `authenticated_at` and `claims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// `read`, `request`, `approve`, `revoke`, `configure`, `audit`, `assign`, `break_glass` or `freeze`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = true)]
    pub action: Option<String>,
    /// Where; a machine's own scope to have its tags considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(required = true)]
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
    /// Groups that are assumed, as a token would name them: without the issuer. May stand there several times. What is
    /// assumed takes the place of a token: with any of these, `assign` or `audit` at the scope is needed also for
    /// yourself.
    #[serde(default, skip_serializing_if = "is_apart")]
    #[param(max_items = 1000, example = json!(["sre"]))]
    pub groups: Vec<String>,
    /// Whether a second factor is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<bool>,
    /// When a sign-in is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<DateTime<Utc>>,
    /// Claims that are assumed, of those that the issuer's configuration passes on: `name=value`, where a value that is
    /// JSON is meant as JSON, and any other is a text. May stand there several times.
    #[serde(default, skip_serializing_if = "is_apart")]
    #[param(max_items = 256, example = json!(["device_managed=true"]))]
    pub claims: Vec<String>,
}

/// Whether a parameter is written by [`AccessCheckQuery::repeated`] alone: always, because a form of single values holds no
/// lists.
const fn is_apart(_: &[String]) -> bool {
    true
}

impl AccessCheckQuery {
    /// The parameters that may stand there several times, which are no part of the serialized form.
    pub fn repeated(&self) -> Vec<(&'static str, &str)> {
        let groups = self.groups.iter().map(|group| ("groups", group.as_str()));
        let claims = self.claims.iter().map(|claim| ("claims", claim.as_str()));
        groups.chain(claims).collect()
    }
}

/// What was taken to be so of whoever the check is about, because no token of theirs was there to say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assumed {
    /// Their groups, without the issuer.
    pub groups: BTreeSet<String>,
    /// Whether they proved a second factor.
    pub mfa: bool,
    /// When they signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<DateTime<Utc>>,
    /// Their claims.
    pub claims: BTreeMap<String, Value>,
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
    /// What was assumed of them, where the check was about somebody without a token: with no group, none of their
    /// groups counted. Absent where your own token said who you are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed: Option<Assumed>,
    /// What the cloud's own role assignments say, where the installation demands them at this machine for this action
    /// and Postern's own roles allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_roles: Option<Value>,
    /// What would allow it, where that was asked for: each line a way of its own past the guardrails, and the role
    /// assignment that is needed besides.
    #[serde(default)]
    pub remedies: Vec<String>,
}
