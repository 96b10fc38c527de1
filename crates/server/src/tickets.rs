//! Asking a ticket system whether it knows the ticket that a request names.
//!
//! A plain `GET`, outside every transaction. Only public addresses are contacted unless the configuration says
//! otherwise, redirects are not followed, and nothing of the answer but its status and one field is looked at.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postern_core::{
    justification::TicketVerdict,
    request::{AccessRequest, Pending},
    role::Action,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{endpoints::access_requests_create, failure::Failure, state::App};

/// Where the ticket stands in the address.
const PLACEHOLDER: &str = "{ticket}";
/// The most of an answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// A ticket is one part of a path or query: all but the unreserved characters (RFC 3986, section 2.3) are encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Section `tickets`: which ticket system is asked, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketConfig {
    /// The address to `GET`, with `{ticket}` in its path or query. 2xx is yes, 404 and 410 are no, and everything else
    /// is no answer.
    pub url: String,
    /// The header that carries the secret.
    #[serde(default)]
    pub header: Option<String>,
    /// The header's whole value, such as `Bearer …`. At most one of this and `secret_file`.
    #[serde(default)]
    pub secret: Option<SecretString>,
    /// A file whose only line it is.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// How long to wait for the answer, 1 to 15 seconds.
    #[serde(default = "five")]
    pub timeout_seconds: u64,
    /// Also at private, loopback and other special addresses, and over plain HTTP.
    #[serde(default)]
    pub allow_private: bool,
    /// Which of the tickets that it knows count; all when absent.
    #[serde(default)]
    pub accept: Option<Accept>,
}

const fn five() -> u64 {
    5
}

/// A ticket counts when this field of the JSON answer has one of these values.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// Where the field is, as a JSON pointer (RFC 6901) such as `/status`.
    pub pointer: String,
    /// The texts that count.
    pub values: Vec<String>,
}

/// A ticket system.
pub(crate) struct TicketSystem {
    client: reqwest::Client,
    url: String,
    header: Option<(HeaderName, SecretString)>,
    accept: Option<Accept>,
}

impl std::fmt::Debug for TicketSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketSystem")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Where a ticket is asked for.
fn address(url: &str, ticket: &str) -> Result<Url, url::ParseError> {
    let encoded = utf8_percent_encode(ticket, RESERVED).to_string();
    Url::parse(&url.replace(PLACEHOLDER, &encoded))
}

impl TicketConfig {
    fn at(&self, ticket: &str) -> Result<Url, String> {
        address(&self.url, ticket).map_err(|error| format!("`url`: {error}"))
    }

    /// Checks what can be checked without the network.
    pub fn validate(&self) -> Result<(), String> {
        let url = self.at("x")?;
        let before = self.url.split(PLACEHOLDER).next().unwrap_or_default();
        let origin = Url::parse(before).map_err(|error| format!("`url`: {error}"))?;
        if !self.url.contains(PLACEHOLDER)
            || origin.origin() != url.origin()
            || self.at("y")?.origin() != url.origin()
        {
            return Err(format!("`url` has `{PLACEHOLDER}` in its path or query"));
        }
        postern_outbound::check_url(&url, self.allow_private).map_err(|error| format!("`url`: {error}"))?;
        if !(1..=15).contains(&self.timeout_seconds) {
            return Err("`timeout_seconds` is between 1 and 15".to_owned());
        }
        let secrets = usize::from(self.secret.is_some()) + usize::from(self.secret_file.is_some());
        if secrets > 1 || (secrets == 1) != self.header.is_some() {
            return Err(
                "`header` wants exactly one of `secret` and `secret_file`, and they want it".to_owned(),
            );
        }
        if let Some(name) = &self.header {
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("`header`: {error}"))?;
        }
        if let Some(accept) = &self.accept
            && (!accept.pointer.starts_with('/') || accept.values.is_empty())
        {
            return Err("`accept` has a `pointer` that begins with `/`, and `values`".to_owned());
        }
        Ok(())
    }
}

