//! All or nothing: where one machine of a request ended without ever having been open, the others are closed again.
//!
//! After each pass that saw such an end, and by the backstop for ends that no pass saw: a server that dies in between
//! leaves nothing half-had.

use postern_core::{
    grant::{EndCause, Grant},
    id::RequestId,
};
use postern_store::{StoreError, Urgency};

use crate::{Engine, events::Events};

/// How many requests at a time.
const AT_ONCE: u32 = 100;

impl Engine {
    /// Ends what is left of requests that want all or nothing and cannot have all; of this one only, where one is named.
    pub(crate) async fn end_broken(&self, request: Option<RequestId>) -> Result<(), StoreError> {
        loop {
            let broken = self.store.broken_requests(request, AT_ONCE).await?;
            for request in &broken {
                self.end_rest_of(*request).await?;
            }
            if broken.len() < AT_ONCE as usize {
                return Ok(());
            }
        }
    }

    async fn end_rest_of(&self, request: RequestId) -> Result<(), StoreError> {
        let now = self.clock.now();
        let events = Events::at(now, &*self.ids);
        let mut tx = self.store.begin().await?;
        let grants = tx.grants_of_request(request).await?;
        let first = grants
            .iter()
            .filter(|grant| grant.together && grant.state.never_opened())
            .find(|grant| !matches!(grant.state.cause(), Some(EndCause::NotTogether { .. })))
            .or_else(|| grants.iter().find(|grant| grant.state.never_opened()));
        let Some((machine, cause)) = first.and_then(|grant| Some((&grant.machine, grant.state.cause()?)))
        else {
            return Ok(());
        };
        let cause = EndCause::NotTogether {
            machine: machine.clone(),
            reason: cause.words(),
        };
        let mut log = Vec::new();
        let mut ended: Vec<Grant> = Vec::new();
        for grant in grants {
            if let Ok(live) = grant.live() {
                let closing = live.end(cause.clone(), now);
                log.push(events.grant_ended(&closing));
                ended.push(closing.into());
            }
        }
        tx.save_grants(&ended).await?;
        tx.audit(&log).await?;
        let ids: Vec<_> = ended.iter().map(|grant| grant.id).collect();
        let points = tx.points_of(&ids).await?;
        tx.mark_due(&points, now, Urgency::Closing).await?;
        tx.commit().await
    }
}
