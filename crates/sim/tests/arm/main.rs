//! The ARM simulator from outside: what it answers on the wire, and what it says got through.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod authorization;
mod client;
mod firewall;
mod front_door;
mod load_balancer;
mod resources;
mod security_groups;
mod sources;
mod started;
mod truth;
