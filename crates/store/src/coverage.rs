//! Which policy covers which machine, after policies changed.

use std::collections::BTreeMap;

use postern_core::{
    id::{PointId, PolicyId},
    inventory::Machine,
    machine::MachineId,
    policy::JitPolicy,
    posture::posture,
    scope::Scope,
};
use uuid::Uuid;

use crate::{StoreError, Tx, batch::document, decode, page::scope_text};

/// A machine that another policy covers than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoverageChange {
    /// Which.
    pub machine: MachineId,
    /// What covered it.
    pub before: Option<PolicyId>,
    /// What covers it now.
    pub after: Option<PolicyId>,
}

/// What a change to policies means for machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Covered {
    /// Machines that another policy covers than before.
    pub changes: Vec<CoverageChange>,
    /// How many the changed policy covers as before.
    pub stayed: usize,
    /// The points before all affected machines, by id; to be marked due.
    pub points: Vec<PointId>,
}

impl Tx {
    /// Finds out anew which policy covers each machine at or below `within`, after policies changed; `changed` is
    /// a policy whose machines are affected even if it covered them before. Postures follow.
    pub async fn cover(&mut self, within: &Scope, changed: Option<PolicyId>) -> Result<Covered, StoreError> {
        let policies = self.policies().await?;
        let by_id: BTreeMap<PolicyId, &JitPolicy> =
            policies.iter().map(|policy| (policy.id, policy)).collect();
        let scope = scope_text(Some(within));
        let inside = sqlx::query!(
            r#"SELECT id, tags, policy_id FROM machines
               WHERE gone_at IS NULL
                 AND ($1::text IS NULL OR scope = $1 OR (scope > $1 || '/' AND scope < $1 || '0'))
               ORDER BY id FOR NO KEY UPDATE"#,
            scope,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut affected: BTreeMap<String, Option<PolicyId>> = BTreeMap::new();
        let mut moved = Vec::new();
        let mut stayed = 0;
        for row in inside {
            let machine: MachineId = decode::text("machines", "id", &row.id)?;
            let tags = decode::json("machines", "tags", row.tags)?;
            let before = row.policy_id.map(PolicyId::from_uuid);
            let after = JitPolicy::most_specific(&policies, &machine.scope(), &tags).map(|policy| policy.id);
            if before != after {
                moved.push(CoverageChange {
                    machine,
                    before,
                    after,
                });
                affected.insert(row.id, after);
            } else if after.is_some() && after == changed {
                stayed += 1;
                affected.insert(row.id, after);
            }
        }
        let names: Vec<String> = affected.keys().cloned().collect();
        let documents = sqlx::query!(
            "SELECT id, document FROM machines WHERE id = ANY ($1) ORDER BY id",
            &names
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut policy_ids = Vec::with_capacity(documents.len());
        let mut kinds = Vec::with_capacity(documents.len());
        let mut details = Vec::with_capacity(documents.len());
        let mut ids = Vec::with_capacity(documents.len());
        for row in documents {
            let policy = affected.get(&row.id).copied().flatten();
            let machine: Machine = decode::json("machines", "document", row.document)?;
            let standing = posture(&machine, policy.and_then(|id| by_id.get(&id).copied()));
            kinds.push(standing.kind.as_str().to_owned());
            details.push(document(&standing)?);
            policy_ids.push(policy.map(PolicyId::uuid));
            ids.push(row.id);
        }
        sqlx::query!(
            "UPDATE machines m SET policy_id = n.policy_id, posture = n.posture, posture_detail = n.detail
             FROM unnest($1::text[], $2::uuid[], $3::text[], $4::jsonb[]) AS n (id, policy_id, posture, detail)
             WHERE m.id = n.id",
            &ids,
            &policy_ids as &[Option<Uuid>],
            &kinds,
            &details,
        )
        .execute(&mut *self.inner)
        .await?;
        let points = sqlx::query_scalar!(
            "SELECT DISTINCT point_id FROM machine_points WHERE machine_id = ANY ($1) ORDER BY point_id",
            &names,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(Covered {
            changes: moved,
            stayed,
            points: points.into_iter().map(PointId::from_uuid).collect(),
        })
    }
}
