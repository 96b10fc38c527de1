//! Leases: access requests that last as long as their holder is heard of. For pipelines.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access_request::{AccessRequest, AskedTarget};

/// What is leased, how long at most, and why; who asks comes from the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseCreate {
    /// What you call the lease: while it lasts, the same key finds it again, and with another body is refused. Without
    /// one, the `Idempotency-Key` serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "github/9876543210/deploy/1", min_length = 1, max_length = 255)]
    pub key: Option<String>,
    /// The machines.
    #[schema(min_items = 1, max_items = 20)]
    pub targets: Vec<AskedTarget>,
    /// How long at most, from the confirmed opening.
    #[schema(example = 1800, minimum = 10, maximum = 86400)]
    pub duration_seconds: i64,
    /// Why.
    #[schema(example = "deploy of build 4711", min_length = 1, max_length = 1000)]
    pub reason: String,
    /// The ticket that it is for; a policy may ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "OPS-4711", min_length = 1, max_length = 100)]
    pub ticket: Option<String>,
    /// How often you will be heard of, in seconds; 10 when absent. The lease ends when you were not for three times
    /// as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 10, minimum = 1, maximum = 600)]
    pub heartbeat_every_seconds: Option<i64>,
}

/// How long to wait for the ports of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LeaseWaitQuery {
    /// Wait at most this many seconds, 0 to 60, until every grant is open or has ended. You need not be heard of
    /// meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 60)]
    pub wait: Option<u32>,
}

/// Where a leased machine is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeasedMachine {
    /// The machine.
    pub machine: String,
    /// Its name as its owner wrote it.
    pub name: String,
    /// The address to connect to: the first public one, or else the first private one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "198.51.100.10")]
    pub host: Option<String>,
    /// Its public addresses.
    pub public_addresses: Vec<String>,
    /// Its private addresses.
    pub addresses: Vec<String>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// Its id.
    #[schema(example = "lse_01990000000070008000000000000001")]
    pub id: String,
    /// What its holder calls it.
    pub key: String,
    /// Who holds it.
    pub holder: String,
    /// `pending` (somebody has to approve), `refused`, `opening`, `open` (every port was read back as open), `broken`
    /// (some grants ended by another cause than the lease's end), `closing` or `closed`.
    pub status: String,
    /// How often its holder is to be heard of, in seconds.
    pub heartbeat_every_seconds: u64,
    /// When its holder was last heard of.
    pub heard_at: DateTime<Utc>,
    /// When it ends unless its holder is heard of before. Past it nothing is left.
    pub heartbeat_by: DateTime<Utc>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it ended: `released`, `heartbeat_missed`, or `over` when its grants had all ended by other causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// Where its machines are reached, in the order of the request.
    pub machines: Vec<LeasedMachine>,
    /// The access request that it holds, with its grants.
    pub request: AccessRequest,
}
