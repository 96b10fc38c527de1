//! Which addresses may be contacted, and resolving names to only those.

use std::net::{IpAddr, SocketAddr};

use postern_core::address::is_public;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names as the system does, and leaves out addresses that may not be contacted. Asked anew for each
/// connection, so that a name that changes its address after it was checked gains nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| is_public(address.ip()))
                .collect();
            if public.is_empty() {
                return Err(NotPublic::Name(name).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// What is not contacted, because `allow_private` is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPublic {
    /// A name of no public address.
    #[error("`{0}` is at no public address, and `allow_private` is not set")]
    Name(String),
    /// An address.
    #[error("`{0}` is not public, and `allow_private` is not set")]
    Literal(IpAddr),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public_however_they_are_written() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "100.100.100.200",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_resolved() {
        let error = PublicOnly
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("no public address"), "{error}");
    }
}
