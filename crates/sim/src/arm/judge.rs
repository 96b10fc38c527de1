//! Whether a packet reaches a machine: subnet NSG and NIC NSG, priority order, default rules included.
//!
//! Works on the truth log alone, and knows what is in force from what is only shown. "Network security
//! groups" (learn.microsoft.com): inbound, the subnet's group is asked first, then the interface's; each
//! must allow; where neither exists the packet passes.
//!
//! Not modelled: peered networks (for `VirtualNetwork`), the ranges of other service tags (they hold no
//! address), source ports that rules of the same NSG carve up (an allow for some source ports opens), and
//! that a Standard public address takes nothing in where there is no NSG at all.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::check::address_space;
use super::id::{ChildKind, Id};
use super::rule;
use super::state::{at, ids_in, interfaces_of};
use crate::truth::{Judge, Probe, Protocol, World};

/// The source of Azure's health probes (learn.microsoft.com, "What is IP address 168.63.129.16?").
const LOAD_BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(168, 63, 129, 16));

/// Judges probes of Azure machines.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArmJudge;

/// What is in force of an entry of the truth log.
fn in_force<'a>(world: &'a World, key: &str) -> Option<&'a Map<String, Value>> {
    let entry = world.get(key)?;
    entry
        .get("inForce")
        .unwrap_or_else(|| entry.get("properties").unwrap_or(&Value::Null))
        .as_object()
}

fn in_force_of_id<'a>(world: &'a World, id: &str) -> Option<&'a Map<String, Value>> {
    in_force(world, &id.to_ascii_lowercase())
}

/// The parts of a resource that are in force, in the order of their keys.
fn parts<'a>(world: &'a World, key: &str, kind: ChildKind) -> impl Iterator<Item = &'a Map<String, Value>> {
    let prefix = format!("{key}/{}/", kind.segment().to_ascii_lowercase());
    let end = prefix.clone();
    world
        .range(prefix..)
        .take_while(move |(key, _)| key.starts_with(&end))
        .filter_map(|(key, _)| in_force(world, key))
}

/// A packet on its way to one private address.
struct Packet<'a> {
    world: &'a World,
    probe: &'a Probe,
    destination: IpAddr,
    /// The ranges of the virtual network that the address is in.
    network: Vec<ipnet::IpNet>,
    /// The application security groups of the address, in lower case.
    groups: Vec<String>,
}

impl Judge for ArmJudge {
    fn allows(&self, world: &World, probe: &Probe) -> bool {
        let Some(machine) = in_force_of_id(world, &probe.machine) else {
            return false;
        };
        interfaces_of(machine).into_iter().any(|interface| {
            let key = interface.to_ascii_lowercase();
            let Some(properties) = in_force(world, &key) else {
                return false;
            };
            parts(world, &key, ChildKind::IpConfiguration)
                .any(|address| reaches(world, probe, properties, address))
        })
    }
}

fn reaches(
    world: &World,
    probe: &Probe,
    interface: &Map<String, Value>,
    address: &Map<String, Value>,
) -> bool {
    let Some(destination) = at(address, &["privateIPAddress"]).and_then(|text| text.parse::<IpAddr>().ok())
    else {
        return false;
    };
    if destination.is_ipv4() != probe.source.is_ipv4() {
        return false;
    }
    let subnet_id = at(address, &["subnet", "id"]);
    let subnet = subnet_id.and_then(|id| in_force_of_id(world, id));
    let network = subnet_id
        .and_then(Id::parse)
        .and_then(|id| in_force(world, &id.parent().key()))
        .map(address_space)
        .unwrap_or_default();
    let groups = ids_in(address.get("applicationSecurityGroups"))
        .into_iter()
        .map(str::to_ascii_lowercase)
        .collect();
    let packet = Packet {
        world,
        probe,
        destination,
        network,
        groups,
    };
    let subnet_group = subnet.and_then(|subnet| at(subnet, &["networkSecurityGroup", "id"]));
    let interface_group = at(interface, &["networkSecurityGroup", "id"]);
    [subnet_group, interface_group]
        .into_iter()
        .flatten()
        .all(|group| packet.passes(&group.to_ascii_lowercase()))
}

