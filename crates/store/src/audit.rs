//! The audit log: appended to, read, never changed.

mod sight;

use std::collections::BTreeMap;

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    id::{ChangeId, EventId, GrantId, PassId, PolicyId, RequestId},
    machine::MachineId,
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

use self::sight::Sight;

/// The numbers of at most so many events are looked up by their time: some 2 ms of work.
const NARROW: i64 = 10_000;

/// The numbers of at most so many events are looked up by who may see them: 2 ms of work, and as much again to plan a
/// search among them.
const FEW: i64 = 4_000;

/// At most so many scopes are asked for the events on a page, one by one: 2 ms of work.
const PLACES: i64 = 200;

/// Numbers rise with time but for transactions that overlap. A span whose numbers lie in a range of at most so many times
/// its events is read in the range; another is read by its time and then put in order.
const SCATTERED: i64 = 4;

/// Up to where something is little, and read in another way than much of it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Events between two instants.
    pub narrow: i64,
    /// Events that somebody may see.
    pub few: i64,
    /// Scopes with events that somebody may see.
    pub places: i64,
}

const BOUNDS: Bounds = Bounds {
    narrow: NARROW,
    few: FEW,
    places: PLACES,
};

/// Which events to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Who asks; see [`Visible`] (nobody owns an event).
    pub visible: Visible,
    /// Whose action begins with this, such as `grant.`.
    pub action_prefix: Option<String>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// By this actor: a principal's reference, `system:<component>` or `anonymous`.
    pub actor: Option<String>,
    /// At or below this scope.
    pub scope: Option<Scope>,
    /// About this machine.
    pub machine: Option<MachineId>,
    /// About this grant.
    pub grant: Option<GrantId>,
    /// About this request.
    pub request: Option<RequestId>,
    /// About this policy.
    pub policy: Option<PolicyId>,
    /// About this point, by its native name.
    pub point: Option<String>,
    /// At or after.
    pub since: Option<Instant>,
    /// Before.
    pub until: Option<Instant>,
}

/// From which end to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    #[default]
    NewestFirst,
    /// The oldest first.
    OldestFirst,
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number. Numbers rise in the order of writing; events of transactions that ran side by side may become
    /// visible in another order, and a number whose transaction failed is missing.
    pub seq: i64,
    /// The event.
    pub event: AuditEvent,
}

#[derive(Serialize)]
struct NewEvent<'a> {
    id: Uuid,
    at: Instant,
    action: &'a str,
    outcome: Outcome,
    actor: &'a Actor,
    actor_ref: String,
    scope: &'a Scope,
    reason: &'a Option<String>,
    decision: &'a Option<Value>,
    details: &'a Value,
    request_id: Option<Uuid>,
    grant_id: Option<Uuid>,
    policy_id: Option<Uuid>,
    machine_id: &'a Option<MachineId>,
    point: &'a Option<String>,
    pass_id: Option<Uuid>,
    change_id: Option<Uuid>,
    http_request: &'a Option<String>,
}

fn actor_ref(actor: &Actor) -> String {
    match actor {
        Actor::Principal { principal } => principal.to_string(),
        Actor::System { component } => format!("system:{component}"),
        Actor::Anonymous => "anonymous".to_owned(),
    }
}

impl Tx {
    /// Appends events, in this order.
    pub async fn audit(&mut self, events: &[AuditEvent]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let new: Vec<NewEvent<'_>> = events.iter().map(NewEvent::of).collect();
        let appended = sqlx::query!(
            "INSERT INTO audit_events (id, at, action, outcome, actor, actor_ref, scope, reason, decision, details,
                 request_id, grant_id, policy_id, machine_id, point, pass_id, change_id, http_request)
             SELECT id, at, action, outcome, actor, actor_ref, scope, reason, decision,
                 -- SQL's NULL is how a record shows JSON's.
                 coalesce(details, 'null'), request_id, grant_id, policy_id, machine_id, point, pass_id, change_id,
                 http_request
             FROM ROWS FROM (jsonb_to_recordset($1) AS (id uuid, at timestamptz, action text, outcome text,
                     actor jsonb, actor_ref text, scope text, reason text, decision jsonb, details jsonb,
                     request_id uuid, grant_id uuid, policy_id uuid, machine_id text, point text, pass_id uuid,
                     change_id uuid, http_request text))
                 WITH ORDINALITY
                 AS n (id, at, action, outcome, actor, actor_ref, scope, reason, decision, details, request_id,
                     grant_id, policy_id, machine_id, point, pass_id, change_id, http_request, nth)
             ORDER BY nth",
            document(&new)?,
        )
        .execute(&mut *self.inner)
        .await?;
        debug_assert_eq!(usize::try_from(appended.rows_affected()), Ok(events.len()));
        Ok(())
    }
}

