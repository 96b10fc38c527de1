//! HTTP to receivers that the configuration names: subscribers of notifications, a ticket system.
//!
//! Nothing private, link-local or otherwise special is contacted unless the configuration says so: whoever writes a
//! receiver's name or controls its DNS must not reach what only this server can reach. The address is checked when the
//! configuration is read ([`check_url`]), and what its name resolves to at each connection ([`client`]).

mod address;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use postern_core::address::is_public;
use secrecy::SecretString;
use url::{Host, Url};

pub use address::NotPublic;

/// An HTTP client for receivers: no redirects, no proxies of the environment, and only public addresses unless
/// `allow_private`. A connection takes at most `connect`, a call `whole`.
///
/// # Errors
/// When the system's certificates cannot be used.
pub fn client(
    allow_private: bool,
    connect: Duration,
    whole: Duration,
) -> Result<reqwest::Client, reqwest::Error> {
    // An error means that the process has a provider already, which serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .connect_timeout(connect)
        .timeout(whole)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")));
    if allow_private {
        builder.build()
    } else {
        builder.dns_resolver(Arc::new(address::PublicOnly)).build()
    }
}

/// Why an address is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// It is not HTTPS, nor HTTP where that is allowed.
    #[error("its address begins with `https://`, or, where `allow_private` is set, with `http://`")]
    Scheme,
    /// It would show in logs.
    #[error("its address holds no user and password")]
    Credentials,
    /// There is nobody to call.
    #[error("its address names no host")]
    Host,
    /// It is an address that is not public.
    #[error(transparent)]
    NotPublic(#[from] NotPublic),
}

/// That an address may be called. What its name resolves to is checked at each connection.
///
/// # Errors
/// [`NotAllowed`], which does not repeat the address as a whole: it may be a secret.
pub fn check_url(url: &Url, allow_private: bool) -> Result<(), NotAllowed> {
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return Err(NotAllowed::Scheme),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NotAllowed::Credentials);
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        Some(Host::Domain(_)) => None,
        None => return Err(NotAllowed::Host),
    };
    match literal {
        Some(address) if !allow_private && !is_public(address) => Err(NotPublic::Literal(address).into()),
        _ => Ok(()),
    }
}

/// Whether the address is this machine's own, where plain HTTP passes nobody.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum NoSecret {
    /// It would not be clear which one counts.
    #[error("a secret and a file with it are both set")]
    Both,
    /// The file.
    #[error("cannot read `{path}`: {source}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A secret that stands in the configuration or is the only line of a file; none where neither is set.
///
/// # Errors
/// [`NoSecret`].
pub fn secret(
    value: Option<&SecretString>,
    file: Option<&PathBuf>,
) -> Result<Option<SecretString>, NoSecret> {
    match (value, file) {
        (Some(_), Some(_)) => Err(NoSecret::Both),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|source| NoSecret::Unreadable {
                path: path.clone(),
                source,
            })?;
            Ok(Some(SecretString::from(
                text.trim_end_matches(['\r', '\n']).to_owned(),
            )))
        }
        (None, None) => Ok(None),
    }
}
