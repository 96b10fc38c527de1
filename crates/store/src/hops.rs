//! Hops: what each point on the way was last seen to do for a grant.

use std::collections::BTreeMap;

use postern_core::{
    grant::HopState,
    id::{GrantId, PointId},
    point::PointRef,
    time::Instant,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{Store, StoreError, Tx, batch::document, decode};

/// A hop of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The point.
    pub point: PointId,
    /// Its native name.
    pub point_ref: PointRef,
    /// What it was last seen to do for the grant.
    pub state: HopState,
    /// The grant's rules there, as last read.
    pub rules: Option<Value>,
    /// The rule of somebody else's that stops the packets all the same.
    pub blocked_by: Option<String>,
    /// What stands in the way of opening or closing, for people.
    pub obstacle: Option<String>,
    /// When it was last read.
    pub read_at: Option<Instant>,
}

/// What a look, or the intention to write, makes of a hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopUpdate {
    /// Of which grant.
    pub grant: GrantId,
    /// The new state; `None` leaves it.
    pub state: Option<HopState>,
    /// The rules as read; `None` leaves them, unless the state is absent.
    pub rules: Option<Value>,
    /// The rule of somebody else's that stops the packets; `None` says there is none.
    pub blocked_by: Option<String>,
    /// What stands in the way; `None` says that nothing does.
    pub obstacle: Option<String>,
}

#[derive(Serialize)]
struct NewHop<'a> {
    grant_id: Uuid,
    state: Option<HopState>,
    rules: &'a Option<Value>,
    blocked_by: &'a Option<String>,
    obstacle: &'a Option<String>,
}

impl Tx {
    /// All that was read as present at the point was read again, at `at`.
    pub async fn read_again(&mut self, point: PointId, at: Instant) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO point_readings AS r (point_id, read_at) VALUES ($1, $2)
             ON CONFLICT (point_id) DO UPDATE SET read_at = greatest(r.read_at, excluded.read_at)",
            point.uuid(),
            at,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Saves what was seen of the grants at the point. A state other than unknown, and rules, are a reading, made
    /// at `at`; a reading in which one is present is one of all that are present there, and those that are as they were
    /// are not written. Returns all the hops of the grants in `told`, by the points' names.
    pub async fn set_hops(
        &mut self,
        point: PointId,
        updates: &[HopUpdate],
        at: Instant,
        told: &[GrantId],
    ) -> Result<BTreeMap<GrantId, Vec<Hop>>, StoreError> {
        // A grant may be named more than once, by several changes of one plan: the last one counts.
        let updates: BTreeMap<GrantId, &HopUpdate> =
            updates.iter().map(|update| (update.grant, update)).collect();
        if updates.is_empty() {
            return Ok(BTreeMap::new());
        }
        let new: Vec<NewHop<'_>> = updates
            .values()
            .map(|update| NewHop {
                grant_id: update.grant.uuid(),
                state: update.state,
                rules: &update.rules,
                blocked_by: &update.blocked_by,
                obstacle: &update.obstacle,
            })
            .collect();
        let rows = sqlx::query_as!(
            Row,
            r#"WITH new AS MATERIALIZED (
                   SELECT * FROM jsonb_to_recordset($1)
                        AS n (grant_id uuid, state text, rules jsonb, blocked_by text, obstacle text)
               ), reading AS (
                   INSERT INTO point_readings AS r (point_id, read_at)
                   SELECT $2, $3 WHERE EXISTS (SELECT FROM new WHERE state = 'present')
                   ON CONFLICT (point_id) DO UPDATE SET read_at = greatest(r.read_at, excluded.read_at)
                   RETURNING point_id, read_at
               ), seen AS (
                   INSERT INTO grant_hops AS h (grant_id, point_id, state, rules, blocked_by, obstacle, read_at)
                   SELECT grant_id, $2, coalesce(state, 'unknown'), rules, blocked_by, obstacle,
                          CASE WHEN state <> 'unknown' OR rules IS NOT NULL THEN $3::timestamptz END
                   FROM new n
                   WHERE NOT EXISTS (
                       SELECT FROM grant_hops o
                       WHERE o.grant_id = n.grant_id AND o.point_id = $2 AND o.read_at IS NOT NULL
                         AND (o.state, o.blocked_by, o.obstacle)
                             IS NOT DISTINCT FROM ('present', n.blocked_by, n.obstacle)
                         AND n.state = 'present' AND coalesce(n.rules = o.rules, n.rules IS NULL))
                   ORDER BY grant_id
                   ON CONFLICT (grant_id, point_id) DO UPDATE
                   SET state = CASE WHEN excluded.state = 'unknown' AND excluded.grant_id = ANY ($4) THEN h.state
                                    ELSE excluded.state END,
                       rules = CASE WHEN excluded.state = 'absent' THEN NULL
                                    ELSE coalesce(excluded.rules, h.rules) END,
                       blocked_by = excluded.blocked_by, obstacle = excluded.obstacle,
                       read_at = coalesce(excluded.read_at, h.read_at)
                   RETURNING h.grant_id, h.point_id, h.state, h.rules, h.blocked_by, h.obstacle, h.read_at
               ), whole AS (
                   SELECT * FROM seen
                   UNION ALL
                   SELECT h.grant_id, h.point_id, h.state, h.rules, h.blocked_by, h.obstacle, h.read_at
                   FROM grant_hops h
                   WHERE h.grant_id = ANY ($5)
                     AND NOT EXISTS (SELECT FROM seen s WHERE s.grant_id = h.grant_id AND s.point_id = h.point_id)
               )
               SELECT w.grant_id AS "grant_id!", w.point_id AS "point_id!", p.ref, w.state AS "state!",
                      w.rules, w.blocked_by, w.obstacle,
                      CASE WHEN w.state = 'present' THEN greatest(w.read_at, r.read_at, here.read_at)
                           ELSE w.read_at END AS read_at
               FROM whole w JOIN points p ON p.id = w.point_id
                    LEFT JOIN point_readings r ON r.point_id = w.point_id
                    LEFT JOIN reading here ON here.point_id = w.point_id
               WHERE w.grant_id = ANY ($5)
               ORDER BY w.grant_id, p.ref"#,
            document(&new)?,
            point.uuid(),
            at,
            &updates
                .values()
                .filter(|update| update.state.is_none())
                .map(|update| update.grant.uuid())
                .collect::<Vec<_>>(),
            &told.iter().map(|grant| grant.uuid()).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        by_grant(rows)
    }

