//! Principals, resources and assignments for the tests.

use std::collections::BTreeMap;

use postern_authz::{Authorizer, Context, GuardrailSet, Resource};
use postern_core::{
    principal::{Principal, PrincipalKind},
    role::{Role, RoleAssignment},
    testing::{an_id, at},
};

pub(crate) const VM: &str = "/azure/00000000-0000-0000-0000-000000000001/prod/vm1";

/// Ada, of the issuer `corp`, in the groups given.
pub(crate) fn ada(groups: &[&str]) -> Principal {
    Principal {
        kind: PrincipalKind::Human,
        issuer: "corp".into(),
        subject: "ada".into(),
        name: None,
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        mfa: false,
        authenticated_at: None,
        claims: BTreeMap::new(),
    }
}

/// A pipeline, with claims.
pub(crate) fn pipeline(claims: &[(&str, &str)]) -> Principal {
    Principal {
        kind: PrincipalKind::Workload,
        issuer: "ci".into(),
        subject: "deploy".into(),
        claims: claims
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect(),
        ..ada(&[])
    }
}

pub(crate) fn assignment(number: u128, role: &str, principal: &str, scope: &str) -> RoleAssignment {
    RoleAssignment {
        id: an_id(number),
        role: role.into(),
        principal: principal.parse().unwrap(),
        scope: scope.parse().unwrap(),
        created_by: "user:corp/root".into(),
        created_at: at(0),
        tags: std::collections::BTreeMap::new(),
        ends_at: None,
    }
}

pub(crate) fn authorizer(assignments: Vec<RoleAssignment>, guardrails: &str) -> Authorizer {
    Authorizer::new(
        Role::built_in(),
        assignments,
        GuardrailSet::parse("test.cedar", guardrails).unwrap(),
    )
    .unwrap()
}

pub(crate) fn machine(tags: &[(&str, &str)]) -> Resource {
    let tags = tags
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Resource::machine(VM.parse().unwrap(), tags.collect())
}

/// Ten minutes of SSH from 203.0.113.7 with a reason, on a Thursday at midnight.
pub(crate) fn context() -> Context {
    Context {
        now: at(0),
        ports: vec!["22".parse().unwrap()],
        sources: vec!["203.0.113.7".parse().unwrap()],
        duration_seconds: Some(600),
        reason_present: true,
    }
}
