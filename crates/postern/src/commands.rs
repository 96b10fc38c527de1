//! The commands of the command line, one room each.

pub mod access_reviews;
pub mod assignments;
pub mod audit;
pub mod authz;
pub mod completions;
pub mod config;
pub mod deliveries;
pub mod doctor;
pub mod freezes;
pub mod grants;
pub mod health;
pub mod lease;
pub mod machines;
pub mod migrate;
mod naming;
pub mod permissions;
pub mod policies;
pub mod request;
pub mod requests;
pub mod reviews;
pub mod roles;
pub mod serve;
pub mod ssh;
pub mod sweep;
pub mod token;
