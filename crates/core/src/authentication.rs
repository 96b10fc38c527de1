//! What people have to have proven of themselves before a JIT policy lets them ask.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    principal::{Principal, PrincipalKind},
    time::Instant,
};

/// The shortest time since a sign-in that a policy may ask for.
pub const MIN_AGE: Duration = Duration::from_mins(1);
/// The longest: seven days.
pub const MAX_AGE: Duration = Duration::from_hours(7 * 24);

/// How far ahead another's clock is believed, in milliseconds: the most leeway that an issuer may have. A sign-in that is to
/// come is none.
const AHEAD: i64 = 300_000;

/// What people have to have proven. Programs sign in nowhere; guardrails say what they must show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// A second factor.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mfa: bool,
    /// That they signed in no longer ago than this, in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
}

/// What somebody has not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// A second factor is missing.
    pub mfa: bool,
    /// The sign-in is longer ago than this many seconds, or the token does not say when it was.
    pub max_age_seconds: Option<u64>,
}

impl Authentication {
    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the time is within its bounds.
    pub fn is_valid(&self) -> bool {
        self.max_age_seconds
            .is_none_or(|seconds| (MIN_AGE.as_secs()..=MAX_AGE.as_secs()).contains(&seconds))
    }

    /// What `principal` has not proven at `now`, if anything.
    pub fn lack(&self, principal: &Principal, now: Instant) -> Option<Lack> {
        if principal.kind == PrincipalKind::Workload {
            return None;
        }
        let is_recent = |seconds: u64| {
            principal.authenticated_at.is_some_and(|at| {
                let age = now.signed_duration_since(at).num_milliseconds();
                u64::try_from(age).map_or(age >= -AHEAD, |age| age <= seconds.saturating_mul(1000))
            })
        };
        let lack = Lack {
            mfa: self.mfa && !principal.mfa,
            max_age_seconds: self.max_age_seconds.filter(|seconds| !is_recent(*seconds)),
        };
        (lack.mfa || lack.max_age_seconds.is_some()).then_some(lack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn ada(mfa: bool, authenticated_at: Option<Instant>) -> Principal {
        Principal {
            kind: PrincipalKind::Human,
            issuer: "corp".into(),
            subject: "ada".into(),
            name: None,
            groups: [].into(),
            mfa,
            authenticated_at,
            claims: [].into(),
        }
    }

    const BOTH: Authentication = Authentication {
        mfa: true,
        max_age_seconds: Some(60),
    };

    #[test]
    fn what_was_not_proven_is_named_and_nothing_else() {
        let lack = |mfa, max_age_seconds| Some(Lack { mfa, max_age_seconds });
        assert_eq!(BOTH.lack(&ada(true, Some(at(0))), at(60)), None);
        assert_eq!(BOTH.lack(&ada(true, Some(at(0))), at(61)), lack(false, Some(60)));
        assert_eq!(BOTH.lack(&ada(false, Some(at(0))), at(60)), lack(true, None));
        assert_eq!(BOTH.lack(&ada(false, None), at(0)), lack(true, Some(60)));
        assert_eq!(Authentication::default().lack(&ada(false, None), at(0)), None);
    }

    #[test]
    fn a_clock_that_is_a_little_ahead_makes_no_sign_in_old() {
        assert_eq!(BOTH.lack(&ada(true, Some(at(5))), at(0)), None);
        assert_eq!(BOTH.lack(&ada(true, Some(at(300))), at(0)), None);
    }

    #[test]
    fn a_sign_in_that_is_to_come_is_none() {
        let lack = BOTH.lack(&ada(true, Some(at(301))), at(0)).unwrap();
        assert_eq!(lack.max_age_seconds, Some(60));
    }

    #[test]
    fn programs_sign_in_nowhere() {
        let job = Principal {
            kind: PrincipalKind::Workload,
            ..ada(false, None)
        };
        assert_eq!(BOTH.lack(&job, at(0)), None);
    }

    #[test]
    fn times_that_nobody_could_keep_are_out_of_bounds() {
        for (seconds, valid) in [(59, false), (60, true), (604_800, true), (604_801, false)] {
            let asked = Authentication {
                max_age_seconds: Some(seconds),
                ..BOTH
            };
            assert_eq!(asked.is_valid(), valid, "{seconds}");
        }
    }
}
