//! From verified claims to a principal, as the issuer's mapping says.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::principal::{Principal, PrincipalKind};
use serde_json::Value;

use super::{
    config::{ClaimMapping, ClaimMatch, IssuerConfig},
    token::date,
};

/// The longest subject and group name, in bytes; role assignments take no longer ones.
const MAX_NAME: usize = 255;
/// The most groups of one token. With some left out, a guardrail that forbids something to a group would be dodged
/// by being in many.
pub(super) const MAX_GROUPS: usize = 1000;
/// The most single values in the claims that are passed on, and the longest name and value of one, in bytes.
const MAX_VALUES: usize = 256;
const MAX_VALUE: usize = 1024;
/// What is there instead of groups that did not fit into the token (Microsoft Entra, "Configure group claims":
/// `_claim_names` names the claim that is elsewhere; `hasgroups` is the same of the implicit flow).
const ELSEWHERE: &str = "_claim_names";
const HAS_GROUPS: &str = "hasgroups";

/// The claim, by name or JSON pointer.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claims.get(name)
    }
}

pub(super) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn matches(claims: &Value, wanted: &ClaimMatch) -> bool {
    let has = |value: &Value| match value {
        Value::String(text) => wanted.values.contains(text),
        Value::Bool(_) | Value::Number(_) => wanted.values.contains(&value.to_string()),
        _ => false,
    };
    match claim(claims, &wanted.claim) {
        Some(Value::Array(items)) => items.iter().any(has),
        Some(value) => has(value),
        None => false,
    }
}

/// The groups that the token names; an error where they are not all there.
fn groups(mapping: &ClaimMapping, claims: &Value) -> Result<BTreeSet<String>, &'static str> {
    let is_elsewhere = claims
        .get(ELSEWHERE)
        .is_some_and(|names| names.get(&mapping.groups).is_some())
        || claims
            .get(HAS_GROUPS)
            .is_some_and(|has| *has != Value::Bool(false) && has != "false");
    let groups: BTreeSet<String> = match claim(claims, &mapping.groups) {
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(Value::as_str)
            .filter(|group| is_name(group))
            .map(str::to_owned)
            .collect(),
        Some(Value::String(group)) if is_name(group) => [group.clone()].into(),
        None if is_elsewhere => return Err("its groups did not fit into the token"),
        _ => BTreeSet::new(),
    };
    if groups.len() > MAX_GROUPS {
        return Err("it names too many groups");
    }
    Ok(groups)
}

/// Whether a claim, and with it every value below it, is small enough to be looked at in every decision.
pub(super) fn is_bounded(name: usize, value: &Value, values: &mut usize) -> bool {
    if name > MAX_VALUE {
        return false;
    }
    match value {
        Value::Array(items) => items.iter().all(|item| is_bounded(name, item, values)),
        Value::Object(members) => members
            .iter()
            .all(|(inner, value)| is_bounded(name + 1 + inner.len(), value, values)),
        scalar => {
            *values += 1;
            *values <= MAX_VALUES && scalar.as_str().is_none_or(|text| text.len() <= MAX_VALUE)
        }
    }
}

