//! What a decision says, in words and in the audit log.

use std::collections::BTreeSet;

use crate::fixture::{VM, ada, assignment, authorizer, context, machine, pipeline};
use postern_authz::{Authorizer, AuthzError, Context, Decision, GuardrailSet, Resource};
use postern_core::{
    principal::Principal,
    role::{Action, Role},
    testing::at,
};

#[test]
fn an_allowed_request_names_every_assignment_that_allows_it() {
    let authorizer = authorizer(
        vec![
            assignment(2, "requester", "group:corp/sre", "/azure"),
            assignment(1, "owner", "user:corp/ada", "/"),
            assignment(3, "reader", "user:corp/ada", "/"),
            assignment(4, "requester", "user:corp/ada", "/aws"),
        ],
        "",
    );
    let decision = authorizer.decide(&ada(&["sre"]), Action::Request, &machine(&[]), &context());
    insta::assert_snapshot!(decision.explain(), @r#"`request` at /azure/00000000-0000-0000-0000-000000000001/prod/vm1 is allowed to user:corp/ada by ra_019b0000000070008000000000000001 (`owner` at / for user:corp/ada), ra_019b0000000070008000000000000002 (`requester` at /azure for group:corp/sre)"#);
    insta::assert_json_snapshot!(decision, @r#"
    {
      "allowed": true,
      "principal": "user:corp/ada",
      "action": "request",
      "scope": "/azure/00000000-0000-0000-0000-000000000001/prod/vm1",
      "allowed_by": [
        {
          "assignment": "ra_019b0000000070008000000000000001",
          "role": "owner",
          "scope": "/",
          "principal": "user:corp/ada"
        },
        {
          "assignment": "ra_019b0000000070008000000000000002",
          "role": "requester",
          "scope": "/azure",
          "principal": "group:corp/sre"
        }
      ],
      "forbidden_by": [],
      "errors": [],
      "missing": null
    }
    "#);
    let text = serde_json::to_string(&decision).unwrap();
    assert_eq!(serde_json::from_str::<Decision>(&text).unwrap(), decision);
}

#[test]
fn a_denial_says_what_is_missing() {
    let authorizer = authorizer(vec![assignment(1, "reader", "user:corp/ada", "/")], "");
    let decision = authorizer.decide(&ada(&["dev", "sre"]), Action::Request, &machine(&[]), &context());
    insta::assert_snapshot!(decision.explain(), @r#"`request` at /azure/00000000-0000-0000-0000-000000000001/prod/vm1: no role assignment of user:corp/ada or group:corp/dev or group:corp/sre grants it; roles that would: requester, owner"#);
    insta::assert_json_snapshot!(decision, @r#"
    {
      "allowed": false,
      "principal": "user:corp/ada",
      "action": "request",
      "scope": "/azure/00000000-0000-0000-0000-000000000001/prod/vm1",
      "allowed_by": [],
      "forbidden_by": [],
      "errors": [],
      "missing": {
        "action": "request",
        "scope": "/azure/00000000-0000-0000-0000-000000000001/prod/vm1",
        "principals": [
          "user:corp/ada",
          "group:corp/dev",
          "group:corp/sre"
        ],
        "roles": [
          "requester",
          "owner"
        ]
      }
    }
    "#);
    let groups: Vec<String> = (10..30).map(|number| format!("g{number}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let decision = authorizer.decide(&ada(&groups), Action::BreakGlass, &machine(&[]), &context());
    insta::assert_snapshot!(decision.explain(), @r#"`break_glass` at /azure/00000000-0000-0000-0000-000000000001/prod/vm1: no role assignment of user:corp/ada or group:corp/g10 or group:corp/g11 or group:corp/g12 or group:corp/g13 or group:corp/g14 or 15 more groups grants it; roles that would: owner"#);
}

#[test]
fn a_denial_names_the_guardrail_and_the_missing_role_alike() {
    let guardrails = r#"
        @id("mfa") @message("Use a second factor.")
        forbid (principal, action, resource) unless { principal.mfa };
        @id("no-rdp")
        forbid (principal, action, resource)
        when { context has port && context.port.first <= 3389 && 3389 <= context.port.last };
    "#;
    let authorizer = authorizer(vec![assignment(1, "requester", "user:corp/ada", "/")], guardrails);
    let mut context = context();
    context.ports.push("3000-4000".parse().unwrap());
    let decision = authorizer.decide(&ada(&[]), Action::Request, &machine(&[]), &context);
    insta::assert_snapshot!(decision.explain(), @r#"`request` at /azure/00000000-0000-0000-0000-000000000001/prod/vm1: guardrail `mfa` forbids it ("Use a second factor."); guardrail `no-rdp` forbids it for 3000-4000/tcp from 203.0.113.7/32"#);
    insta::assert_json_snapshot!(decision, @r#"
    {
      "allowed": false,
      "principal": "user:corp/ada",
      "action": "request",
      "scope": "/azure/00000000-0000-0000-0000-000000000001/prod/vm1",
      "allowed_by": [
        {
          "assignment": "ra_019b0000000070008000000000000001",
          "role": "requester",
          "scope": "/",
          "principal": "user:corp/ada"
        }
      ],
      "forbidden_by": [
        {
          "guardrail": "mfa",
          "message": "Use a second factor."
        },
        {
          "guardrail": "no-rdp",
          "message": null,
          "ports": "3000-4000/tcp",
          "source": "203.0.113.7/32"
        }
      ],
      "errors": [],
      "missing": null
    }
    "#);
    let decision = authorizer.decide(&pipeline(&[]), Action::Request, &machine(&[]), &context);
    insta::assert_snapshot!(decision.explain(), @r#"`request` at /azure/00000000-0000-0000-0000-000000000001/prod/vm1: guardrail `mfa` forbids it ("Use a second factor."); guardrail `no-rdp` forbids it for 3000-4000/tcp from 203.0.113.7/32; no role assignment of workload:ci/deploy grants it; roles that would: requester, owner"#);
}

#[test]
fn an_assignment_of_an_unknown_role_grants_nothing_and_is_listed() {
    let authorizer = authorizer(
        vec![
            assignment(1, "superuser", "user:corp/ada", "/"),
            assignment(2, "reader", "user:corp/ada", "/"),
        ],
        "",
    );
    let said: Vec<String> = authorizer
        .unknown_roles()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(said.len(), 1);
    assert!(said.iter().all(|said| said.contains("`superuser`")), "{said:?}");
    let allowed: Vec<Action> = Action::ALL
        .iter()
        .copied()
        .filter(|action| {
            authorizer
                .decide(&ada(&[]), *action, &machine(&[]), &context())
                .allowed
        })
        .collect();
    assert_eq!(allowed, [Action::Read]);
}

#[test]
fn a_custom_role_allows_its_actions_and_one_without_actions_nothing() {
    let custom = |name: &str, actions: BTreeSet<Action>| Role {
        name: name.into(),
        actions,
        built_in: false,
    };
    let authorizer = Authorizer::new(
        [
            custom("closer", [Action::Revoke].into()),
            custom("nothing", BTreeSet::new()),
        ],
        [
            assignment(1, "closer", "user:corp/ada", "/azure"),
            assignment(2, "nothing", "user:corp/ada", "/"),
        ],
        GuardrailSet::default(),
    )
    .unwrap();
    for action in Action::ALL {
        let decision = authorizer.decide(&ada(&[]), *action, &machine(&[]), &context());
        assert_eq!(decision.allowed, *action == Action::Revoke, "{action}");
    }
}

#[test]
fn two_of_one_name_are_refused() {
    let twice = Role::built_in().into_iter().chain(Role::built_in());
    let error = Authorizer::new(twice, [], GuardrailSet::default()).unwrap_err();
    assert_eq!(error, AuthzError::DuplicateRole("reader".into()));
    let error = Authorizer::new(
        Role::built_in(),
        [
            assignment(1, "reader", "user:corp/ada", "/"),
            assignment(1, "owner", "user:corp/ada", "/"),
        ],
        GuardrailSet::default(),
    )
    .unwrap_err();
    assert!(matches!(error, AuthzError::DuplicateAssignment(_)));
}

#[test]
fn who_may_request_lists_the_assignments_that_cover_the_machine() {
    let authorizer = authorizer(
        vec![
            assignment(1, "requester", "group:corp/sre", "/azure"),
            assignment(2, "requester", "user:corp/bob", VM),
            assignment(3, "reader", "user:corp/ada", "/"),
            assignment(4, "owner", "user:corp/eve", "/aws"),
            assignment(5, "owner", "workload:ci/deploy", "/"),
        ],
        "",
    );
    let found: Vec<String> = authorizer
        .who_may(Action::Request, &Resource::scope(VM.parse().unwrap()), at(0))
        .iter()
        .map(|assignment| assignment.principal.to_string())
        .collect();
    assert_eq!(found, ["group:corp/sre", "user:corp/bob", "workload:ci/deploy"]);
}

#[test]
fn a_listing_shows_the_topmost_scopes() {
    let authorizer = authorizer(
        vec![
            assignment(1, "reader", "user:corp/ada", VM),
            assignment(
                2,
                "reader",
                "group:corp/sre",
                "/azure/00000000-0000-0000-0000-000000000001",
            ),
            assignment(3, "requester", "user:corp/ada", "/aws/123456789012"),
            assignment(4, "owner", "user:corp/bob", "/"),
        ],
        "",
    );
    let scopes = |groups: &[&str], action| {
        authorizer
            .scopes(&ada(groups), action, at(0))
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        scopes(&["sre"], Action::Read),
        ["/aws/123456789012", "/azure/00000000-0000-0000-0000-000000000001"]
    );
    assert_eq!(scopes(&[], Action::Read), ["/aws/123456789012", VM]);
    assert_eq!(scopes(&["sre"], Action::Request), ["/aws/123456789012"]);
    assert_eq!(scopes(&["sre"], Action::Audit), Vec::<String>::new());
}

#[test]
fn names_are_data_and_never_policy_text() {
    let odd = "a\") ; permit (principal, action, resource); //\\\"";
    let authorizer = authorizer(
        vec![assignment(1, "requester", &format!("user:corp/{odd}"), "/azure")],
        "",
    );
    let mut principal = ada(&[odd, ""]);
    let read = |principal: &Principal, scope: &str| {
        let resource = Resource::scope(scope.parse().unwrap());
        authorizer
            .decide(principal, Action::Request, &resource, &Context::at(at(0)))
            .allowed
    };
    assert!(!read(&principal, VM));
    odd.clone_into(&mut principal.subject);
    assert!(read(&principal, VM));
    assert!(!read(&principal, "/aws"));
}
