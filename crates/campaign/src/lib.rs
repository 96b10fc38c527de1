//! The fault campaign: whole installations put through seeded misfortune, then judged by the simulators' truth logs.
//!
//! A run is a [`script`] drawn from one seed: a random fleet in both clouds, and steps that ask, approve, revoke,
//! change policies, edit rules behind Postern's back, break calls, kill servers and restart the database. Two server
//! processes with clocks that differ share one database. The same foreign edits are made to a second pair of
//! simulators that no Postern guards, the twins: at the end both pairs must stand alike.

pub mod additions;
pub mod clouds;
mod draw;
pub mod edit;
pub mod gate;
pub mod isolation;
pub mod judge;
pub mod lag;
pub mod play;
pub mod report;
pub mod run;
pub mod sabotage;
pub mod script;
pub mod server;
pub mod shapes;
pub mod template;
pub mod trail;
