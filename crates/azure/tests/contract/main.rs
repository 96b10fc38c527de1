//! The Azure enforcer over the ARM simulator: what it promises, on the wire.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

mod balancer;
mod capacity;
mod copies;
mod effective;
mod exposed;
mod firewall;
mod others;
mod pages;
mod parents;
mod rbac;
mod refused;
mod scene;
mod shapes;
mod story;
mod unread;
mod wire;
