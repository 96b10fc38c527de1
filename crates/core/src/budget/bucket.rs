//! A token bucket: how many calls of one class may be made, and what a refusal stops.

use std::time::Duration;

/// The share of a bucket that only closings may use: a quarter. While less is left, openings wait.
const KEPT_FOR_CLOSINGS: f64 = 0.25;

/// The share of a bucket that looks and discoveries leave to closings and openings: a half.
const KEPT_FOR_CHANGES: f64 = 0.5;

/// The longest that a refusal stops calls, whatever the cloud asks for: a rule must not outlive its grant by a
/// mistaken `Retry-After`.
const LONGEST_STOP: Duration = Duration::from_mins(1);

/// How long the first refusal that names no time stops calls; each further one in a row twice as long as the one
/// before.
const FIRST_STOP: Duration = Duration::from_millis(250);

/// What a call is for; the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Something must be closed.
    Close,
    /// Somebody waits for an opening or for a lockdown.
    Open,
    /// To see what is there.
    Look,
}

impl Purpose {
    const fn leaves(self) -> f64 {
        match self {
            Self::Close => 0.0,
            Self::Open => KEPT_FOR_CLOSINGS,
            Self::Look => KEPT_FOR_CHANGES,
        }
    }
}

/// What a cloud documents for a class of calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BucketSize {
    /// The most calls at once; at least 1.
    pub capacity: f64,
    /// Calls that come back each second; more than 0.
    pub refill: f64,
}

impl BucketSize {
    /// A size.
    pub const fn new(capacity: f64, refill: f64) -> Self {
        Self { capacity, refill }
    }

    /// That part of it, in percent; never less than one call at once.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        self.part(f64::from(percent) / 100.0)
    }

    /// One part of so many; never less than one call at once.
    #[must_use]
    pub fn shared_by(self, servers: u32) -> Self {
        self.part(1.0 / f64::from(servers.max(1)))
    }

    fn part(self, part: f64) -> Self {
        Self {
            capacity: (self.capacity * part).max(1.0),
            refill: self.refill * part,
        }
    }
}

/// An answer to who wants to make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// The call is paid for, and may be made after this wait.
    Paid(Duration),
    /// Nothing was taken; it makes sense to ask again after this wait.
    NotYet(Duration),
}

/// One class of calls in one account.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    pub(super) size: BucketSize,
    /// Below zero when calls are paid for in advance.
    pub(super) tokens: f64,
    /// As of when.
    at: Duration,
    stopped_until: Duration,
    /// How long the last refusal without a time stopped calls.
    last_stop: Duration,
    pub(super) refused: u64,
}

impl Bucket {
    /// A full one.
    pub const fn new(size: BucketSize, now: Duration) -> Self {
        Self {
            size,
            tokens: size.capacity,
            at: now,
            stopped_until: Duration::ZERO,
            last_stop: Duration::ZERO,
            refused: 0,
        }
    }

    /// One with that part left, 0 to 1.
    pub fn partly(size: BucketSize, left: f64, now: Duration) -> Self {
        Self {
            tokens: size.capacity * left.clamp(0.0, 1.0),
            ..Self::new(size, now)
        }
    }

    /// Makes it larger or smaller from now on. What is left stays, as far as it has room: who spent the rest, or had
    /// it, is somebody else. Calls that are paid for already may be made all the same.
    pub fn resize(&mut self, size: BucketSize, now: Duration) {
        self.refill(now);
        self.size = size;
        self.tokens = self.tokens.min(size.capacity);
    }

