//! Grants: one machine's share of an approved request, from opening to closed.
//!
//! ```text
//! Opening ──confirmed──> Open ──ended──> Closing ──confirmed──> Closed
//!    └────────────ended (deadline, revoked)────^
//! ```
//! There is no other way: a grant that was ever wanted in a cloud is `Closed` only on what was read back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    id::{FreezeId, GrantId, PolicyId, RequestId},
    machine::MachineId,
    net::{Ports, Source},
    policy::whole_seconds,
    principal::PrincipalRef,
    time::Instant,
};

/// One machine's share of an approved request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant<S = GrantState> {
    /// Its id.
    pub id: GrantId,
    /// The request that it comes from.
    pub request: RequestId,
    /// The policy that covered the machine when it was decided.
    pub policy: PolicyId,
    /// Whose it is.
    pub requester: PrincipalRef,
    /// Where.
    pub machine: MachineId,
    /// Which ports.
    pub ports: Vec<Ports>,
    /// From where.
    pub sources: Vec<Source>,
    /// How long, from the confirmed opening.
    #[serde(rename = "duration_seconds", with = "whole_seconds")]
    pub duration: Duration,
    /// When it was made.
    pub created_at: Instant,
    /// The latest instant at which it could end: the opening deadline and the duration. It stands in the
    /// rules' own marks, so that they can be closed when the control plane is gone.
    pub not_after: Instant,
    /// Where it stands.
    pub state: S,
}

/// Wanted, not yet confirmed on every hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// When it fails if it is not open by then.
    pub deadline: Instant,
}

/// Read back as open on every hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// When the last hop was confirmed.
    pub opened_at: Instant,
    /// When it ends.
    pub ends_at: Instant,
}

/// Not wanted any more; its rules are on the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Why it ended.
    pub cause: EndCause,
    /// When it ended.
    pub since: Instant,
    /// When it was open from, if it ever was.
    pub opened_at: Option<Instant>,
}

/// Read back as gone from every hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Why it ended.
    pub cause: EndCause,
    /// When it ended.
    pub ended_at: Instant,
    /// When it was open from, if it ever was.
    pub opened_at: Option<Instant>,
    /// When the last hop was confirmed as closed.
    pub closed_at: Instant,
}

/// Why a grant ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum EndCause {
    /// Its time was over.
    Expired,
    /// Somebody ended it.
    Revoked {
        /// Who.
        by: PrincipalRef,
        /// Why, if they said.
        reason: Option<String>,
    },
    /// It could not be opened in time, or at all.
    OpenFailed {
        /// What stood in the way.
        reason: String,
    },
    /// The policy that it was granted under was removed or no longer covers it.
    PolicyRemoved,
    /// The machine is gone.
    MachineGone,
    /// Its lease was given back.
    Released,
    /// Whoever held its lease was not heard of in time.
    HeartbeatMissed,
    /// The database was restored from a backup that has it as wanted, and nothing of it stood any more: it ended
    /// after the backup was taken, by what nobody knows now.
    DatabaseRestored,
    /// A freeze closed everything at its scope.
    Frozen {
        /// Which.
        freeze: FreezeId,
        /// Who froze.
        by: PrincipalRef,
        /// Why.
        reason: String,
    },
}

impl EndCause {
    /// The cause's word, as the API and the database have it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked { .. } => "revoked",
            Self::OpenFailed { .. } => "open_failed",
            Self::PolicyRemoved => "policy_removed",
            Self::MachineGone => "machine_gone",
            Self::Released => "released",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::DatabaseRestored => "database_restored",
            Self::Frozen { .. } => "frozen",
        }
    }
}

/// Where a grant stands, for storage and display; code that acts holds a [`Grant`] of one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum GrantState {
    /// See [`Opening`].
    Opening(Opening),
    /// See [`Open`].
    Open(Open),
    /// See [`Closing`].
    Closing(Closing),
    /// See [`Closed`].
    Closed(Closed),
}

impl GrantState {
    /// The state's word, as the API and the database have it.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Opening(_) => "opening",
            Self::Open(_) => "open",
            Self::Closing(_) => "closing",
            Self::Closed(_) => "closed",
        }
    }

    /// Whether rules are wanted for it.
    pub const fn is_wanted(&self) -> bool {
        matches!(self, Self::Opening(_) | Self::Open(_))
    }
}

/// What a hop was last seen to do for a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HopState {
    /// Nothing of the grant is there.
    Absent,
    /// A write is under way or its outcome is not known; written before the cloud is called.
    Unknown,
    /// The hop lets the grant's packets through.
    Present,
}

/// A grant that ended cannot end or open again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the grant is already {0}")]
pub struct InvalidTransition(pub &'static str);

/// A grant that somebody still wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    /// On the way to open.
    Opening(Grant<Opening>),
    /// Open.
    Open(Grant<Open>),
}

