//! The outbox: which events somebody is still to be told of. Deliveries are written by a trigger, with the events.
//!
//! One server at a time delivers to a subscriber, under a lease in the database's own time, and in the order of the
//! deliveries' numbers: a delivery that is not settled holds up those after it. A server that dies after it told
//! somebody and before it said so here tells them again; receivers know repetitions by the event's id.

use std::time::Duration;

use postern_core::{audit::Outcome, id::EventId, scope::Scope, time::Instant};
use sqlx::postgres::PgListener;

use crate::{Page, Store, StoreError, StoredEvent, batch::clean, decode};

const CHANNEL: &str = "postern_outbox";

/// Whom to tell of what, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The subscriber's name, unique.
    pub name: String,
    /// Events whose action is one of these or begins with one and a dot: `access_request`, `grant.open`. Never empty.
    pub actions: Vec<String>,
    /// And which have one of these outcomes. Never empty.
    pub outcomes: Vec<Outcome>,
    /// At or below this scope.
    pub scope: Scope,
}

/// One event for one subscriber, waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub id: i64,
    /// How often it was tried before.
    pub attempts: u32,
    /// When the event was written.
    pub created_at: Instant,
    /// The event.
    pub event: StoredEvent,
}

/// That this server alone delivers to a subscriber for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberLease {
    /// To whom.
    pub subscriber: String,
    owner: String,
    /// What waits and is due, in order.
    pub waiting: Vec<Waiting>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempted {
    /// The subscriber has it.
    Delivered,
    /// Not yet; to be tried again.
    Again {
        /// When.
        at: Instant,
        /// Why it failed.
        error: String,
    },
    /// Never, unless somebody replays it.
    Dead {
        /// Why it failed.
        error: String,
    },
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It is to be tried, for the first time or again.
    Waiting,
    /// The subscriber has it.
    Delivered,
    /// Given up.
    Dead,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Delivered, Self::Dead];

    /// The status' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// A delivery as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its number.
    pub id: i64,
    /// To whom.
    pub subscriber: String,
    /// Of which event.
    pub event: EventId,
    /// The event's action.
    pub action: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When the event was written.
    pub created_at: Instant,
    /// When it is tried next, while it waits.
    pub due_at: Option<Instant>,
    /// When it was delivered or given up.
    pub settled_at: Option<Instant>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Which deliveries to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// To whom.
    pub subscriber: Option<String>,
    /// Where they stand.
    pub status: Option<DeliveryStatus>,
}

struct DeliveryRow {
    id: i64,
    subscriber: String,
    event_id: uuid::Uuid,
    action: String,
    status: String,
    attempts: i32,
    created_at: Instant,
    due_at: Instant,
    settled_at: Option<Instant>,
    last_error: Option<String>,
}

impl TryFrom<DeliveryRow> for Delivery {
    type Error = StoreError;

    fn try_from(row: DeliveryRow) -> Result<Self, StoreError> {
        let status = DeliveryStatus::ALL
            .into_iter()
            .find(|status| status.as_str() == row.status);
        let status = decode::present("deliveries", "status", status)?;
        Ok(Self {
            id: row.id,
            subscriber: row.subscriber,
            event: EventId::from_uuid(row.event_id),
            action: row.action,
            status,
            attempts: decode::convert("deliveries", "attempts", row.attempts)?,
            created_at: row.created_at,
            due_at: (status == DeliveryStatus::Waiting).then_some(row.due_at),
            settled_at: row.settled_at,
            last_error: row.last_error,
        })
    }
}

/// Hears when there is something to deliver.
#[derive(Debug)]
pub struct OutboxListener {
    inner: PgListener,
}

impl OutboxListener {
    /// Waits for the next event that somebody is to be told of. A hint only.
    pub async fn heard(&mut self) -> Result<(), StoreError> {
        self.inner.recv().await?;
        while self.inner.next_buffered().is_some() {}
        Ok(())
    }
}

impl Store {
    /// Starts to listen, on a connection of its own.
    pub async fn outbox_listener(&self) -> Result<OutboxListener, StoreError> {
        let mut inner = PgListener::connect_with(&self.pool).await?;
        inner.listen(CHANNEL).await?;
        Ok(OutboxListener { inner })
    }

