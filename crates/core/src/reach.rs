//! Reachability: may this source reach this port on this machine through these hops, and which rule says so.
//!
//! A verdict is about every packet of a flow: all from the source network, to all of the ports. `Allowed` and
//! `Denied` hold for each of them; `Partly` says that some pass and some do not, or that a rule may match and
//! what is known here does not tell (then the rule is named as unsure).
//!
//! How names are read, where a rule has no addresses:
//!
//! | in a rule | matches a source |
//! |---|---|
//! | `*` | always |
//! | `Internet` | that is public and outside the interface's network |
//! | `VirtualNetwork` | inside the interface's network; other private addresses possibly (peered and on-premises networks belong to the tag, and are not known here) |
//! | `AzureLoadBalancer` | that is the platform's probe address, 168.63.129.16 or `fe80::1234:5678:9abc` |
//! | the tag of a platform service at a fixed address (`AzurePlatformDNS`, `AzurePlatformIMDS`) | that is this address |
//! | another service tag that Microsoft lists ([`crate::nsg::Tag`]) | never when private, possibly when public |
//! | a tag that is not known here, an EC2 prefix list | possibly |
//! | an application security group, an EC2 group | never when public, possibly when private: its members are not known here |
//!
//! As a destination `VirtualNetwork` always matches (the NSG sees the private address), `Internet`,
//! `AzureLoadBalancer` and the platform's tags never, a listed service tag never when the address is private, an
//! unknown tag possibly. An application security group matches when every ip configuration of the interface is a
//! member, and possibly when some are.
//!
//! `0.0.0.0/0` and `::/0` as a flow's source stand for the internet: `Internet` matches all of it,
//! `VirtualNetwork` and `AzureLoadBalancer` none. A rule with addresses is still taken at its word, so that a
//! rule for 10.0.0.0/8 matches a part.
//!
//! Sources: Azure documentation, "Virtual network service tags" and "How network security groups filter network
//! traffic"; EC2 User Guide, "Security group rules"; the probe addresses from "What is IP address 168.63.129.16?"
//! and "Azure Load Balancer health probes".

#[cfg(test)]
mod oracle;
mod packets;
pub(crate) mod region;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    inventory::{Interface, Layer, Machine, Place},
    net::{Ports, Source},
    nsg::{Access, Direction, Memberships, NsgRule},
    point::PointRef,
    sg::{SecurityGroup, SgPeer, SgProtocol, SgRule},
};

use packets::Packets;
use region::{Family, Piece, first_match};

/// Packets from a network to some ports of one private address of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where they come from, as the hop sees it.
    pub source: Source,
    /// Where they go to, as the hop sees it: a private address.
    pub destination: IpAddr,
    /// To which ports.
    pub ports: Ports,
}

/// Whether packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every packet passes.
    Allowed,
    /// No packet passes.
    Denied,
    /// Some pass, or it is not known.
    Partly,
}

/// Names a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// Where the rule stands: an NSG's [`PointRef`] as text, or the id of a security group.
    pub resource: String,
    /// The NSG rule's name; the security group rule's id, or what it says where it has none yet.
    pub rule: String,
    /// The NSG rule's priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = self
            .resource
            .rsplit_once('/')
            .map_or(self.resource.as_str(), |(_, name)| name);
        match self.priority {
            Some(priority) => write!(f, "rule `{}` (priority {priority}) of `{resource}`", self.rule),
            None => write!(f, "rule `{}` of `{resource}`", self.rule),
        }
    }
}

/// What one hop does with a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopVerdict {
    /// The hop: an NSG's [`PointRef`] as text, or the ids of the interface's security groups.
    pub resource: String,
    /// Where the NSG is attached, when evaluated as part of an interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The private address that the packets go to.
    pub destination: IpAddr,
    /// Whether they pass.
    pub verdict: Verdict,
    /// The rule that decides: the first that allows for `Allowed`; the first that denies for `Denied` and
    /// `Partly`. None when packets are denied because no rule matches them.
    pub rule: Option<RuleRef>,
    /// Every rule that lets some of the packets through, in the order in which they are looked at.
    pub allowed_by: Vec<RuleRef>,
    /// Every rule that drops some of the packets, likewise.
    pub denied_by: Vec<RuleRef>,
    /// Rules that may match, and would change what happens.
    pub unsure: Vec<RuleRef>,
}

/// What becomes of a flow over all hops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// `Denied` when any hop denies, `Allowed` when all allow (or there is none), otherwise `Partly`.
    pub verdict: Verdict,
    /// Each hop, outermost first, for each destination address.
    pub hops: Vec<HopVerdict>,
}

