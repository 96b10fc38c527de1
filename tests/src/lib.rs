//! A world for black-box tests: both simulated clouds with a small fleet, an identity provider, a private Postgres,
//! and the server as a process of its own that can be killed.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "everything here serves tests, which fail by panicking"
)]

pub mod crash;
pub mod github;
pub mod metric;
pub mod owners;
pub mod process;
pub mod python;
pub mod soundness;
pub mod world;

pub use process::ServerProcess;
pub use world::{Person, World, WorldOptions};
