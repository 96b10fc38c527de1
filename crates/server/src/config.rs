//! What the server is told: where it listens, whom it trusts, what its limits are.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use postern_core::{mark::Installation, net::Source, principal::PrincipalRef};
use serde::Deserialize;

pub use crate::auth::config::{ClaimMapping, ClaimMatch, IssuerConfig, SigningAlgorithm, StepUp};
pub use crate::tickets::TicketConfig;

/// Everything that the server is told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate and key. Without them the server speaks plain HTTP, and then only on a loopback address
    /// unless `insecure_http` says otherwise.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Plain HTTP on an address that others can reach, for example behind a proxy that ends TLS.
    #[serde(default)]
    pub insecure_http: bool,
    /// The proxies in front whose word on where a request comes from is taken.
    #[serde(default)]
    pub proxies: Proxies,
    /// The installation whose marks stand in the clouds.
    pub installation: Installation,
    /// Who vouches for principals. Never empty.
    pub issuers: Vec<IssuerConfig>,
    /// Who becomes owner of everything when nobody is; how a new installation gets its first owner.
    #[serde(default)]
    pub first_owners: Vec<PrincipalRef>,
    /// Which ticket system is asked for tickets.
    #[serde(default)]
    pub tickets: Option<TicketConfig>,
    /// Sizes and times.
    #[serde(default)]
    pub limits: Limits,
}

/// Where the certificate and its key are, as PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The proxies in front whose word on where a request comes from is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxies {
    /// Where they connect from. None: whoever connects is the client.
    pub trusted: Vec<Source>,
    /// The header that they write.
    pub header: ForwardedHeader,
}

/// A header in which proxies say for whom they forward. Only the one that the proxies write is read: the other would be
/// whatever the client sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, to which each proxy adds the address that it was connected from.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The most networks of trusted proxies.
const MAX_PROXIES: usize = 1000;

/// Sizes and times. Durations are whole seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest request body, in bytes.
    pub body_bytes: usize,
    /// The largest request head, in bytes.
    pub header_bytes: usize,
    /// The most requests at once; more are answered with `overloaded`.
    pub concurrency: usize,
    /// The most requests of one principal at once; more are answered with `rate_limited`.
    pub concurrency_per_principal: usize,
    /// The most long polls at once; those beyond are answered without waiting.
    pub waiting: usize,
    /// How many requests a second one principal may send in the long run…
    pub requests_per_second: u32,
    /// …and how many at once.
    pub request_burst: u32,
    /// The most live grants of one requester on one machine.
    pub grants_per_machine: u32,
    /// The most access requests of one requester that wait for somebody to decide.
    pub pending_requests: u32,
    /// The longest that a request may take, beyond what it asks to wait itself.
    pub request_seconds: u64,
    /// How long a connection may take to send a request's head.
    pub header_seconds: u64,
    /// How long requests under way may take when the server stops.
    pub drain_seconds: u64,
    /// How long a grant may take to open before it fails.
    pub open_seconds: u64,
    /// How long a request waits for somebody to decide.
    pub pending_seconds: u64,
    /// How long somebody has to close the review of a broken glass before it is escalated.
    pub review_seconds: u64,
    /// How far ahead a request may start; 0: not at all.
    pub start_ahead_seconds: u64,
    /// What preflight goes by. Not read from a file: the settings of the loop and of the clouds say it.
    #[serde(skip)]
    pub preflight: Preflight,
}

/// What preflight goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preflight {
    /// How old an observation may be for a request to be refused by it: the time between two discoveries.
    pub trust: Duration,
    /// EC2's quotas. Without them, room in EC2 is left to the loop to find.
    pub quotas: Option<Quotas>,
}

/// EC2's quotas, which an account may have raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// The most security groups of an interface.
    pub groups_per_interface: usize,
    /// The most rules of a security group, for each family of addresses.
    pub rules_per_group: usize,
}

impl Default for Preflight {
    fn default() -> Self {
        Self {
            trust: Duration::from_mins(5),
            quotas: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 * 1024,
            header_bytes: 32 * 1024,
            concurrency: 512,
            concurrency_per_principal: 128,
            waiting: 4096,
            requests_per_second: 100,
            request_burst: 1000,
            grants_per_machine: 100,
            pending_requests: 100,
            request_seconds: 30,
            header_seconds: 10,
            drain_seconds: 20,
            open_seconds: 300,
            pending_seconds: 24 * 60 * 60,
            review_seconds: 3 * 24 * 60 * 60,
            start_ahead_seconds: 14 * 24 * 60 * 60,
            preflight: Preflight::default(),
        }
    }
}

impl Limits {
    /// How long a grant may take to open before it fails.
    pub(crate) const fn open_timeout(&self) -> Duration {
        Duration::from_secs(self.open_seconds)
    }

    /// How far ahead a request may start.
    pub(crate) const fn start_ahead(&self) -> Duration {
        Duration::from_secs(self.start_ahead_seconds)
    }

    /// How long a request waits for somebody to decide.
    pub(crate) const fn pending_timeout(&self) -> Duration {
        Duration::from_secs(self.pending_seconds)
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody could ever sign in.
    #[error("`issuers` has no entry: nobody could sign in")]
    NoIssuers,
    /// Two issuers would be one in role assignments.
    #[error("two issuers have the name or address `{0}`")]
    IssuerTwice(String),
    /// An issuer that could not be trusted as told.
    #[error("issuer `{issuer}`: {problem}")]
    Issuer {
        /// The issuer's name.
        issuer: String,
        /// What is wrong.
        problem: String,
    },
    /// Tokens would travel in the clear.
    #[error(
        "`{0}` is not a loopback address: set `tls`, or `insecure_http = true` behind a proxy that ends TLS"
    )]
    PlainHttp(SocketAddr),
    /// Everybody would be believed to be anybody.
    #[error("`{0}` is every address: whoever connects could say that they are somebody else")]
    EveryProxy(Source),
    /// More than anybody has.
    #[error("at most {MAX_PROXIES} networks of proxies can be trusted")]
    Proxies,
    /// A ticket system that could not be asked as told.
    #[error("tickets: {0}")]
    Tickets(String),
    /// A limit that nothing could work under.
    #[error("`limits.{0}` is not in its range")]
    Limit(&'static str),
}

