//! Enforcement points: native names to ids, and what the last pass said of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use postern_core::{
    id::PointId,
    point::PointRef,
    time::{IdSource, Instant},
};
use serde::Serialize;
use serde_json::Value;

use crate::{Store, StoreError, Tx, batch::document, decode};

/// An enforcement point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// Its native name.
    pub point_ref: PointRef,
    /// When it is to be looked at, if it is.
    pub due_at: Option<Instant>,
    /// Failed passes in a row.
    pub attempts: u32,
    /// What went wrong in the last pass, if something did.
    pub last_error: Option<String>,
}

#[derive(Serialize)]
struct NewPoint {
    id: uuid::Uuid,
    r#ref: String,
    cloud: &'static str,
    account: String,
    kind: postern_core::point::PointType,
}

impl Tx {
    /// The ids of the points, which are made where there are none yet.
    pub async fn ensure_points(
        &mut self,
        refs: &BTreeSet<PointRef>,
        ids: &dyn IdSource,
        now: Instant,
    ) -> Result<BTreeMap<PointRef, PointId>, StoreError> {
        let texts: Vec<String> = refs.iter().map(PointRef::to_string).collect();
        let mut known = self.points_named(&texts).await?;
        let missing: Vec<NewPoint> = refs
            .iter()
            .filter(|point| !known.contains_key(*point))
            .map(|point| NewPoint {
                id: ids.next::<postern_core::id::PointKind>(now).uuid(),
                r#ref: point.to_string(),
                cloud: point.cloud().as_str(),
                account: point.account().to_string(),
                kind: point.point_type(),
            })
            .collect();
        if !missing.is_empty() {
            sqlx::query!(
                "INSERT INTO points (id, ref, cloud, account, kind)
                 SELECT id, ref, cloud, account, kind
                 FROM jsonb_to_recordset($1) AS n (id uuid, ref text, cloud text, account text, kind text)
                 ORDER BY ref
                 ON CONFLICT (ref) DO NOTHING",
                document(&missing)?,
            )
            .execute(&mut *self.inner)
            .await?;
            // Read again, and not returned by the insert: another transaction may have been faster.
            known = self.points_named(&texts).await?;
        }
        if known.len() == refs.len() {
            Ok(known)
        } else {
            Err(StoreError::not_found(
                "enforcement point",
                format!("one of {}", refs.len()),
            ))
        }
    }

    async fn points_named(&mut self, refs: &[String]) -> Result<BTreeMap<PointRef, PointId>, StoreError> {
        sqlx::query!("SELECT id, ref FROM points WHERE ref = ANY ($1)", refs)
            .fetch_all(&mut *self.inner)
            .await?
            .into_iter()
            .map(|row| {
                Ok((
                    decode::text("points", "ref", &row.r#ref)?,
                    PointId::from_uuid(row.id),
                ))
            })
            .collect()
    }

    /// Those of the points that nobody has leased and that are not due at any time, and whether the success of a write
    /// there was recorded `within` until now. By the database's clock.
    pub async fn unattended_points(
        &mut self,
        refs: &BTreeSet<PointRef>,
        within: Duration,
    ) -> Result<Vec<(PointRef, PointId, bool)>, StoreError> {
        let texts: Vec<String> = refs.iter().map(PointRef::to_string).collect();
        sqlx::query!(
            r#"SELECT id, ref, EXISTS (SELECT FROM journal j WHERE j.point_id = points.id AND j.outcome = 'succeeded'
                     AND j.recorded_at > clock_timestamp() - make_interval(secs => $2)) AS "written!"
               FROM points WHERE ref = ANY ($1) AND due_at IS NULL AND lease_until IS NULL ORDER BY id"#,
            &texts,
            within.as_secs_f64(),
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| {
            Ok((
                decode::text("points", "ref", &row.r#ref)?,
                PointId::from_uuid(row.id),
                row.written,
            ))
        })
        .collect()
    }

    /// Those of the points at which something is wanted, or was: by a policy that covers a machine behind it, a grant, or
    /// a change that is not known to have failed; and those that somebody looks at, or is about to. A point that a policy
    /// locked down without a write is looked at for as long as nobody says that its last machine left.
    pub async fn points_in_use(&mut self, points: &[PointId]) -> Result<BTreeSet<PointId>, StoreError> {
        let points: Vec<uuid::Uuid> = points.iter().map(|point| point.uuid()).collect();
        let in_use = sqlx::query_scalar!(
            r#"SELECT p.id AS "id!" FROM unnest($1::uuid[]) AS p (id)
               WHERE EXISTS (SELECT FROM machine_points mp JOIN machines m ON m.id = mp.machine_id
                             WHERE mp.point_id = p.id AND m.policy_id IS NOT NULL)
                  OR EXISTS (SELECT FROM grant_hops h WHERE h.point_id = p.id AND NOT h.done)
                  OR EXISTS (SELECT FROM journal j WHERE j.point_id = p.id AND j.outcome = 'succeeded')
                  OR EXISTS (SELECT FROM journal j WHERE j.point_id = p.id AND j.outcome = 'unknown')
                  OR EXISTS (SELECT FROM journal j WHERE j.point_id = p.id AND j.outcome IS NULL)
                  OR EXISTS (SELECT FROM points q
                             WHERE q.id = p.id AND (q.due_at IS NOT NULL OR q.lease_until IS NOT NULL))"#,
            &points,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(in_use.into_iter().map(PointId::from_uuid).collect())
    }

    /// Replaces what the last look at the point reported. Says whether it is something else than before.
    pub async fn replace_report(&mut self, point: PointId, report: &Value) -> Result<bool, StoreError> {
        let replaced = sqlx::query!(
            "INSERT INTO point_reports AS r (point_id, report) VALUES ($1, $2)
             ON CONFLICT (point_id) DO UPDATE SET report = excluded.report
             WHERE r.report IS DISTINCT FROM excluded.report",
            point.uuid(),
            document(report)?,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(replaced.rows_affected() > 0)
    }
}

impl Store {
    /// The point, if there is one by that name.
    pub async fn point(&self, point: &PointRef) -> Result<Option<Point>, StoreError> {
        sqlx::query!(
            "SELECT id, due_at, attempts, last_error FROM points WHERE ref = $1",
            point.to_string()
        )
        .fetch_optional(&self.pool)
        .await?
        .map(|row| {
            Ok(Point {
                id: PointId::from_uuid(row.id),
                point_ref: point.clone(),
                due_at: row.due_at,
                attempts: decode::convert("points", "attempts", row.attempts)?,
                last_error: row.last_error,
            })
        })
        .transpose()
    }

    /// The findings and obstacles of the last look at the point, as [`Tx::replace_report`] saved them.
    pub async fn report(&self, point: PointId) -> Result<Option<Value>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT report FROM point_reports WHERE point_id = $1",
            point.uuid()
        )
        .fetch_optional(&self.pool)
        .await?)
    }
}
