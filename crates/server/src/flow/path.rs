//! Ids in paths.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use postern_api::ErrorCode;
use postern_core::id::{Id, IdKind};

use crate::failure::Failure;

/// The one id in a path.
pub(crate) struct PathId<K>(pub(crate) Id<K>);

impl<S: Send + Sync, K: IdKind> FromRequestParts<S> for PathId<K> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let PathText(text) = PathText::from_request_parts(parts, state).await?;
        text.parse()
            .map(Self)
            .map_err(|error: postern_core::id::InvalidId| {
                Failure::new(ErrorCode::InvalidId, error.to_string())
            })
    }
}

/// The one text in a path, percent-decoded.
#[derive(Debug)]
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Path::<String>::from_request_parts(parts, state)
            .await
            .map(|Path(text)| Self(text))
            .map_err(|_| Failure::new(ErrorCode::InvalidId, "the path is not percent-encoded UTF-8"))
    }
}
