//! The EC2 enforcer: temporary security groups for grants, displaced rules for lockdowns.
//!
//! Two kinds of point. At an instance, a grant is a rule in a temporary group of ours, the *holder*, which is
//! attached to the instance's interfaces while any grant is open. At a group that others own, a lockdown takes
//! the rules for guarded ports out of the way and keeps *residual* rules for the ports around them.
//!
//! [`plan`] makes every choice and talks to nobody; the rest reads from EC2 into [`plan::instance::ObservedInstance`] and
//! [`plan::group::ObservedGroup`], and carries out one [`operation::Operation`] at a time.
//!
//! Established connections are not cut when a rule goes: EC2 tracks connections ("Security group connection
//! tracking", Amazon EC2 User Guide). A closed grant means that the rule is closed.

mod apply;
mod budget;
mod client;
mod config;
mod credentials;
mod discover;
mod enforcer;
mod error;
mod gather;
mod observe;
pub mod operation;
pub mod plan;
mod recent;
mod regroup;
mod sweep;
mod wire;

pub use config::{AssumeRole, AwsAccount, AwsConfig, AwsLimits, BaseCredentials};
pub use enforcer::AwsEnforcer;
