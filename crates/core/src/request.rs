//! Access requests: decided once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    approval::{Agreement, Awaited},
    id::{GrantId, RequestId},
    machine::MachineId,
    net::{Ports, Source},
    policy::whole_seconds,
    principal::{Principal, PrincipalRef},
    time::Instant,
};

mod bounds;
mod narrowing;

pub use bounds::{InvalidRequest, MAX_PAIRS, MAX_REASON, MAX_TARGETS};
pub use narrowing::{Narrowing, Wider};

/// One machine of a request, with what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The machine.
    pub machine: MachineId,
    /// Which ports; never empty.
    pub ports: Vec<Ports>,
    /// From where; never empty.
    pub sources: Vec<Source>,
}

/// What comes of the other machines of a request when one of them ends without ever having been open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They are closed, too.
    #[default]
    AllOrNothing,
    /// Nothing.
    BestEffort,
}

impl Mode {
    /// The word, as the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllOrNothing => "all_or_nothing",
            Self::BestEffort => "best_effort",
        }
    }
}

/// How somebody is reminded of a request that waits for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reminder {
    /// Whoever was asked hears of it again: half of the time to decide has passed.
    Again,
    /// Others hear of it, too: three quarters have.
    Escalated,
}

impl Reminder {
    /// The audit event's action, to which subscribers subscribe.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Again => "access_request.remind",
            Self::Escalated => "access_request.escalate",
        }
    }

    /// Why, for the audit log.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Again => "half of the time to decide has passed",
            Self::Escalated => "three quarters of the time to decide have passed",
        }
    }
}

/// Who asks for which ports on which machines, from which sources, how long and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRequest<S = RequestState> {
    /// Its id.
    pub id: RequestId,
    /// Who asks.
    pub requester: PrincipalRef,
    /// The requester as the token of the request had them. Whoever approves later has no token of theirs, and the
    /// decision is made again then.
    pub principal: Principal,
    /// For which machines.
    pub targets: Vec<Target>,
    /// How long each port stays open, from its confirmed opening.
    #[serde(rename = "duration_seconds", with = "whole_seconds")]
    pub duration: Duration,
    /// Why.
    pub reason: String,
    /// The ticket that it is for, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// When the grants begin to open; at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Instant>,
    /// What comes of the other machines when one cannot be opened.
    #[serde(default)]
    pub mode: Mode,
    /// The grant that is to last longer, where this asks for nothing else. The duration is then that of the whole
    /// grant, from its confirmed opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<GrantId>,
    /// When it was made.
    pub created_at: Instant,
    /// Who agreed so far, the first first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreements: Vec<Agreement>,
    /// Where it stands.
    pub state: S,
}

/// Waits for somebody to decide, until `lapses_at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When nobody can approve it any more.
    pub lapses_at: Instant,
    /// Whom it waits for, a policy each, as the policies were when somebody last spoke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaits: Vec<Awaited>,
}

/// Agreed to; each target has a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Who or what agreed: a person, or the policy.
    pub by: Decider,
    /// When.
    pub at: Instant,
}

/// Turned down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Who turned it down.
    pub by: PrincipalRef,
    /// When.
    pub at: Instant,
    /// What the requester is told.
    pub reason: String,
}

/// Taken back by the requester before it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// When.
    pub at: Instant,
}

/// Nobody decided in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapsed {
    /// When it lapsed.
    pub at: Instant,
}

/// Who or what agreed to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Decider {
    /// The JIT policies of the machines ask for nobody.
    Policy,
    /// The requester, in an emergency: the glass was broken.
    BreakGlass,
    /// A person.
    Principal {
        /// Who.
        principal: PrincipalRef,
    },
}

/// Where a request stands, for storage and display; code that acts holds an [`AccessRequest`] of one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum RequestState {
    /// See [`Pending`].
    Pending(Pending),
    /// See [`Approved`].
    Approved(Approved),
    /// See [`Denied`].
    Denied(Denied),
    /// See [`Withdrawn`].
    Withdrawn(Withdrawn),
    /// See [`Lapsed`].
    Lapsed(Lapsed),
}

impl RequestState {
    /// The state's word, as the API and the database have it.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Pending(_) => "pending",
            Self::Approved(_) => "approved",
            Self::Denied(_) => "denied",
            Self::Withdrawn(_) => "withdrawn",
            Self::Lapsed(_) => "lapsed",
        }
    }
}

