//! The typed HTTP client: one method per endpoint, with timeouts, idempotency keys and problems as errors.

use std::{fmt, time::Duration};

use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{jit_policy::JitPolicyChangeQuery, problem::Problem};

mod access;
mod guarding;
mod roles;
mod telling;

/// Change nothing, and say what would happen.
const DRY_RUN: JitPolicyChangeQuery = JitPolicyChangeQuery { dry_run: Some(true) };
/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that an answer may take, beyond what the request asks the server to wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why a call did not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base address is not one.
    #[error("`{0}` is not an http or https address to reach the server at")]
    Address(String),
    /// The server said no, and why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No answer. A change may have taken effect; repeating it with the same idempotency key is safe.
    #[error("no answer from the server")]
    Transport(#[source] reqwest::Error),
    /// An answer that is none of this API's, such as one of a proxy's.
    #[error("unexpected answer with status {status}: {start}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// How the body begins.
        start: String,
    },
}

impl ClientError {
    /// The server's problem, if the server sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// A client of one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `base`, such as `https://postern.example.com`.
    pub fn new(base: &str) -> Result<Self, ClientError> {
        let address = || ClientError::Address(base.chars().take(200).collect());
        let mut url = Url::parse(base).map_err(|_| address())?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(address());
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        // An error means that the process has a provider already, which serves as well.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ClientError::Transport)?;
        Ok(Self {
            http,
            base: url,
            token: None,
        })
    }

    /// The same client, with a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(SecretString::from(token.into()));
        self
    }

    /// The address of a path below the base, each segment percent-encoded.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn call(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let request = self.http.request(method, self.url(segments));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    async fn send(request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let mut response = request.send().await.map_err(ClientError::Transport)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(ClientError::Transport)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(unexpected(status, &body));
            }
        }
        if status.is_success() {
            return Ok((status, body));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => Err(unexpected(status, &body)),
        }
    }

    async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
        let (status, body) = Self::send(request).await?;
        serde_json::from_slice(&body).map_err(|_| unexpected(status, &body))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        Self::read(self.call(Method::GET, segments).query(query)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        key: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        Self::read(keyed(self.call(Method::POST, segments).json(body), key)).await
    }
}

fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    }
}

/// Gives a call the time that it asks the server to wait, in seconds, beyond its own.
fn waiting(request: RequestBuilder, wait: Option<u32>) -> RequestBuilder {
    let wait = Duration::from_secs(wait.unwrap_or(0).into());
    request.timeout(REQUEST_TIMEOUT.saturating_add(wait))
}

fn unexpected(status: StatusCode, body: &[u8]) -> ClientError {
    ClientError::Unexpected {
        status: status.as_u16(),
        start: String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_one_segment_of_the_path() {
        let client = Client::new("http://127.0.0.1:1/base").unwrap();
        let url = client.url(&["v1", "machines", "/subscriptions/a/b?c#d%2f"]);
        assert_eq!(
            url.path(),
            "/base/v1/machines/%2Fsubscriptions%2Fa%2Fb%3Fc%23d%252f"
        );
        assert_eq!(url.query(), None);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "localhost:8080", "ftp://x", "mailto:a@b"] {
            assert!(
                matches!(Client::new(text), Err(ClientError::Address(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let client = Client::new("http://127.0.0.1:1").unwrap().with_token("s3cret");
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
