//! An issuer's keys: which of them fit a token, and a cache that outlives short outages and follows rotations.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use chrono::TimeDelta;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use postern_core::time::{Clock, Instant};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{config::IssuerConfig, fetch::Fetcher, json::Unambiguous};

/// How many tokens a key keeps in mind that it verified: a quarter of a megabyte.
const KEPT: usize = 4096;

/// What a key can verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// A token's signature is not the key's.
#[derive(Debug)]
pub(crate) struct BadSignature;

/// A public key.
pub(crate) struct Key {
    kid: Option<String>,
    fits: KeyType,
    only: Option<KeyAlgorithm>,
    decoding: DecodingKey,
    verified: Verified,
}

/// The SHA-256 digests of whole tokens whose signatures were found to be right. That a signature is right follows from the
/// token and the key alone, so it is found out once; what the claims say is judged each time. It ends with the key, and
/// the key with each fetch of the issuer's set.
#[derive(Default)]
struct Verified(Mutex<HashSet<[u8; 32]>>);

impl Verified {
    fn has(&self, token: &[u8; 32]) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(token)
    }

    /// Forgets all when it is full: those that come again are verified once more.
    fn keep(&self, token: [u8; 32]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(token);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("fits", &self.fits)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// The key of a JWK, if it is public, for signatures, and strong enough.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if matches!(&common.public_key_use, Some(usage) if *usage != PublicKeyUse::Signature)
            || matches!(&common.key_operations, Some(uses) if !uses.contains(&KeyOperations::Verify))
        {
            return None;
        }
        let fits = match &jwk.algorithm {
            // 256 bytes are 2048 bits, the least that NIST SP 800-131A allows; they are 342 characters in
            // base64url. More than 8192 bits would only cost time.
            AlgorithmParameters::RSA(rsa) if (342..=1366).contains(&rsa.n.len()) && rsa.e.len() <= 8 => {
                KeyType::Rsa
            }
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => KeyType::P256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => KeyType::P384,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                KeyType::Ed25519
            }
            _ => return None,
        };
        Some(Self {
            kid: common.key_id.clone(),
            fits,
            only: common.key_algorithm,
            decoding: DecodingKey::from_jwk(jwk).ok()?,
            verified: Verified::default(),
        })
    }

    /// Whether the key's type is that of the algorithm, and the key is not meant for another one.
    fn fits(&self, algorithm: Algorithm) -> bool {
        let key_type = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => KeyType::Rsa,
            Algorithm::ES256 => KeyType::P256,
            Algorithm::ES384 => KeyType::P384,
            Algorithm::EdDSA => KeyType::Ed25519,
            _ => return false,
        };
        self.fits == key_type
            && self
                .only
                .is_none_or(|only| Algorithm::try_from(only).ok() == Some(algorithm))
    }

    /// The claims of the token, if its signature is this key's. Nothing else of them is checked: the library reads the
    /// machine's own clock.
    pub(crate) fn claims(&self, token: &str, algorithm: Algorithm) -> Result<Value, BadSignature> {
        let digest = Sha256::digest(token.as_bytes()).into();
        if self.verified.has(&digest) {
            let Unambiguous(claims) =
                jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| BadSignature)?;
            return Ok(claims);
        }
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let Unambiguous(claims) = jsonwebtoken::decode(token, &self.decoding, &validation)
            .map_err(|_| BadSignature)?
            .claims;
        self.verified.keep(digest);
        Ok(claims)
    }
}

/// The keys that an issuer had at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySet(Vec<Arc<Key>>);

/// Why a set has no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// No key has the id; a newer set may.
    Unknown,
    /// There is a key, and it cannot be meant.
    Unfit,
}

impl KeySet {
    /// The usable keys of a JWK set; others' types and uses are left out.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document)?;
        Ok(Self(
            document
                .keys
                .into_iter()
                // A key whose private part is shown is everybody's (RFC 7518, sections 6.2.2 and 6.3.2; RFC 8037).
                .filter(|key| key.get("d").is_none())
                .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
                .filter_map(|jwk| Key::from_jwk(&jwk))
                .map(Arc::new)
                .collect(),
        ))
    }

    /// The one key that a token with this key id and algorithm can mean. Without an id there must be only one.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, NoKey> {
        let mut named = self
            .0
            .iter()
            .filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        let first = named.next().ok_or(NoKey::Unknown)?;
        if named.next().is_some() || !first.fits(algorithm) {
            return Err(NoKey::Unfit);
        }
        Ok(Arc::clone(first))
    }
}

/// Why the cache has no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// The issuer has no such key.
    NoKey,
    /// The issuer's keys cannot be had right now.
    Unavailable,
}

#[derive(Debug, Default)]
struct Cached {
    keys: KeySet,
    fetched_at: Option<Instant>,
    tried_at: Option<Instant>,
}

/// An issuer's keys, fetched when they are old or a token names one that is not known, one fetch at a time.
#[derive(Debug)]
pub(crate) struct KeyCache {
    cached: RwLock<Cached>,
    turn: tokio::sync::Mutex<()>,
    refresh: TimeDelta,
    keep: TimeDelta,
    pause: TimeDelta,
}

