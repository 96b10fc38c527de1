//! Who may call: clients, the tokens issued to them and the actions that they are allowed.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::refusal::ArmError;
use crate::fault::matches;
use crate::ids::Ids;

/// An application that may ask for tokens.
#[derive(Debug, Clone)]
pub struct ArmClient {
    /// Its client id.
    pub id: String,
    /// Its secret; none where it proves itself with assertions only.
    pub secret: Option<String>,
    /// The actions that its role allows, such as `Microsoft.Network/*/read`; each `*` stands for any run of
    /// characters, case does not count. A caller without any gets 403 everywhere.
    pub actions: Vec<String>,
}

impl ArmClient {
    /// A client that may do everything.
    pub fn owner(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: Some(secret.to_owned()),
            actions: vec!["*".to_owned()],
        }
    }

    /// A client that may do only what `actions` name.
    pub fn limited(id: &str, secret: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Self {
            actions,
            ..Self::owner(id, secret)
        }
    }
}

/// Audiences that ARM takes tokens for.
const AUDIENCES: [&str; 2] = [
    "https://management.azure.com",
    "https://management.core.windows.net",
];

#[derive(Debug)]
struct Token {
    client: String,
    audience: String,
    expires: DateTime<Utc>,
}

/// Registered clients and live tokens.
#[derive(Debug)]
pub(super) struct Identity {
    /// Empty: every client with any secret is taken, and may do everything.
    clients: Vec<ArmClient>,
    tokens: BTreeMap<String, Token>,
    lifetime: TimeDelta,
}

/// A refused token request, in the shape of the Microsoft identity platform (AADSTS error codes reference).
#[derive(Debug)]
pub(super) struct TokenRefusal {
    pub(super) status: StatusCode,
    error: &'static str,
    code: u32,
    description: String,
}

impl TokenRefusal {
    fn new(status: StatusCode, error: &'static str, code: u32, description: impl Into<String>) -> Self {
        Self {
            status,
            error,
            code,
            description: description.into(),
        }
    }

    pub(super) fn to_value(&self, at: DateTime<Utc>, trace: &str) -> Value {
        let Self {
            error,
            code,
            description,
            ..
        } = self;
        json!({
            "error": error,
            "error_description": format!("AADSTS{code}: {description} Trace ID: {trace}"),
            "error_codes": [code],
            "timestamp": at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
            "trace_id": trace,
            "correlation_id": trace,
        })
    }
}

impl Identity {
    pub(super) fn new(clients: Vec<ArmClient>, lifetime: TimeDelta) -> Self {
        Self {
            clients,
            tokens: BTreeMap::new(),
            lifetime,
        }
    }

