//! The HTTP client, ours and as `azure_identity` wants it.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use azure_core::{
    error::{Error, ErrorKind},
    http::{
        AsyncRawResponse, Body, HttpClient, Method, Request,
        headers::{HeaderName, HeaderValue, Headers},
    },
};
use postern_core::enforcer::EnforceError;

use super::client::trail;

/// The one client: it pools connections, bounds waiting and follows no redirect.
pub(crate) fn client(connect: Duration, call: Duration) -> Result<reqwest::Client, EnforceError> {
    // An error says that a provider is installed already, which serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(connect)
        .timeout(call)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| EnforceError::Malformed(format!("no HTTP client: {}", trail(&error))))
}

/// The same connections for `azure_identity`.
#[derive(Debug, Clone)]
pub(super) struct Wire(pub(super) reqwest::Client);

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let method = match request.method() {
            Method::Delete => reqwest::Method::DELETE,
            Method::Get => reqwest::Method::GET,
            Method::Head => reqwest::Method::HEAD,
            Method::Patch => reqwest::Method::PATCH,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            other => {
                return Err(Error::with_message(
                    ErrorKind::Other,
                    format!("token requests are not made with {}", other.as_str()),
                ));
            }
        };
        let mut outgoing = self.0.request(method, request.url().clone());
        for (name, value) in request.headers().iter() {
            outgoing = outgoing.header(name.as_str(), value.as_str());
        }
        match request.body() {
            Body::Bytes(bytes) => outgoing = outgoing.body(bytes.clone()),
            Body::SeekableStream(_) => {
                return Err(Error::with_message(
                    ErrorKind::Other,
                    "token requests have no streams",
                ));
            }
        }
        let failed = |error: reqwest::Error| {
            let kind = if error.is_connect() {
                ErrorKind::Connection
            } else {
                ErrorKind::Io
            };
            Error::with_message(kind, trail(&error.without_url()))
        };
        let response = outgoing.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let headers: HashMap<HeaderName, HeaderValue> = response
            .headers()
            .iter()
            // `azure_identity` would sleep for as long as it is told, and every call waits for its token.
            .filter(|(name, _)| !name.as_str().contains("retry-after"))
            .filter_map(|(name, value)| {
                let value = value.to_str().ok()?.to_owned();
                Some((
                    HeaderName::from(name.as_str().to_owned()),
                    HeaderValue::from(value),
                ))
            })
            .collect();
        let bytes = response.bytes().await.map_err(failed)?;
        Ok(AsyncRawResponse::from_bytes(
            status.into(),
            Headers::from(headers),
            bytes,
        ))
    }
}
