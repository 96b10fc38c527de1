//! What Azure says when it says no: the error body and its status.

use http::StatusCode;
use serde_json::{Value, json};

/// An ARM error. The network provider's carry an empty `details` list, the front door's none, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ArmError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The error code.
    pub code: String,
    /// The message.
    pub message: String,
    /// Inner codes and messages.
    pub details: Option<Vec<(String, String)>>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

impl ArmError {
    /// An error of the front door or the compute provider.
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code: code.to_owned(),
            message: message.into(),
            details: None,
            retry_after: None,
        }
    }

    /// An error of the network provider.
    pub(super) fn network(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            details: Some(Vec::new()),
            ..Self::new(status, code, message)
        }
    }

    pub(super) fn with_detail(mut self, code: &str, message: impl Into<String>) -> Self {
        self.details
            .get_or_insert_default()
            .push((code.to_owned(), message.into()));
        self
    }

    pub(super) fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The member `error` of a body.
    pub(super) fn to_value(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Some(details), Some(error)) = (&self.details, error.as_object_mut()) {
            let details: Vec<Value> = details
                .iter()
                .map(|(code, message)| json!({ "code": code, "message": message }))
                .collect();
            error.insert("details".to_owned(), Value::Array(details));
        }
        error
    }
}
