//! Deliveries: which subscriber was told of which event, as the API shows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// One event for one subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Its number.
    #[schema(example = 4711)]
    pub id: i64,
    /// The subscriber's name, as the configuration has it.
    #[schema(example = "siem")]
    pub subscriber: String,
    /// The audit event's id, which is the message's too.
    pub event: String,
    /// The event's action.
    #[schema(example = "grant.open")]
    pub action: String,
    /// `waiting`, `delivered` or `dead`: given up, until somebody replays it.
    #[schema(example = "dead")]
    pub status: String,
    /// How often it was tried, since it was written or replayed.
    pub attempts: u32,
    /// When the event was written.
    pub created_at: DateTime<Utc>,
    /// When it is tried next, at the earliest, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// When it was delivered or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "answered 503 Service Unavailable")]
    pub last_error: Option<String>,
}

/// Which deliveries to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// To this subscriber.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<String>,
    /// `waiting`, `delivered` or `dead`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// How many items, 1 to 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u32>,
}
