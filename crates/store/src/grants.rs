//! Grants. Each status has exactly its columns, and a status follows only from the one before it.

use std::{collections::BTreeSet, time::Duration};

use ipnet::IpNet;
use postern_core::{
    grant::{Closed, Closing, EndCause, Grant, GrantState, Open, Opening, Scheduled},
    id::{GrantId, PointId, PolicyId, RequestId},
    machine::MachineId,
    net::{Ports, Source},
    principal::PrincipalRef,
    scope::Scope,
    time::Instant,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Conflict, Page, Store, StoreError, Tx, Visible,
    batch::{clean, document},
    decode,
    error::frozen,
    page::scope_text,
};

/// Which grants to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantFilter {
    /// Who asks: grants on machines there, and their own; see [`Visible`].
    pub visible: Visible,
    /// Whose.
    pub requester: Option<PrincipalRef>,
    /// In any of these: `scheduled`, `opening`, `open`, `closing`, `closed`. Empty for all.
    pub statuses: Vec<String>,
    /// On this machine.
    pub machine: Option<MachineId>,
    /// At or below this scope.
    pub scope: Option<postern_core::scope::Scope>,
    /// Of this request.
    pub request: Option<RequestId>,
    /// Made under this policy.
    pub policy: Option<PolicyId>,
}

/// The columns of a grant's state.
#[derive(Serialize)]
struct StateColumns {
    status: &'static str,
    starts_at: Option<Instant>,
    deadline: Option<Instant>,
    opened_at: Option<Instant>,
    ends_at: Option<Instant>,
    ended_at: Option<Instant>,
    closed_at: Option<Instant>,
    cause: Option<EndCause>,
}

impl StateColumns {
    fn of(state: &GrantState) -> Self {
        let mut columns = Self {
            status: state.status(),
            starts_at: None,
            deadline: None,
            opened_at: None,
            ends_at: None,
            ended_at: None,
            closed_at: None,
            cause: None,
        };
        match state {
            GrantState::Scheduled(scheduled) => {
                columns.starts_at = Some(scheduled.starts_at);
                columns.deadline = Some(scheduled.deadline);
            }
            GrantState::Opening(opening) => columns.deadline = Some(opening.deadline),
            GrantState::Open(open) => {
                columns.opened_at = Some(open.opened_at);
                columns.ends_at = Some(open.ends_at);
            }
            GrantState::Closing(closing) => {
                columns.opened_at = closing.opened_at;
                columns.ended_at = Some(closing.since);
                columns.cause = Some(closing.cause.clone());
            }
            GrantState::Closed(closed) => {
                columns.opened_at = closed.opened_at;
                columns.ended_at = Some(closed.ended_at);
                columns.closed_at = Some(closed.closed_at);
                columns.cause = Some(closed.cause.clone());
            }
        }
        columns
    }
}

/// The statuses from which a grant comes into this one.
const fn from_statuses(state: &GrantState) -> &'static [&'static str] {
    match state {
        GrantState::Scheduled(_) => &[],
        GrantState::Opening(_) => &["scheduled"],
        GrantState::Open(_) => &["opening"],
        GrantState::Closing(_) => &["scheduled", "opening", "open"],
        GrantState::Closed(_) => &["closing"],
    }
}

#[derive(Serialize)]
struct NewGrant<'a> {
    id: Uuid,
    request_id: Uuid,
    policy_id: Uuid,
    requester: String,
    machine_id: String,
    scope: String,
    ports: &'a [Ports],
    sources: &'a [Source],
    duration_seconds: u64,
    created_at: Instant,
    not_after: Instant,
    together: bool,
    #[serde(flatten)]
    state: StateColumns,
}

#[derive(Serialize)]
struct NewState {
    id: Uuid,
    from_statuses: &'static [&'static str],
    #[serde(flatten)]
    state: StateColumns,
}

/// A row of `grants`.
#[derive(Deserialize)]
pub(crate) struct Row {
    id: Uuid,
    request_id: Uuid,
    policy_id: Uuid,
    requester: String,
    machine_id: String,
    ports: Vec<String>,
    sources: Vec<IpNet>,
    duration_seconds: i64,
    created_at: Instant,
    not_after: Instant,
    together: bool,
    status: String,
    starts_at: Option<Instant>,
    deadline: Option<Instant>,
    opened_at: Option<Instant>,
    ends_at: Option<Instant>,
    ended_at: Option<Instant>,
    closed_at: Option<Instant>,
    cause: Option<Value>,
}

