//! Whether a packet reaches a machine: subnet NSG and NIC NSG, priority order, default rules included.
//!
//! Works on the truth log alone, and knows what is in force from what is only shown. "Network security
//! groups" (learn.microsoft.com): inbound, the subnet's group is asked first, then the interface's; each
//! must allow; where neither exists the packet passes.
//!
//! A route of the subnet that leads back to the sender through an Azure Firewall puts that firewall in the way:
//! routed packets need its network rules, public ones a public address of the interface. Besides, any firewall
//! of the same network, or on the subnet's routes, may translate packets to the machine (`path.rs`); they come
//! from the firewall's subnet then, also when it translates them to a load balancer's frontend that leads on to the
//! machine.
//!
//! Not modelled: peered networks (for `VirtualNetwork`), the ranges of service tags that
//! [`super::ArmOptions::service_tags`] does not give (they hold no address), source ports that rules of the same NSG carve up (an allow for some source ports opens), and
//! that a Standard public address takes nothing in where there is no NSG at all.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::check::address_space;
use super::default_rule;
use super::id::{ChildKind, Id};
use super::load_balancer;
use super::path::{self, Firewall, ParentsNat, Passing};
use super::routing;
use super::rule;
use super::service_tag;
use super::state::{at, ids_in, interfaces_of};
use crate::truth::{Judge, Probe, Protocol, World};

/// The source of Azure's health probes (learn.microsoft.com, "What is IP address 168.63.129.16?").
const LOAD_BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(168, 63, 129, 16));

/// Judges probes of Azure machines.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArmJudge {
    /// How it reads what Microsoft's pages do not agree on.
    pub parents: ParentsNat,
}

/// What is in force of an entry of the truth log.
pub(super) fn in_force<'a>(world: &'a World, key: &str) -> Option<&'a Map<String, Value>> {
    let entry = world.get(key)?;
    entry
        .get("inForce")
        .unwrap_or_else(|| entry.get("properties").unwrap_or(&Value::Null))
        .as_object()
}

pub(super) fn in_force_of_id<'a>(world: &'a World, id: &str) -> Option<&'a Map<String, Value>> {
    in_force(world, &id.to_ascii_lowercase())
}

/// The parts of a resource that are in force, in the order of their keys.
pub(super) fn parts<'a>(
    world: &'a World,
    key: &str,
    kind: ChildKind,
) -> impl Iterator<Item = &'a Map<String, Value>> + use<'a> {
    let prefix = format!("{key}/{}/", kind.segment().to_ascii_lowercase());
    let end = prefix.clone();
    world
        .range(prefix..)
        .take_while(move |(key, _)| key.starts_with(&end))
        .filter_map(|(key, _)| in_force(world, key))
}

/// Whether an address is in the ranges of a service tag, as the simulator was told them.
pub(super) fn tag_holds(world: &World, tag: &str, address: IpAddr) -> bool {
    in_force(world, &service_tag::key(tag)).is_some_and(|tag| {
        rule::texts(tag, "addressPrefixes")
            .into_iter()
            .filter_map(rule::network)
            .any(|net| net.contains(&address))
    })
}

/// A packet on its way to one private address.
#[derive(Clone)]
struct Packet<'a> {
    world: &'a World,
    source: IpAddr,
    port: u16,
    protocol: Protocol,
    destination: IpAddr,
    /// The ranges of the virtual network that the address is in.
    network: Vec<ipnet::IpNet>,
    /// The application security groups of the address, in lower case.
    groups: Vec<String>,
    /// The NSGs in the way, in lower case.
    security_groups: Vec<String>,
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
                .any(|address| reaches(world, probe, properties, address, Doors::Open(self.parents)))
        })
    }

    fn hangs_on(&self, world: &World, probe: &Probe) -> Option<Vec<String>> {
        hangs_on(world, probe)
    }
}

