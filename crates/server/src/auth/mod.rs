//! Authentication: from a bearer token to a principal, and nothing else.

pub(crate) mod assumed;
pub(crate) mod authenticator;
pub(crate) mod claims;
pub(crate) mod config;
pub(crate) mod failed;
pub(crate) mod fetch;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod token;

pub(crate) use authenticator::{Authenticator, Rejected};
