//! Narrowing: what an approver takes away from an access request before it is granted.

use std::time::Duration;

use super::{AccessRequest, Pending, Target};
use crate::{
    machine::MachineId,
    net::{Ports, Source},
};

/// What an approver makes of a request; what is not set stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// A shorter time.
    pub duration: Option<Duration>,
    /// Fewer machines, ports or sources.
    pub targets: Option<Vec<Target>>,
}

/// What was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wider {
    /// A longer time.
    #[error("{0} s were asked for, and an approval may only shorten them")]
    Duration(u64),
    /// Another machine.
    #[error("machine `{0}` was not asked for")]
    Machine(MachineId),
    /// Other ports.
    #[error("{0} was not asked for on machine `{1}`")]
    Ports(Ports, MachineId),
    /// Another source.
    #[error("{0} was not asked for as a source for machine `{1}`")]
    Source(Source, MachineId),
}

impl AccessRequest<Pending> {
    /// The same request for less. More is refused: it was not asked for.
    pub fn narrow(mut self, to: &Narrowing) -> Result<Self, Wider> {
        if let Some(duration) = to.duration {
            if duration > self.duration {
                return Err(Wider::Duration(self.duration.as_secs()));
            }
            self.duration = duration;
        }
        if let Some(targets) = &to.targets {
            for target in targets {
                let asked = self
                    .targets
                    .iter()
                    .find(|asked| asked.machine == target.machine)
                    .ok_or_else(|| Wider::Machine(target.machine.clone()))?;
                if let Some(ports) = target
                    .ports
                    .iter()
                    .find(|ports| !asked.ports.iter().any(|asked| asked.contains(**ports)))
                {
                    return Err(Wider::Ports(*ports, target.machine.clone()));
                }
                if let Some(source) = target
                    .sources
                    .iter()
                    .find(|source| !asked.sources.iter().any(|asked| asked.contains(**source)))
                {
                    return Err(Wider::Source(*source, target.machine.clone()));
                }
            }
            self.targets.clone_from(targets);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_request, at};

    #[test]
    fn an_approver_narrows_and_never_widens() {
        let mut request = a_request();
        request.targets[0].ports = vec!["20-25".parse().unwrap()];
        request.targets[0].sources = vec!["203.0.113.0/24".parse().unwrap()];
        let request = request.pending(at(0)).unwrap();
        let target = |ports: &str, source: &str| Narrowing {
            targets: Some(vec![Target {
                machine: request.targets[0].machine.clone(),
                ports: vec![ports.parse().unwrap()],
                sources: vec![source.parse().unwrap()],
            }]),
            duration: None,
        };
        let narrowed = request.clone().narrow(&target("22", "203.0.113.7")).unwrap();
        assert_eq!(narrowed.targets[0].ports, ["22".parse().unwrap()]);
        assert_eq!(narrowed.duration, request.duration);
        let shorter = |seconds| Narrowing {
            duration: Some(Duration::from_secs(seconds)),
            targets: None,
        };
        let narrowed = request.clone().narrow(&shorter(60)).unwrap();
        assert_eq!(narrowed.duration, Duration::from_mins(1));
        assert_eq!(narrowed.targets, request.targets);
        let refused = |to: &Narrowing| request.clone().narrow(to).unwrap_err();
        assert_eq!(refused(&shorter(601)), Wider::Duration(600));
        assert!(matches!(
            refused(&target("22-26", "203.0.113.7")),
            Wider::Ports(..)
        ));
        assert!(matches!(
            refused(&target("22/udp", "203.0.113.7")),
            Wider::Ports(..)
        ));
        assert!(matches!(
            refused(&target("22", "203.0.112.0/23")),
            Wider::Source(..)
        ));
        let mut elsewhere = target("22", "203.0.113.7");
        elsewhere.targets.as_mut().unwrap()[0].machine =
            "arn:aws:ec2:eu-west-1:123456789012:instance/i-0fedcba9876543210"
                .parse()
                .unwrap();
        assert!(matches!(refused(&elsewhere), Wider::Machine(_)));
    }
}
