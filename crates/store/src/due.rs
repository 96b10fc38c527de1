//! The due queue: which enforcement points to look at, when, and whose turn it is.

use std::{collections::BTreeMap, time::Duration};

use postern_core::{id::PointId, point::PointRef, time::Instant};
use sqlx::postgres::PgListener;

use crate::{Store, StoreError, Tx, decode};

const CHANNEL: &str = "postern_due";

/// What a look is for; the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Something must be closed.
    Closing,
    /// Somebody waits for an opening or for a lockdown.
    Opening,
    /// To see whether all is well.
    Look,
}

impl Urgency {
    const fn number(self) -> i16 {
        match self {
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
            taken_over: self.taken_over,
            valid_for,
        })
    }
}

/// The statement that leases, with its row lock.
macro_rules! leased {
    ($lock:literal, $owner:expr, $limit:expr, $lease_for:expr, $grace:expr, $now:expr) => {
        sqlx::query_as!(
            Leased,
            r#"WITH candidate AS MATERIALIZED (
                   SELECT id, lease_until IS NOT NULL AS taken_over
                   FROM points
                   WHERE due_at <= $1
                     AND (lease_until IS NULL OR lease_until + make_interval(secs => $2) < clock_timestamp())
                   ORDER BY urgency, due_at
                   LIMIT $3
                   "# + $lock + r#"
               )
               UPDATE points p
               SET lease_owner = $4,
                   lease_until = clock_timestamp() + make_interval(secs => $5),
                   generation = p.generation + 1
               FROM candidate c
               WHERE p.id = c.id
               RETURNING p.id, p.ref, p.generation, p.wanted, p.attempts, p.urgency, p.due_at,
                         c.taken_over AS "taken_over!""#,
            $now,
            $grace.as_secs_f64(),
            i64::from($limit),
            $owner,
            $lease_for.as_secs_f64(),
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

    /// Leases up to `limit` points that are due at `now`, closings first, then openings, then by due time.
    ///
    /// A point whose lease ran out is taken over when `grace` has passed since, so that no call that its owner
    /// had under way can still take effect. That holds for one's own lost leases too.
    pub async fn lease(
        &self,
        owner: &str,
        limit: u32,
        lease_for: Duration,
        grace: Duration,
        now: Instant,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut rows = leased!("FOR UPDATE SKIP LOCKED", owner, limit, lease_for, grace, now)
            .fetch_all(&self.pool)
            .await?;
        rows.sort_by_key(|row| (row.urgency, row.due_at));
        rows.into_iter().map(|row| row.lease(lease_for)).collect()
    }

    /// Leases the first point that is due, also while transactions that mark it due hold its row: waits for its turn
    /// among them. [`Store::lease`] passes such a point by, and would do so for as long as it is marked without a
    /// pause.
    pub async fn lease_contended(
        &self,
        owner: &str,
        lease_for: Duration,
        grace: Duration,
        now: Instant,
    ) -> Result<Option<Lease>, StoreError> {
        leased!("FOR UPDATE", owner, 1_u32, lease_for, grace, now)
            .fetch_optional(&self.pool)
            .await?
            .map(|row| row.lease(lease_for))
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
        still_ours(lease, renewed)
    }

    /// When [`Store::lease`] with this `grace` may next find something: the earliest due time of the points that
    /// nobody has leased, or the end of a lease and its grace. In the past, when something is due already.
    pub async fn next_due(&self, grace: Duration) -> Result<Option<Instant>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT LEAST(
                 (SELECT min(due_at) FROM points WHERE due_at IS NOT NULL AND lease_until IS NULL),
                 (SELECT min(GREATEST(due_at, lease_until + make_interval(secs => $1)))
                  FROM points WHERE due_at IS NOT NULL AND lease_until IS NOT NULL)
             )",
            grace.as_secs_f64(),
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

impl Tx {
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
        let mut marks: BTreeMap<PointId, (Instant, Urgency)> = BTreeMap::new();
        for Due { point, at, urgency } in due {
            let mark = marks.entry(*point).or_insert((*at, *urgency));
            *mark = (mark.0.min(*at), mark.1.min(*urgency));
        }
        if marks.is_empty() {
            return Ok(());
        }
        let points: Vec<_> = marks.keys().map(|point| point.uuid()).collect();
        let (ats, urgencies): (Vec<_>, Vec<_>) = marks
            .values()
            .map(|(at, urgency)| (*at, urgency.number()))
            .unzip();
        let marked = sqlx::query!(
            "WITH locked AS MATERIALIZED (
                 SELECT id FROM points WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
             )
             UPDATE points p
             SET due_at = LEAST(p.due_at, m.at), urgency = CASE
                     WHEN p.due_at IS NULL THEN m.urgency
                     ELSE LEAST(p.urgency, m.urgency)
                 END, wanted = p.wanted + 1
             FROM locked JOIN unnest($1::uuid[], $2::timestamptz[], $3::smallint[]) AS m (id, at, urgency) USING (id)
             WHERE p.id = locked.id",
            &points,
            &ats,
            &urgencies,
        )
        .execute(&mut *self.inner)
        .await?
        .rows_affected();
        if usize::try_from(marked) != Ok(points.len()) {
            return Err(StoreError::not_found(
                "enforcement point",
                format!("one of {}", points.len()),
            ));
        }
        self.notify().await
    }

    /// Wakes the listeners, once the transaction commits. Postgres sends equal notifications of one transaction
    /// once.
    async fn notify(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_notify($1, '')", CHANNEL)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Makes sure that the lease is ours until the transaction commits: nobody can take the point over meanwhile.
    ///
    /// The lock collides only with leasing, not with marking, so it may be taken at any place in a transaction.
    pub async fn hold(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let held = sqlx::query_scalar!(
            "SELECT id FROM points WHERE id = $1 AND generation = $2 AND lease_until > clock_timestamp()
             FOR KEY SHARE",
            lease.point.uuid(),
            lease.generation,
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        still_ours(lease, u64::from(held.is_some()))
    }

    /// Gives the point back, to be looked at `next`; or at once, if it was marked since it was leased. Marks
    /// `others` in the same ordered step. A lease that ran out counts as ours as long as nobody took the point
    /// over.
    pub async fn finish(&mut self, lease: &Lease, next: Next, others: &[Due]) -> Result<(), StoreError> {
        let mut points: Vec<_> = others.iter().map(|due| due.point.uuid()).collect();
        points.push(lease.point.uuid());
        sqlx::query_scalar!(
            "SELECT id FROM points WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE",
            &points,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let (at, urgency, error) = match next {
            Next::At { at, urgency } => (Some(at), urgency, None),
            Next::Never => (None, Urgency::Look, None),
            Next::Retry { at, urgency, error } => (Some(at), urgency, Some(crate::batch::clean(&error))),
        };
        let finished = sqlx::query!(
            r#"UPDATE points
               SET due_at = CASE WHEN wanted = $3 THEN $4 ELSE LEAST(due_at, $4) END,
                   urgency = CASE WHEN wanted = $3 THEN $5 ELSE LEAST(urgency, $5) END,
                   attempts = CASE WHEN $6::text IS NULL THEN 0 ELSE attempts + 1 END,
                   last_error = $6, lease_owner = NULL, lease_until = NULL
               WHERE id = $1 AND generation = $2 AND lease_owner IS NOT NULL
               RETURNING wanted <> $3 AS "marked!""#,
            lease.point.uuid(),
            lease.generation,
            lease.wanted,
            at,
            urgency.number(),
            error,
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        still_ours(lease, u64::from(finished.is_some()))?;
        if finished.is_some_and(|row| row.marked) {
            self.notify().await?;
        }
        self.mark_each_due(others).await
    }

    /// Marks due, from `now` on, whatever should be due and is not: points that hold an unfinished grant, an
    /// intent without an outcome, or a displaced rule that nothing guards any more. Finds nothing unless
    /// something else is broken; says how many it found.
    pub async fn due_points_backstop(&mut self, now: Instant) -> Result<usize, StoreError> {
        let forgotten = sqlx::query_scalar!(
            r#"SELECT p.id FROM points p
               WHERE p.due_at IS NULL AND p.lease_until IS NULL AND (
                   EXISTS (SELECT FROM grant_hops h JOIN grants g ON g.id = h.grant_id
                           WHERE h.point_id = p.id AND g.status <> 'closed')
                   OR EXISTS (SELECT FROM journal j WHERE j.point_id = p.id AND j.outcome IS NULL)
                   OR EXISTS (SELECT FROM displaced d WHERE d.point_id = p.id AND d.settled_at IS NULL)
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

fn still_ours(lease: &Lease, rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost {
            point: lease.point_ref.to_string(),
        })
    }
}
