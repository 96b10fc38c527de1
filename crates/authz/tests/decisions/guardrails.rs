//! Guardrails: what they can look at, and which are refused when they are loaded.

use std::fmt::Write;

use crate::fixture::{ada, assignment, authorizer, context, machine, pipeline};
use postern_authz::{Context, Decision, GuardrailError, GuardrailSet, Resource};
use postern_core::{principal::Principal, role::Action, testing::at};

/// Decides a request by somebody who is an owner, so that only the guardrail can be in the way.
fn decide(guardrail: &str, principal: &Principal, resource: &Resource, context: &Context) -> Decision {
    let owner = vec![
        assignment(1, "owner", "user:corp/ada", "/"),
        assignment(2, "owner", "workload:ci/deploy", "/"),
    ];
    authorizer(owner, guardrail).decide(principal, Action::Request, resource, context)
}

fn forbidden(guardrail: &str, principal: &Principal, resource: &Resource, context: &Context) -> bool {
    let decision = decide(guardrail, principal, resource, context);
    assert_eq!(decision.allowed, decision.forbidden_by.is_empty(), "{decision:?}");
    assert_eq!(decision.errors, []);
    !decision.allowed
}

#[test]
fn a_second_factor_can_be_required() {
    let rule = r#"@id("mfa") forbid (principal is User, action, resource) unless { principal.mfa };"#;
    let mut principal = ada(&[]);
    assert!(forbidden(rule, &principal, &machine(&[]), &context()));
    assert!(!forbidden(rule, &pipeline(&[]), &machine(&[]), &context()));
    principal.mfa = true;
    assert!(!forbidden(rule, &principal, &machine(&[]), &context()));
}

#[test]
fn a_time_window_can_be_required() {
    let rule = r#"@id("hours") forbid (principal, action, resource)
        when { context.hour < 6 || context.hour >= 20 || context.weekday > 5 };"#;
    // The first of January 2026 is a Thursday.
    for (seconds, refused) in [
        (6 * 3600 - 1, true),
        (6 * 3600, false),
        (20 * 3600 - 1, false),
        (20 * 3600, true),
        (2 * 86_400 + 43_200, true),
    ] {
        let context = Context {
            now: at(seconds),
            ..context()
        };
        assert_eq!(
            forbidden(rule, &ada(&[]), &machine(&[]), &context),
            refused,
            "{seconds}"
        );
    }
    let freeze = r#"@id("freeze") forbid (principal, action, resource)
        when { context.now >= datetime("2026-01-02") && context.now < datetime("2026-01-03T12:00:00Z") };"#;
    for (seconds, refused) in [
        (86_399, false),
        (86_400, true),
        (2 * 86_400, true),
        (3 * 86_400, false),
    ] {
        let context = Context {
            now: at(seconds),
            ..context()
        };
        assert_eq!(
            forbidden(freeze, &ada(&[]), &machine(&[]), &context),
            refused,
            "{seconds}"
        );
    }
}

#[test]
fn a_network_can_be_required_of_every_source() {
    let rule = r#"@id("office") forbid (principal, action, resource)
        unless { context has source && context.source.isInRange(ip("203.0.113.0/24")) };"#;
    for (sources, refused) in [
        (vec!["203.0.113.7"], false),
        (vec!["203.0.113.0/25"], false),
        (vec!["203.0.112.0/23"], true),
        (vec!["0.0.0.0/0"], true),
        (vec!["2001:db8::1"], true),
        (vec!["203.0.113.7", "198.51.100.1"], true),
        (vec![], true),
    ] {
        let sources_given = sources.iter().map(|source| source.parse().unwrap()).collect();
        let context = Context {
            sources: sources_given,
            ..context()
        };
        assert_eq!(
            forbidden(rule, &ada(&[]), &machine(&[]), &context),
            refused,
            "{sources:?}"
        );
    }
}

#[test]
fn a_port_can_be_forbidden_and_a_range_does_not_hide_it() {
    let rule = r#"@id("rdp") forbid (principal, action, resource)
        when { context has port && context.port.protocol == "tcp" && context.port.first <= 3389 && 3389 <= context.port.last };"#;
    for (ports, refused) in [
        (vec!["22"], false),
        (vec!["3389"], true),
        (vec!["3389/udp"], false),
        (vec!["22", "1-65535"], true),
        (vec!["3390-3400", "22"], false),
        (vec![], false),
    ] {
        let ports_given = ports.iter().map(|ports| ports.parse().unwrap()).collect();
        let context = Context {
            ports: ports_given,
            ..context()
        };
        assert_eq!(
            forbidden(rule, &ada(&[]), &machine(&[]), &context),
            refused,
            "{ports:?}"
        );
    }
}

#[test]
fn a_duration_and_a_reason_can_be_required() {
    let rule = r#"@id("short") forbid (principal, action, resource)
        when { context has duration_seconds && context.duration_seconds > 1800 };
        @id("reason") forbid (principal, action, resource) unless { context.reason_present };"#;
    for (duration_seconds, reason_present, refused) in [
        (Some(1800), true, false),
        (Some(1801), true, true),
        (Some(u64::MAX), true, true),
        (None, true, false),
        (None, false, true),
    ] {
        let context = Context {
            duration_seconds,
            reason_present,
            ..context()
        };
        assert_eq!(forbidden(rule, &ada(&[]), &machine(&[]), &context), refused);
    }
}

