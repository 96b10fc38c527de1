//! Finds the firewalls of a subscription, and which interfaces are behind which.
//!
//! An interface is behind a firewall that a route of its subnet leads to; or, where it has no public address of its
//! own, that a NAT rule leads to it from. A firewall in another subscription is not found.
//!
//! Sources: Azure REST reference, Azure Firewalls, Firewall Policies, Route Tables (`Route`, `RouteNextHopType`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use postern_core::{
    approach::{Approach, Exposure, Leg, Room, Routed},
    enforcer::EnforceError,
    firewall::{Action, Endpoint, Firewall, FirewallRule, RuleCollection},
    mark::Installation,
    net::{Ports, Protocol},
    point::PointRef,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{PublicAddress, reading::list};
use crate::{
    arm::{Arm, ArmId, Pages},
    firewall::{
        self, Hiding,
        capacity::{DESTINATIONS, destinations, public_addresses as public_addresses_of},
        policy_levels,
    },
    observe::Reference,
    plan::Label,
};

/// A route table, as far as it says where packets go next.
#[derive(Debug, Deserialize)]
pub(super) struct RouteTable {
    id: String,
    #[serde(default)]
    properties: RouteTableProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RouteTableProperties {
    routes: Vec<Route>,
}

#[derive(Debug, Deserialize)]
struct Route {
    #[serde(default)]
    properties: RouteProperties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RouteProperties {
    address_prefix: String,
    next_hop_type: String,
    next_hop_ip_address: Option<String>,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy)]
struct Hop {
    prefix: IpNet,
    /// The appliance that is next.
    appliance: Option<IpAddr>,
    /// Whether packets come as they would without an appliance.
    is_straight: bool,
}

impl Hop {
    fn read(route: &RouteProperties) -> Option<Self> {
        // A service tag for a prefix names addresses of Azure's own, which no client has.
        let prefix: IpNet = route.address_prefix.parse().ok()?;
        let next = route.next_hop_ip_address.as_deref();
        Some(Self {
            prefix: prefix.trunc(),
            appliance: next.and_then(|text| text.parse().ok()),
            is_straight: ["VnetLocal", "VirtualNetworkGateway", "Internet"]
                .iter()
                .any(|word| word.eq_ignore_ascii_case(&route.next_hop_type)),
        })
    }
}

/// A subnet, as far as it says which ways lead out of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Ways {
    pub(super) prefixes: Vec<IpNet>,
    /// The route table's id, lower case.
    pub(super) table: Option<String>,
}

/// The firewalls of a subscription, and the routes.
#[derive(Debug, Default)]
pub(super) struct Edges {
    edges: Vec<Edge>,
    /// By the route table's id, lower case.
    tables: BTreeMap<String, Vec<Hop>>,
}

#[derive(Debug)]
struct Edge {
    point: PointRef,
    firewall: Firewall,
    /// With the rules alone that no installation wrote.
    foreign: Firewall,
    hiding: Hiding,
    marked_by: BTreeSet<Installation>,
    /// How many more ports it can map.
    left: u16,
}

/// More than this is left at most firewalls, and said of none: it changes with every grant, and one grant takes less.
const PLENTY: u16 = 64;

/// More networks that network rules let through are not kept with a machine, and more parts of such rules not compared.
const MOST_ROUTED: usize = 256;

/// What is read of firewalls and of what is around them, as far as it is read.
#[derive(Debug, Default)]
pub(super) struct Listed {
    firewalls: Pages<Value>,
    tables: Pages<RouteTable>,
    balancers: Pages<Value>,
    policies: Policies,
}

/// By the policy's id, lower case.
type Policies = BTreeMap<String, Policy>;

/// What was read of a policy; nothing where it may not be read.
#[derive(Debug, Default)]
struct Policy {
    /// Its document, and those of the policies that it inherits from, the nearest first.
    documents: Vec<Value>,
    /// Its groups, and those that it inherits, the nearest parent's first.
    levels: Vec<Vec<Value>>,
}

/// What was read of firewalls, when all is.
#[derive(Debug, Default)]
pub(super) struct Known {
    firewalls: Vec<Value>,
    tables: Vec<RouteTable>,
    pub(super) balancers: Vec<Value>,
    policies: Policies,
}

impl Listed {
    /// What may not be read is asked for again.
    pub(super) fn take_up(&mut self) {
        self.firewalls.take_up();
        self.tables.take_up();
        self.balancers.take_up();
        self.policies.retain(|_, policy| !policy.documents.is_empty());
    }

