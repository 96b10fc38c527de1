//! Security group rules as sets of packets: what they overlap, what is left of them, what they count.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;
use postern_core::{
    mark::{Installation, Mark},
    net::{Ports, Protocol},
    sg::{SgPeer, SgProtocol, SgRule},
};
use serde::{Deserialize, Serialize};

/// Protocols, beside TCP, UDP and ICMP, that stay open when an all-traffic rule is displaced: IP-in-IP and GRE
/// (overlays and tunnels), ESP and AH (`IPsec`), SCTP.
///
/// EC2 has no way to say "all protocols but these", and 256 rules would not fit a group, so a displaced
/// all-traffic rule loses every other protocol until it is restored. The plan says so in a finding.
pub const KEPT_PROTOCOLS: [u8; 5] = [4, 47, 50, 51, 132];

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

/// The address families that a peer may stand for, IPv4 first. A prefix list is of one of the two, which its id
/// does not tell.
fn families(peer: &SgPeer) -> (bool, bool) {
    match peer {
        SgPeer::Net(IpNet::V4(_)) => (true, false),
        SgPeer::Net(IpNet::V6(_)) => (false, true),
        SgPeer::PrefixList(_) | SgPeer::Group { .. } => (true, true),
    }
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
                prop_assert!(within(part, &whole));
                prop_assert!(!overlaps(part, &guarded));
            }
        }
    }
}
