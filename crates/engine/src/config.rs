//! The loop's settings, each with its unit and default.

use std::time::Duration;

use chrono::{DurationRound as _, TimeDelta};
use postern_core::{mark::Installation, time::Instant};

/// Settings of the loop.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Whose rules these are.
    pub installation: Installation,
    /// The name of this process among the replicas; leases carry it.
    pub owner: String,
    /// Passes at the same time.
    pub workers: u32,
    /// Passes at the same time in one account. Those that wait for its call budget hold none of the others up.
    pub account_workers: u32,
    /// How long a point is leased at a time; renewed while a pass runs. After a crash nobody looks at the point
    /// for this long and the enforcers' longest request time.
    pub lease: Duration,
    /// The backstop of the wake-ups: the loop looks at the due queue at least this often.
    pub poll: Duration,
    /// How often a point that holds rules of ours is looked at although nothing changed.
    pub drift_interval: Duration,
    /// How often the accounts are discovered.
    pub discovery_interval: Duration,
    /// The first wait after a failed pass; doubles up to `backoff_max`, with jitter.
    pub backoff: Duration,
    /// The longest wait after a failed pass. Closing never gives up.
    pub backoff_max: Duration,
    /// When a grant that ended but is not confirmed as closed counts as overdue.
    pub overdue_after: Duration,
    /// How long somebody has to close the review of a broken glass before it is escalated, in whole seconds.
    pub review_within: Duration,
}

impl EngineConfig {
    /// The defaults, for `installation`.
    pub fn new(installation: Installation, owner: impl Into<String>) -> Self {
        Self {
            installation,
            owner: owner.into(),
            workers: 64,
            account_workers: 16,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(5),
            drift_interval: Duration::from_mins(5),
            discovery_interval: Duration::from_mins(5),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_mins(1),
            overdue_after: Duration::from_mins(1),
            review_within: Duration::from_hours(72),
        }
    }

    /// How often a point is looked at that is to be looked at again: one where something is wanted, or one where nothing
    /// is and something of ours stays. Discovery passes the latter by as long as it has a next look, whatever others put
    /// there: so that comes no later than discovery would.
    pub(crate) fn look_interval(&self, holds_ours: bool) -> Duration {
        if holds_ours {
            self.drift_interval
        } else {
            self.drift_interval.min(self.discovery_interval)
        }
    }

    /// When that is: after three quarters of the interval to all of it, so that points that were looked at together do not
    /// come back together. `random` is uniform. At most 128 instants of an interval are used, the same for all: points that
    /// come back at one are leased in one statement.
    pub(crate) fn next_look(&self, now: Instant, holds_ours: bool, random: u16) -> Instant {
        let interval = self.look_interval(holds_ours);
        let spread = interval / 4;
        let after = interval.saturating_sub(spread.mul_f64(f64::from(random) / f64::from(u16::MAX)));
        let step = TimeDelta::from_std(interval / 128).unwrap_or_default();
        let at = now + TimeDelta::from_std(after).unwrap_or_default();
        at.duration_trunc(step).unwrap_or(at)
    }

    /// How long to wait after `attempts` failed passes: exponential, with full jitter in the upper half so that
    /// points that failed together do not come back together. `random` is uniform.
    pub(crate) fn backoff_after(&self, attempts: u32, random: u16) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << attempts.min(16));
        let ceiling = doubled.min(self.backoff_max);
        ceiling / 2 + (ceiling / 2).mul_f64(f64::from(random) / f64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::at;

    use super::*;

    #[test]
    fn looks_spread_over_the_last_quarter_of_the_interval_and_share_instants() {
        let config = EngineConfig::new("test".parse().unwrap(), "a");
        let step = TimeDelta::from_std(config.drift_interval / 128).unwrap();
        for now in (0..1000).map(|second| at(second * 7)) {
            for random in [0, 1, 30_000, u16::MAX] {
                let after = config.next_look(now, true, random) - now;
                assert!(after > TimeDelta::seconds(225) - step, "{after}");
                assert!(after <= TimeDelta::seconds(300), "{after}");
            }
            let first = config.next_look(now, true, u16::MAX);
            assert!(config.next_look(now, true, 0) - first > TimeDelta::seconds(72));
        }
        let instants: std::collections::BTreeSet<Instant> = (0..=u16::MAX)
            .map(|random| config.next_look(at(1), true, random))
            .collect();
        assert!((32..=33).contains(&instants.len()), "{}", instants.len());
        let often = EngineConfig {
            drift_interval: Duration::from_millis(20),
            ..config
        };
        let again = often.next_look(at(0), true, u16::MAX);
        assert!(again > at(0), "never at once again");
    }

    #[test]
    fn backoff_grows_to_its_ceiling_and_never_past_it() {
        let config = EngineConfig::new("test".parse().unwrap(), "a");
        assert_eq!(config.backoff_after(0, 0), Duration::from_millis(250));
        assert_eq!(config.backoff_after(0, u16::MAX), Duration::from_millis(500));
        assert_eq!(config.backoff_after(3, u16::MAX), Duration::from_secs(4));
        for attempts in [10, 40, u32::MAX] {
            assert_eq!(config.backoff_after(attempts, u16::MAX), Duration::from_mins(1));
        }
    }
}
