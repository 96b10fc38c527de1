//! The outermost layer: gives a request its id and span, writes problems, sets headers, counts and logs.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS},
};
use postern_api::problem::MEDIA_TYPE;
use tracing::Instrument;

use crate::{failure::Failure, state::App};

/// The header that carries a request's id, both ways.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the HTTP request: the caller's own, if it is a sane one, or a new one.
#[derive(Debug, Clone)]
pub(crate) struct HttpRequestId(pub(crate) String);

/// The kind of id that is made for a request without one.
enum HttpRequestKind {}

fn sane(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let fits = (8..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    fits.then(|| text.to_owned())
}

/// See the module.
pub(crate) async fn respond(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    let id =
        sane(request.headers()).unwrap_or_else(|| app.ids.next::<HttpRequestKind>(app.clock.now()).hex());
    if let Some(value) = request.headers_mut().get_mut(AUTHORIZATION) {
        value.set_sensitive(true);
    }
    request.extensions_mut().insert(HttpRequestId(id.clone()));
    let method = request.method().clone();
    // The route, not the path: paths hold ids, and a label per id would have no end.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "(none)".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("http_request", id, %method, route);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(failure) = response.extensions_mut().remove::<Arc<Failure>>() {
        response = write(&failure, &id, &response);
        span.in_scope(|| log(&failure));
    }
    let status = response.status();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        http::header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    headers.insert(
        http::header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    if app.config.tls.is_some() {
        headers.insert(
            STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        );
    }
    let took = started.elapsed();
    app.metrics
        .answered(method.as_str(), &route, status.as_u16(), took);
    span.in_scope(|| tracing::debug!(status = status.as_u16(), took_ms = took.as_millis(), "answered"));
    response
}

fn write(failure: &Failure, id: &str, bare: &Response) -> Response {
    let problem = failure.problem(id);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = (
        bare.status(),
        [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))],
        body,
    )
        .into_response();
    // `Allow` is set by the router on the bare answer.
    if let Some(allow) = bare.headers().get(http::header::ALLOW) {
        response.headers_mut().insert(http::header::ALLOW, allow.clone());
    }
    for (name, value) in failure.headers() {
        response.headers_mut().append(name.clone(), value.clone());
    }
    response
}

fn log(failure: &Failure) {
    let code = failure.code().as_str();
    if let Some(source) = failure.source() {
        let error: &(dyn std::error::Error + 'static) = source;
        tracing::error!(code, error, "request failed");
    } else {
        tracing::info!(code, detail = failure.detail(), "request refused");
    }
}
