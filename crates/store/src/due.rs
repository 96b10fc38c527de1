//! The due queue: which enforcement points to look at, when, and whose turn it is.

use std::{collections::BTreeMap, time::Duration};

use postern_core::{
    id::PointId,
    machine::{Account, Cloud},
    point::PointRef,
    time::Instant,
};
use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::{Store, StoreError, Tx, decode};

const CHANNEL: &str = "postern_due";
const ALL_CLOUDS: [Cloud; 2] = [Cloud::Azure, Cloud::Aws];

/// What a look is for; the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A freeze closed it: before everything else.
    Freeze,
    /// Something must be closed.
    Closing,
    /// Somebody waits for an opening or for a lockdown.
    Opening,
    /// To see whether all is well.
    Look,
}

impl Urgency {
    /// As the database has it; none else is there.
    const fn of(number: i16) -> Self {
        match number {
            ..=-1 => Self::Freeze,
            0 => Self::Closing,
            1 => Self::Opening,
            2.. => Self::Look,
        }
    }

    const fn number(self) -> i16 {
        match self {
            Self::Freeze => -1,
            Self::Closing => 0,
            Self::Opening => 1,
            Self::Look => 2,
        }
    }
}

/// A point that is ours for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The point.
    pub point: PointId,
    /// Its native name.
    pub point_ref: PointRef,
    /// Counts the leases of the point; what is written under an older one is refused.
    pub generation: i64,
    /// How often the point had been marked when it was leased.
    pub wanted: i64,
    /// Failed passes in a row.
    pub attempts: u32,
    /// What it was due for.
    pub urgency: Urgency,
    /// Whether the lease before it ran out: its owner may have died half-way.
    pub taken_over: bool,
    /// How long it lasts from the moment of leasing, in the database's time. Count it from before the call.
    pub valid_for: Duration,
}

/// When to look at the point again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Then.
    At {
        /// When.
        at: Instant,
        /// What for.
        urgency: Urgency,
    },
    /// When it is marked.
    Never,
    /// Then, because this pass failed; counts as one more attempt.
    Retry {
        /// When.
        at: Instant,
        /// What for.
        urgency: Urgency,
        /// What went wrong.
        error: String,
    },
}

/// Who leases, and which points.
#[derive(Debug, Clone, Copy)]
pub struct Lessee<'a> {
    /// The name of the process among the replicas.
    pub owner: &'a str,
    /// Points of these clouds only.
    pub clouds: &'a [Cloud],
    /// But none of these accounts.
    pub except: &'a [Account],
    /// How long a lease lasts.
    pub lease_for: Duration,
    /// How long after a lease ran out nobody else takes the point over: no call that its owner had under way can
    /// take effect any more then. That holds for one's own lost leases too.
    pub grace: Duration,
}

impl Lessee<'_> {
    fn clouds(&self) -> Vec<String> {
        self.clouds
            .iter()
            .map(|cloud| cloud.as_str().to_owned())
            .collect()
    }

    fn except(&self) -> Vec<String> {
        self.except.iter().map(Account::to_string).collect()
    }
}

/// A point to mark due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub point: PointId,
    /// From when on.
    pub at: Instant,
    /// What for.
    pub urgency: Urgency,
}

/// Hears when points are marked due.
#[derive(Debug)]
pub struct DueListener {
    inner: PgListener,
}

impl DueListener {
    /// Waits for the next mark by anybody. A hint only: marks made while the connection was down are not heard.
    pub async fn heard(&mut self) -> Result<(), StoreError> {
        self.inner.recv().await?;
        // Marks that piled up meanwhile need one look, not one each.
        while self.inner.next_buffered().is_some() {}
        Ok(())
    }
}

/// A point that was just leased.
struct Leased {
    id: uuid::Uuid,
    r#ref: String,
    generation: i64,
    wanted: i64,
    attempts: i32,
    urgency: i16,
    due_at: Option<Instant>,
    taken_over: bool,
}

