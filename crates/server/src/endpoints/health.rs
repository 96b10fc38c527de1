//! `GET /livez`, `/readyz` and `/metrics`: for those who run the server.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header::CONTENT_TYPE};
use postern_api::{ErrorCode, Problem};
use prometheus_client::encoding::text::encode;

use crate::{failure::Failure, state::App};

/// Whether the process runs.
#[utoipa::path(
    get, path = "/livez", tag = "health", operation_id = "livez", security(()),
    responses((status = 200, description = "It runs.", body = String, content_type = "text/plain"))
)]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether the server can do its work: the database answers and has the schema, and the reconcile loop runs.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz", security(()),
    responses(
        (status = 200, description = "It can.", body = String, content_type = "text/plain"),
        (status = 503, description = "It cannot; `detail` says why.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    if app.stopping.is_cancelled() {
        return Err(Failure::new(ErrorCode::Unavailable, "the server is stopping"));
    }
    app.store.ready().await?;
    if !app.store.is_migrated().await? {
        return Err(Failure::new(
            ErrorCode::Unavailable,
            "the database's schema is not that of this version; run `postern migrate`",
        ));
    }
    (app.engine)()
        .map_err(|why| Failure::new(ErrorCode::Unavailable, format!("the reconcile loop: {why}")))?;
    Ok("ok\n")
}

/// Everybody's metrics.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics", security(()),
    responses((status = 200, description = "In the OpenMetrics text format.", body = String,
               content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let mut text = String::new();
    encode(&mut text, &app.registry).map_err(Failure::internal)?;
    Ok((
        [(
            CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        )],
        text,
    )
        .into_response())
}
