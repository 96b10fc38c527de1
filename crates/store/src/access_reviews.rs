//! Access reviews of role assignments, and their items.

use std::collections::BTreeMap;

use postern_core::{
    access_review::{AccessReview, AccessReviewItem, ItemState},
    id::{AccessReviewId, AccessReviewItemId, AssignmentId},
    principal::PrincipalRef,
    scope::Scope,
    time::Instant,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Page, Store, StoreError, Tx, Visible,
    batch::{clean, document},
    decode,
    page::scope_text,
};

/// Which access reviews to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessReviewFilter {
    /// Who asks: access reviews at and below these scopes.
    pub visible: Visible,
    /// And those that name any of these as a reviewer.
    pub reviewer: Vec<PrincipalRef>,
    /// Only those that name one of them.
    pub mine: bool,
    /// `open`, `completed` or `cancelled`.
    pub status: Option<String>,
}

/// How many items of an access review stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ItemCounts {
    /// Nobody has decided.
    pub open: u32,
    /// Their role assignments stay.
    pub kept: u32,
    /// Their role assignments were removed.
    pub removed: u32,
    /// The last owner's, which should have gone.
    pub not_removed: u32,
    /// Their role assignments went by another way.
    pub gone: u32,
}

impl ItemCounts {
    fn add(&mut self, status: &str, count: i64) -> Result<(), StoreError> {
        let count = decode::convert("access_review_items", "status", count)?;
        match status {
            "open" => self.open = count,
            "kept" => self.kept = count,
            "removed" => self.removed = count,
            "not_removed" => self.not_removed = count,
            _ => self.gone = count,
        }
        Ok(())
    }
}

/// An item, and whether its role assignment went by another way while nobody has decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredItem {
    /// As it was saved.
    pub item: AccessReviewItem,
    /// Undecided, and there is nothing left to decide.
    pub is_gone: bool,
}

#[derive(Serialize)]
struct ItemRow<'a> {
    id: Uuid,
    review_id: Uuid,
    assignment_id: Uuid,
    status: &'static str,
    document: &'a AccessReviewItem,
}

fn rows(items: &[AccessReviewItem]) -> Result<Value, StoreError> {
    let rows: Vec<ItemRow<'_>> = items
        .iter()
        .map(|item| ItemRow {
            id: item.id.uuid(),
            review_id: item.review.uuid(),
            assignment_id: item.assignment.id.uuid(),
            status: item.state.status(),
            document: item,
        })
        .collect();
    document(&rows)
}

fn review(document: Value) -> Result<AccessReview, StoreError> {
    decode::json("access_reviews", "document", document)
}

fn item(document: Value) -> Result<AccessReviewItem, StoreError> {
    decode::json("access_review_items", "document", document)
}

fn all(saved: u64, wanted: usize, what: &str, id: impl std::fmt::Display) -> Result<(), StoreError> {
    if usize::try_from(saved) == Ok(wanted) {
        Ok(())
    } else {
        Err(StoreError::not_found(what, id))
    }
}

impl Tx {
    /// Adds a round with its items.
    pub async fn insert_access_review(
        &mut self,
        round: &AccessReview,
        items: &[AccessReviewItem],
    ) -> Result<(), StoreError> {
        let reviewers: Vec<String> = round
            .reviewers
            .iter()
            .map(|one| clean(&one.to_string()))
            .collect();
        sqlx::query!(
            "INSERT INTO access_reviews (id, series_id, round, scope, reviewers, status, deadline, remind_at,
                 next_round_at, document)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            round.id.uuid(),
            round.series.uuid(),
            decode::convert::<_, i32>("access_reviews", "round", round.round)?,
            round.scope.to_string(),
            &reviewers,
            round.state.status(),
            round.deadline,
            round.remind_at(),
            round.next_round_at,
            document(round)?,
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!(
            "INSERT INTO access_review_items (id, review_id, assignment_id, status, document)
             SELECT n.id, n.review_id, n.assignment_id, n.status, n.document
             FROM jsonb_to_recordset($1)
                 AS n (id uuid, review_id uuid, assignment_id uuid, status text, document jsonb)",
            rows(items)?,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The access review, locked until the transaction ends. Before its items, and before role assignments.
    pub async fn access_review(&mut self, id: AccessReviewId) -> Result<Option<AccessReview>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_reviews WHERE id = $1 FOR NO KEY UPDATE",
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(review)
        .transpose()
    }

    /// Saves where an access review stands, and when its next round starts.
    pub async fn save_access_review(&mut self, review: &AccessReview) -> Result<(), StoreError> {
        let saved = sqlx::query!(
            "UPDATE access_reviews SET status = $2, next_round_at = $3, document = $4 WHERE id = $1",
            review.id.uuid(),
            review.state.status(),
            review.next_round_at,
            document(review)?,
        )
        .execute(&mut *self.inner)
        .await?;
        all(saved.rows_affected(), 1, "access review", review.id)
    }

    /// Whether the access review's reviewers are to be reminded at `now`; if so, they are not a second time.
    pub async fn take_access_review_reminder(
        &mut self,
        id: AccessReviewId,
        now: Instant,
    ) -> Result<bool, StoreError> {
        let taken = sqlx::query!(
            "UPDATE access_reviews SET remind_at = NULL WHERE id = $1 AND status = 'open' AND remind_at <= $2",
            id.uuid(),
            now,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    /// The item, locked until the transaction ends.
    pub async fn access_review_item(
        &mut self,
        id: AccessReviewItemId,
    ) -> Result<Option<AccessReviewItem>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_review_items WHERE id = $1 FOR NO KEY UPDATE",
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(item)
        .transpose()
    }

    /// The role assignments of the items whose last use is not known yet.
    pub async fn ungathered_assignments(
        &mut self,
        review: AccessReviewId,
    ) -> Result<Vec<AssignmentId>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT assignment_id FROM access_review_items
             WHERE review_id = $1 AND document ->> 'recommendation' IS NULL ORDER BY id",
            review.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(AssignmentId::from_uuid)
        .collect())
    }

