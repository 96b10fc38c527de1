//! The journal: every write to a cloud, first as an intent, then with its outcome.

use std::time::Duration;

use postern_core::{
    audit::Outcome,
    enforcer::{Change, Recalled, Verb},
    id::{ChangeId, GrantId, PassId, PointId, PolicyId},
    time::Instant,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{Conflict, Lease, Store, StoreError, Tx, batch::document, decode};

/// A pass that means to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPass {
    /// Its id.
    pub id: PassId,
    /// The state that it found.
    pub snapshot: Value,
}

/// A change in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its id.
    pub id: ChangeId,
    /// The pass that intended it.
    pub pass: PassId,
    /// The point.
    pub point: PointId,
    /// The generation of the pass's lease.
    pub generation: i64,
    /// What it does.
    pub verb: Verb,
    /// The native id of the resource.
    pub target: String,
    /// What happens, for people.
    pub summary: String,
    /// The grants that it is for.
    pub grants: Vec<GrantId>,
    /// The policies that it is for.
    pub policies: Vec<PolicyId>,
    /// What stood there.
    pub before: Option<Value>,
    /// What was to stand there.
    pub after: Option<Value>,
    /// The call, in the enforcer's own encoding.
    pub operation: Value,
    /// When it was intended.
    pub intended_at: Instant,
    /// How it went, once that is known.
    pub outcome: Option<Outcome>,
    /// What the cloud or the next look said.
    pub detail: Option<Value>,
    /// When the outcome was written.
    pub settled_at: Option<Instant>,
    /// For how long from now on the call may still take effect, where it gave no clear answer; none until a look
    /// has found the change without an outcome. See [`Tx::leave_undecided`].
    pub doubted_for: Option<Duration>,
    /// Whether the audit log tells of it; see [`Tx::keep_quiet`].
    pub told: bool,
}

/// The outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledChange {
    /// Which.
    pub id: ChangeId,
    /// `Succeeded`, `Failed` or `Unknown`.
    pub outcome: Outcome,
    /// What the cloud or the next look said.
    pub detail: Value,
}

#[derive(Serialize)]
struct NewEntry<'a> {
    id: Uuid,
    verb: Verb,
    target: &'a str,
    summary: &'a str,
    grants: Vec<Uuid>,
    policies: Vec<Uuid>,
    before: &'a Option<Value>,
    after: &'a Option<Value>,
    operation: &'a Value,
}

#[derive(Serialize)]
struct NewOutcome<'a> {
    id: Uuid,
    outcome: Outcome,
    detail: &'a Value,
}

/// A row of `journal`.
#[derive(Deserialize)]
pub(crate) struct Row {
    id: Uuid,
    pass_id: Uuid,
    point_id: Uuid,
    generation: i64,
    verb: String,
    target: String,
    summary: String,
    grants: Vec<Uuid>,
    policies: Vec<Uuid>,
    before: Option<Value>,
    after: Option<Value>,
    operation: Value,
    intended_at: Instant,
    outcome: Option<String>,
    detail: Option<Value>,
    settled_at: Option<Instant>,
    /// In seconds.
    doubted_for: Option<f64>,
    told: bool,
}

impl TryFrom<Row> for JournalEntry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: ChangeId::from_uuid(row.id),
            pass: PassId::from_uuid(row.pass_id),
            point: PointId::from_uuid(row.point_id),
            generation: row.generation,
            verb: decode::word("journal", "verb", row.verb)?,
            target: row.target,
            summary: row.summary,
            grants: row.grants.into_iter().map(GrantId::from_uuid).collect(),
            policies: row.policies.into_iter().map(PolicyId::from_uuid).collect(),
            before: row.before,
            after: row.after,
            operation: row.operation,
            intended_at: row.intended_at,
            outcome: row
                .outcome
                .map(|outcome| decode::word("journal", "outcome", outcome))
                .transpose()?,
            detail: row.detail,
            settled_at: row.settled_at,
            // What is over is below zero.
            doubted_for: row
                .doubted_for
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            told: row.told,
        })
    }
}

