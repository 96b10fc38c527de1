//! `GET /openapi.json`: the API, described.

use axum::Json;

use crate::router;

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "health", operation_id = "openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value))
)]
pub(crate) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(router::openapi())
}
