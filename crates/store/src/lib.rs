//! Postgres: every SQL statement, the audit log, the journal, the due queue.
//!
//! [`Store`] reads; [`Tx`] reads and writes within one transaction, and a row that it reads one by one is locked
//! until the end of it. Every statement is checked against the schema at build time (`.sqlx/`, refreshed by
//! `scripts/sqlx-prepare`).
//!
//! **Time.** Every timestamp comes from the caller's clock, in whole microseconds, except leases, of points and of
//! access: they live in the database's own time, the one clock that all replicas share.
//!
//! **Locks.** A transaction locks rows in this order, so that no two wait for each other: access leases, freezes,
//! policies, requests, grants (by id), points (by id). Access reviews come before their items, those before role
//! assignments (by id), and those before the version of all of them. [`Tx::mark_due`] and [`Tx::finish`] therefore come last. [`Tx::intend`] takes a
//! lock that only the leasing of a point collides with, and after [`Tx::lease`] nothing else may be locked.

mod access_reviews;
mod audit;
mod batch;
mod coverage;
mod decode;
mod discovered;
mod discovery_turn;
mod displaced;
mod due;
mod error;
mod findings;
mod freezes;
mod grants;
mod hops;
mod idempotency;
mod journal;
mod last_uses;
mod leases;
mod look;
mod machines;
mod outbox;
mod page;
mod points;
mod policies;
mod pool;
mod progress;
mod reminders;
mod requests;
mod restores;
mod reviews;
mod role_lists;
mod roles;
mod servers;
mod starts;
mod targets;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use crate::{
    access_reviews::{AccessReviewFilter, ItemCounts, StoredItem},
    audit::{AuditFilter, Order, StoredEvent},
    coverage::{CoverageChange, Covered},
    discovered::{Asked, Gone, MachineRow, SavedMachines},
    due::{Due, DueListener, Lease, Lessee, Next, Urgency},
    error::{Conflict, StoreError},
    findings::{NewFinding, StoredFinding},
    freezes::FreezeFilter,
    grants::GrantFilter,
    hops::{Hop, HopUpdate},
    idempotency::{Claim, SentKey},
    journal::{JournalEntry, NewPass, SettledChange},
    last_uses::LastUses,
    leases::NewAccessLease,
    look::{GrantHere, Look},
    machines::{MachineFilter, PointOfMachine, StoredMachine},
    outbox::{
        Attempted, Delivery, DeliveryFilter, DeliveryStatus, OutboxListener, SubscriberLease, Subscription,
        Waiting,
    },
    page::{Page, Visible},
    points::Point,
    pool::{Store, StoreOptions, Tx},
    progress::{Progress, ProgressListener},
    requests::RequestFilter,
    restores::Restore,
    reviews::ReviewFilter,
    role_lists::AssignmentFilter,
    roles::{Authz, Removal},
    servers::Sharing,
};
