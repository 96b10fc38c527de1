//! Azure's security rules, as far as they decide whether a packet passes.

mod shared;
mod tag;

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use shared::{Axis, MAX_ENTRIES, MAX_SHARES, Share, SharedMark, is_marked, marked_end};
pub use tag::{PROBES, Tag, private_networks};

/// Which way a rule looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Towards the machine.
    Inbound,
    /// From the machine.
    Outbound,
}

/// What a rule does with a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Lets it pass.
    Allow,
    /// Drops it.
    Deny,
}

/// The protocol of an NSG rule.
///
/// Source: Azure REST reference, Security Rules, `SecurityRuleProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NsgProtocol {
    /// Every protocol.
    #[serde(rename = "*")]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// Encapsulating security payload.
    Esp,
    /// Authentication header.
    Ah,
}

/// One entry of a rule's source or destination list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AddressPrefix {
    /// An address or network.
    Net(IpNet),
    /// `*`, or a service tag such as `Internet` or `VirtualNetwork`, as written.
    Tag(String),
}

impl AddressPrefix {
    /// Reads what ARM holds: an address, a CIDR block, `*` or a service tag.
    pub fn parse(text: &str) -> Self {
        text.parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
            .map_or_else(|| Self::Tag(text.to_owned()), |net| Self::Net(net.trunc()))
    }

    /// Whether it is `*`: every address of both families.
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Tag(tag) if tag == "*")
    }
}

impl std::fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // ARM shows single addresses without a prefix length when they were written so.
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

/// One side of a rule: address prefixes and application security groups. The side matches when any entry does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Side {
    /// Addresses and service tags.
    pub prefixes: Vec<AddressPrefix>,
    /// Resource ids of application security groups, lower case.
    pub groups: Vec<String>,
}

/// What is known of the application security groups that a packet's destination is in; ids in lower case.
#[derive(Debug, Clone, Copy)]
pub enum Memberships<'a> {
    /// Which ones is not known: a rule that names one may match.
    Unknown,
    /// Which ones is known.
    Known {
        /// Those that the destination is in.
        certain: &'a BTreeSet<String>,
        /// Those that it may be in.
        possible: &'a BTreeSet<String>,
    },
}

/// An inclusive range of port numbers; `*` is 0 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NsgPorts {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// A security rule of an NSG.
///
/// Source: Azure REST reference, Network Security Groups, `SecurityRulePropertiesFormat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NsgRule {
    /// Its name, unique in the NSG without regard to case.
    pub name: String,
    /// Free text, at most 140 characters.
    pub description: Option<String>,
    /// 100 to 4096 (defaults: 65000 and up), unique per direction; the lowest number is looked at first.
    pub priority: u16,
    /// Which way it looks.
    pub direction: Direction,
    /// What it does.
    pub access: Access,
    /// The protocol that it looks at.
    pub protocol: NsgProtocol,
    /// Where packets come from.
    pub source: Side,
    /// Where packets go to.
    pub destination: Side,
    /// Destination ports; empty matches nothing.
    pub ports: Vec<NsgPorts>,
    /// Source ports; a rule of ours has all of them.
    pub source_ports: Vec<NsgPorts>,
}

impl NsgPorts {
    /// `*`.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Reads `22`, `5000-5010` or `*`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::ALL);
        }
        match text.split_once('-') {
            Some((first, last)) => Some(Self {
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            }),
            None => text.parse().ok().map(|port| Self {
                first: port,
                last: port,
            }),
        }
    }

    /// Whether the two share a port.
    pub const fn overlaps(self, first: u16, last: u16) -> bool {
        self.first <= last && first <= self.last
    }
}
