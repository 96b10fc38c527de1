//! The EC2 simulator from outside: what it answers on the wire, and what it says got through.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

mod addresses;
mod calls;
mod faults;
mod raw;
mod security_groups;
mod shapes;
mod truth;
