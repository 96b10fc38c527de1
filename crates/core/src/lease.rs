//! Access leases: an access request that lasts only as long as its holder is heard of.
//!
//! A pipeline's job asks, is heard of while it works, and gives back at the end. When its runner dies, nothing gives
//! back; then the missed heartbeat does.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    grant::{Grant, GrantState},
    id::{LeaseId, RequestId},
    principal::PrincipalRef,
    request::RequestState,
    time::Instant,
};

/// After how many times the agreed pause without a heartbeat one counts as missed. One lost packet, or two, end no job.
pub const SILENCE: u32 = 3;
/// The shortest pause between two heartbeats.
pub const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
/// The longest pause between two heartbeats.
pub const MAX_HEARTBEAT: Duration = Duration::from_mins(10);
/// The pause between two heartbeats where nobody says another.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);
/// The longest key, in characters.
pub const MAX_KEY: usize = 255;

/// What a holder calls a lease, so that it is found again: 1 to [`MAX_KEY`] visible ASCII characters, such as a
/// pipeline's run, job and attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseKey(String);

/// Why a text is no lease key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease key is 1 to {MAX_KEY} visible ASCII characters")]
pub struct InvalidLeaseKey;

impl FromStr for LeaseKey {
    type Err = InvalidLeaseKey;

    fn from_str(text: &str) -> Result<Self, InvalidLeaseKey> {
        let good = (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.to_owned())).ok_or(InvalidLeaseKey)
    }
}

impl TryFrom<String> for LeaseKey {
    type Error = InvalidLeaseKey;

    fn try_from(text: String) -> Result<Self, InvalidLeaseKey> {
        text.parse()
    }
}

impl From<LeaseKey> for String {
    fn from(key: LeaseKey) -> Self {
        key.0
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseEnd {
    /// Its holder gave it back.
    Released,
    /// Its holder was not heard of in time.
    HeartbeatMissed,
    /// Nothing was left of what it held: the request was turned down, or its grants ended by other causes.
    Over,
}

impl LeaseEnd {
    /// The word, as the API and the database have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::Over => "over",
        }
    }
}

/// That an access request lasts only as long as its holder is heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLease {
    /// Its id.
    pub id: LeaseId,
    /// What it holds.
    pub request: RequestId,
    /// Who holds it.
    pub holder: PrincipalRef,
    /// What the holder calls it. One live lease of a holder has it.
    pub key: LeaseKey,
    /// Of what was asked under the key.
    pub fingerprint: [u8; 32],
    /// The pause between two heartbeats, in whole seconds.
    pub heartbeat_every: Duration,
    /// When it was made.
    pub created_at: Instant,
    /// When its holder was last heard of, in the database's time.
    pub heard_at: Instant,
    /// When a heartbeat counts as missed, in the database's time.
    pub deadline: Instant,
    /// When and why it ended, if it has.
    pub ended: Option<(Instant, LeaseEnd)>,
}

/// Where what a lease holds stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Held {
    /// The request waits for somebody to decide.
    Pending,
    /// The request was turned down, withdrawn, or not decided in time.
    Refused,
    /// Every grant is wanted, and not all are open.
    Opening,
    /// Every grant is open.
    Open,
    /// Some grants have ended, others have not.
    Broken,
    /// Every grant has ended, and not all are confirmed as closed.
    Closing,
    /// Every grant is confirmed as closed.
    Closed,
}

impl Held {
    /// Where a request and its grants stand together.
    pub fn of(request: &RequestState, grants: &[Grant]) -> Self {
        match request {
            RequestState::Pending(_) => return Self::Pending,
            RequestState::Denied(_) | RequestState::Withdrawn(_) | RequestState::Lapsed(_) => {
                return Self::Refused;
            }
            RequestState::Approved(_) => {}
        }
        let wanted = grants
            .iter()
            .filter(|grant| grant.state.is_wanted() || matches!(grant.state, GrantState::Scheduled(_)))
            .count();
        let all = |is: fn(&GrantState) -> bool| grants.iter().all(|grant| is(&grant.state));
        if all(|state| matches!(state, GrantState::Closed(_))) {
            Self::Closed
        } else if wanted == 0 {
            Self::Closing
        } else if wanted < grants.len() {
            Self::Broken
        } else if all(|state| matches!(state, GrantState::Open(_))) {
            Self::Open
        } else {
            Self::Opening
        }
    }

    /// Whether there is anything left to hold.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Opening | Self::Open | Self::Broken)
    }

    /// The word, as the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Broken => "broken",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        grant::{EndCause, Live},
        request::{Approved, Decider, Lapsed},
        testing::{a_grant, a_request, at},
    };

    fn approved() -> RequestState {
        RequestState::Approved(Approved {
            by: Decider::Policy,
            at: at(0),
        })
    }

    #[test]
    fn a_lease_is_open_only_when_every_grant_is() {
        let open = || match a_grant().live() {
            Ok(Live::Opening(grant)) => Grant::from(grant.confirm_open(at(1))),
            other => panic!("{other:?}"),
        };
        let closing = || a_grant().live().unwrap().end(EndCause::Expired, at(2));
        let closed = || Grant::from(closing().confirm_closed(at(3)));
        for (grants, expected) in [
            (vec![open(), a_grant()], Held::Opening),
            (vec![open(), open()], Held::Open),
            (vec![open(), closing().into()], Held::Broken),
            (vec![a_grant(), closed()], Held::Broken),
            (vec![closed(), closing().into()], Held::Closing),
            (vec![closed()], Held::Closed),
        ] {
            assert_eq!(Held::of(&approved(), &grants), expected, "{grants:?}");
        }
    }

    #[test]
    fn there_is_nothing_to_hold_of_a_request_that_came_to_nothing() {
        assert_eq!(Held::of(&a_request().state, &[]), Held::Pending);
        let lapsed = RequestState::Lapsed(Lapsed { at: at(9) });
        assert_eq!(Held::of(&lapsed, &[]), Held::Refused);
        assert!(!Held::Refused.is_live());
    }

    #[test]
    fn a_key_is_short_and_visible() {
        for text in ["", "a b", "\n", "\u{e9}", &"x".repeat(256)] {
            assert!(text.parse::<LeaseKey>().is_err(), "{text:?}");
        }
        assert!("github/1/build/1".parse::<LeaseKey>().is_ok());
    }
}
