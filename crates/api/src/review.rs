//! Reviews of what was opened by breaking the glass, as the API takes and shows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One use of break-glass, to be looked at by somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Review {
    /// Its id.
    #[schema(example = "rev_01990000000070008000000000000001")]
    pub id: String,
    /// The access request that was granted without approval.
    pub request_id: String,
    /// Who broke the glass.
    #[schema(example = "user:corp/ada")]
    pub requester: String,
    /// The scopes of the machines.
    pub scopes: Vec<String>,
    /// Why, as they said.
    pub reason: String,
    /// When.
    pub opened_at: DateTime<Utc>,
    /// What somebody else found; absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<ReviewVerdict>,
}

/// What somebody else found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReviewVerdict {
    /// Who.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub note: String,
}

/// A review to close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviewClose {
    /// What was found.
    #[schema(
        example = "needed: the pager and the log agree",
        min_length = 1,
        max_length = 1000
    )]
    pub note: String,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReviewQuery {
    /// Only those that are `open`, or only those that are `closed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

/// How to break the glass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BreakGlassQuery {
    /// Answer when every grant is open or has ended, or after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0, maximum = 60)]
    pub wait: Option<u32>,
}
