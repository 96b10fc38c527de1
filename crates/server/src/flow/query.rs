//! Query parameters, held against the endpoint's type.

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use postern_api::ErrorCode;
use postern_core::principal::PrincipalRef;
use serde::de::DeserializeOwned;

use super::authenticate::Caller;
use crate::failure::Failure;

/// The query parameters of a request.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => {
                let text = rejection.body_text();
                let detail = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                let code = if detail.starts_with("limit:") {
                    ErrorCode::InvalidLimit
                } else if detail.starts_with("wait:") {
                    ErrorCode::InvalidWait
                } else {
                    ErrorCode::InvalidQuery
                };
                Err(Failure::new(code, detail))
            }
        }
    }
}

/// A parameter's value, parsed; the parameter is named when it is not one.
pub(crate) fn parsed<T>(name: &str, text: Option<&str>) -> Result<Option<T>, Failure>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.map(|text| {
        text.parse()
            .map_err(|error| Failure::new(ErrorCode::InvalidQuery, format!("`{name}`: {error}")))
    })
    .transpose()
}

/// A parameter that names a principal; `me` is the caller.
pub(crate) fn principal(text: Option<&str>, caller: &Caller) -> Result<Option<PrincipalRef>, Failure> {
    match text {
        None => Ok(None),
        Some("me") => Ok(Some(caller.reference())),
        Some(text) => {
            text.parse()
                .map(Some)
                .map_err(|error: postern_core::principal::InvalidPrincipalRef| {
                    Failure::new(ErrorCode::InvalidPrincipal, error.to_string())
                })
        }
    }
}