impl<'a> NewEvent<'a> {
    fn of(event: &'a AuditEvent) -> Self {
        let subject = &event.subject;
        Self {
            id: event.id.uuid(),
            at: event.at,
            action: &event.action,
            outcome: event.outcome,
            actor: &event.actor,
            actor_ref: actor_ref(&event.actor),
            scope: &event.scope,
            reason: &event.reason,
            decision: &event.decision,
            details: &event.details,
            request_id: subject.request.map(RequestId::uuid),
            grant_id: subject.grant.map(GrantId::uuid),
            policy_id: subject.policy.map(PolicyId::uuid),
            machine_id: &subject.machine,
            point: &subject.point,
            pass_id: subject.pass.map(PassId::uuid),
            change_id: subject.change.map(ChangeId::uuid),
            http_request: &event.http_request,
        }
    }
}

/// A row of `audit_events`.
struct Row {
    seq: i64,
    id: Uuid,
    at: Instant,
    action: String,
    outcome: String,
    actor: Value,
    scope: String,
    reason: Option<String>,
    decision: Option<Value>,
    details: Value,
    request_id: Option<Uuid>,
    grant_id: Option<Uuid>,
    policy_id: Option<Uuid>,
    machine_id: Option<String>,
    point: Option<String>,
    pass_id: Option<Uuid>,
    change_id: Option<Uuid>,
    http_request: Option<String>,
}

impl TryFrom<Row> for StoredEvent {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let machine = row
            .machine_id
            .as_deref()
            .map(|id| decode::text("audit_events", "machine_id", id));
        Ok(Self {
            seq: row.seq,
            event: AuditEvent {
                id: EventId::from_uuid(row.id),
                at: row.at,
                action: row.action,
                outcome: decode::word("audit_events", "outcome", row.outcome)?,
                actor: decode::json("audit_events", "actor", row.actor)?,
                scope: decode::text("audit_events", "scope", &row.scope)?,
                reason: row.reason,
                decision: row.decision,
                details: row.details,
                subject: Subject {
                    request: row.request_id.map(RequestId::from_uuid),
                    grant: row.grant_id.map(GrantId::from_uuid),
                    policy: row.policy_id.map(PolicyId::from_uuid),
                    machine: machine.transpose()?,
                    point: row.point,
                    pass: row.pass_id.map(PassId::from_uuid),
                    change: row.change_id.map(ChangeId::from_uuid),
                },
                http_request: row.http_request,
            },
        })
    }
}

/// How the events between two instants lie in the log.
#[derive(Debug, Clone, Copy)]
enum Span {
    /// No instant is asked for.
    All,
    /// All between these numbers, or nearly so; none at all where the first is above the last.
    Dense { first: i64, last: i64 },
    /// Few, far apart.
    Scattered,
    /// Too many to look each up.
    Wide,
}

// Many scopes are held against an event's own and the three above it.
const _: () = assert!(Scope::MAX_DEPTH == 4);

