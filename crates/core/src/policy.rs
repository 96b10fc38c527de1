//! JIT policies: which machines are guarded, on which ports, and what may be asked for.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    approval::InvalidApproval,
    id::PolicyId,
    justification::{InvalidPattern, Justification},
    net::{Ports, Source},
    scope::Scope,
    time::Instant,
};

pub use crate::{
    approval::Approval,
    authentication::{Authentication, Lack, MAX_AGE, MIN_AGE},
};

/// How a lockdown deals with rules that already allow a guarded port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// The guarded ports are closed whatever others' rules say.
    #[default]
    Strict,
    /// Others' rules win: what they allow stays open, and the posture names it. Only what they leave unsaid is closed
    /// (Azure: a deny below their allows; AWS: nothing is displaced, since a security group closes what it doesn't allow).
    Defer,
}

/// What a lockdown does with a security group that machines outside every policy share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedGroups {
    /// Leave the group alone, keep the port open and name the others.
    #[default]
    Refuse,
    /// Displace the rules all the same: the others lose them too.
    Revoke,
    /// Leave the group alone and give the machine a private copy of it without the guarded ports in its place. Done
    /// for every group that any other machine has, whether a policy covers that one or not.
    Isolate,
}

/// Ports that a policy guards, and on what terms they open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardedPorts {
    /// The ports.
    pub ports: Ports,
    /// Networks that a requested source must lie in. Never empty.
    pub allowed_sources: Vec<Source>,
    /// The longest a grant may last, in whole seconds.
    #[serde(rename = "max_duration_seconds", with = "whole_seconds")]
    pub max_duration: Duration,
}

/// A selector and the ports that it guards. The most specific policy covers a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JitPolicy {
    /// Its id.
    pub id: PolicyId,
    /// A name for people, unique.
    pub name: String,
    /// The machines below this scope…
    pub scope: Scope,
    /// …that carry all of these tags.
    pub tags: BTreeMap<String, String>,
    /// What is guarded. Never empty.
    pub guards: Vec<GuardedPorts>,
    /// How strictly.
    pub lockdown: Lockdown,
    /// What happens to shared groups (AWS).
    pub shared_groups: SharedGroups,
    /// Who must agree.
    pub approval: Approval,
    /// What people have to have proven of themselves to ask.
    #[serde(default, skip_serializing_if = "Authentication::is_none")]
    pub authentication: Authentication,
    /// How long a request waits for that before it lapses, in whole seconds; as configured when absent.
    #[serde(
        default,
        rename = "pending_for_seconds",
        with = "maybe_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub pending_for: Option<Duration>,
    /// What a request's reason and ticket must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<Justification>,
    /// Counts the changes; the document's `ETag`.
    pub version: i64,
    /// When it was made.
    pub created_at: Instant,
    /// When it was last changed.
    pub updated_at: Instant,
}

/// The shortest grant, as in Defender's JIT policies (5 minutes there; pipelines want less).
pub const MIN_DURATION: Duration = Duration::from_secs(10);
/// The longest grant that a policy may allow: one day.
pub const MAX_DURATION: Duration = Duration::from_hours(24);
/// The shortest time that a request may wait for approval.
pub const MIN_PENDING: Duration = Duration::from_mins(1);
/// The longest time that a request may wait for approval: thirty days.
pub const MAX_PENDING: Duration = Duration::from_hours(30 * 24);
/// The most port entries in a policy, and in a request.
pub const MAX_PORTS: usize = 50;
/// The most sources in a policy entry, and in a request.
pub const MAX_SOURCES: usize = 50;
/// The most tags in a policy's selector.
pub const MAX_TAGS: usize = 20;

/// Why a policy document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// No name, or one that is too long.
    #[error("`name` has 1 to 100 characters")]
    Name,
    /// Nothing is guarded, or too much.
    #[error("`guards` has 1 to {MAX_PORTS} entries")]
    Guards,
    /// A guard that nobody could ever use, or too many networks.
    #[error("`allowed_sources` of {0} has 1 to {MAX_SOURCES} entries")]
    Sources(Ports),
    /// Two entries guard the same port.
    #[error("{0} and {1} overlap")]
    Overlap(Ports, Ports),
    /// Outside the bounds.
    #[error("`max_duration_seconds` of {0} is between {min} and {max}", min = MIN_DURATION.as_secs(), max = MAX_DURATION.as_secs())]
    Duration(Ports),
    /// Too many tags, or a tag beyond what both clouds allow.
    #[error(
        "`tags` has at most {MAX_TAGS} entries, with keys of 1 to 128 and values of at most 256 characters"
    )]
    Tags,
    /// An approval that nobody could give.
    #[error(transparent)]
    Approval(#[from] InvalidApproval),
    /// A pattern that is none.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// Outside the bounds.
    #[error("`max_age_seconds` of `authentication` is between {min} and {max}", min = MIN_AGE.as_secs(), max = MAX_AGE.as_secs())]
    MaxAge,
    /// Outside the bounds.
    #[error("`pending_for_seconds` is between {min} and {max}", min = MIN_PENDING.as_secs(), max = MAX_PENDING.as_secs())]
    Pending,
}

