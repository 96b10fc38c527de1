//! Wakes for due points and hands each to a pass.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use postern_core::machine::{Account, Cloud};
use postern_store::{Lease, Lessee, StoreError, Tx};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Engine,
    turns::{Offer, Turns},
};

/// After a lease was handed to a pass together with its transaction, when to ask again what is due next.
const LEASE_COMMITS_WITHIN: Duration = Duration::from_millis(2);

impl Engine {
    /// The longest that an enforcer's call may still be under way after its owner died.
    fn grace(&self) -> Duration {
        self.enforcers
            .values()
            .map(|enforcer| enforcer.request_timeout())
            .max()
            .unwrap_or_default()
    }

    /// Runs until `stop`: discovery and the leases' heartbeats beside the loop. Passes that are under way are finished first.
    pub async fn run(self, stop: CancellationToken) {
        self.notice_restore_at_start(&stop).await;
        self.take_part_at_start(&stop).await;
        let work = async {
            tokio::join!(
                self.dispatch(&stop),
                self.discover_forever(&stop),
                self.watch_leases(&stop)
            )
        };
        tokio::select! {
            _ = work => {}
            () = self.keep_part() => {}
        }
        self.give_part_back().await;
    }

    async fn dispatch(&self, stop: &CancellationToken) {
        let turns = Turns::new(self.config.workers, self.config.account_workers);
        let clouds: Vec<Cloud> = self.enforcers.keys().copied().collect();
        let mut passes = JoinSet::new();
        let mut listener = None;
        let mut rounds = 0;
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
            let offer = turns.offer(self.stopped_accounts().into_keys());
            let (leased, mut tx) = self.lease_due(&clouds, &offer).await.unwrap_or_else(|error| {
                tracing::error!(%error, "due points could not be leased");
                (Vec::new(), None)
            });
            let full = !leased.is_empty() && leased.len() == offer.limit as usize;
            // Until the pass commits its lease, the point still looks due.
            let pending = tx.is_some();
            for lease in leased {
                self.start(lease, asked, tx.take(), &turns, &mut passes);
            }
            if full {
                continue; // there may be more than fitted
            }

            let stopped = self.stopped_accounts();
            let goes_on = stopped.values().min().copied();
            let offer = turns.offer(stopped.into_keys());
            let busy = offer.limit == 0;
            let now = self.clock.now();
            let next = if busy || pending {
                Ok(None)
            } else {
                self.store.next_due(&self.lessee(&clouds, &offer.except)).await
            };
            let until_due = match next {
                _ if pending => LEASE_COMMITS_WITHIN,
                // With every worker at it, what is due waits for one of them, not for the clock.
                _ if busy => self.config.poll,
                // Due, and yet not leased: marked just now, or all the time. Wait for a turn.
                Ok(Some(due)) if due <= now => {
                    if let Some(lease) = self.lease_contended(&clouds, &offer).await {
                        self.start(lease, asked, None, &turns, &mut passes);
                        continue;
                    }
                    Duration::from_millis(1)
                }
                Ok(Some(due)) => (due - now).to_std().unwrap_or(Duration::from_millis(1)),
                Ok(None) => self.config.poll,
                Err(_) => self.config.poll.min(Duration::from_secs(1)),
            };
            let until_due = until_due.min(goes_on.unwrap_or(Duration::MAX));
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
                    for enforcer in self.enforcers.values() {
                        self.metrics.show_budgets(&enforcer.budgets());
                    }
                    if let Err(error) = self.backstop(rounds).await {
                        tracing::warn!(%error, "the backstop did not run");
                    }
                    rounds += 1;
                }
            }
        }
        while passes.join_next().await.is_some() {}
    }

    /// The accounts that refuse calls for their rate, and for how long.
    fn stopped_accounts(&self) -> BTreeMap<Account, Duration> {
        self.enforcers
            .values()
            .flat_map(|enforcer| enforcer.stopped_accounts())
            .collect()
    }

    fn lessee<'a>(&'a self, clouds: &'a [Cloud], except: &'a [Account]) -> Lessee<'a> {
        Lessee {
            owner: &self.config.owner,
            clouds,
            except,
            lease_for: self.config.lease,
            grace: self.grace(),
        }
    }

    /// Leases what is due. A single point comes with its transaction, still to be committed, so that its pass reads
    /// what is wanted in it; that saves a transaction where somebody waits.
    async fn lease_due(
        &self,
        clouds: &[Cloud],
        offer: &Offer,
    ) -> Result<(Vec<Lease>, Option<Tx>), StoreError> {
        if offer.limit == 0 {
            return Ok((Vec::new(), None));
        }
        let mut tx = self.store.begin().await?;
        let leased = tx
            .lease(&self.lessee(clouds, &offer.except), offer.limit, self.clock.now())
            .await?;
        if leased.len() == 1 {
            return Ok((leased, Some(tx)));
        }
        tx.commit().await?;
        Ok((leased, None))
    }

    /// Hands a leased point to a pass of its own.
    fn start(
        &self,
        lease: Lease,
        asked: Instant,
        tx: Option<Tx>,
        turns: &Arc<Turns>,
        passes: &mut JoinSet<()>,
    ) {
        let turn = turns.take(lease.point_ref.account());
        let engine = self.clone();
        passes.spawn(async move {
            engine.pass_in(lease, asked, tx).await;
            drop(turn);
        });
    }

    async fn lease_contended(&self, clouds: &[Cloud], offer: &Offer) -> Option<Lease> {
        self.store
            .lease_contended(&self.lessee(clouds, &offer.except), self.clock.now())
            .await
            .inspect_err(|error| tracing::error!(%error, "a due point could not be leased"))
            .ok()
            .flatten()
    }
}
