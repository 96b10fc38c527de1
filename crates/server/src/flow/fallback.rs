//! What is answered where there is no endpoint.

use axum::extract::OriginalUri;
use http::Method;
use postern_api::ErrorCode;

use crate::failure::Failure;

/// No such path.
pub(crate) async fn no_path(OriginalUri(uri): OriginalUri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(ErrorCode::NotFound, format!("there is no endpoint at `{path}`"))
}

/// The path exists, for other methods; the router adds `Allow`.
pub(crate) async fn no_method(method: Method, OriginalUri(uri): OriginalUri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(
        ErrorCode::MethodNotAllowed,
        format!("`{path}` does not answer to {method}"),
    )
}
