//! Security group rules as EC2 compares and counts them.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
pub use postern_core::sg::{KEPT_PROTOCOLS, carve, is_stale, overlaps};
use postern_core::{
    mark::{Installation, Mark},
    net::{Ports, Protocol},
    sg::{SgPeer, SgProtocol, SgRule, families},
};
use serde::{Deserialize, Serialize};

/// What makes two rules duplicates in EC2: protocol, ports and peer, not the description.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    protocol: SgProtocol,
    ports: Option<(i32, i32)>,
    peer: SgPeer,
}

impl Content {
    /// The content of a rule. The account of a peer group is left out: EC2 shows it on some reads only, and a
    /// group's id is unique without it.
    pub fn of(rule: &SgRule) -> Self {
        Self {
            protocol: rule.protocol.clone(),
            ports: rule.ports,
            peer: match &rule.peer {
                SgPeer::Group { group, .. } => SgPeer::Group {
                    group: group.clone(),
                    account: None,
                    stale: false,
                },
                other => other.clone(),
            },
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.protocol, self.ports) {
            (SgProtocol::All, _) => f.write_str("all traffic")?,
            (protocol, Some((first, last))) if first == last => {
                write!(f, "{first}/{}", protocol_text(protocol))?;
            }
            (protocol, Some((first, last))) => write!(f, "{first}-{last}/{}", protocol_text(protocol))?,
            (protocol, None) => f.write_str(protocol_text(protocol))?,
        }
        match &self.peer {
            SgPeer::Net(net) => write!(f, " from {net}"),
            SgPeer::PrefixList(id) => write!(f, " from {id}"),
            SgPeer::Group { group, .. } => write!(f, " from {group}"),
        }
    }
}

/// The protocol as EC2 writes it.
pub fn protocol_text(protocol: &SgProtocol) -> &str {
    match protocol {
        SgProtocol::All => "-1",
        SgProtocol::Tcp => "tcp",
        SgProtocol::Udp => "udp",
        SgProtocol::Other(name) => name,
    }
}

/// Protocol and ports in the one form that compares: names for the protocols that have one, ports only where
/// they mean something.
///
/// Source: EC2 API reference, `IpPermission`: `-1` and numbers other than those of TCP, UDP, ICMP and `ICMPv6` mean
/// all ports, whatever ports are given.
pub fn normalise(protocol: &str, from: Option<i32>, to: Option<i32>) -> (SgProtocol, Option<(i32, i32)>) {
    let span = |whole: (i32, i32)| match (from, to) {
        (Some(from), Some(to)) if from >= 0 && to >= 0 => (from, to),
        _ => whole,
    };
    match protocol {
        "-1" | "all" => (SgProtocol::All, None),
        "tcp" | "6" => (SgProtocol::Tcp, Some(span((0, 65535)))),
        "udp" | "17" => (SgProtocol::Udp, Some(span((0, 65535)))),
        "icmp" | "1" => (
            SgProtocol::Other("icmp".to_owned()),
            Some((from.unwrap_or(-1), to.unwrap_or(-1))),
        ),
        "icmpv6" | "58" => (
            SgProtocol::Other("icmpv6".to_owned()),
            Some((from.unwrap_or(-1), to.unwrap_or(-1))),
        ),
        other => (SgProtocol::Other(other.to_owned()), None),
    }
}

/// The rule that lets `net` reach `ports`.
pub fn allow(ports: Ports, net: IpNet) -> SgRule {
    SgRule {
        id: None,
        protocol: match ports.protocol() {
            Protocol::Tcp => SgProtocol::Tcp,
            Protocol::Udp => SgProtocol::Udp,
        },
        ports: Some((ports.first().into(), ports.last().into())),
        peer: SgPeer::Net(net),
        description: None,
        tags: BTreeMap::new(),
    }
}

/// The mark of `installation` that the rule carries.
pub fn mark_of(rule: &SgRule, installation: &Installation) -> Option<Mark> {
    Mark::parse(rule.description.as_deref()?).filter(|mark| mark.installation == *installation)
}

/// Whether every packet that `part` lets through, `whole` lets through as well.
pub fn within(part: &SgRule, whole: &SgRule) -> bool {
    Content::of(part).peer == Content::of(whole).peer
        && (whole.protocol == SgProtocol::All
            || (part.protocol == whole.protocol
                && match (part.ports, whole.ports) {
                    (Some(part), Some(whole)) => whole.0 <= part.0 && part.1 <= whole.1,
                    (_, None) => true,
                    (None, Some(_)) => false,
                }))
}

/// What rules with a prefix list as peer count, by the list's id.
pub type Weights = BTreeMap<String, Count>;

