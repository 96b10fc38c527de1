//! The way through an Azure Firewall, read from the truth log: addresses, DNAT, network rules.
//!
//! "Azure Firewall rule processing logic" (learn.microsoft.com): NAT rules come first and allow what they
//! translate, unless a network rule denies the translated packet; then network rules by priority, in a policy
//! by the group's priority and the collection's; what matches none is denied. A translated packet leaves with
//! an address of one of the firewall's instances as its source, which is in `AzureFirewallSubnet` and not the
//! firewall's private address ("Azure Firewall known issues and limitations", DNAT and SNAT).

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value};

use super::firewall::{Rules, Span, kind_of, named, span};
use super::id::{ChildKind, Id};
use super::judge::{in_force, in_force_of_id, parts, tag_holds};
use super::rule;
use super::state::at;
use crate::truth::{Probe, Protocol, World};

/// A rule collection in force.
struct Collection<'a> {
    rules: Rules,
    allows: bool,
    /// The group's priority and the collection's.
    order: (i64, i64),
    content: &'a Map<String, Value>,
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
}

fn number(object: &Map<String, Value>) -> i64 {
    object.get("priority").and_then(Value::as_i64).unwrap_or(i64::MAX)
}

/// The firewalls in force.
pub(super) fn firewalls(world: &World) -> impl Iterator<Item = Firewall<'_>> {
    world
        .keys()
        .filter(|key| key.contains("/providers/microsoft.network/azurefirewalls/"))
        .filter_map(|key| Firewall::read(world, in_force(world, key)?))
}

impl<'a> Firewall<'a> {
    fn read(world: &'a World, firewall: &'a Map<String, Value>) -> Option<Self> {
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
        let mut collections = match at(firewall, &["firewallPolicy", "id"]) {
            Some(policy) => of_policy(world, &policy.to_ascii_lowercase()),
            None => classic(firewall),
        };
        collections.sort_by_key(|collection| collection.order);
        Some(Self {
            world,
            private,
            public,
            network: Id::parse(subnet)?.parent().key(),
            collections,
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

    /// Whether routed packets pass.
    pub(super) fn routes(&self, source: IpAddr, destination: IpAddr, port: u16, protocol: Protocol) -> bool {
        self.network_rule(source, destination, port, protocol) == Some(true)
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

    /// Where a packet to one of the public addresses goes: the first NAT rule that matches, unless a network
    /// rule denies the translated packet.
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

    /// Whether some public address and port leads a probe's packets to a private address.
    pub(super) fn translates(&self, probe: &Probe, destination: IpAddr) -> bool {
        self.of(Rules::Nat).any(|(_, rule)| {
            let entries = rule::texts(rule, "destinationPorts")
                .into_iter()
                .filter_map(rule::ports);
            let mut ways = entries.flat_map(|(from, to)| {
                self.public
                    .iter()
                    .flat_map(move |public| (from..=to).map(move |port| (*public, port)))
            });
            ways.any(|(public, port)| {
                self.lands(probe.source, public, port, probe.protocol) == Some((destination, probe.port))
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
        let holds = |member: &str, address: IpAddr| {
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
        };
        // No packet goes from one family to the other, whatever a `*` stands for.
        source.is_ipv4() == destination.is_ipv4()
            && spoken
            && holds("sourceAddresses", source)
            && holds("destinationAddresses", destination)
            && rule::texts(rule, "destinationPorts")
                .into_iter()
                .filter_map(rule::ports)
                .any(|(from, to)| (from..=to).contains(&port))
    }
}

fn allows(collection: &Map<String, Value>) -> bool {
    at(collection, &["action", "type"]).is_some_and(|action| !action.eq_ignore_ascii_case("Deny"))
}

fn classic(firewall: &Map<String, Value>) -> Vec<Collection<'_>> {
    [
        ("natRuleCollections", Rules::Nat),
        ("networkRuleCollections", Rules::Network),
    ]
    .into_iter()
    .flat_map(|(member, rules)| {
        named(firewall, member)
            .into_iter()
            .map(move |(_, content)| Collection {
                rules,
                allows: allows(content),
                order: (0, number(content)),
                content,
            })
    })
    .collect()
}

fn of_policy<'a>(world: &'a World, key: &str) -> Vec<Collection<'a>> {
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
                        order: (number(group), number(content)),
                        content,
                    })
                })
        })
        .collect()
}