impl<S> Grant<S> {
    fn with<T>(self, state: T) -> Grant<T> {
        Grant {
            id: self.id,
            request: self.request,
            policy: self.policy,
            requester: self.requester,
            machine: self.machine,
            ports: self.ports,
            sources: self.sources,
            duration: self.duration,
            created_at: self.created_at,
            not_after: self.not_after,
            state,
        }
    }
}

impl Grant<GrantState> {
    /// The grant, if it is still wanted.
    pub fn live(self) -> Result<Live, InvalidTransition> {
        match self.state.clone() {
            GrantState::Opening(state) => Ok(Live::Opening(self.with(state))),
            GrantState::Open(state) => Ok(Live::Open(self.with(state))),
            ended => Err(InvalidTransition(ended.status())),
        }
    }

    /// The grant, if it ended and is not confirmed as closed.
    pub fn closing(self) -> Result<Grant<Closing>, InvalidTransition> {
        match self.state.clone() {
            GrantState::Closing(state) => Ok(self.with(state)),
            other => Err(InvalidTransition(other.status())),
        }
    }

    /// Why the grant ends by itself at `now`, if it does: its time is over, or it was not open by its deadline.
    pub fn due_to_end(&self, now: Instant) -> Option<EndCause> {
        match &self.state {
            GrantState::Open(open) if open.ends_at <= now => Some(EndCause::Expired),
            GrantState::Opening(opening) if opening.deadline <= now => Some(EndCause::OpenFailed {
                reason: format!(
                    "not confirmed as open by {}",
                    crate::time::written(opening.deadline)
                ),
            }),
            _ => None,
        }
    }
}

impl Live {
    /// Not wanted any more.
    pub fn end(self, cause: EndCause, now: Instant) -> Grant<Closing> {
        match self {
            Self::Opening(grant) => grant.with(Closing {
                cause,
                since: now,
                opened_at: None,
            }),
            Self::Open(grant) => {
                let opened_at = Some(grant.state.opened_at);
                grant.with(Closing {
                    cause,
                    since: now,
                    opened_at,
                })
            }
        }
    }
}

impl Grant<Opening> {
    /// Every hop was read back as open: the time starts to count. It never runs past `not_after`, which the
    /// rules' own marks promise.
    pub fn confirm_open(self, now: Instant) -> Grant<Open> {
        let ends_at = now
            .checked_add_signed(
                chrono::TimeDelta::from_std(self.duration).unwrap_or(chrono::TimeDelta::zero()),
            )
            .map_or(self.not_after, |end| end.min(self.not_after));
        self.with(Open {
            opened_at: now,
            ends_at,
        })
    }
}

impl Grant<Closing> {
    /// Every hop was read back as closed.
    pub fn confirm_closed(self, now: Instant) -> Grant<Closed> {
        let Closing {
            cause,
            since,
            opened_at,
        } = self.state.clone();
        self.with(Closed {
            cause,
            ended_at: since,
            opened_at,
            closed_at: now,
        })
    }
}

macro_rules! into_any_state {
    ($($state:ident),*) => {$(
        impl From<Grant<$state>> for Grant<GrantState> {
            fn from(grant: Grant<$state>) -> Self {
                let state = GrantState::$state(grant.state.clone());
                grant.with(state)
            }
        }
    )*};
}
into_any_state!(Opening, Open, Closing, Closed);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_grant, at};

    #[test]
    fn time_counts_from_the_confirmed_opening() {
        let Ok(Live::Opening(grant)) = a_grant().live() else {
            panic!("a new grant is opening")
        };
        let open = grant.confirm_open(at(30));
        assert_eq!(open.state.ends_at, at(30 + 600));
    }

    #[test]
    fn a_late_opening_never_outlives_what_the_marks_promise() {
        let Ok(Live::Opening(grant)) = a_grant().live() else {
            panic!("a new grant is opening")
        };
        let not_after = grant.not_after;
        assert_eq!(grant.confirm_open(at(100_000)).state.ends_at, not_after);
    }

    #[test]
    fn a_grant_ends_once() {
        let closing: Grant = a_grant().live().unwrap().end(EndCause::Expired, at(5)).into();
        assert_eq!(closing.clone().live().unwrap_err(), InvalidTransition("closing"));
        assert_eq!(closing.due_to_end(at(1_000_000)), None);
    }

    #[test]
    fn an_opening_past_its_deadline_fails_and_an_open_grant_past_its_end_expires() {
        let grant = a_grant();
        assert_eq!(grant.due_to_end(at(0)), None);
        assert!(matches!(
            grant.due_to_end(at(300)),
            Some(EndCause::OpenFailed { .. })
        ));
        let Ok(Live::Opening(opening)) = grant.live() else {
            panic!("a new grant is opening")
        };
        let open: Grant = opening.confirm_open(at(10)).into();
        assert_eq!(open.due_to_end(at(609)), None);
        assert_eq!(open.due_to_end(at(610)), Some(EndCause::Expired));
    }
}