impl TicketSystem {
    /// The system of the configuration; reads the secret.
    pub(crate) fn new(config: &TicketConfig) -> Result<Self, String> {
        config.validate()?;
        let secret = postern_outbound::secret(config.secret.as_ref(), config.secret_file.as_ref())
            .map_err(|error| error.to_string())?;
        let header = match (&config.header, secret) {
            (Some(name), Some(secret)) => {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
                HeaderValue::from_str(secret.expose_secret())
                    .map_err(|_| "the secret is not a header's value".to_owned())?;
                Some((name, secret))
            }
            _ => None,
        };
        let timeout = Duration::from_secs(config.timeout_seconds);
        let client = postern_outbound::client(config.allow_private, timeout, timeout)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            url: config.url.clone(),
            header,
            accept: config.accept.clone(),
        })
    }

    /// What the system says to the ticket, within its time.
    pub(crate) async fn ask(&self, ticket: &str) -> TicketVerdict {
        match self.asked(ticket).await {
            Ok(verdict) => verdict,
            Err(reason) => {
                tracing::warn!(reason, "the ticket system did not answer");
                TicketVerdict::Unanswered { reason }
            }
        }
    }

    async fn asked(&self, ticket: &str) -> Result<TicketVerdict, String> {
        let no = |reason: &str| {
            Ok(TicketVerdict::Refused {
                reason: reason.to_owned(),
            })
        };
        let url = address(&self.url, ticket).map_err(|error| error.to_string())?;
        let mut request = self.client.get(url);
        if let Some((name, secret)) = &self.header {
            let mut value = HeaderValue::from_str(secret.expose_secret())
                .map_err(|_| "the secret is no header".to_owned())?;
            value.set_sensitive(true);
            request = request.header(name.clone(), value);
        }
        // Whoever asks for access learns that there was no answer, and not where it was asked for.
        let silent = |error: reqwest::Error| {
            let what = if error.is_timeout() {
                "it did not answer in time"
            } else {
                "it cannot be reached"
            };
            what.to_owned()
        };
        let mut answer = request.send().await.map_err(silent)?;
        match answer.status().as_u16() {
            200..=299 => {}
            404 | 410 => return no("there is no such ticket"),
            other => return Err(format!("it answered {other}")),
        }
        let Some(accept) = &self.accept else {
            return Ok(TicketVerdict::Confirmed);
        };
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|_| "its answer broke off".to_owned())?
        {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err("its answer is too long".to_owned());
            }
        }
        let document: Value =
            serde_json::from_slice(&body).map_err(|_| "its answer is not JSON".to_owned())?;
        let found = document.pointer(&accept.pointer).and_then(Value::as_str);
        if found.is_some_and(|found| accept.values.iter().any(|value| value == found)) {
            Ok(TicketVerdict::Confirmed)
        } else {
            no("the ticket is not in a state that counts")
        }
    }
}

impl App {
    /// What the ticket system says to the request's ticket, where a policy of its machines wants to know. Asked only for
    /// whom their roles and guardrails allow to ask, so that nobody else can make the server call it.
    pub(crate) async fn ticket_verdict(
        &self,
        request: &AccessRequest<Pending>,
    ) -> Result<Option<TicketVerdict>, Failure> {
        let (Some(system), Some(ticket)) = (&self.tickets, &request.ticket) else {
            return Ok(None);
        };
        let authorizer = self.authorizer().await?;
        let begins = request.starts_at.unwrap_or(request.created_at);
        let mut wanted = false;
        for target in &request.targets {
            let Some(machine) = self.store.machine(&target.machine).await? else {
                return Ok(None);
            };
            let question =
                access_requests_create::question(Action::Request, request, target, Some(&machine), begins);
            if !self.decide(&authorizer, &request.principal, &question).allowed {
                return Ok(None);
            }
            if let Some(policy) = machine.policy
                && let Some(policy) = self.store.policy(policy).await?
                && let Some(justification) = &policy.justification
            {
                let fits = justification
                    .check(
                        &policy.name,
                        &request.reason,
                        Some(ticket),
                        Some(&TicketVerdict::Confirmed),
                    )
                    .is_ok();
                wanted |= fits && justification.ticket_check.is_some();
            }
        }
        if wanted {
            Ok(Some(system.ask(ticket).await))
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut TicketConfig)) -> Result<(), String> {
        let mut config: TicketConfig = serde_json::from_value(serde_json::json!({
            "url": "https://tickets.example.com/api/{ticket}?fields=status",
        }))
        .unwrap();
        change(&mut config);
        config.validate()
    }

    #[test]
    fn a_ticket_is_one_part_of_the_address_and_never_more() {
        let asked: TicketConfig =
            serde_json::from_value(serde_json::json!({ "url": "https://t.example/api/{ticket}?x=1" }))
                .unwrap();
        for (ticket, expected) in [
            ("OPS-1", "https://t.example/api/OPS-1?x=1"),
            ("a/../../b", "https://t.example/api/a%2F..%2F..%2Fb?x=1"),
            ("a?x=2#", "https://t.example/api/a%3Fx%3D2%23?x=1"),
            ("\u{e9}", "https://t.example/api/%C3%A9?x=1"),
        ] {
            assert_eq!(asked.at(ticket).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn a_configuration_that_leaks_or_reaches_inside_is_refused() {
        assert_eq!(config(|_| ()), Ok(()));
        for bad in [
            "http://tickets.example.com/{ticket}",
            "https://tickets.example.com/",
            "https://{ticket}.example.com/",
            "https://example.com{ticket}/",
            "https://169.254.169.254/{ticket}",
            "https://[::1]/{ticket}",
            "https://user:pass@tickets.example.com/{ticket}",
        ] {
            assert!(config(|one| one.url = bad.into()).is_err(), "{bad}");
        }
        assert!(config(|one| one.header = Some("authorization".into())).is_err());
        assert!(config(|one| one.secret = Some("Bearer x".to_owned().into())).is_err());
        assert!(config(|one| one.timeout_seconds = 16).is_err());
        let private = |one: &mut TicketConfig| {
            one.url = "http://127.0.0.1:9/{ticket}".into();
            one.allow_private = true;
        };
        assert_eq!(config(private), Ok(()));
    }
}
