//! The authenticator: a request's headers in, a principal or a rejection out.

use std::sync::Arc;

use http::HeaderMap;
use postern_core::{principal::Principal, time::Clock};

use super::{
    claims,
    config::IssuerConfig,
    fetch::{FetchError, Fetcher},
    keys::{BadSignature, KeyCache, LookupError},
    token::{self, BadClaims, Presented},
};

/// Why nobody was recognised. The reason is for the log and the audit events; whoever presented the token
/// learns only which of these it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// No token.
    Missing,
    /// A token that is not accepted.
    Invalid {
        /// Why.
        reason: &'static str,
        /// The name of the configured issuer that it claims to be of, if it does.
        issuer: Option<String>,
    },
    /// A token that was good until its end.
    Expired {
        /// The issuer's name.
        issuer: String,
    },
    /// The issuer's keys cannot be had, so nobody can say.
    Unavailable {
        /// The issuer's name.
        issuer: String,
    },
}

#[derive(Debug)]
struct Issuer {
    config: IssuerConfig,
    keys: KeyCache,
}

/// Verifies tokens of the configured issuers.
#[derive(Debug)]
pub(crate) struct Authenticator {
    issuers: Vec<Issuer>,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
}

impl Authenticator {
    pub(crate) fn new(issuers: &[IssuerConfig], clock: Arc<dyn Clock>) -> Result<Self, FetchError> {
        Ok(Self {
            issuers: issuers
                .iter()
                .map(|config| Issuer {
                    config: config.clone(),
                    keys: KeyCache::new(config),
                })
                .collect(),
            fetcher: Fetcher::new()?,
            clock,
        })
    }

    /// Who presents the request.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Rejected> {
        let nobody = |reason| Rejected::Invalid { reason, issuer: None };
        let token = match token::presented(headers) {
            Presented::Nothing => return Err(Rejected::Missing),
            Presented::Unusable(reason) => return Err(nobody(reason)),
            Presented::Bearer(token) => token,
        };
        let header = token::header(token).map_err(nobody)?;
        let claimed = token::claimed_issuer(token).map_err(nobody)?;
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| issuer.config.issuer == claimed)
            .ok_or_else(|| nobody("the issuer is not configured"))?;
        let config = &issuer.config;
        let invalid = |reason| Rejected::Invalid {
            reason,
            issuer: Some(config.name.clone()),
        };
        if !config
            .algorithms
            .iter()
            .any(|allowed| allowed.algorithm() == header.alg)
        {
            return Err(invalid("the algorithm is not allowed for this issuer"));
        }
        let key = issuer
            .keys
            .key(
                config,
                &self.fetcher,
                &*self.clock,
                header.kid.as_deref(),
                header.alg,
            )
            .await
            .map_err(|error| match error {
                LookupError::NoKey => invalid("the issuer has no key that fits"),
                LookupError::Unavailable => Rejected::Unavailable {
                    issuer: config.name.clone(),
                },
            })?;
        let claims = key
            .claims(token, header.alg)
            .map_err(|BadSignature| invalid("the signature does not match"))?;
        token::check(config, &claims, self.clock.now()).map_err(|bad| match bad {
            BadClaims::Expired => Rejected::Expired {
                issuer: config.name.clone(),
            },
            BadClaims::Invalid(reason) => invalid(reason),
        })?;
        claims::principal(config, &claims).map_err(invalid)
    }
}
