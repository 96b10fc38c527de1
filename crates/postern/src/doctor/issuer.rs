//! An issuer of tokens: whether its discovery document and its keys can be had, and are its own.

use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use postern_server::config::IssuerConfig;
use reqwest::redirect;
use serde::{Deserialize, de::DeserializeOwned};
use url::{Host, Url};

use super::Check;

const CONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

/// What matters of a discovery document (`OpenID` Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The check of one issuer.
pub(super) async fn examine(issuer: &IssuerConfig) -> Check {
    let name = format!("issuer {}", issuer.name);
    match keys(issuer).await {
        Ok(0) => Check::failed(name, "its key set is empty: no token of its can be verified"),
        Ok(count) => Check::ok(name, format!("{} answers with {count} keys", issuer.issuer)),
        Err(error) => Check::failed(name, error),
    }
}

async fn keys(issuer: &IssuerConfig) -> Result<usize, String> {
    // An error means that the process has a provider already, which serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .timeout(PATIENCE)
        .redirect(redirect::Policy::none())
        .build()
        .map_err(|error| format!("no HTTP client could be made: {error}"))?;
    let address = match &issuer.jwks_uri {
        Some(uri) => uri.clone(),
        None => discovered(&http, issuer).await?,
    };
    let set: JwkSet = document(&http, &address, issuer.loopback_http).await?;
    Ok(set.keys.len())
}

async fn discovered(http: &reqwest::Client, issuer: &IssuerConfig) -> Result<String, String> {
    let address = format!(
        "{}/.well-known/openid-configuration",
        issuer.issuer.trim_end_matches('/')
    );
    let found: Discovery = document(http, &address, issuer.loopback_http).await?;
    if found.issuer == issuer.issuer {
        Ok(found.jwks_uri)
    } else {
        Err(format!(
            "the discovery document of `{}` says that it is of `{}`",
            issuer.issuer, found.issuer
        ))
    }
}

async fn document<T: DeserializeOwned>(
    http: &reqwest::Client,
    address: &str,
    loopback_http: bool,
) -> Result<T, String> {
    let url: Url = address
        .parse()
        .map_err(|error| format!("`{address}` is no address: {error}"))?;
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "https" && !(loopback_http && loopback && url.scheme() == "http") {
        return Err(format!("`{url}` is not HTTPS"));
    }
    let answer = http
        .get(url.clone())
        .send()
        .await
        .map_err(|error| format!("`{url}` does not answer: {}", cause(&error)))?;
    if !answer.status().is_success() {
        return Err(format!("`{url}` answers with {}", answer.status()));
    }
    answer.json().await.map_err(|error| {
        format!(
            "the document at `{url}` is not what it should be: {}",
            cause(&error)
        )
    })
}

/// The innermost cause, which says most.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
