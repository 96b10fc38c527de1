//! Fetching an issuer's keys: the discovery document, if need be, and the key set, with every bound.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::{config::IssuerConfig, keys::KeySet};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest document that is read, in bytes.
const MAX_DOCUMENT: usize = 1024 * 1024;

/// Why keys could not be had. For the log, never for whoever presents a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("could not make an HTTP client")]
    Client(#[source] reqwest::Error),
    #[error("`{url}` did not answer")]
    Transport {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("`{url}` answered with status {status}")]
    Status { url: Url, status: u16 },
    #[error("the document at `{0}` is larger than 1 MiB")]
    TooLarge(Url),
    #[error("the document at `{url}` is not what it should be")]
    Malformed {
        url: Url,
        #[source]
        source: serde_json::Error,
    },
    #[error("the discovery document of `{expected}` says that it is of `{found}`")]
    OtherIssuer { expected: String, found: String },
    #[error("{0}")]
    Address(String),
}

/// The part of a discovery document that matters here.
///
/// Source: `OpenID` Connect Discovery 1.0, section 3.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Fetches key sets.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher(reqwest::Client);

impl Fetcher {
    pub(crate) fn new() -> Result<Self, FetchError> {
        // An error means that the process has a provider already, which serves as well.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(FetchError::Client)
    }

    /// The issuer's keys as they are now.
    pub(crate) async fn keys(&self, issuer: &IssuerConfig) -> Result<KeySet, FetchError> {
        let uri = match &issuer.jwks_uri {
            Some(uri) => issuer.address(uri).map_err(FetchError::Address)?,
            None => self.discover(issuer).await?,
        };
        let body = self.document(&uri).await?;
        KeySet::parse(&body).map_err(|source| FetchError::Malformed { url: uri, source })
    }

    async fn discover(&self, issuer: &IssuerConfig) -> Result<Url, FetchError> {
        let address = format!(
            "{}/.well-known/openid-configuration",
            issuer.issuer.trim_end_matches('/')
        );
        let url = issuer.address(&address).map_err(FetchError::Address)?;
        let body = self.document(&url).await?;
        let discovery: Discovery =
            serde_json::from_slice(&body).map_err(|source| FetchError::Malformed { url, source })?;
        if discovery.issuer != issuer.issuer {
            return Err(FetchError::OtherIssuer {
                expected: issuer.issuer.clone(),
                found: discovery.issuer.chars().take(200).collect(),
            });
        }
        issuer.address(&discovery.jwks_uri).map_err(FetchError::Address)
    }

    async fn document(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let transport = |source| FetchError::Transport {
            url: url.clone(),
            source,
        };
        let mut response = self.0.get(url.clone()).send().await.map_err(transport)?;
        if !response.status().is_success() {
            return Err(FetchError::Status {
                url: url.clone(),
                status: response.status().as_u16(),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_DOCUMENT {
                return Err(FetchError::TooLarge(url.clone()));
            }
        }
        Ok(body)
    }
}
