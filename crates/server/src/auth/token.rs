//! One token: taken apart, and its claims checked against an issuer and a time. Signatures are elsewhere.

use chrono::TimeDelta;
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::Header;
use postern_core::time::Instant;
use serde_json::Value;

use super::{config::IssuerConfig, json::Unambiguous};

/// The largest token that is looked at, in bytes.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;
/// The longest key id that is looked up, in bytes.
const MAX_KID: usize = 512;
/// The types of tokens that say who somebody is: RFC 7519, section 5.1, and RFC 9068, section 2.1. Others, such as
/// `logout+jwt`, `secevent+jwt` or `dpop+jwt`, may be of the same issuer and are for something else (RFC 8725,
/// section 3.11).
const TYPES: [&str; 2] = ["jwt", "at+jwt"];
/// Claims of tokens that are not for presenting as they are, with what they mean: RFC 8417, section 2.2, and
/// RFC 7800, section 3.1, whose proof of possession nobody asks for here, so that a thief would need none.
const FOR_SOMETHING_ELSE: [(&str, &str); 2] = [
    ("events", "it tells of an event and not of somebody"),
    ("cnf", "it is bound to a key, which cannot be proven here"),
];
/// The claims that name the client which asked the issuer for the token: `OpenID` Connect Core 1.0, section 2;
/// RFC 9068, section 2.2; and `appid`, as version 1.0 tokens of Microsoft Entra have it.
const PARTIES: [&str; 3] = ["azp", "client_id", "appid"];

/// What the `Authorization` header holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    /// Nothing.
    Nothing,
    /// A bearer token.
    Bearer(&'a str),
    /// Something else, or more than one, or too large a thing.
    Unusable(&'static str),
}

/// The bearer token of a request.
pub(crate) fn presented(headers: &HeaderMap) -> Presented<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Presented::Nothing;
    };
    if values.next().is_some() {
        return Presented::Unusable("more than one Authorization header");
    }
    let Ok(text) = value.to_str() else {
        return Presented::Unusable("the Authorization header is not ASCII");
    };
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let token = token.trim();
            if token.len() > MAX_TOKEN {
                Presented::Unusable("the token is too large")
            } else if token.is_empty() {
                Presented::Unusable("the token is empty")
            } else {
                Presented::Bearer(token)
            }
        }
        _ => Presented::Unusable("the Authorization scheme is not Bearer"),
    }
}

/// The token's header, if nothing in it asks for what is not understood.
pub(crate) fn header(token: &str) -> Result<Header, &'static str> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| "malformed header or unknown algorithm")?;
    if header.crit.is_some() {
        return Err("the header has critical extensions");
    }
    if header.enc.is_some() || header.zip.is_some() {
        return Err("the token is encrypted or compressed");
    }
    if header.typ.as_deref().is_some_and(|typ| {
        let typ = typ.to_ascii_lowercase();
        !TYPES.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
    }) {
        return Err("the token is of another type");
    }
    if header.cty.is_some() {
        return Err("the token holds another one");
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID) {
        return Err("the key id is too long");
    }
    Ok(header)
}

/// The issuer that a token names. Not verified: it only says whose keys to verify with.
pub(crate) fn claimed_issuer(token: &str) -> Result<String, &'static str> {
    let Unambiguous(claims) = jsonwebtoken::dangerous::insecure_decode_claims(token)
        .map_err(|_| "malformed or ambiguous claims")?;
    claims
        .get("iss")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or("no issuer")
}

/// Why verified claims are not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadClaims {
    /// They were good until their end.
    Expired,
    /// They never were.
    Invalid(&'static str),
}

/// A `NumericDate` (RFC 7519): seconds since 1970, perhaps with a fraction.
pub(crate) fn date(claim: Option<&Value>) -> Result<Option<Instant>, BadClaims> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fractions of a second do not matter here, and the value is checked to be in range"
    )]
    let seconds = match claim {
        None => return Ok(None),
        Some(Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().filter(|f| f.abs() < 1e15).map(|f| f as i64)),
        Some(_) => None,
    };
    seconds
        .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0))
        .map(Some)
        .ok_or(BadClaims::Invalid("a date is not one"))
}

/// Where the configuration says which clients' tokens are accepted: every claim that names the client names one of
/// them, and at least one claim does.
fn authorized_party(issuer: &IssuerConfig, claims: &Value) -> Result<(), BadClaims> {
    let Some(accepted) = &issuer.authorized_parties else {
        return Ok(());
    };
    let mut named = PARTIES.iter().filter_map(|name| claims.get(name)).peekable();
    if named.peek().is_none() {
        return Err(BadClaims::Invalid(
            "it does not say which client it was issued to",
        ));
    }
    let is_accepted = |party: &Value| {
        party
            .as_str()
            .is_some_and(|party| accepted.iter().any(|a| a == party))
    };
    if named.all(is_accepted) {
        Ok(())
    } else {
        Err(BadClaims::Invalid("it was issued to another client"))
    }
}

