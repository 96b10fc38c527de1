//! Access reviews: somebody looks at who has which role, from time to time, and takes away what is not needed.
//!
//! One [`AccessReview`] is one round. Its items ([`AccessReviewItem`]) are the role assignments at or below its scope as
//! they were when it started. A recurring one starts the next round as an access review of its own. Not to be confused
//! with a [`crate::review::Review`], which is about one use of break-glass.

mod item;
mod recommendation;

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

pub use self::{
    item::{
        AccessReviewItem, AtDeadline, CannotDecide, DecidedBy, ItemDecision, ItemState, ItemVerdict, is_about,
    },
    recommendation::{LastUse, Recommendation, RecommendedBecause, is_recorded, recommend},
};
use crate::{
    id::AccessReviewId,
    principal::{Principal, PrincipalRef},
    scope::Scope,
    text::is_plain_line,
    time::Instant,
};

/// The longest name, in characters.
pub const MAX_NAME: usize = 100;
/// The most reviewers that are named.
pub const MAX_REVIEWERS: usize = 20;
/// The longest that a round may last and that may lie between two, in days.
pub const MAX_DAYS: u32 = 730;
/// The most role assignments that one round is about.
pub const MAX_ITEMS: usize = 10_000;
/// For how many days the groups are believed that a token of the maker's named.
pub const GROUPS_BELIEVED_DAYS: u32 = 30;
/// Use is looked for at least so far back, whatever counts as unused.
const LOOKED_BACK_DAYS: u32 = 365;

/// What becomes of the items that nobody decided by the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// Their role assignments are removed.
    Remove,
    /// Their role assignments stay.
    Keep,
}

/// That there is a round every so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// Days from the start of a round to the start of the next, 1 to [`MAX_DAYS`].
    pub every_days: u32,
    /// Days from the start of a later round to its deadline, 1 to `every_days`.
    pub round_days: u32,
}

/// The events of the audit log that are still to be read for what they tell of use, by their numbers: above the one and up
/// to the other, the latest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// None from here on downwards.
    pub above: i64,
    /// The latest.
    pub upto: i64,
}

/// That a round did not start when its time had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    /// When it should have.
    pub at: Instant,
    /// Why it did not.
    pub reason: String,
    /// Whether nothing was in the way but that its maker's groups were not known any more: it is tried again as soon as a
    /// token of theirs names them anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub until_seen: bool,
}

/// Where a round stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum AccessReviewState {
    /// Reviewers decide.
    Open,
    /// Its deadline passed, and what was undecided was removed or kept.
    Completed {
        /// When that was done.
        at: Instant,
    },
    /// Somebody ended it: what was undecided stays, and no further round starts.
    Cancelled {
        /// Who.
        by: PrincipalRef,
        /// When.
        at: Instant,
        /// Why.
        reason: String,
    },
}

impl AccessReviewState {
    /// The state's word.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed { .. } => "completed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// One round of an access review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessReview {
    /// Its id.
    pub id: AccessReviewId,
    /// The id of the first round, the same for all rounds.
    pub series: AccessReviewId,
    /// Which round, from 1.
    pub round: u32,
    /// A name for people.
    pub name: String,
    /// It is about the role assignments here and below.
    pub scope: Scope,
    /// The people, and the groups of people, who decide.
    pub reviewers: BTreeSet<PrincipalRef>,
    /// What becomes of the undecided.
    pub undecided: Undecided,
    /// An assignment that was not used for so many days is recommended for removal, 1 to 3650.
    pub unused_after_days: u32,
    /// Whether there are further rounds.
    pub recurrence: Option<Recurrence>,
    /// Who made the first round.
    pub created_by: PrincipalRef,
    /// The same, as their token said then: a later round starts by their right to `assign`. None where it was made before
    /// this was kept; then their name is what is known of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_as: Option<Box<Principal>>,
    /// When a token of the maker's last named their groups, which are those of `made_as`. None where that was not kept:
    /// they are not believed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker_seen_at: Option<Instant>,
    /// When this round started.
    pub started_at: Instant,
    /// Until then its reviewers decide.
    pub deadline: Instant,
    /// When the next round starts, until it has.
    pub next_round_at: Option<Instant>,
    /// That the next round did not start when its time had come, and is put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_started: Option<NotStarted>,
    /// What is still to be read of the audit log for when the role assignments were last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Unread>,
    /// Where it stands.
    pub state: AccessReviewState,
}

