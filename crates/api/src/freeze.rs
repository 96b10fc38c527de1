//! Freezes, as the API takes and shows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A freeze to put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeCreate {
    /// Where; `/` is everywhere.
    #[schema(example = "/aws/123456789012")]
    pub scope: String,
    /// Why; whoever is refused is told.
    #[schema(
        example = "credentials of the build host leaked",
        min_length = 1,
        max_length = 1000
    )]
    pub reason: String,
}

/// A freeze to lift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeLift {
    /// Why it may be.
    #[schema(example = "keys rotated", min_length = 1, max_length = 1000)]
    pub reason: String,
}

/// A freeze of a scope and everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Freeze {
    /// Its id.
    #[schema(example = "frz_01990000000070008000000000000001")]
    pub id: String,
    /// Where.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Who froze.
    #[schema(example = "user:corp/sam")]
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// How it ended; absent while it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<FreezeEnd>,
}

/// The end of a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FreezeEnd {
    /// Who lifted it.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
}

/// A freeze that was put in force, with what that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FreezeMade {
    /// The freeze.
    #[serde(flatten)]
    pub freeze: Freeze,
    /// How many grants it ended. Their rules are closed before everything else.
    pub grants_ended: usize,
    /// How many pending access requests it turned down.
    pub requests_denied: usize,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FreezeQuery {
    /// Only those `in_force`, or only those `lifted`.
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