    /// Lists firewalls, routes and load balancers, and reads the rules of the policies, as far as that is not done yet.
    /// Where that is not allowed, there are none: who guards NSGs alone needs no more rights than before.
    pub(super) async fn go_on(&mut self, arm: &Arm, subscription: &str) -> Result<(), EnforceError> {
        allowed(arm, subscription, "azureFirewalls", &mut self.firewalls).await?;
        if self.firewalls.items().is_empty() {
            return Ok(());
        }
        allowed(arm, subscription, "routeTables", &mut self.tables).await?;
        // Those that a machine names and that are not among these are known as unread.
        allowed(arm, subscription, "loadBalancers", &mut self.balancers).await?;
        for id in self.firewalls.items().iter().filter_map(policy_of) {
            if self.policies.contains_key(&id) {
                continue;
            }
            let policy = ArmId::parse(&id).map_err(|error| EnforceError::Malformed(error.to_string()))?;
            let read = match policy_levels(arm, &policy).await {
                Ok((levels, documents)) => Policy { documents, levels },
                Err(error @ (EnforceError::Forbidden { .. } | EnforceError::Gone { .. })) => {
                    tracing::warn!(policy = %policy, %error, "the rules of a firewall policy are not read");
                    Policy::default()
                }
                Err(error) => return Err(error),
            };
            self.policies.insert(id, read);
        }
        Ok(())
    }

    pub(super) fn into_read(self) -> Known {
        Known {
            firewalls: self.firewalls.into_items(),
            tables: self.tables.into_items(),
            balancers: self.balancers.into_items(),
            policies: self.policies,
        }
    }
}

async fn allowed<T: DeserializeOwned>(
    arm: &Arm,
    subscription: &str,
    kind: &str,
    pages: &mut Pages<T>,
) -> Result<(), EnforceError> {
    match list(arm, subscription, &format!("Microsoft.Network/{kind}"), pages).await {
        Err(error @ EnforceError::Forbidden { .. }) => {
            tracing::warn!(%error, "firewalls, or what is around them, are left aside");
            pages.leave_aside();
            Ok(())
        }
        read => read,
    }
}

fn policy_of(firewall: &Value) -> Option<String> {
    let id = firewall.pointer("/properties/firewallPolicy/id")?.as_str()?;
    Some(id.to_lowercase())
}

impl Edges {
    /// `public` and `subnets` by lower-case ids; `is_listed` is asked of those that a firewall names.
    pub(super) fn new(
        listed: Known,
        public: &BTreeMap<String, IpAddr>,
        subnets: &BTreeMap<String, Ways>,
        is_listed: impl Fn(&str) -> Result<(), EnforceError>,
    ) -> Result<Self, EnforceError> {
        let mut edges = Vec::new();
        for raw in &listed.firewalls {
            edges.extend(edge(raw, &listed.policies, public, subnets, &is_listed)?);
        }
        let tables = listed.tables.into_iter().map(|table| {
            let routes = table.properties.routes.iter();
            let hops = routes.filter_map(|route| Hop::read(&route.properties));
            (table.id.to_lowercase(), hops.collect())
        });
        Ok(Self {
            tables: tables.collect(),
            edges,
        })
    }

    /// How packets get to an interface with these addresses, if a firewall stands before it. `space` is that of its
    /// virtual network, whose members reach one another without it, unless a route says otherwise.
    pub(super) fn approach(
        &self,
        subnet: Option<&Ways>,
        space: &[IpNet],
        addresses: &[IpAddr],
        has_public: bool,
    ) -> Option<Approach> {
        let address = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })?;
        let none = Vec::new();
        let routes = subnet
            .and_then(|subnet| self.tables.get(subnet.table.as_ref()?))
            .unwrap_or(&none);
        let next_to = |edge: &&Edge| routes.iter().any(|hop| edge.is_next(hop));
        let leads = |edge: &&Edge| !has_public && edge.leads(address).next().is_some();
        let edge = self
            .edges
            .iter()
            .find(next_to)
            .or_else(|| self.edges.iter().find(leads))?;
        let mut legs: Vec<Leg> = routes
            .iter()
            .map(|hop| Leg {
                prefix: hop.prefix,
                through: edge.is_next(hop),
                elsewhere: !hop.is_straight && !edge.is_next(hop),
            })
            .collect();
        for prefix in space {
            if legs.iter().all(|leg| leg.prefix != *prefix) {
                legs.push(Leg {
                    prefix: *prefix,
                    through: false,
                    elsewhere: false,
                });
            }
        }
        legs.sort();
        Some(Approach {
            point: edge.point.clone(),
            firewall: edge.firewall.id.clone(),
            address,
            doors: edge.doors(address),
            inside: edge.firewall.inside.clone(),
            legs,
            fronts: Vec::new(),
            unread: Vec::new(),
            exposures: Vec::new(),
            routed: edge.routed(address),
            room: (edge.left < PLENTY).then(|| Room {
                left: edge.left,
                mapped: edge.mapped(address),
            }),
        })
    }
}