/// Rows that match `$filter` with numbers between `$above` and `$below`, with `$tail` after the conditions. `$at` is the
/// time of an event, as the span's bounds are held against it.
macro_rules! events {
    ($at:literal, $tail:literal, $filter:expr, $sight:expr, $above:expr, $below:expr, $limit:expr) => {
        sqlx::query_as!(
            Row,
            "SELECT seq, id, at, action, outcome, actor, scope, reason, decision, details, request_id, grant_id,
                 policy_id, machine_id, point, pass_id, change_id, http_request
             FROM audit_events e
             WHERE ($1::text[] IS NULL
                     OR e.scope = $1[1] OR (e.scope > $1[1] || '/' AND e.scope < $1[1] || '0')
                     OR e.scope = $1[2] OR (e.scope > $1[2] || '/' AND e.scope < $1[2] || '0')
                     OR e.scope = $1[3] OR (e.scope > $1[3] || '/' AND e.scope < $1[3] || '0')
                     OR (cardinality($1) > 3 AND (
                         e.scope = ANY ($1)
                         OR '/' || split_part(e.scope, '/', 2) = ANY ($1)
                         OR '/' || split_part(e.scope, '/', 2) || '/' || split_part(e.scope, '/', 3) = ANY ($1)
                         OR '/' || split_part(e.scope, '/', 2) || '/' || split_part(e.scope, '/', 3)
                             || '/' || split_part(e.scope, '/', 4) = ANY ($1))))
               AND ($16::bigint[] IS NULL OR e.seq = ANY ($16))
               AND ($2::text IS NULL OR starts_with(e.action, $2))
               AND ($3::text IS NULL OR e.outcome = $3)
               AND ($4::text IS NULL OR e.actor_ref = $4)
               AND ($5::text IS NULL OR e.scope = $5 OR (e.scope > $5 || '/' AND e.scope < $5 || '0'))
               AND ($6::text IS NULL OR e.machine_id = $6)
               AND ($7::uuid IS NULL OR e.grant_id = $7)
               AND ($8::uuid IS NULL OR e.request_id = $8)
               AND ($9::uuid IS NULL OR e.policy_id = $9)
               AND ($10::text IS NULL OR e.point = $10)
               AND e.seq > $13 AND e.seq < $14
               AND ($11::timestamptz IS NULL OR " + $at + " >= $11)
               AND ($12::timestamptz IS NULL OR " + $at + " < $12)
             " + $tail,
            $sight.scopes(),
            $filter.action_prefix.as_deref().map(clean),
            $filter.outcome.map(Outcome::as_str),
            $filter.actor.as_deref().map(clean),
            match $sight {
                Sight::Few(_) => None,
                Sight::All | Sight::Below(_) => scope_text($filter.scope.as_ref()),
            },
            $filter.machine.as_ref().map(MachineId::to_string),
            $filter.grant.map(GrantId::uuid),
            $filter.request.map(RequestId::uuid),
            $filter.policy.map(PolicyId::uuid),
            $filter.point.as_deref().map(clean),
            $filter.since,
            $filter.until,
            $above,
            $below,
            $limit,
            $sight.numbers(),
        )
    };
}

impl Store {
    /// Events; `after` is the cursor of the page before, which is the number of its last event.
    pub async fn audit_events(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: u32,
        order: Order,
    ) -> Result<Page<StoredEvent, i64>, StoreError> {
        self.audit_page(filter, after, limit, order, BOUNDS).await
    }

    /// As [`Store::audit_events`], with other bounds.
    pub(crate) async fn audit_page(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: u32,
        order: Order,
        bounds: Bounds,
    ) -> Result<Page<StoredEvent, i64>, StoreError> {
        let fetch = Page::<(), ()>::fetch(limit);
        let sight = self.sight(bounds, filter, after, fetch, order).await?;
        let span = match &sight {
            Sight::Few(numbers) if numbers.is_empty() => {
                return Ok(Page::of(Vec::new(), limit, |stored: &StoredEvent| stored.seq));
            }
            Sight::Few(_) => Span::All,
            Sight::All | Sight::Below(_) => self.span(bounds.narrow, filter).await?,
        };
        let (mut above, mut below) = match span {
            Span::Dense { first, last } => (first.saturating_sub(1), last.saturating_add(1)),
            Span::All | Span::Scattered | Span::Wide => (i64::MIN, i64::MAX),
        };
        let near = match span {
            Span::Wide if after.is_none() => self.near_edge(filter, order).await?,
            _ => after,
        };
        match order {
            Order::NewestFirst => below = below.min(near.unwrap_or(i64::MAX)),
            Order::OldestFirst => above = above.max(near.unwrap_or(i64::MIN)),
        }
        // Postgres does not know that numbers and times rise together. Where the numbers say enough, the times are hidden
        // from its planner, which would take both for rare, read the whole span and sort it; and where they say nothing,
        // the order by number is, or it would walk through the log in that order until it comes to the span.
        macro_rules! read {
            ($at:tt, $tail:tt) => {
                events!($at, $tail, filter, sight, above, below, fetch)
                    .fetch_all(&self.lists)
                    .await?
            };
        }
        let rows = match (order, span) {
            (Order::NewestFirst, Span::All | Span::Dense { .. }) => {
                read!("(e.at + interval '0')", "ORDER BY e.seq DESC LIMIT $15")
            }
            (Order::OldestFirst, Span::All | Span::Dense { .. }) => {
                read!("(e.at + interval '0')", "ORDER BY e.seq LIMIT $15")
            }
            (Order::NewestFirst, Span::Wide) => read!("e.at", "ORDER BY e.seq DESC LIMIT $15"),
            (Order::OldestFirst, Span::Wide) => read!("e.at", "ORDER BY e.seq LIMIT $15"),
            (Order::NewestFirst, Span::Scattered) => read!("e.at", "ORDER BY e.seq + 0 DESC LIMIT $15"),
            (Order::OldestFirst, Span::Scattered) => read!("e.at", "ORDER BY e.seq + 0 LIMIT $15"),
        };
        let events = rows
            .into_iter()
            .map(StoredEvent::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(events, limit, |stored| stored.seq))
    }

