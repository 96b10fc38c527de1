//! Time and randomness as parameters: nothing in Postern reads a global clock or a global generator.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use uuid::{Builder, Uuid};

use crate::id::Id;

/// An instant in UTC. Values from a [`Clock`] are whole microseconds, which is what Postgres keeps.
pub type Instant = DateTime<Utc>;

/// An instant as messages have it: RFC 3339 in UTC, with `Z`, as the API writes every instant.
pub fn written(at: Instant) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Where the current time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The current time, in whole microseconds.
    fn now(&self) -> Instant;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the machine's clock is read"
    )]
    fn now(&self) -> Instant {
        DateTime::<Utc>::from(std::time::SystemTime::now()).trunc_subsecs(6)
    }
}

/// A clock that moves only when told to; for tests and simulations.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Instant>>);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Instant) -> Self {
        Self(Arc::new(Mutex::new(start.trunc_subsecs(6))))
    }

    /// Moves the clock forward (or, with a negative delta, back).
    pub fn advance(&self, by: TimeDelta) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where new ids come from.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// Ten random bytes.
    fn random(&self) -> [u8; 10];
}

impl dyn IdSource + '_ {
    /// A new time-ordered id (UUID version 7) for something that comes into being at `now`.
    pub fn next<K>(&self, now: Instant) -> Id<K> {
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        Id::from_uuid(Builder::from_unix_timestamp_millis(millis, &self.random()).into_uuid())
    }
}

/// Ids from the operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where random ids are drawn"
    )]
    fn random(&self) -> [u8; 10] {
        // Bytes 6 and 8 of a version 4 UUID hold its version and variant, so they are left out.
        let uuid = Uuid::new_v4().into_bytes();
        let mut drawn = uuid
            .into_iter()
            .enumerate()
            .filter(|(at, _)| !matches!(at, 6 | 8))
            .map(|(_, byte)| byte);
        std::array::from_fn(|_| drawn.next().unwrap_or_default())
    }
}

/// Ids that count up from a seed; the same in every run.
#[derive(Debug, Clone)]
pub struct CountingIds(Arc<Mutex<u64>>);

impl CountingIds {
    /// Starts to count at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }
}

impl IdSource for CountingIds {
    fn random(&self) -> [u8; 10] {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.wrapping_add(1);
        let mut bytes = [0; 10];
        for (byte, counted) in bytes.iter_mut().rev().zip(count.to_le_bytes()) {
            *byte = counted;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GrantId;

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let ids: &dyn IdSource = &CountingIds::new(7);
        let early: GrantId = ids.next(DateTime::from_timestamp(1_700_000_000, 0).unwrap());
        let late: GrantId = ids.next(DateTime::from_timestamp(1_700_000_001, 0).unwrap());
        assert!(early < late);
        assert_eq!(early.uuid().get_version_num(), 7);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(DateTime::from_timestamp(0, 0).unwrap());
        let before = clock.now();
        clock.advance(TimeDelta::seconds(3));
        assert_eq!(clock.now() - before, TimeDelta::seconds(3));
    }
}
