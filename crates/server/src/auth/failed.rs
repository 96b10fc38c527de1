//! How many failed authentications are written to the audit log: all of a few, and a count of a flood.

use std::sync::{Mutex, PoisonError};

use chrono::TimeDelta;
use postern_core::time::Instant;

/// How many failures are recorded at once before the rate counts.
const BURST: u32 = 20;
/// How much time earns one more.
const PER: TimeDelta = TimeDelta::seconds(1);

#[derive(Debug)]
struct State {
    left: u32,
    since: Option<Instant>,
    suppressed: u64,
}

/// A token bucket over failures that remembers how many it swallowed.
#[derive(Debug)]
pub(crate) struct FailureBudget(Mutex<State>);

impl Default for FailureBudget {
    fn default() -> Self {
        Self(Mutex::new(State {
            left: BURST,
            since: None,
            suppressed: 0,
        }))
    }
}

impl FailureBudget {
    /// Whether to record a failure at `now`; if so, how many before it were not.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *state.since.get_or_insert(now);
        let earned = (now - since).num_milliseconds() / PER.num_milliseconds();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            state.left = state.left.saturating_add(earned).min(BURST);
            state.since = Some(now);
        }
        if let Some(left) = state.left.checked_sub(1) {
            state.left = left;
            Some(std::mem::take(&mut state.suppressed))
        } else {
            state.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::at;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_a_trickle_is_recorded() {
        let budget = FailureBudget::default();
        let recorded = (0..100).filter(|_| budget.take(at(0)).is_some()).count();
        assert_eq!(recorded, 20);
        assert_eq!(budget.take(at(1)), Some(80));
        assert_eq!(budget.take(at(1)), None);
        assert_eq!(budget.take(at(100)), Some(1));
        assert_eq!(budget.take(at(101)), Some(0));
    }
}
