//! EC2 and STS errors: code, message and HTTP status, as the error reference lists them.
//!
//! Source: "Error codes for the Amazon EC2 API" (API reference, `errors-overview`) and "Common errors" of
//! the STS API reference. Messages follow what the service is known to say; clients should read the code.

use http::StatusCode;

/// What EC2 or STS answers to a refused call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Ec2Error {
    /// The HTTP status.
    pub status: StatusCode,
    /// The code that a client decides by, such as `InvalidPermission.Duplicate`.
    pub code: String,
    /// Text for people.
    pub message: String,
}

impl Ec2Error {
    /// A client error, HTTP 400.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self::with_status(StatusCode::BAD_REQUEST, code, message)
    }

    /// An error with its own status.
    pub fn with_status(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn invalid_value(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        Self::new(
            "MissingParameter",
            format!("The request must contain the parameter {parameter}"),
        )
    }

    pub(crate) fn combination(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    pub(crate) fn dependency(message: impl Into<String>) -> Self {
        Self::new("DependencyViolation", message)
    }

    pub(crate) fn group_not_found(id: &str) -> Self {
        Self::new(
            "InvalidGroup.NotFound",
            format!("The security group '{id}' does not exist"),
        )
    }
}

pub(crate) type Result<T> = std::result::Result<T, Ec2Error>;
