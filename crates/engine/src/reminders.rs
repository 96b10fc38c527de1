//! Reminders: whoever may decide on a request, or close the review of a broken glass, hears of it again, and then others do.

use postern_core::time::Instant;
use postern_store::StoreError;

use crate::{Engine, events::Events};

/// How many requests, and how many reviews, in one transaction.
const AT_ONCE: u32 = 100;

impl Engine {
    /// Writes the reminders that are due, for those who subscribed to them.
    pub(crate) async fn remind(&self, now: Instant) -> Result<(), StoreError> {
        let events = Events::at(now, &*self.ids);
        let mut tx = self.store.begin().await?;
        let mut log = Vec::new();
        for (request, how) in tx.due_reminders(now, AT_ONCE).await? {
            log.extend(events.request_reminder(&request, how));
            tx.save_reminder(request.id, how).await?;
        }
        let within = self.config.review_within;
        for (review, how) in tx.take_review_reminders(now, within, AT_ONCE).await? {
            log.extend(events.review_reminder(&review, how, within));
        }
        tx.audit(&log).await?;
        tx.commit().await
    }
}
