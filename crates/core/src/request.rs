//! Access requests: decided once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    id::RequestId,
    machine::MachineId,
    net::{Ports, Source},
    policy::{MAX_DURATION, MAX_PORTS, MAX_SOURCES, MIN_DURATION, whole_seconds},
    principal::{Principal, PrincipalRef},
    time::Instant,
};

/// The most machines in one request.
pub const MAX_TARGETS: usize = 20;
/// The most pairs of a port and a source in one request, over all its machines: each is a rule or a part of one in
/// some cloud, and a decision of every guardrail.
pub const MAX_PAIRS: usize = 2500;
/// The longest reason, in characters.
pub const MAX_REASON: usize = 1000;

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
    /// When it was made.
    pub created_at: Instant,
    /// Where it stands.
    pub state: S,
}

/// Waits for somebody to decide, until `lapses_at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When nobody can approve it any more.
    pub lapses_at: Instant,
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

/// Why a request is refused before any policy is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// No machines, or too many.
    #[error("`targets` has 1 to {MAX_TARGETS} entries")]
    Targets,
    /// The same machine twice.
    #[error("machine `{0}` is named twice")]
    Twice(MachineId),
    /// No ports, or too many.
    #[error("`ports` has 1 to {MAX_PORTS} entries")]
    Ports,
    /// No sources, or too many.
    #[error("`sources` has 1 to {MAX_SOURCES} entries")]
    Sources,
    /// More than anything could decide or write at once.
    #[error("a request has at most {MAX_PAIRS} pairs of port and source over all its targets")]
    Pairs,
    /// Outside the bounds that hold for every policy.
    #[error("`duration_seconds` is between {min} and {max}", min = MIN_DURATION.as_secs(), max = MAX_DURATION.as_secs())]
    Duration,
    /// No reason, or an absurd one.
    #[error("`reason` has 1 to {MAX_REASON} characters and no control characters")]
    Reason,
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
    /// Somebody else tried to withdraw it.
    #[error("a request is withdrawn by who made it")]
    NotTheRequester,
    /// It was not decided in time.
    #[error("the request lapsed at {0}")]
    Lapsed(Instant),
}

impl<S> AccessRequest<S> {
    /// Checks the bounds that hold whatever the policy.
    pub fn validate(&self) -> Result<(), InvalidRequest> {
        if self.targets.is_empty() || self.targets.len() > MAX_TARGETS {
            return Err(InvalidRequest::Targets);
        }
        for (at, target) in self.targets.iter().enumerate() {
            if target.ports.is_empty() || target.ports.len() > MAX_PORTS {
                return Err(InvalidRequest::Ports);
            }
            if target.sources.is_empty() || target.sources.len() > MAX_SOURCES {
                return Err(InvalidRequest::Sources);
            }
            if self
                .targets
                .iter()
                .skip(at + 1)
                .any(|other| other.machine == target.machine)
            {
                return Err(InvalidRequest::Twice(target.machine.clone()));
            }
        }
        let pairs = self
            .targets
            .iter()
            .map(|target| target.ports.len() * target.sources.len());
        if pairs.sum::<usize>() > MAX_PAIRS {
            return Err(InvalidRequest::Pairs);
        }
        if !(MIN_DURATION..=MAX_DURATION).contains(&self.duration) {
            return Err(InvalidRequest::Duration);
        }
        if self.reason.trim().is_empty()
            || self.reason.chars().count() > MAX_REASON
            || self
                .reason
                .chars()
                .any(|c| c.is_control() && c != '\n' && c != '\t')
        {
            return Err(InvalidRequest::Reason);
        }
        Ok(())
    }

    fn with<T>(self, state: T) -> AccessRequest<T> {
        AccessRequest {
            id: self.id,
            requester: self.requester,
            principal: self.principal,
            targets: self.targets,
            duration: self.duration,
            reason: self.reason,
            created_at: self.created_at,
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

    /// Agreed to by a person who did not make it. A program has no judgement to add, and may be the requester's own;
    /// the same issuer's same subject is the requester, as whatever kind it comes.
    pub fn approve(
        self,
        by: PrincipalRef,
        now: Instant,
    ) -> Result<AccessRequest<Approved>, InvalidTransition> {
        if by.name() == self.requester.name() {
            return Err(InvalidTransition::OwnRequest);
        }
        if !by.is_person() {
            return Err(InvalidTransition::NotAPerson(by));
        }
        Ok(self.with(Approved {
            by: Decider::Principal { principal: by },
            at: now,
        }))
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
    use crate::testing::{a_request, at};

    #[test]
    fn nobody_approves_their_own_request() {
        let request = a_request().pending(at(0)).unwrap();
        let requester = request.requester.clone();
        assert_eq!(
            request.approve(requester, at(1)).unwrap_err(),
            InvalidTransition::OwnRequest
        );
    }

    #[test]
    fn nobody_approves_their_own_request_in_another_guise() {
        let mut request = a_request();
        request.requester = "workload:corp/ada".parse().unwrap();
        let request = request.pending(at(0)).unwrap();
        assert_eq!(
            request
                .approve("user:corp/ada".parse().unwrap(), at(1))
                .unwrap_err(),
            InvalidTransition::OwnRequest
        );
    }

    #[test]
    fn a_program_approves_nothing() {
        let request = a_request().pending(at(0)).unwrap();
        let program: PrincipalRef = "workload:ci/bot".parse().unwrap();
        assert_eq!(
            request.approve(program.clone(), at(1)).unwrap_err(),
            InvalidTransition::NotAPerson(program)
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

    #[test]
    fn requests_out_of_bounds_are_refused() {
        type Spoil = fn(&mut AccessRequest);
        let cases: [(Spoil, InvalidRequest); 6] = [
            (|r| r.targets.clear(), InvalidRequest::Targets),
            (|r| r.targets[0].ports.clear(), InvalidRequest::Ports),
            (|r| r.targets[0].sources.clear(), InvalidRequest::Sources),
            (|r| r.duration = Duration::ZERO, InvalidRequest::Duration),
            (
                |r| r.duration = Duration::from_secs(u64::MAX),
                InvalidRequest::Duration,
            ),
            (|r| r.reason = " ".into(), InvalidRequest::Reason),
        ];
        for (spoil, expected) in cases {
            let mut request = a_request();
            spoil(&mut request);
            assert_eq!(request.validate(), Err(expected));
        }
        let mut broad = a_request();
        broad.targets[0].ports = (1..=MAX_PORTS)
            .map(|port| port.to_string().parse().unwrap())
            .collect();
        let source = |at: usize| format!("203.0.113.{at}/32").parse().unwrap();
        broad.targets[0].sources = (0..MAX_SOURCES).map(source).collect();
        assert_eq!(broad.validate(), Ok(()), "the most for one machine");
        let mut second = broad.targets[0].clone();
        second.machine = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0fedcba9876543210"
            .parse()
            .unwrap();
        broad.targets.push(second);
        assert_eq!(broad.validate(), Err(InvalidRequest::Pairs));
        let mut request = a_request();
        request.targets.push(request.targets[0].clone());
        assert!(matches!(request.validate(), Err(InvalidRequest::Twice(_))));
    }
}