    /// Makes these the subscribers. What waits for one that is not among them is given up at `now`.
    pub async fn subscribe(&self, subscriptions: &[Subscription], now: Instant) -> Result<(), StoreError> {
        let names: Vec<String> = subscriptions.iter().map(|one| clean(&one.name)).collect();
        let mut tx = self.begin().await?;
        for one in subscriptions {
            let outcomes: Vec<String> = one.outcomes.iter().map(|o| o.as_str().to_owned()).collect();
            sqlx::query!(
                "INSERT INTO subscribers (name, actions, outcomes, scope, active) VALUES ($1, $2, $3, $4, true)
                 ON CONFLICT (name) DO UPDATE
                 SET actions = excluded.actions, outcomes = excluded.outcomes, scope = excluded.scope, active = true",
                clean(&one.name),
                &one.actions,
                &outcomes,
                one.scope.to_string(),
            )
            .execute(&mut *tx.inner)
            .await?;
        }
        sqlx::query!(
            "UPDATE subscribers SET active = false WHERE active AND name <> ALL ($1)",
            &names
        )
        .execute(&mut *tx.inner)
        .await?;
        sqlx::query!(
            "UPDATE deliveries SET status = 'dead', settled_at = $2, last_error = 'the subscriber is not configured any more'
             WHERE status = 'waiting' AND subscriber <> ALL ($1)",
            &names,
            now,
        )
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await
    }

