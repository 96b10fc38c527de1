//! What an opening and a closing cost without Postern: the same cloud calls in the same order, and nothing else.

pub(crate) mod aws;
pub(crate) mod azure;

use std::time::Duration;

/// As the enforcers' own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// As the enforcers' own.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