/// What one request asks of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    /// The ports.
    pub ports: &'a [Ports],
    /// Where the packets will come from.
    pub sources: &'a [Source],
    /// How long, from the confirmed opening.
    pub duration: Duration,
}

/// Why a policy does not grant what is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The port is not one that the policy guards.
    #[error("port {ports} is not guarded by policy `{policy}`, which guards {guarded}")]
    PortNotGuarded {
        /// What was asked for.
        ports: Ports,
        /// The policy's name.
        policy: String,
        /// What it guards, for the message.
        guarded: String,
    },
    /// The source is not inside an allowed network.
    #[error("source {from} is outside what policy `{policy}` allows for {ports}: {allowed}")]
    SourceNotAllowed {
        /// What was asked for.
        from: Source,
        /// For which ports.
        ports: Ports,
        /// The policy's name.
        policy: String,
        /// What it allows, for the message.
        allowed: String,
    },
    /// Longer than the policy allows.
    #[error("{asked} s is more than the {max} s that policy `{policy}` allows for {ports}")]
    TooLong {
        /// Seconds asked for.
        asked: u64,
        /// Seconds allowed.
        max: u64,
        /// For which ports.
        ports: Ports,
        /// The policy's name.
        policy: String,
    },
}

impl JitPolicy {
    /// Whether the policy covers a machine at `scope` with `tags`.
    pub fn covers(&self, scope: &Scope, tags: &BTreeMap<String, String>) -> bool {
        self.scope.contains(scope) && self.tags.iter().all(|(key, value)| tags.get(key) == Some(value))
    }

    /// How specific the policy is: the deeper scope wins, then more tags, then the older policy.
    fn specificity(&self) -> (usize, usize, std::cmp::Reverse<PolicyId>) {
        (self.scope.depth(), self.tags.len(), std::cmp::Reverse(self.id))
    }

    /// The one policy of `policies` that covers a machine, if any does.
    pub fn most_specific<'p>(
        policies: impl IntoIterator<Item = &'p Self>,
        scope: &Scope,
        tags: &BTreeMap<String, String>,
    ) -> Option<&'p Self> {
        policies
            .into_iter()
            .filter(|policy| policy.covers(scope, tags))
            .max_by_key(|policy| policy.specificity())
    }

    /// Checks the document's own rules.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        if self.name.trim().is_empty() || self.name.chars().count() > 100 {
            return Err(InvalidPolicy::Name);
        }
        if self.guards.is_empty() || self.guards.len() > MAX_PORTS {
            return Err(InvalidPolicy::Guards);
        }
        if self.tags.len() > MAX_TAGS
            || self
                .tags
                .iter()
                .any(|(key, value)| !(1..=128).contains(&key.len()) || value.len() > 256)
        {
            return Err(InvalidPolicy::Tags);
        }
        for (at, guard) in self.guards.iter().enumerate() {
            if guard.allowed_sources.is_empty() || guard.allowed_sources.len() > MAX_SOURCES {
                return Err(InvalidPolicy::Sources(guard.ports));
            }
            if !(MIN_DURATION..=MAX_DURATION).contains(&guard.max_duration) {
                return Err(InvalidPolicy::Duration(guard.ports));
            }
            if let Some(other) = self
                .guards
                .iter()
                .skip(at + 1)
                .find(|other| other.ports.overlaps(guard.ports))
            {
                return Err(InvalidPolicy::Overlap(guard.ports, other.ports));
            }
        }
        self.approval.validate()?;
        if !self.authentication.is_valid() {
            return Err(InvalidPolicy::MaxAge);
        }
        if let Some(justification) = &self.justification {
            justification.validate()?;
        }
        if self
            .pending_for
            .is_some_and(|pending_for| !(MIN_PENDING..=MAX_PENDING).contains(&pending_for))
        {
            return Err(InvalidPolicy::Pending);
        }
        Ok(())
    }

    /// Whether the policy grants what is asked: every port guarded, every source inside an allowed network of
    /// that port, the duration within its maximum. The first thing that does not hold is the answer.
    pub fn check(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        for ports in ask.ports {
            let guard = self
                .guards
                .iter()
                .find(|guard| guard.ports.contains(*ports))
                .ok_or_else(|| Refusal::PortNotGuarded {
                    ports: *ports,
                    policy: self.name.clone(),
                    guarded: join(self.guards.iter().map(|guard| guard.ports)),
                })?;
            if let Some(from) = ask
                .sources
                .iter()
                .find(|from| !guard.allowed_sources.iter().any(|net| net.contains(**from)))
            {
                return Err(Refusal::SourceNotAllowed {
                    from: *from,
                    ports: *ports,
                    policy: self.name.clone(),
                    allowed: join(&guard.allowed_sources),
                });
            }
            if ask.duration > guard.max_duration {
                return Err(Refusal::TooLong {
                    asked: ask.duration.as_secs(),
                    max: guard.max_duration.as_secs(),
                    ports: *ports,
                    policy: self.name.clone(),
                });
            }
        }
        Ok(())
    }
}