/// Why a request does not change as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransition {
    /// It was decided before.
    #[error("the request is already {0}")]
    AlreadyDecided(&'static str),
    /// The requester tried to approve it.
    #[error("a request is not approved by who made it")]
    OwnRequest,
    /// A program tried to approve it.
    #[error("a request is approved by a person, and `{0}` is none")]
    NotAPerson(PrincipalRef),
    /// Somebody tried to approve it who agreed before.
    #[error("`{0}` agreed before, and counts once")]
    AgreedBefore(PrincipalRef),
    /// Somebody tried to approve it whom the stage does not ask.
    #[error("`{by}` is not among those whom the approval waits for: {awaits}")]
    NotAnApprover {
        /// Who.
        by: PrincipalRef,
        /// Whom it waits for, for the message.
        awaits: String,
    },
    /// Somebody else tried to withdraw it.
    #[error("a request is withdrawn by who made it")]
    NotTheRequester,
    /// It was not decided in time.
    #[error("the request lapsed at {0}")]
    Lapsed(Instant),
}

impl<S> AccessRequest<S> {
    /// When its grants begin to open, if it is granted at `now`: one whose time came while somebody had to agree begins at
    /// once.
    pub fn begins(&self, now: Instant) -> Instant {
        self.starts_at.map_or(now, |starts_at| starts_at.max(now))
    }

    fn with<T>(self, state: T) -> AccessRequest<T> {
        AccessRequest {
            id: self.id,
            requester: self.requester,
            principal: self.principal,
            targets: self.targets,
            duration: self.duration,
            reason: self.reason,
            ticket: self.ticket,
            starts_at: self.starts_at,
            mode: self.mode,
            extends: self.extends,
            created_at: self.created_at,
            agreements: self.agreements,
            state,
        }
    }
}

impl AccessRequest<RequestState> {
    /// The request, if it still waits for a decision at `now`.
    pub fn pending(self, now: Instant) -> Result<AccessRequest<Pending>, InvalidTransition> {
        match self.state.clone() {
            RequestState::Pending(pending) if pending.lapses_at <= now => {
                Err(InvalidTransition::Lapsed(pending.lapses_at))
            }
            RequestState::Pending(pending) => Ok(self.with(pending)),
            decided => Err(InvalidTransition::AlreadyDecided(decided.status())),
        }
    }
}

impl AccessRequest<RequestState> {
    /// The request as lapsed, if it waited for a decision and nobody made one by `now`.
    pub fn lapse(self, now: Instant) -> Option<AccessRequest<Lapsed>> {
        match &self.state {
            RequestState::Pending(pending) if pending.lapses_at <= now => Some(self.with(Lapsed { at: now })),
            _ => None,
        }
    }
}

impl AccessRequest<Pending> {
    /// Agreed to by the policies themselves.
    pub fn approve_by_policy(self, now: Instant) -> AccessRequest<Approved> {
        self.with(Approved {
            by: Decider::Policy,
            at: now,
        })
    }

    /// Agreed to by nobody: the requester broke the glass.
    pub fn break_glass(self, now: Instant) -> AccessRequest<Approved> {
        self.with(Approved {
            by: Decider::BreakGlass,
            at: now,
        })
    }

    /// Whether somebody is a person who did not make the request. A program has no judgement to add, and may be the
    /// requester's own; see [`Principal::may_be`] for who counts as the requester.
    pub fn check_approver(&self, by: &Principal) -> Result<(), InvalidTransition> {
        if by.reference().name() == self.requester.name() || by.may_be(&self.principal) {
            return Err(InvalidTransition::OwnRequest);
        }
        if !by.reference().is_person() {
            return Err(InvalidTransition::NotAPerson(by.reference()));
        }
        Ok(())
    }

    /// Agreed to by a person who did not make it, while others must agree too.
    pub fn agree(
        mut self,
        agreement: Agreement,
        awaits: Vec<Awaited>,
    ) -> Result<AccessRequest<Pending>, InvalidTransition> {
        self.check_approver(&agreement.by)?;
        self.agreements.push(agreement);
        self.state.awaits = awaits;
        Ok(self)
    }

