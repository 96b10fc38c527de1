//! Access tokens: whose they are, and how long they are kept.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions},
    error::{Error, ErrorKind},
    http::{ClientOptions, Transport},
    time::OffsetDateTime,
};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use chrono::{DateTime, TimeDelta};
use postern_core::{
    enforcer::EnforceError,
    time::{Clock, Instant},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{client::trail, transport::Wire};
use crate::config::{AzureConfig, AzureCredential, is_loopback};

/// How long before its end a token is replaced.
const EARLY: TimeDelta = TimeDelta::minutes(5);

/// The resource that tokens are for, in Azure's public cloud.
const PUBLIC_AUDIENCE: &str = "https://management.azure.com";

struct Held {
    token: SecretString,
    expires: Instant,
}

/// The token of one identity, renewed early, asked for by one caller at a time.
pub(crate) struct Tokens {
    credential: Arc<dyn TokenCredential>,
    scope: String,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Prepares the configured credential. Calls nobody.
    pub(crate) fn new(
        config: &AzureConfig,
        http: &reqwest::Client,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EnforceError> {
        // A simulator takes tokens for the public cloud; a sovereign cloud's resource is its own address.
        let audience = if is_loopback(&config.endpoint) {
            PUBLIC_AUDIENCE.to_owned()
        } else {
            config.endpoint.origin().ascii_serialization()
        };
        Ok(Self {
            credential: credential(config, http, &clock)?,
            scope: format!("{audience}/.default"),
            clock,
            held: Mutex::new(None),
        })
    }

    /// A token that is good for some minutes.
    pub(super) async fn bearer(&self) -> Result<SecretString, EnforceError> {
        let mut held = self.held.lock().await;
        let now = self.clock.now();
        if let Some(held) = held.as_ref().filter(|held| now + EARLY < held.expires) {
            return Ok(held.token.clone());
        }
        match self.credential.get_token(&[&self.scope], None).await {
            Ok(fresh) => {
                let token = SecretString::from(fresh.token.secret());
                let expires = DateTime::from_timestamp(fresh.expires_on.unix_timestamp(), 0).unwrap_or(now);
                *held = Some(Held {
                    token: token.clone(),
                    expires,
                });
                Ok(token)
            }
            Err(error) => match held.as_ref().filter(|held| now < held.expires) {
                Some(held) => {
                    tracing::warn!(
                        error = trail(&error),
                        "token not renewed; the old one still holds"
                    );
                    Ok(held.token.clone())
                }
                None => Err(refusal(&error)),
            },
        }
    }

    /// Gives up a token that was refused.
    pub(super) async fn forget(&self, refused: &SecretString) {
        let mut held = self.held.lock().await;
        if held
            .as_ref()
            .is_some_and(|held| held.token.expose_secret() == refused.expose_secret())
        {
            *held = None;
        }
    }
}

fn refusal(error: &Error) -> EnforceError {
    const OPERATION: &str = "sign in to Microsoft Entra ID";
    match error.kind() {
        ErrorKind::Credential | ErrorKind::HttpResponse { .. } => EnforceError::Forbidden {
            operation: OPERATION.to_owned(),
            code: "token".to_owned(),
            message: trail(error),
        },
        _ => EnforceError::Unavailable {
            operation: OPERATION.to_owned(),
            message: trail(error),
        },
    }
}

fn credential(
    config: &AzureConfig,
    http: &reqwest::Client,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn TokenCredential>, EnforceError> {
    let unusable = |error: Error| {
        EnforceError::Malformed(format!("the Azure credential cannot be used: {}", trail(&error)))
    };
    // What azure_core offers beside is behind features that would bring a second TLS stack.
    let mut cloud = CustomConfiguration::default();
    config
        .authority
        .as_str()
        .trim_end_matches('/')
        .clone_into(&mut cloud.authority_host);
    let client_options = ClientOptions {
        transport: Some(Transport::new(Arc::new(Wire(http.clone())))),
        cloud: Some(Arc::new(CloudConfiguration::Custom(cloud))),
        ..ClientOptions::default()
    };
    Ok(match &config.credential {
        AzureCredential::ManagedIdentity { client_id } => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                client_options,
            }))
            .map_err(unusable)?
        }
        AzureCredential::WorkloadIdentity { tenant_id, client_id } => {
            WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                tenant_id: tenant_id.clone(),
                client_id: client_id.clone(),
                ..WorkloadIdentityCredentialOptions::default()
            }))
            .map_err(unusable)?
        }
        AzureCredential::Cli { tenant_id } => AzureCliCredential::new(Some(AzureCliCredentialOptions {
            tenant_id: tenant_id.clone(),
            ..AzureCliCredentialOptions::default()
        }))
        .map_err(unusable)?,
        AzureCredential::ClientSecret {
            tenant_id,
            client_id,
            client_secret,
        } if config.authority.scheme() == "https" => ClientSecretCredential::new(
            tenant_id,
            client_id.clone(),
            Secret::new(client_secret.expose_secret().to_owned()),
            Some(ClientSecretCredentialOptions { client_options }),
        )
        .map_err(unusable)?,
        AzureCredential::ClientSecret {
            tenant_id,
            client_id,
            client_secret,
        } => Arc::new(LoopbackSecret::new(
            http.clone(),
            &config.authority,
            tenant_id,
            client_id.clone(),
            client_secret.clone(),
            Arc::clone(clock),
        )?),
    })
}

