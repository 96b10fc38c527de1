//! Wakes for due points and hands each to a pass.

use std::{sync::Arc, time::Duration};

use postern_store::Lease;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{Engine, events::Events};

/// How long an answer is kept for repetitions with the same `Idempotency-Key`.
const IDEMPOTENCY_KEYS_KEPT: Duration = Duration::from_hours(24);
/// How many requests lapse in one transaction.
const LAPSES_AT_ONCE: u32 = 100;

impl Engine {
    /// The longest that an enforcer's call may still be under way after its owner died.
    fn grace(&self) -> Duration {
        self.enforcers
            .values()
            .map(|enforcer| enforcer.request_timeout())
            .max()
            .unwrap_or_default()
    }

    /// Runs until `stop`: discovery beside the loop. Passes that are under way are finished first.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(self.dispatch(&stop), self.discover_forever(&stop));
    }

    async fn dispatch(&self, stop: &CancellationToken) {
        let free = Arc::new(Semaphore::new(self.config.workers.max(1) as usize));
        let mut passes = JoinSet::new();
        let mut listener = None;
        let mut backstop = tokio::time::interval(self.config.poll);
        backstop.set_missed_tick_behavior(MissedTickBehavior::Delay);

        while !stop.is_cancelled() {
            if listener.is_none() {
                listener = self
                    .store
                    .due_listener()
                    .await
                    .inspect_err(|error| {
                        tracing::warn!(%error, "no notifications; polling until the database listens again");
                    })
                    .ok();
            }
            while passes.try_join_next().is_some() {}

            let asked = Instant::now();
            let leased = match u32::try_from(free.available_permits()) {
                Ok(limit) if limit > 0 => self
                    .store
                    .lease(
                        &self.config.owner,
                        limit,
                        self.config.lease,
                        self.grace(),
                        self.clock.now(),
                    )
                    .await
                    .unwrap_or_else(|error| {
                        tracing::error!(%error, "due points could not be leased");
                        Vec::new()
                    }),
                _ => Vec::new(),
            };
            let found = !leased.is_empty();
            for lease in leased {
                self.start(lease, asked, &free, &mut passes).await;
            }
            if found {
                continue; // there may be more than fitted
            }

            let busy = free.available_permits() == 0;
            let now = self.clock.now();
            let until_due = match self.store.next_due(self.grace()).await {
                // With every worker at it, what is due waits for one of them, not for the clock.
                _ if busy => self.config.poll,
                // Due, and yet not leased: somebody marks it all the time. Wait for a turn.
                Ok(Some(due)) if due <= now => {
                    if let Some(lease) = self.lease_contended().await {
                        self.start(lease, asked, &free, &mut passes).await;
                        continue;
                    }
                    Duration::from_millis(1)
                }
                Ok(Some(due)) => (due - now).to_std().unwrap_or(Duration::from_millis(1)),
                Ok(None) => self.config.poll,
                Err(_) => self.config.poll.min(Duration::from_secs(1)),
            };
            let sleep = tokio::time::sleep(until_due.clamp(Duration::from_millis(1), self.config.poll));
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep => {}
                // A finished pass may have left its point due, and has freed a place.
                Some(_) = passes.join_next() => {}
                heard = async {
                    match listener.as_mut() {
                        Some(listener) => listener.heard().await,
                        None => std::future::pending().await,
                    }
                } => {
                    if heard.is_err() {
                        listener = None;
                    }
                }
                _ = backstop.tick() => {
                    if let Err(error) = self.backstop().await {
                        tracing::warn!(%error, "the backstop did not run");
                    }
                }
            }
        }
        while passes.join_next().await.is_some() {}
    }

    /// Hands a leased point to a pass of its own.
    async fn start(&self, lease: Lease, asked: Instant, free: &Arc<Semaphore>, passes: &mut JoinSet<()>) {
        let Ok(permit) = Arc::clone(free).acquire_owned().await else {
            return; // never: the semaphore is not closed
        };
        let engine = self.clone();
        passes.spawn(async move {
            engine.pass(lease, asked).await;
            drop(permit);
        });
    }

    async fn lease_contended(&self) -> Option<Lease> {
        self.store
            .lease_contended(
                &self.config.owner,
                self.config.lease,
                self.grace(),
                self.clock.now(),
            )
            .await
            .inspect_err(|error| tracing::error!(%error, "a due point could not be leased"))
            .ok()
            .flatten()
    }

    /// Marks due whatever should be and is not: a point that holds a grant or an unsettled change but has no due
    /// time would otherwise be forgotten. It never finds anything unless something else is broken. Beside it, what
    /// only time does: requests that nobody decided lapse, idempotency keys are forgotten.
    async fn backstop(&self) -> Result<(), postern_store::StoreError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let found = tx.due_points_backstop(now).await?;
        if found > 0 {
            tracing::warn!(found, "points held rules of ours and were not due");
        }
        let overdue = tx.count_overdue(now - self.config.overdue_after).await?;
        tx.forget_idempotency_keys(now - IDEMPOTENCY_KEYS_KEPT).await?;
        tx.commit().await?;
        self.metrics.overdue.set(overdue);

        let mut tx = self.store.begin().await?;
        let events = Events::at(now, &*self.ids);
        let mut log = Vec::new();
        for request in tx.lapsed_requests(now, LAPSES_AT_ONCE).await? {
            if let Some(lapsed) = request.lapse(now) {
                log.push(events.request_lapsed(&lapsed));
                tx.save_request(&lapsed.into()).await?;
            }
        }
        tx.audit(&log).await?;
        tx.commit().await
    }
}
