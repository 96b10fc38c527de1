//! Query parameters, held against the endpoint's type.

use axum::extract::{FromRequestParts, Query};
use http::{Uri, request::Parts};
use postern_api::ErrorCode;
use postern_core::principal::PrincipalRef;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::authenticate::Caller;
use crate::failure::Failure;

/// The query parameters of a request.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        read(&parts.uri).map(Self)
    }
}

fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(parameters)) => Ok(parameters),
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

/// A query of which some parameters may stand there several times; all others may once.
pub(crate) trait Repeats: DeserializeOwned {
    /// Where the values of such a parameter are kept, in the order in which they stand; `None` for all others.
    fn values_of(&mut self, name: &str) -> Option<&mut Vec<String>>;
}

/// The parameters of such a query.
#[derive(Debug)]
pub(crate) struct RepeatedParameters<T>(pub(crate) T);

impl<S: Sync, T: Repeats + Default> FromRequestParts<S> for RepeatedParameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let pairs = || form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let mut repeats = T::default();
        let mut once = form_urlencoded::Serializer::new(String::new());
        for (name, value) in pairs() {
            if repeats.values_of(&name).is_none() {
                once.append_pair(&name, &value);
            }
        }
        let uri = format!("/?{}", once.finish())
            .parse()
            .map_err(Failure::internal)?;
        let mut read: T = read(&uri)?;
        for (name, value) in pairs() {
            if let Some(values) = read.values_of(&name) {
                values.push(value.into_owned());
            }
        }
        Ok(Self(read))
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