    pub(super) fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.size.refill).min(self.size.capacity);
        self.at = self.at.max(now);
    }

    fn until(&self, missing: f64) -> Duration {
        // The hundredth of a millisecond is against coming a rounding error too early.
        Duration::try_from_secs_f64((missing / self.size.refill).max(0.0) + 1e-5).unwrap_or(Duration::MAX)
    }

    /// Takes a call. A closing is paid for in advance where nothing is left, in the order of asking, as long as its
    /// wait is within `patience`; anything else is told to ask again while less is left than it must leave.
    pub fn draw(&mut self, purpose: Purpose, patience: Duration, now: Duration) -> Drawn {
        self.refill(now);
        let stopped = self.stopped_until.saturating_sub(now);
        let needed = 1.0 + purpose.leaves() * self.size.capacity.max(1.0) - purpose.leaves();
        let mut wait = stopped;
        if self.tokens < needed {
            wait = wait.max(self.until(needed - self.tokens));
        }
        if wait > patience || (purpose != Purpose::Close && !wait.is_zero()) {
            return Drawn::NotYet(wait);
        }
        self.tokens -= 1.0;
        Drawn::Paid(wait)
    }

    /// The cloud refused a call for its rate: nothing is left, and nothing is to be asked for as long as it says.
    /// Where it does not say, for twice as long as after the refusal before, unless that was long ago. Refusals of
    /// calls that were under way together count as one.
    pub fn refused(&mut self, retry_after: Option<Duration>, now: Duration) {
        self.refill(now);
        self.refused += 1;
        self.tokens = self.tokens.min(0.0);
        if let Some(after) = retry_after {
            self.stopped_until = self.stopped_until.max(now + after.min(LONGEST_STOP));
        } else if now >= self.stopped_until {
            let in_a_row = now.saturating_sub(self.stopped_until) <= self.last_stop * 2;
            self.last_stop = if in_a_row && !self.last_stop.is_zero() {
                (self.last_stop * 2).min(LONGEST_STOP)
            } else {
                FIRST_STOP
            };
            self.stopped_until = now + self.last_stop;
        }
    }

    /// For how long a refusal still stops all calls.
    pub fn stopped(&self, now: Duration) -> Duration {
        self.stopped_until.saturating_sub(now)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::budget) const SIZE: BucketSize = BucketSize::new(8.0, 2.0);
    pub(in crate::budget) const PATIENCE: Duration = Duration::from_secs(5);

    pub(in crate::budget) fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn drawn(bucket: &mut Bucket, purpose: Purpose, now: Duration) -> u32 {
        (0..100)
            .take_while(|_| bucket.draw(purpose, PATIENCE, now) == Drawn::Paid(Duration::ZERO))
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn what_is_kept_for_closings_is_left_by_everything_else() {
        let mut bucket = Bucket::new(SIZE, at(0));
        // Of 8, looks leave 4 and openings 2.
        assert_eq!(drawn(&mut bucket, Purpose::Look, at(0)), 4);
        assert_eq!(drawn(&mut bucket, Purpose::Open, at(0)), 2);
        assert_eq!(drawn(&mut bucket, Purpose::Look, at(0)), 0);
        assert_eq!(drawn(&mut bucket, Purpose::Close, at(0)), 2);
    }

    #[test]
    fn a_bucket_fills_with_time_and_no_further_than_full() {
        let mut bucket = Bucket::new(SIZE, at(0));
        assert_eq!(drawn(&mut bucket, Purpose::Close, at(0)), 8);
        let mut bucket = Bucket::new(SIZE, at(0));
        for _ in 0..8 {
            bucket.draw(Purpose::Close, PATIENCE, at(0));
        }
        assert_eq!(
            bucket.draw(Purpose::Open, PATIENCE, at(0)),
            Drawn::NotYet(Duration::from_micros(1_375_010))
        );
        assert_eq!(
            bucket.draw(Purpose::Close, PATIENCE, at(500)),
            Drawn::Paid(Duration::ZERO)
        );
        assert_eq!(drawn(&mut bucket, Purpose::Close, at(3_600_000)), 8);
    }

    #[test]
    fn closings_are_paid_for_in_advance_in_the_order_of_asking_and_within_patience() {
        let mut bucket = Bucket::new(SIZE, at(0));
        for _ in 0..8 {
            bucket.draw(Purpose::Close, PATIENCE, at(0));
        }
        let waits: Vec<u128> = (0..9)
            .map(|_| match bucket.draw(Purpose::Close, PATIENCE, at(0)) {
                Drawn::Paid(wait) => wait.as_millis(),
                Drawn::NotYet(wait) => panic!("{wait:?}"),
            })
            .collect();
        assert_eq!(waits, [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500]);
    }

    #[test]
    fn a_closing_that_would_wait_too_long_takes_nothing() {
        let mut bucket = Bucket::new(SIZE, at(0));
        for _ in 0..10 {
            bucket.draw(Purpose::Close, PATIENCE, at(0));
        }
        let before = bucket.clone();
        assert!(matches!(
            bucket.draw(Purpose::Close, at(1400), at(0)),
            Drawn::NotYet(_)
        ));
        assert_eq!(bucket, before);
    }

    #[test]
    fn a_refusal_empties_the_bucket_and_stops_calls_for_as_long_as_the_cloud_says() {
        let mut bucket = Bucket::new(SIZE, at(0));
        bucket.refused(Some(Duration::from_secs(17)), at(0));
        assert!(
            matches!(bucket.draw(Purpose::Close, PATIENCE, at(10_000)), Drawn::NotYet(wait) if wait == at(7000))
        );
        assert_eq!(
            bucket.draw(Purpose::Close, PATIENCE, at(13_000)),
            Drawn::Paid(at(4000))
        );
        assert_eq!(bucket.stopped(at(17_000)), Duration::ZERO);
        // A shorter one does not call off a longer one, and none is longer than a minute.
        bucket.refused(Some(Duration::from_hours(24)), at(20_000));
        bucket.refused(Some(Duration::from_secs(1)), at(20_000));
        assert_eq!(bucket.stopped(at(20_000)), LONGEST_STOP);
        assert_eq!(
            bucket.draw(Purpose::Close, PATIENCE, at(80_000)),
            Drawn::Paid(Duration::ZERO)
        );
    }

    #[test]
    fn refusals_without_a_time_stop_calls_ever_longer_and_begin_anew_after_a_calm() {
        let mut bucket = Bucket::new(SIZE, at(0));
        let mut now = at(1000);
        let mut stops = Vec::new();
        for _ in 0..10 {
            bucket.refused(None, now);
            // Calls that were under way with it.
            bucket.refused(None, now);
            stops.push(bucket.stopped(now).as_millis());
            now += bucket.stopped(now);
        }
        assert_eq!(
            stops,
            [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
        now += Duration::from_mins(3);
        bucket.refused(None, now);
        assert_eq!(bucket.stopped(now), FIRST_STOP);
    }
}
