//! Audit events: who did what to what, why, decided by what, with which outcome, when.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    id::{ChangeId, EventId, GrantId, PassId, PolicyId, RequestId},
    machine::MachineId,
    principal::PrincipalRef,
    scope::Scope,
    time::Instant,
};

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Actor {
    /// Somebody with a verified token.
    Principal {
        /// Who.
        principal: PrincipalRef,
    },
    /// Postern itself: the reconcile loop, expiry, discovery.
    System {
        /// Which part.
        component: String,
    },
    /// Somebody whose token was not accepted.
    Anonymous,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Committed before a cloud is called; another event with the same change says how it went.
    Intended,
    /// Done.
    Succeeded,
    /// Tried, and did not happen.
    Failed,
    /// Tried, and not known; settled by a later event.
    Unknown,
    /// Refused by a decision.
    Denied,
}

impl Outcome {
    /// The outcome's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Denied => "denied",
        }
    }
}

/// One event. Written in the transaction that it describes, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its id.
    pub id: EventId,
    /// When.
    pub at: Instant,
    /// What, as `noun.verb`: `access_request.create`, `grant.open`, `change.apply`, `jit_policy.update`, …
    pub action: String,
    /// How it went.
    pub outcome: Outcome,
    /// Who.
    pub actor: Actor,
    /// Where: the scope of what it is about.
    pub scope: Scope,
    /// Why, in the actor's or the loop's words.
    pub reason: Option<String>,
    /// What decided it: role assignments, guardrails, a policy. Present on every decision.
    pub decision: Option<Value>,
    /// Everything else, such as prior state and intended change.
    pub details: Value,
    /// What it is about.
    pub subject: Subject,
    /// The id of the HTTP request, where there was one.
    pub http_request: Option<String>,
}

/// The things that an event is about; any number of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// An access request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// A grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// A policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyId>,
    /// A machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// An enforcement point, by its native name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// A pass of the loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<PassId>,
    /// A change in the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeId>,
}
