//! Idempotency keys: the same request, sent again, gets the same answer and does nothing again.

use postern_core::{principal::PrincipalRef, time::Instant};
use serde_json::Value;

use crate::{
    Conflict, StoreError, Tx,
    batch::{clean, document},
    decode,
};

/// What a key says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is the first: go on, and store the answer in the same transaction.
    Fresh,
    /// It was answered.
    Replay {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Value,
    },
    /// The key was used for another request.
    Mismatch,
    /// The first one is still under way.
    InFlight,
}

impl Tx {
    /// Claims a key for a request with this `fingerprint`. Of two at the same time one is [`Claim::Fresh`] and
    /// the other [`Claim::InFlight`]; nobody waits. A claim whose transaction fails never was.
    pub async fn idempotency_claim(
        &mut self,
        principal: &PrincipalRef,
        key: &str,
        fingerprint: &[u8],
        now: Instant,
    ) -> Result<Claim, StoreError> {
        let (principal, key) = (clean(&principal.to_string()), clean(key));
        // Both names are hashed with their lengths apart: ("a", "bc") is not ("ab", "c").
        let alone = sqlx::query_scalar!(
            r#"SELECT pg_try_advisory_xact_lock(hashtextextended($1, hashtextextended($2, 0))) AS "alone!""#,
            principal,
            key,
        )
        .fetch_one(&mut *self.inner)
        .await?;
        if !alone {
            return Ok(Claim::InFlight);
        }
        let found = sqlx::query!(
            "SELECT fingerprint, status, body FROM idempotency_keys WHERE principal = $1 AND key = $2",
            principal,
            key,
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(row) = found else {
            sqlx::query!(
                "INSERT INTO idempotency_keys (principal, key, fingerprint, created_at) VALUES ($1, $2, $3, $4)",
                principal,
                key,
                fingerprint,
                now,
            )
            .execute(&mut *self.inner)
            .await?;
            return Ok(Claim::Fresh);
        };
        if row.fingerprint != fingerprint {
            return Ok(Claim::Mismatch);
        }
        match row.status {
            Some(status) => Ok(Claim::Replay {
                status: decode::convert("idempotency_keys", "status", status)?,
                body: row.body.unwrap_or_default(),
            }),
            None => Ok(Claim::InFlight),
        }
    }

    /// Stores the answer to a claimed key. [`Conflict::Answered`] when it has one or was never claimed.
    pub async fn idempotency_store(
        &mut self,
        principal: &PrincipalRef,
        key: &str,
        status: u16,
        body: &Value,
    ) -> Result<(), StoreError> {
        let stored = sqlx::query!(
            "UPDATE idempotency_keys SET status = $3, body = $4
             WHERE principal = $1 AND key = $2 AND status IS NULL",
            clean(&principal.to_string()),
            clean(key),
            i32::from(status),
            document(body)?,
        )
        .execute(&mut *self.inner)
        .await?;
        if stored.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Conflict::Answered.into())
        }
    }

    /// Forgets keys that were claimed before `before`; says how many.
    pub async fn forget_idempotency_keys(&mut self, before: Instant) -> Result<u64, StoreError> {
        Ok(
            sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < $1", before)
                .execute(&mut *self.inner)
                .await?
                .rows_affected(),
        )
    }
}
