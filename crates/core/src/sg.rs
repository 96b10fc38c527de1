//! EC2's security group rules, as far as they decide whether a packet passes.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
