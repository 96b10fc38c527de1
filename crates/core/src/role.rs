//! Roles: named sets of actions, bound to principals at scopes.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{id::AssignmentId, principal::PrincipalRef, scope::Scope, time::Instant};

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a principal may do at a scope.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Action { $($(#[$doc])* $variant,)* }

        impl Action {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in roles, the API and Cedar.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl FromStr for Action {
            type Err = UnknownAction;
            fn from_str(text: &str) -> Result<Self, UnknownAction> {
                match text { $($name => Ok(Self::$variant),)* _ => Err(UnknownAction(text.chars().take(40).collect())) }
            }
        }
    };
}

actions! {
    /// See machines, policies, requests and grants.
    Read = "read",
    /// Ask for ports.
    Request = "request",
    /// Decide others' requests.
    Approve = "approve",
    /// End others' grants.
    Revoke = "revoke",
    /// Make and change JIT policies and custom roles.
    Configure = "configure",
    /// Read the audit log.
    Audit = "audit",
    /// Make and remove role assignments.
    Assign = "assign",
    /// Act in an emergency.
    BreakGlass = "break_glass",
    /// Close everything at a scope and keep it closed, and lift that.
    Freeze = "freeze",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an action")]
pub struct UnknownAction(String);

/// A named set of actions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Lower-case letters, digits and hyphens, 1 to 40.
    pub name: String,
    /// What it allows.
    pub actions: BTreeSet<Action>,
    /// Whether it ships with Postern and cannot be changed.
    pub built_in: bool,
}

impl Role {
    /// The roles that every installation has.
    pub fn built_in() -> Vec<Self> {
        use Action::{Approve, Assign, Audit, BreakGlass, Configure, Freeze, Read, Request, Revoke};
        let role = |name: &str, actions: &[Action]| Self {
            name: name.to_owned(),
            actions: actions.iter().copied().collect(),
            built_in: true,
        };
        vec![
            role("reader", &[Read]),
            role("requester", &[Read, Request]),
            role("approver", &[Read, Approve]),
            role("operator", &[Read, Revoke, Configure, Freeze]),
            role("auditor", &[Read, Audit]),
            role(
                "owner",
                &[
                    Read, Request, Approve, Revoke, Configure, Audit, Assign, BreakGlass, Freeze,
                ],
            ),
        ]
    }

    /// Whether a custom role may have this name.
    pub fn is_valid_name(name: &str) -> bool {
        (1..=40).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}

/// Binds a role to a principal at a scope and everything below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleAssignment {
    /// Its id.
    pub id: AssignmentId,
    /// The role's name.
    pub role: String,
    /// Who has it.
    pub principal: PrincipalRef,
    /// Where.
    pub scope: Scope,
    /// Who made the assignment, as the audit log names them.
    pub created_by: String,
    /// When it was made.
    pub created_at: Instant,
}
