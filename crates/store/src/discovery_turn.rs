//! Whose turn it is to discover.
//!
//! A turn is a lease in the database's own time, as with points: whoever has it renews it, and when its owner dies it
//! runs out and another takes it.

use std::time::Duration;

use postern_core::time::Instant;

use crate::{Store, StoreError};

impl Store {
    /// Takes the turn for `lease`, unless another has it or one that began after `fresh_after` was completed. Whether
    /// it is ours now.
    pub async fn take_discovery_turn(
        &self,
        owner: &str,
        lease: Duration,
        fresh_after: Instant,
    ) -> Result<bool, StoreError> {
        let taken = sqlx::query!(
            "INSERT INTO discovery_turn (owner, until)
             VALUES ($1, clock_timestamp() + make_interval(secs => $2))
             ON CONFLICT (single) DO UPDATE SET owner = excluded.owner, until = excluded.until
             WHERE discovery_turn.until < clock_timestamp()
               AND (discovery_turn.done_at IS NULL OR discovery_turn.done_at <= $3)",
            owner,
            lease.as_secs_f64(),
            fresh_after,
        )
        .execute(&self.pool)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Keeps the turn for another `lease`. False when it is not ours any more.
    pub async fn renew_discovery_turn(&self, owner: &str, lease: Duration) -> Result<bool, StoreError> {
        let renewed = sqlx::query!(
            "UPDATE discovery_turn SET until = clock_timestamp() + make_interval(secs => $2)
             WHERE owner = $1 AND until >= clock_timestamp()",
            owner,
            lease.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Ends a turn that began at `begun`. Where it is not ours any more, nothing happens.
    pub async fn end_discovery_turn(&self, owner: &str, begun: Instant) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE discovery_turn SET until = '-infinity', done_at = $2 WHERE owner = $1",
            owner,
            begun,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