impl Leased {
    fn lease(self, valid_for: Duration) -> Result<Lease, StoreError> {
        Ok(Lease {
            point: PointId::from_uuid(self.id),
            point_ref: decode::text("points", "ref", &self.r#ref)?,
            generation: self.generation,
            wanted: self.wanted,
            attempts: decode::convert("points", "attempts", self.attempts)?,
            urgency: Urgency::of(self.urgency),
            taken_over: self.taken_over,
            valid_for,
        })
    }
}

/// The statement that leases, with its row lock.
///
/// The candidates are named a second time as an array. The plan serves every limit, and so is made for a tenth of all points:
/// by the join alone each lease would read the whole table.
macro_rules! leased {
    ($lock:literal, $lessee:expr, $limit:expr, $now:expr) => {
        sqlx::query_as!(
            Leased,
            r#"WITH candidate AS MATERIALIZED (
                   SELECT id, lease_until IS NOT NULL AS taken_over
                   FROM points
                   WHERE due_at <= $1 AND cloud = ANY ($6) AND account <> ALL ($7)
                     AND (lease_until IS NULL OR lease_until + make_interval(secs => $2) < clock_timestamp())
                   ORDER BY urgency, due_at, lot
                   LIMIT $3
                   "# + $lock + r#"
               )
               UPDATE points p
               SET lease_owner = $4,
                   lease_until = clock_timestamp() + make_interval(secs => $5),
                   generation = p.generation + 1
               FROM candidate c
               WHERE p.id = c.id AND p.id = ANY (ARRAY(SELECT id FROM candidate))
               RETURNING p.id, p.ref, p.generation, p.wanted, p.attempts, p.urgency, p.due_at,
                         c.taken_over AS "taken_over!""#,
            $now,
            $lessee.grace.as_secs_f64(),
            i64::from($limit),
            $lessee.owner,
            $lessee.lease_for.as_secs_f64(),
            &$lessee.clouds(),
            &$lessee.except(),
        )
    };
}

impl Store {
    /// Starts to listen, on a connection of its own.
    pub async fn due_listener(&self) -> Result<DueListener, StoreError> {
        let mut inner = PgListener::connect_with(&self.pool).await?;
        inner.listen(CHANNEL).await?;
        Ok(DueListener { inner })
    }

    /// As [`Tx::lease`], of every cloud, in a transaction of its own.
    pub async fn lease(
        &self,
        owner: &str,
        limit: u32,
        lease_for: Duration,
        grace: Duration,
        now: Instant,
    ) -> Result<Vec<Lease>, StoreError> {
        let lessee = Lessee {
            owner,
            clouds: &ALL_CLOUDS,
            except: &[],
            lease_for,
            grace,
        };
        let mut tx = self.begin().await?;
        let leases = tx.lease(&lessee, limit, now).await?;
        tx.commit().await?;
        Ok(leases)
    }

    /// Leases the first point that is due, also while transactions that mark it due hold its row: waits for its turn
    /// among them. [`Tx::lease`] passes such a point by, and would do so for as long as it is marked without a
    /// pause.
    pub async fn lease_contended(
        &self,
        lessee: &Lessee<'_>,
        now: Instant,
    ) -> Result<Option<Lease>, StoreError> {
        leased!("FOR UPDATE", lessee, 1_u32, now)
            .fetch_optional(&self.pool)
            .await?
            .map(|row| row.lease(lessee.lease_for))
            .transpose()
    }

