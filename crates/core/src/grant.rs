//! Grants: one machine's share of an approved request, from opening to closed.
//!
//! ```text
//! Scheduled ──its time came──> Opening ──confirmed──> Open ──ended──> Closing ──confirmed──> Closed
//!     └───────────────────────────┴──ended (deadline, revoked)────────^
//! ```
//! An open grant may be extended, and its end only moves later. There is no other way: a grant that was ever wanted in a cloud is `Closed` only on what was read back.

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
    /// Whether the others of its request end, too, when it ends without ever having been open.
    #[serde(default)]
    pub together: bool,
    /// Where it stands.
    pub state: S,
}

/// Wanted later; no rule is, yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// When it begins to open, if it may still be had then.
    pub starts_at: Instant,
    /// When it fails if it is not open by then.
    pub deadline: Instant,
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
    /// It was to start later, and was decided again when its time came: it may not be had any more.
    NotAllowed {
        /// What stands against it.
        reason: String,
    },
    /// Another machine of the request ended without ever having been open, and the request wants all or nothing.
    NotTogether {
        /// That machine.
        machine: MachineId,
        /// Why it was not opened.
        reason: String,
    },
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
            Self::NotAllowed { .. } => "not_allowed",
            Self::NotTogether { .. } => "not_together",
            Self::Released => "released",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::DatabaseRestored => "database_restored",
            Self::Frozen { .. } => "frozen",
        }
    }

    /// The cause in words, for whoever has to be told of it in a sentence about something else.
    pub fn words(&self) -> String {
        match self {
            Self::Expired => "its time was over".to_owned(),
            Self::Revoked { by, reason } => match reason {
                Some(reason) => format!("revoked by {by}: {reason}"),
                None => format!("revoked by {by}"),
            },
            Self::OpenFailed { reason } | Self::NotAllowed { reason } => reason.clone(),
            Self::PolicyRemoved => "no policy allows it any more".to_owned(),
            Self::MachineGone => "the machine is gone".to_owned(),
            Self::NotTogether { machine, reason } => {
                format!("`{machine}` of the same request was not opened: {reason}")
            }
            Self::Released => "its lease was released".to_owned(),
            Self::HeartbeatMissed => "its lease's heartbeat was missed".to_owned(),
            Self::DatabaseRestored => {
                "the database was restored, and nothing of it stood any more".to_owned()
            }
            Self::Frozen { reason, .. } => format!("frozen: {reason}"),
        }
    }
}

/// Where a grant stands, for storage and display; code that acts holds a [`Grant`] of one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum GrantState {
    /// See [`Scheduled`].
    Scheduled(Scheduled),
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
            Self::Scheduled(_) => "scheduled",
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

    /// Whether it ended without ever having been open.
    pub const fn never_opened(&self) -> bool {
        matches!(
            self,
            Self::Closing(Closing { opened_at: None, .. }) | Self::Closed(Closed { opened_at: None, .. })
        )
    }

    /// Why it ended, if it has.
    pub const fn cause(&self) -> Option<&EndCause> {
        match self {
            Self::Scheduled(_) | Self::Opening(_) | Self::Open(_) => None,
            Self::Closing(closing) => Some(&closing.cause),
            Self::Closed(closed) => Some(&closed.cause),
        }
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
    /// To be opened later.
    Scheduled(Grant<Scheduled>),
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
            together: self.together,
            state,
        }
    }
}

impl Grant<GrantState> {
    /// The grant, if it is still wanted.
    pub fn live(self) -> Result<Live, InvalidTransition> {
        match self.state.clone() {
            GrantState::Scheduled(state) => Ok(Live::Scheduled(self.with(state))),
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
            GrantState::Opening(Opening { deadline }) | GrantState::Scheduled(Scheduled { deadline, .. })
                if *deadline <= now =>
            {
                Some(EndCause::OpenFailed {
                    reason: format!("not confirmed as open by {}", crate::time::written(*deadline)),
                })
            }
            _ => None,
        }
    }
}

impl Live {
    /// Not wanted any more.
    pub fn end(self, cause: EndCause, now: Instant) -> Grant<Closing> {
        match self {
            Self::Scheduled(grant) => grant.with(Closing {
                cause,
                since: now,
                opened_at: None,
            }),
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

impl Grant<Scheduled> {
    /// Its time came, and it may be had: it has until its deadline to open.
    pub fn start(self) -> Grant<Opening> {
        let deadline = self.state.deadline;
        self.with(Opening { deadline })
    }
}

/// Why a grant is not extended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExtended {
    /// It is not open.
    #[error("the grant is {0}, and only an open grant is extended")]
    NotOpen(&'static str),
    /// Its time is over.
    #[error("the grant's time was over at {0}")]
    Over(Instant),
    /// It would end no later than it does.
    #[error("the grant lasts {0} s already, and an extension only adds to that")]
    NotLonger(u64),
}

impl Grant<GrantState> {
    /// The same grant for longer: `duration` in all, from its confirmed opening. The promise in its rules' marks moves
    /// with its end.
    pub fn extend(self, duration: Duration, now: Instant) -> Result<Grant<Open>, NotExtended> {
        let open = match &self.state {
            GrantState::Open(open) => open.clone(),
            other => return Err(NotExtended::NotOpen(other.status())),
        };
        if open.ends_at <= now {
            return Err(NotExtended::Over(open.ends_at));
        }
        let too_short = NotExtended::NotLonger(self.duration.as_secs());
        let ends_at = chrono::TimeDelta::from_std(duration)
            .ok()
            .and_then(|length| open.opened_at.checked_add_signed(length))
            .filter(|ends_at| *ends_at > open.ends_at)
            .ok_or(too_short)?;
        let mut extended = self.with(Open { ends_at, ..open });
        extended.duration = duration;
        extended.not_after = extended.not_after.max(ends_at);
        Ok(extended)
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
into_any_state!(Scheduled, Opening, Open, Closing, Closed);

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

    #[test]
    fn a_scheduled_grant_wants_no_rules_until_it_starts_and_fails_at_its_deadline() {
        let mut grant = a_grant();
        grant.state = GrantState::Scheduled(Scheduled {
            starts_at: at(100),
            deadline: at(400),
        });
        assert!(!grant.state.is_wanted());
        assert_eq!(grant.due_to_end(at(399)), None);
        assert!(matches!(
            grant.due_to_end(at(400)),
            Some(EndCause::OpenFailed { .. })
        ));
        let Ok(Live::Scheduled(scheduled)) = grant.live() else {
            panic!("it is scheduled")
        };
        assert_eq!(scheduled.start().state, Opening { deadline: at(400) });
    }

    #[test]
    fn an_extension_moves_the_end_later_and_the_marks_with_it_and_never_back() {
        let Ok(Live::Opening(opening)) = a_grant().live() else {
            panic!("a new grant is opening")
        };
        let open: Grant = opening.confirm_open(at(10)).into();
        let longer = open.clone().extend(Duration::from_hours(1), at(20)).unwrap();
        assert_eq!(longer.state.ends_at, at(10 + 3600));
        assert_eq!(
            (longer.not_after, longer.duration.as_secs()),
            (at(10 + 3600), 3600)
        );
        for duration in [600, 30] {
            assert_eq!(
                open.clone().extend(Duration::from_secs(duration), at(20)),
                Err(NotExtended::NotLonger(600))
            );
        }
        assert_eq!(
            open.extend(Duration::from_hours(1), at(610)),
            Err(NotExtended::Over(at(610)))
        );
        assert_eq!(
            a_grant().extend(Duration::from_hours(1), at(20)),
            Err(NotExtended::NotOpen("opening"))
        );
    }
}
