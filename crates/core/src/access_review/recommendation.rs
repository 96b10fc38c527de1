//! What an access review recommends for a role assignment, from what is known of its use.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::ItemVerdict;
use crate::{
    id::EventId,
    principal::PrincipalRef,
    role::{Action, RoleAssignment},
    time::Instant,
};

/// The last use of a role assignment: the latest thing that somebody did and that the assignment allowed.
///
/// What counts is an audit event that succeeded, of a principal's own doing, whose decision names the assignment among
/// those that allowed it: asking for access, agreeing to, approving or denying a request, revoking a grant, changing a
/// JIT policy, a role or a role assignment, breaking the glass, freezing and the like. For an assignment to a group that is
/// whatever any member did by it. Where several assignments allow the same, all of them were used. Not counted are dry
/// runs, reading (which is not written to the audit log), what Postern did by itself, and that a request was checked
/// again on behalf of its requester.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// When.
    pub at: Instant,
    /// What, as the audit log names it: `access_request.create`, …
    pub action: String,
    /// By whom; with a group's assignment, which member.
    pub by: PrincipalRef,
    /// The audit event.
    pub event: EventId,
}

/// Why something is recommended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecommendedBecause {
    /// Its end has passed: it counts for nothing.
    Ended,
    /// It was used lately.
    Used,
    /// It was not used lately.
    Unused,
    /// It is newer than what counts as unused.
    New,
    /// Its role allows nothing whose use is recorded, such as reading.
    NotRecorded,
}

impl RecommendedBecause {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Used => "used",
            Self::Unused => "unused",
            Self::New => "new",
            Self::NotRecorded => "not_recorded",
        }
    }
}

/// What is recommended, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recommendation {
    /// What.
    pub verdict: ItemVerdict,
    /// Why.
    pub because: RecommendedBecause,
}

/// Whether the use of the action is written to the audit log when it is allowed.
pub const fn is_recorded(action: Action) -> bool {
    match action {
        Action::Read | Action::Audit => false,
        Action::Request
        | Action::Approve
        | Action::Revoke
        | Action::Configure
        | Action::Assign
        | Action::BreakGlass
        | Action::Freeze => true,
    }
}

/// What is recommended at `now` for an assignment whose role allows `actions`, and which was last used at `last_use`, as
/// far as is known. Unused is what has not been used for longer than `unused_after`, and is older than that.
pub fn recommend(
    assignment: &RoleAssignment,
    actions: &BTreeSet<Action>,
    last_use: Option<Instant>,
    unused_after: TimeDelta,
    now: Instant,
) -> Recommendation {
    let because = if !assignment.counts_at(now) {
        RecommendedBecause::Ended
    } else if last_use.is_some_and(|at| now - at <= unused_after) {
        RecommendedBecause::Used
    } else if !actions.iter().any(|action| is_recorded(*action)) {
        RecommendedBecause::NotRecorded
    } else if now - assignment.created_at <= unused_after {
        RecommendedBecause::New
    } else {
        RecommendedBecause::Unused
    };
    let verdict = match because {
        RecommendedBecause::Ended | RecommendedBecause::Unused => ItemVerdict::Remove,
        RecommendedBecause::Used | RecommendedBecause::New | RecommendedBecause::NotRecorded => {
            ItemVerdict::Keep
        }
    };
    Recommendation { verdict, because }
}
