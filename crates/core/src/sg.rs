//! EC2's security group rules, as far as they decide whether a packet passes.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::net::{Ports, Protocol};

/// The protocol of a security group rule.
///
/// Source: EC2 API reference, `IpPermission.IpProtocol`: `tcp`, `udp`, `icmp`, `icmpv6`, a number, or `-1` for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SgProtocol {
    /// `-1`: all protocols and ports.
    All,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Any other, as EC2 names it.
    Other(String),
}

/// Whom a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SgPeer {
    /// A network.
    Net(IpNet),
    /// A prefix list, by id.
    PrefixList(String),
    /// The interfaces that another group is attached to.
    Group {
        /// The group's id.
        group: String,
        /// The owner's account, where EC2 says it.
        account: Option<String>,
        /// Whether EC2 shows that it lets nobody in any more: the group was in a peered VPC, and it or the peering
        /// connection was deleted. EC2 keeps such a rule, and takes no new one like it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale: bool,
    },
}

/// One ingress rule with one peer, as `DescribeSecurityGroupRules` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SgRule {
    /// `sgr-…`, absent for a rule that does not exist yet.
    pub id: Option<String>,
    /// The protocol.
    pub protocol: SgProtocol,
    /// First and last port; absent for `-1`. For ICMP, type and code, each -1 for any.
    pub ports: Option<(i32, i32)>,
    /// Whom it lets in.
    pub peer: SgPeer,
    /// Free text, at most 255 characters.
    pub description: Option<String>,
    /// The rule's own tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl SgRule {
    /// Whether the two say the same, leaving aside id, description and tags: EC2 calls them duplicates.
    pub fn same_content(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.ports == other.ports && self.peer == other.peer
    }
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its VPC.
    pub vpc: String,
    /// Its ingress rules.
    pub ingress: Vec<SgRule>,
    /// Its egress rules.
    pub egress: Vec<SgRule>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Protocols, beside TCP, UDP and ICMP, that stay open when an all-traffic rule is displaced: IP-in-IP and GRE
/// (overlays and tunnels), ESP and AH (`IPsec`), SCTP.
///
/// EC2 has no way to say "all protocols but these", and 256 rules would not fit a group, so a displaced
/// all-traffic rule loses every other protocol until it is restored. The plan says so in a finding.
pub const KEPT_PROTOCOLS: [u8; 5] = [4, 47, 50, 51, 132];

/// Whether the rule lets nobody in any more; see [`SgPeer::Group`].
pub fn is_stale(rule: &SgRule) -> bool {
    matches!(rule.peer, SgPeer::Group { stale: true, .. })
}

/// Whether the rule lets packets through to any of the guarded ports.
pub fn overlaps(rule: &SgRule, guarded: &[Ports]) -> bool {
    let mut guarded = guarded.iter();
    !is_stale(rule)
        && guarded.any(|ports| match (&rule.protocol, ports.protocol()) {
            (SgProtocol::All, _) => true,
            (SgProtocol::Tcp, Protocol::Tcp) | (SgProtocol::Udp, Protocol::Udp) => {
                let (first, last) = rule.ports.unwrap_or((0, 65535));
                first <= i32::from(ports.last()) && i32::from(ports.first()) <= last
            }
            _ => false,
        })
}

/// What is left of the rule without the guarded ports: rules with the same peer, without description and tags.
pub fn carve(rule: &SgRule, guarded: &[Ports]) -> Vec<SgRule> {
    let bare = |protocol: SgProtocol, ports: Option<(i32, i32)>| SgRule {
        id: None,
        protocol,
        ports,
        peer: rule.peer.clone(),
        description: None,
        tags: BTreeMap::new(),
    };
    let around = |protocol: Protocol, span: (i32, i32)| {
        let name = match protocol {
            Protocol::Tcp => SgProtocol::Tcp,
            Protocol::Udp => SgProtocol::Udp,
        };
        remainder(span, guarded.iter().filter(|ports| ports.protocol() == protocol))
            .into_iter()
            .map(move |ports| bare(name.clone(), Some(ports)))
    };
    match &rule.protocol {
        SgProtocol::Tcp => around(Protocol::Tcp, rule.ports.unwrap_or((0, 65535))).collect(),
        SgProtocol::Udp => around(Protocol::Udp, rule.ports.unwrap_or((0, 65535))).collect(),
        SgProtocol::Other(_) => vec![bare(rule.protocol.clone(), rule.ports)],
        SgProtocol::All if guarded.is_empty() => vec![bare(SgProtocol::All, None)],
        SgProtocol::All => {
            let (v4, v6) = families(&rule.peer);
            around(Protocol::Tcp, (0, 65535))
                .chain(around(Protocol::Udp, (0, 65535)))
                .chain(v4.then(|| bare(SgProtocol::Other("icmp".to_owned()), Some((-1, -1)))))
                .chain(v6.then(|| bare(SgProtocol::Other("icmpv6".to_owned()), Some((-1, -1)))))
                .chain(
                    KEPT_PROTOCOLS
                        .iter()
                        .map(|number| bare(SgProtocol::Other(number.to_string()), None)),
                )
                .collect()
        }
    }
}

fn remainder<'a>(span: (i32, i32), holes: impl Iterator<Item = &'a Ports>) -> Vec<(i32, i32)> {
    let mut holes: Vec<(i32, i32)> = holes.map(|p| (p.first().into(), p.last().into())).collect();
    holes.sort_unstable();
    let (mut from, to) = span;
    let mut left = Vec::new();
    for (first, last) in holes {
        if first > to || last < from {
            continue;
        }
        if from < first {
            left.push((from, first - 1));
        }
        from = last + 1;
    }
    if from <= to {
        left.push((from, to));
    }
    left
}

/// The address families that a peer may stand for, IPv4 first. A prefix list is of one of the two, which its id
/// does not tell.
pub fn families(peer: &SgPeer) -> (bool, bool) {
    match peer {
        SgPeer::Net(IpNet::V4(_)) => (true, false),
        SgPeer::Net(IpNet::V6(_)) => (false, true),
        SgPeer::PrefixList(_) | SgPeer::Group { .. } => (true, true),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn passes(rule: &SgRule, protocol: Protocol, port: i32) -> bool {
        overlaps(
            rule,
            &[Ports::one(protocol, u16::try_from(port).unwrap()).unwrap()],
        )
    }

    proptest! {
        #[test]
        fn what_is_carved_is_the_rule_without_the_guarded_ports(
            first in 0i32..60, length in 0i32..60, all in any::<bool>(),
            holes in prop::collection::vec((1u16..70, 0u16..8, any::<bool>()), 0..5),
        ) {
            let whole = if all { rule(SgProtocol::All, None) } else { rule(SgProtocol::Tcp, Some((first, first + length))) };
            let guarded: Vec<Ports> = holes.iter().map(|(from, more, udp)| {
                Ports::range(if *udp { Protocol::Udp } else { Protocol::Tcp }, *from, from + more).unwrap()
            }).collect();
            let left = carve(&whole, &guarded);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for port in 1..130 {
                    let one = Ports::one(protocol, u16::try_from(port).unwrap()).unwrap();
                    let want = passes(&whole, protocol, port) && !guarded.iter().any(|g| g.overlaps(one));
                    prop_assert_eq!(left.iter().any(|r| passes(r, protocol, port)), want, "{}", one);
                }
            }
            for part in &left {
                prop_assert!(!overlaps(part, &guarded));
            }
        }
    }
}
