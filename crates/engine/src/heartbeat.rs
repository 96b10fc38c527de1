//! Keeps a lease alive while a pass runs, and tells the pass when it may no longer write.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use postern_store::{Lease, Store};
use tokio::{task::JoinHandle, time::Instant};

/// A lease, renewed in the background until it is dropped.
///
/// The deadline is kept in this machine's monotonic time, counted from before the lease was asked for: clocks
/// that differ or jump cannot stretch it.
#[derive(Debug)]
pub(crate) struct HeldLease {
    until: Arc<Mutex<Instant>>,
    task: JoinHandle<()>,
}

impl HeldLease {
    /// Starts to renew `lease`, which was asked for at `asked`.
    pub(crate) fn new(store: Store, lease: Lease, asked: Instant, length: Duration) -> Self {
        let until = Arc::new(Mutex::new(asked + length));
        let shared = Arc::clone(&until);
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval_at(asked + length / 3, length / 3);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                let asked = Instant::now();
                match store.renew(&lease, length).await {
                    Ok(()) => *shared.lock().unwrap_or_else(PoisonError::into_inner) = asked + length,
                    Err(error) => {
                        tracing::warn!(point = %lease.point_ref, %error, "lease not renewed");
                        // A lost lease stays lost; a database that does not answer may answer next time, and
                        // until then the deadline that was promised stands.
                        if error.is_lease_lost() {
                            *shared.lock().unwrap_or_else(PoisonError::into_inner) = asked;
                            return;
                        }
                    }
                }
            }
        });
        Self { until, task }
    }

    /// Whether a write that starts now is still covered.
    pub(crate) fn may_write(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}