impl ServerConfig {
    /// Checks what can be checked without the network.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.issuers.is_empty() {
            return Err(ConfigError::NoIssuers);
        }
        for (at, issuer) in self.issuers.iter().enumerate() {
            issuer.validate().map_err(|problem| ConfigError::Issuer {
                issuer: issuer.name.clone(),
                problem,
            })?;
            if let Some(twin) = self
                .issuers
                .iter()
                .skip(at + 1)
                .find(|other| other.name == issuer.name || other.issuer == issuer.issuer)
            {
                return Err(ConfigError::IssuerTwice(twin.name.clone()));
            }
        }
        if let Some(tickets) = &self.tickets {
            tickets.validate().map_err(ConfigError::Tickets)?;
        }
        if self.tls.is_none() && !self.insecure_http && !self.listen.ip().is_loopback() {
            return Err(ConfigError::PlainHttp(self.listen));
        }
        if let Some(every) = self.proxies.trusted.iter().find(|network| network.is_any()) {
            return Err(ConfigError::EveryProxy(*every));
        }
        if self.proxies.trusted.len() > MAX_PROXIES {
            return Err(ConfigError::Proxies);
        }
        let limits = &self.limits;
        let checks = [
            (
                "body_bytes",
                (1024..=16 * 1024 * 1024).contains(&limits.body_bytes),
            ),
            (
                "header_bytes",
                (20 * 1024..=1024 * 1024).contains(&limits.header_bytes),
            ),
            ("concurrency", (1..=100_000).contains(&limits.concurrency)),
            (
                "concurrency_per_principal",
                (1..=100_000).contains(&limits.concurrency_per_principal),
            ),
            ("waiting", limits.waiting <= 1_000_000),
            (
                "requests_per_second",
                (1..=1_000_000).contains(&limits.requests_per_second),
            ),
            ("request_burst", (1..=1_000_000).contains(&limits.request_burst)),
            (
                "grants_per_machine",
                (1..=100_000).contains(&limits.grants_per_machine),
            ),
            (
                "pending_requests",
                (1..=100_000).contains(&limits.pending_requests),
            ),
            ("request_seconds", (1..=600).contains(&limits.request_seconds)),
            ("header_seconds", (1..=600).contains(&limits.header_seconds)),
            ("drain_seconds", limits.drain_seconds <= 600),
            ("open_seconds", (1..=3600).contains(&limits.open_seconds)),
            (
                "pending_seconds",
                (60..=30 * 24 * 3600).contains(&limits.pending_seconds),
            ),
            (
                "review_seconds",
                (60..=90 * 24 * 3600).contains(&limits.review_seconds),
            ),
            (
                "start_ahead_seconds",
                limits.start_ahead_seconds <= 90 * 24 * 3600,
            ),
        ];
        match checks.into_iter().find(|(_, holds)| !holds) {
            Some((name, _)) => Err(ConfigError::Limit(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        serde_json::from_value(serde_json::json!({
            "listen": "127.0.0.1:0",
            "installation": "test",
            "issuers": [{ "name": "corp", "issuer": "https://login.example.com", "audiences": ["postern"],
                          "algorithms": ["RS256"] }],
        }))
        .unwrap()
    }

    #[test]
    fn a_small_configuration_is_enough() {
        config().validate().unwrap();
    }

    #[test]
    fn plain_http_stays_on_loopback_unless_told_otherwise() {
        let mut open = config();
        open.listen = "0.0.0.0:8080".parse().unwrap();
        assert!(matches!(open.validate(), Err(ConfigError::PlainHttp(_))));
        open.insecure_http = true;
        open.validate().unwrap();
    }

    #[test]
    fn nobody_trusts_everybody_to_be_a_proxy() {
        let mut open = config();
        open.proxies.trusted = vec!["10.0.0.0/8".parse().unwrap()];
        open.validate().unwrap();
        open.proxies.trusted.push("::/0".parse().unwrap());
        assert!(matches!(open.validate(), Err(ConfigError::EveryProxy(_))));
    }

    #[test]
    fn issuers_must_be_told_apart_and_use_https() {
        let mut twice = config();
        twice.issuers.push(twice.issuers[0].clone());
        assert!(matches!(twice.validate(), Err(ConfigError::IssuerTwice(_))));
        let mut plain = config();
        plain.issuers[0].issuer = "http://login.example.com".into();
        assert!(matches!(plain.validate(), Err(ConfigError::Issuer { .. })));
        let mut none = config();
        none.issuers.clear();
        assert!(matches!(none.validate(), Err(ConfigError::NoIssuers)));
    }

    #[test]
    fn symmetric_and_absent_signatures_cannot_even_be_configured() {
        for algorithm in ["HS256", "none", "NONE", "RS1"] {
            let parsed = serde_json::from_value::<SigningAlgorithm>(algorithm.into());
            assert!(parsed.is_err(), "{algorithm}");
        }
    }

    #[test]
    fn limits_that_nothing_could_work_under_are_refused_by_name() {
        let mut tight = config();
        tight.limits.concurrency = 0;
        assert!(matches!(tight.validate(), Err(ConfigError::Limit("concurrency"))));
    }
}
