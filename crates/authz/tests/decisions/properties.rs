//! The decision against a naive evaluator, and what more assignments may do to it.

use crate::fixture::{ada, assignment};
use postern_authz::{Authorizer, Context, GuardrailSet, Resource};
use postern_core::{
    principal::PrincipalRef,
    role::{Action, Role, RoleAssignment},
    scope::Scope,
    testing::at,
};
use proptest::{collection::vec, prelude::*, sample::select};

const SCOPES: [&str; 9] = [
    "/",
    "/aws",
    "/aws/123456789012",
    "/aws/123456789012/eu-west-1",
    "/aws/123456789012/eu-west-1/i-0123456789abcdef0",
    "/aws/123456789012/eu-west-2",
    "/azure",
    "/azure/00000000-0000-0000-0000-000000000001/prod",
    "/azure/00000000-0000-0000-0000-000000000001/prod2",
];
const PRINCIPALS: [&str; 6] = [
    "user:corp/ada",
    "user:corp/bob",
    "group:corp/sre",
    "group:corp/dev",
    "group:other/sre",
    "workload:corp/ada",
];

fn a_scope() -> impl Strategy<Value = &'static str> {
    select(SCOPES.to_vec())
}

prop_compose! {
    fn assignments()(parts in vec(
        (select(vec!["reader", "requester", "approver", "operator", "auditor", "owner", "gone"]), select(PRINCIPALS.to_vec()), a_scope()),
        0..12,
    )) -> Vec<RoleAssignment> {
        parts
            .into_iter()
            .zip(1..)
            .map(|((role, principal, scope), number)| assignment(number, role, principal, scope))
            .collect()
    }
}

/// What the words say: a role of the principal or a group of its own allows the action at the scope or above.
fn naive(
    assignments: &[RoleAssignment],
    who: &[PrincipalRef],
    action: Action,
    scope: &Scope,
) -> Vec<RoleAssignment> {
    let roles = Role::built_in();
    assignments
        .iter()
        .filter(|assignment| {
            who.contains(&assignment.principal)
                && assignment.scope.contains(scope)
                && roles
                    .iter()
                    .any(|role| role.name == assignment.role && role.actions.contains(&action))
        })
        .cloned()
        .collect()
}

fn built(assignments: Vec<RoleAssignment>) -> Authorizer {
    Authorizer::new(Role::built_in(), assignments, GuardrailSet::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn without_guardrails_the_decision_is_that_of_the_naive_evaluator(
        assignments in assignments(),
        groups in vec(select(vec!["sre", "dev", "ops"]), 0..3),
        action in select(Action::ALL.to_vec()),
        scope in a_scope(),
    ) {
        let ada = ada(&groups);
        let resource = Resource::scope(scope.parse().unwrap());
        let who: Vec<PrincipalRef> = ada.references().collect();
        let expected = naive(&assignments, &who, action, &resource.scope);
        let everyone: Vec<PrincipalRef> = PRINCIPALS.iter().map(|text| text.parse().unwrap()).collect();
        let may = naive(&assignments, &everyone, action, &resource.scope);
        let authorizer = built(assignments);
        let decision = authorizer.decide(&ada, action, &resource, &Context::at(at(0)));
        prop_assert_eq!(decision.allowed, !expected.is_empty());
        prop_assert_eq!(decision.missing.is_some(), expected.is_empty());
        let by: Vec<_> = decision.allowed_by.iter().map(|by| by.assignment).collect();
        prop_assert_eq!(by, expected.iter().map(|assignment| assignment.id).collect::<Vec<_>>());
        prop_assert_eq!(authorizer.who_may(action, &resource, at(0)), may.iter().collect::<Vec<_>>());
        let listed = authorizer
            .scopes(&ada, action, at(0))
            .iter()
            .any(|top| top.contains(&resource.scope));
        prop_assert_eq!(listed, decision.allowed);
    }

    #[test]
    fn one_more_assignment_never_takes_access_away(
        assignments in assignments(),
        role in select(vec!["reader", "owner", "gone"]),
        principal in select(PRINCIPALS.to_vec()),
        at_scope in a_scope(),
        action in select(Action::ALL.to_vec()),
        scope in a_scope(),
    ) {
        let resource = Resource::scope(scope.parse().unwrap());
        let allowed = |assignments| {
            built(assignments)
                .decide(&ada(&["sre"]), action, &resource, &Context::at(at(0)))
                .allowed
        };
        let before = allowed(assignments.clone());
        let mut more = assignments;
        more.push(assignment(1000, role, principal, at_scope));
        prop_assert!(!before || allowed(more));
    }
}