    /// Makes a lease that has not run out last for `lease_for` from now.
    pub async fn renew(&self, lease: &Lease, lease_for: Duration) -> Result<(), StoreError> {
        let renewed = sqlx::query!(
            "UPDATE points SET lease_until = clock_timestamp() + make_interval(secs => $3)
             WHERE id = $1 AND generation = $2 AND lease_until > clock_timestamp()",
            lease.point.uuid(),
            lease.generation,
            lease_for.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?
        .rows_affected();
        still_ours(lease, i64::try_from(renewed).unwrap_or(0))
    }

    /// When this lessee may next find something: the earliest due time of the points that nobody has leased, or the
    /// end of a lease and its grace. In the past, when something is due already.
    pub async fn next_due(&self, lessee: &Lessee<'_>) -> Result<Option<Instant>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT LEAST(
                 (SELECT min(due_at) FROM points
                  WHERE due_at IS NOT NULL AND lease_until IS NULL AND cloud = ANY ($2)
                    AND account <> ALL ($3)),
                 (SELECT min(GREATEST(due_at, lease_until + make_interval(secs => $1)))
                  FROM points WHERE due_at IS NOT NULL AND lease_until IS NOT NULL AND cloud = ANY ($2)
                    AND account <> ALL ($3))
             )",
            lessee.grace.as_secs_f64(),
            &lessee.clouds(),
            &lessee.except(),
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

impl Tx {
    /// Leases up to `limit` points that are due at `now`, what a freeze closed first, then
    /// closings, then openings, then by due time, and by lot among those due at the same instant. The leases are ours
    /// once the transaction commits.
    pub async fn lease(
        &mut self,
        lessee: &Lessee<'_>,
        limit: u32,
        now: Instant,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut rows = leased!("FOR UPDATE SKIP LOCKED", lessee, limit, now)
            .fetch_all(&mut *self.inner)
            .await?;
        rows.sort_by_key(|row| (row.urgency, row.due_at));
        rows.into_iter().map(|row| row.lease(lessee.lease_for)).collect()
    }

    /// Marks the points due from `at` on, or earlier where they were. A pass that is under way over one of them
    /// leaves it due. [`StoreError::NotFound`] when there is no such point.
    pub async fn mark_due(
        &mut self,
        points: &[PointId],
        at: Instant,
        urgency: Urgency,
    ) -> Result<(), StoreError> {
        let due: Vec<Due> = points
            .iter()
            .map(|point| Due {
                point: *point,
                at,
                urgency,
            })
            .collect();
        self.mark_each_due(&due).await
    }

    /// As [`Tx::mark_due`], each point from a time of its own.
    pub async fn mark_each_due(&mut self, due: &[Due]) -> Result<(), StoreError> {
        let marks = Marks::of(due, None);
        if marks.points.is_empty() {
            return Ok(());
        }
        let marked = sqlx::query_scalar!(
            r#"WITH locked AS MATERIALIZED (
                   SELECT id FROM points WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
               ), marked AS (
                   UPDATE points p
                   SET due_at = LEAST(p.due_at, m.at), urgency = CASE
                           WHEN p.due_at IS NULL THEN m.urgency
                           ELSE LEAST(p.urgency, m.urgency)
                       END, wanted = p.wanted + 1
                   FROM locked
                   JOIN unnest($1::uuid[], $2::timestamptz[], $3::smallint[]) AS m (id, at, urgency) USING (id)
                   WHERE p.id = locked.id
                   RETURNING p.id
               ), told AS MATERIALIZED (SELECT pg_notify($4, ''))
               SELECT (SELECT count(*) FROM marked) AS "marked!" FROM told"#,
            &marks.points,
            &marks.ats,
            &marks.urgencies,
            CHANNEL,
        )
        .fetch_one(&mut *self.inner)
        .await?;
        marks.all_there(marked)
    }

    /// Gives the point back, to be looked at `next`; or at once, if it was marked since it was leased. Marks
    /// `others` in the same ordered step. A lease that ran out counts as ours as long as nobody took the point
    /// over.
    pub async fn finish(&mut self, lease: &Lease, next: Next, others: &[Due]) -> Result<(), StoreError> {
        let (at, urgency, error) = match next {
            Next::At { at, urgency } => (Some(at), urgency, None),
            Next::Never => (None, Urgency::Look, None),
            Next::Retry { at, urgency, error } => (Some(at), urgency, Some(crate::batch::clean(&error))),
        };
        let own = others.iter().filter(|due| due.point == lease.point);
        let at = own.map(|due| due.at).chain(at).min();
        let marks = Marks::of(others, Some(lease.point));
        let finished = sqlx::query!(
            r#"WITH locked AS MATERIALIZED (
                   SELECT id FROM points WHERE id = $1 OR id = ANY ($7::uuid[]) ORDER BY id FOR NO KEY UPDATE
               ), finished AS (
                   UPDATE points p
                   SET due_at = CASE WHEN p.wanted = $3 THEN $4 ELSE LEAST(p.due_at, $4) END,
                       urgency = CASE WHEN p.wanted = $3 THEN $5 ELSE LEAST(p.urgency, $5) END,
                       attempts = CASE WHEN $6::text IS NULL THEN 0 ELSE p.attempts + 1 END,
                       last_error = $6, lease_owner = NULL, lease_until = NULL
                   FROM locked
                   WHERE p.id = locked.id AND p.id = $1 AND p.generation = $2 AND p.lease_owner IS NOT NULL
                   RETURNING p.wanted <> $3 AS marked
               ), marked AS (
                   UPDATE points p
                   SET due_at = LEAST(p.due_at, m.at), urgency = CASE
                           WHEN p.due_at IS NULL THEN m.urgency
                           ELSE LEAST(p.urgency, m.urgency)
                       END, wanted = p.wanted + 1
                   FROM locked
                   JOIN unnest($7::uuid[], $8::timestamptz[], $9::smallint[]) AS m (id, at, urgency) USING (id)
                   WHERE p.id = locked.id
                   RETURNING p.id
               ), told AS MATERIALIZED (
                   SELECT pg_notify($10, '') WHERE EXISTS (SELECT FROM marked)
                       OR EXISTS (SELECT FROM finished f WHERE f.marked)
               )
               SELECT (SELECT count(*) FROM finished) AS "finished!", (SELECT count(*) FROM marked) AS "marked!",
                      (SELECT count(*) FROM told) AS "told!""#,
            lease.point.uuid(),
            lease.generation,
            lease.wanted,
            at,
            urgency.number(),
            error,
            &marks.points,
            &marks.ats,
            &marks.urgencies,
            CHANNEL,
        )
        .fetch_one(&mut *self.inner)
        .await?;
        still_ours(lease, finished.finished)?;
        marks.all_there(finished.marked)
    }