/// The client-credentials flow over plain HTTP, which `azure_identity` rightly refuses: for simulators on this
/// machine, and for nothing else.
struct LoopbackSecret {
    http: reqwest::Client,
    endpoint: Url,
    client_id: String,
    client_secret: SecretString,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for LoopbackSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackSecret")
            .field("endpoint", &self.endpoint.as_str())
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

impl LoopbackSecret {
    fn new(
        http: reqwest::Client,
        authority: &Url,
        tenant_id: &str,
        client_id: String,
        client_secret: SecretString,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EnforceError> {
        if authority.scheme() != "http" || !is_loopback(authority) {
            return Err(EnforceError::Malformed(format!(
                "the authority `{authority}` is neither HTTPS nor on loopback"
            )));
        }
        let mut endpoint = authority.clone();
        endpoint
            .path_segments_mut()
            .map_err(|()| EnforceError::Malformed(format!("`{authority}` is no base address")))?
            .pop_if_empty()
            .extend([tenant_id, "oauth2", "v2.0", "token"]);
        Ok(Self {
            http,
            endpoint,
            client_id,
            client_secret,
            clock,
        })
    }
}

#[async_trait]
impl TokenCredential for LoopbackSecret {
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        #[derive(Deserialize)]
        struct Issued {
            access_token: String,
            expires_in: i64,
        }
        let scope = scopes.join(" ");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
            ("scope", &scope),
        ];
        let io = |error: reqwest::Error| Error::with_message(ErrorKind::Io, trail(&error));
        let response = self
            .http
            .post(self.endpoint.clone())
            .form(&form)
            .send()
            .await
            .map_err(io)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(io)?;
        if status.is_server_error() {
            return Err(Error::with_message(
                ErrorKind::Io,
                format!("the token endpoint answered {status}"),
            ));
        }
        if !status.is_success() {
            let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let said = said
                .get("error_description")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("no reason given");
            return Err(Error::with_message(
                ErrorKind::Credential,
                format!("the token endpoint answered {status}: {said}"),
            ));
        }
        let issued: Issued = serde_json::from_slice(&bytes)
            .map_err(|error| Error::with_message(ErrorKind::DataConversion, error.to_string()))?;
        let expires = self.clock.now().timestamp().saturating_add(issued.expires_in);
        let expires = OffsetDateTime::from_unix_timestamp(expires)
            .map_err(|error| Error::with_message(ErrorKind::DataConversion, error.to_string()))?;
        Ok(AccessToken::new(issued.access_token, expires))
    }
}
