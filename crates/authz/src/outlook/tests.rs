//! An outlook never says anything that a decision contradicts, and says as much as can be known.

use std::collections::BTreeSet;

use postern_core::testing::at;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{Context, Decision, GuardrailSet, applicable::tests as generated};

/// With these guardrails, but those that are refused because they could never apply.
fn authorizer(text: &str) -> Authorizer {
    let mut guardrails = GuardrailSet::default();
    for (number, one) in text.split_inclusive(";\n").enumerate() {
        drop(guardrails.add(&format!("{number}.cedar"), one));
    }
    Authorizer::new([], [], guardrails).unwrap()
}

/// Those that forbid it, or fail.
fn forbidding(decision: &Decision) -> BTreeSet<String> {
    let forbid = decision.forbidden_by.iter().map(|by| by.guardrail.clone());
    let fail = decision
        .errors
        .iter()
        .filter_map(|failure| failure.policy.clone());
    forbid.chain(fail).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_decision_contradicts_an_outlook(
        text in generated::guardrails(),
        asked in vec((generated::asking(), select(vec![Action::Request, Action::Approve, Action::Read])), 1..6),
        above in 0..4_usize,
    ) {
        let authorizer = authorizer(&text);
        for ((principal, resource, context), action) in asked {
            let forbidden = forbidding(&authorizer.decide(&principal, action, &resource, &context));
            let above = resource.scope.ancestors().nth(above).unwrap_or_else(Scope::root);
            // By name, and as a member of a group.
            for reference in principal.references() {
                let mut outlook = authorizer.outlook(&reference).unwrap();
                for said in [outlook.at(action, &resource), outlook.within(action, &above)] {
                    for guardrail in &forbidden {
                        prop_assert!(said.contains_key(guardrail), "{guardrail} forbids, {reference} was told {said:?}\n{text}");
                    }
                    for (guardrail, said) in said {
                        prop_assert!(
                            said == Forbids::AtTimes || forbidden.contains(&guardrail),
                            "{guardrail} is said to forbid always to {reference}\n{text}"
                        );
                    }
                }
            }
        }
    }
}

fn said(principal: &str, place: Place<'_>, condition: &str) -> Option<Forbids> {
    let authorizer = authorizer(&format!("@id(\"g\") forbid {condition};\n"));
    assert!(!authorizer.guardrails().is_empty(), "{condition}");
    let mut outlook = authorizer.outlook(&principal.parse().unwrap()).unwrap();
    outlook.forbidding(Action::Request, place).get("g").copied()
}

fn machine(tags: &[(&str, &str)]) -> Resource {
    Resource::machine(
        "/aws/123456789012/eu-west-1/i-0123456789abcdef0".parse().unwrap(),
        tags.iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
    )
}

const ALWAYS: Option<Forbids> = Some(Forbids::Always);
const AT_TIMES: Option<Forbids> = Some(Forbids::AtTimes);

#[test]
fn what_follows_from_the_name_and_the_machine_is_known() {
    for (condition, expected) in [
        ("(principal, action, resource)", ALWAYS),
        ("(principal == User::\"corp/ada\", action, resource)", ALWAYS),
        ("(principal == User::\"corp/bob\", action, resource)", None),
        ("(principal is Workload, action, resource)", None),
        ("(principal, action == Action::\"approve\", resource)", None),
        (
            "(principal, action, resource) when { action == Action::\"request\" }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { principal.issuer == \"corp\" }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { principal.subject like \"b*\" }",
            None,
        ),
        ("(principal, action, resource) when { !principal.mfa }", AT_TIMES),
        ("(principal in Group::\"corp/sre\", action, resource)", AT_TIMES),
        (
            "(principal, action, resource in Scope::\"/aws/123456789012\")",
            ALWAYS,
        ),
        (
            "(principal, action, resource is Scope in Scope::\"/azure\")",
            None,
        ),
        ("(principal, action, resource == Scope::\"/aws\")", None),
        (
            "(principal, action, resource) when { resource in [Scope::\"/azure\", Scope::\"/aws\"] }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { resource.path like \"*/eu-west-1/*\" }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { resource has cloud && resource.cloud == \"azure\" }",
            None,
        ),
        // Other things may have a scope's name.
        (
            "(principal, action, resource) unless { resource in Group::\"/aws\" }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { resource in Group::\"/aws\" || !principal.mfa }",
            AT_TIMES,
        ),
        // A request of the machine is asked about, too.
        (
            "(principal, action, resource) when { resource.kind == \"machine\" }",
            AT_TIMES,
        ),
        (
            "(principal, action, resource) unless { resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\" }",
            None,
        ),
        (
            "(principal, action, resource) when { resource.hasTag(\"env\") && !principal.mfa }",
            AT_TIMES,
        ),
        (
            "(principal, action, resource) when { !resource.hasTag(\"env\") && !principal.mfa }",
            None,
        ),
        (
            "(principal, action, resource) when { context.hour < 6 }",
            AT_TIMES,
        ),
    ] {
        let prod = machine(&[("env", "prod")]);
        assert_eq!(
            said("user:corp/ada", Place::At(&prod), condition),
            expected,
            "{condition}"
        );
    }
}