    /// Marks due, from `now` on, whatever should be due and is not: points that hold an unfinished grant, an
    /// intent without an outcome or a displaced rule, or that keep a machine locked down. Finds nothing unless
    /// something else is broken; says how many it found.
    pub async fn due_points_backstop(&mut self, now: Instant) -> Result<usize, StoreError> {
        let forgotten = sqlx::query_scalar!(
            r#"SELECT p.id FROM points p
               WHERE p.due_at IS NULL AND p.lease_until IS NULL AND (
                   EXISTS (SELECT FROM grant_hops h JOIN grants g ON g.id = h.grant_id
                           WHERE h.point_id = p.id AND g.status NOT IN ('scheduled', 'closed'))
                   OR EXISTS (SELECT FROM journal j WHERE j.point_id = p.id AND j.outcome IS NULL)
                   OR EXISTS (SELECT FROM displaced d WHERE d.point_id = p.id AND d.settled_at IS NULL)
                   OR EXISTS (SELECT FROM machine_points mp JOIN machines m ON m.id = mp.machine_id
                              WHERE mp.point_id = p.id AND mp.locks AND m.policy_id IS NOT NULL
                                AND m.gone_at IS NULL)
                   OR (p.kind = 'aws_instance' AND EXISTS (
                       SELECT FROM machine_points mp
                       JOIN machines m ON m.id = mp.machine_id JOIN jit_policies y ON y.id = m.policy_id
                       WHERE mp.point_id = p.id AND m.gone_at IS NULL
                         AND y.document ->> 'shared_groups' = 'isolate'))
               )
               ORDER BY p.id"#,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let forgotten: Vec<PointId> = forgotten.into_iter().map(PointId::from_uuid).collect();
        self.mark_due(&forgotten, now, Urgency::Closing).await?;
        Ok(forgotten.len())
    }
}

fn still_ours(lease: &Lease, rows: i64) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost {
            point: lease.point_ref.to_string(),
        })
    }
}

/// Points to mark, each once, column by column.
struct Marks {
    points: Vec<Uuid>,
    ats: Vec<Instant>,
    urgencies: Vec<i16>,
}

impl Marks {
    fn of(due: &[Due], without: Option<PointId>) -> Self {
        let mut marks: BTreeMap<PointId, (Instant, Urgency)> = BTreeMap::new();
        for Due { point, at, urgency } in due.iter().filter(|due| Some(due.point) != without) {
            let mark = marks.entry(*point).or_insert((*at, *urgency));
            *mark = (mark.0.min(*at), mark.1.min(*urgency));
        }
        let points = marks.keys().map(|point| point.uuid()).collect();
        let (ats, urgencies) = marks
            .values()
            .map(|(at, urgency)| (*at, urgency.number()))
            .unzip();
        Self {
            points,
            ats,
            urgencies,
        }
    }

    fn all_there(&self, marked: i64) -> Result<(), StoreError> {
        if usize::try_from(marked) == Ok(self.points.len()) {
            Ok(())
        } else {
            Err(StoreError::not_found(
                "enforcement point",
                format!("one of {}", self.points.len()),
            ))
        }
    }
}
