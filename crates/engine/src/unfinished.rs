//! Discoveries that failed at a page, so that the next one of the account goes on there.
//!
//! Only this process knows: after a restart, or on another server, a discovery begins at the first page.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::TimeDelta;
use postern_core::{machine::Account, time::Instant};

/// For how long the cloud is asked for the page again. EC2 names no life of its tokens, and answers
/// `InvalidPaginationToken` to one that "is not valid or is expired" (Amazon EC2 API reference, "Error codes for the
/// Amazon EC2 API"). An hour is some discoveries, and one whose token ended sooner begins anew.
const KEPT_FOR: TimeDelta = TimeDelta::hours(1);

/// By account, the page at which its last discovery failed.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(Mutex<BTreeMap<Account, Left>>);

#[derive(Debug)]
struct Left {
    cursor: String,
    at: Instant,
}

impl Unfinished {
    /// The page to go on at. It is forgotten: a page that fails again is not waited for, and the pages before it are
    /// read again.
    pub(crate) fn take(&self, account: &Account, now: Instant) -> Option<String> {
        let left = self.left().remove(account)?;
        (now - left.at < KEPT_FOR).then_some(left.cursor)
    }

    /// Remembers the page that was not read or not saved.
    pub(crate) fn leave(&self, account: &Account, cursor: String, at: Instant) {
        self.left().insert(account.clone(), Left { cursor, at });
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<Account, Left>> {
        // A map is whole between two of its calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
