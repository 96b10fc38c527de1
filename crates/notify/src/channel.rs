//! The ways to tell somebody, as the notifier sees them.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::message::Message;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryError {
    /// What happened, for operators. Holds nothing secret: no address with a token in it, no credentials.
    pub message: String,
    /// Whether trying again is in vain: the receiver understood the message and will not have it.
    pub permanent: bool,
    /// When the receiver says to come back.
    pub retry_after: Option<Duration>,
}

impl DeliveryError {
    /// Something that may pass.
    pub fn passing(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            permanent: false,
            retry_after: None,
        }
    }
}

impl fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeliveryError {}

/// One way to tell one subscriber.
#[async_trait]
pub trait Channel: fmt::Debug + Send + Sync {
    /// Tells it. `attempted_at` is the time of this attempt.
    async fn deliver(
        &self,
        message: &Message,
        attempted_at: postern_core::time::Instant,
    ) -> Result<(), DeliveryError>;
}
