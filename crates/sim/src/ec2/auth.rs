//! Who calls: access keys, sessions from `AssumeRole` and Signature Version 4.
//!
//! The region is the one of the credential scope, the account the one of the access key. Signatures are
//! verified for every call unless [`super::Ec2Options::verify_signatures`] is off; the age of a request
//! (`X-Amz-Date`) is not looked at, because a simulator may run on a clock of its own. Presigned URLs are not
//! taken. Source: AWS General Reference, "Signature Version 4 signing process".

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Request, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::error::{Ec2Error, Result};

/// Everything but the unreserved characters of RFC 3986, as the canonical request wants it.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A long-lived access key.
#[derive(Debug, Clone)]
pub struct AccessKey {
    /// The access key id, such as `AKIA...`.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The account, twelve digits.
    pub account: String,
    /// The IAM user's name.
    pub user: String,
}

/// Temporary credentials that `AssumeRole` gave out.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) secret: String,
    pub(crate) token: String,
    pub(crate) account: String,
    pub(crate) arn: String,
    pub(crate) user_id: String,
    pub(crate) expires: DateTime<Utc>,
}

/// The service that a request is for; the two word their refusals differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ec2,
    Sts,
}

/// Who calls, and where.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) arn: String,
    pub(crate) user_id: String,
}

/// The credentials that the simulator knows.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    pub(crate) keys: Vec<AccessKey>,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) regions: Vec<String>,
    pub(crate) verify: bool,
}

/// The parts of an `Authorization` header.
struct Signed<'a> {
    key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    headers: &'a str,
    signature: &'a str,
}

impl Keyring {
    /// Tells who signed a request.
    ///
    /// EC2 answers 401 `AuthFailure` to credentials that it cannot validate; STS answers 403 and
    /// `InvalidClientTokenId`, `SignatureDoesNotMatch` or `ExpiredToken` (common errors of both references).
    pub(crate) fn authenticate(
        &self,
        request: &Request<Bytes>,
        service: Service,
        now: DateTime<Utc>,
    ) -> Result<Caller> {
        let Some(authorization) = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
        else {
            return Err(Ec2Error::with_status(
                StatusCode::FORBIDDEN,
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            ));
        };
        let signed = parse(authorization)?;
        let expected = if service == Service::Ec2 { "ec2" } else { "sts" };
        if signed.service != expected {
            return Err(refused(
                service,
                "SignatureDoesNotMatch",
                "Credential should be scoped to correct service",
            ));
        }
        if !self.regions.iter().any(|region| region == signed.region) {
            return Err(refused(
                service,
                "SignatureDoesNotMatch",
                "Credential should be scoped to a valid region",
            ));
        }
        let (secret, caller) = self.lookup(request, &signed, service, now)?;
        if self.verify && signature(request, &signed, secret) != signed.signature {
            return Err(refused(
                service,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided",
            ));
        }
        Ok(caller)
    }

    fn lookup<'k>(
        &'k self,
        request: &Request<Bytes>,
        signed: &Signed<'_>,
        service: Service,
        now: DateTime<Utc>,
    ) -> Result<(&'k str, Caller)> {
        let region = signed.region.to_owned();
        if let Some(key) = self.keys.iter().find(|key| key.id == signed.key_id) {
            let caller = Caller {
                account: key.account.clone(),
                region,
                arn: format!("arn:aws:iam::{}:user/{}", key.account, key.user),
                user_id: format!("AIDA{}", key.id.get(4..).unwrap_or_default()),
            };
            return Ok((&key.secret, caller));
        }
        let unknown = || {
            refused(
                service,
                "InvalidClientTokenId",
                "The security token included in the request is invalid",
            )
        };
        let session = self.sessions.get(signed.key_id).ok_or_else(unknown)?;
        let token = request
            .headers()
            .get("x-amz-security-token")
            .and_then(|value| value.to_str().ok());
        if token != Some(session.token.as_str()) {
            return Err(unknown());
        }
        if session.expires <= now {
            // EC2's common errors name this one `RequestExpired`, STS's `ExpiredToken`.
            let code = if service == Service::Ec2 {
                "RequestExpired"
            } else {
                "ExpiredToken"
            };
            let status = if service == Service::Ec2 {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::FORBIDDEN
            };
            return Err(Ec2Error::with_status(
                status,
                code,
                "The security token included in the request is expired",
            ));
        }
        let caller = Caller {
            account: session.account.clone(),
            region,
            arn: session.arn.clone(),
            user_id: session.user_id.clone(),
        };
        Ok((&session.secret, caller))
    }
}