impl Edges {
    /// Whether routes are known by a subnet's table: there are no firewalls, or it is listed.
    pub(super) fn knows_routes(&self, subnet: &Ways) -> bool {
        let mut table = subnet.table.iter();
        self.edges.is_empty() || table.all(|table| self.tables.contains_key(table))
    }

    /// The firewalls and policies where a mark stands, and whose.
    pub(super) fn marks(&self) -> impl Iterator<Item = (PointRef, Installation)> {
        self.edges.iter().flat_map(|edge| {
            let installations = edge.marked_by.iter();
            installations.map(|installation| (edge.point.clone(), installation.clone()))
        })
    }

    /// The NAT rules of others that lead to the machine. Those of another installation change with its grants, and are
    /// left to who reads the firewall.
    pub(super) fn exposures(&self, approach: &Approach) -> Vec<Exposure> {
        let Some(edge) = self
            .edges
            .iter()
            .find(|edge| edge.firewall.id == approach.firewall)
        else {
            return Vec::new();
        };
        let own = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .filter_map(|protocol| Ports::range(protocol, 1, u16::MAX).ok())
            .map(|ports| (approach.address.into(), ports, None));
        let fronts = approach
            .fronts
            .iter()
            .map(|front| (front.address, front.ports, front.leads_to));
        let mut found = BTreeSet::new();
        for (address, ports, leads_to) in own.chain(fronts) {
            if !edge.foreign.leads_to(address) {
                continue;
            }
            for door in edge.foreign.doors(address, ports) {
                let port = leads_to.unwrap_or(door.leads_to);
                found.extend(Ports::one(door.protocol, port).ok().map(|ports| Exposure {
                    rule: door.rule.rule,
                    ports,
                    sources: door.sources,
                    certain: door.certain,
                }));
            }
        }
        found.into_iter().collect()
    }
}

impl Edge {
    fn is_next(&self, hop: &Hop) -> bool {
        let own = &self.firewall.private_addresses;
        hop.appliance.is_some_and(|next| own.contains(&next))
    }

    fn rules(&self) -> impl Iterator<Item = &FirewallRule> {
        self.firewall.collections.iter().flat_map(|one| &one.rules)
    }

    /// The rules that translate to the address.
    fn leads(&self, machine: Ipv4Addr) -> impl Iterator<Item = &FirewallRule> {
        self.rules().filter(
            move |rule| matches!(rule.action, Action::Translate { address: Some(to), .. } if to == machine),
        )
    }

    /// What others' network rules let through to the machine as it was sent, where that is known and not too much.
    fn routed(&self, machine: Ipv4Addr) -> Option<Vec<Routed>> {
        if self.hiding.is_untold() || self.hiding.before(machine.into()) {
            return None;
        }
        let mut routed = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let ports = Ports::range(protocol, 1, u16::MAX).ok()?;
            routed.extend(self.foreign.routed(machine.into(), ports, MOST_ROUTED)?);
        }
        let networks: usize = routed.iter().map(|one| one.sources.len()).sum();
        (networks <= MOST_ROUTED).then_some(routed)
    }

    /// The machine's ports that a rule, ours or others', leads to from one port of the door that grants get.
    fn mapped(&self, machine: Ipv4Addr) -> Vec<Ports> {
        let doors = self.doors(machine);
        let Some(door) = doors.first() else {
            return Vec::new();
        };
        let mut mapped = BTreeSet::new();
        for rule in self.leads(machine) {
            let matches = &rule.matches;
            let Action::Translate { port, .. } = rule.action else {
                continue;
            };
            let at_door =
                |one: &Endpoint| matches!(one, Endpoint::Range(first, last) if first == door && last == door);
            let at_one = matches!(matches.ports.as_slice(), [one] if one.first == one.last)
                && matches.destinations.iter().any(at_door);
            for protocol in matches.protocols.iter().filter(|_| at_one) {
                mapped.insert((*protocol, port));
            }
        }
        let ports = mapped.into_iter();
        ports
            .filter_map(|(protocol, port)| Ports::one(protocol, port).ok())
            .collect()
    }

    /// The public addresses, first those where a rule leads to the machine: people know them, and what they were told
    /// stays.
    fn doors(&self, machine: Ipv4Addr) -> Vec<IpAddr> {
        let known = |door: &IpAddr| {
            self.leads(machine).any(|rule| {
                rule.matches
                    .destinations
                    .iter()
                    .any(|one| matches!(one, Endpoint::Range(first, last) if first <= door && door <= last))
            })
        };
        let mut doors: Vec<IpAddr> = self
            .firewall
            .public_addresses
            .iter()
            .copied()
            .filter(IpAddr::is_ipv4)
            .collect();
        doors.sort_by_key(|door| (!known(door), *door));
        doors
    }
}

