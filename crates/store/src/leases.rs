//! Access leases. Whether a holder is late is judged in the database's own time, the one clock that all replicas share.

use std::time::Duration;

use postern_core::{
    id::{LeaseId, RequestId},
    lease::{AccessLease, LeaseEnd, LeaseKey, SILENCE},
    principal::PrincipalRef,
    time::Instant,
};
use uuid::Uuid;

use crate::{Conflict, Store, StoreError, Tx, batch::clean, decode};

/// An access lease before it is kept. It is heard of from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccessLease {
    /// Its id.
    pub id: LeaseId,
    /// What it holds.
    pub request: RequestId,
    /// Who holds it.
    pub holder: PrincipalRef,
    /// What the holder calls it.
    pub key: LeaseKey,
    /// Of what was asked under the key.
    pub fingerprint: [u8; 32],
    /// The pause between two heartbeats, in whole seconds.
    pub heartbeat_every: Duration,
    /// When it is made.
    pub created_at: Instant,
}

struct Row {
    id: Uuid,
    request_id: Uuid,
    holder: String,
    key: String,
    fingerprint: Vec<u8>,
    heartbeat_seconds: i64,
    created_at: Instant,
    heard_at: Instant,
    deadline: Instant,
    ended_at: Option<Instant>,
    cause: Option<String>,
}

impl TryFrom<Row> for AccessLease {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let ended = match (row.ended_at, row.cause.as_deref()) {
            (None, None) => None,
            (Some(at), Some("released")) => Some((at, LeaseEnd::Released)),
            (Some(at), Some("heartbeat_missed")) => Some((at, LeaseEnd::HeartbeatMissed)),
            (Some(at), Some("over")) => Some((at, LeaseEnd::Over)),
            _ => return decode::present("access_leases", "cause", None),
        };
        Ok(Self {
            id: LeaseId::from_uuid(row.id),
            request: RequestId::from_uuid(row.request_id),
            holder: decode::text("access_leases", "holder", &row.holder)?,
            key: decode::text("access_leases", "key", &row.key)?,
            fingerprint: decode::convert("access_leases", "fingerprint", row.fingerprint.as_slice())?,
            heartbeat_every: Duration::from_secs(decode::convert(
                "access_leases",
                "heartbeat_seconds",
                row.heartbeat_seconds,
            )?),
            created_at: row.created_at,
            heard_at: row.heard_at,
            deadline: row.deadline,
            ended,
        })
    }
}

/// `SELECT` of whole rows of `access_leases`, then what is given.
macro_rules! leases {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id, request_id, holder, key, fingerprint, heartbeat_seconds, created_at, heard_at, deadline,
                      ended_at, cause
               FROM access_leases "# + $rest
            $(, $argument)*
        )
    };
}

fn silence(every: Duration, wait: Duration) -> f64 {
    (every * SILENCE + wait).as_secs_f64()
}

