//! The Azure enforcer over the ARM simulator: what it promises, on the wire.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

mod capacity;
mod effective;
mod firewall;
mod others;
mod rbac;
mod scene;
mod shapes;
mod story;
mod wire;
