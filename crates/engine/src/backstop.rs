//! What holds whatever else goes wrong: points that nobody marked, grants whose points nobody looks at, and what only
//! time does.

use std::{sync::atomic::Ordering, time::Duration};

use postern_core::{
    grant::{Grant, GrantState},
    time::Instant,
};
use postern_store::{StoreError, Urgency};

use crate::{Engine, events::Events};

/// How long an answer is kept for repetitions with the same `Idempotency-Key`.
const IDEMPOTENCY_KEYS_KEPT: Duration = Duration::from_hours(24);
/// How long a finding is shown after it was put right. The audit log keeps it.
const RESOLVED_FINDINGS_KEPT: Duration = Duration::from_hours(24 * 30);
/// How many requests lapse, and how many forgotten grants end, in one transaction.
const AT_ONCE: u32 = 100;
/// Every how many times the points that nobody marked are looked for, which takes a look at all points, and the requests
/// that were left half-had, which takes one at all grants of several machines.
const LOOK_EVERY: u64 = 12;

impl Engine {
    /// Runs once; `turn` counts the runs of this process, from 0.
    pub(crate) async fn backstop(&self, turn: u64) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.notice_restore().await?;
        if turn.is_multiple_of(LOOK_EVERY) {
            self.mark_forgotten_points(now).await?;
        }
        let ended = self.end_forgotten_grants(now).await?;
        self.lapse_assignments(now).await?;
        // A pass that sees a grant end ends the others of its request; this is for a server that died in between, and for
        // what failed.
        if ended || turn.is_multiple_of(LOOK_EVERY) || self.half_had.load(Ordering::Relaxed) {
            self.half_had.store(true, Ordering::Relaxed);
            self.end_broken(None).await?;
            self.half_had.store(false, Ordering::Relaxed);
        }
        self.lapse_requests(now).await?;
        self.remind(now).await
    }

    /// Marks due whatever should be and is not: a point that holds a grant, a lockdown or an unsettled change but has
    /// no due time would otherwise be forgotten. It never finds anything unless something else is broken.
    async fn mark_forgotten_points(&self, now: Instant) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        let found = tx.due_points_backstop(now).await?;
        if found > 0 {
            tracing::warn!(found, "points held rules of ours and were not due");
        }
        tx.forget_idempotency_keys(now - IDEMPOTENCY_KEYS_KEPT).await?;
        tx.forget_findings(now - RESOLVED_FINDINGS_KEPT).await?;
        tx.commit().await
    }

    /// Ends the grants whose time was over a while ago and whose points nobody looked at since: no server has an
    /// enforcer for their cloud, or all are too busy. Their rules may stand as long as that is so, and they are not
    /// called closed; but they are over, and that is told.
    /// Whether there were any.
    async fn end_forgotten_grants(&self, now: Instant) -> Result<bool, StoreError> {
        let late = now - self.config.overdue_after;
        let events = Events::at(now, &*self.ids);
        let mut tx = self.store.begin().await?;
        let mut log = Vec::new();
        let mut ended: Vec<Grant> = Vec::new();
        for grant in tx.forgotten_grants(late, AT_ONCE).await? {
            let since = match &grant.state {
                GrantState::Open(open) => open.ends_at,
                GrantState::Opening(opening) => opening.deadline,
                GrantState::Scheduled(scheduled) => scheduled.deadline,
                GrantState::Closing(_) | GrantState::Closed(_) => continue,
            };
            let Some(cause) = grant.due_to_end(now) else {
                continue;
            };
            if let Ok(live) = grant.live() {
                let closing = live.end(cause, now);
                log.push(events.grant_ended(&closing));
                log.push(events.grant_overdue(&closing, &unattended(since)));
                ended.push(closing.into());
            }
        }
        tx.save_grants(&ended).await?;
        if !ended.is_empty() {
            tracing::warn!(ended = ended.len(), "grants ended whose points nobody looks at");
            let ids: Vec<_> = ended.iter().map(|grant| grant.id).collect();
            tx.say_unattended(&ids, &unattended(now)).await?;
            tx.audit(&log).await?;
            let points = tx.points_of(&ids).await?;
            tx.mark_due(&points, now, Urgency::Closing).await?;
        }
        let overdue = tx.count_overdue(late).await?;
        tx.commit().await?;
        self.metrics.overdue.set(overdue);
        Ok(!ended.is_empty())
    }

    /// Removes the role assignments that have ended. They count for nothing from the instant of their end; this is
    /// where it is told.
    async fn lapse_assignments(&self, now: Instant) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        let events = Events::at(now, &*self.ids);
        let ended = tx.lapse_assignments(now, AT_ONCE).await?;
        let log: Vec<_> = ended
            .iter()
            .map(|ended| events.assignment_lapsed(ended))
            .collect();
        tx.audit(&log).await?;
        tx.commit().await
    }

    /// Lapses the requests that nobody decided in time.
    async fn lapse_requests(&self, now: Instant) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        let events = Events::at(now, &*self.ids);
        let mut log = Vec::new();
        for request in tx.lapsed_requests(now, AT_ONCE).await? {
            if let Some(lapsed) = request.lapse(now) {
                log.push(events.request_lapsed(&lapsed));
                tx.save_request(&lapsed.into()).await?;
            }
        }
        tx.audit(&log).await?;
        tx.commit().await
    }
}

fn unattended(since: Instant) -> String {
    format!(
        "no server has looked at the enforcement point since {}: none has an enforcer for its cloud, or all are busy",
        postern_core::time::written(since)
    )
}
