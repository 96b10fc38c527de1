//! The way through an Azure Firewall, read from the truth log: addresses, DNAT, network rules.
//!
//! "Azure Firewall rule processing logic" (learn.microsoft.com): NAT rules come first and allow what they
//! translate, unless a network rule denies the translated packet; then network rules by priority, in a policy
//! by the group's priority and the collection's; what matches none is denied. A translated packet leaves with
//! an address of one of the firewall's instances as its source, which is in `AzureFirewallSubnet` and not the
//! firewall's private address ("Azure Firewall known issues and limitations", DNAT and SNAT).
//!
//! "Azure Firewall SNAT private IP address ranges": what application rules let pass is proxied, and comes from the
//! firewall whatever its destination; what network rules let pass does where the destination is in none of the
//! private ranges, by default those of RFC 1918 and RFC 6598. `255.255.255.255/32` makes it always so, `0.0.0.0/0`
//! never. Not modelled: learned ranges, and names in application rules but `*`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::firewall::{Rules, Span, kind_of, named, span};
use super::id::{ChildKind, Id};
use super::judge::{in_force, in_force_of_id, is_private, parts, tag_holds};
use super::rule;
use super::state::at;
use crate::truth::{Probe, Protocol, World};

/// A rule collection in force.
struct Collection<'a> {
    rules: Rules,
    allows: bool,
    /// How far above the firewall's policy, those of the topmost first; the group's priority and the collection's.
    order: (i64, i64, i64),
    content: &'a Map<String, Value>,
}

/// Where the NAT rules of a parent policy stand for the firewalls of a policy that inherits from it.
///
/// Microsoft's pages contradict each other. "Azure Firewall Manager policy overview": "NAT rule collections aren't
/// inherited because they're specific to a given firewall". "Azure Firewall rule processing logic" has an example
/// policy whose parent's DNAT collections are processed, before the child's. A guard has to hold under both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ParentsNat {
    /// Nowhere.
    #[default]
    NotInherited,
    /// Before those of the policy.
    First,
}

/// A firewall in force.
pub(super) struct Firewall<'a> {
    world: &'a World,
    /// The address that routes name.
    pub(super) private: IpAddr,
    /// The addresses that clients call.
    pub(super) public: Vec<IpAddr>,
    /// The key of its virtual network.
    pub(super) network: String,
    collections: Vec<Collection<'a>>,
    /// The destinations before which it does not hide the source.
    unhidden: Vec<IpNet>,
}

/// How a routed packet passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// With the client's address.
    Seen,
    /// With an address of the firewall.
    Hidden,
}

/// The ranges that a firewall takes for private where nothing is said, and where `IANAPrivateRanges` is.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

fn unhidden(texts: &[&str]) -> Vec<IpNet> {
    let texts = if texts.is_empty() {
        &["IANAPrivateRanges"]
    } else {
        texts
    };
    texts
        .iter()
        .flat_map(|text| match *text {
            named if named.eq_ignore_ascii_case("IANAPrivateRanges") => PRIVATE.to_vec(),
            other => vec![other],
        })
        .filter_map(rule::network)
        .collect()
}

fn number(object: &Map<String, Value>) -> i64 {
    object.get("priority").and_then(Value::as_i64).unwrap_or(i64::MAX)
}

/// The firewalls in force.
pub(super) fn firewalls(world: &World, parents: ParentsNat) -> impl Iterator<Item = Firewall<'_>> {
    world
        .keys()
        .filter(|key| key.contains("/providers/microsoft.network/azurefirewalls/"))
        .filter_map(move |key| Firewall::read(world, in_force(world, key)?, parents))
}

