//! Reviews of what was opened by breaking the glass.

use std::time::Duration;

use postern_core::{
    id::{RequestId, ReviewId},
    review::{Reminder, Review, Verdict},
    scope::Scope,
    time::Instant,
};
use uuid::Uuid;

use crate::{Page, Store, StoreError, Tx, Visible, batch::clean, decode};

/// Which reviews to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReviewFilter {
    /// Who asks: reviews all of whose machines are there, and of their own requests; see [`Visible`].
    pub visible: Visible,
    /// Whether it waits for somebody.
    pub open: Option<bool>,
}

struct Row {
    id: Uuid,
    request_id: Uuid,
    requester: String,
    scopes: Vec<String>,
    reason: String,
    opened_at: Instant,
    closed_by: Option<String>,
    closed_at: Option<Instant>,
    note: Option<String>,
}

impl TryFrom<Row> for Review {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let closed = match row.closed_by {
            None => None,
            Some(by) => Some(Verdict {
                by: decode::text("reviews", "closed_by", &by)?,
                at: decode::present("reviews", "closed_at", row.closed_at)?,
                note: decode::present("reviews", "note", row.note)?,
            }),
        };
        Ok(Self {
            id: ReviewId::from_uuid(row.id),
            request: RequestId::from_uuid(row.request_id),
            requester: decode::text("reviews", "requester", &row.requester)?,
            scopes: row
                .scopes
                .iter()
                .map(|scope| decode::text("reviews", "scopes", scope))
                .collect::<Result<_, _>>()?,
            reason: row.reason,
            opened_at: row.opened_at,
            closed,
        })
    }
}

impl Tx {
    /// Adds an open review of a request in the same transaction.
    pub async fn insert_review(&mut self, review: &Review) -> Result<(), StoreError> {
        let scopes: Vec<String> = review.scopes.iter().map(Scope::to_string).collect();
        sqlx::query!(
            "INSERT INTO reviews (id, request_id, requester, scopes, reason, opened_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
            review.id.uuid(),
            review.request.uuid(),
            clean(&review.requester.to_string()),
            &scopes,
            clean(&review.reason),
            review.opened_at,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The review, locked until the transaction ends.
    pub async fn review(&mut self, id: ReviewId) -> Result<Option<Review>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT id, request_id, requester, scopes, reason, opened_at, closed_by, closed_at, note
             FROM reviews WHERE id = $1 FOR NO KEY UPDATE",
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(Review::try_from)
        .transpose()
    }

    /// Saves the verdict on an open review.
    pub async fn close_review(&mut self, id: ReviewId, verdict: &Verdict) -> Result<(), StoreError> {
        let saved = sqlx::query!(
            "UPDATE reviews SET closed_by = $2, closed_at = $3, note = $4 WHERE id = $1 AND closed_at IS NULL",
            id.uuid(),
            clean(&verdict.by.to_string()),
            verdict.at,
            clean(&verdict.note),
        )
        .execute(&mut *self.inner)
        .await?;
        if saved.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::not_found("open review", id))
        }
    }

    /// Up to `limit` open reviews of which somebody is to be reminded at `now`, and how; those that another transaction
    /// holds are left out. They count as reminded of when this transaction commits.
    ///
    /// A review's times to remind are half of `within` after it was opened, all of it, and every `within` after that. Where
    /// several have come since the last reminder, one makes up for them.
    pub async fn take_review_reminders(
        &mut self,
        now: Instant,
        within: Duration,
        limit: u32,
    ) -> Result<Vec<(Review, Reminder)>, StoreError> {
        let rows = sqlx::query!(
            r#"WITH due AS (
                   SELECT r.id, t.times
                   FROM reviews r, LATERAL (SELECT extract(epoch FROM $1::timestamptz - r.opened_at) / $2::bigint) AS a (age),
                        LATERAL (SELECT (least(floor(a.age * 2), 1) + floor(a.age))::bigint) AS t (times)
                   WHERE r.closed_at IS NULL AND r.reminded < t.times
                   ORDER BY r.id LIMIT $3 FOR NO KEY UPDATE OF r SKIP LOCKED)
               UPDATE reviews r SET reminded = due.times FROM due WHERE r.id = due.id
               RETURNING r.id, request_id, requester, scopes, reason, opened_at, closed_by, closed_at, note, reminded"#,
            now,
            i64::try_from(within.as_secs()).unwrap_or(i64::MAX).max(1),
            i64::from(limit),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        rows.into_iter()
            .map(|row| {
                let how = if row.reminded > 1 {
                    Reminder::Escalated
                } else {
                    Reminder::Again
                };
                let review = Row {
                    id: row.id,
                    request_id: row.request_id,
                    requester: row.requester,
                    scopes: row.scopes,
                    reason: row.reason,
                    opened_at: row.opened_at,
                    closed_by: row.closed_by,
                    closed_at: row.closed_at,
                    note: row.note,
                };
                Ok((review.try_into()?, how))
            })
            .collect()
    }
}

impl Store {
    /// Reviews, the newest first; `after` is the cursor of the page before.
    pub async fn reviews(
        &self,
        filter: &ReviewFilter,
        after: Option<ReviewId>,
        limit: u32,
    ) -> Result<Page<Review, ReviewId>, StoreError> {
        let visible = filter.visible.scope_texts();
        let rows = sqlx::query_as!(
            Row,
            "SELECT id, request_id, requester, scopes, reason, opened_at, closed_by, closed_at, note
             FROM reviews r
             WHERE ($1::text[] IS NULL OR r.requester = $2 OR NOT EXISTS (
                     SELECT FROM unnest(r.scopes) AS t (scope) WHERE NOT EXISTS (
                         SELECT FROM unnest($1::text[]) AS v (scope)
                         WHERE t.scope = v.scope OR starts_with(t.scope, v.scope || '/'))))
               AND ($3::boolean IS NULL OR (r.closed_at IS NULL) = $3)
               AND ($4::uuid IS NULL OR r.id < $4)
             ORDER BY r.id DESC
             LIMIT $5",
            visible.as_deref(),
            filter.visible.own_text(),
            filter.open,
            after.map(ReviewId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let reviews = rows
            .into_iter()
            .map(Review::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(reviews, limit, |review| review.id))
    }
}
