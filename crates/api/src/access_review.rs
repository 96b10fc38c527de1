//! Access reviews of role assignments, as the API takes and shows them. Reviews of broken glass are in [`crate::review`].

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::role::RoleAssignment;

/// What becomes of the items that nobody decided by the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// Their role assignments are removed.
    Remove,
    /// Their role assignments stay.
    Keep,
}

/// What to do with the role assignment of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemVerdict {
    /// It stays.
    Keep,
    /// It is removed.
    Remove,
}

/// That there is a round every so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessReviewRecurrence {
    /// Days from the start of a round to the start of the next.
    #[schema(example = 90, minimum = 1, maximum = 730)]
    pub every_days: u32,
    /// Days from the start of a later round to its deadline; at most `every_days`.
    #[schema(example = 14, minimum = 1, maximum = 730)]
    pub round_days: u32,
}

/// How many days may pass without use when nobody says.
pub const DEFAULT_UNUSED_AFTER_DAYS: u32 = 90;

fn default_unused_after_days() -> u32 {
    DEFAULT_UNUSED_AFTER_DAYS
}

/// An access review to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessReviewCreate {
    /// A name for people.
    #[schema(example = "who may open production", min_length = 1, max_length = 100)]
    pub name: String,
    /// The role assignments here and below are reviewed.
    #[schema(example = "/aws/123456789012")]
    pub scope: String,
    /// Who decides: `user:<issuer>/<subject>` or `group:<issuer>/<group>`.
    #[schema(example = json!(["group:corp/team-leads"]), min_items = 1, max_items = 20)]
    pub reviewers: Vec<String>,
    /// Until when; 730 days ahead at most.
    pub deadline: DateTime<Utc>,
    /// What becomes of what nobody decided by then.
    pub undecided: Undecided,
    /// A role assignment that was not used for so many days is recommended for removal; 90 when absent.
    #[serde(default = "default_unused_after_days")]
    #[schema(example = 90, minimum = 1, maximum = 3650)]
    pub unused_after_days: u32,
    /// Further rounds; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrence: Option<AccessReviewRecurrence>,
}

/// How many items of an access review stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewItemCounts {
    /// Nobody has decided.
    pub open: u32,
    /// The role assignment stays.
    pub kept: u32,
    /// The role assignment was removed.
    pub removed: u32,
    /// The role assignment was to go at the deadline and stays, because it is the last owner's.
    pub not_removed: u32,
    /// The role assignment went by another way before anybody decided.
    pub gone: u32,
}

/// That somebody ended an access review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewCancelled {
    /// Who.
    pub by: String,
    /// When.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
}

/// That the next round of an access review did not start when its time had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewNotStarted {
    /// When it should have.
    pub at: DateTime<Utc>,
    /// Why it did not.
    pub reason: String,
}

/// One round of an access review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReview {
    /// Its id.
    #[schema(example = "arv_01990000000070008000000000000001")]
    pub id: String,
    /// The id of the first round, the same for all rounds.
    pub series: String,
    /// Which round, from 1.
    pub round: u32,
    /// A name for people.
    pub name: String,
    /// The role assignments here and below are reviewed.
    pub scope: String,
    /// Who decides.
    pub reviewers: Vec<String>,
    /// What becomes of what nobody decides.
    pub undecided: Undecided,
    /// A role assignment that was not used for so many days is recommended for removal.
    pub unused_after_days: u32,
    /// Whether there are further rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrence: Option<AccessReviewRecurrence>,
    /// Who made the first round, by whose right to `assign` further rounds start.
    pub created_by: String,
    /// When this round started.
    pub started_at: DateTime<Utc>,
    /// Until then its reviewers decide.
    pub deadline: DateTime<Utc>,
    /// `open`; `completed`: its deadline passed; `cancelled`: somebody ended it.
    #[schema(example = "open")]
    pub status: String,
    /// When it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    /// Who cancelled it, when and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<AccessReviewCancelled>,
    /// When the next round starts by itself; absent once it has, or where none will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_round_at: Option<DateTime<Utc>>,
    /// That the next round did not start when its time had come, because whoever made the access review may not `assign`
    /// there any more, or because it would be too large. It is tried again at `next_round_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_started: Option<AccessReviewNotStarted>,
    /// What is known of the items' use: `complete`; `gathering`: the audit log is still being read; `partial`: it was
    /// cancelled before that was done.
    #[schema(example = "complete")]
    pub evidence: String,
    /// How many items stand how.
    pub items: AccessReviewItemCounts,
}

/// The last use of a role assignment: the latest event of the audit log that succeeded, of somebody's own doing, and
/// whose decision names the assignment among those that allowed it. Reading, dry runs, and what Postern does by itself
/// do not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastUse {
    /// When.
    pub at: DateTime<Utc>,
    /// What, as the audit log names it.
    #[schema(example = "access_request.create")]
    pub action: String,
    /// By whom; with a group's assignment, which member.
    pub by: String,
    /// The audit event.
    pub event_id: String,
}

/// What is recommended for a role assignment, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewRecommendation {
    /// What.
    pub decision: ItemVerdict,
    /// `used`: lately; `unused`: not lately; `new`: newer than what counts as unused; `ended`: its end has passed;
    /// `not_recorded`: its role allows nothing whose use is recorded, such as reading.
    #[schema(example = "unused")]
    pub because: String,
}

/// What was decided about an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewItemDecision {
    /// Which reviewer; absent where nobody decided by the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// Why, as the reviewer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One role assignment of an access review, as it was when the round started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewItem {
    /// Its id.
    #[schema(example = "ari_01990000000070008000000000000001")]
    pub id: String,
    /// Of which access review.
    pub access_review_id: String,
    /// The role assignment.
    pub assignment: RoleAssignment,
    /// Its last use before the round started; absent where there was none in the last year, or in `unused_after_days`
    /// where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_use: Option<LastUse>,
    /// What is recommended; absent while the audit log is still being read for its last use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<AccessReviewRecommendation>,
    /// `open`, `kept`, `removed`, `gone`: the role assignment went by another way before anybody decided;
    /// `not_removed`: it was to go at the deadline and stays, because it is the last owner's.
    #[schema(example = "open")]
    pub status: String,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<AccessReviewItemDecision>,
}

/// A decision about an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessReviewItemDecide {
    /// What.
    pub decision: ItemVerdict,
    /// Why.
    #[schema(example = "moved to another team", min_length = 1, max_length = 1000)]
    pub reason: String,
}

/// An access review to cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessReviewCancel {
    /// Why.
    #[schema(example = "started over the wrong scope", min_length = 1, max_length = 1000)]
    pub reason: String,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessReviewQuery {
    /// Only those that are `open`, `completed` or `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// `true`: only those that name you, or a group of yours, as a reviewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mine: Option<bool>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

/// Which items to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessReviewItemQuery {
    /// Only those that are `open`, `kept`, `removed`, `not_removed` or `gone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only those whose role assignment is at or below this scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}