/// How many rules of each address family stand in a group.
///
/// Source: "Amazon VPC quotas", "Inbound or outbound rules per security group": counted separately for IPv4 and
/// IPv6. Rules whose peer is a group are counted in both. One whose peer is a prefix list counts as many as the
/// list may have entries ("Prefix lists", same guide); where that is not known, as one in both, and EC2 refuses what
/// does not fit before anything is taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// IPv4.
    pub v4: usize,
    /// IPv6.
    pub v6: usize,
}

impl Count {
    /// Counts rules.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a SgRule>) -> Self {
        rules.into_iter().fold(Self::default(), |count, rule| {
            let (v4, v6) = families(&rule.peer);
            Self {
                v4: count.v4 + usize::from(v4),
                v6: count.v6 + usize::from(v6),
            }
        })
    }

    /// Counts rules, each prefix list by its weight.
    pub fn weighed<'a>(rules: impl IntoIterator<Item = &'a SgRule>, weights: &Weights) -> Self {
        rules.into_iter().fold(Self::default(), |count, rule| {
            let weight = match &rule.peer {
                SgPeer::PrefixList(list) => weights.get(list).copied(),
                _ => None,
            };
            count.plus(weight.unwrap_or_else(|| Self::of([rule])))
        })
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            v4: self.v4 + other.v4,
            v6: self.v6 + other.v6,
        }
    }

    /// Whether neither family exceeds `limit`.
    pub fn fits(self, limit: usize) -> bool {
        self.v4 <= limit && self.v6 <= limit
    }
}

/// Rules for people: `22/tcp from 203.0.113.7/32, …`, at most three of them spelled out.
pub fn list<'a>(rules: impl IntoIterator<Item = &'a SgRule>) -> String {
    let texts: Vec<String> = rules
        .into_iter()
        .map(|rule| Content::of(rule).to_string())
        .collect();
    let shown = texts.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::ports;

    use super::*;

    fn rule(protocol: SgProtocol, span: Option<(i32, i32)>) -> SgRule {
        SgRule {
            id: None,
            protocol,
            ports: span,
            peer: SgPeer::Net("10.0.0.0/8".parse().unwrap()),
            description: None,
            tags: BTreeMap::new(),
        }
    }

    #[test]
    fn an_all_traffic_rule_keeps_everything_that_ec2_can_name_but_the_guarded_ports() {
        let left = carve(
            &rule(SgProtocol::All, None),
            &[ports("22"), ports("3389"), ports("161/udp")],
        );
        let texts: Vec<String> = left.iter().map(|r| Content::of(r).to_string()).collect();
        assert_eq!(
            texts,
            [
                "0-21/tcp from 10.0.0.0/8",
                "23-3388/tcp from 10.0.0.0/8",
                "3390-65535/tcp from 10.0.0.0/8",
                "0-160/udp from 10.0.0.0/8",
                "162-65535/udp from 10.0.0.0/8",
                "-1/icmp from 10.0.0.0/8",
                "4 from 10.0.0.0/8",
                "47 from 10.0.0.0/8",
                "50 from 10.0.0.0/8",
                "51 from 10.0.0.0/8",
                "132 from 10.0.0.0/8",
            ]
        );
    }

    #[test]
    fn a_prefix_list_counts_as_many_rules_as_it_may_have_entries() {
        let of = |peer| SgRule {
            peer,
            ..rule(SgProtocol::Tcp, Some((22, 22)))
        };
        let rules = [
            of(SgPeer::PrefixList("pl-known".to_owned())),
            of(SgPeer::PrefixList("pl-unknown".to_owned())),
            of(SgPeer::Net("2001:db8::/32".parse().unwrap())),
        ];
        let weights = Weights::from([("pl-known".to_owned(), Count { v4: 20, v6: 0 })]);
        assert_eq!(Count::weighed(&rules, &weights), Count { v4: 21, v6: 2 });
    }

    #[test]
    fn protocols_by_number_and_by_name_are_the_same() {
        assert_eq!(
            normalise("6", Some(22), Some(22)),
            normalise("tcp", Some(22), Some(22))
        );
        assert_eq!(normalise("-1", Some(-1), Some(-1)), (SgProtocol::All, None));
        assert_eq!(
            normalise("50", Some(-1), Some(-1)),
            (SgProtocol::Other("50".to_owned()), None)
        );
        assert_eq!(
            normalise("icmpv6", None, None),
            normalise("58", Some(-1), Some(-1))
        );
        assert_eq!(normalise("udp", Some(-1), Some(-1)).1, Some((0, 65535)));
    }
}