    /// The items of these role assignments, by id, locked until the transaction ends.
    pub async fn items_of_assignments(
        &mut self,
        review: AccessReviewId,
        assignments: &[AssignmentId],
    ) -> Result<Vec<AccessReviewItem>, StoreError> {
        let wanted: Vec<Uuid> = assignments.iter().map(|id| id.uuid()).collect();
        sqlx::query_scalar!(
            "SELECT document FROM access_review_items WHERE review_id = $1 AND assignment_id = ANY ($2)
             ORDER BY id FOR NO KEY UPDATE",
            review.uuid(),
            &wanted,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(item)
        .collect()
    }

    /// How many items of an access review are recommended for removal.
    pub async fn recommended_removals(&mut self, review: AccessReviewId) -> Result<u32, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM access_review_items
               WHERE review_id = $1 AND document #>> '{recommendation,verdict}' = 'remove'"#,
            review.uuid()
        )
        .fetch_one(&mut *self.inner)
        .await?;
        decode::convert("access_review_items", "document", count)
    }

    /// The items that nobody has decided, by id, locked until the transaction ends.
    pub async fn undecided_items(
        &mut self,
        review: AccessReviewId,
    ) -> Result<Vec<AccessReviewItem>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_review_items WHERE review_id = $1 AND status = 'open'
             ORDER BY id FOR NO KEY UPDATE",
            review.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(item)
        .collect()
    }

    /// Saves where these items stand.
    pub async fn save_access_review_items(&mut self, items: &[AccessReviewItem]) -> Result<(), StoreError> {
        let Some(first) = items.first() else {
            return Ok(());
        };
        let saved = sqlx::query!(
            "UPDATE access_review_items i SET status = n.status, document = n.document
             FROM jsonb_to_recordset($1)
                 AS n (id uuid, review_id uuid, assignment_id uuid, status text, document jsonb)
             WHERE i.id = n.id",
            rows(items)?,
        )
        .execute(&mut *self.inner)
        .await?;
        all(
            saved.rows_affected(),
            items.len(),
            "item of access review",
            first.review,
        )
    }

    /// How many items stand how.
    pub async fn access_review_counts(&mut self, id: AccessReviewId) -> Result<ItemCounts, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT status AS "status!", count(*) AS "count!" FROM access_review_items_now
               WHERE review_id = $1 GROUP BY status"#,
            id.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut counts = ItemCounts::default();
        for row in rows {
            counts.add(&row.status, row.count)?;
        }
        Ok(counts)
    }
}

impl Store {
    /// The access review, with how many of its items stand how.
    pub async fn access_review(
        &self,
        id: AccessReviewId,
    ) -> Result<Option<(AccessReview, ItemCounts)>, StoreError> {
        let found = sqlx::query_scalar!("SELECT document FROM access_reviews WHERE id = $1", id.uuid())
            .fetch_optional(&self.pool)
            .await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let counts = self.counts(&[id]).await?.remove(&id).unwrap_or_default();
        Ok(Some((review(found)?, counts)))
    }