    /// Agreed to by a person who did not make it, and who is the last that it waited for.
    pub fn approve(mut self, agreement: Agreement) -> Result<AccessRequest<Approved>, InvalidTransition> {
        self.check_approver(&agreement.by)?;
        let approved = Approved {
            by: Decider::Principal {
                principal: agreement.by.reference(),
            },
            at: agreement.at,
        };
        self.agreements.push(agreement);
        Ok(self.with(approved))
    }

    /// Turned down, with what the requester is told.
    pub fn deny(self, by: PrincipalRef, reason: String, now: Instant) -> AccessRequest<Denied> {
        self.with(Denied { by, at: now, reason })
    }

    /// Taken back by who made it.
    pub fn withdraw(
        self,
        by: &PrincipalRef,
        now: Instant,
    ) -> Result<AccessRequest<Withdrawn>, InvalidTransition> {
        if *by != self.requester {
            return Err(InvalidTransition::NotTheRequester);
        }
        Ok(self.with(Withdrawn { at: now }))
    }
}

macro_rules! into_any_state {
    ($($state:ident),*) => {$(
        impl From<AccessRequest<$state>> for AccessRequest<RequestState> {
            fn from(request: AccessRequest<$state>) -> Self {
                let state = RequestState::$state(request.state.clone());
                request.with(state)
            }
        }
    )*};
}
into_any_state!(Pending, Approved, Denied, Withdrawn, Lapsed);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        principal::PrincipalKind,
        testing::{a_principal, a_request, at},
    };

    fn someone(subject: &str) -> Principal {
        Principal {
            subject: subject.into(),
            ..a_principal()
        }
    }

    fn agreed(by: Principal) -> Agreement {
        Agreement {
            by,
            at: at(1),
            comment: None,
            narrowed: false,
        }
    }

    #[test]
    fn nobody_approves_their_own_request() {
        let request = a_request().pending(at(0)).unwrap();
        let requester = request.principal.clone();
        assert_eq!(
            request.approve(agreed(requester)).unwrap_err(),
            InvalidTransition::OwnRequest
        );
    }

    #[test]
    fn nobody_approves_their_own_request_in_another_guise() {
        let mut request = a_request();
        request.requester = "workload:corp/ada".parse().unwrap();
        request.principal.kind = PrincipalKind::Workload;
        request
            .principal
            .claims
            .insert("email".into(), "Ada@example.com".into());
        let request = request.pending(at(0)).unwrap();
        let elsewhere = Principal {
            issuer: "partner".into(),
            ..a_principal()
        };
        let mut by_mail = someone("3f0c");
        by_mail.claims.insert("email".into(), "ada@example.com".into());
        for guise in [a_principal(), elsewhere, by_mail] {
            assert_eq!(
                request.clone().approve(agreed(guise)).unwrap_err(),
                InvalidTransition::OwnRequest
            );
        }
        assert!(request.approve(agreed(someone("bob"))).is_ok());
    }

    #[test]
    fn a_program_approves_nothing() {
        let request = a_request().pending(at(0)).unwrap();
        let program = Principal {
            kind: PrincipalKind::Workload,
            ..someone("bot")
        };
        assert_eq!(
            request.approve(agreed(program.clone())).unwrap_err(),
            InvalidTransition::NotAPerson(program.reference())
        );
    }

    #[test]
    fn a_request_is_decided_once() {
        let request = a_request().pending(at(0)).unwrap();
        let denied: AccessRequest = request
            .deny("user:corp/eve".parse().unwrap(), "no".into(), at(1))
            .into();
        assert_eq!(
            denied.pending(at(2)).unwrap_err(),
            InvalidTransition::AlreadyDecided("denied")
        );
    }

    #[test]
    fn a_request_that_lapsed_is_not_decided() {
        assert!(matches!(
            a_request().pending(at(1_000_000)),
            Err(InvalidTransition::Lapsed(_))
        ));
    }

    #[test]
    fn only_the_requester_withdraws() {
        let request = a_request().pending(at(0)).unwrap();
        let other = "user:corp/eve".parse().unwrap();
        assert_eq!(
            request.clone().withdraw(&other, at(1)).unwrap_err(),
            InvalidTransition::NotTheRequester
        );
        let own = request.requester.clone();
        assert!(request.withdraw(&own, at(1)).is_ok());
    }
}