/// `SELECT` of whole rows of `grants g`, then what is given.
macro_rules! grants {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT g.id, g.request_id, g.policy_id, g.requester, g.machine_id, g.ports,
                      g.sources AS "sources: Vec<IpNet>", g.duration_seconds, g.created_at, g.not_after,
                      g.together, g.status, g.starts_at, g.deadline, g.opened_at, g.ends_at, g.ended_at, g.closed_at, g.cause
               FROM grants g "# + $rest
            $(, $argument)*
        )
    };
}

impl TryFrom<Row> for Grant {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let cause = || match &row.cause {
            Some(cause) => decode::json("grants", "cause", cause.clone()),
            None => decode::present("grants", "cause", None),
        };
        let state = match row.status.as_str() {
            "scheduled" => GrantState::Scheduled(Scheduled {
                starts_at: decode::present("grants", "starts_at", row.starts_at)?,
                deadline: decode::present("grants", "deadline", row.deadline)?,
            }),
            "opening" => GrantState::Opening(Opening {
                deadline: decode::present("grants", "deadline", row.deadline)?,
            }),
            "open" => GrantState::Open(Open {
                opened_at: decode::present("grants", "opened_at", row.opened_at)?,
                ends_at: decode::present("grants", "ends_at", row.ends_at)?,
            }),
            "closing" => GrantState::Closing(Closing {
                cause: cause()?,
                since: decode::present("grants", "ended_at", row.ended_at)?,
                opened_at: row.opened_at,
            }),
            "closed" => GrantState::Closed(Closed {
                cause: cause()?,
                ended_at: decode::present("grants", "ended_at", row.ended_at)?,
                opened_at: row.opened_at,
                closed_at: decode::present("grants", "closed_at", row.closed_at)?,
            }),
            _ => return decode::present("grants", "status", None),
        };
        Ok(Self {
            id: GrantId::from_uuid(row.id),
            request: RequestId::from_uuid(row.request_id),
            policy: PolicyId::from_uuid(row.policy_id),
            requester: decode::text("grants", "requester", &row.requester)?,
            machine: decode::text("grants", "machine_id", &row.machine_id)?,
            ports: row
                .ports
                .iter()
                .map(|ports| decode::text("grants", "ports", ports))
                .collect::<Result<_, _>>()?,
            sources: row
                .sources
                .into_iter()
                .map(|net| decode::convert("grants", "sources", net))
                .collect::<Result<_, _>>()?,
            duration: Duration::from_secs(decode::convert(
                "grants",
                "duration_seconds",
                row.duration_seconds,
            )?),
            created_at: row.created_at,
            not_after: row.not_after,
            together: row.together,
            state,
        })
    }
}

fn read(rows: Vec<Row>) -> Result<Vec<Grant>, StoreError> {
    rows.into_iter().map(Grant::try_from).collect()
}

