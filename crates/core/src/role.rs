//! Roles: named sets of actions, bound to principals at scopes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

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

impl Action {
    /// Whether decisions look at the tags of the machine that they are about. The others are about scopes, policies, roles
    /// and the audit log, which have none, be it at a machine's scope.
    pub const fn is_about_tags(self) -> bool {
        match self {
            Self::Read | Self::Request | Self::Approve | Self::Revoke | Self::BreakGlass => true,
            Self::Configure | Self::Audit | Self::Assign | Self::Freeze => false,
        }
    }
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
    /// Only for machines that carry all of these tags, and what is about them; for everything at the scope when empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// From then on it counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Instant>,
}

/// The role that may do everything.
pub const OWNER: &str = "owner";

/// The most tags of a role assignment.
pub const MAX_TAGS: usize = 20;

/// Why a role assignment is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAssignment {
    /// It would never count.
    #[error("`ends_at` is in the future")]
    Ended,
    /// Too many tags, or a tag beyond what both clouds allow.
    #[error(
        "`tags` has at most {MAX_TAGS} entries, with keys of 1 to 128 and values of at most 256 characters"
    )]
    Tags,
}

impl RoleAssignment {
    /// Checks what holds whatever the role.
    pub fn validate(&self, now: Instant) -> Result<(), InvalidAssignment> {
        if !self.counts_at(now) {
            return Err(InvalidAssignment::Ended);
        }
        let fits = |(key, value): (&String, &String)| {
            (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256
        };
        if self.tags.len() > MAX_TAGS || !self.tags.iter().all(fits) {
            return Err(InvalidAssignment::Tags);
        }
        Ok(())
    }

    /// Whether it has not ended at `now`.
    pub fn counts_at(&self, now: Instant) -> bool {
        self.ends_at.is_none_or(|ends_at| now < ends_at)
    }

    /// Whether it makes somebody an owner of everything, for good: an installation keeps at least one of these.
    pub fn is_lasting_owner(&self) -> bool {
        self.role == OWNER && self.scope.depth() == 0 && self.tags.is_empty() && self.ends_at.is_none()
    }

    /// Whether it is for what carries these tags. What is about no machine carries none.
    pub fn is_for(&self, tags: &BTreeMap<String, String>) -> bool {
        self.tags.iter().all(|(key, value)| tags.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{an_id, at};

    fn assignment() -> RoleAssignment {
        RoleAssignment {
            id: an_id(1),
            role: "reader".into(),
            principal: "user:corp/ada".parse().unwrap(),
            scope: Scope::root(),
            created_by: "user:corp/root".into(),
            created_at: at(0),
            tags: BTreeMap::new(),
            ends_at: None,
        }
    }

    #[test]
    fn an_assignment_counts_until_its_end_and_not_at_it() {
        assert!(assignment().counts_at(at(1_000_000)));
        let ending = RoleAssignment {
            ends_at: Some(at(60)),
            ..assignment()
        };
        assert!(ending.counts_at(at(59)));
        assert!(!ending.counts_at(at(60)));
        assert_eq!(ending.validate(at(60)), Err(InvalidAssignment::Ended));
    }

    #[test]
    fn an_assignment_with_tags_is_for_what_carries_all_of_them() {
        let tags = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let dev = RoleAssignment {
            tags: tags(&[("env", "dev"), ("team", "web")]),
            ..assignment()
        };
        assert!(dev.is_for(&tags(&[("env", "dev"), ("team", "web"), ("more", "")])));
        assert!(!dev.is_for(&tags(&[("env", "dev")])));
        assert!(!dev.is_for(&tags(&[("env", "Dev"), ("team", "web")])));
        assert!(!dev.is_for(&tags(&[])));
        assert!(assignment().is_for(&tags(&[])));
    }
}