    /// Where the events between the filter's instants are, when they are few.
    async fn span(&self, narrow: i64, filter: &AuditFilter) -> Result<Span, StoreError> {
        if filter.since.is_none() && filter.until.is_none() {
            return Ok(Span::All);
        }
        let found = sqlx::query!(
            r#"SELECT count(*) AS "events!", coalesce(min(seq), 1) AS "first!", coalesce(max(seq), 0) AS "last!" FROM (
                   SELECT seq FROM audit_events
                   WHERE ($1::timestamptz IS NULL OR at >= $1) AND ($2::timestamptz IS NULL OR at < $2)
                   LIMIT $3) AS span"#,
            filter.since,
            filter.until,
            narrow.saturating_add(1),
        )
        .fetch_one(&self.lists)
        .await?;
        let (first, last) = (found.first, found.last);
        Ok(if found.events > narrow {
            Span::Wide
        } else if last.saturating_sub(first) > found.events.saturating_mul(SCATTERED) {
            Span::Scattered
        } else {
            Span::Dense { first, last }
        })
    }

    /// Where a wide span begins on the side that is read first, as a cursor, when that is not an end of the log: what
    /// lies before would only be walked past.
    async fn near_edge(&self, filter: &AuditFilter, order: Order) -> Result<Option<i64>, StoreError> {
        // `OFFSET 0`: found in the index by time, and not by walking either.
        match order {
            Order::NewestFirst if filter.until.is_some() => {
                let last = sqlx::query_scalar!(
                    "SELECT max(seq) FROM (
                         SELECT seq FROM audit_events
                         WHERE ($1::timestamptz IS NULL OR at >= $1) AND at < $2 OFFSET 0) AS span",
                    filter.since,
                    filter.until,
                )
                .fetch_one(&self.lists)
                .await?;
                Ok(Some(last.map_or(i64::MIN, |last| last.saturating_add(1))))
            }
            Order::OldestFirst if filter.since.is_some() => {
                let first = sqlx::query_scalar!(
                    "SELECT min(seq) FROM (
                         SELECT seq FROM audit_events
                         WHERE at >= $1 AND ($2::timestamptz IS NULL OR at < $2) OFFSET 0) AS span",
                    filter.since,
                    filter.until,
                )
                .fetch_one(&self.lists)
                .await?;
                Ok(Some(first.map_or(i64::MAX, |first| first.saturating_sub(1))))
            }
            Order::NewestFirst | Order::OldestFirst => Ok(None),
        }
    }

    /// The events with these ids; those of no event are left out.
    pub(crate) async fn events_by_id(
        &self,
        ids: &[Uuid],
    ) -> Result<BTreeMap<EventId, StoredEvent>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT seq, id, at, action, outcome, actor, scope, reason, decision, details, request_id, grant_id,
                 policy_id, machine_id, point, pass_id, change_id, http_request
             FROM audit_events WHERE id = ANY ($1)",
            ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| StoredEvent::try_from(row).map(|stored| (stored.event.id, stored)))
        .collect()
    }
}
