//! Pages: every list comes in pages that follow each other by an opaque cursor.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most items that a page has.
pub const MAX_LIMIT: u32 = 200;
/// How many items a page has when nobody says.
pub const DEFAULT_LIMIT: u32 = 50;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// What `cursor` must be to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