impl KeyCache {
    pub(crate) fn new(config: &IssuerConfig) -> Self {
        Self {
            cached: RwLock::default(),
            turn: tokio::sync::Mutex::new(()),
            refresh: TimeDelta::seconds(config.refresh_seconds.into()),
            keep: TimeDelta::seconds(config.keep_seconds.into()),
            pause: TimeDelta::seconds(config.fetch_pause_seconds.into()),
        }
    }

    /// The key for a token.
    pub(crate) async fn key(
        &self,
        config: &IssuerConfig,
        fetcher: &Fetcher,
        clock: &dyn Clock,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, LookupError> {
        let (found, fresh) = self.look(clock.now(), kid, algorithm);
        match found {
            Ok(key) if fresh => return Ok(key),
            Err(Some(NoKey::Unfit)) if fresh => return Err(LookupError::NoKey),
            // Whoever has a usable key does not wait for somebody else's fetch.
            Ok(key) => {
                if let Ok(_turn) = self.turn.try_lock() {
                    self.fetch(config, fetcher, clock).await;
                } else {
                    return Ok(key);
                }
            }
            Err(_) => {
                let _turn = self.turn.lock().await;
                let (again, fresh) = self.look(clock.now(), kid, algorithm);
                match again {
                    Ok(key) if fresh => return Ok(key),
                    _ => self.fetch(config, fetcher, clock).await,
                }
            }
        }
        match self.look(clock.now(), kid, algorithm).0 {
            Ok(key) => Ok(key),
            Err(Some(_)) => Err(LookupError::NoKey),
            Err(None) => Err(LookupError::Unavailable),
        }
    }

    /// What is known now, and whether it is recent. `Err(None)`: nothing that may still be used.
    fn look(
        &self,
        now: Instant,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> (Result<Arc<Key>, Option<NoKey>>, bool) {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        match cached.fetched_at.map(|at| now - at) {
            Some(age) if age < self.keep => {
                (cached.keys.find(kid, algorithm).map_err(Some), age < self.refresh)
            }
            _ => (Err(None), false),
        }
    }

    /// Fetches, unless that was tried a moment ago. The caller has the turn.
    async fn fetch(&self, config: &IssuerConfig, fetcher: &Fetcher, clock: &dyn Clock) {
        {
            let now = clock.now();
            let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
            if cached.tried_at.is_some_and(|at| now - at < self.pause) {
                return;
            }
            cached.tried_at = Some(now);
        }
        match fetcher.keys(config).await {
            Ok(keys) => {
                let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
                cached.keys = keys;
                cached.fetched_at = cached.tried_at;
            }
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(issuer = config.name, error, "could not fetch the issuer's keys");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    /// An Ed25519 key whose secret is `seed` over and over (RFC 8410, section 7), and its public half.
    fn a_key(seed: u8) -> (EncodingKey, Key) {
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        der.extend([seed; 32]);
        let secret = EncodingKey::from_ed_der(&der);
        let public = Jwk::from_encoding_key(&secret, Algorithm::EdDSA).unwrap();
        (secret, Key::from_jwk(&public).unwrap())
    }

    fn a_token(secret: &EncodingKey, subject: usize) -> String {
        let header = Header::new(Algorithm::EdDSA);
        jsonwebtoken::encode(&header, &json!({ "sub": subject }), secret).unwrap()
    }

    fn kept(key: &Key) -> usize {
        key.verified.0.lock().unwrap().len()
    }

    #[test]
    fn only_whole_tokens_that_were_verified_are_kept_in_mind() {
        let (secret, key) = a_key(1);
        let token = a_token(&secret, 1);
        for _ in 0..2 {
            assert_eq!(key.claims(&token, Algorithm::EdDSA).unwrap(), json!({ "sub": 1 }));
            assert_eq!(kept(&key), 1);
        }
        let other = a_token(&secret, 2);
        let (signed, _) = other.rsplit_once('.').unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        let stranger = a_token(&a_key(2).0, 1);
        for forged in [format!("{signed}.{signature}"), format!("{token}A"), stranger] {
            for _ in 0..2 {
                key.claims(&forged, Algorithm::EdDSA).unwrap_err();
                assert_eq!(kept(&key), 1, "{forged}");
            }
        }
        // What is kept in mind is not verified.
        let stranger = a_token(&a_key(2).0, 3);
        key.verified.keep(Sha256::digest(stranger.as_bytes()).into());
        assert_eq!(
            key.claims(&stranger, Algorithm::EdDSA).unwrap(),
            json!({ "sub": 3 })
        );
    }

    #[test]
    fn a_key_keeps_only_so_many_tokens_in_mind() {
        let (_, key) = a_key(1);
        for number in 0..=KEPT {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            key.verified.keep(digest);
            assert!(key.verified.has(&digest));
            assert!(kept(&key) <= KEPT);
        }
        assert_eq!(kept(&key), 1);
    }
}
