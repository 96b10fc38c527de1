//! Azure Resource Manager's request limits: a token bucket per subscription, principal and kind of request.
//!
//! Sizes and rates from "Understand how Azure Resource Manager throttles requests" (learn.microsoft.com,
//! azure-resource-manager/management/request-limits-and-throttling): reads 250 and 25 a second, writes and
//! deletes 200 and 10 a second, per subscription and service principal.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use http::Method;

/// One bucket's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSize {
    /// How many requests a full bucket allows at once.
    pub size: u32,
    /// How many come back each second.
    pub refill: u32,
}

/// The limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// For `GET` and `POST`-that-reads.
    pub reads: BucketSize,
    /// For `PUT`, `PATCH` and `POST`.
    pub writes: BucketSize,
    /// For `DELETE`.
    pub deletes: BucketSize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        let changes = BucketSize {
            size: 200,
            refill: 10,
        };
        Self {
            reads: BucketSize {
                size: 250,
                refill: 25,
            },
            writes: changes,
            deletes: changes,
        }
    }
}

/// Which bucket a request draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Read,
    Write,
    Delete,
}

impl Class {
    pub(super) fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::DELETE => Self::Delete,
            _ => Self::Write,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }

    /// The response header that tells what is left.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Read => "x-ms-ratelimit-remaining-subscription-reads",
            Self::Write => "x-ms-ratelimit-remaining-subscription-writes",
            Self::Delete => "x-ms-ratelimit-remaining-subscription-deletes",
        }
    }
}

/// The buckets. Counted in thousandths of a request, so that a refill needs no fractions.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    buckets: BTreeMap<(String, String, Class), (i64, DateTime<Utc>)>,
    /// Requests that it had nothing left for.
    pub(super) refused: u64,
}

impl Throttle {
    /// Takes one request. What is left, or the whole seconds until one is there again.
    pub(super) fn take(
        &mut self,
        limits: &RequestLimits,
        subscription: &str,
        principal: &str,
        class: Class,
        now: DateTime<Utc>,
    ) -> Result<u32, u64> {
        let measure = match class {
            Class::Read => limits.reads,
            Class::Write => limits.writes,
            Class::Delete => limits.deletes,
        };
        let full = i64::from(measure.size) * 1000;
        let key = (subscription.to_ascii_lowercase(), principal.to_owned(), class);
        let (tokens, since) = self.buckets.entry(key).or_insert((full, now));
        let elapsed = (now - *since).max(TimeDelta::zero()).num_milliseconds();
        *tokens = elapsed
            .saturating_mul(i64::from(measure.refill))
            .saturating_add(*tokens)
            .min(full);
        *since = now.max(*since);
        if *tokens >= 1000 {
            *tokens -= 1000;
            return Ok(u32::try_from(*tokens / 1000).unwrap_or(0));
        }
        self.refused += 1;
        let missing = 1000 - *tokens;
        let rate = i64::from(measure.refill).max(1) * 1000;
        Err(u64::try_from((missing + rate - 1) / rate).unwrap_or(1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills_each_second() {
        let limits = RequestLimits::default();
        let mut throttle = Throttle::default();
        let start = DateTime::UNIX_EPOCH;
        let mut take = |class, at| throttle.take(&limits, "S", "p", class, at);
        for left in (0..200).rev() {
            assert_eq!(take(Class::Write, start), Ok(left));
        }
        assert_eq!(take(Class::Write, start), Err(1));
        assert!(
            take(Class::Read, start).is_ok(),
            "reads have a bucket of their own"
        );
        assert_eq!(take(Class::Write, start + TimeDelta::seconds(1)), Ok(9));
        assert_eq!(take(Class::Write, start + TimeDelta::hours(1)), Ok(199));
    }
}
