//! Named networks and the time of authentication in guardrails.

use std::collections::BTreeMap;

use postern_authz::{Authorizer, Context, GuardrailError, GuardrailSet, Networks};
use postern_core::{
    role::{Action, Role},
    testing::at,
};

use crate::fixture::{ada, assignment, context, machine};

const OFFICE: &str = r#"@id("office") forbid (principal, action == Action::"request", resource)
    unless { context.networks.contains(Network::"office") };"#;

fn office(ranges: &[&str]) -> GuardrailSet {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    let networks = Networks::new(BTreeMap::from([("office".to_owned(), ranges)])).unwrap();
    GuardrailSet::with_networks(networks)
}

#[test]
fn every_source_must_be_in_the_network_that_a_guardrail_names() {
    let mut guardrails = office(&["203.0.113.0/24", "2001:db8::/48"]);
    guardrails.add("office.cedar", OFFICE).unwrap();
    let authorizer = Authorizer::new(
        Role::built_in(),
        [assignment(1, "owner", "user:corp/ada", "/")],
        guardrails,
    )
    .unwrap();
    for (sources, allowed) in [
        (vec!["203.0.113.7"], true),
        (vec!["203.0.113.7", "2001:db8::7"], true),
        (vec!["203.0.113.7", "198.51.100.1"], false),
        (vec!["203.0.112.0/23"], false),
        (vec!["0.0.0.0/0"], false),
        (vec![], false),
    ] {
        let context = Context {
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
            ..context()
        };
        let decision = authorizer.decide(&ada(&[]), Action::Request, &machine(&[]), &context);
        assert_eq!(decision.allowed, allowed, "{sources:?}");
        assert_eq!(decision.errors, []);
    }
}

#[test]
fn a_network_that_is_not_configured_is_refused_when_the_guardrail_is_loaded() {
    let error = GuardrailSet::parse("office.cedar", OFFICE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "office.cedar: guardrail `office` names network `office`, which is not configured"
    );
    assert!(matches!(error, GuardrailError::UnknownNetwork { .. }));
}

#[test]
fn an_old_sign_in_can_be_refused_and_a_token_that_does_not_tell_is_old() {
    let rule = r#"@id("fresh") forbid (principal is User, action, resource) unless {
        principal has authenticated_at &&
        context.now.durationSince(principal.authenticated_at) <= duration("1h") };"#;
    let authorizer = crate::fixture::authorizer(vec![assignment(1, "owner", "user:corp/ada", "/")], rule);
    for (signed_in, allowed) in [(Some(-3600), true), (Some(-3601), false), (None, false)] {
        let mut principal = ada(&[]);
        principal.authenticated_at = signed_in.map(at);
        let decision = authorizer.decide(&principal, Action::Request, &machine(&[]), &context());
        assert_eq!(decision.allowed, allowed, "{signed_in:?}");
    }
}

#[test]
fn sets_tell_how_they_differ() {
    let mut before = office(&["203.0.113.0/24"]);
    before
        .add(
            "a",
            r#"@id("gone") forbid (principal, action, resource);
               @id("same") forbid (principal, action, resource);
               @id("said") @message("No.") forbid (principal, action, resource);"#,
        )
        .unwrap();
    let mut after = office(&["198.51.100.0/24"]);
    after
        .add(
            "b",
            r#"@id("same") forbid (principal, action, resource);
               @id("said") @message("Never.") forbid (principal, action, resource);
               @id("new") forbid (principal, action, resource);"#,
        )
        .unwrap();
    let difference = after.difference(&before);
    assert_eq!(difference.added, ["new"]);
    assert_eq!(difference.removed, ["gone"]);
    assert_eq!(difference.changed, ["said"]);
    assert_eq!(difference.networks, ["office"]);
    assert!(after.difference(&after).is_empty());
}