    async fn counts(
        &self,
        ids: &[AccessReviewId],
    ) -> Result<BTreeMap<AccessReviewId, ItemCounts>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT review_id AS "review_id!", status AS "status!", count(*) AS "count!"
               FROM access_review_items_now WHERE review_id = ANY ($1) GROUP BY review_id, status"#,
            &wanted
        )
        .fetch_all(&self.lists)
        .await?;
        let mut counts: BTreeMap<AccessReviewId, ItemCounts> = BTreeMap::new();
        for row in rows {
            let of_one = counts
                .entry(AccessReviewId::from_uuid(row.review_id))
                .or_default();
            of_one.add(&row.status, row.count)?;
        }
        Ok(counts)
    }

    /// Access reviews, the newest first; `after` is the cursor of the page before.
    pub async fn access_reviews(
        &self,
        filter: &AccessReviewFilter,
        after: Option<AccessReviewId>,
        limit: u32,
    ) -> Result<Page<(AccessReview, ItemCounts), AccessReviewId>, StoreError> {
        let visible = filter.visible.scope_texts();
        let reviewer: Vec<String> = filter
            .reviewer
            .iter()
            .map(|one| clean(&one.to_string()))
            .collect();
        let found = sqlx::query_scalar!(
            "SELECT document FROM access_reviews r
             WHERE (r.reviewers && $2 OR (NOT $3 AND ($1::text[] IS NULL OR EXISTS (
                     SELECT FROM unnest($1::text[]) AS v (scope)
                     WHERE r.scope = v.scope OR starts_with(r.scope, v.scope || '/')))))
               AND ($4::text IS NULL OR r.status = $4)
               AND ($5::uuid IS NULL OR r.id < $5)
             ORDER BY r.id DESC
             LIMIT $6",
            visible.as_deref(),
            &reviewer,
            filter.mine,
            filter.status,
            after.map(AccessReviewId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let reviews = found.into_iter().map(review).collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<AccessReviewId> = reviews.iter().map(|review| review.id).collect();
        let counts = self.counts(&ids).await?;
        let counted = reviews
            .into_iter()
            .map(|review| {
                let counts = counts.get(&review.id).copied().unwrap_or_default();
                (review, counts)
            })
            .collect();
        Ok(Page::of(counted, limit, |(review, _)| review.id))
    }

    /// The items of an access review, by id; `after` is the cursor of the page before.
    pub async fn access_review_items(
        &self,
        review: AccessReviewId,
        status: Option<&str>,
        scope: Option<&Scope>,
        after: Option<AccessReviewItemId>,
        limit: u32,
    ) -> Result<Page<StoredItem, AccessReviewItemId>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT document AS "document!", status AS "status!" FROM access_review_items_now
               WHERE review_id = $1
                 AND ($2::text IS NULL OR status = $2)
                 AND ($3::text IS NULL OR document #>> '{assignment,scope}' = $3
                      OR starts_with(document #>> '{assignment,scope}', $3 || '/'))
                 AND ($4::uuid IS NULL OR id > $4)
               ORDER BY id LIMIT $5"#,
            review.uuid(),
            status,
            scope_text(scope),
            after.map(AccessReviewItemId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let items = rows
            .into_iter()
            .map(|row| {
                let item = item(row.document)?;
                Ok(StoredItem {
                    is_gone: item.state == ItemState::Open && row.status == "gone",
                    item,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Page::of(items, limit, |stored| stored.item.id))
    }

    /// The item.
    pub async fn access_review_item(
        &self,
        id: AccessReviewItemId,
    ) -> Result<Option<AccessReviewItem>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_review_items WHERE id = $1",
            id.uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .map(item)
        .transpose()
    }

    /// The rounds after which another is to start.
    pub async fn recurring_access_reviews(&self) -> Result<Vec<AccessReview>, StoreError> {
        sqlx::query_scalar!("SELECT document FROM access_reviews WHERE next_round_at IS NOT NULL ORDER BY id")
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(review)
            .collect()
    }

    /// When there is next something to do that only time does, if ever; in the past, where it should have been done, or
    /// where the audit log is being read.
    pub async fn next_access_review_step(&self) -> Result<Option<Instant>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT least((SELECT min(deadline) FROM access_reviews WHERE status = 'open'),
                          (SELECT min(remind_at) FROM access_reviews WHERE status = 'open'),
                          (SELECT min(next_round_at) FROM access_reviews
                           WHERE next_round_at IS NOT NULL AND status <> 'open'),
                          (SELECT to_timestamp(0) FROM access_reviews
                           WHERE status = 'open' AND document ? 'unread' LIMIT 1))"
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Up to `limit` access reviews that have something to do at `now` that only time does.
    pub async fn due_access_reviews(
        &self,
        now: Instant,
        limit: u32,
    ) -> Result<Vec<AccessReviewId>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT id FROM access_reviews
             WHERE (status = 'open' AND (deadline <= $1 OR remind_at <= $1 OR document ? 'unread'))
                OR (status <> 'open' AND next_round_at <= $1)
             ORDER BY id LIMIT $2",
            now,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(AccessReviewId::from_uuid)
        .collect())
    }
}