impl<'a> Firewall<'a> {
    fn read(world: &'a World, firewall: &'a Map<String, Value>, parents: ParentsNat) -> Option<Self> {
        let configurations = named(firewall, "ipConfigurations");
        let (private, subnet) = configurations.iter().find_map(|(_, goal)| {
            let private = at(goal, &["privateIPAddress"])?.parse().ok()?;
            Some((private, at(goal, &["subnet", "id"])?))
        })?;
        let public = configurations
            .iter()
            .filter_map(|(_, goal)| in_force_of_id(world, at(goal, &["publicIPAddress", "id"])?))
            .filter_map(|address| at(address, &["ipAddress"])?.parse().ok())
            .collect();
        let (mut collections, ranges) = if let Some(policy) = at(firewall, &["firewallPolicy", "id"]) {
            let snat = in_force_of_id(world, policy).and_then(|policy| policy.get("snat")?.as_object());
            let ranges = snat.map(|snat| rule::texts(snat, "privateRanges"));
            (
                inherited(world, &policy.to_ascii_lowercase(), parents),
                ranges.unwrap_or_default(),
            )
        } else {
            let ranges = at(firewall, &["additionalProperties", "Network.SNAT.PrivateRanges"]);
            let ranges = ranges.into_iter().flat_map(|text| text.split(','));
            (classic(firewall), ranges.map(str::trim).collect())
        };
        collections.sort_by_key(|collection| collection.order);
        Some(Self {
            world,
            private,
            public,
            network: Id::parse(subnet)?.parent().key(),
            collections,
            unhidden: unhidden(&ranges),
        })
    }

    /// The addresses that translated packets come from: those of its two instances.
    pub(super) fn instances(&self) -> Vec<IpAddr> {
        match self.private {
            IpAddr::V4(private) => [1, 2]
                .map(|step| IpAddr::V4(Ipv4Addr::from(u32::from(private).saturating_add(step))))
                .to_vec(),
            IpAddr::V6(_) => Vec::new(),
        }
    }

