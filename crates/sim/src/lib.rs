//! EC2 and ARM simulators on the wire protocols, with faults and a truth log.
//!
//! Each simulator is an HTTP server on loopback that holds the state of one cloud behind one mutex,
//! refuses what the cloud refuses and writes down every change ([`truth`]). In front of the state lies
//! the fault layer ([`fault`]), the same for both clouds. The crate depends on no other crate of this
//! workspace, so that it cannot share the product's misunderstandings.

pub mod arm;
pub mod clock;
pub mod count;
pub mod ec2;
pub mod fault;
pub mod http;
pub mod ids;
pub mod truth;

pub use clock::{SimClock, SteppedClock, SystemClock};
pub use count::Calls;
pub use fault::{Effect, FaultId, FaultRule, Faults, When};
pub use http::{Cloud, Failure, Handle, Instruments};
pub use ids::Ids;
pub use truth::{Change, Interval, Judge, Moment, Probe, Protocol, Truth, World};