/// The principal that verified claims speak of.
pub(crate) fn principal(issuer: &IssuerConfig, claims: &Value) -> Result<Principal, &'static str> {
    let mapping: &ClaimMapping = &issuer.claims;
    let subject = claim(claims, &mapping.subject)
        .and_then(Value::as_str)
        .filter(|subject| is_name(subject))
        .ok_or("the subject claim is missing or no name")?;
    let groups = groups(mapping, claims)?;
    let workload =
        mapping.workloads_only || mapping.workload_when.iter().any(|wanted| matches(claims, wanted));
    let extra: BTreeMap<String, Value> = mapping
        .extra
        .iter()
        .filter_map(|name| Some((name.clone(), claim(claims, name)?.clone())))
        .collect();
    let mut values = 0;
    if !extra
        .iter()
        .all(|(name, value)| is_bounded(name.len(), value, &mut values))
    {
        return Err("a claim that guardrails look at is too large");
    }
    let authenticated_at = match &mapping.authenticated_at {
        Some(name) => date(claim(claims, name)).map_err(|_| "the time of authentication is no date")?,
        None => None,
    };
    Ok(Principal {
        kind: if workload {
            PrincipalKind::Workload
        } else {
            PrincipalKind::Human
        },
        issuer: issuer.name.clone(),
        subject: subject.to_owned(),
        name: claim(claims, &mapping.name)
            .and_then(Value::as_str)
            .filter(|name| is_name(name))
            .map(str::to_owned),
        groups,
        mfa: mapping.mfa_when.iter().any(|wanted| matches(claims, wanted)),
        authenticated_at,
        claims: extra,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issuer(claims: &Value) -> IssuerConfig {
        serde_json::from_value(json!({
            "name": "corp", "issuer": "https://login.example.com", "audiences": ["postern"],
            "algorithms": ["RS256"], "claims": claims,
        }))
        .unwrap()
    }

    #[test]
    fn people_have_groups_a_name_and_perhaps_a_second_factor() {
        let claims = json!({ "sub": "ada", "name": "Ada", "groups": ["sre", 7, ""], "amr": ["pwd", "mfa"] });
        let principal = principal(&issuer(&json!({})), &claims).unwrap();
        assert_eq!(principal.reference().to_string(), "user:corp/ada");
        assert_eq!(principal.groups, ["sre".to_owned()].into());
        assert_eq!(principal.name.as_deref(), Some("Ada"));
        assert!(principal.mfa);
    }

    #[test]
    fn programs_are_told_by_their_claims() {
        let mapping = json!({
            "subject": "/repository/name",
            "workload_when": [{ "claim": "idtyp", "values": ["app"] }],
            "extra": ["ref"],
        });
        let claims =
            json!({ "repository": { "name": "org/app" }, "idtyp": "app", "ref": "main", "other": 1 });
        let principal = principal(&issuer(&mapping), &claims).unwrap();
        assert_eq!(principal.reference().to_string(), "workload:corp/org/app");
        assert_eq!(
            principal.claims,
            BTreeMap::from([("ref".to_owned(), json!("main"))])
        );
        assert!(!principal.mfa);
    }

    #[test]
    fn a_subject_that_is_no_name_is_nobody() {
        for subject in [
            json!(null),
            json!(7),
            json!(""),
            json!("a\nb"),
            json!("x".repeat(256)),
        ] {
            assert!(principal(&issuer(&json!({})), &json!({ "sub": subject })).is_err());
        }
    }

    #[test]
    fn the_time_of_authentication_is_a_date_or_the_token_is_refused() {
        let issuer = issuer(&json!({}));
        let with = |time: Value| principal(&issuer, &json!({ "sub": "ada", "auth_time": time }));
        let at = with(json!(1_767_225_600)).unwrap().authenticated_at.unwrap();
        assert_eq!(at.timestamp(), 1_767_225_600);
        assert_eq!(
            principal(&issuer, &json!({ "sub": "ada" }))
                .unwrap()
                .authenticated_at,
            None
        );
        for wrong in [json!("2026-01-01"), json!(null), json!([1]), json!(1e300)] {
            assert!(with(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn groups_that_are_not_all_there_are_not_taken_for_all() {
        let issuer = issuer(&json!({}));
        let refused = |claims: Value| principal(&issuer, &claims).is_err();
        assert!(refused(
            json!({ "sub": "ada", "_claim_names": { "groups": "src1" } })
        ));
        assert!(refused(json!({ "sub": "ada", "hasgroups": true })));
        assert!(refused(json!({ "sub": "ada", "hasgroups": "true" })));
        let many: Vec<String> = (0..=MAX_GROUPS).map(|n| n.to_string()).collect();
        assert!(refused(json!({ "sub": "ada", "groups": many })));
        assert!(!refused(json!({ "sub": "ada", "groups": many[1..] })));
        assert!(!refused(
            json!({ "sub": "ada", "_claim_names": { "other": "src1" } })
        ));
        assert!(!refused(json!({ "sub": "ada", "hasgroups": false })));
    }

    #[test]
    fn claims_that_guardrails_look_at_are_bounded() {
        let issuer = issuer(&json!({ "extra": ["more"] }));
        let taken = |value: Value| principal(&issuer, &json!({ "sub": "ada", "more": value })).is_ok();
        assert!(taken(json!(vec!["x"; MAX_VALUES])));
        assert!(!taken(json!(vec!["x"; MAX_VALUES + 1])));
        assert!(taken(json!({ "a": { "b": "x".repeat(MAX_VALUE) } })));
        assert!(!taken(json!({ "a": { "b": "x".repeat(MAX_VALUE + 1) } })));
        assert!(!taken(json!({ "x".repeat(MAX_VALUE): 1 })));
        let unlooked = json!({ "sub": "ada", "other": "x".repeat(MAX_VALUE + 1) });
        assert!(principal(&issuer, &unlooked).is_ok());
    }

    #[test]
    fn a_context_class_may_prove_a_second_factor() {
        let mapping = json!({ "mfa_when": [
            { "claim": "acr", "values": ["http://schemas.openid.net/pape/policies/2007/06/multi-factor", "2"] },
            { "claim": "acrs", "values": ["c1"] },
        ] });
        for (claims, mfa) in [
            (json!({ "sub": "ada", "acr": "2" }), true),
            (json!({ "sub": "ada", "acr": 2 }), true),
            (json!({ "sub": "ada", "acrs": ["c0", "c1"] }), true),
            (json!({ "sub": "ada", "acr": "1", "amr": ["mfa"] }), false),
        ] {
            assert_eq!(
                principal(&issuer(&mapping), &claims).unwrap().mfa,
                mfa,
                "{claims}"
            );
        }
    }

    #[test]
    fn a_second_factor_is_not_assumed() {
        for amr in [
            json!(null),
            json!("pwd"),
            json!({ "mfa": true }),
            json!([["mfa"]]),
            json!("mfa "),
        ] {
            let claims = json!({ "sub": "ada", "amr": amr });
            assert!(!principal(&issuer(&json!({})), &claims).unwrap().mfa);
        }
    }
}
