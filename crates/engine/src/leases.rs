//! Ends access leases whose holder was not heard of in time: a runner that died gives nothing back itself.
//!
//! Every replica looks, and a late lease is taken by one of them. Who is late is the database's word, so that servers
//! whose clocks differ or jump end nothing early.

use std::time::Duration;

use postern_core::{
    grant::{EndCause, Grant},
    lease::{AccessLease, LeaseEnd},
};
use postern_store::{StoreError, Urgency};
use tokio_util::sync::CancellationToken;

use crate::{Engine, events::Events};

/// The longest between two looks. Shorter than the shortest silence that a lease ends by, so that every deadline is
/// known before it comes and is met to the instant.
const LOOK: Duration = Duration::from_secs(1);

impl Engine {
    /// Ends late leases until `stop`.
    pub(crate) async fn watch_leases(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let wait = match self.end_late_leases(stop).await {
                Ok(next) => next.map_or(LOOK, |next| next.min(LOOK)),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "late leases could not be ended");
                    LOOK
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Ends all that are late, each in a transaction of its own; says how long until the next one is.
    async fn end_late_leases(&self, stop: &CancellationToken) -> Result<Option<Duration>, StoreError> {
        loop {
            let next = self.store.next_late_lease().await?;
            let late = next.is_some_and(|next| next.is_zero());
            // One that another replica works on is passed by, and looked for again.
            if !late || stop.is_cancelled() || !self.end_late_lease().await? {
                return Ok(next);
            }
        }
    }

    /// Ends one, if one is late.
    async fn end_late_lease(&self) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let Some(lease) = tx.late_lease().await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        let now = self.clock.now();
        let events = Events::at(now, &*self.ids);
        let mut log = Vec::new();
        let mut withdrawn = false;
        if let Some(request) = tx.request(lease.request).await? {
            if let Some(lapsed) = request.clone().lapse(now) {
                // By another server's clock it may not have lapsed yet, and nobody is there to be heard of.
                log.push(events.request_lapsed(&lapsed));
                tx.save_request(&lapsed.into()).await?;
            } else if let Ok(pending) = request.pending(now)
                && let Ok(taken_back) = pending.withdraw(&lease.holder, now)
            {
                log.push(events.request_withdrawn(&taken_back));
                tx.save_request(&taken_back.into()).await?;
                withdrawn = true;
            }
        }
        let mut ended: Vec<Grant> = Vec::new();
        for grant in tx.grants_of_request(lease.request).await? {
            if let Ok(live) = grant.live() {
                let closing = live.end(EndCause::HeartbeatMissed, now);
                log.push(events.grant_ended(&closing));
                ended.push(closing.into());
            }
        }
        let cause = if withdrawn || !ended.is_empty() {
            LeaseEnd::HeartbeatMissed
        } else {
            LeaseEnd::Over
        };
        tx.save_grants(&ended).await?;
        tx.end_lease(lease.id, cause, now).await?;
        if cause == LeaseEnd::HeartbeatMissed {
            told(&lease, ended.len());
            log.push(events.heartbeat_missed(&lease, &ended, withdrawn));
        }
        tx.audit(&log).await?;
        let ids: Vec<_> = ended.iter().map(|grant| grant.id).collect();
        let points = tx.points_of(&ids).await?;
        tx.mark_due(&points, now, Urgency::Closing).await?;
        tx.commit().await?;
        Ok(true)
    }
}

fn told(lease: &AccessLease, grants: usize) {
    tracing::info!(lease = %lease.id, holder = %lease.holder, grants, "heartbeat missed");
}