    /// Whether routed packets pass, and how: network rules are asked before application rules.
    pub(super) fn routes(
        &self,
        source: IpAddr,
        destination: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<Passing> {
        match self.network_rule(source, destination, port, protocol) {
            Some(true) if self.unhidden.iter().any(|net| net.contains(&destination)) => Some(Passing::Seen),
            Some(true) => Some(Passing::Hidden),
            Some(false) => None,
            None => self.proxies(source, port, protocol).then_some(Passing::Hidden),
        }
    }

    /// Whether an application rule for all names is for the port.
    fn proxies(&self, source: IpAddr, port: u16, protocol: Protocol) -> bool {
        let matches = |rule: &Map<String, Value>| {
            let listed = |member: &str| rule.get(member).and_then(Value::as_array).into_iter().flatten();
            protocol == Protocol::Tcp
                && rule::texts(rule, "targetFqdns").contains(&"*")
                && listed("protocols").any(|one| one.get("port").and_then(Value::as_u64) == Some(port.into()))
                && self.spans(rule, "sourceAddresses", source)
        };
        self.of(Rules::Application)
            .find(|(_, rule)| matches(rule))
            .is_some_and(|(collection, _)| collection.allows)
    }

    /// What the first network rule says that matches.
    fn network_rule(
        &self,
        source: IpAddr,
        destination: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<bool> {
        self.of(Rules::Network)
            .find(|(_, rule)| self.matches(rule, source, destination, port, protocol))
            .map(|(collection, _)| collection.allows)
    }

    fn of(&self, rules: Rules) -> impl Iterator<Item = (&Collection<'a>, &'a Map<String, Value>)> {
        self.collections
            .iter()
            .filter(move |collection| collection.rules == rules)
            .flat_map(|collection| {
                let rules = collection.content.get("rules").and_then(Value::as_array);
                rules
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object)
                    .map(move |rule| (collection, rule))
            })
    }

    /// Where a packet to one of its addresses goes: the first NAT rule that matches, unless a network rule denies the
    /// translated packet.
    pub(super) fn lands(
        &self,
        source: IpAddr,
        public: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<(IpAddr, u16)> {
        let (_, rule) = self
            .of(Rules::Nat)
            .find(|(_, rule)| self.matches(rule, source, public, port, protocol))?;
        let address = rule::text(rule, "translatedAddress")?.parse().ok()?;
        let (translated, _) = rule::ports(rule::text(rule, "translatedPort")?)?;
        (self.network_rule(source, address, translated, protocol) != Some(false))
            .then_some((address, translated))
    }

    /// Whether some address of its own and port leads a probe's packets to a private address. What comes from the
    /// internet knows its public ones alone.
    pub(super) fn translates(&self, probe: &Probe, destination: IpAddr) -> bool {
        self.of(Rules::Nat).any(|(_, rule)| {
            let entries = rule::texts(rule, "destinationPorts")
                .into_iter()
                .filter_map(rule::ports);
            let inside = is_private(probe.source).then_some(self.private);
            let own = || self.public.iter().copied().chain(inside);
            let mut ways = entries.flat_map(|(from, to)| {
                own().flat_map(move |to_address| (from..=to).map(move |port| (to_address, port)))
            });
            ways.any(|(address, port)| {
                self.lands(probe.source, address, port, probe.protocol) == Some((destination, probe.port))
            })
        })
    }

    fn matches(
        &self,
        rule: &Map<String, Value>,
        source: IpAddr,
        destination: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> bool {
        let word = match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let spoken = ["protocols", "ipProtocols"]
            .into_iter()
            .flat_map(|member| rule::texts(rule, member))
            .any(|given| given.eq_ignore_ascii_case(word) || given.eq_ignore_ascii_case("Any"));
        // No packet goes from one family to the other, whatever a `*` stands for.
        source.is_ipv4() == destination.is_ipv4()
            && spoken
            && self.spans(rule, "sourceAddresses", source)
            && self.spans(rule, "destinationAddresses", destination)
            && rule::texts(rule, "destinationPorts")
                .into_iter()
                .filter_map(rule::ports)
                .any(|(from, to)| (from..=to).contains(&port))
    }

    fn spans(&self, rule: &Map<String, Value>, member: &str, address: IpAddr) -> bool {
        rule::texts(rule, member)
            .into_iter()
            .filter_map(span)
            .any(|span| match span {
                Span::Any => true,
                Span::Within(first, last) => {
                    first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
                }
                Span::Tag(tag) => tag_holds(self.world, &tag, address),
            })
    }
}

fn allows(collection: &Map<String, Value>) -> bool {
    at(collection, &["action", "type"]).is_some_and(|action| !action.eq_ignore_ascii_case("Deny"))
}

fn classic(firewall: &Map<String, Value>) -> Vec<Collection<'_>> {
    [
        ("natRuleCollections", Rules::Nat),
        ("networkRuleCollections", Rules::Network),
        ("applicationRuleCollections", Rules::Application),
    ]
    .into_iter()
    .flat_map(|(member, rules)| {
        named(firewall, member)
            .into_iter()
            .map(move |(_, content)| Collection {
                rules,
                allows: allows(content),
                order: (0, 0, number(content)),
                content,
            })
    })
    .collect()
}

/// The collections of a policy and of the one that it inherits from. One policy above another is what Azure takes.
fn inherited<'a>(world: &'a World, key: &str, parents: ParentsNat) -> Vec<Collection<'a>> {
    let mut all = of_policy(world, key, 0);
    let parent = in_force(world, key).and_then(|policy| at(policy, &["basePolicy", "id"]));
    if let Some(parent) = parent {
        let above = of_policy(world, &parent.to_ascii_lowercase(), -1);
        all.extend(
            above
                .into_iter()
                .filter(|collection| parents == ParentsNat::First || collection.rules != Rules::Nat),
        );
    }
    all
}

fn of_policy<'a>(world: &'a World, key: &str, level: i64) -> Vec<Collection<'a>> {
    parts(world, key, ChildKind::RuleCollectionGroup)
        .flat_map(|group| {
            let list = group.get("ruleCollections").and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .filter_map(Value::as_object)
                .filter_map(move |content| {
                    Some(Collection {
                        rules: kind_of(content, "").ok()?,
                        allows: allows(content),
                        order: (level, number(group), number(content)),
                        content,
                    })
                })
        })
        .collect()
}
