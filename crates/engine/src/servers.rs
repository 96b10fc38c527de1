//! Shares the clouds' call budgets with the other servers over the same database.
//!
//! A cloud counts the calls of all of them together. Each server says every third of a lease that it is at work, hears
//! how many are, and keeps that part of every budget; one that died is counted for one lease more.

use std::{collections::BTreeMap, time::Duration};

use postern_core::{budget::Level, machine::Cloud};
use postern_store::{Sharing, StoreError};
use tokio_util::sync::CancellationToken;

use crate::{Engine, metrics::CloudLabels};

impl Engine {
    fn beat(&self) -> Duration {
        self.config.lease / 3
    }

    /// Says that this server is at work, and takes its part.
    async fn take_part(&self) -> Result<(), StoreError> {
        let left: BTreeMap<Cloud, f64> = self
            .enforcers
            .iter()
            .map(|(cloud, enforcer)| (*cloud, least(&enforcer.budgets())))
            .collect();
        let sharing = self
            .store
            .at_work(&self.config.owner, &left, self.config.lease)
            .await?;
        for (cloud, Sharing { servers, left }) in sharing {
            if let Some(enforcer) = self.enforcer(cloud) {
                enforcer.share_budgets(servers, left);
            }
            let labels = CloudLabels {
                cloud: cloud.as_str(),
            };
            self.metrics.servers.get_or_create(&labels).set(servers.into());
        }
        Ok(())
    }

    /// Before the first call: how much this server may call is not known until the database says who else does.
    pub(crate) async fn take_part_at_start(&self, stop: &CancellationToken) {
        while let Err(error) = self.take_part().await {
            tracing::error!(%error, "which servers are at work is not known; nothing is done until it is");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.config.backoff) => {}
            }
        }
    }

    /// Goes on with it for as long as it is polled. Without the database nothing is leased and so nothing is called:
    /// the part that was taken last stands until it answers.
    pub(crate) async fn keep_part(&self) {
        loop {
            tokio::time::sleep(self.beat()).await;
            if let Err(error) = self.take_part().await {
                tracing::warn!(%error, "which servers are at work was not heard");
            }
        }
    }

    /// Leaves its part to the others.
    pub(crate) async fn give_part_back(&self) {
        if let Err(error) = self.store.not_at_work(&self.config.owner).await {
            tracing::warn!(%error, "this server is counted until its time runs out");
        }
    }
}

/// The part that is left of the budget of which least is left.
fn least(levels: &[Level]) -> f64 {
    let parts = levels
        .iter()
        .map(|level| (level.left / level.size).clamp(0.0, 1.0));
    parts.fold(1.0, f64::min)
}
