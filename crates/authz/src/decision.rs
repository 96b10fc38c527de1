//! A decision, with what made it: for the audit log, for the API, and in words.

use std::fmt::Write;

use postern_core::{
    id::AssignmentId,
    net::{Ports, Source},
    principal::PrincipalRef,
    role::Action,
    scope::Scope,
};
use serde::{Deserialize, Serialize};

/// A role assignment that allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AllowedBy {
    /// Which.
    pub assignment: AssignmentId,
    /// Its role.
    pub role: String,
    /// Where it stands.
    pub scope: Scope,
    /// Whom it names: the principal or one of its groups.
    pub principal: PrincipalRef,
}

/// A guardrail that forbids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForbiddenBy {
    /// Its id.
    pub guardrail: String,
    /// What it tells the refused.
    pub message: Option<String>,
    /// The first ports that it forbids, where it does not forbid every port and source of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// The source that goes with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A policy that could not be evaluated, which is a denial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// The guardrail's or role assignment's id; none when the question itself could not be put to Cedar.
    pub policy: Option<String>,
    /// What went wrong.
    pub error: String,
}

/// What would have to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The action that no role assignment allows.
    pub action: Action,
    /// Where.
    pub scope: Scope,
    /// The principal and its groups: an assignment to any of them would do.
    pub principals: Vec<PrincipalRef>,
    /// Roles that allow the action, those that allow the least first.
    pub roles: Vec<String>,
}

/// The answer to "may this principal do this here".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it may: something allows, nothing forbids, nothing failed.
    pub allowed: bool,
    /// Who asked.
    pub principal: PrincipalRef,
    /// To do what.
    pub action: Action,
    /// Where.
    pub scope: Scope,
    /// Every role assignment that allows it, in the order of their ids. Present also when a guardrail forbids.
    pub allowed_by: Vec<AllowedBy>,
    /// Every guardrail that forbids it, in the order of their ids.
    pub forbidden_by: Vec<ForbiddenBy>,
    /// What could not be evaluated.
    pub errors: Vec<Failure>,
    /// Present when no role assignment allows it.
    pub missing: Option<Missing>,
}

/// How many groups an explanation names.
const SHOWN: usize = 6;

impl Decision {
    /// The decision in a sentence, for people.
    pub fn explain(&self) -> String {
        let mut text = format!("`{}` at {}", self.action, self.scope);
        if self.allowed {
            let by: Vec<String> = self
                .allowed_by
                .iter()
                .map(|by| {
                    format!(
                        "{} (`{}` at {} for {})",
                        by.assignment, by.role, by.scope, by.principal
                    )
                })
                .collect();
            push(
                &mut text,
                format_args!(" is allowed to {} by {}", self.principal, by.join(", ")),
            );
            return text;
        }
        let mut reasons = Vec::new();
        for by in &self.forbidden_by {
            let mut reason = format!("guardrail `{}` forbids it", by.guardrail);
            if let Some(ports) = by.ports {
                push(&mut reason, format_args!(" for {ports}"));
            }
            if let Some(source) = by.source {
                push(&mut reason, format_args!(" from {source}"));
            }
            if let Some(message) = &by.message {
                push(&mut reason, format_args!(" (\"{message}\")"));
            }
            reasons.push(reason);
        }
        for failure in &self.errors {
            reasons.push(match &failure.policy {
                Some(policy) => format!(
                    "`{policy}` could not be evaluated, which denies: {}",
                    failure.error
                ),
                None => format!("it could not be evaluated, which denies: {}", failure.error),
            });
        }
        if let Some(missing) = &self.missing {
            reasons.push(missing.to_string());
        }
        push(&mut text, format_args!(": {}", reasons.join("; ")));
        text
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let who: Vec<String> = self
            .principals
            .iter()
            .take(SHOWN)
            .map(ToString::to_string)
            .collect();
        write!(f, "no role assignment of {}", who.join(" or "))?;
        match self.principals.len().saturating_sub(SHOWN) {
            0 => {}
            more => write!(f, " or {more} more groups")?,
        }
        f.write_str(" grants it; roles that would: ")?;
        if self.roles.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&self.roles.join(", "))
        }
    }
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(more);
}
