//! A small identity provider for the demo: OIDC discovery, one Ed25519 key made at its start, and tokens for
//! whoever asks on loopback. Never part of a real installation.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use postern_core::time::{Clock, IdSource};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::people::{PEOPLE, Person};
use crate::commands::token::{TokenAnswer, TokenRequest};

/// The longest that a token lasts, in seconds: a day.
const LONGEST: u64 = 24 * 60 * 60;

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 10.3).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A running identity provider. Dropping it stops it.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    mint: Arc<Mint>,
    server: JoinHandle<()>,
}

struct Mint {
    issuer: String,
    key: EncodingKey,
    key_id: String,
    jwk: Value,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Makes a key and serves on a free port of 127.0.0.1.
    pub async fn start(clock: Arc<dyn Clock>, ids: &dyn IdSource) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("the demo's identity provider cannot listen")?;
        let url = format!("http://{}", listener.local_addr()?);
        let mint = Arc::new(Mint::new(url.clone(), clock, ids)?);
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .with_state(Arc::clone(&mint));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the demo's identity provider stopped");
            }
        });
        Ok(Self { url, mint, server })
    }

    /// Its address, which is also what its tokens name as `iss`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A token for a user.
    pub fn token(&self, user: &str, seconds: u64) -> Result<String, String> {
        self.mint.token(user, seconds)
    }

    /// A token with these claims, whatever they are.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        self.mint.sign(claims)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Mint {
    fn new(issuer: String, clock: Arc<dyn Clock>, ids: &dyn IdSource) -> anyhow::Result<Self> {
        let mut key: Vec<u8> = PKCS8_PREFIX.to_vec();
        key.extend((0..4).flat_map(|_| ids.random()).take(32));
        let key = EncodingKey::from_ed_der(&key);
        let key_id = clock.now().timestamp_micros().to_string();
        let mut jwk =
            Jwk::from_encoding_key(&key, Algorithm::EdDSA).context("the demo's key has no public part")?;
        jwk.common.key_id = Some(key_id.clone());
        Ok(Self {
            issuer,
            key,
            key_id,
            jwk: serde_json::to_value(&jwk)?,
            clock,
        })
    }

    fn token(&self, user: &str, seconds: u64) -> Result<String, String> {
        let person = Person::named(user).ok_or_else(|| {
            let known: Vec<&str> = PEOPLE.iter().map(|person| person.user).collect();
            format!("there is no demo user `{user}`; there are {}", known.join(", "))
        })?;
        if !(1..=LONGEST).contains(&seconds) {
            return Err(format!("a token lasts between 1 and {LONGEST} seconds"));
        }
        let seconds = i64::try_from(seconds).map_err(|error| error.to_string())?;
        self.sign(&person.claims(&self.issuer, self.clock.now().timestamp(), seconds))
    }

    fn sign(&self, claims: &Value) -> Result<String, String> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|error| error.to_string())
    }
}

async fn discovery(State(mint): State<Arc<Mint>>) -> Json<Value> {
    let issuer = &mint.issuer;
    Json(json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/jwks"),
        "token_endpoint": format!("{issuer}/token"),
        "response_types_supported": ["token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
    }))
}

async fn keys(State(mint): State<Arc<Mint>>) -> Json<Value> {
    Json(json!({ "keys": [mint.jwk] }))
}

async fn token(
    State(mint): State<Arc<Mint>>,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenAnswer>, (StatusCode, String)> {
    mint.token(&request.user, request.seconds)
        .map(|access_token| Json(TokenAnswer { access_token }))
        .map_err(|message| (StatusCode::BAD_REQUEST, message))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};
    use postern_core::time::{RandomIds, SystemClock};

    use super::*;
    use crate::demo::people::AUDIENCE;

    fn mint() -> Mint {
        Mint::new("http://127.0.0.1:1".to_owned(), Arc::new(SystemClock), &RandomIds).unwrap()
    }

    #[test]
    fn a_token_verifies_with_the_published_key() {
        let mint = mint();
        let jwk: Jwk = serde_json::from_value(mint.jwk.clone()).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[&mint.issuer]);
        let token = mint.token("ada", 60).unwrap();
        let read = decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
        assert_eq!(read.claims["groups"], json!(["engineers"]));
        assert_eq!(read.header.kid, Some(mint.key_id.clone()));
    }

    #[test]
    fn two_providers_have_different_keys() {
        assert_ne!(mint().jwk, mint().jwk);
    }

    #[test]
    fn a_stranger_gets_no_token() {
        assert!(
            mint()
                .token("mallory", 60)
                .unwrap_err()
                .contains("ada, sam, olga")
        );
        assert!(mint().token("ada", 0).is_err());
        assert!(mint().token("ada", LONGEST + 1).is_err());
    }
}