/// Why an access review is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccessReview {
    /// Blank, too long or with control characters.
    #[error("`name` has 1 to {MAX_NAME} characters and no control or invisible characters")]
    Name,
    /// None or too many.
    #[error("`reviewers` names 1 to {MAX_REVIEWERS} users or groups")]
    Reviewers,
    /// Programs have no judgement to add.
    #[error("`reviewers` are people: users or groups, not workloads")]
    NotPeople,
    /// It has passed, or is too far ahead.
    #[error("`deadline` is in the future, and at most {MAX_DAYS} days ahead")]
    Deadline,
    /// Out of bounds.
    #[error("`unused_after_days` is 1 to 3650")]
    UnusedAfter,
    /// Out of bounds, or rounds that overlap.
    #[error("`every_days` is 1 to {MAX_DAYS}, and `round_days` is 1 to `every_days`")]
    Recurrence,
}

/// Why an access review is not cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the access review is {0}, and no further round of it would start")]
pub struct NothingToCancel(&'static str);

fn days(days: u32) -> TimeDelta {
    TimeDelta::days(i64::from(days))
}

impl AccessReview {
    /// Checks what a new one has to be at `now`.
    pub fn validate(&self, now: Instant) -> Result<(), InvalidAccessReview> {
        let name = self.name.trim();
        if name.is_empty() || self.name.chars().count() > MAX_NAME || !is_plain_line(&self.name) {
            return Err(InvalidAccessReview::Name);
        }
        if !(1..=MAX_REVIEWERS).contains(&self.reviewers.len()) {
            return Err(InvalidAccessReview::Reviewers);
        }
        if self
            .reviewers
            .iter()
            .any(|one| matches!(one, PrincipalRef::Workload(_)))
        {
            return Err(InvalidAccessReview::NotPeople);
        }
        if self.deadline <= now || self.deadline > now + days(MAX_DAYS) {
            return Err(InvalidAccessReview::Deadline);
        }
        if !(1..=3650).contains(&self.unused_after_days) {
            return Err(InvalidAccessReview::UnusedAfter);
        }
        let fits = |recurrence: Recurrence| {
            (1..=MAX_DAYS).contains(&recurrence.every_days)
                && (1..=recurrence.every_days).contains(&recurrence.round_days)
        };
        if !self.recurrence.is_none_or(fits) {
            return Err(InvalidAccessReview::Recurrence);
        }
        Ok(())
    }

    /// When the round after the first starts, if there is one.
    pub fn first_recurrence(&self) -> Option<Instant> {
        self.recurrence
            .map(|recurrence| self.started_at + days(recurrence.every_days))
    }

    /// Which of the named reviewers this is: the person, or one of their groups.
    pub fn reviewer(&self, principal: &Principal) -> Option<PrincipalRef> {
        principal.references().find(|one| self.reviewers.contains(one))
    }

    /// How far back use is looked for, from the start of the round.
    pub fn looked_back_to(&self) -> Instant {
        self.started_at - days(self.unused_after_days.max(LOOKED_BACK_DAYS))
    }

    /// How long an assignment may go unused.
    pub fn unused_after(&self) -> TimeDelta {
        days(self.unused_after_days)
    }

    /// When reviewers are reminded, where something is undecided then: three quarters into the round.
    pub fn remind_at(&self) -> Instant {
        let long = (self.deadline - self.started_at)
            .to_std()
            .unwrap_or(Duration::ZERO);
        self.deadline - TimeDelta::from_std(long / 4).unwrap_or(TimeDelta::zero())
    }

    /// By whose right a later round starts: whoever made the first.
    pub fn starter(&self) -> Principal {
        match &self.made_as {
            Some(principal) => (**principal).clone(),
            None => Principal::named(&self.created_by),
        }
    }

    /// The same without groups, which are not believed for ever.
    pub fn starter_alone(&self) -> Principal {
        Principal {
            groups: BTreeSet::new(),
            ..self.starter()
        }
    }

    /// Whether what is known of the maker's groups is new enough at `now` to allow something.
    pub fn believes_groups(&self, now: Instant) -> bool {
        self.maker_seen_at
            .is_some_and(|seen_at| now - seen_at <= days(GROUPS_BELIEVED_DAYS))
    }

    /// Whether [`AccessReview::seen`] would tell more than what is known: the groups are others, or were seen more than an
    /// hour ago.
    pub fn is_news(&self, maker: &Principal, now: Instant) -> bool {
        self.created_by == maker.reference()
            && (self.starter().groups != maker.groups
                || self
                    .maker_seen_at
                    .is_none_or(|seen_at| now - seen_at >= TimeDelta::hours(1)))
    }

    /// With the groups that a token of its maker's names at `now`. What else was proven when it was made stays as it was
    /// then. A round that waited for nothing else is due.
    #[must_use]
    pub fn seen(self, maker: &Principal, now: Instant) -> Self {
        let until_seen = self.not_started.as_ref().is_some_and(|missed| missed.until_seen);
        Self {
            made_as: Some(Box::new(Principal {
                groups: maker.groups.clone(),
                ..self.starter()
            })),
            maker_seen_at: Some(now),
            next_round_at: if until_seen { Some(now) } else { self.next_round_at },
            not_started: self.not_started.map(|missed| NotStarted {
                until_seen: false,
                ..missed
            }),
            ..self
        }
    }

    /// Whether the audit log is still being read for it.
    pub fn is_gathering(&self) -> bool {
        self.state == AccessReviewState::Open && self.unread.is_some()
    }

    /// Whether reviewers may still decide at `now`.
    pub fn is_open_at(&self, now: Instant) -> bool {
        self.state == AccessReviewState::Open && now < self.deadline
    }

    /// When there is something to do that only time does: to end the round, or to start the next.
    pub fn due_at(&self) -> Option<Instant> {
        match self.state {
            AccessReviewState::Open => Some(self.deadline),
            AccessReviewState::Completed { .. } | AccessReviewState::Cancelled { .. } => self.next_round_at,
        }
    }

    /// The round after this one, started at `now`, if its time has come and this one is over. Keeps to the rhythm: a
    /// start that nobody was there for is made up for once, and the one after it comes when it would have come anyway.
    pub fn next_round(&self, id: AccessReviewId, now: Instant) -> Option<Self> {
        let recurrence = self.recurrence?;
        let due = self.next_round_at?;
        if self.state == AccessReviewState::Open || now < due {
            return None;
        }
        let every = days(recurrence.every_days);
        let missed = i32::try_from((now - due).num_days() / i64::from(recurrence.every_days.max(1))).ok()?;
        Some(Self {
            id,
            round: self.round.saturating_add(1),
            started_at: now,
            deadline: now + days(recurrence.round_days),
            next_round_at: Some(due + every * missed.saturating_add(1)),
            not_started: None,
            unread: None,
            state: AccessReviewState::Open,
            ..self.clone()
        })
    }

    /// Ended by somebody: while it is open, or before its next round starts.
    pub fn cancel(self, by: PrincipalRef, at: Instant, reason: String) -> Result<Self, NothingToCancel> {
        if self.state != AccessReviewState::Open && self.next_round_at.is_none() {
            return Err(NothingToCancel(self.state.status()));
        }
        Ok(Self {
            next_round_at: None,
            not_started: None,
            state: match self.state {
                AccessReviewState::Open => AccessReviewState::Cancelled { by, at, reason },
                ended => ended,
            },
            ..self
        })
    }
}

#[cfg(test)]
mod tests;
