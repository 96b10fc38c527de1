//! Access requests.

use std::collections::BTreeMap;

use postern_core::{
    id::RequestId,
    machine::MachineId,
    principal::PrincipalRef,
    request::{AccessRequest, RequestState},
    time::Instant,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Conflict, Page, Store, StoreError, Tx, Visible,
    batch::{clean, document},
    decode,
    error::frozen,
};

/// Which requests to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFilter {
    /// Who asks: requests all of whose machines are there, and their own; see [`Visible`].
    pub visible: Visible,
    /// Made by.
    pub requester: Option<PrincipalRef>,
    /// `pending`, `approved`, `denied`, `withdrawn` or `lapsed`.
    pub status: Option<String>,
    /// For this machine, among others.
    pub machine: Option<MachineId>,
}

#[derive(Serialize)]
struct NewRequest<'a> {
    id: Uuid,
    requester: String,
    machines: Vec<String>,
    scopes: Vec<String>,
    document: &'a AccessRequest,
    status: &'static str,
    created_at: Instant,
    lapses_at: Option<Instant>,
    decided_at: Option<Instant>,
}

impl<'a> NewRequest<'a> {
    fn of(request: &'a AccessRequest) -> Self {
        let machines = request.targets.iter().map(|target| &target.machine);
        let (lapses_at, decided_at) = times(&request.state);
        Self {
            id: request.id.uuid(),
            requester: request.requester.to_string(),
            machines: machines.clone().map(MachineId::to_string).collect(),
            scopes: machines.map(|machine| machine.scope().to_string()).collect(),
            document: request,
            status: request.state.status(),
            created_at: request.created_at,
            lapses_at,
            decided_at,
        }
    }
}

pub(crate) fn read(document: Value) -> Result<AccessRequest, StoreError> {
    decode::json("access_requests", "document", document)
}

/// When a request lapses, while it is pending, and when it was decided, afterwards.
pub(crate) fn times(state: &RequestState) -> (Option<Instant>, Option<Instant>) {
    match state {
        RequestState::Pending(pending) => (Some(pending.lapses_at), None),
        RequestState::Approved(approved) => (None, Some(approved.at)),
        RequestState::Denied(denied) => (None, Some(denied.at)),
        RequestState::Withdrawn(withdrawn) => (None, Some(withdrawn.at)),
        RequestState::Lapsed(lapsed) => (None, Some(lapsed.at)),
    }
}

impl Tx {
    /// Adds a request, in whatever state: one that the policy approves is decided when it is made.
    /// [`Conflict::Frozen`] where a freeze is in force.
    pub async fn insert_request(&mut self, request: &AccessRequest) -> Result<(), StoreError> {
        self.insert_requests(std::slice::from_ref(request)).await
    }

