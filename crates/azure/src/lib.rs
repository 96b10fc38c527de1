//! The Azure enforcer: grants and lockdowns as security rules of network security groups.
//!
//! One kind of point, the NSG. A lockdown is a deny of ours above everybody's allows for the guarded ports; a
//! grant is an allow of ours directly above that deny, so that a deny which somebody else put higher keeps its
//! say. Where numbers run out, grants share a rule. [`plan`] makes every choice on an [`plan::ObservedNsg`] and talks to
//! nobody; the rest reads from Azure Resource Manager and carries out one [`operation::Operation`] at a time.
//!
//! Established connections are not cut when a rule goes: NSGs are stateful ("How network security groups filter
//! network traffic", Azure documentation). A closed grant means that the rule is closed.

mod apply;
mod arm;
mod config;
mod discover;
mod effective;
mod enforcer;
pub mod firewall;
mod observe;
pub mod operation;
pub mod plan;
pub mod rbac;
mod sweep;

pub use config::{AzureConfig, AzureCredential, PriorityBand};
pub use enforcer::AzureEnforcer;
