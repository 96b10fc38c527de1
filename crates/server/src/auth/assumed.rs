//! Somebody without a token, as somebody else takes them to be: for questions about them, never for what they do.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    principal::{Principal, PrincipalRef},
    time::Instant,
};
use serde_json::Value;

use super::{
    claims::{MAX_GROUPS, is_bounded, is_name},
    config::IssuerConfig,
    json::Unambiguous,
};

/// What a token of theirs would say, as it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Assumption {
    /// Groups, without the issuer or as `group:<issuer>/<group>`.
    pub(crate) groups: Vec<String>,
    /// Whether it proves a second factor.
    pub(crate) mfa: Option<bool>,
    /// When they signed in.
    pub(crate) authenticated_at: Option<Instant>,
    /// `name=value`, of the claims that the issuer's configuration passes on.
    pub(crate) claims: Vec<String>,
}

impl Assumption {
    /// Whether it says anything.
    pub(crate) fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// The principal that such a token would make, within the bounds of tokens; `issuers` are the configured ones.
    pub(crate) fn of(self, reference: &PrincipalRef, issuers: &[IssuerConfig]) -> Result<Principal, String> {
        let mut principal = Principal::named(reference);
        principal.groups = groups(&principal.issuer, self.groups)?;
        let issuer = issuers.iter().find(|issuer| issuer.name == principal.issuer);
        principal.claims = claims(&principal.issuer, issuer, &self.claims)?;
        principal.mfa = self.mfa.unwrap_or(false);
        principal.authenticated_at = self.authenticated_at;
        Ok(principal)
    }
}

fn groups(issuer: &str, given: Vec<String>) -> Result<BTreeSet<String>, String> {
    if given.len() > MAX_GROUPS {
        return Err(format!("`groups`: {MAX_GROUPS} at most can be assumed"));
    }
    given
        .into_iter()
        .map(|group| {
            let name = match group.parse() {
                Ok(PrincipalRef::Group(reference)) => match reference.split_once('/') {
                    Some((of, name)) if of == issuer => name.to_owned(),
                    _ => return Err(format!("`groups`: `{group}` is not a group of `{issuer}`")),
                },
                _ => group,
            };
            if is_name(&name) {
                Ok(name)
            } else {
                Err("`groups`: a group has 1 to 255 bytes and no control characters".to_owned())
            }
        })
        .collect()
}

fn claims(
    name: &str,
    issuer: Option<&IssuerConfig>,
    given: &[String],
) -> Result<BTreeMap<String, Value>, String> {
    let passed_on = issuer.map_or(&[][..], |issuer| &issuer.claims.extra);
    let mut values = 0;
    let mut found = BTreeMap::new();
    for text in given {
        // A claim's configured name may hold a `=` itself.
        let (claim, value) = passed_on
            .iter()
            .find_map(|claim| Some((claim, text.strip_prefix(claim)?.strip_prefix('=')?)))
            .ok_or_else(|| unknown(name, passed_on))?;
        let value = match serde_json::from_str::<Value>(value) {
            Ok(_) => {
                serde_json::from_str::<Unambiguous>(value)
                    .map_err(|error| format!("`claims`: `{claim}`: {error}"))?
                    .0
            }
            Err(_) => Value::String(value.to_owned()),
        };
        if !is_bounded(claim.len(), &value, &mut values) {
            return Err(format!(
                "`claims`: with `{claim}` they are larger than those of a token"
            ));
        }
        if found.insert(claim.clone(), value).is_some() {
            return Err(format!("`claims`: `{claim}` is there twice"));
        }
    }
    Ok(found)
}

fn unknown(issuer: &str, passed_on: &[String]) -> String {
    if passed_on.is_empty() {
        return format!("`claims`: no claim of `{issuer}` is passed on to guardrails");
    }
    format!(
        "`claims`: expected `<name>=<value>`, with one of the claims of `{issuer}` that are passed on to guardrails: `{}`",
        passed_on.join("`, `")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issuers() -> Vec<IssuerConfig> {
        vec![
            serde_json::from_value(json!({
                "name": "corp", "issuer": "https://login.example.com", "audiences": ["postern"],
                "algorithms": ["RS256"], "claims": { "extra": ["risk", "device_managed", "/a=b"] },
            }))
            .unwrap(),
        ]
    }

    fn of(groups: &[&str], claims: &[&str]) -> Result<Principal, String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Assumption {
            groups: owned(groups),
            claims: owned(claims),
            ..Assumption::default()
        }
        .of(&"user:corp/ada".parse().unwrap(), &issuers())
    }

    #[test]
    fn groups_are_named_as_a_token_names_them_or_as_assignments_do() {
        let named = of(&["sre", "group:corp/team/db", "sre", "user:corp/x"], &[]).unwrap();
        assert_eq!(
            named.groups,
            ["sre", "team/db", "user:corp/x"].map(str::to_owned).into()
        );
        let other = of(&["group:partner/sre"], &[]).unwrap_err();
        assert!(other.contains("not a group of `corp`"), "{other}");
        for wrong in ["", "a\nb", &"x".repeat(256)] {
            assert!(of(&[wrong], &[]).is_err(), "{wrong:?}");
        }
        assert!(of(&vec!["x"; MAX_GROUPS], &[]).is_ok());
        assert!(of(&vec!["x"; MAX_GROUPS + 1], &[]).is_err());
    }

    #[test]
    fn claims_are_json_or_text_and_only_those_that_guardrails_would_see() {
        let claims = of(&[], &["risk=low", "device_managed=true", "/a=b=\"7\""])
            .unwrap()
            .claims;
        let expected = [
            ("risk", json!("low")),
            ("device_managed", json!(true)),
            ("/a=b", json!("7")),
        ];
        assert_eq!(
            claims,
            expected.map(|(name, value)| (name.to_owned(), value)).into()
        );
        let unknown = of(&[], &["email=ada@example.com"]).unwrap_err();
        assert!(unknown.contains("`risk`, `device_managed`"), "{unknown}");
        for wrong in [
            &["risk"][..],
            &["risk=low", "risk=high"],
            &["risk={\"a\":1,\"a\":2}"],
            &[&format!("risk={}", "x".repeat(1025))],
            &[&format!("risk={}{}", "[".repeat(20), "]".repeat(20))],
        ] {
            assert!(of(&[], wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn of_an_issuer_that_is_not_configured_no_claim_is_known() {
        let assumption = Assumption {
            claims: vec!["risk=low".into()],
            ..Assumption::default()
        };
        let refused = assumption.of(&"user:partner/ada".parse().unwrap(), &issuers());
        assert_eq!(
            refused,
            Err("`claims`: no claim of `partner` is passed on to guardrails".to_owned())
        );
    }
}
