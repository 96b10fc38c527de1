//! When role assignments were last used, as the audit log says.
//!
//! Every event of a year may have to be read for it. That is done in steps, the newest first, so that no statement runs for
//! longer than one may, however many events there are. Whoever asks goes on for as long as there is something unread.

use std::collections::BTreeMap;

use postern_core::{
    access_review::{LastUse, Unread},
    id::{AssignmentId, EventId},
    time::Instant,
};

use crate::{StoreError, Tx, decode};

/// How many events a statement reads: less than a second of work.
const STEP: i64 = 100_000;
/// How far apart the numbers of two events are at most whose order in time is the other way round.
const ASIDE: i64 = 100_000;

/// What one step found, and what it left unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUses {
    /// The last uses that were found, of those that were asked about.
    pub found: BTreeMap<AssignmentId, LastUse>,
    /// What is left to read, if anything.
    pub unread: Option<Unread>,
}

impl Tx {
    /// Which events are to be read for uses since `since`; none where there are none.
    pub async fn events_since(&mut self, since: Instant) -> Result<Option<Unread>, StoreError> {
        let first = sqlx::query_scalar!(
            "SELECT seq FROM audit_events WHERE at >= $1 ORDER BY at, seq LIMIT 1",
            since
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        let last = sqlx::query_scalar!("SELECT max(seq) FROM audit_events")
            .fetch_one(&mut *self.inner)
            .await?;
        // Numbers rise with time, but for what was written side by side: so many more are read for that.
        Ok(first
            .zip(last)
            .map(|(first, upto)| Unread {
                above: (first - ASIDE).max(0),
                upto,
            })
            .filter(|unread| unread.above < unread.upto))
    }

    /// The last use since `since` of each of these role assignments in the latest unread events, so many that it takes less
    /// than a second, of those that were used; see [`LastUse`] for what counts. Nothing is left unread once every
    /// assignment was found.
    pub async fn read_last_uses(
        &mut self,
        assignments: &[AssignmentId],
        since: Instant,
        unread: Unread,
    ) -> Result<LastUses, StoreError> {
        self.read_last_uses_by(assignments, since, unread, STEP).await
    }

    /// The same, so many events at a time.
    pub(crate) async fn read_last_uses_by(
        &mut self,
        assignments: &[AssignmentId],
        since: Instant,
        unread: Unread,
        step: i64,
    ) -> Result<LastUses, StoreError> {
        if assignments.is_empty() {
            let found = BTreeMap::new();
            return Ok(LastUses { found, unread: None });
        }
        let names: Vec<String> = assignments.iter().map(ToString::to_string).collect();
        let above = unread.above.max(unread.upto.saturating_sub(step));
        let found: BTreeMap<AssignmentId, LastUse> = self
            .last_uses_within(&names, since, above, unread.upto)
            .await?
            .into_iter()
            .collect();
        let is_left = above > unread.above && found.len() < assignments.len();
        Ok(LastUses {
            found,
            unread: is_left.then_some(Unread {
                upto: above,
                ..unread
            }),
        })
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