/// Whether packets from `source` reach `ports` on every address of the interface that is of the source's
/// family. `Denied` without hops when it has no such address; `Allowed` without hops when nothing filters.
pub fn reach(interface: &Interface, source: Source, ports: Ports) -> Reach {
    let family = Family::of(source.net().addr());
    let mut hops = Vec::new();
    let mut verdicts = Vec::new();
    for destination in interface
        .addresses
        .iter()
        .copied()
        .filter(|address| Family::of(*address) == family)
    {
        let one = reach_address(
            interface,
            &Flow {
                source,
                destination,
                ports,
            },
        );
        verdicts.push(one.verdict);
        hops.extend(one.hops);
    }
    Reach {
        verdict: alike(verdicts),
        hops,
    }
}

/// Whether packets reach one private address of the interface.
pub fn reach_address(interface: &Interface, flow: &Flow) -> Reach {
    let hops: Vec<HopVerdict> = interface
        .layers
        .iter()
        .filter_map(|layer| match layer {
            Layer::Nsg {
                point,
                place,
                rules,
                memberships,
                possible_memberships,
            } => Some(HopVerdict {
                place: Some(*place),
                ..evaluate_nsg(
                    point,
                    rules,
                    Memberships::Known {
                        certain: memberships,
                        possible: possible_memberships,
                    },
                    &interface.network,
                    flow,
                )
            }),
            Layer::SecurityGroups { groups } => Some(evaluate_groups(groups, &interface.network, flow)),
            // What it lets through is decided by rules that are read at the point; here it promises nothing.
            Layer::Firewall(_) => None,
        })
        .collect();
    Reach {
        verdict: over_hops(hops.iter().map(|hop| hop.verdict)),
        hops,
    }
}

/// Whether packets from `source` reach `ports` on every interface of the machine that has an address of the
/// source's family. `Denied` without hops when none has.
pub fn reach_machine(machine: &Machine, source: Source, ports: Ports) -> Reach {
    let family = Family::of(source.net().addr());
    let each: Vec<Reach> = machine
        .interfaces
        .iter()
        .filter(|interface| {
            interface
                .addresses
                .iter()
                .any(|address| Family::of(*address) == family)
        })
        .map(|interface| reach(interface, source, ports))
        .collect();
    Reach {
        verdict: alike(each.iter().map(|one| one.verdict)),
        hops: each.into_iter().flat_map(|one| one.hops).collect(),
    }
}

/// One destination after another hop: a packet must pass all.
fn over_hops(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts
        .into_iter()
        .fold(Verdict::Allowed, |all, one| match (all, one) {
            (Verdict::Denied, _) | (_, Verdict::Denied) => Verdict::Denied,
            (Verdict::Allowed, Verdict::Allowed) => Verdict::Allowed,
            _ => Verdict::Partly,
        })
}

/// Several destinations beside each other: what holds for all, or `Partly`. Nothing to reach is `Denied`.
fn alike(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut verdicts = verdicts.into_iter();
    let Some(first) = verdicts.next() else {
        return Verdict::Denied;
    };
    if verdicts.all(|verdict| verdict == first) {
        first
    } else {
        Verdict::Partly
    }
}

/// What an NSG does with a flow towards the machine: its inbound rules in the order of their priorities, the
/// defaults among them. `memberships` are the application security groups of the destination, `network` the address
/// space of its virtual network.
pub fn evaluate_nsg(
    point: &PointRef,
    rules: &[NsgRule],
    memberships: Memberships<'_>,
    network: &[IpNet],
    flow: &Flow,
) -> HopVerdict {
    let ordered = nsg_order(rules);
    let pieces = nsg_pieces(&ordered, memberships, network, flow);
    let resource = point.to_string();
    hop(resource.clone(), flow, &pieces, |at| {
        ordered.get(at).map(|rule| nsg_rule_ref(&resource, rule))
    })
}

