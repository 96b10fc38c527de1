//! Failures: what a handler answers with when it does not do what it was asked.
//!
//! A failure becomes an RFC 9457 problem in one place, [`crate::flow::respond`], which knows the request's id.

use std::{error::Error, sync::Arc};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode};
use postern_api::{ErrorCode, FieldError, Problem};
use postern_store::{Conflict, StoreError};

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ErrorCode,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with this code; `detail` is for people.
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
            source: None,
        }
    }

    /// One place of the body is wrong.
    pub(crate) fn field(code: ErrorCode, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut failure = Self::new(code, detail.clone());
        failure.errors.push(FieldError {
            pointer: pointer.into(),
            detail,
        });
        failure
    }

    /// An error of ours; `source` goes to the log only.
    pub(crate) fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let mut failure = Self::new(
            ErrorCode::Internal,
            "an error of the server's; the log has it under this request's id",
        );
        failure.source = Some(source.into());
        failure
    }

    /// There is nothing there, or nothing that the caller may see.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("there is no {what}, or none that you may see"),
        )
    }

    /// With a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same for somebody else whom it concerns, without what is behind it.
    pub(crate) fn also(&self) -> Self {
        Self {
            code: self.code,
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            headers: self.headers.clone(),
            source: None,
        }
    }

    /// What went wrong, as a word.
    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    /// What went wrong, for people.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The problem, as the answer to the request with this id.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        let mut problem = Problem::new(self.code, self.detail.clone(), request_id);
        problem.errors.clone_from(&self.errors);
        problem
    }

    /// Whether the request met another one's locks and left nothing behind, so that it may be done again.
    pub(crate) fn is_contention(&self) -> bool {
        self.source
            .as_deref()
            .and_then(|source| source.downcast_ref::<StoreError>())
            .is_some_and(StoreError::is_contention)
    }

    /// The headers that go with it.
    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// What is behind it, for the log.
    pub(crate) fn source(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.source.as_deref()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NotFound { .. } => ErrorCode::NotFound,
            StoreError::Conflict(conflict) => match conflict {
                Conflict::PolicyName(_) | Conflict::RoleName(_) => {
                    return Self::field(ErrorCode::Conflict, "/name", error.to_string());
                }
                Conflict::RoleInUse(_)
                | Conflict::RoleAwaited { .. }
                | Conflict::Assignment
                | Conflict::GrantState => ErrorCode::Conflict,
                Conflict::Version { .. } => ErrorCode::VersionMismatch,
                Conflict::LeaseEnded => ErrorCode::LeaseEnded,
                Conflict::Frozen(_) => ErrorCode::Frozen,
                Conflict::Decided => ErrorCode::AlreadyDecided,
                Conflict::NoHop(_) => ErrorCode::NothingToOpen,
                Conflict::Answered => ErrorCode::IdempotencyInFlight,
                _ => return Self::internal(error),
            },
            StoreError::Database(_) => {
                let mut failure = Self::new(
                    ErrorCode::Unavailable,
                    "the database did not do its part; try again",
                );
                failure.source = Some(error.into());
                return failure.with_header(http::header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => return Self::internal(error),
        };
        Self::new(code, error.to_string())
    }
}
