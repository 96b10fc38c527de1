//! The REST API: authentication, authorization, handlers, their description, metrics.
//!
//! [`Server::bind`] serves until [`Running::shutdown`]. Handlers decide, write what is wanted and mark enforcement
//! points due, all in one transaction with its audit events; the reconcile loop does the rest. Nothing here
//! talks to a cloud.

mod access_review_turn;
mod access_reviewing;
mod agreeing;
mod assignment_reach;
mod auth;
mod bootstrap;
pub mod config;
mod decide;
mod deciding;
mod endpoints;
mod exposing;
mod failure;
mod flow;
mod foreseeing;
mod freezing;
mod gathering;
mod granting;
mod guardrails;
mod idempotency;
mod judging;
mod justifying;
mod leasing;
mod locking;
mod makers;
mod metrics;
mod my_address;
mod policies;
mod policy_plan;
mod preflight;
mod reading;
mod reviewing;
mod router;
mod second_yes;
mod serve;
mod shape;
mod starting;
mod state;
mod step_up;
mod tickets;
mod turning;
mod waiting;
mod withholding;

pub use config::ServerConfig;
pub use guardrails::Guardrails;
pub use router::openapi;
pub use serve::{Dependencies, Running, Server, StartError};
pub use state::EngineHealth;
pub use tickets::{Accept, TicketConfig};
