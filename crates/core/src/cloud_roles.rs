//! What a cloud's own roles say of whoever asks: a second yes that an installation may demand beside its own roles.
//!
//! Additional, never instead: a yes here allows nothing by itself, and anything but a yes denies.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{machine::MachineId, principal::Principal, time::Instant};

/// Something that a requester must be allowed by the cloud's own roles, and what allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The action, as the installation demands it; it may have wildcards.
    pub action: String,
    /// The role assignment's id in the cloud.
    pub assignment: String,
    /// The role definition's id in the cloud.
    pub role: String,
    /// What the role is called.
    pub role_name: String,
}

/// Something that a requester must be allowed by the cloud's own roles, and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Lack {
    /// No role assignment that counts allows it.
    Missing {
        /// The action.
        action: String,
    },
    /// A deny assignment takes it, whatever roles allow.
    Denied {
        /// The action.
        action: String,
        /// The deny assignment's id in the cloud.
        by: String,
        /// What the deny assignment is called.
        name: String,
    },
}

/// What the cloud's own roles say of one principal at one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CloudDecision {
    /// Everything that is demanded is held.
    Allowed {
        /// The cloud's id of the principal.
        principal: String,
        /// What allows each action.
        by: Vec<Held>,
        /// When the cloud was asked. Later than this, the roles may be others.
        as_of: Instant,
    },
    /// Something that is demanded is not held.
    Refused {
        /// The cloud's id of the principal.
        principal: String,
        /// What, and why not.
        lacks: Vec<Lack>,
        /// What was there and did not count, in words.
        notes: Vec<String>,
        /// When the cloud was asked.
        as_of: Instant,
    },
    /// The cloud knows nobody by what is known of this principal.
    Unidentified {
        /// Why not.
        reason: String,
    },
    /// The cloud could not be asked. A denial.
    Unknown {
        /// Why not.
        reason: String,
    },
    /// The installation demands nothing of the cloud's roles here.
    Exempt {
        /// Why not.
        reason: String,
    },
}

impl CloudDecision {
    /// The word for it, as it is stored.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Allowed { .. } => "allowed",
            Self::Refused { .. } => "refused",
            Self::Unidentified { .. } => "unidentified",
            Self::Unknown { .. } => "unknown",
            Self::Exempt { .. } => "exempt",
        }
    }

    /// Whether it stands in nobody's way.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. } | Self::Exempt { .. })
    }

    /// In a sentence or two, for people.
    pub fn explain(&self) -> String {
        match self {
            Self::Allowed { by, .. } => {
                let mut roles: Vec<&str> = by.iter().map(|held| held.role_name.as_str()).collect();
                roles.sort_unstable();
                roles.dedup();
                let roles: Vec<String> = roles.into_iter().map(|role| format!("`{role}`")).collect();
                format!("the cloud's own role assignments allow it: {}", roles.join(", "))
            }
            Self::Refused { lacks, notes, .. } => {
                let mut words: Vec<String> = Vec::new();
                let missing: Vec<String> = lacks
                    .iter()
                    .filter_map(|lack| match lack {
                        Lack::Missing { action } => Some(format!("`{action}`")),
                        Lack::Denied { .. } => None,
                    })
                    .collect();
                if !missing.is_empty() {
                    words.push(format!(
                        "no role assignment in the cloud allows {}",
                        missing.join(", ")
                    ));
                }
                for lack in lacks {
                    if let Lack::Denied { action, name, .. } = lack {
                        words.push(format!("the deny assignment `{name}` takes `{action}`"));
                    }
                }
                words.extend(notes.iter().cloned());
                words.join("; ")
            }
            Self::Unidentified { reason } => format!("nobody in the cloud is known by this token: {reason}"),
            Self::Unknown { reason } => {
                format!("the cloud's own role assignments could not be read: {reason}")
            }
            Self::Exempt { reason } => {
                format!("the cloud's own role assignments are not asked for: {reason}")
            }
        }
    }
}

/// Asks a cloud for its own role assignments.
#[async_trait]
pub trait CloudRoles: Send + Sync + std::fmt::Debug {
    /// Whether it has a say at this machine.
    fn covers(&self, machine: &MachineId) -> bool;

    /// Whether the principal holds at the machine what the installation demands. Takes no longer than the
    /// installation allows; what is not known by then is [`CloudDecision::Unknown`].
    async fn decide(&self, principal: &Principal, machine: &MachineId) -> CloudDecision;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_is_missing_and_what_takes_it() {
        let decision = CloudDecision::Refused {
            principal: "p".to_owned(),
            lacks: vec![
                Lack::Missing {
                    action: "a/read".to_owned(),
                },
                Lack::Denied {
                    action: "b/read".to_owned(),
                    by: "/deny/1".to_owned(),
                    name: "stack".to_owned(),
                },
                Lack::Missing {
                    action: "c/read".to_owned(),
                },
            ],
            notes: vec!["one has a condition".to_owned()],
            as_of: Instant::UNIX_EPOCH,
        };
        assert!(!decision.is_allowed());
        assert_eq!(
            decision.explain(),
            "no role assignment in the cloud allows `a/read`, `c/read`; the deny assignment `stack` takes `b/read`; \
             one has a condition"
        );
    }

    #[test]
    fn what_is_not_known_is_not_allowed() {
        let reason = "it is down".to_owned();
        assert!(
            !CloudDecision::Unknown {
                reason: reason.clone()
            }
            .is_allowed()
        );
        assert!(!CloudDecision::Unidentified { reason }.is_allowed());
    }
}
