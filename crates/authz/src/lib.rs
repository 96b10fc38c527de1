//! The access decision: roles, assignments and guardrails over Cedar, every decision explained.
//!
//! An [`Authorizer`] is a snapshot of who may do what, immutable and cheap to share; whoever changes a role, an
//! assignment or the guardrails builds another. [`Authorizer::decide`] is pure: the same principal, action,
//! resource and [`Context`] give the same [`Decision`], which goes into the audit log as it is.
//!
//! - A role is a Cedar template, `permit (principal in ?principal, action in […], resource in ?resource)`; a role
//!   assignment is a link of it. A decision looks only at the links of the principal and its groups that stand
//!   at the resource's scope or above.
//! - A [`GuardrailSet`] holds `forbid` policies, checked against the schema when they are loaded.
//! - [`Networks`] are ranges of addresses with a name that guardrails may use.
//! - [`Authorizer::remedies`] says what would turn a denial into an allowance.
//! - [`Authorizer::outlook`] says what guardrails forbid somebody before they ask for anything.
//! - [`cases`] holds guardrails to what they were written for.
//! - Denied by default. A guardrail that cannot be evaluated is a denial, where Cedar alone would leave it out.

mod applicable;
mod authorizer;
pub mod cases;
mod decision;
mod entities;
mod guardrail;
mod looked_at;
mod memo;
mod network;
mod outlook;
mod remedy;

pub use authorizer::{Authorizer, AuthzError, UnknownRole};
pub use decision::{AllowedBy, Decision, Failure, ForbiddenBy, Missing};
pub use entities::{Context, Resource, ResourceKind};
pub use guardrail::{Difference, Guardrail, GuardrailError, GuardrailSet, SCHEMA};
pub use network::{InvalidNetworks, Networks};
pub use outlook::{Forbids, Outlook};
pub use remedy::{Change, Remedies};
