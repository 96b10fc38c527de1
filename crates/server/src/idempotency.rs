//! Idempotency keys: a POST that is sent again is done once, and answered alike.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use postern_api::ErrorCode;
use postern_core::time::Instant;
use postern_store::{Claim, SentKey, Tx};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{failure::Failure, flow::authenticate::Caller};

/// The header that carries a key.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A key, and what it was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    pub(crate) key: String,
    pub(crate) fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// The key of a request, bound to its method, path and body.
    pub(crate) fn read(
        headers: &HeaderMap,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Option<Self>, Failure> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()))
            .filter(|_| values.next().is_none())
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::InvalidIdempotencyKey,
                    "`Idempotency-Key` is one value of 1 to 255 visible ASCII characters",
                )
            })?;
        let mut hash = Sha256::new();
        for part in [method.as_bytes(), path.as_bytes(), body] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Ok(Some(Self {
            key: key.to_owned(),
            fingerprint: hash.finalize().into(),
        }))
    }
}

/// The header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer that was given before.
#[derive(Debug)]
pub(crate) struct Replay {
    status: StatusCode,
    /// Its body.
    pub(crate) body: Value,
}

impl Replay {
    /// The same answer with a newer body.
    pub(crate) fn with_body(self, body: impl Serialize) -> Result<Response, Failure> {
        let body = serde_json::to_value(body).map_err(Failure::internal)?;
        Ok(Self { body, ..self }.into_response())
    }
}

impl IntoResponse for Replay {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

/// Claims the key in the transaction of the change, or finds the answer that was given before. Whoever sends the
/// same key at the same time is told to come back.
pub(crate) async fn claim(
    tx: &mut Tx,
    caller: &Caller,
    key: Option<&IdempotencyKey>,
    now: Instant,
) -> Result<Option<Replay>, Failure> {
    let Some(key) = key else {
        return Ok(None);
    };
    match tx
        .idempotency_claim(&caller.reference(), &key.key, &key.fingerprint, now)
        .await?
    {
        Claim::Fresh => Ok(None),
        Claim::Replay { status, body } => Ok(Some(Replay {
            status: StatusCode::from_u16(status).map_err(Failure::internal)?,
            body,
        })),
        Claim::Mismatch => Err(Failure::new(
            ErrorCode::IdempotencyKeyReused,
            "this `Idempotency-Key` was used before with another request",
        )),
        Claim::InFlight => Err(Failure::new(
            ErrorCode::IdempotencyInFlight,
            "a request with this `Idempotency-Key` is being worked on",
        )
        .with_header(http::header::RETRY_AFTER, HeaderValue::from_static("1"))),
    }
}

/// Stores the answer under the key, in the transaction of the change.
pub(crate) async fn store<T: Serialize>(
    tx: &mut Tx,
    caller: &Caller,
    key: Option<&IdempotencyKey>,
    status: StatusCode,
    body: &T,
) -> Result<(), Failure> {
    let Some(key) = key else {
        return Ok(());
    };
    let body = serde_json::to_value(body).map_err(Failure::internal)?;
    tx.idempotency_store(&caller.reference(), &key.key, status.as_u16(), &body)
        .await?;
    Ok(())
}

/// The caller's key, to be claimed together with others'.
pub(crate) fn sent(caller: &Caller, key: &IdempotencyKey) -> SentKey {
    SentKey {
        principal: caller.reference(),
        key: key.key.clone(),
        fingerprint: key.fingerprint.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str, path: &str, body: &str) -> Result<Option<IdempotencyKey>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, value.parse().unwrap());
        IdempotencyKey::read(&headers, "POST", path, body.as_bytes())
    }

    #[test]
    fn a_key_is_bound_to_path_and_body() {
        let one = key("k", "/a", "{}").unwrap();
        assert_eq!(one, key("k", "/a", "{}").unwrap());
        assert_ne!(one, key("k", "/b", "{}").unwrap());
        assert_ne!(one, key("k", "/a", "{ }").unwrap());
        assert_ne!(key("k", "/a{", "}").unwrap(), one);
    }

    #[test]
    fn a_key_that_could_not_be_told_apart_is_refused() {
        for value in ["", "a b", "\u{e9}", &"x".repeat(256)] {
            assert!(key(value, "/a", "{}").is_err(), "{value:?}");
        }
    }
}
