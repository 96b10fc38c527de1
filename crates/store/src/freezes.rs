//! Freezes. The lock that they are made under stands in the migration: [`Tx::freezes_in_force`] shares it.

use postern_core::{
    freeze::{Freeze, Lifted},
    id::FreezeId,
    request::AccessRequest,
    scope::Scope,
    time::Instant,
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    Conflict, Page, Store, StoreError, Tx, Visible,
    batch::{clean, document},
    decode,
    page::scope_text,
    requests,
};

/// As in the migration.
const FREEZES_LOCK: i64 = 8_101_821_198_434_990_714;

/// Which freezes to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreezeFilter {
    /// Who asks: freezes at, below and above these scopes, because those above hold there too.
    pub visible: Visible,
    /// Whether it is in force.
    pub in_force: Option<bool>,
}

struct Row {
    id: Uuid,
    scope: String,
    reason: String,
    created_by: String,
    created_at: Instant,
    lifted_by: Option<String>,
    lifted_at: Option<Instant>,
    lift_reason: Option<String>,
}

impl TryFrom<Row> for Freeze {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let lifted = match row.lifted_by {
            None => None,
            Some(by) => Some(Lifted {
                by: decode::text("freezes", "lifted_by", &by)?,
                at: decode::present("freezes", "lifted_at", row.lifted_at)?,
                reason: decode::present("freezes", "lift_reason", row.lift_reason)?,
            }),
        };
        Ok(Self {
            id: FreezeId::from_uuid(row.id),
            scope: decode::text("freezes", "scope", &row.scope)?,
            reason: row.reason,
            created_by: decode::text("freezes", "created_by", &row.created_by)?,
            created_at: row.created_at,
            lifted,
        })
    }
}

#[derive(Serialize)]
struct DecisionRow<'a> {
    id: Uuid,
    status: &'static str,
    decided_at: Option<Instant>,
    document: &'a AccessRequest,
}

impl Tx {
    /// The freezes in force, by id. None comes into force until the transaction ends. Whoever grants asks first of
    /// all, before any row is locked: freezing locks requests and grants.
    pub async fn freezes_in_force(&mut self) -> Result<Vec<Freeze>, StoreError> {
        sqlx::query_as!(
            Row,
            r#"SELECT id AS "id!", scope AS "scope!", reason AS "reason!", created_by AS "created_by!",
                      created_at AS "created_at!", lifted_by, lifted_at, lift_reason
               FROM freezes_in_force()"#
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(Freeze::try_from)
        .collect()
    }

    /// Adds a freeze, once every transaction that might grant something has ended; none goes on until this one has.
    pub async fn insert_freeze(&mut self, freeze: &Freeze) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_advisory_xact_lock($1)", FREEZES_LOCK)
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!(
            "INSERT INTO freezes (id, scope, reason, created_by, created_at) VALUES ($1, $2, $3, $4, $5)",
            freeze.id.uuid(),
            freeze.scope.to_string(),
            clean(&freeze.reason),
            clean(&freeze.created_by.to_string()),
            freeze.created_at,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The freeze, locked until the transaction ends.
    pub async fn freeze(&mut self, id: FreezeId) -> Result<Option<Freeze>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT id, scope, reason, created_by, created_at, lifted_by, lifted_at, lift_reason
             FROM freezes WHERE id = $1 FOR NO KEY UPDATE",
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(Freeze::try_from)
        .transpose()
    }

    /// Saves that a freeze in force was lifted.
    pub async fn save_lift(&mut self, id: FreezeId, lifted: &Lifted) -> Result<(), StoreError> {
        let saved = sqlx::query!(
            "UPDATE freezes SET lifted_by = $2, lifted_at = $3, lift_reason = $4
             WHERE id = $1 AND lifted_at IS NULL",
            id.uuid(),
            clean(&lifted.by.to_string()),
            lifted.at,
            clean(&lifted.reason),
        )
        .execute(&mut *self.inner)
        .await?;
        if saved.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::not_found("freeze in force", id))
        }
    }

    /// The pending requests with a machine at or below the scope, by id, locked until the transaction ends.
    pub async fn pending_requests_in(&mut self, scope: &Scope) -> Result<Vec<AccessRequest>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_requests
             WHERE status = 'pending' AND ($1::text IS NULL OR EXISTS (
                 SELECT FROM unnest(scopes) AS t (scope) WHERE t.scope = $1 OR starts_with(t.scope, $1 || '/')))
             ORDER BY id FOR NO KEY UPDATE",
            scope_text(Some(scope)),
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(requests::read)
        .collect()
    }

    /// Saves the decisions on pending requests. [`Conflict::Decided`] when any is not pending any more; nothing of
    /// the transaction may be kept then.
    pub async fn save_requests(&mut self, decided: &[AccessRequest]) -> Result<(), StoreError> {
        if decided.is_empty() {
            return Ok(());
        }
        let rows: Vec<DecisionRow<'_>> = decided
            .iter()
            .map(|request| DecisionRow {
                id: request.id.uuid(),
                status: request.state.status(),
                decided_at: requests::times(&request.state).1,
                document: request,
            })
            .collect();
        let saved = sqlx::query!(
            "UPDATE access_requests r
             SET document = n.document, status = n.status, lapses_at = NULL, decided_at = n.decided_at
             FROM jsonb_to_recordset($1) AS n (id uuid, status text, decided_at timestamptz, document jsonb)
             WHERE r.id = n.id AND r.status = 'pending'",
            document(&rows)?,
        )
        .execute(&mut *self.inner)
        .await?;
        if usize::try_from(saved.rows_affected()) == Ok(decided.len()) {
            Ok(())
        } else {
            Err(Conflict::Decided.into())
        }
    }
}

impl Store {
    /// Freezes, the newest first; `after` is the cursor of the page before.
    pub async fn freezes(
        &self,
        filter: &FreezeFilter,
        after: Option<FreezeId>,
        limit: u32,
    ) -> Result<Page<Freeze, FreezeId>, StoreError> {
        let visible = filter.visible.scope_texts();
        let rows = sqlx::query_as!(
            Row,
            "SELECT id, scope, reason, created_by, created_at, lifted_by, lifted_at, lift_reason
             FROM freezes f
             WHERE ($1::text[] IS NULL OR EXISTS (
                     SELECT FROM unnest($1::text[]) AS v (scope)
                     WHERE f.scope = '/' OR f.scope = v.scope OR starts_with(f.scope, v.scope || '/')
                         OR starts_with(v.scope, f.scope || '/')))
               AND ($2::boolean IS NULL OR (f.lifted_at IS NULL) = $2)
               AND ($3::uuid IS NULL OR f.id < $3)
             ORDER BY f.id DESC
             LIMIT $4",
            visible.as_deref(),
            filter.in_force,
            after.map(FreezeId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let freezes = rows
            .into_iter()
            .map(Freeze::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(freezes, limit, |freeze| freeze.id))
    }

    /// The freeze.
    pub async fn freeze(&self, id: FreezeId) -> Result<Option<Freeze>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT id, scope, reason, created_by, created_at, lifted_by, lifted_at, lift_reason
             FROM freezes WHERE id = $1",
            id.uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .map(Freeze::try_from)
        .transpose()
    }
}