#[test]
fn a_group_is_whoever_is_in_it() {
    let machine = machine(&[]);
    for (condition, expected) in [
        ("(principal in Group::\"corp/sre\", action, resource)", ALWAYS),
        (
            "(principal is User in Group::\"corp/sre\", action, resource)",
            AT_TIMES,
        ),
        ("(principal in Group::\"corp/ops\", action, resource)", AT_TIMES),
        (
            "(principal, action, resource) unless { principal in [Group::\"corp/ops\", Group::\"corp/sre\"] }",
            None,
        ),
        ("(principal is Workload, action, resource)", AT_TIMES),
        (
            "(principal, action, resource) when { principal.issuer == \"ci\" }",
            None,
        ),
        (
            "(principal, action, resource) when { principal.subject == \"sre\" }",
            AT_TIMES,
        ),
    ] {
        assert_eq!(
            said("group:corp/sre", Place::At(&machine), condition),
            expected,
            "{condition}"
        );
    }
}

#[test]
fn within_a_scope_is_anything_at_it_or_below() {
    let scope = "/aws/123456789012".parse().unwrap();
    for (condition, expected) in [
        ("(principal, action, resource in Scope::\"/aws\")", ALWAYS),
        (
            "(principal, action, resource in Scope::\"/aws/123456789012/eu-west-1\")",
            AT_TIMES,
        ),
        (
            "(principal, action, resource in Scope::\"/aws/999999999999\")",
            None,
        ),
        ("(principal, action, resource == Scope::\"/aws\")", None),
        (
            "(principal, action, resource) when { action in [Action::\"request\", Action::\"read\"] }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { action in [Action::\"approve\"] }",
            None,
        ),
        (
            "(principal, action, resource) when { resource has cloud && resource.cloud == \"aws\" }",
            ALWAYS,
        ),
        (
            "(principal, action, resource) when { resource.path like \"/aws*\" }",
            AT_TIMES,
        ),
        (
            "(principal, action, resource) when { resource.hasTag(\"env\") }",
            AT_TIMES,
        ),
    ] {
        assert_eq!(
            said("user:corp/ada", Place::Within(&scope), condition),
            expected,
            "{condition}"
        );
    }
}

#[test]
fn alike_machines_are_evaluated_once_and_never_too_many() {
    let text = "@id(\"tags\") forbid (principal, action, resource) when { resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\" };\n
                @id(\"path\") forbid (principal, action, resource) when { resource.path like \"*7\" };\n";
    let authorizer = authorizer(text);
    let mut outlook = authorizer.outlook(&"user:corp/ada".parse().unwrap()).unwrap();
    let of = |number: usize| {
        Resource::machine(
            format!("/aws/123456789012/eu-west-1/i-{number:017}")
                .parse()
                .unwrap(),
            [
                ("env".to_owned(), "prod".to_owned()),
                ("Name".to_owned(), number.to_string()),
            ]
            .into(),
        )
    };
    for number in 0..100 {
        let said = outlook.at(Action::Request, &of(number));
        assert_eq!(said["tags"], Forbids::Always);
        assert_eq!(said.contains_key("path"), number % 10 == 7);
    }
    let size = |id: &str| {
        let known = &outlook.guardrails[&Action::Request];
        known.iter().find(|one| one.id == id).unwrap().size
    };
    // One for the tag, one for each path.
    assert_eq!(
        WORK - outlook.left,
        size("tags") + 100 * size("path") + 101 * AT_LEAST
    );
    outlook.left = 0;
    assert_eq!(outlook.at(Action::Request, &of(100))["path"], Forbids::AtTimes);
    assert_eq!(outlook.at(Action::Request, &of(101))["tags"], Forbids::Always);
    let now = Context::at(at(0));
    let ada = Principal::named(&"user:corp/ada".parse().unwrap());
    assert_eq!(
        forbidding(&authorizer.decide(&ada, Action::Request, &of(7), &now)).len(),
        2
    );
}

/// Cedar reads text without looking at how much stack is left.
#[test]
fn deeply_nested_guardrails_do_no_harm() {
    let nested = |depth: usize| format!("{}principal.mfa{}", "(".repeat(depth), ")".repeat(depth));
    let alternatives = vec!["principal.mfa"; 1500].join(" || ");
    let text = format!(
        "@id(\"nested\") forbid (principal, action, resource) when {{ {} }};\n
         @id(\"many\") forbid (principal, action, resource) when {{ {alternatives} }};\n",
        nested(3000)
    );
    let authorizer = authorizer(&text);
    assert_eq!(authorizer.guardrails().iter().count(), 2);
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    let said = small.spawn(move || {
        let mut outlook = authorizer.outlook(&"user:corp/ada".parse().unwrap()).unwrap();
        outlook.at(Action::Request, &machine(&[]))
    });
    let said = said.unwrap().join().unwrap();
    assert_eq!(said.into_values().collect::<Vec<_>>(), [Forbids::AtTimes; 2]);
}
