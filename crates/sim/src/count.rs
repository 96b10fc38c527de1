//! Counts the calls per operation, for the "cloud calls per open" figures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Call counters by operation; clones share the counters. A call counts when it arrives, also when it
/// is refused or a fault strikes it.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<String, u64>>>);

impl Calls {
    /// Counts one call of `operation`.
    pub fn count(&self, operation: &str) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = calls.get_mut(operation) {
            *count += 1;
        } else {
            calls.insert(operation.to_owned(), 1);
        }
    }

    /// The calls of `operation` since the start or the last [`Calls::reset`].
    pub fn of(&self, operation: &str) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(operation)
            .copied()
            .unwrap_or(0)
    }

    /// All counters, by operation.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum over all operations.
    pub fn total(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }

    /// Sets every counter back to zero.
    pub fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