impl Packet<'_> {
    /// Whether an NSG lets the packet in. One that is not there yet says nothing.
    fn passes(&self, group: &str) -> bool {
        if in_force(self.world, group).is_none() {
            return true;
        }
        let defaults = rule::defaults();
        let mut rules: Vec<&Map<String, Value>> = parts(self.world, group, ChildKind::SecurityRule)
            .chain(defaults.iter().map(|(_, properties)| properties))
            .filter(|rule| is(rule, "direction", "Inbound"))
            .collect();
        rules.sort_by_key(|rule| rule.get("priority").and_then(Value::as_i64));
        rules
            .into_iter()
            .find(|rule| self.matches(rule))
            .is_some_and(|rule| is(rule, "access", "Allow"))
    }

    fn matches(&self, rule: &Map<String, Value>) -> bool {
        let protocol = match self.probe.protocol {
            Protocol::Tcp => "Tcp",
            Protocol::Udp => "Udp",
        };
        let denies = is(rule, "access", "Deny");
        let covers = |single: &str, list: &str, wanted: &dyn Fn((u16, u16)) -> bool| {
            rule::text(rule, single)
                .into_iter()
                .chain(rule::texts(rule, list))
                .filter_map(rule::ports)
                .any(wanted)
        };
        let port = self.probe.port;
        (is(rule, "protocol", "*") || is(rule, "protocol", protocol))
            && covers("destinationPortRange", "destinationPortRanges", &|(from, to)| (from..=to).contains(&port))
            // The source port is the sender's to choose: a deny for some leaves the others.
            && covers("sourcePortRange", "sourcePortRanges", &|(from, to)| !denies || (from <= 1 && to == u16::MAX))
            && self.side(rule, "source", self.probe.source)
            && self.side(rule, "destination", self.destination)
    }

    fn side(&self, rule: &Map<String, Value>, side: &str, address: IpAddr) -> bool {
        let prefixes = rule::text(rule, &format!("{side}AddressPrefix"))
            .into_iter()
            .chain(rule::texts(rule, &format!("{side}AddressPrefixes")))
            .any(|prefix| self.prefix(prefix, address));
        prefixes
            || ids_in(rule.get(&format!("{side}ApplicationSecurityGroups")))
                .into_iter()
                .any(|group| {
                    let group = group.to_ascii_lowercase();
                    if side == "destination" {
                        self.groups.contains(&group)
                    } else {
                        self.member(&group, address)
                    }
                })
    }

    fn prefix(&self, prefix: &str, address: IpAddr) -> bool {
        let inside = || self.network.iter().any(|net| net.contains(&address)) || address == LOAD_BALANCER;
        match prefix.to_ascii_lowercase().as_str() {
            "*" => true,
            "virtualnetwork" => inside(),
            "azureloadbalancer" => address == LOAD_BALANCER,
            "internet" => !inside() && !is_private(address),
            _ => rule::network(prefix).is_some_and(|net| net.contains(&address)),
        }
    }

    /// Whether an address belongs to an interface in an application security group.
    fn member(&self, group: &str, address: IpAddr) -> bool {
        let segment = format!("/{}/", ChildKind::IpConfiguration.segment().to_ascii_lowercase());
        self.world
            .keys()
            .filter(|key| key.contains(&segment))
            .filter_map(|key| in_force(self.world, key))
            .any(|properties| {
                at(properties, &["privateIPAddress"]).and_then(|text| text.parse().ok()) == Some(address)
                    && ids_in(properties.get("applicationSecurityGroups"))
                        .iter()
                        .any(|held| held.eq_ignore_ascii_case(group))
            })
    }
}

fn is(rule: &Map<String, Value>, member: &str, word: &str) -> bool {
    rule::text(rule, member).is_some_and(|text| text.eq_ignore_ascii_case(word))
}

/// Addresses that the tag `Internet` leaves out: it is the space outside the network, reachable from the
/// public internet.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unique_local() || address.is_loopback() || address.is_unicast_link_local()
        }
    }
}