fn join(items: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Durations as whole seconds.
pub mod whole_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the whole seconds of `duration`.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    /// Reads whole seconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// Durations as whole seconds, where there are any.
pub mod maybe_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the whole seconds of `duration`.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(|duration| duration.as_secs()).serialize(serializer)
    }

    /// Reads whole seconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::a_policy;

    fn ask<'a>(ports: &'a [Ports], sources: &'a [Source], seconds: u64) -> Ask<'a> {
        Ask {
            ports,
            sources,
            duration: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_port_source_and_duration_within_the_policy_are_granted() {
        let policy = a_policy("/");
        let (ports, sources) = (["22".parse().unwrap()], ["203.0.113.7".parse().unwrap()]);
        assert_eq!(policy.check(&ask(&ports, &sources, 3600)), Ok(()));
    }

    #[test]
    fn what_is_outside_the_policy_is_refused_by_name() {
        let policy = a_policy("/");
        let (ssh, inside) = (["22".parse().unwrap()], ["203.0.113.7".parse().unwrap()]);
        let refused = |ports: &[Ports], sources: &[Source], seconds| {
            policy
                .check(&ask(ports, sources, seconds))
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&["80".parse().unwrap()], &inside, 60).contains("80/tcp is not guarded"));
        assert!(refused(&["22/udp".parse().unwrap()], &inside, 60).contains("22/udp is not guarded"));
        assert!(
            refused(&ssh, &["203.0.112.0/22".parse().unwrap()], 60).contains("203.0.112.0/22 is outside")
        );
        assert!(refused(&ssh, &["2001:db8::1".parse().unwrap()], 60).contains("is outside"));
        assert!(refused(&ssh, &inside, 10_801).contains("more than the 10800 s"));
    }

    #[test]
    fn the_most_specific_policy_covers_a_machine() {
        let machine: Scope = "/aws/123456789012/eu-west-1/i-0123456789abcdef0".parse().unwrap();
        let wide = a_policy("/aws");
        let deep = a_policy("/aws/123456789012");
        let mut tagged = a_policy("/aws/123456789012");
        tagged.tags.insert("env".into(), "prod".into());
        let tags = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let all = [&wide, &deep, &tagged];
        assert_eq!(
            JitPolicy::most_specific(all, &machine, &tags).map(|p| p.id),
            Some(tagged.id)
        );
        assert_eq!(
            JitPolicy::most_specific(all, &machine, &BTreeMap::new()).map(|p| p.id),
            Some(deep.id)
        );
        assert_eq!(JitPolicy::most_specific(all, &Scope::root(), &tags), None);
    }

    #[test]
    fn a_policy_that_could_not_be_kept_is_refused() {
        let mut policy = a_policy("/");
        policy.guards[0].allowed_sources.clear();
        assert!(matches!(policy.validate(), Err(InvalidPolicy::Sources(_))));
        let mut policy = a_policy("/");
        let mut twin = policy.guards[0].clone();
        twin.ports = "20-25".parse().unwrap();
        policy.guards.push(twin);
        assert!(matches!(policy.validate(), Err(InvalidPolicy::Overlap(..))));
        let mut policy = a_policy("/");
        policy.guards[0].max_duration = MAX_DURATION + Duration::from_secs(1);
        assert!(matches!(policy.validate(), Err(InvalidPolicy::Duration(_))));
    }
}
