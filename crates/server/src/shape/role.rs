//! Roles and role assignments between the API and the domain.

use std::collections::BTreeSet;

use postern_api::{ErrorCode, role as api};
use postern_core::role::{Action, Role, RoleAssignment};

use crate::failure::Failure;

/// The custom role that a body describes, checked.
pub(crate) fn read(body: &api::RoleCreate) -> Result<Role, Failure> {
    let invalid = |pointer: &str, detail: &str| Failure::field(ErrorCode::InvalidRole, pointer, detail);
    if !Role::is_valid_name(&body.name) {
        return Err(invalid(
            "/name",
            "`name` has 1 to 40 lower-case letters, digits and hyphens",
        ));
    }
    if Role::built_in().iter().any(|role| role.name == body.name) {
        return Err(Failure::new(
            ErrorCode::Conflict,
            format!("role `{}` ships with Postern", body.name),
        ));
    }
    if body.actions.is_empty() {
        return Err(invalid("/actions", "`actions` names at least one"));
    }
    let actions = body
        .actions
        .iter()
        .enumerate()
        .map(|(at, action)| {
            action
                .parse()
                .map_err(|error: postern_core::role::UnknownAction| {
                    Failure::field(
                        ErrorCode::InvalidAction,
                        format!("/actions/{at}"),
                        error.to_string(),
                    )
                })
        })
        .collect::<Result<BTreeSet<Action>, Failure>>()?;
    Ok(Role {
        name: body.name.clone(),
        actions,
        built_in: false,
    })
}

/// The role as the API shows it.
pub(crate) fn show(role: &Role) -> api::Role {
    api::Role {
        name: role.name.clone(),
        actions: role.actions.iter().map(ToString::to_string).collect(),
        built_in: role.built_in,
    }
}

/// The assignment as the API shows it.
pub(crate) fn show_assignment(assignment: &RoleAssignment) -> api::RoleAssignment {
    api::RoleAssignment {
        id: assignment.id.to_string(),
        role: assignment.role.clone(),
        principal: assignment.principal.to_string(),
        scope: assignment.scope.to_string(),
        created_by: assignment.created_by.clone(),
        created_at: assignment.created_at,
        tags: assignment.tags.clone(),
        ends_at: assignment.ends_at,
    }
}
