//! Shapes: from what the API takes to the domain, and from the domain to what the API shows.

pub(crate) mod access_request;
pub(crate) mod access_review;
pub(crate) mod audit_event;
pub(crate) mod delivery;
pub(crate) mod freeze;
pub(crate) mod grant;
pub(crate) mod jit_policy;
pub(crate) mod lease;
pub(crate) mod machine;
pub(crate) mod review;
pub(crate) mod role;
