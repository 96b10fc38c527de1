//! Access requests, as the API takes and shows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{grant::Grant, preflight::Exposure};

/// One machine of a request, with what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// An ARM resource id or an EC2 instance ARN.
    #[schema(example = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0")]
    pub machine: String,
    /// Ports or ranges; TCP when no protocol is named.
    #[schema(example = json!(["22/tcp"]), min_items = 1, max_items = 50)]
    pub ports: Vec<String>,
    /// Addresses or CIDR blocks that the packets come from.
    #[schema(example = json!(["203.0.113.7/32"]), min_items = 1, max_items = 50)]
    pub sources: Vec<String>,
}

/// One machine of a request, with what is asked of it. Without `sources`, for the address that the request comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskedTarget {
    /// An ARM resource id or an EC2 instance ARN.
    #[schema(example = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0")]
    pub machine: String,
    /// Ports or ranges; TCP when no protocol is named.
    #[schema(example = json!(["22/tcp"]), min_items = 1, max_items = 50)]
    pub ports: Vec<String>,
    /// Addresses or CIDR blocks that the packets come from. When absent, the one address that this request comes from,
    /// as the server and its trusted proxies see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["203.0.113.7/32"]), min_items = 1, max_items = 50)]
    pub sources: Option<Vec<String>>,
}

/// What comes of the other machines when one of them ends without ever having been open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They are closed, too.
    #[default]
    AllOrNothing,
    /// Nothing.
    BestEffort,
}

/// Who asks comes from the token; this is for what, how long and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessRequestCreate {
    /// The machines.
    #[schema(min_items = 1, max_items = 20)]
    pub targets: Vec<AskedTarget>,
    /// How long, from the confirmed opening.
    #[schema(example = 600, minimum = 10, maximum = 86400)]
    pub duration_seconds: i64,
    /// Why.
    #[schema(example = "disk full on the build host", min_length = 1, max_length = 1000)]
    pub reason: String,
    /// The ticket that it is for; a policy may ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "OPS-4711", min_length = 1, max_length = 100)]
    pub ticket: Option<String>,
    /// When the grants begin to open, in RFC 3339; at once when absent. It is decided again then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// What comes of the other machines when one cannot be opened: `all_or_nothing` when absent, and `best_effort` when
    /// absent in an emergency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// How to make a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessRequestCreateQuery {
    /// `true`: decide and answer, and change nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    /// Wait at most this many seconds, 0 to 60, until every grant is open or has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 60)]
    pub wait: Option<u32>,
}

/// How a request was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestDecision {
    /// Who: `policy`, or a principal.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// What the requester is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// That somebody agreed to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestAgreement {
    /// Who.
    #[schema(example = "user:corp/bob")]
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// What they said to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether they narrowed what was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub narrowed: bool,
}

/// Whom a pending request waits for under one JIT policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestAwaited {
    /// The policy's id.
    pub policy: String,
    /// The policy's name.
    pub policy_name: String,
    /// The stage that is due, from 1.
    pub stage: usize,
    /// How many stages there are.
    pub of: usize,
    /// How many people the stage needs.
    pub needs: u8,
    /// How many agreed in it.
    pub have: u8,
    /// Who counts; where neither this nor `role` says, everybody who may approve at every machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Those count, too, whom an assignment of this role allows to approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// A machine of a request that ended without ever having been open, by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotOpened {
    /// Which.
    pub machine: String,
    /// Its grant.
    pub grant: String,
    /// Why.
    pub reason: String,
}

/// An access request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessRequest {
    /// Its id. A dry run's names nothing.
    #[schema(example = "req_01990000000070008000000000000001")]
    pub id: String,
    /// Who asks.
    #[schema(example = "user:corp/ada")]
    pub requester: String,
    /// For which machines.
    pub targets: Vec<Target>,
    /// How long, from the confirmed opening.
    pub duration_seconds: u64,
    /// Why.
    pub reason: String,
    /// The ticket that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// When the grants begin to open, where that is not at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// What comes of the other machines when one cannot be opened.
    #[serde(default)]
    pub mode: Mode,
    /// The grant that is to last longer, where this asks for nothing else; `duration_seconds` is then how long it lasts
    /// in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "grt_01990000000070008000000000000001")]
    pub extends: Option<String>,
    /// `pending`, `approved`, `denied`, `withdrawn` or `lapsed`.
    pub status: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// While pending: when nobody can approve it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lapses_at: Option<DateTime<Utc>>,
    /// While pending: whom it waits for, an entry per policy, as the policies were when somebody last spoke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaits: Vec<RequestAwaited>,
    /// Who agreed so far, the first first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreements: Vec<RequestAgreement>,
    /// How it was decided, once it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<RequestDecision>,
    /// Its grants, one per machine, once approved; of an extension, the grant that it extends.
    pub grants: Vec<Grant>,
    /// The machines that could not be opened. Where the request wants all or nothing, the others were closed again for
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_opened: Vec<NotOpened>,
    /// While pending, where one request is asked for, and of a dry run: how the ports can be reached without it, at the
    /// machines that you may read; 10 for each at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposures: Vec<Exposure>,
    /// Whether this is the answer to a dry run: nothing of it exists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// How a request is approved: as asked for, or for less. What is not set stays as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessRequestApprove {
    /// Shorter than asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 86400)]
    pub duration_seconds: Option<i64>,
    /// Fewer machines, ports or sources than asked for: what is not listed here is not granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 20)]
    pub targets: Option<Vec<Target>>,
    /// What to say to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 1000)]
    pub comment: Option<String>,
}

/// Why a request is turned down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessRequestDeny {
    /// What the requester is told.
    #[schema(min_length = 1, max_length = 1000)]
    pub reason: String,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessRequestQuery {
    /// Only requests that stand there: `pending`, `approved`, `denied`, `withdrawn` or `lapsed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only requests of this principal; `me` for your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}
