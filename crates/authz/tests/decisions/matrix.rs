//! Every built-in role by every action by every relation of places, as one picture.

use std::fmt::Write;

use crate::fixture::{VM, ada, assignment, authorizer};
use postern_authz::{Authorizer, Context, GuardrailSet, Resource};
use postern_core::{
    role::{Action, Role},
    testing::at,
};

const GROUP: &str = "/azure/00000000-0000-0000-0000-000000000001/prod";

#[test]
fn what_each_role_allows_where() {
    let places = [
        ("a machine below", VM),
        ("the same scope", GROUP),
        ("the parent", "/azure/00000000-0000-0000-0000-000000000001"),
        ("the root", "/"),
        ("a sibling", "/azure/00000000-0000-0000-0000-000000000001/test"),
        (
            "a sibling that begins alike",
            "/azure/00000000-0000-0000-0000-000000000001/prod2",
        ),
        ("another cloud", "/aws/123456789012/eu-west-1/i-0123456789abcdef0"),
    ];
    let mut matrix = String::new();
    for assigned in [GROUP, "/"] {
        writeln!(matrix, "assigned at {assigned}").unwrap();
        for role in Role::built_in() {
            writeln!(matrix, "  {}", role.name).unwrap();
            let authorizer = authorizer(vec![assignment(1, &role.name, "user:corp/ada", assigned)], "");
            for (place, scope) in places {
                let resource = Resource::scope(scope.parse().unwrap());
                let allowed: Vec<&str> = Action::ALL
                    .iter()
                    .filter(|action| {
                        authorizer
                            .decide(&ada(&[]), **action, &resource, &Context::at(at(0)))
                            .allowed
                    })
                    .map(|action| action.as_str())
                    .collect();
                writeln!(matrix, "    {place:<28} {}", or_dash(&allowed)).unwrap();
            }
        }
    }
    insta::assert_snapshot!(matrix);
}

#[test]
fn who_is_reached_by_an_assignment() {
    let mut matrix = String::new();
    for to in [
        "user:corp/ada",
        "group:corp/sre",
        "group:corp/sr",
        "group:other/sre",
        "user:other/ada",
        "user:corp/sre",
        "workload:corp/ada",
    ] {
        let authorizer = authorizer(vec![assignment(1, "requester", to, "/")], "");
        writeln!(
            matrix,
            "{to:<20} {}",
            if may_request(&authorizer) {
                "allowed"
            } else {
                "denied"
            }
        )
        .unwrap();
    }
    insta::assert_snapshot!(matrix, @r"
    user:corp/ada        allowed
    group:corp/sre       allowed
    group:corp/sr        denied
    group:other/sre      denied
    user:other/ada       denied
    user:corp/sre        denied
    workload:corp/ada    denied
    ");
}

fn may_request(authorizer: &Authorizer) -> bool {
    let machine = Resource::scope(VM.parse().unwrap());
    authorizer
        .decide(&ada(&["sre"]), Action::Request, &machine, &Context::at(at(0)))
        .allowed
}

fn or_dash(actions: &[&str]) -> String {
    if actions.is_empty() {
        "-".to_owned()
    } else {
        actions.join(" ")
    }
}

#[test]
fn a_role_whose_name_is_a_number_is_a_role_like_any_other() {
    let roles = ["0", "1", "2"].map(|name| Role {
        name: name.to_owned(),
        actions: [Action::Read].into(),
        ..Role::built_in().remove(0)
    });
    let assignments = (1..)
        .zip(&roles)
        .map(|(number, role)| assignment(number, &role.name, "user:corp/ada", "/"));
    let authorizer = Authorizer::new(roles.clone(), assignments, GuardrailSet::default()).unwrap();
    let resource = Resource::scope("/aws".parse().unwrap());
    let decision = authorizer.decide(&ada(&[]), Action::Read, &resource, &Context::at(at(0)));
    assert_eq!(
        (decision.allowed, decision.allowed_by.len()),
        (true, 3),
        "{}",
        decision.explain()
    );
}