/// The machine, its interfaces, their networks with the subnets, the NSGs of both, and the service tags in their
/// rules. Anything may matter behind a firewall or routes, and where a rule's source is a group of interfaces.
fn hangs_on(world: &World, probe: &Probe) -> Option<Vec<String>> {
    let machine = probe.machine.to_ascii_lowercase();
    let mut keys = vec![machine.clone()];
    let mut groups = Vec::new();
    let Some(properties) = in_force(world, &machine) else {
        return Some(keys);
    };
    for interface in interfaces_of(properties) {
        let key = interface.to_ascii_lowercase();
        if let Some(properties) = in_force(world, &key) {
            groups.extend(at(properties, &["networkSecurityGroup", "id"]).map(str::to_ascii_lowercase));
        }
        for address in parts(world, &key, ChildKind::IpConfiguration) {
            let Some(subnet) = at(address, &["subnet", "id"]) else {
                continue;
            };
            let network = Id::parse(subnet)?.parent().key();
            let properties = in_force_of_id(world, subnet);
            let table = properties.and_then(|subnet| at(subnet, &["routeTable", "id"]));
            let housed = format!("{network}/subnets/azurefirewallsubnet");
            if table.is_some() || in_force(world, &housed).is_some() {
                return None;
            }
            let group = properties.and_then(|subnet| at(subnet, &["networkSecurityGroup", "id"]));
            groups.extend(group.map(str::to_ascii_lowercase));
            keys.push(network);
        }
        keys.push(key);
    }
    for group in groups {
        for rule in parts(world, &group, ChildKind::SecurityRule) {
            if !ids_in(rule.get("sourceApplicationSecurityGroups")).is_empty() {
                return None;
            }
            for side in ["source", "destination"] {
                let prefixes = rule::text(rule, &format!("{side}AddressPrefix"))
                    .into_iter()
                    .chain(rule::texts(rule, &format!("{side}AddressPrefixes")));
                keys.extend(
                    prefixes
                        .filter(|prefix| rule::network(prefix).is_none())
                        .map(service_tag::key),
                );
            }
        }
        keys.push(group);
    }
    Some(keys)
}

/// Whether packets that are sent to a firewall's public addresses count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doors {
    Open(ParentsNat),
    /// Only what is sent to the interface's own addresses does.
    Shut,
}

fn reaches(
    world: &World,
    probe: &Probe,
    interface: &Map<String, Value>,
    address: &Map<String, Value>,
    doors: Doors,
) -> bool {
    let Some(destination) = at(address, &["privateIPAddress"]).and_then(|text| text.parse::<IpAddr>().ok())
    else {
        return false;
    };
    let subnet_id = at(address, &["subnet", "id"]);
    let subnet = subnet_id.and_then(|id| in_force_of_id(world, id));
    let network_key = subnet_id.and_then(Id::parse).map(|id| id.parent().key());
    let network = network_key
        .as_deref()
        .and_then(|key| in_force(world, key))
        .map(address_space)
        .unwrap_or_default();
    let packet = Packet {
        world,
        source: probe.source,
        port: probe.port,
        protocol: probe.protocol,
        destination,
        groups: ids_in(address.get("applicationSecurityGroups"))
            .into_iter()
            .map(str::to_ascii_lowercase)
            .collect(),
        security_groups: subnet
            .and_then(|subnet| at(subnet, &["networkSecurityGroup", "id"]))
            .into_iter()
            .chain(at(interface, &["networkSecurityGroup", "id"]))
            .map(str::to_ascii_lowercase)
            .collect(),
        network,
    };
    let table = subnet
        .and_then(|subnet| at(subnet, &["routeTable", "id"]))
        .map(str::to_ascii_lowercase)
        .filter(|table| in_force(world, table).is_some());
    let firewalls = firewalls_near(world, network_key.as_deref(), table.as_deref(), doors);
    let appliance = |address: IpAddr| {
        let table = table.as_deref()?;
        routing::appliance(parts(world, table, ChildKind::Route), &packet.network, address)
    };
    // A balancer sends on what comes to its frontend, and leaves the source as it is.
    let entries = |address| {
        let all = load_balancer::entries(world, address);
        let led = move |entry: &load_balancer::Entry| {
            Some((entry.front, entry.leading_to(probe.port, probe.protocol)?))
        };
        all.into_iter().filter_map(move |entry| led(&entry))
    };
    let way_back = appliance(probe.source);
    let between = firewalls
        .iter()
        .find(|firewall| Some(firewall.private) == way_back);
    let from = |firewall: &Firewall<'_>| {
        firewall.instances().into_iter().any(|source| {
            Packet {
                source,
                ..packet.clone()
            }
            .passes_all()
        })
    };
    let direct = destination.is_ipv4() == probe.source.is_ipv4()
        && match between {
            None => packet.passes_all(),
            Some(firewall) if is_private(probe.source) => std::iter::once((destination, probe.port))
                .chain(entries(address))
                .any(
                    |(to, port)| match firewall.routes(probe.source, to, port, probe.protocol) {
                        Some(Passing::Seen) => packet.passes_all(),
                        Some(Passing::Hidden) => from(firewall),
                        None => false,
                    },
                ),
            Some(_) => at(address, &["publicIPAddress", "id"]).is_some() && packet.passes_all(),
        };
    // From where the default route leads out, the firewall of another network is known to be connected.
    let way_out = appliance(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    direct
        || firewalls
            .iter()
            .filter(|firewall| {
                doors != Doors::Shut
                    && (Some(&firewall.network) == network_key.as_ref() || Some(firewall.private) == way_out)
            })
            .any(|firewall| {
                let led = firewall.translates(probe, destination)
                    || entries(address).any(|(front, port)| {
                        let probe = Probe {
                            port,
                            ..probe.clone()
                        };
                        firewall.translates(&probe, front)
                    });
                led && from(firewall)
            })
}