/// What the security groups of an interface do with a flow towards it: what any rule of any group allows passes.
/// `network` is the address space of the VPC.
pub fn evaluate_groups(groups: &[SecurityGroup], network: &[IpNet], flow: &Flow) -> HopVerdict {
    let rules: Vec<(&str, &SgRule)> = group_rules(groups).collect();
    let pieces = group_pieces(rules.iter().map(|(_, rule)| *rule), network, flow);
    let resource = groups
        .iter()
        .map(|group| group.id.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    hop(resource, flow, &pieces, |at| {
        rules.get(at).map(|(group, rule)| sg_rule_ref(group, rule))
    })
}

/// Inbound rules as the NSG looks at them.
pub(crate) fn nsg_order(rules: &[NsgRule]) -> Vec<&NsgRule> {
    let mut ordered: Vec<&NsgRule> = rules
        .iter()
        .filter(|rule| rule.direction == Direction::Inbound)
        .collect();
    ordered.sort_by_key(|rule| rule.priority);
    ordered
}

pub(crate) fn nsg_rule_ref(resource: &str, rule: &NsgRule) -> RuleRef {
    RuleRef {
        resource: resource.to_owned(),
        rule: rule.name.clone(),
        priority: Some(rule.priority),
    }
}

/// Every ingress rule, with its group's id.
pub(crate) fn group_rules(groups: &[SecurityGroup]) -> impl Iterator<Item = (&str, &SgRule)> {
    groups
        .iter()
        .flat_map(|group| group.ingress.iter().map(|rule| (group.id.as_str(), rule)))
}

pub(crate) fn peer_text(peer: &SgPeer) -> String {
    match peer {
        SgPeer::Net(net) => net.to_string(),
        SgPeer::PrefixList(id) => id.clone(),
        SgPeer::Group { group, .. } => group.clone(),
    }
}

pub(crate) fn sg_rule_ref(group: &str, rule: &SgRule) -> RuleRef {
    let said = || {
        let protocol = match &rule.protocol {
            SgProtocol::All => "all",
            SgProtocol::Tcp => "tcp",
            SgProtocol::Udp => "udp",
            SgProtocol::Other(other) => other,
        };
        let peer = peer_text(&rule.peer);
        match rule.ports {
            Some((first, last)) if first == last => format!("{protocol} {first} from {peer}"),
            Some((first, last)) => format!("{protocol} {first}-{last} from {peer}"),
            None => format!("{protocol} from {peer}"),
        }
    };
    RuleRef {
        resource: group.to_owned(),
        rule: rule.id.clone().unwrap_or_else(said),
        priority: None,
    }
}

/// The fate of every packet of the flow; empty when the families differ, because then there is no packet.
pub(crate) fn nsg_pieces(
    ordered: &[&NsgRule],
    memberships: Memberships<'_>,
    network: &[IpNet],
    flow: &Flow,
) -> Vec<Piece> {
    match Packets::of(network, flow) {
        Some(packets) => first_match(
            packets.rect,
            ordered
                .iter()
                .map(|rule| (rule.access, packets.nsg_footprint(rule, memberships))),
        ),
        None => Vec::new(),
    }
}

/// Whether the rule's destination is the address: for certain (`Some(true)`), possibly (`Some(false)`) or not.
pub(crate) fn nsg_destination(rule: &NsgRule, memberships: Memberships<'_>, address: IpAddr) -> Option<bool> {
    packets::destination(&rule.destination, memberships, address)
}

/// The same for the rules of an interface's groups.
pub(crate) fn group_pieces<'r>(
    rules: impl Iterator<Item = &'r SgRule>,
    network: &[IpNet],
    flow: &Flow,
) -> Vec<Piece> {
    match Packets::of(network, flow) {
        Some(packets) => first_match(
            packets.rect,
            rules.map(|rule| (Access::Allow, packets.sg_footprint(rule))),
        ),
        None => Vec::new(),
    }
}

fn hop(
    resource: String,
    flow: &Flow,
    pieces: &[Piece],
    name: impl Fn(usize) -> Option<RuleRef>,
) -> HopVerdict {
    let named = |places: BTreeSet<usize>| places.into_iter().filter_map(&name).collect::<Vec<_>>();
    let deciding = |access| {
        pieces
            .iter()
            .filter(|piece| piece.access == access)
            .filter_map(|piece| piece.rule)
            .collect()
    };
    let allowed_by = named(deciding(Access::Allow));
    let denied_by = named(deciding(Access::Deny));
    let unsure = named(
        pieces
            .iter()
            .flat_map(|piece| piece.unsure.iter().copied())
            .collect(),
    );
    let allows = pieces.iter().any(|piece| piece.access == Access::Allow);
    let denies = pieces.iter().any(|piece| piece.access == Access::Deny);
    let verdict = match (allows, denies) {
        _ if !unsure.is_empty() => Verdict::Partly,
        (true, true) => Verdict::Partly,
        (true, false) => Verdict::Allowed,
        (false, _) => Verdict::Denied,
    };
    let rule = match verdict {
        Verdict::Allowed => allowed_by.first(),
        Verdict::Denied | Verdict::Partly => denied_by.first(),
    }
    .cloned();
    HopVerdict {
        resource,
        place: None,
        destination: flow.destination,
        verdict,
        rule,
        allowed_by,
        denied_by,
        unsure,
    }
}
