//! From verified claims to a principal, as the issuer's mapping says.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::principal::{Principal, PrincipalKind};
use serde_json::Value;

use super::config::{ClaimMapping, ClaimMatch, IssuerConfig};

/// The longest subject and group name, in bytes; role assignments take no longer ones.
const MAX_NAME: usize = 255;
/// The most groups of one token that count. An issuer that has more to say sends a link instead.
const MAX_GROUPS: usize = 1000;

/// The claim, by name or JSON pointer.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claims.get(name)
    }
}

fn is_name(text: &str) -> bool {
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

/// The principal that verified claims speak of.
pub(crate) fn principal(issuer: &IssuerConfig, claims: &Value) -> Result<Principal, &'static str> {
    let mapping: &ClaimMapping = &issuer.claims;
    let subject = claim(claims, &mapping.subject)
        .and_then(Value::as_str)
        .filter(|subject| is_name(subject))
        .ok_or("the subject claim is missing or no name")?;
    let groups: BTreeSet<String> = match claim(claims, &mapping.groups) {
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(Value::as_str)
            .filter(|group| is_name(group))
            .take(MAX_GROUPS)
            .map(str::to_owned)
            .collect(),
        Some(Value::String(group)) if is_name(group) => [group.clone()].into(),
        _ => BTreeSet::new(),
    };
    let workload =
        mapping.workloads_only || mapping.workload_when.iter().any(|wanted| matches(claims, wanted));
    let extra: BTreeMap<String, Value> = mapping
        .extra
        .iter()
        .filter_map(|name| Some((name.clone(), claim(claims, name)?.clone())))
        .collect();
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