/// The machine that has the public address itself, where it lets the packet in.
fn straight(
    world: &World,
    source: IpAddr,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Option<(String, u16)> {
    let own = |configuration: &Map<String, Value>| {
        at(configuration, &["publicIPAddress", "id"])
            .and_then(|id| in_force_of_id(world, id))
            .and_then(|public| at(public, &["ipAddress"])?.parse().ok())
            == Some(address)
    };
    let machines = world
        .keys()
        .filter(|key| key.contains("/providers/microsoft.compute/virtualmachines/"));
    let mut machines = machines.filter(|machine| {
        let probe = Probe {
            machine: (*machine).clone(),
            source,
            port,
            protocol,
        };
        let interfaces = in_force(world, machine).map(interfaces_of).unwrap_or_default();
        interfaces.into_iter().any(|interface| {
            let key = interface.to_ascii_lowercase();
            in_force(world, &key).is_some_and(|properties| {
                parts(world, &key, ChildKind::IpConfiguration)
                    .any(|one| own(one) && reaches(world, &probe, properties, one, Doors::Shut))
            })
        })
    });
    machines.next().map(|machine| (machine.clone(), port))
}

/// The firewalls that may matter: none, and the log is not searched, where the network has no subnet for one
/// and the subnet no routes.
fn firewalls_near<'a>(
    world: &'a World,
    network: Option<&str>,
    table: Option<&str>,
    doors: Doors,
) -> Vec<Firewall<'a>> {
    let parents = match doors {
        Doors::Open(parents) => parents,
        Doors::Shut => ParentsNat::default(),
    };
    let housed = network.is_some_and(|network| {
        let subnet = format!("{network}/subnets/azurefirewallsubnet");
        in_force(world, &subnet).is_some()
    });
    if housed || table.is_some() {
        path::firewalls(world, parents).collect()
    } else {
        Vec::new()
    }
}

impl ArmJudge {
    /// The machine (its id in lower case) and port that a packet to a public address and port comes to, where every
    /// hop lets it through: a firewall's, which may translate it, or a machine's own.
    pub fn lands(
        &self,
        world: &World,
        source: IpAddr,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<(String, u16)> {
        let Some(firewall) = path::firewalls(world, self.parents)
            .find(|firewall| firewall.public.contains(&address) || firewall.private == address)
        else {
            return straight(world, source, address, port, protocol);
        };
        let (destination, port) = firewall.lands(source, address, port, protocol)?;
        // Of the machine's own, or of a balancer's frontend.
        let inner = |configuration: &Map<String, Value>| {
            if at(configuration, &["privateIPAddress"]).and_then(|text| text.parse().ok())
                == Some(destination)
            {
                return Some(port);
            }
            let entries = load_balancer::entries(world, configuration);
            let mut led = entries.iter().filter(|entry| entry.front == destination);
            led.find_map(|entry| entry.leads(port, protocol))
        };
        let machines = world
            .keys()
            .filter(|key| key.contains("/providers/microsoft.compute/virtualmachines/"));
        machines
            .flat_map(|key| {
                let interfaces = in_force(world, key).map(interfaces_of).unwrap_or_default();
                let ports = interfaces.into_iter().flat_map(|interface| {
                    parts(world, &interface.to_ascii_lowercase(), ChildKind::IpConfiguration)
                });
                ports.filter_map(inner).map(move |port| (key, port))
            })
            .find(|(machine, port)| {
                let probe = Probe {
                    machine: (*machine).clone(),
                    source,
                    port: *port,
                    protocol,
                };
                self.allows(world, &probe)
            })
            .map(|(machine, port)| (machine.clone(), port))
    }
}

impl Packet<'_> {
    /// Whether every NSG in the way lets the packet in.
    fn passes_all(&self) -> bool {
        self.security_groups.iter().all(|group| self.passes(group))
    }

    /// Whether an NSG lets the packet in. One that is not there yet says nothing.
    fn passes(&self, group: &str) -> bool {
        if in_force(self.world, group).is_none() {
            return true;
        }
        let defaults = default_rule::all();
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
        let protocol = match self.protocol {
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
        let port = self.port;
        (is(rule, "protocol", "*") || is(rule, "protocol", protocol))
            && covers("destinationPortRange", "destinationPortRanges", &|(from, to)| (from..=to).contains(&port))
            // The source port is the sender's to choose: a deny for some leaves the others.
            && covers("sourcePortRange", "sourcePortRanges", &|(from, to)| !denies || (from <= 1 && to == u16::MAX))
            && self.side(rule, "source", self.source)
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
            _ => match rule::network(prefix) {
                Some(net) => net.contains(&address),
                None => tag_holds(self.world, prefix, address),
            },
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
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unique_local() || address.is_loopback() || address.is_unicast_link_local()
        }
    }
}