fn refused(service: Service, sts_code: &str, message: &str) -> Ec2Error {
    match service {
        Service::Ec2 => Ec2Error::with_status(
            StatusCode::UNAUTHORIZED,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        ),
        Service::Sts => Ec2Error::with_status(StatusCode::FORBIDDEN, sts_code, message),
    }
}

fn parse(authorization: &str) -> Result<Signed<'_>> {
    let incomplete = || {
        Ec2Error::new(
            "IncompleteSignature",
            "The request signature does not conform to AWS standards.",
        )
    };
    let rest = authorization
        .strip_prefix("AWS4-HMAC-SHA256")
        .ok_or_else(incomplete)?;
    let fields: BTreeMap<&str, &str> = rest
        .split(',')
        .filter_map(|field| field.trim().split_once('='))
        .collect();
    let field = |name: &str| fields.get(name).copied().ok_or_else(incomplete);
    let mut scope = field("Credential")?.split('/');
    let mut part = || {
        scope
            .next()
            .filter(|part| !part.is_empty())
            .ok_or_else(incomplete)
    };
    let (key_id, date, region, service, end) = (part()?, part()?, part()?, part()?, part()?);
    if end != "aws4_request" {
        return Err(incomplete());
    }
    Ok(Signed {
        key_id,
        date,
        region,
        service,
        headers: field("SignedHeaders")?,
        signature: field("Signature")?,
    })
}

fn signature(request: &Request<Bytes>, signed: &Signed<'_>, secret: &str) -> String {
    let mut canonical = format!(
        "{}\n{}\n{}\n",
        request.method(),
        request.uri().path(),
        canonical_query(request)
    );
    for name in signed.headers.split(';') {
        let values: Vec<String> = request
            .headers()
            .get_all(name)
            .iter()
            .map(|value| {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        // INVARIANT: writing to a String does not fail.
        let _written = writeln!(canonical, "{name}:{}", values.join(","));
    }
    let _written = write!(
        canonical,
        "\n{}\n{}",
        signed.headers,
        hex(&Sha256::digest(request.body()))
    );
    let date_header = request
        .headers()
        .get("x-amz-date")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let scope = format!(
        "{}/{}/{}/aws4_request",
        signed.date, signed.region, signed.service
    );
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date_header}\n{scope}\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), signed.date.as_bytes());
    for part in [signed.region, signed.service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    hex(&hmac(&key, to_sign.as_bytes()))
}

fn canonical_query(request: &Request<Bytes>) -> String {
    let mut pairs: Vec<(String, String)> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let canonical = |text: &str| {
                let text: Vec<u8> = percent_decode_str(text).collect();
                utf8_percent_encode(&String::from_utf8_lossy(&text), RESERVED).to_string()
            };
            (canonical(name), canonical(value))
        })
        .collect();
    pairs.sort();
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&")
}

/// HMAC-SHA-256, RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        for (place, byte) in block.iter_mut().zip(Sha256::digest(key).iter()) {
            *place = *byte;
        }
    } else {
        for (place, byte) in block.iter_mut().zip(key) {
            *place = *byte;
        }
    }
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // INVARIANT: writing to a String does not fail.
            let _written = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_rfc_4231_test_case_2() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(
            hex(&mac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
