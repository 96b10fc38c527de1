//! Request and response types, error codes and the typed HTTP client: what the server and the CLI share.
//!
//! Texts such as ids (`grt_…`), ports (`22/tcp`), sources (CIDR), scopes and machine ids travel as strings;
//! the server parses them and says exactly what is wrong with one that it refuses.

pub mod access_check;
pub mod access_request;
pub mod access_review;
pub mod audit_event;
pub mod client;
pub mod delivery;
pub mod freeze;
pub mod grant;
pub mod jit_policy;
pub mod lease;
pub mod machine;
pub mod page;
pub mod preflight;
pub mod problem;
pub mod review;
pub mod role;

pub use client::{Client, ClientError};
pub use page::Page;
pub use problem::{ErrorCode, FieldError, Problem};