impl Tx {
    /// The live lease of the holder under the key, locked until the transaction ends. Where there is none, nobody
    /// else makes one under this key meanwhile. The first thing that a transaction locks.
    pub async fn lease_under(
        &mut self,
        holder: &PrincipalRef,
        key: &LeaseKey,
    ) -> Result<Option<AccessLease>, StoreError> {
        let (holder, key) = (clean(&holder.to_string()), key.to_string());
        sqlx::query!(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, hashtextextended($2, 1)))",
            holder,
            key,
        )
        .execute(&mut *self.inner)
        .await?;
        leases!(
            "WHERE holder = $1 AND key = $2 AND ended_at IS NULL FOR NO KEY UPDATE",
            holder,
            key,
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(AccessLease::try_from)
        .transpose()
    }

    /// The lease, locked until the transaction ends. The first thing that a transaction locks.
    pub async fn access_lease(&mut self, id: LeaseId) -> Result<Option<AccessLease>, StoreError> {
        leases!("WHERE id = $1 FOR NO KEY UPDATE", id.uuid())
            .fetch_optional(&mut *self.inner)
            .await?
            .map(AccessLease::try_from)
            .transpose()
    }

    /// A live lease whose holder is late, locked until the transaction ends; those that another transaction holds are
    /// left out. The first thing that a transaction locks.
    pub async fn late_lease(&mut self) -> Result<Option<AccessLease>, StoreError> {
        leases!(
            "WHERE ended_at IS NULL AND deadline <= clock_timestamp() ORDER BY deadline LIMIT 1
             FOR NO KEY UPDATE SKIP LOCKED"
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(AccessLease::try_from)
        .transpose()
    }

    /// Adds a lease that is heard of now, and not missed for `wait` longer than usual: its holder waits for an answer.
    pub async fn insert_lease(&mut self, lease: &NewAccessLease, wait: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO access_leases (id, request_id, holder, key, fingerprint, heartbeat_seconds, created_at,
                 heard_at, deadline)
             SELECT $1, $2, $3, $4, $5, $6, $7, now, now + make_interval(secs => $8)
             FROM (SELECT clock_timestamp() AS now) AS n",
            lease.id.uuid(),
            lease.request.uuid(),
            clean(&lease.holder.to_string()),
            lease.key.to_string(),
            &lease.fingerprint,
            i64::try_from(lease.heartbeat_every.as_secs()).unwrap_or(i64::MAX),
            lease.created_at,
            silence(lease.heartbeat_every, wait),
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Its holder was heard of, and waits for an answer for `wait`. Never brings the deadline forward.
    /// [`Conflict::LeaseEnded`] when it has ended.
    pub async fn hear_lease(
        &mut self,
        lease: &AccessLease,
        wait: Duration,
    ) -> Result<AccessLease, StoreError> {
        let heard = sqlx::query_as!(
            Row,
            "UPDATE access_leases
             SET heard_at = clock_timestamp(),
                 deadline = GREATEST(deadline, clock_timestamp() + make_interval(secs => $2))
             WHERE id = $1 AND ended_at IS NULL
             RETURNING id, request_id, holder, key, fingerprint, heartbeat_seconds, created_at, heard_at, deadline,
                 ended_at, cause",
            lease.id.uuid(),
            silence(lease.heartbeat_every, wait),
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        heard
            .map(AccessLease::try_from)
            .transpose()?
            .ok_or_else(|| Conflict::LeaseEnded.into())
    }

    /// Ends a live lease. [`Conflict::LeaseEnded`] when it has ended.
    pub async fn end_lease(&mut self, id: LeaseId, cause: LeaseEnd, now: Instant) -> Result<(), StoreError> {
        let ended = sqlx::query!(
            "UPDATE access_leases SET ended_at = $2, cause = $3 WHERE id = $1 AND ended_at IS NULL",
            id.uuid(),
            now,
            cause.as_str(),
        )
        .execute(&mut *self.inner)
        .await?;
        if ended.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Conflict::LeaseEnded.into())
        }
    }
}

impl Store {
    /// The lease.
    pub async fn access_lease(&self, id: LeaseId) -> Result<Option<AccessLease>, StoreError> {
        leases!("WHERE id = $1", id.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(AccessLease::try_from)
            .transpose()
    }

    /// The lease that holds the request.
    pub async fn lease_of_request(&self, request: RequestId) -> Result<Option<AccessLease>, StoreError> {
        leases!("WHERE request_id = $1", request.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(AccessLease::try_from)
            .transpose()
    }

    /// The holder of a live lease got the answer that it waited for: it is late again after the usual silence. A
    /// lease that has ended stays as it is.
    pub async fn answered_lease(&self, lease: &AccessLease) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE access_leases
             SET heard_at = clock_timestamp(), deadline = clock_timestamp() + make_interval(secs => $2)
             WHERE id = $1 AND ended_at IS NULL",
            lease.id.uuid(),
            silence(lease.heartbeat_every, Duration::ZERO),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// How long until the first holder of a live lease is late; zero when one is.
    pub async fn next_late_lease(&self) -> Result<Option<Duration>, StoreError> {
        let seconds = sqlx::query_scalar!(
            r#"SELECT EXTRACT(EPOCH FROM min(deadline) - clock_timestamp())::float8
               FROM access_leases WHERE ended_at IS NULL"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
    }
}
