//! Grants, as the API shows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::machine::Finding;

/// Why a grant ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndCause {
    /// `expired`, `revoked`, `open_failed`, `policy_removed`, `machine_gone`, `not_allowed` (when it was to start),
    /// `not_together` (another machine of the request was not opened), `released`, `heartbeat_missed`,
    /// `database_restored` or `frozen`.
    pub kind: String,
    /// Who ended it, if somebody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What one enforcement point does for a grant, as last read back from the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hop {
    /// The enforcement point's native name.
    #[schema(example = "aws:instance:123456789012/eu-west-1/i-0123456789abcdef0")]
    pub point: String,
    /// `absent`, `unknown` (a write is under way or its outcome is not known) or `present`.
    pub state: String,
    /// The rules as read back.
    pub rules: Value,
    /// The rule of somebody else's that stops the packets all the same, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<String>,
    /// What kept the hop from being opened, if something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// When it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_at: Option<DateTime<Utc>>,
}

/// Where to connect to for a port that a firewall maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entrance {
    /// The machine's port.
    #[schema(example = "22/tcp")]
    pub leads_to: String,
    /// The firewall's address.
    #[schema(example = "198.51.100.10")]
    pub host: String,
    /// The mapped port there.
    #[schema(example = 50_000)]
    pub port: u16,
}

/// A grant: one machine's share of an approved request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// Its id.
    #[schema(example = "grt_01990000000070008000000000000001")]
    pub id: String,
    /// The request that it comes from.
    pub request_id: String,
    /// The policy that covered the machine when it was decided.
    pub policy_id: String,
    /// Whose it is.
    pub requester: String,
    /// Where.
    pub machine: String,
    /// Which ports.
    pub ports: Vec<String>,
    /// From where.
    pub sources: Vec<String>,
    /// How long, from the confirmed opening.
    pub duration_seconds: u64,
    /// `scheduled`, `opening`, `open`, `closing` or `closed`.
    pub status: String,
    /// What that means right now, in one sentence. Rules are what opens and closes; a connection that is
    /// already established is not cut.
    pub truth: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The latest instant at which it could end.
    pub not_after: DateTime<Utc>,
    /// While scheduled: when it begins to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// While scheduled or opening: when it fails if it is not open by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_deadline: Option<DateTime<Utc>>,
    /// When the last hop was confirmed as open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<DateTime<Utc>>,
    /// While open: when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// When the last hop was confirmed as closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<DateTime<Utc>>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<EndCause>,
    /// Where to connect to, for each port that a firewall on the way maps to another address and port; as read back
    /// there. Empty where the machine's own addresses lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrances: Vec<Entrance>,
    /// The hop that the grant waits for, while it opens or closes: the first one that is not as it shall be. The hops
    /// behind a firewall wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "azure:firewall:00000000-0000-0000-0000-000000000001/hub/edge")]
    pub waits_for: Option<String>,
    /// The enforcement points on the way, each with what was last read there.
    pub hops: Vec<Hop>,
    /// What was noticed about its rules, where one grant is asked for: what stands, then what was put right within 30
    /// days, the latest first; 50 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// Why a grant is revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRevoke {
    /// Why, if there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}

/// How long a grant shall last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantExtend {
    /// How long in all, from the confirmed opening: more than now, and no more than the policy allows at a time.
    #[schema(example = 7200, minimum = 10, maximum = 86400)]
    pub duration_seconds: i64,
    /// Why.
    #[schema(example = "restore takes longer", min_length = 1, max_length = 1000)]
    pub reason: String,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GrantQuery {
    /// Only grants that stand there: `scheduled`, `opening`, `open`, `closing` or `closed`; several with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only grants of this principal; `me` for your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// Only grants on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Only grants of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}