    /// Leases a subscriber whose first waiting delivery is due at `now` and to whom nobody else delivers, with up to
    /// `limit` of what waits for it.
    pub async fn lease_subscriber(
        &self,
        owner: &str,
        lease_for: Duration,
        limit: u32,
        now: Instant,
    ) -> Result<Option<SubscriberLease>, StoreError> {
        let Some(subscriber) = sqlx::query_scalar!(
            "UPDATE subscribers SET lease_owner = $1,
                 lease_until = clock_timestamp() + make_interval(secs => $2)
             WHERE name = (
                 SELECT s.name FROM subscribers s
                 CROSS JOIN LATERAL (SELECT d.due_at FROM deliveries d
                     WHERE d.subscriber = s.name AND d.status = 'waiting' ORDER BY d.id LIMIT 1) AS first
                 WHERE s.active AND first.due_at <= $3
                   AND (s.lease_until IS NULL OR s.lease_until < clock_timestamp())
                 ORDER BY first.due_at LIMIT 1 FOR UPDATE OF s SKIP LOCKED)
             RETURNING name",
            owner,
            lease_for.as_secs_f64(),
            now,
        )
        .fetch_optional(&self.pool)
        .await?
        else {
            return Ok(None);
        };
        let rows = sqlx::query!(
            "SELECT id, attempts, created_at, event_id FROM deliveries
             WHERE subscriber = $1 AND status = 'waiting' ORDER BY id LIMIT $2",
            &subscriber,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?;
        let ids: Vec<uuid::Uuid> = rows.iter().map(|row| row.event_id).collect();
        let events = self.events_by_id(&ids).await?;
        let mut waiting = Vec::with_capacity(rows.len());
        for row in rows {
            let event = events.get(&EventId::from_uuid(row.event_id)).cloned();
            waiting.push(Waiting {
                id: row.id,
                attempts: decode::convert("deliveries", "attempts", row.attempts)?,
                created_at: row.created_at,
                event: decode::present("deliveries", "event_id", event)?,
            });
        }
        Ok(Some(SubscriberLease {
            subscriber,
            owner: owner.to_owned(),
            waiting,
        }))
    }

    /// Writes what became of an attempt, and makes the lease last for `lease_for` from now. False when the lease was
    /// lost meanwhile: another server delivers, and this one must stop.
    pub async fn attempted(
        &self,
        lease: &SubscriberLease,
        delivery: i64,
        attempted: &Attempted,
        lease_for: Duration,
        now: Instant,
    ) -> Result<bool, StoreError> {
        let (status, due_at, error) = match attempted {
            Attempted::Delivered => (DeliveryStatus::Delivered, None, None),
            Attempted::Again { at, error } => (DeliveryStatus::Waiting, Some(*at), Some(clean(error))),
            Attempted::Dead { error } => (DeliveryStatus::Dead, None, Some(clean(error))),
        };
        let settled_at = (status != DeliveryStatus::Waiting).then_some(now);
        let mut tx = self.begin().await?;
        if !Self::prolong(&mut *tx.inner, lease, lease_for).await? {
            return Ok(false);
        }
        sqlx::query!(
            "UPDATE deliveries SET status = $2, attempts = attempts + 1, due_at = coalesce($3, due_at),
                 settled_at = $4, last_error = $5
             WHERE id = $1 AND status = 'waiting'",
            delivery,
            status.as_str(),
            due_at,
            settled_at,
            error,
        )
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Makes the lease last for `lease_for` from now. False when it was lost: another server delivers.
    pub async fn renew_subscriber(
        &self,
        lease: &SubscriberLease,
        lease_for: Duration,
    ) -> Result<bool, StoreError> {
        Self::prolong(&self.pool, lease, lease_for).await
    }

    async fn prolong(
        executor: impl sqlx::PgExecutor<'_>,
        lease: &SubscriberLease,
        lease_for: Duration,
    ) -> Result<bool, StoreError> {
        let held = sqlx::query!(
            "UPDATE subscribers SET lease_until = clock_timestamp() + make_interval(secs => $3)
             WHERE name = $1 AND lease_owner = $2 AND lease_until > clock_timestamp()",
            &lease.subscriber,
            &lease.owner,
            lease_for.as_secs_f64(),
        )
        .execute(executor)
        .await?;
        Ok(held.rows_affected() == 1)
    }

    /// Gives a subscriber back.
    pub async fn release_subscriber(&self, lease: &SubscriberLease) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE subscribers SET lease_owner = NULL, lease_until = NULL WHERE name = $1 AND lease_owner = $2",
            &lease.subscriber,
            &lease.owner,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// When the next delivery is due, of those to whom nobody delivers just now.
    pub async fn next_delivery(&self) -> Result<Option<Instant>, StoreError> {
        Ok(sqlx::query_scalar!(
            "SELECT min(first.due_at) FROM subscribers s
             CROSS JOIN LATERAL (SELECT d.due_at FROM deliveries d
                 WHERE d.subscriber = s.name AND d.status = 'waiting' ORDER BY d.id LIMIT 1) AS first
             WHERE s.active AND (s.lease_until IS NULL OR s.lease_until < clock_timestamp())",
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Deliveries, the newest first; `after` is the cursor of the page before.
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Page<Delivery, i64>, StoreError> {
        let rows = sqlx::query_as!(
            DeliveryRow,
            "SELECT d.id, d.subscriber, d.event_id, e.action, d.status, d.attempts, d.created_at, d.due_at,
                 d.settled_at, d.last_error
             FROM deliveries d JOIN audit_events e ON e.id = d.event_id
             WHERE ($1::text IS NULL OR d.subscriber = $1)
               AND ($2::text IS NULL OR d.status = $2)
               AND ($3::bigint IS NULL OR d.id < $3)
             ORDER BY d.id DESC LIMIT $4",
            filter.subscriber.as_deref().map(clean),
            filter.status.map(DeliveryStatus::as_str),
            after,
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?;
        let deliveries = rows
            .into_iter()
            .map(Delivery::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(deliveries, limit, |delivery| delivery.id))
    }

    /// Forgets deliveries that arrived before `before`. Those that were given up stay, until somebody replays them.
    pub async fn forget_deliveries(&self, before: Instant) -> Result<u64, StoreError> {
        let forgotten = sqlx::query!(
            "DELETE FROM deliveries WHERE status = 'delivered' AND settled_at < $1",
            before
        )
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }

    /// How many deliveries wait, and how many were given up.
    pub async fn count_deliveries(&self) -> Result<(i64, i64), StoreError> {
        let row = sqlx::query!(
            r#"SELECT count(*) FILTER (WHERE status = 'waiting') AS "waiting!",
                 count(*) FILTER (WHERE status = 'dead') AS "dead!"
               FROM deliveries WHERE status <> 'delivered'"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.waiting, row.dead))
    }
}

impl crate::Tx {
    /// Makes a delivery that was given up wait again, due at `now`, and returns it. Nothing when there is no such
    /// delivery that was given up, or nobody is configured to get it.
    pub async fn replay_delivery(&mut self, id: i64, now: Instant) -> Result<Option<Delivery>, StoreError> {
        let row = sqlx::query_as!(
            DeliveryRow,
            "UPDATE deliveries d SET status = 'waiting', settled_at = NULL, due_at = $2, attempts = 0
             FROM subscribers s, audit_events e
             WHERE d.id = $1 AND d.status = 'dead' AND s.name = d.subscriber AND s.active AND e.id = d.event_id
             RETURNING d.id, d.subscriber, d.event_id, e.action, d.status, d.attempts, d.created_at, d.due_at,
                 d.settled_at, d.last_error",
            id,
            now,
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        if row.is_some() {
            sqlx::query!("SELECT pg_notify($1, '')", CHANNEL)
                .execute(&mut *self.inner)
                .await?;
        }
        row.map(Delivery::try_from).transpose()
    }
}
