//! `If-Match` and `ETag`: whoever changes a document says which version they saw.

use axum::extract::FromRequestParts;
use http::{HeaderValue, header::IF_MATCH, request::Parts};
use postern_api::ErrorCode;

use crate::failure::Failure;

/// The version that `If-Match` names.
#[derive(Debug)]
pub(crate) struct IfMatch(pub(crate) i64);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let value = parts.headers.get(IF_MATCH).ok_or_else(|| {
            Failure::new(
                ErrorCode::PreconditionRequired,
                "`If-Match` must name the version that you saw, as its `ETag` did",
            )
        })?;
        value
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix('"')?.strip_suffix('"'))
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::InvalidEtag,
                    "`If-Match` is one version's `ETag`, such as `\"3\"`",
                )
            })
    }
}

/// The `ETag` of a version.
pub(crate) fn etag(version: i64) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(&format!("\"{version}\"")).map_err(Failure::internal)
}
