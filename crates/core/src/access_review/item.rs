//! The items of an access review: one role assignment each, and what was decided about it.

use serde::{Deserialize, Serialize};

use super::{AccessReview, LastUse, Recommendation};
use crate::{
    id::{AccessReviewId, AccessReviewItemId},
    principal::{Principal, PrincipalRef},
    role::RoleAssignment,
    time::Instant,
};

/// What somebody says to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemVerdict {
    /// The role assignment stays.
    Keep,
    /// The role assignment is removed.
    Remove,
}

impl ItemVerdict {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Remove => "remove",
        }
    }
}

/// Who or what decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DecidedBy {
    /// A reviewer.
    Reviewer {
        /// Who.
        principal: PrincipalRef,
        /// As which of the named reviewers: themselves, or a group of theirs.
        named_as: PrincipalRef,
    },
    /// Nobody, by the deadline; the access review says what becomes of that.
    Deadline,
}

/// A decision about an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemDecision {
    /// Who or what decided.
    pub by: DecidedBy,
    /// When.
    pub at: Instant,
    /// Why, as a reviewer said.
    pub reason: Option<String>,
}

/// Where an item stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum ItemState {
    /// Nobody has decided. It stays so where the access review is cancelled.
    Open,
    /// The role assignment stays.
    Kept(ItemDecision),
    /// The role assignment was removed.
    Removed(ItemDecision),
    /// The role assignment should have gone at the deadline and stays, because it is the last owner's.
    NotRemoved(ItemDecision),
    /// The role assignment went by another way before anybody decided.
    Gone {
        /// When that was noticed.
        at: Instant,
    },
}

impl ItemState {
    /// The state's word.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Kept(_) => "kept",
            Self::Removed(_) => "removed",
            Self::NotRemoved(_) => "not_removed",
            Self::Gone { .. } => "gone",
        }
    }

    /// The decision, if there is one.
    pub const fn decision(&self) -> Option<&ItemDecision> {
        match self {
            Self::Kept(decision) | Self::Removed(decision) | Self::NotRemoved(decision) => Some(decision),
            Self::Open | Self::Gone { .. } => None,
        }
    }
}

/// One role assignment of an access review, as it was when the round started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessReviewItem {
    /// Its id.
    pub id: AccessReviewItemId,
    /// Of which access review.
    pub review: AccessReviewId,
    /// The role assignment.
    pub assignment: RoleAssignment,
    /// Its last use before the round started, as far as was looked back.
    pub last_use: Option<LastUse>,
    /// What is recommended; none while the audit log is still being read for its last use.
    pub recommendation: Option<Recommendation>,
    /// Where it stands.
    pub state: ItemState,
}

/// Why somebody does not decide about an item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotDecide {
    /// The access review does not name them.
    #[error("the access review names `{0}` nowhere among its reviewers")]
    NotAReviewer(PrincipalRef),
    /// A program has no judgement to add.
    #[error("a role assignment is reviewed by a person, and `{0}` is none")]
    NotAPerson(PrincipalRef),
    /// Theirs, or one of a group of theirs.
    #[error("nobody reviews their own role assignment, and this one is of `{0}`")]
    Own(PrincipalRef),
    /// The deadline has passed, or somebody cancelled it.
    #[error("the access review is over")]
    Over,
    /// The role assignment is not there any more.
    #[error("the role assignment was removed before")]
    Settled,
}

/// Whether a role assignment to `named` is this person's, or of a group that they are in. Errs towards yes: the same
/// name at another issuer or of another kind may be the same person; see [`Principal::may_be`].
pub fn is_about(named: &PrincipalRef, principal: &Principal) -> bool {
    if principal.references().any(|own| own == *named) {
        return true;
    }
    if matches!(named, PrincipalRef::Group(_)) {
        return false;
    }
    named
        .name()
        .split_once('/')
        .is_some_and(|(_, subject)| principal.may_be_named(subject))
}

impl AccessReviewItem {
    /// Decided by a reviewer. A kept one may be decided again while the access review is open, and one whose role
    /// assignment is gone may not. What is decided to be removed counts as removed: the caller removes it.
    pub fn decide(
        self,
        review: &AccessReview,
        by: &Principal,
        verdict: ItemVerdict,
        at: Instant,
        reason: String,
    ) -> Result<Self, CannotDecide> {
        let principal = by.reference();
        let named_as = review
            .reviewer(by)
            .ok_or_else(|| CannotDecide::NotAReviewer(principal.clone()))?;
        if !principal.is_person() {
            return Err(CannotDecide::NotAPerson(principal));
        }
        if is_about(&self.assignment.principal, by) {
            return Err(CannotDecide::Own(self.assignment.principal));
        }
        if !review.is_open_at(at) {
            return Err(CannotDecide::Over);
        }
        match self.state {
            ItemState::Open | ItemState::Kept(_) => {}
            ItemState::Removed(_) | ItemState::NotRemoved(_) | ItemState::Gone { .. } => {
                return Err(CannotDecide::Settled);
            }
        }
        let decision = ItemDecision {
            by: DecidedBy::Reviewer { principal, named_as },
            at,
            reason: Some(reason),
        };
        Ok(Self {
            state: match verdict {
                ItemVerdict::Keep => ItemState::Kept(decision),
                ItemVerdict::Remove => ItemState::Removed(decision),
            },
            ..self
        })
    }

    /// What becomes of an undecided item at the deadline.
    #[must_use]
    pub fn at_deadline(self, became: AtDeadline, at: Instant) -> Self {
        let decision = ItemDecision {
            by: DecidedBy::Deadline,
            at,
            reason: None,
        };
        Self {
            state: match became {
                AtDeadline::Kept => ItemState::Kept(decision),
                AtDeadline::Removed => ItemState::Removed(decision),
                AtDeadline::LastOwner => ItemState::NotRemoved(decision),
                AtDeadline::Gone => ItemState::Gone { at },
            },
            ..self
        }
    }
}

/// What became of the role assignment of an undecided item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDeadline {
    /// It stays.
    Kept,
    /// It was removed.
    Removed,
    /// It is the last owner's, and stays.
    LastOwner,
    /// It was not there any more.
    Gone,
}
