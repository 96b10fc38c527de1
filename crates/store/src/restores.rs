//! Noticing that the database was restored from a backup, and doubting what it says until the clouds were looked at.

use postern_core::{id::PointId, time::Instant};

use crate::{Lease, StoreError, Tx, Urgency};

/// A restore that was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Which copy of the database was at work before; none where somebody said that it was restored.
    pub before: Option<String>,
    /// Which one is now.
    pub after: String,
    /// How many points are doubted and due.
    pub points: usize,
}

impl Tx {
    /// Whether this is another copy of the database than the one that was at work last; then every point is doubted
    /// and due from `now` on. The first time there is nothing to compare with, and nothing is doubted.
    ///
    /// Not noticed is a copy of the data directory that is put back file by file: everything in it is as it was.
    /// [`Tx::doubt_everything`] is for that.
    pub async fn notice_restore(&mut self, now: Instant) -> Result<Option<Restore>, StoreError> {
        let Some(row) = self.identity(now).await? else {
            return Ok(None);
        };
        if row.0 == row.1 {
            return Ok(None);
        }
        let (before, after) = row;
        sqlx::query!(
            "UPDATE database_identity SET identity = $1, noticed_at = $2",
            after,
            now,
        )
        .execute(&mut *self.inner)
        .await?;
        let points = self.doubt(now).await?;
        Ok(Some(Restore {
            before: Some(before),
            after,
            points,
        }))
    }

    /// Takes the database as restored from a backup because somebody says so: every point is doubted and due.
    pub async fn doubt_everything(&mut self, now: Instant) -> Result<Restore, StoreError> {
        let (_, after) = self
            .identity(now)
            .await?
            .unwrap_or_else(|| (String::new(), "first".to_owned()));
        Ok(Restore {
            before: None,
            after,
            points: self.doubt(now).await?,
        })
    }

    /// Ends the doubt about a point. [`StoreError::LeaseLost`] unless the lease is ours.
    pub async fn end_doubt(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let ended = sqlx::query!(
            "UPDATE points SET doubted_since = NULL
             WHERE id = $1 AND generation = $2 AND lease_until > clock_timestamp()",
            lease.point.uuid(),
            lease.generation,
        )
        .execute(&mut *self.inner)
        .await?;
        if ended.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::LeaseLost {
                point: lease.point_ref.to_string(),
            })
        }
    }

    /// The identity as last seen and as it is; none the first time. Others who ask wait until the transaction ends.
    async fn identity(&mut self, now: Instant) -> Result<Option<(String, String)>, StoreError> {
        let is = sqlx::query_scalar!(
            r#"SELECT format('%s/%s/%s',
                   (SELECT oid FROM pg_database WHERE datname = current_database()),
                   'points'::regclass::oid,
                   left(pg_walfile_name(pg_current_wal_lsn()), 8)) AS "identity!""#,
        )
        .fetch_one(&mut *self.inner)
        .await?;
        let first = sqlx::query!(
            "INSERT INTO database_identity (identity, noticed_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            is,
            now,
        )
        .execute(&mut *self.inner)
        .await?;
        if first.rows_affected() == 1 {
            return Ok(None);
        }
        let was = sqlx::query_scalar!("SELECT identity FROM database_identity FOR UPDATE")
            .fetch_one(&mut *self.inner)
            .await?;
        Ok(Some((was, is)))
    }

    async fn doubt(&mut self, now: Instant) -> Result<usize, StoreError> {
        let points: Vec<PointId> =
            sqlx::query_scalar!("UPDATE points SET doubted_since = $1 RETURNING id", now)
                .fetch_all(&mut *self.inner)
                .await?
                .into_iter()
                .map(PointId::from_uuid)
                .collect();
        self.mark_due(&points, now, Urgency::Closing).await?;
        Ok(points.len())
    }
}