    /// Says of the hops of these grants where nobody has leased the point although it is due, that nobody looks.
    pub async fn say_unattended(&mut self, grants: &[GrantId], obstacle: &str) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = grants.iter().map(|id| id.uuid()).collect();
        sqlx::query!(
            "UPDATE grant_hops h SET obstacle = $2
             FROM points p
             WHERE h.grant_id = ANY ($1) AND p.id = h.point_id AND p.lease_until IS NULL",
            &ids,
            obstacle,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The hops of each grant, by the points' names.
    pub async fn hops_of(&mut self, grants: &[GrantId]) -> Result<BTreeMap<GrantId, Vec<Hop>>, StoreError> {
        hops(&mut *self.inner, grants).await
    }

    /// The points at which the grants have hops, by id.
    pub async fn points_of(&mut self, grants: &[GrantId]) -> Result<Vec<PointId>, StoreError> {
        let ids: Vec<Uuid> = grants.iter().map(|id| id.uuid()).collect();
        Ok(sqlx::query_scalar!(
            "SELECT DISTINCT point_id FROM grant_hops WHERE grant_id = ANY ($1) ORDER BY point_id",
            &ids,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(PointId::from_uuid)
        .collect())
    }

    /// Gives the live grants on the machines a hop at each point that is on the way now and was not before.
    pub(crate) async fn add_hops_on_the_way(&mut self, machines: &[String]) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO grant_hops (grant_id, point_id, state)
             SELECT g.id, mp.point_id, 'absent'
             FROM grants g JOIN machine_points mp ON mp.machine_id = g.machine_id
             WHERE g.machine_id = ANY ($1) AND g.status IN ('scheduled', 'opening', 'open')
               AND mp.opens
             ORDER BY g.id, mp.point_id
             ON CONFLICT DO NOTHING",
            machines,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

impl Store {
    /// The hops of each grant, by the points' names.
    pub async fn hops_of(&self, grants: &[GrantId]) -> Result<BTreeMap<GrantId, Vec<Hop>>, StoreError> {
        hops(&self.pool, grants).await
    }
}

/// A row of `grant_hops` with its point's name.
struct Row {
    grant_id: Uuid,
    point_id: Uuid,
    r#ref: String,
    state: String,
    rules: Option<Value>,
    blocked_by: Option<String>,
    obstacle: Option<String>,
    read_at: Option<Instant>,
}

async fn hops(
    executor: impl sqlx::PgExecutor<'_>,
    grants: &[GrantId],
) -> Result<BTreeMap<GrantId, Vec<Hop>>, StoreError> {
    if grants.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ids: Vec<Uuid> = grants.iter().map(|id| id.uuid()).collect();
    by_grant(
        sqlx::query_as!(
            Row,
            "SELECT h.grant_id, h.point_id, p.ref, h.state, h.rules, h.blocked_by, h.obstacle,
                    CASE WHEN h.state = 'present' THEN greatest(h.read_at, r.read_at) ELSE h.read_at END AS read_at
             FROM grant_hops h JOIN points p ON p.id = h.point_id
                  LEFT JOIN point_readings r ON r.point_id = h.point_id
             WHERE h.grant_id = ANY ($1)
             ORDER BY h.grant_id, p.ref",
            &ids,
        )
        .fetch_all(executor)
        .await?,
    )
}

fn by_grant(rows: Vec<Row>) -> Result<BTreeMap<GrantId, Vec<Hop>>, StoreError> {
    let mut hops: BTreeMap<GrantId, Vec<Hop>> = BTreeMap::new();
    for row in rows {
        hops.entry(GrantId::from_uuid(row.grant_id))
            .or_default()
            .push(Hop {
                point: PointId::from_uuid(row.point_id),
                point_ref: decode::text("points", "ref", &row.r#ref)?,
                state: decode::word("grant_hops", "state", row.state)?,
                rules: row.rules,
                blocked_by: row.blocked_by,
                obstacle: row.obstacle,
                read_at: row.read_at,
            });
    }
    Ok(hops)
}
