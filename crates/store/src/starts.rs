//! Grants that change without a pass: that begin when their time comes, that are extended, and that end because another
//! one of their request did.

use postern_core::{
    grant::{Grant, Open},
    id::RequestId,
    time::Instant,
};

use crate::{Conflict, Store, StoreError, Tx, decode};

impl Tx {
    /// Saves that an open grant lasts longer: its duration, its end and the promise in its rules' marks.
    /// [`Conflict::GrantState`] when it is not open any more, or would end no later than it does.
    pub async fn extend_grant(&mut self, grant: &Grant<Open>) -> Result<(), StoreError> {
        let seconds: i64 = decode::convert("grants", "duration_seconds", grant.duration.as_secs())?;
        let saved = sqlx::query!(
            "UPDATE grants SET duration_seconds = $2, ends_at = $3, not_after = $4
             WHERE id = $1 AND status = 'open' AND ends_at < $3 AND not_after <= $4",
            grant.id.uuid(),
            seconds,
            grant.state.ends_at,
            grant.not_after,
        )
        .execute(&mut *self.inner)
        .await?;
        if saved.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Conflict::GrantState.into())
        }
    }
}

impl Store {
    /// When the next scheduled grant begins, if there is one; in the past, where one should have begun.
    pub async fn next_start(&self) -> Result<Option<Instant>, StoreError> {
        Ok(
            sqlx::query_scalar!("SELECT min(starts_at) FROM grants WHERE status = 'scheduled'")
                .fetch_one(&self.pool)
                .await?,
        )
    }

    /// Up to `limit` requests with grants whose time to begin has come at `now`, the longest waiting first.
    pub async fn due_starts(&self, now: Instant, limit: u32) -> Result<Vec<RequestId>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT request_id FROM grants WHERE status = 'scheduled' AND starts_at <= $1
             GROUP BY request_id ORDER BY min(starts_at), request_id LIMIT $2",
            now,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(RequestId::from_uuid)
        .collect())
    }

    /// Up to `limit` requests that want all or nothing and have nothing of some machine any more: a grant ended
    /// without ever having been open, and another one has not ended. Of this request only, where one is named.
    pub async fn broken_requests(
        &self,
        request: Option<RequestId>,
        limit: u32,
    ) -> Result<Vec<RequestId>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT DISTINCT g.request_id FROM grants g
             WHERE g.together AND g.status IN ('scheduled', 'opening', 'open')
               AND ($1::uuid IS NULL OR g.request_id = $1)
               AND EXISTS (SELECT FROM grants f
                           WHERE f.request_id = g.request_id AND f.status IN ('closing', 'closed')
                             AND f.opened_at IS NULL)
             ORDER BY g.request_id LIMIT $2",
            request.map(RequestId::uuid),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(RequestId::from_uuid)
        .collect())
    }
}
