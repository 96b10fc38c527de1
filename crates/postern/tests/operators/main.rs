//! What operators do beside the server: permissions, sweeping, examining, over the simulated clouds.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod authz;
mod behind_firewall;
mod demo;
mod doctor;
mod iam;
mod newcomers;
mod people;
mod permissions;
mod reviewing;
mod rig;
mod serving;
mod speaking;
mod sweep;
mod telling;
