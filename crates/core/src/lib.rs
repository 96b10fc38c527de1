//! The domain of Postern, pure: no runtime, no SQL, no HTTP, no clock and no randomness of its own.
//!
//! The words are those of the design: a [`machine::MachineId`] is covered by a [`policy::JitPolicy`]; an
//! [`request::AccessRequest`] becomes one [`grant::Grant`] per machine; a grant is open when every hop, an
//! enforcement point ([`point::PointRef`]) on the way to the machine, lets it through; an
//! [`enforcer::Enforcer`] is the code for one cloud.

pub mod access_review;
pub mod address;
pub mod approach;
pub mod approval;
pub mod audit;
pub mod authentication;
pub mod budget;
pub mod cloud_roles;
pub mod enforcer;
pub mod firewall;
pub mod freeze;
pub mod grant;
pub mod id;
pub mod inventory;
pub mod justification;
pub mod lease;
pub mod machine;
pub mod mark;
pub mod net;
pub mod nsg;
pub mod point;
pub mod policy;
pub mod posture;
pub mod preview;
pub mod principal;
pub mod reach;
pub mod request;
pub mod review;
pub mod role;
pub mod scope;
pub mod sg;
pub mod testing;
pub mod text;
pub mod time;
