//! When role assignments were last used, as the audit log says.
//!
//! Every event of a year may have to be read for it. That is done in steps, the newest first, so that no statement runs for
//! longer than one may, however many events there are, and only until every assignment was found.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    access_review::LastUse,
    id::{AssignmentId, EventId},
    time::Instant,
};

use crate::{StoreError, Tx, decode};

/// How many events a statement reads: less than a second of work.
const STEP: i64 = 100_000;

impl Tx {
    /// The last use of each of these role assignments since `since`, of those that were used; see [`LastUse`] for what
    /// counts.
    pub async fn last_uses(
        &mut self,
        assignments: &[AssignmentId],
        since: Instant,
    ) -> Result<BTreeMap<AssignmentId, LastUse>, StoreError> {
        self.last_uses_by(assignments, since, STEP).await
    }

    /// The same, so many events at a time.
    pub(crate) async fn last_uses_by(
        &mut self,
        assignments: &[AssignmentId],
        since: Instant,
        step: i64,
    ) -> Result<BTreeMap<AssignmentId, LastUse>, StoreError> {
        // Numbers rise with time, but for what was written side by side: one step more is read for that.
        let first = sqlx::query_scalar!(
            "SELECT seq FROM audit_events WHERE at >= $1 ORDER BY at, seq LIMIT 1",
            since
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let last = sqlx::query_scalar!("SELECT max(seq) FROM audit_events")
            .fetch_one(&mut *self.inner)
            .await?;
        let (Some(first), Some(mut upto)) = (first, last) else {
            return Ok(BTreeMap::new());
        };
        let mut wanted: BTreeSet<AssignmentId> = assignments.iter().copied().collect();
        let mut found = BTreeMap::new();
        while !wanted.is_empty() && upto > first - step {
            let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            for (assignment, last) in self.last_uses_within(&names, since, upto - step, upto).await? {
                wanted.remove(&assignment);
                found.insert(assignment, last);
            }
            upto -= step;
        }
        Ok(found)
    }

    /// The last uses among the events with numbers above `above` and up to `upto`.
    async fn last_uses_within(
        &mut self,
        wanted: &[String],
        since: Instant,
        above: i64,
        upto: i64,
    ) -> Result<Vec<(AssignmentId, LastUse)>, StoreError> {
        let rows = sqlx::query!(
            r#"WITH used AS (
                   SELECT u.assignment #>> '{}' AS assignment, max(e.seq) AS seq
                   FROM audit_events e,
                       jsonb_path_query(e.decision - 'requester', '$.**.allowed_by[*].assignment') AS u (assignment)
                   WHERE e.seq > $3 AND e.seq <= $4 AND e.at >= $2 AND e.outcome = 'succeeded'
                     AND e.actor ->> 'kind' = 'principal'
                     AND jsonb_typeof(e.decision) = 'object' AND right(e.action, 8) <> '.dry_run'
                   GROUP BY 1)
               SELECT used.assignment AS "assignment!", e.id, e.at, e.action, e.actor_ref
               FROM used JOIN audit_events e ON e.seq = used.seq
               WHERE used.assignment = ANY ($1)"#,
            wanted,
            since,
            above,
            upto,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        rows.into_iter()
            .map(|row| {
                let assignment: AssignmentId = decode::text("audit_events", "decision", &row.assignment)?;
                let last = LastUse {
                    at: row.at,
                    action: row.action,
                    by: decode::text("audit_events", "actor_ref", &row.actor_ref)?,
                    event: EventId::from_uuid(row.id),
                };
                Ok((assignment, last))
            })
            .collect()
    }
}