#[test]
fn tags_claims_groups_and_places_can_be_looked_at() {
    let prod = r#"@id("prod") forbid (principal, action, resource)
        when { resource.hasTag("env") && resource.getTag("env") == "prod" } unless { principal in Group::"corp/on-call" };"#;
    assert!(forbidden(
        prod,
        &ada(&[]),
        &machine(&[("env", "prod")]),
        &context()
    ));
    assert!(!forbidden(
        prod,
        &ada(&["on-call"]),
        &machine(&[("env", "prod")]),
        &context()
    ));
    assert!(!forbidden(
        prod,
        &ada(&[]),
        &machine(&[("env", "test")]),
        &context()
    ));
    assert!(!forbidden(prod, &ada(&[]), &machine(&[]), &context()));

    let branch = r#"@id("branch") forbid (principal is Workload, action, resource)
        unless { principal.hasTag("ref") && principal.getTag("ref") like "refs/heads/release-*" };"#;
    assert!(forbidden(
        branch,
        &pipeline(&[("ref", "refs/heads/x")]),
        &machine(&[]),
        &context()
    ));
    assert!(forbidden(branch, &pipeline(&[]), &machine(&[]), &context()));
    assert!(!forbidden(
        branch,
        &pipeline(&[("ref", "refs/heads/release-1")]),
        &machine(&[]),
        &context()
    ));

    let place = r#"@id("place") forbid (principal, action == Action::"request", resource in Scope::"/azure")
        when { resource.kind == "machine" && resource.path like "*/prod/*" };"#;
    assert!(forbidden(place, &ada(&[]), &machine(&[]), &context()));
    let aws = Resource::scope("/aws/123456789012".parse().unwrap());
    assert!(!forbidden(place, &ada(&[]), &aws, &context()));
}

#[test]
fn a_guardrail_that_fails_denies_and_says_so() {
    // Overflow is the failure that no validation can rule out.
    let rule = r#"@id("sum") forbid (principal, action, resource)
        when { context has duration_seconds && context.duration_seconds * 9223372036854775807 < 0 };"#;
    let decision = decide(rule, &ada(&[]), &machine(&[]), &context());
    assert!(!decision.allowed);
    assert!(!decision.allowed_by.is_empty());
    assert_eq!(decision.errors.len(), 1);
    let text = decision.explain();
    assert!(
        text.contains("`sum` could not be evaluated, which denies"),
        "{text}"
    );
    let harmless = Context {
        duration_seconds: None,
        ..context()
    };
    assert!(decide(rule, &ada(&[]), &machine(&[]), &harmless).allowed);
}

#[test]
fn what_is_no_guardrail_is_refused_with_its_place() {
    let good = r#"@id("good") forbid (principal, action, resource) unless { context.reason_present };"#;
    let mut said = String::new();
    for (case, text) in [
        ("a permit", r#"@id("open") permit (principal, action, resource);"#),
        ("no id", "forbid (principal, action, resource);"),
        ("an odd id", r#"@id("a b") forbid (principal, action, resource);"#),
        ("twice", r#"@id("good") forbid (principal, action, resource);"#),
        (
            "a template",
            r#"@id("t") forbid (principal in ?principal, action, resource);"#,
        ),
        ("no Cedar", "@id(\"x\")\nforbid (principal, action resource);"),
        (
            "an unknown attribute",
            "@id(\"x\") forbid (principal, action, resource)\n  when { principal.mfaa };",
        ),
        (
            "an optional attribute unasked",
            "@id(\"x\") forbid (principal, action, resource)\n  when { context.port.first == 22 };",
        ),
        (
            "a tag unasked",
            "@id(\"x\") forbid (principal, action, resource)\n  when { resource.getTag(\"env\") == \"prod\" };",
        ),
        (
            "another type",
            "@id(\"x\") forbid (principal, action, resource)\n  when { context.hour == \"6\" };",
        ),
        (
            "an unknown action",
            "@id(\"x\") forbid (principal, action == Action::\"reqest\", resource);",
        ),
        (
            "an unknown entity type",
            "@id(\"x\") forbid (principal is Usr, action, resource);",
        ),
        (
            "one that can never apply",
            "@id(\"x\") forbid (principal is User, action, resource)\n  when { principal is Workload };",
        ),
        (
            "an address that is none",
            "@id(\"x\") forbid (principal, action, resource)\n  when { context has source && context.source.isInRange(ip(\"203.0.113.0/33\")) };",
        ),
    ] {
        let error = GuardrailSet::parse("rules.cedar", &format!("{good}\n{text}")).unwrap_err();
        writeln!(said, "{case}: {error}").unwrap();
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_file_that_is_refused_leaves_the_set_as_it_was() {
    let mut set = GuardrailSet::parse("a", r#"@id("one") forbid (principal, action, resource);"#).unwrap();
    let text = r#"@id("two") forbid (principal, action, resource); @id("one") forbid (principal, action, resource);"#;
    assert!(matches!(
        set.add("b", text),
        Err(GuardrailError::Duplicate { .. })
    ));
    assert_eq!(
        set.iter().map(|rail| rail.id.as_str()).collect::<Vec<_>>(),
        ["one"]
    );
    set.add(
        "c",
        r#"@id("two") @message("No.") forbid (principal, action, resource);"#,
    )
    .unwrap();
    let two: Vec<_> = set.iter().filter(|rail| rail.id == "two").collect();
    assert!(
        two.iter()
            .all(|rail| rail.message.as_deref() == Some("No.") && rail.file == "c")
    );
    assert_eq!(set.iter().count(), 2);
}