    /// Issues a token for a client-credentials request (`application/x-www-form-urlencoded`).
    pub(super) fn issue(
        &mut self,
        form: &[u8],
        ids: &Ids,
        now: DateTime<Utc>,
    ) -> Result<Value, TokenRefusal> {
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(form).into_owned().collect();
        let field = |name: &str| {
            form.get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty())
        };
        let bad = |error, code, text: &str| TokenRefusal::new(StatusCode::BAD_REQUEST, error, code, text);
        match field("grant_type") {
            Some("client_credentials") => {}
            Some(other) => {
                return Err(bad(
                    "unsupported_grant_type",
                    70003,
                    &format!("The grant type '{other}' is not supported."),
                ));
            }
            None => {
                return Err(bad(
                    "invalid_request",
                    900_144,
                    "The request body must contain the following parameter: 'grant_type'.",
                ));
            }
        }
        let Some(client) = field("client_id") else {
            return Err(bad(
                "invalid_request",
                900_144,
                "The request body must contain the following parameter: 'client_id'.",
            ));
        };
        let registered = self
            .clients
            .iter()
            .find(|registered| registered.id.eq_ignore_ascii_case(client));
        if registered.is_none() && !self.clients.is_empty() {
            let text = format!("Application with identifier '{client}' was not found in the directory.");
            return Err(bad("unauthorized_client", 700_016, &text));
        }
        let denied =
            |code, text: &str| TokenRefusal::new(StatusCode::UNAUTHORIZED, "invalid_client", code, text);
        match (field("client_secret"), field("client_assertion")) {
            (Some(secret), _) => {
                if registered.is_some_and(|registered| registered.secret.as_deref() != Some(secret)) {
                    return Err(denied(7_000_215, "Invalid client secret provided."));
                }
            }
            (None, Some(assertion)) => {
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                // The signature is not looked at: whose keys would be right is the identity platform's business.
                if field("client_assertion_type") != Some(kind) || assertion.split('.').count() != 3 {
                    return Err(denied(50027, "JWT token is invalid or malformed."));
                }
            }
            (None, None) => {
                return Err(denied(
                    7_000_218,
                    "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
                ));
            }
        }
        let Some(audience) = field("scope").and_then(|scope| scope.strip_suffix("/.default")) else {
            return Err(bad(
                "invalid_scope",
                1_002_012,
                "The provided value for scope is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier.",
            ));
        };
        let (audience, client) = (audience.trim_end_matches('/').to_owned(), client.to_owned());
        let token = format!("{}{}", ids.hex(32), ids.hex(32));
        self.tokens.retain(|_, token| token.expires > now);
        self.tokens.insert(
            token.clone(),
            Token {
                client,
                audience,
                expires: now + self.lifetime,
            },
        );
        let seconds = self.lifetime.num_seconds();
        Ok(json!({
            "token_type": "Bearer",
            "expires_in": seconds,
            "ext_expires_in": seconds,
            "access_token": token,
        }))
    }

    /// The client whose unexpired token, issued for ARM, the request carries. `own` is the simulator's own
    /// address, which a client of a private cloud takes as the audience.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        own: &str,
        now: DateTime<Utc>,
    ) -> Result<&str, ArmError> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            let text = "Authentication failed. The 'Authorization' header is missing.";
            return Err(ArmError::new(401, "AuthenticationFailed", text));
        };
        let refused = |code: &str, text: &str| ArmError::new(401, code, text);
        let text = value.to_str().unwrap_or_default();
        let Some((scheme, token)) = text
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            let text = "The 'Authorization' header is provided in an invalid format.";
            return Err(refused("AuthenticationFailedInvalidHeader", text));
        };
        let _ = scheme;
        let Some(token) = self.tokens.get(token.trim()) else {
            return Err(refused(
                "InvalidAuthenticationToken",
                "The access token is invalid.",
            ));
        };
        if token.expires <= now {
            let text = format!(
                "The access token expiry UTC time '{}' is earlier than current UTC time '{}'.",
                token.expires.format("%-m/%-d/%Y %-I:%M:%S %p"),
                now.format("%-m/%-d/%Y %-I:%M:%S %p"),
            );
            return Err(refused("ExpiredAuthenticationToken", &text));
        }
        if !AUDIENCES.contains(&token.audience.as_str()) && token.audience != own {
            let text = format!(
                "The access token has been obtained for wrong audience or resource '{}'. It should exactly match \
                 with one of the allowed audiences 'https://management.core.windows.net/',\
                 'https://management.azure.com/'.",
                token.audience
            );
            return Err(refused("InvalidAuthenticationTokenAudience", &text));
        }
        Ok(&token.client)
    }

    /// Refuses an action that the client's role does not allow.
    pub(super) fn authorize(&self, client: &str, action: &str, scope: &str) -> Result<(), ArmError> {
        if self.clients.is_empty() {
            return Ok(());
        }
        let wanted = action.to_ascii_lowercase();
        let allowed = self
            .clients
            .iter()
            .filter(|registered| registered.id.eq_ignore_ascii_case(client))
            .flat_map(|registered| &registered.actions)
            .any(|pattern| matches(&pattern.to_ascii_lowercase(), &wanted));
        if allowed {
            return Ok(());
        }
        Err(ArmError::new(
            403,
            "AuthorizationFailed",
            format!(
                "The client '{client}' with object id '{client}' does not have authorization to perform action \
                 '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please \
                 refresh your credentials."
            ),
        ))
    }

    /// Replaces the registered clients; issued tokens stay, and are measured by the new actions.
    pub(super) fn set_clients(&mut self, clients: Vec<ArmClient>) {
        self.clients = clients;
    }
}
