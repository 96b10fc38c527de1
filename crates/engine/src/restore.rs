//! After a restore from a backup the clouds know better than the database.
//!
//! What was granted since the backup stands in a cloud with our mark and is wanted by nobody: every pass closes that.
//! What was closed since the backup must not be opened again, as the loop would do with a rule that somebody deleted:
//! a revocation, a freeze or a release may be among what was lost. So the first look at each point ends the grants of
//! which nothing stands there, and only then everything is as always.

use std::collections::BTreeSet;

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    enforcer::{EnforceError, Observed},
    grant::{EndCause, Grant},
    id::GrantId,
    scope::Scope,
};
use postern_store::{Due, Lease, Restore, StoreError, Urgency};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    Engine,
    events::Events,
    pass::{Ended, View},
};

impl Engine {
    /// Finds out, before any pass, whether the database was restored; as long as the database does not say, there
    /// are no passes.
    pub(crate) async fn notice_restore_at_start(&self, stop: &CancellationToken) {
        while let Err(error) = self.notice_restore().await {
            tracing::error!(%error, "whether the database was restored is not known; nothing is done until it is");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.config.backoff) => {}
            }
        }
    }

    /// Doubts everything when this is another copy of the database than the one that was at work last.
    pub(crate) async fn notice_restore(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        if let Some(restore) = tx.notice_restore(now).await? {
            tracing::warn!(?restore, "the database was restored from a backup");
            let actor = Actor::System {
                component: "reconciler".to_owned(),
            };
            tx.audit(&[restored(&restore, actor, now, &*self.ids)]).await?;
        }
        tx.commit().await
    }

    /// The first look at a point after a restore: ends the grants of which nothing stands there, and with that the
    /// doubt. False where the point could not be read, so that the doubt stays.
    pub(crate) async fn end_doubt(
        &self,
        lease: &Lease,
        view: &View,
        reading: &Result<Box<dyn Observed>, EnforceError>,
    ) -> Result<bool, StoreError> {
        let standing: BTreeSet<GrantId> = match reading {
            Ok(observed) => observed.evidence(&view.desired).into_keys().collect(),
            // Grants at a point that is gone end anyway.
            Err(EnforceError::Gone { .. }) => BTreeSet::new(),
            Err(_) => return Ok(false),
        };
        let wanted: BTreeSet<GrantId> = view
            .desired
            .members
            .iter()
            .flat_map(|member| &member.grants)
            .map(|grant| grant.grant)
            .collect();
        let vanished: Vec<GrantId> = wanted.difference(&standing).copied().collect();
        let unknown: Vec<GrantId> = standing.difference(&wanted).copied().collect();
        let now = self.clock.now();
        let events = Events::at(now, &*self.ids);
        let mut tx = self.store.begin().await?;
        let mut ended = Ended::default();
        let found = if vanished.is_empty() {
            Vec::new()
        } else {
            tx.grants_by_id(&vanished).await?
        };
        for grant in found {
            ended.end(grant, EndCause::DatabaseRestored, now, &events);
        }
        tx.save_grants(&ended.grants).await?;
        let ids: Vec<GrantId> = ended.grants.iter().map(|grant: &Grant| grant.id).collect();
        let due: Vec<Due> = tx
            .points_of(&ids)
            .await?
            .into_iter()
            .filter(|point| *point != lease.point)
            .map(|point| Due {
                point,
                at: now,
                urgency: Urgency::Closing,
            })
            .collect();
        let mut log = ended.log;
        let details = json!({
            "grants_still_open": wanted.intersection(&standing).collect::<Vec<_>>(),
            "grants_ended": ids,
            "grants_not_wanted_to_close": unknown,
            "gone": reading.is_err(),
        });
        log.push(events.point_settled_after_restore(&lease.point_ref, details));
        tx.audit(&log).await?;
        tx.mark_each_due(&due).await?;
        tx.end_doubt(lease).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// The event that says that the database was restored.
pub fn restored(
    restore: &Restore,
    actor: Actor,
    now: postern_core::time::Instant,
    ids: &dyn postern_core::time::IdSource,
) -> AuditEvent {
    AuditEvent {
        id: ids.next(now),
        at: now,
        action: "database.restore".to_owned(),
        outcome: Outcome::Succeeded,
        actor,
        scope: Scope::root(),
        reason: Some(
            "this copy of the database may be behind the clouds: every enforcement point is looked at"
                .to_owned(),
        ),
        decision: None,
        details: json!({ "before": restore.before, "after": restore.after, "points": restore.points }),
        subject: Subject::default(),
        http_request: None,
    }
}
