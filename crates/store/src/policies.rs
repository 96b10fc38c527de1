//! JIT policies and their history.

use postern_core::{id::PolicyId, policy::JitPolicy, time::Instant};
use serde_json::Value;

use crate::{Conflict, Page, Store, StoreError, Tx, Visible, batch::document, decode, error::unique};

/// The advisory lock that whoever changes policies holds alone, and whoever derives coverage from them shares.
/// The number is arbitrary and only has to stay the same.
const POLICIES_LOCK: i64 = 0x706f_7374_6a69_7470;

fn read(document: Value) -> Result<JitPolicy, StoreError> {
    decode::json("jit_policies", "document", document)
}

impl Tx {
    /// Every policy, by id. None changes until the transaction ends, so that what is derived from them holds.
    pub async fn policies(&mut self) -> Result<Vec<JitPolicy>, StoreError> {
        self.share_policies().await?;
        sqlx::query_scalar!("SELECT document FROM jit_policies ORDER BY id")
            .fetch_all(&mut *self.inner)
            .await?
            .into_iter()
            .map(read)
            .collect()
    }

    /// The policy. No policy changes until the transaction ends.
    pub async fn policy(&mut self, id: PolicyId) -> Result<Option<JitPolicy>, StoreError> {
        self.lock_policies().await?;
        sqlx::query_scalar!("SELECT document FROM jit_policies WHERE id = $1", id.uuid())
            .fetch_optional(&mut *self.inner)
            .await?
            .map(read)
            .transpose()
    }

    /// Keeps policies as they are until the transaction ends.
    pub(crate) async fn share_policies(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_advisory_xact_lock_shared($1)", POLICIES_LOCK)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    async fn lock_policies(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", POLICIES_LOCK)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Adds a policy. [`Conflict::PolicyName`] when another has its name. [`Tx::cover`] says what it covers.
    pub async fn insert_policy(&mut self, policy: &JitPolicy) -> Result<(), StoreError> {
        self.lock_policies().await?;
        sqlx::query!(
            "INSERT INTO jit_policies (id, name, scope, document, version, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            policy.id.uuid(),
            crate::batch::clean(&policy.name),
            policy.scope.to_string(),
            document(policy)?,
            policy.version,
            policy.created_at,
            policy.updated_at,
        )
        .execute(&mut *self.inner)
        .await
        .map_err(|error| unique(error, || Conflict::PolicyName(policy.name.clone())))?;
        self.keep_version(policy).await
    }

    /// Replaces a policy whose version was `policy.version - 1`; [`Conflict::Version`] when it was not.
    pub async fn update_policy(&mut self, policy: &JitPolicy) -> Result<(), StoreError> {
        let found = self
            .policy(policy.id)
            .await?
            .ok_or_else(|| StoreError::not_found("JIT policy", policy.id))?;
        let expected = policy.version - 1;
        check_version(policy.id, expected, found.version)?;
        sqlx::query!(
            "UPDATE jit_policies SET name = $2, scope = $3, document = $4, version = $5, updated_at = $6
             WHERE id = $1",
            policy.id.uuid(),
            crate::batch::clean(&policy.name),
            policy.scope.to_string(),
            document(policy)?,
            policy.version,
            policy.updated_at,
        )
        .execute(&mut *self.inner)
        .await
        .map_err(|error| unique(error, || Conflict::PolicyName(policy.name.clone())))?;
        self.keep_version(policy).await
    }

    /// Removes a policy at `version`, and returns what it was. [`Tx::cover`] over its scope must follow: the
    /// transaction does not commit while a machine refers to the policy.
    pub async fn delete_policy(
        &mut self,
        id: PolicyId,
        version: Option<i64>,
    ) -> Result<JitPolicy, StoreError> {
        let found = self
            .policy(id)
            .await?
            .ok_or_else(|| StoreError::not_found("JIT policy", id))?;
        if let Some(expected) = version {
            check_version(id, expected, found.version)?;
        }
        sqlx::query!(
            "UPDATE machines SET policy_id = NULL WHERE policy_id = $1 AND gone_at IS NOT NULL",
            id.uuid()
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!("DELETE FROM jit_policies WHERE id = $1", id.uuid())
            .execute(&mut *self.inner)
            .await?;
        Ok(found)
    }

    async fn keep_version(&mut self, policy: &JitPolicy) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO jit_policy_versions (policy_id, version, document, changed_at) VALUES ($1, $2, $3, $4)",
            policy.id.uuid(),
            policy.version,
            document(policy)?,
            policy.updated_at,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

fn check_version(id: PolicyId, expected: i64, found: i64) -> Result<(), StoreError> {
    if expected == found {
        Ok(())
    } else {
        Err(Conflict::Version {
            what: format!("JIT policy `{id}`"),
            expected,
            found,
        }
        .into())
    }
}

impl Store {
    /// The policy.
    pub async fn policy(&self, id: PolicyId) -> Result<Option<JitPolicy>, StoreError> {
        sqlx::query_scalar!("SELECT document FROM jit_policies WHERE id = $1", id.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(read)
            .transpose()
    }

    /// Policies whose own scope somebody may see, by id; `after` is the cursor of the page before.
    pub async fn policies(
        &self,
        visible: &Visible,
        after: Option<PolicyId>,
        limit: u32,
    ) -> Result<Page<JitPolicy, PolicyId>, StoreError> {
        let scopes = visible.scope_texts();
        let rows = sqlx::query_scalar!(
            "SELECT document FROM jit_policies p
             WHERE ($1::text[] IS NULL OR EXISTS (
                     SELECT FROM unnest($1::text[]) AS v (scope)
                     WHERE p.scope = v.scope OR (p.scope > v.scope || '/' AND p.scope < v.scope || '0')))
               AND ($2::uuid IS NULL OR p.id > $2)
             ORDER BY p.id
             LIMIT $3",
            scopes.as_deref(),
            after.map(PolicyId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let policies = rows.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(policies, limit, |policy| policy.id))
    }

    /// Every version of a policy, the oldest first, with the time of each; also of a removed one.
    pub async fn policy_versions(&self, id: PolicyId) -> Result<Vec<(JitPolicy, Instant)>, StoreError> {
        sqlx::query!(
            "SELECT document, changed_at FROM jit_policy_versions WHERE policy_id = $1 ORDER BY version",
            id.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok((
                decode::json("jit_policy_versions", "document", row.document)?,
                row.changed_at,
            ))
        })
        .collect()
    }
}