impl Tx {
    /// Adds grants with a hop at each point on the way to their machines, and returns these points, to be marked
    /// due. [`Conflict::NoHop`] when there is none before a machine, [`Conflict::Frozen`] where a freeze is in
    /// force.
    pub async fn insert_grants(&mut self, grants: &[Grant]) -> Result<Vec<PointId>, StoreError> {
        let new: Vec<NewGrant<'_>> = grants.iter().map(NewGrant::of).collect();
        let hops = sqlx::query!(
            "WITH new AS (
                 INSERT INTO grants (id, request_id, policy_id, requester, machine_id, scope, ports, sources,
                     duration_seconds, created_at, not_after, together, status, starts_at, deadline, opened_at,
                     ends_at, ended_at, closed_at, cause)
                 SELECT id, request_id, policy_id, requester, machine_id, scope, ports, sources, duration_seconds,
                     created_at, not_after, together, status, starts_at, deadline, opened_at, ends_at, ended_at,
                     closed_at, cause
                 FROM jsonb_to_recordset($1) AS n (id uuid, request_id uuid, policy_id uuid, requester text,
                     machine_id text, scope text, ports text[], sources cidr[], duration_seconds bigint,
                     created_at timestamptz, not_after timestamptz, together boolean, status text,
                     starts_at timestamptz, deadline timestamptz, opened_at timestamptz, ends_at timestamptz, ended_at timestamptz, closed_at timestamptz,
                     cause jsonb)
                 RETURNING id, machine_id
             )
             INSERT INTO grant_hops (grant_id, point_id, state)
             SELECT new.id, mp.point_id, 'absent'
             FROM new JOIN machine_points mp ON mp.machine_id = new.machine_id
             WHERE mp.opens
             ORDER BY new.id, mp.point_id
             RETURNING grant_id, point_id",
            document(&new)?,
        )
        .fetch_all(&mut *self.inner)
        .await
        .map_err(frozen)?;
        let with_hops: BTreeSet<Uuid> = hops.iter().map(|hop| hop.grant_id).collect();
        if let Some(grant) = grants.iter().find(|grant| !with_hops.contains(&grant.id.uuid())) {
            return Err(Conflict::NoHop(grant.machine.to_string()).into());
        }
        let points: BTreeSet<PointId> = hops.iter().map(|hop| PointId::from_uuid(hop.point_id)).collect();
        Ok(points.into_iter().collect())
    }

    /// The grant, locked until the transaction ends.
    pub async fn grant(&mut self, id: GrantId) -> Result<Option<Grant>, StoreError> {
        grants!("WHERE g.id = $1 FOR NO KEY UPDATE", id.uuid())
            .fetch_optional(&mut *self.inner)
            .await?
            .map(Grant::try_from)
            .transpose()
    }

    /// The grants, by id, locked until the transaction ends. Ids of no grant are left out.
    pub async fn grants_by_id(&mut self, ids: &[GrantId]) -> Result<Vec<Grant>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        read(
            grants!("WHERE g.id = ANY ($1) ORDER BY g.id FOR NO KEY UPDATE", &ids)
                .fetch_all(&mut *self.inner)
                .await?,
        )
    }

    /// The grants of a request, by id, locked until the transaction ends.
    pub async fn grants_of_request(&mut self, request: RequestId) -> Result<Vec<Grant>, StoreError> {
        read(
            grants!(
                "WHERE g.request_id = $1 ORDER BY g.id FOR NO KEY UPDATE",
                request.uuid(),
            )
            .fetch_all(&mut *self.inner)
            .await?,
        )
    }

    /// The grants with a part in the point that are not closed, by id. Locked until the transaction ends are those that
    /// a pass at `now` may change: all but the open ones whose time is not over, and all where the point is `gone`. What
    /// becomes of one that is not locked makes the point due again.
    pub async fn grants_at(
        &mut self,
        point: PointId,
        now: Instant,
        gone: bool,
    ) -> Result<Vec<Grant>, StoreError> {
        read(
            sqlx::query_as!(
                Row,
                r#"WITH here AS MATERIALIZED (
                       SELECT g.id, g.status = 'open' AND g.ends_at > $2 AND NOT $3 AS steady
                       FROM grant_hops h JOIN grants g ON g.id = h.grant_id
                       WHERE h.point_id = $1 AND NOT h.done AND g.status <> 'closed'
                   ), locked AS (
                       SELECT g.* FROM here JOIN grants g ON g.id = here.id
                       WHERE NOT here.steady AND g.status <> 'closed' ORDER BY g.id FOR NO KEY UPDATE OF g
                   )
                   SELECT g.id AS "id!", g.request_id AS "request_id!", g.policy_id AS "policy_id!",
                          g.requester AS "requester!", g.machine_id AS "machine_id!", g.ports AS "ports!",
                          g.sources AS "sources!: Vec<IpNet>", g.duration_seconds AS "duration_seconds!",
                          g.created_at AS "created_at!", g.not_after AS "not_after!", g.together AS "together!",
                          g.status AS "status!", g.starts_at, g.deadline, g.opened_at, g.ends_at, g.ended_at,
                          g.closed_at, g.cause
                   FROM (SELECT * FROM locked
                         UNION ALL
                         SELECT g.* FROM here JOIN grants g ON g.id = here.id WHERE here.steady) AS g
                   ORDER BY g.id"#,
                point.uuid(),
                now,
                gone,
            )
            .fetch_all(&mut *self.inner)
            .await?,
        )
    }

    /// The live grants on the machines, wanted now or later, by id, locked until the transaction ends.
    pub async fn live_grants_of(&mut self, machines: &[MachineId]) -> Result<Vec<Grant>, StoreError> {
        let machines: Vec<String> = machines.iter().map(MachineId::to_string).collect();
        read(
            grants!(
                "WHERE g.machine_id = ANY ($1) AND g.status IN ('scheduled', 'opening', 'open')
                 ORDER BY g.id FOR NO KEY UPDATE",
                &machines,
            )
            .fetch_all(&mut *self.inner)
            .await?,
        )
    }

    /// The live grants at or below the scope, wanted now or later, by id, locked until the transaction ends.
    pub async fn live_grants_in(&mut self, scope: &Scope) -> Result<Vec<Grant>, StoreError> {
        read(
            grants!(
                "WHERE g.status IN ('scheduled', 'opening', 'open')
                   AND ($1::text IS NULL OR g.scope = $1 OR starts_with(g.scope, $1 || '/'))
                 ORDER BY g.id FOR NO KEY UPDATE",
                scope_text(Some(scope)),
            )
            .fetch_all(&mut *self.inner)
            .await?,
        )
    }

    /// The live grants, wanted now or later, that a change of the policy may concern, by id, locked until the transaction ends: those
    /// made under it, those on machines that it covers, and those on `machines`, which it may have covered before.
    /// Only complete while policies are locked, by [`Tx::policy`] or a change of one.
    pub async fn live_grants_under(
        &mut self,
        policy: PolicyId,
        machines: &[MachineId],
    ) -> Result<Vec<Grant>, StoreError> {
        let machines: Vec<String> = machines.iter().map(MachineId::to_string).collect();
        read(
            grants!(
                "WHERE g.status IN ('scheduled', 'opening', 'open')
                   AND (g.policy_id = $1 OR g.machine_id = ANY ($2)
                        OR g.machine_id IN (SELECT m.id FROM machines m WHERE m.policy_id = $1))
                 ORDER BY g.id FOR NO KEY UPDATE OF g",
                policy.uuid(),
                &machines,
            )
            .fetch_all(&mut *self.inner)
            .await?,
        )
    }

    /// Saves the new states of grants. [`Conflict::GrantState`] when any of them is not in a status that its new
    /// one follows from; nothing of the transaction may be kept then.
    pub async fn save_grants(&mut self, grants: &[Grant]) -> Result<(), StoreError> {
        if grants.is_empty() {
            return Ok(());
        }
        let new: Vec<NewState> = grants
            .iter()
            .map(|grant| NewState {
                id: grant.id.uuid(),
                from_statuses: from_statuses(&grant.state),
                state: StateColumns::of(&grant.state),
            })
            .collect();
        let saved = sqlx::query_scalar!(
            r#"WITH saved AS (
                   UPDATE grants g
                   SET status = n.status, starts_at = n.starts_at, deadline = n.deadline, opened_at = n.opened_at, ends_at = n.ends_at,
                       ended_at = n.ended_at, closed_at = n.closed_at, cause = n.cause
                   FROM jsonb_to_recordset($1) AS n (id uuid, from_statuses text[], status text,
                       starts_at timestamptz, deadline timestamptz, opened_at timestamptz, ends_at timestamptz, ended_at timestamptz,
                       closed_at timestamptz, cause jsonb)
                   WHERE g.id = n.id AND g.status = ANY (n.from_statuses)
                   RETURNING g.id, g.status
               ), finished AS (
                   UPDATE grant_hops h SET done = true FROM saved s WHERE s.status = 'closed' AND h.grant_id = s.id
               )
               SELECT count(*) AS "count!" FROM saved"#,
            document(&new)?,
        )
        .fetch_one(&mut *self.inner)
        .await?;
        if usize::try_from(saved) == Ok(grants.len()) {
            Ok(())
        } else {
            Err(Conflict::GrantState.into())
        }
    }

    /// Up to `limit` live grants whose time was over before `before`, by id, locked until the transaction ends;
    /// those that another transaction holds are left out.
    pub async fn forgotten_grants(&mut self, before: Instant, limit: u32) -> Result<Vec<Grant>, StoreError> {
        read(
            grants!(
                // Each by its own index: whatever the plan takes `$1` for, it reads what is late and no more.
                "WHERE g.id IN ((SELECT id FROM grants WHERE status = 'open' AND ends_at < $1
                                 ORDER BY ends_at LIMIT $2)
                                UNION ALL
                                (SELECT id FROM grants WHERE status = 'opening' AND deadline < $1
                                 ORDER BY deadline LIMIT $2)
                                UNION ALL
                                (SELECT id FROM grants WHERE status = 'scheduled' AND starts_at < $1 AND deadline < $1
                                 ORDER BY starts_at LIMIT $2)
                                LIMIT $2)
                   AND g.status IN ('scheduled', 'opening', 'open')
                 ORDER BY g.id FOR NO KEY UPDATE SKIP LOCKED",
                before,
                i64::from(limit),
            )
            .fetch_all(&mut *self.inner)
            .await?,
        )
    }

    /// How many grants ended before `before`, or should have, and are not confirmed as closed.
    pub async fn count_overdue(&mut self, before: Instant) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"SELECT (SELECT count(*) FROM grants WHERE status = 'closing' AND ended_at < $1)
                    + (SELECT count(*) FROM grants WHERE status = 'open' AND ends_at < $1) AS "count!""#,
            before,
        )
        .fetch_one(&mut *self.inner)
        .await?)
    }
}

