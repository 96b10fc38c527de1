//! A tiny issuer of tokens on a loopback socket, whose keys, answers and outages the tests control.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};

/// A signing key that was made for a test.
#[derive(Clone)]
pub(crate) struct TestKey {
    pub(crate) kid: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) encoding: EncodingKey,
}

impl TestKey {
    /// An Ed25519 key whose secret is `seed` over and over.
    pub(crate) fn ed25519(kid: &str, seed: u8) -> Self {
        // RFC 8410, section 7: PKCS #8 with an Ed25519 private key.
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        der.extend([seed; 32]);
        Self {
            kid: Some(kid.to_owned()),
            algorithm: Algorithm::EdDSA,
            encoding: EncodingKey::from_ed_der(&der),
        }
    }

    /// The RSA key of these tests.
    pub(crate) fn rsa(kid: &str, algorithm: Algorithm) -> Self {
        Self {
            kid: Some(kid.to_owned()),
            algorithm,
            encoding: EncodingKey::from_rsa_pem(include_bytes!("material/issuer-rsa.pem")).unwrap(),
        }
    }

    /// The P-256 key of these tests.
    pub(crate) fn p256(kid: &str) -> Self {
        Self {
            kid: Some(kid.to_owned()),
            algorithm: Algorithm::ES256,
            encoding: EncodingKey::from_ec_pem(include_bytes!("material/issuer-p256.pem")).unwrap(),
        }
    }

    pub(crate) fn without_kid(mut self) -> Self {
        self.kid = None;
        self
    }

    /// The public key as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.encoding, self.algorithm).unwrap()).unwrap();
        if let Some(kid) = &self.kid {
            jwk["kid"] = json!(kid);
        }
        jwk["use"] = json!("sig");
        jwk
    }

    /// Exactly these texts, signed.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            base64url(header.as_bytes()),
            base64url(claims.as_bytes())
        );
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.encoding, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// The token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(claims, |_| ())
    }

    /// The token with these claims and a header that `change` spoils.
    pub(crate) fn sign_with(&self, claims: &Value, change: impl FnOnce(&mut Header)) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid.clone_from(&self.kid);
        change(&mut header);
        jsonwebtoken::encode(&header, claims, &self.encoding).unwrap()
    }
}

/// RFC 4648, section 5, without padding, as JWS has it.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let group = group[0] << 16 | group[1] << 8 | group[2];
        for at in 0..=chunk.len() {
            text.push(char::from(LETTERS[(group >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

#[derive(Default)]
struct Shown {
    keys: Vec<Value>,
    issuer: String,
    down: bool,
    fetches: usize,
}

/// The issuer. Stops when dropped.
pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    shown: Arc<Mutex<Shown>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Issuer {
    pub(crate) async fn start(keys: &[&TestKey]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Arc::new(Mutex::new(Shown {
            keys: keys.iter().map(|key| key.jwk()).collect(),
            issuer: format!("http://{address}"),
            ..Shown::default()
        }));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(key_set))
            .with_state(Arc::clone(&shown));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shown,
            server,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shows these keys from now on.
    pub(crate) fn rotate(&self, keys: &[&TestKey]) {
        self.shown.lock().unwrap().keys = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Shows exactly these documents as keys.
    pub(crate) fn show_raw(&self, keys: Vec<Value>) {
        self.shown.lock().unwrap().keys = keys;
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.shown.lock().unwrap().down = down;
    }

    /// Says in its discovery document that it is somebody else.
    pub(crate) fn impersonate(&self, issuer: &str) {
        issuer.clone_into(&mut self.shown.lock().unwrap().issuer);
    }

    /// How often the keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.shown.lock().unwrap().fetches
    }
}

async fn discovery(State(shown): State<Arc<Mutex<Shown>>>) -> Result<Json<Value>, StatusCode> {
    let shown = shown.lock().unwrap();
    if shown.down {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let address = &shown.issuer;
    Ok(Json(
        json!({ "issuer": address, "jwks_uri": format!("{address}/keys") }),
    ))
}

async fn key_set(State(shown): State<Arc<Mutex<Shown>>>) -> Result<Json<Value>, StatusCode> {
    let mut shown = shown.lock().unwrap();
    shown.fetches += 1;
    if shown.down {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok(Json(json!({ "keys": shown.keys })))
}
