//! The API from outside: real sockets, a real database, tokens minted here.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

mod access_reviews;
mod approval;
mod attack;
mod authentication;
mod bad_input;
mod break_glass;
mod contention;
mod deliveries;
mod detours;
mod document;
mod forged;
mod freezes;
mod gathering;
mod guardrails;
mod idempotency;
mod issuer;
mod later;
mod leases;
mod lifecycle;
mod matrix;
mod my_address;
mod preflight;
mod restored;
mod rig;
mod role_terms;
mod seeing;
mod separation;
mod serving;
mod step_up;
mod story;
mod tickets;