fn edge(
    raw: &Value,
    policies: &Policies,
    public: &BTreeMap<String, IpAddr>,
    subnets: &BTreeMap<String, Ways>,
    is_listed: &impl Fn(&str) -> Result<(), EnforceError>,
) -> Result<Option<Edge>, EnforceError> {
    let (mut doors, mut inside) = (Vec::new(), BTreeSet::new());
    let configurations = raw
        .pointer("/properties/ipConfigurations")
        .and_then(Value::as_array);
    for configuration in configurations.into_iter().flatten() {
        let reference = |member: &str| {
            let reference = configuration.pointer(&format!("/properties/{member}"))?;
            let reference: Reference = Reference::deserialize(reference).ok()?;
            Some(reference.id.to_lowercase())
        };
        for id in ["publicIPAddress", "subnet"].into_iter().filter_map(reference) {
            is_listed(&id)?;
        }
        doors.extend(
            reference("publicIPAddress")
                .and_then(|id| public.get(&id))
                .copied(),
        );
        if let Some(ways) = reference("subnet").and_then(|id| subnets.get(&id)) {
            inside.extend(ways.prefixes.iter().copied());
        }
    }
    doors.sort_unstable();
    let mut firewall = firewall::firewall(raw, doors, inside.into_iter().collect())?;
    let policy = policy_of(raw);
    let id = policy.as_deref().unwrap_or(&firewall.id);
    let Some(point) = ArmId::parse(id).ok().and_then(|id| id.point()) else {
        tracing::warn!(firewall = firewall.id, "a firewall's id cannot be read");
        return Ok(None);
    };
    let policy = policy.as_ref().and_then(|id| policies.get(id));
    if let Some(policy) = policy {
        firewall.collections = (0_u8..)
            .zip(&policy.levels)
            .flat_map(|(inherited, groups)| {
                groups.iter().flat_map(move |raw| firewall::group(raw, inherited))
            })
            .collect();
    }
    let marked_by = firewall
        .collections
        .iter()
        .filter(|collection| collection.inherited == 0)
        .flat_map(|collection| &collection.rules)
        .filter_map(|rule| Some(Label::parse(rule.description.as_deref()?)?.installation().clone()))
        .collect();
    let taken = destinations(&firewall.collections)
        .len()
        .saturating_add(public_addresses_of(raw));
    let left = DESTINATIONS.saturating_sub(taken);
    let foreign = Firewall {
        collections: firewall.collections.iter().map(foreign).collect(),
        ..firewall.clone()
    };
    let hiding = policy.map_or_else(
        || Hiding::of_firewall(raw),
        |policy| {
            let documents: Vec<&Value> = policy.documents.iter().collect();
            Hiding::of_policy(&documents, &policy.levels)
        },
    );
    Ok(Some(Edge {
        foreign,
        hiding,
        left: left.try_into().unwrap_or(PLENTY),
        point,
        firewall,
        marked_by,
    }))
}

/// Its rules without a mark.
fn foreign(collection: &RuleCollection) -> RuleCollection {
    let is_foreign = |rule: &&FirewallRule| rule.description.as_deref().and_then(Label::parse).is_none();
    RuleCollection {
        rules: collection.rules.iter().filter(is_foreign).cloned().collect(),
        ..collection.clone()
    }
}

/// The public addresses by lower-case ids.
pub(super) fn public_addresses(all: Vec<PublicAddress>) -> BTreeMap<String, IpAddr> {
    all.into_iter()
        .filter_map(|address| {
            Some((
                address.id.to_lowercase(),
                address.properties.ip_address?.parse().ok()?,
            ))
        })
        .collect()
}