    /// Adds requests, all or none; see [`Tx::insert_request`].
    pub async fn insert_requests(&mut self, requests: &[AccessRequest]) -> Result<(), StoreError> {
        let new: Vec<NewRequest<'_>> = requests.iter().map(NewRequest::of).collect();
        sqlx::query!(
            "INSERT INTO access_requests (id, requester, machines, scopes, document, status, created_at, lapses_at,
                 decided_at)
             SELECT id, requester, machines, scopes, document, status, created_at, lapses_at, decided_at
             FROM jsonb_to_recordset($1) AS n (id uuid, requester text, machines text[], scopes text[],
                 document jsonb, status text, created_at timestamptz, lapses_at timestamptz, decided_at timestamptz)",
            document(&new)?,
        )
        .execute(&mut *self.inner)
        .await
        .map_err(frozen)?;
        Ok(())
    }

    /// The request, locked until the transaction ends.
    pub async fn request(&mut self, id: RequestId) -> Result<Option<AccessRequest>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_requests WHERE id = $1 FOR NO KEY UPDATE",
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(read)
        .transpose()
    }

    /// Saves the decision on a pending request. [`Conflict::Decided`] when it is not pending any more.
    pub async fn save_request(&mut self, request: &AccessRequest) -> Result<(), StoreError> {
        let (lapses_at, decided_at) = times(&request.state);
        let saved = sqlx::query!(
            "UPDATE access_requests SET document = $2, status = $3, lapses_at = $4, decided_at = $5
             WHERE id = $1 AND status = 'pending'",
            request.id.uuid(),
            document(request)?,
            request.state.status(),
            lapses_at,
            decided_at,
        )
        .execute(&mut *self.inner)
        .await?;
        if saved.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Conflict::Decided.into())
        }
    }

    /// How many requests of each requester wait for somebody to decide, at `now`; those without any are left out. Nobody
    /// else counts these requesters' until the transaction ends, so that two requests at once do not both take the last
    /// place.
    pub async fn count_pending(
        &mut self,
        requesters: &[PrincipalRef],
        now: Instant,
    ) -> Result<BTreeMap<PrincipalRef, u64>, StoreError> {
        let names: Vec<String> = requesters
            .iter()
            .map(|requester| clean(&requester.to_string()))
            .collect();
        self.count_alone(&names).await?;
        let rows = sqlx::query!(
            r#"SELECT t.name AS "requester!", r.pending AS "pending!"
               FROM (SELECT DISTINCT name FROM unnest($1::text[]) AS u (name)) AS t
                    CROSS JOIN LATERAL (
                        SELECT count(*) AS pending FROM access_requests
                        WHERE requester = t.name AND status = 'pending' AND lapses_at > $2
                    ) AS r
               WHERE r.pending > 0"#,
            &names,
            now,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut counted = BTreeMap::new();
        for row in rows {
            let pending: u64 = decode::convert("access_requests", "status", row.pending)?;
            let whose = requesters.iter().zip(&names);
            let whose = whose.filter(|(_, name)| **name == row.requester);
            counted.extend(whose.map(|(requester, _)| (requester.clone(), pending)));
        }
        Ok(counted)
    }

    /// Up to `limit` pending requests that nobody can approve any more at `now`, locked; those that another
    /// transaction holds are left out.
    pub async fn lapsed_requests(
        &mut self,
        now: Instant,
        limit: u32,
    ) -> Result<Vec<AccessRequest>, StoreError> {
        sqlx::query_scalar!(
            "SELECT document FROM access_requests WHERE status = 'pending' AND lapses_at <= $1
             ORDER BY lapses_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED",
            now,
            i64::from(limit),
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(read)
        .collect()
    }
}

impl Store {
    /// The request.
    pub async fn request(&self, id: RequestId) -> Result<Option<AccessRequest>, StoreError> {
        sqlx::query_scalar!("SELECT document FROM access_requests WHERE id = $1", id.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(read)
            .transpose()
    }

    /// Requests, the newest first; `after` is the cursor of the page before.
    pub async fn requests(
        &self,
        filter: &RequestFilter,
        after: Option<RequestId>,
        limit: u32,
    ) -> Result<Page<AccessRequest, RequestId>, StoreError> {
        let visible = filter.visible.scope_texts();
        let rows = sqlx::query_scalar!(
            "SELECT document FROM access_requests r
             WHERE ($1::text[] IS NULL OR r.requester = $2 OR NOT EXISTS (
                     SELECT FROM unnest(r.scopes) AS t (scope) WHERE NOT EXISTS (
                         SELECT FROM unnest($1::text[]) AS v (scope)
                         WHERE t.scope = v.scope OR starts_with(t.scope, v.scope || '/'))))
               AND ($3::text IS NULL OR r.requester = $3)
               AND ($4::text IS NULL OR r.status = $4)
               AND ($5::text IS NULL OR r.machines @> ARRAY[$5])
               AND ($6::uuid IS NULL OR r.id < $6)
             ORDER BY r.id DESC
             LIMIT $7",
            visible.as_deref(),
            filter.visible.own_text(),
            filter
                .visible
                .only(filter.requester.as_ref())
                .map(|requester| clean(&requester.to_string())),
            filter.status.as_deref().map(clean),
            filter.machine.as_ref().map(MachineId::to_string),
            after.map(RequestId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let requests = rows.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(requests, limit, |request| request.id))
    }
}
