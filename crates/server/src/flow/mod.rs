//! What every request passes through: its id, its span, limits, who asks, and how problems are written.

pub(crate) mod again;
pub(crate) mod authenticate;
pub(crate) mod body;
pub(crate) mod client_address;
pub(crate) mod fallback;
pub(crate) mod limits;
pub(crate) mod page;
pub(crate) mod path;
pub(crate) mod precondition;
pub(crate) mod query;
pub(crate) mod respond;
