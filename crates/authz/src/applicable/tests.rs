//! Guardrails that are asked together say what each says by itself, however many they are and however deeply nested.

use std::collections::{BTreeSet, HashSet};

use postern_core::{
    principal::{Principal, PrincipalKind},
    testing::at,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{Context, GuardrailSet, Networks, Resource, entities::ResourceKind};

const HEADS: [&str; 12] = [
    "principal, action, resource",
    "principal == User::\"corp/ada\", action, resource",
    "principal in Group::\"corp/sre\", action, resource",
    "principal is Workload, action, resource",
    "principal is User in Group::\"corp/sre\", action, resource",
    "principal, action == Action::\"request\", resource",
    "principal, action == Action::\"approve\", resource",
    "principal, action in [Action::\"request\", Action::\"revoke\"], resource",
    "principal, action in [], resource",
    "principal, action, resource == Scope::\"/aws/123456789012\"",
    "principal, action, resource in Scope::\"/aws\"",
    "principal, action, resource is Scope in Scope::\"/azure\"",
];
const BODIES: [&str; 35] = [
    "unless { resource in Group::\"/aws\" }",
    "when { resource in Group::\"/aws\" || !principal.mfa }",
    "unless { resource == User::\"/aws/123456789012\" }",
    "when { principal in Scope::\"corp/sre\" || context.hour > 3 }",
    "",
    "when { !principal.mfa }",
    "unless { principal.mfa }",
    "when { context has port && context.port.first <= 23 } unless { resource.kind == \"grant\" }",
    "when { context has source && context.source.isInRange(ip(\"192.0.2.0/24\")) } when { context.hour > 1 }",
    "when { resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\" }",
    "when { context.reason_present || context.hour * 9223372036854775807 > 0 }",
    "unless { context.weekday * 9223372036854775807 > 0 }",
    "when { context has port && context.port.first > 80 }",
    "when { context has port && context.port.first > 22 && context.port.protocol == \"udp\" }",
    "when { context has port } unless { context has source }",
    "when { context has port && (context.hour > 5 && context.reason_present) && principal.mfa }",
    "when { principal in [Group::\"corp/ops\", Group::\"corp/sre\"] && resource in Scope::\"/aws\" }",
    "unless { principal in Group::\"corp/sre\" || resource in Scope::\"/aws/123456789012\" }",
    "when { principal.subject == \"bob\" }",
    "when { principal.issuer == \"ci\" && !principal.mfa }",
    "when { resource.kind == \"grant\" }",
    "when { resource.cloud == \"aws\" && resource.hasTag(\"env\") }",
    "when { resource.hasTag(\"team\") && resource.getTag(\"team\") == \"prod\" }",
    "when { context has duration_seconds && context.duration_seconds > 60 }",
    "when { context.weekday > 3 }",
    "when { context.hour > 12 && principal.subject == \"ada\" }",
    "when { context has source && context.source.isIpv6() }",
    "when { context.networks.isEmpty() }",
    "when { User::\"corp/ada\" has mfa && !User::\"corp/ada\".mfa }",
    "when { principal.subject == \"ada\" && User::\"corp/ada\" in Group::\"corp/sre\" }",
    "when { User::\"corp/ada\" is User in Group::\"corp/sre\" }",
    "when { Scope::\"/aws/123456789012\".hasTag(\"env\") }",
    "when { Scope::\"/aws/123456789012\" has cloud }",
    "when { context.now > datetime(\"1970-01-02\") }",
    "when { principal.subject like \"a*\" && {\"a\": [1, 2]}.a.contains(2) && (if context.hour < 12 then true else false) }",
];

prop_compose! {
    pub(crate) fn guardrails()(parts in vec((select(HEADS.to_vec()), select(BODIES.to_vec())), 0..7)) -> String {
        (0..)
            .zip(parts)
            .map(|(number, (head, body))| format!("@id(\"g{number}\") forbid ({head}) {body};\n"))
            .collect::<Vec<_>>()
            .concat()
    }
}

prop_compose! {
    pub(crate) fn asking()(
        human in any::<bool>(),
        mfa in any::<bool>(),
        sre in any::<bool>(),
        (subject, issuer) in select(vec![("ada", "corp"), ("bob", "corp"), ("ada", "ci")]),
        duration_seconds in proptest::option::of(select(vec![60_u64, 61])),
        kind in select(vec![ResourceKind::Machine, ResourceKind::Grant]),
        key in select(vec!["env", "team"]),
        day in 0..7_i64,
        scope in select(vec!["/", "/aws", "/aws/123456789012", "/aws/123456789012/eu-west-1", "/azure/00000000-0000-0000-0000-000000000001"]),
        tag in proptest::option::of(select(vec!["prod", "dev"])),
        hour in 0..24_i64,
        port in proptest::option::of(select(vec!["22", "23-80/udp", "3389"])),
        source in proptest::option::of(select(vec!["192.0.2.7", "203.0.113.0/24", "2001:db8::1"])),
        reason_present in any::<bool>(),
    ) -> (Principal, Resource, Context) {
        let principal = Principal {
            kind: if human { PrincipalKind::Human } else { PrincipalKind::Workload },
            issuer: issuer.into(),
            subject: subject.into(),
            name: None,
            groups: if sre { ["sre".to_owned()].into() } else { BTreeSet::new() },
            mfa,
            authenticated_at: None,
            claims: BTreeMap::new(),
        };
        let tags = tag.map(|tag| (key.to_owned(), tag.to_owned())).into_iter().collect();
        let context = Context {
            now: at(day * 86_400 + hour * 3600),
            ports: port.into_iter().map(|port| port.parse().unwrap()).collect(),
            sources: source.into_iter().map(|source| source.parse().unwrap()).collect(),
            duration_seconds,
            reason_present,
        };
        let scope = scope.parse().unwrap();
        (principal, Resource { scope, tags, kind }, context)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn asked_together_guardrails_say_what_each_says_by_itself(
        text in guardrails(),
        asked in vec((asking(), select(vec![Action::Request, Action::Approve, Action::Read])), 1..12),
    ) {
        // Not through `GuardrailSet`, which refuses a guardrail that can never apply.
        let parsed: PolicySet = text.parse().unwrap();
        let names = Names::new().unwrap();
        let applicable = Applicable::new(&parsed, &names).unwrap();
        // Each twice: what is known by then says the same, and of no other question.
        let again = asked.clone();
        for ((principal, resource, context), action) in asked.into_iter().chain(again) {
            let references: Vec<_> = principal.references().collect();
            let (ports, source) = context.pairs().next().unwrap();
            let question = |looked_at: &LookedAt| {
                let entities = Entities::from_entities(
                    [
                        names.principal_entity(&principal, &references, &[], looked_at).unwrap(),
                        names.resource_entity(&resource, &[], looked_at).unwrap(),
                    ],
                    None,
                )
                .unwrap();
                let request = Request::new(
                    names.principal(&principal.reference()),
                    names.action(action),
                    names.scope(&resource.scope),
                    context.cedar(ports, source, &names, &Networks::default(), looked_at).unwrap(),
                    None,
                )
                .unwrap();
                (request, entities)
            };
            let cedar = Cedar::new();
            let said = |answer: &Response| {
                let reasons: HashSet<PolicyId> = answer.diagnostics().reason().cloned().collect();
                let errors: BTreeSet<String> = answer.diagnostics().errors().map(ToString::to_string).collect();
                (reasons, errors)
            };
            let together = applicable.to(action).and_then(|together| {
                let (request, entities) = question(together.looked_at());
                let question = Question {
                    principal: &principal,
                    resource: &resource,
                    context: &context,
                    ports,
                    source,
                };
                together.ask(&cedar, &question, || Ok(&request), &entities).unwrap()
            });
            let (request, entities) = question(&LookedAt::everything());
            let expected = said(&cedar.is_authorized(&request, &parsed, &entities));
            prop_assert_eq!(together.as_ref().map(said).unwrap_or_default(), expected);
        }
    }
}

#[test]
fn thousands_of_guardrails_are_asked_together() {
    let text = (0..3000)
        .map(|number| format!("@id(\"g{number}\") forbid (principal, action, resource) when {{ principal.subject == \"{number}\" }};\n"))
        .collect::<Vec<_>>()
        .concat();
    let set = GuardrailSet::parse("many.cedar", &text).unwrap();
    let names = Names::new().unwrap();
    let together = set.to(Action::Read).next().unwrap();
    assert_eq!(together.asked_together(), 3000_usize.div_ceil(AT_MOST));
    assert!(
        std::ptr::eq(together, set.to(Action::Request).next().unwrap()),
        "kept once"
    );
    let asked = |subject: &str| {
        let principal = Principal {
            kind: PrincipalKind::Human,
            issuer: "corp".into(),
            subject: subject.into(),
            name: None,
            groups: BTreeSet::new(),
            mfa: true,
            authenticated_at: None,
            claims: BTreeMap::new(),
        };
        let references: Vec<_> = principal.references().collect();
        let resource = Resource::scope(postern_core::scope::Scope::root());
        let entities = Entities::from_entities(
            [
                names
                    .principal_entity(&principal, &references, &[], together.looked_at())
                    .unwrap(),
                names
                    .resource_entity(&resource, &[], together.looked_at())
                    .unwrap(),
            ],
            None,
        )
        .unwrap();
        let now = Context::at(at(0));
        let context = now
            .cedar(None, None, &names, &Networks::default(), together.looked_at())
            .unwrap();
        let request = Request::new(
            names.principal(&principal.reference()),
            names.action(Action::Read),
            names.scope(&resource.scope),
            context,
            None,
        )
        .unwrap();
        let question = Question {
            principal: &principal,
            resource: &resource,
            context: &now,
            ports: None,
            source: None,
        };
        let answer = together.ask(&Cedar::new(), &question, || Ok(&request), &entities);
        answer.unwrap().map(|answer| {
            answer
                .diagnostics()
                .reason()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(asked("nobody"), None);
    assert_eq!(asked("2999"), Some(vec!["g2999".to_owned()]));
}

#[test]
fn a_guardrail_that_is_nested_deeply_is_asked_by_itself() {
    for (operands, apart) in [(10, 0), (400, 1), (20_000, 1)] {
        let names = Names::new().unwrap();
        let any = with_room(|| {
            let who = (0..operands).map(|number| format!("principal.subject == \"{number}\""));
            let condition = who.collect::<Vec<_>>().join(" || ");
            let text = format!(
                "@id(\"a\") forbid (principal, action, resource) when {{ {condition} }};
                 @id(\"b\") forbid (principal, action, resource) when {{ principal.subject == \"b\" }};"
            );
            let parsed: PolicySet = text.parse().unwrap();
            let applicable = Applicable::new(&parsed, &names).unwrap();
            let together = applicable.to(Action::Read).unwrap();
            together.asked_together()
        });
        assert_eq!(any.unwrap(), 1 + apart, "{operands} operands");
    }
}