impl Tx {
    /// Writes what a pass is about to do, in this order, after what it intended before; and the pass itself, the
    /// first time. [`StoreError::LeaseLost`] unless the lease is ours, and stays so until the transaction commits:
    /// nobody can take the point over meanwhile, though others can mark it.
    pub async fn intend(
        &mut self,
        pass: &NewPass,
        lease: &Lease,
        changes: &[(ChangeId, &Change)],
        at: Instant,
    ) -> Result<(), StoreError> {
        let new: Vec<NewEntry<'_>> = changes
            .iter()
            .map(|(id, change)| NewEntry {
                id: id.uuid(),
                verb: change.verb,
                target: &change.target,
                summary: &change.summary,
                grants: change.grants.iter().map(|id| id.uuid()).collect(),
                policies: change.policies.iter().map(|id| id.uuid()).collect(),
                before: &change.before,
                after: &change.after,
                operation: &change.operation,
            })
            .collect();
        let intended = sqlx::query!(
            "WITH held AS MATERIALIZED (
                 SELECT id FROM points WHERE id = $3 AND generation = $4 AND lease_until > clock_timestamp()
                 FOR KEY SHARE
             ), begun AS (
                 INSERT INTO passes (id, point_id, generation, started_at, snapshot)
                 SELECT $2, held.id, $4, $5, $6 FROM held
                 ON CONFLICT (id) DO NOTHING
             )
             INSERT INTO journal (id, pass_id, point_id, generation, seq, verb, target, summary, grants, policies,
                 before, after, operation, intended_at)
             SELECT n.id, $2, held.id, $4,
                 (SELECT coalesce(max(seq), 0) FROM journal WHERE pass_id = $2) + n.nth::integer,
                 n.verb, n.target, n.summary, n.grants, n.policies, n.before, n.after,
                 -- SQL's NULL is how a record shows JSON's.
                 coalesce(n.operation, 'null'), $5
             FROM held CROSS JOIN ROWS FROM (jsonb_to_recordset($1) AS (id uuid, verb text, target text,
                     summary text, grants uuid[], policies uuid[], before jsonb, after jsonb, operation jsonb))
                 WITH ORDINALITY
                 AS n (id, verb, target, summary, grants, policies, before, after, operation, nth)",
            document(&new)?,
            pass.id.uuid(),
            lease.point.uuid(),
            lease.generation,
            at,
            document(&pass.snapshot)?,
        )
        .execute(&mut *self.inner)
        .await?;
        if usize::try_from(intended.rows_affected()) == Ok(changes.len()) {
            Ok(())
        } else {
            Err(StoreError::LeaseLost {
                point: lease.point_ref.to_string(),
            })
        }
    }

    /// The changes at the point that were intended and have no outcome, in the order of their ids.
    pub async fn outstanding(&mut self, point: PointId) -> Result<Vec<JournalEntry>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT id, pass_id, point_id, generation, verb, target, summary, grants, policies, before, after,
                 operation, intended_at, outcome, detail, settled_at,
                 extract(epoch FROM doubted_until - clock_timestamp())::double precision AS doubted_for, told
             FROM journal WHERE point_id = $1 AND outcome IS NULL ORDER BY id",
            point.uuid(),
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(JournalEntry::try_from)
        .collect()
    }

    /// The changes at the point whose success was recorded no longer ago than `within`, in the order in which they
    /// were made. By the database's clock, which all replicas share, at one instant: what was recorded together has
    /// one age.
    pub async fn recorded_lately(
        &mut self,
        point: PointId,
        within: Duration,
    ) -> Result<Vec<Recalled>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT before, operation, coalesce(detail, 'null') AS "answer!",
                   extract(epoch FROM statement_timestamp() - recorded_at)::double precision AS "age!"
               FROM journal
               WHERE point_id = $1 AND outcome = 'succeeded'
                   AND recorded_at > statement_timestamp() - make_interval(secs => $2)
               ORDER BY recorded_at, pass_id, seq"#,
            point.uuid(),
            within.as_secs_f64(),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Recalled {
                before: row.before,
                operation: row.operation,
                answer: row.answer,
                age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            })
            .collect())
    }

    /// Keeps of changes without an outcome that their calls may still take effect within `within` from now; what was
    /// kept of one before stays. By the database's clock.
    pub async fn leave_undecided(
        &mut self,
        changes: &[ChangeId],
        within: Duration,
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = changes.iter().map(|change| change.uuid()).collect();
        sqlx::query!(
            "UPDATE journal SET doubted_until = clock_timestamp() + make_interval(secs => $2)
             WHERE id = ANY($1) AND outcome IS NULL AND doubted_until IS NULL",
            &ids,
            within.as_secs_f64(),
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes of changes that the audit log does not tell of them yet: their outcome will show whether it has to.
    pub async fn keep_quiet(&mut self, changes: &[ChangeId]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = changes.iter().map(|change| change.uuid()).collect();
        sqlx::query!(
            "UPDATE journal SET told = false WHERE id = ANY($1) AND outcome IS NULL",
            &ids
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Writes outcomes. [`Conflict::Settled`] when any of the changes has one already, or does not exist.
    pub async fn settle(&mut self, changes: &[SettledChange], at: Instant) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let new: Vec<NewOutcome<'_>> = changes
            .iter()
            .map(|change| NewOutcome {
                id: change.id.uuid(),
                outcome: change.outcome,
                detail: &change.detail,
            })
            .collect();
        let settled = sqlx::query!(
            "UPDATE journal j SET outcome = n.outcome, detail = n.detail, settled_at = $2, recorded_at = now()
             FROM jsonb_to_recordset($1) AS n (id uuid, outcome text, detail jsonb)
             WHERE j.id = n.id AND j.outcome IS NULL",
            document(&new)?,
            at,
        )
        .execute(&mut *self.inner)
        .await?;
        if usize::try_from(settled.rows_affected()) == Ok(changes.len()) {
            Ok(())
        } else {
            Err(Conflict::Settled.into())
        }
    }
}

impl Store {
    /// The changes that concern a grant, in the order of their ids.
    pub async fn journal_of_grant(&self, grant: GrantId) -> Result<Vec<JournalEntry>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT id, pass_id, point_id, generation, verb, target, summary, grants, policies, before, after,
                 operation, intended_at, outcome, detail, settled_at,
                 extract(epoch FROM doubted_until - clock_timestamp())::double precision AS doubted_for, told
             FROM journal WHERE grants @> ARRAY[$1::uuid] ORDER BY id",
            grant.uuid(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(JournalEntry::try_from)
        .collect()
    }
}