/// Checks issuer, audience, client, kind and times of verified claims.
pub(crate) fn check(issuer: &IssuerConfig, claims: &Value, now: Instant) -> Result<(), BadClaims> {
    if claims.get("iss").and_then(Value::as_str) != Some(issuer.issuer.as_str()) {
        return Err(BadClaims::Invalid("the issuer is another one"));
    }
    let ours = |value: &Value| {
        value
            .as_str()
            .is_some_and(|aud| issuer.audiences.iter().any(|a| a == aud))
    };
    let for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(ours),
        Some(audience) => ours(audience),
        None => false,
    };
    if !for_us {
        return Err(BadClaims::Invalid("the audience is another one"));
    }
    authorized_party(issuer, claims)?;
    if let Some((_, reason)) = FOR_SOMETHING_ELSE
        .iter()
        .find(|(name, _)| claims.get(name).is_some())
    {
        return Err(BadClaims::Invalid(reason));
    }
    let leeway = TimeDelta::seconds(issuer.leeway_seconds.into());
    let soon = now + leeway;
    if date(claims.get("nbf"))?.is_some_and(|not_before| not_before > soon) {
        return Err(BadClaims::Invalid("it is not valid yet"));
    }
    if date(claims.get("iat"))?.is_some_and(|issued_at| issued_at > soon) {
        return Err(BadClaims::Invalid("it was issued in the future"));
    }
    match date(claims.get("exp"))? {
        None => Err(BadClaims::Invalid("it has no end")),
        Some(end) if end <= now - leeway => Err(BadClaims::Expired),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::at;
    use serde_json::json;

    use super::*;

    fn issuer() -> IssuerConfig {
        serde_json::from_value(json!({
            "name": "corp", "issuer": "https://login.example.com", "audiences": ["postern", "api://postern"],
            "algorithms": ["RS256"],
        }))
        .unwrap()
    }

    fn claims(change: impl FnOnce(&mut Value)) -> Value {
        let start = at(0).timestamp();
        let mut claims = json!({
            "iss": "https://login.example.com", "aud": "postern", "sub": "ada",
            "iat": start, "nbf": start, "exp": start + 600,
        });
        change(&mut claims);
        claims
    }

    #[test]
    fn times_count_with_the_leeway_and_no_more() {
        let issuer = issuer();
        let good = claims(|_| ());
        assert_eq!(check(&issuer, &good, at(0)), Ok(()));
        assert_eq!(check(&issuer, &good, at(-30)), Ok(()));
        assert!(matches!(
            check(&issuer, &good, at(-31)),
            Err(BadClaims::Invalid(_))
        ));
        assert_eq!(check(&issuer, &good, at(629)), Ok(()));
        assert_eq!(check(&issuer, &good, at(630)), Err(BadClaims::Expired));
    }

    #[test]
    fn an_end_is_required_and_dates_are_numbers() {
        let issuer = issuer();
        for spoil in [
            json!(null),
            json!("2030"),
            json!(1e300),
            json!({}),
            json!(true),
            json!(i64::MAX),
        ] {
            let spoiled = claims(|claims| claims["exp"] = spoil.clone());
            assert!(
                matches!(check(&issuer, &spoiled, at(0)), Err(BadClaims::Invalid(_))),
                "{spoil}"
            );
        }
        let endless = claims(|claims| drop(claims.as_object_mut().unwrap().remove("exp")));
        assert_eq!(
            check(&issuer, &endless, at(0)),
            Err(BadClaims::Invalid("it has no end"))
        );
    }

    #[test]
    fn the_audience_must_be_ours_to_the_letter() {
        let issuer = issuer();
        for (audience, good) in [
            (json!(["x", "api://postern"]), true),
            (json!("Postern"), false),
            (json!([]), false),
            (json!(null), false),
            (json!({ "postern": 1 }), false),
        ] {
            let claims = claims(|claims| claims["aud"] = audience.clone());
            assert_eq!(check(&issuer, &claims, at(0)).is_ok(), good, "{audience}");
        }
    }

    #[test]
    fn the_client_is_asked_for_where_the_configuration_names_clients() {
        let mut issuer = issuer();
        let from = |party: Value| {
            claims(|claims| {
                claims
                    .as_object_mut()
                    .unwrap()
                    .extend(party.as_object().unwrap().clone());
            })
        };
        assert_eq!(check(&issuer, &from(json!({ "azp": "anything" })), at(0)), Ok(()));
        issuer.authorized_parties = Some(vec!["cli".to_owned(), "console".to_owned()]);
        for (party, good) in [
            (json!({ "azp": "cli" }), true),
            (json!({ "client_id": "console" }), true),
            (json!({ "azp": "cli", "client_id": "console" }), true),
            (json!({ "azp": "cli", "client_id": "other" }), false),
            (json!({ "appid": "other" }), false),
            (json!({ "azp": null }), false),
            (json!({ "azp": ["cli"] }), false),
            (json!({}), false),
        ] {
            assert_eq!(
                check(&issuer, &from(party.clone()), at(0)).is_ok(),
                good,
                "{party}"
            );
        }
    }

    #[test]
    fn one_bearer_token_of_bounded_size_is_taken() {
        let mut headers = HeaderMap::new();
        assert_eq!(presented(&headers), Presented::Nothing);
        headers.insert(AUTHORIZATION, "bearer a.b.c".parse().unwrap());
        assert_eq!(presented(&headers), Presented::Bearer("a.b.c"));
        headers.append(AUTHORIZATION, "Bearer d.e.f".parse().unwrap());
        assert!(matches!(presented(&headers), Presented::Unusable(_)));
        for value in ["Basic eDp5", "Bearer", "Bearer ", "a.b.c"] {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            assert!(matches!(presented(&headers), Presented::Unusable(_)), "{value}");
        }
        let huge = format!("Bearer {}", "x".repeat(MAX_TOKEN + 1));
        headers.insert(AUTHORIZATION, huge.parse().unwrap());
        assert!(matches!(presented(&headers), Presented::Unusable(_)));
    }
}
