//! What is answered where there is no endpoint.

use axum::{Json, extract::OriginalUri};
use http::Method;
use postern_api::ErrorCode;
use serde_json::{Value, json};

use crate::failure::Failure;

/// What this is and where it is described, for whoever opens the bare address.
pub(crate) async fn root() -> Json<Value> {
    Json(json!({
        "service": "postern",
        "about": "just-in-time network access to machines: the API is below /v1 and takes a bearer token",
        "openapi": "/openapi.json",
        "health": { "live": "/livez", "ready": "/readyz" },
    }))
}

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
