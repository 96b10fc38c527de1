//! The bounds of every access request, whatever the policy says.

use super::AccessRequest;
use crate::{
    justification::MAX_TICKET,
    machine::MachineId,
    policy::{MAX_DURATION, MAX_PORTS, MAX_SOURCES, MIN_DURATION},
    text::{is_plain, is_plain_line},
};

/// The most machines in one request.
pub const MAX_TARGETS: usize = 20;
/// The most pairs of a port and a source in one request, over all its machines: each is a rule or a part of one in
/// some cloud, and a decision of every guardrail.
pub const MAX_PAIRS: usize = 2500;
/// The longest reason, in characters.
pub const MAX_REASON: usize = 1000;

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
    /// A ticket that is none.
    #[error(
        "`ticket` has 1 to {MAX_TICKET} characters, no control or invisible characters, and begins with a letter or digit"
    )]
    Ticket,
    /// No reason, or an absurd one.
    #[error("`reason` has 1 to {MAX_REASON} characters and no control or invisible characters")]
    Reason,
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
            || !is_plain(&self.reason)
        {
            return Err(InvalidRequest::Reason);
        }
        // What it begins with keeps it from being a place of its own in an address, such as `..`.
        let is_ticket = |ticket: &String| {
            ticket.chars().count() <= MAX_TICKET
                && ticket.starts_with(char::is_alphanumeric)
                && is_plain_line(ticket)
        };
        if !self.ticket.iter().all(is_ticket) {
            return Err(InvalidRequest::Ticket);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::a_request;

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