impl Store {
    /// The grant.
    pub async fn grant(&self, id: GrantId) -> Result<Option<Grant>, StoreError> {
        grants!("WHERE g.id = $1", id.uuid())
            .fetch_optional(&self.pool)
            .await?
            .map(Grant::try_from)
            .transpose()
    }

    /// Grants, the newest first; `after` is the cursor of the page before.
    pub async fn grants(
        &self,
        filter: &GrantFilter,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Page<Grant, GrantId>, StoreError> {
        let statuses = if filter.statuses.is_empty() {
            None
        } else {
            Some(
                filter
                    .statuses
                    .iter()
                    .map(|status| clean(status))
                    .collect::<Vec<_>>(),
            )
        };
        let visible = filter.visible.scope_texts();
        let rows = grants!(
            "WHERE ($1::text[] IS NULL OR g.requester = $2 OR EXISTS (
                     SELECT FROM unnest($1::text[]) AS v (scope)
                     WHERE g.scope = v.scope OR (g.scope > v.scope || '/' AND g.scope < v.scope || '0')))
               AND ($3::text IS NULL OR g.requester = $3)
               AND ($4::text[] IS NULL OR g.status = ANY ($4))
               AND ($5::text IS NULL OR g.machine_id = $5)
               AND ($6::text IS NULL OR g.scope = $6 OR (g.scope > $6 || '/' AND g.scope < $6 || '0'))
               AND ($7::uuid IS NULL OR g.request_id = $7)
               AND ($8::uuid IS NULL OR g.policy_id = $8)
               AND ($9::uuid IS NULL OR g.id < $9)
             ORDER BY g.id DESC
             LIMIT $10",
            visible.as_deref(),
            filter.visible.own_text(),
            filter
                .visible
                .only(filter.requester.as_ref())
                .map(|requester| clean(&requester.to_string())),
            statuses.as_deref(),
            filter.machine.as_ref().map(MachineId::to_string),
            scope_text(filter.scope.as_ref()),
            filter.request.map(RequestId::uuid),
            filter.policy.map(PolicyId::uuid),
            after.map(GrantId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        Ok(Page::of(read(rows)?, limit, |grant| grant.id))
    }

    /// The grants of a request, by id.
    pub async fn grants_of_request(&self, request: RequestId) -> Result<Vec<Grant>, StoreError> {
        read(
            grants!("WHERE g.request_id = $1 ORDER BY g.id", request.uuid())
                .fetch_all(&self.pool)
                .await?,
        )
    }

    /// The grants that came of any of `requests`, and those of `grants`, by id.
    pub async fn grants_of_requests(
        &self,
        requests: &[RequestId],
        grants: &[GrantId],
    ) -> Result<Vec<Grant>, StoreError> {
        if requests.is_empty() && grants.is_empty() {
            return Ok(Vec::new());
        }
        let requests: Vec<Uuid> = requests.iter().map(|id| id.uuid()).collect();
        let grants: Vec<Uuid> = grants.iter().map(|id| id.uuid()).collect();
        read(
            grants!(
                "WHERE g.request_id = ANY ($1) OR g.id = ANY ($2) ORDER BY g.id",
                &requests,
                &grants,
            )
            .fetch_all(&self.lists)
            .await?,
        )
    }
}

impl<'a> NewGrant<'a> {
    fn of(grant: &'a Grant) -> Self {
        Self {
            id: grant.id.uuid(),
            request_id: grant.request.uuid(),
            policy_id: grant.policy.uuid(),
            requester: grant.requester.to_string(),
            machine_id: grant.machine.to_string(),
            scope: grant.machine.scope().to_string(),
            ports: &grant.ports,
            sources: &grant.sources,
            duration_seconds: grant.duration.as_secs(),
            created_at: grant.created_at,
            not_after: grant.not_after,
            together: grant.together,
            state: StateColumns::of(&grant.state),
        }
    }
}
