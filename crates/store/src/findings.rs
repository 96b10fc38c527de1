//! What was noticed about rules in others' hands, from when it was found until it was put right, or was not there any
//! more.

use postern_core::{
    enforcer::Finding,
    id::{GrantId, PointId},
    machine::MachineId,
    point::PointRef,
    time::Instant,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{Store, StoreError, Tx, batch::document, decode};

/// A finding that is about to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFinding {
    /// What was noticed.
    pub finding: Finding,
    /// The machines that it concerns.
    pub machines: Vec<MachineId>,
}

/// A finding as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFinding {
    /// Where.
    pub point: PointRef,
    /// What was noticed.
    pub finding: Finding,
    /// When it was first seen.
    pub found_at: Instant,
    /// When it was seen no more, if so.
    pub resolved_at: Option<Instant>,
}

#[derive(Serialize)]
struct NewRow {
    finding: Value,
    drift: bool,
    machines: Vec<String>,
    grants: Vec<Uuid>,
}

struct Row {
    point: String,
    finding: Value,
    found_at: Instant,
    resolved_at: Option<Instant>,
}

impl Tx {
    /// Saves those of the findings that do not stand already.
    pub async fn save_findings(
        &mut self,
        point: PointId,
        findings: &[NewFinding],
        now: Instant,
    ) -> Result<(), StoreError> {
        if findings.is_empty() {
            return Ok(());
        }
        let new = findings
            .iter()
            .map(|new| {
                Ok(NewRow {
                    finding: document(&new.finding)?,
                    drift: new.finding.is_drift(),
                    machines: new.machines.iter().map(MachineId::to_string).collect(),
                    grants: new.finding.grants.iter().map(|id| id.uuid()).collect(),
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        sqlx::query!(
            "INSERT INTO findings (point_id, finding, digest, drift, machines, grants, found_at)
             SELECT $1, n.finding, md5(n.finding::text), n.drift, n.machines, n.grants, $3
             FROM jsonb_to_recordset($2) AS n (finding jsonb, drift boolean, machines text[], grants uuid[])
             ON CONFLICT (point_id, digest) WHERE resolved_at IS NULL DO NOTHING",
            point.uuid(),
            document(&new)?,
            now,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Ends the findings of the point that stand and are not among `still`. Gives them.
    pub async fn resolve_findings(
        &mut self,
        point: PointId,
        still: &[Finding],
        now: Instant,
    ) -> Result<Vec<Finding>, StoreError> {
        sqlx::query_scalar!(
            "UPDATE findings SET resolved_at = $3
             WHERE point_id = $1 AND resolved_at IS NULL
               AND digest NOT IN (SELECT md5(f.finding::text) FROM jsonb_array_elements($2) AS f (finding))
             RETURNING finding",
            point.uuid(),
            document(still)?,
            now,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|finding| decode::json("findings", "finding", finding))
        .collect()
    }

    /// Forgets the findings that were resolved before `before`.
    pub async fn forget_findings(&mut self, before: Instant) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM findings WHERE resolved_at < $1", before)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}

impl Store {
    /// What was found about a machine: what stands, and what was resolved, the latest first.
    pub async fn findings_of_machine(
        &self,
        machine: &MachineId,
        limit: u32,
    ) -> Result<Vec<StoredFinding>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT p.ref AS point, f.finding, f.found_at, f.resolved_at
             FROM findings f JOIN points p ON p.id = f.point_id
             WHERE f.machines @> ARRAY[$1::text]
             ORDER BY f.resolved_at IS NOT NULL, f.id DESC LIMIT $2",
            machine.to_string(),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(StoredFinding::try_from)
        .collect()
    }

    /// What was found about a grant, likewise.
    pub async fn findings_of_grant(
        &self,
        grant: GrantId,
        limit: u32,
    ) -> Result<Vec<StoredFinding>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT p.ref AS point, f.finding, f.found_at, f.resolved_at
             FROM findings f JOIN points p ON p.id = f.point_id
             WHERE f.grants @> ARRAY[$1::uuid]
             ORDER BY f.resolved_at IS NOT NULL, f.id DESC LIMIT $2",
            grant.uuid(),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(StoredFinding::try_from)
        .collect()
    }
}

impl TryFrom<Row> for StoredFinding {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            point: decode::text("points", "ref", &row.point)?,
            finding: decode::json("findings", "finding", row.finding)?,
            found_at: row.found_at,
            resolved_at: row.resolved_at,
        })
    }
}
