//! Idempotency keys: the same request, sent again, gets the same answer and does nothing again.

use std::collections::BTreeSet;

use postern_core::{principal::PrincipalRef, time::Instant};
use serde_json::Value;

use crate::{
    Conflict, StoreError, Tx,
    batch::{clean, document},
    decode,
};

/// A key of somebody's, among several that are claimed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentKey {
    /// Whose.
    pub principal: PrincipalRef,
    /// The key.
    pub key: String,
    /// Of the request that it was sent with.
    pub fingerprint: Vec<u8>,
}

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

    /// Claims several keys at once, as [`Tx::idempotency_claim`] does one; by key, whether it is the first. Of one that
    /// stands there twice only the first is. Nothing is written of them before [`Tx::idempotency_answer`].
    pub async fn idempotency_claim_all(&mut self, sent: &[SentKey]) -> Result<Vec<bool>, StoreError> {
        if sent.is_empty() {
            return Ok(Vec::new());
        }
        let (principals, keys) = names(sent);
        // A statement of its own: the next one has to see what whoever held a key before has written.
        let locked = sqlx::query!(
            r#"SELECT k.nth AS "nth!",
                   pg_try_advisory_xact_lock(hashtextextended(k.principal, hashtextextended(k.key, 0))) AS "alone!"
               FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (principal, key, nth)"#,
            &principals,
            &keys,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let used = sqlx::query_scalar!(
            r#"SELECT k.nth AS "nth!" FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k (principal, key, nth)
               WHERE EXISTS (SELECT FROM idempotency_keys i WHERE i.principal = k.principal AND i.key = k.key)"#,
            &principals,
            &keys,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let alone: BTreeSet<i64> = locked
            .into_iter()
            .filter(|row| row.alone)
            .map(|row| row.nth)
            .filter(|nth| !used.contains(nth))
            .collect();
        // A transaction gets a lock again that it holds.
        let mut before = BTreeSet::new();
        let firsts = principals.iter().zip(&keys).map(|name| before.insert(name));
        Ok(firsts
            .zip(1..)
            .map(|(first, nth)| first && alone.contains(&nth))
            .collect())
    }

    /// Stores the answers to keys that [`Tx::idempotency_claim_all`] found to be the first.
    pub async fn idempotency_answer(
        &mut self,
        answers: &[(SentKey, Value)],
        status: u16,
        now: Instant,
    ) -> Result<(), StoreError> {
        if answers.is_empty() {
            return Ok(());
        }
        let (sent, bodies): (Vec<SentKey>, Vec<&Value>) =
            answers.iter().map(|(sent, body)| (sent.clone(), body)).unzip();
        let bodies = bodies.into_iter().map(document).collect::<Result<Vec<_>, _>>()?;
        let (principals, keys) = names(&sent);
        let fingerprints: Vec<Vec<u8>> = sent.into_iter().map(|one| one.fingerprint).collect();
        sqlx::query!(
            "INSERT INTO idempotency_keys (principal, key, fingerprint, status, body, created_at)
             SELECT k.principal, k.key, k.fingerprint, $5, k.body, $6
             FROM unnest($1::text[], $2::text[], $3::bytea[], $4::jsonb[]) AS k (principal, key, fingerprint, body)",
            &principals,
            &keys,
            &fingerprints,
            &bodies,
            i32::from(status),
            now,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
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

/// Whose each key is, and the keys.
fn names(sent: &[SentKey]) -> (Vec<String>, Vec<String>) {
    sent.iter()
        .map(|one| (clean(&one.principal.to_string()), clean(&one.key)))
        .unzip()
}
