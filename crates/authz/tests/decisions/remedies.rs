//! What would turn a denial into an allowance, and that it really would.

use std::collections::BTreeMap;

use postern_authz::{Authorizer, Change, Context, GuardrailSet, Networks};
use postern_core::{
    principal::Principal,
    role::{Action, Role},
    testing::at,
};

use crate::fixture::{ada, assignment, context, machine};

fn networks() -> Networks {
    let office = vec!["198.51.100.0/24".parse().unwrap()];
    let vpn = vec!["10.0.0.0/8".parse().unwrap()];
    Networks::new(BTreeMap::from([("office".into(), office), ("vpn".into(), vpn)])).unwrap()
}

fn authorizer(guardrails: &str, role: &str) -> Authorizer {
    let mut set = GuardrailSet::with_networks(networks());
    set.add("test.cedar", guardrails).unwrap();
    Authorizer::new(Role::built_in(), [assignment(1, role, "user:corp/ada", "/")], set).unwrap()
}

fn ways(guardrails: &str, principal: &Principal, context: &Context) -> Vec<String> {
    let remedies =
        authorizer(guardrails, "owner").remedies(principal, Action::Request, &machine(&[]), context);
    remedies.explain()
}

#[test]
fn what_is_allowed_needs_no_remedy() {
    let rule = r#"@id("mfa") forbid (principal, action, resource) unless { principal.mfa };"#;
    let mut principal = ada(&[]);
    principal.mfa = true;
    assert_eq!(ways(rule, &principal, &context()), Vec::<String>::new());
}

#[test]
fn each_single_change_that_would_do_is_named() {
    let mfa = r#"@id("mfa") forbid (principal, action, resource) unless { principal.mfa };"#;
    assert_eq!(ways(mfa, &ada(&[]), &context()), ["sign in with a second factor"]);
    let fresh = r#"@id("fresh") forbid (principal, action, resource) unless {
        principal has authenticated_at &&
        context.now.durationSince(principal.authenticated_at) <= duration("1h") };"#;
    let mut stale = ada(&[]);
    stale.authenticated_at = Some(at(-7200));
    assert_eq!(ways(fresh, &stale, &context()), ["sign in again"]);
    let short = r#"@id("short") forbid (principal, action, resource)
        when { context has duration_seconds && context.duration_seconds > 1800 };"#;
    let long = Context {
        duration_seconds: Some(7200),
        ..context()
    };
    assert_eq!(ways(short, &ada(&[]), &long), ["ask for 1800 seconds at most"]);
    let hours = r#"@id("hours") forbid (principal, action, resource)
        when { context.hour < 6 || context.hour >= 20 };"#;
    assert_eq!(
        ways(hours, &ada(&[]), &context()),
        ["ask at 2026-01-01 06:00 UTC"]
    );
    let office = r#"@id("office") forbid (principal, action, resource)
        unless { context.networks.containsAny([Network::"office", Network::"vpn"]) };"#;
    assert_eq!(
        ways(office, &ada(&[]), &context()),
        [
            "ask from the network `office` (198.51.100.0/24)",
            "ask from the network `vpn` (10.0.0.0/8)"
        ]
    );
}

#[test]
fn changes_that_only_do_together_are_named_together() {
    let rules = r#"
        @id("mfa") forbid (principal, action, resource) unless { principal.mfa };
        @id("hours") forbid (principal, action, resource) when { context.hour < 6 };
        @id("short") forbid (principal, action, resource)
        when { context has duration_seconds && context.duration_seconds > 300 };"#;
    assert_eq!(
        ways(rules, &ada(&[]), &context()),
        ["sign in with a second factor and ask for 300 seconds at most and ask at 2026-01-01 06:00 UTC"]
    );
}

#[test]
fn what_no_change_would_lift_is_said_to_be_so() {
    let never = r#"@id("never") @message("Never.") forbid (principal, action, resource);"#;
    assert_eq!(
        ways(never, &ada(&[]), &context()),
        ["no change to the request that was tried would pass the guardrails"]
    );
}

#[test]
fn a_missing_role_is_named_besides_what_guardrails_want() {
    let mfa = r#"@id("mfa") forbid (principal, action, resource) unless { principal.mfa };"#;
    let remedies =
        authorizer(mfa, "reader").remedies(&ada(&["sre"]), Action::Request, &machine(&[]), &context());
    assert_eq!(remedies.ways, [[Change::SecondFactor]]);
    assert_eq!(
        remedies.explain(),
        [
            "assign one of the roles `requester`, `owner` at \
             /azure/00000000-0000-0000-0000-000000000001/prod/vm1 to user:corp/ada or group:corp/sre",
            "sign in with a second factor",
        ]
    );
}
