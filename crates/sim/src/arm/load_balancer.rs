//! Load balancers: what the provider refuses of them, and which packets they send on to which addresses.
//!
//! Shapes from the published specification (Azure/azure-rest-api-specs, Microsoft.Network 2024-05-01,
//! `loadBalancer.json`). "What is Azure Load Balancer?" and "Load Balancer components" (learn.microsoft.com): a
//! load-balancing rule maps a frontend's port to a port of every member of a pool, port 0 with protocol `All` every port to
//! itself; an inbound NAT rule maps a port to one member. Packets keep their source. With `enableFloatingIP` the port
//! stays. Codes are made up in the provider's manner where a refusal has no published one.
//!
//! Not modelled: probes (every member is healthy), outbound rules, inbound NAT pools, NAT rules of whole pools, tunnels,
//! cross-region balancers, and `backendIPConfigurations` in answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::body::{bad_request, parts};
use super::check::{Check, subnet_ranges};
use super::firewall::named;
use super::id::{ChildKind, Id, Kind};
use super::judge::in_force;
use super::refusal::ArmError;
use super::state::{Resource, at, ids_in};
use crate::truth::{Protocol, World};

pub(super) const FRONTENDS: &str = "frontendIPConfigurations";
const POOLS: &str = "backendAddressPools";
const RULES: &str = "loadBalancingRules";
const NAT: &str = "inboundNatRules";

/// The lists whose items an answer shows with ids.
pub(super) const LISTS: [&str; 4] = [FRONTENDS, POOLS, RULES, NAT];

/// The members of an IP configuration that name parts of balancers.
pub(super) const MEMBERSHIPS: [(&str, ChildKind); 2] = [
    ("loadBalancerBackendAddressPools", ChildKind::BackendAddressPool),
    ("loadBalancerInboundNatRules", ChildKind::InboundNatRule),
];

fn refuse(code: &str, text: String) -> ArmError {
    ArmError::network(400, code, text)
}

impl Check<'_> {
    /// What a written load balancer must be.
    pub(super) fn load_balancer(
        &self,
        existing: Option<&Resource>,
        properties: &mut Map<String, Value>,
    ) -> Result<(), ArmError> {
        let mut taken = BTreeSet::new();
        let mut frontends = Vec::new();
        for (name, mut properties) in parts(properties, FRONTENDS)?.unwrap_or_default() {
            let id = self.id.child(ChildKind::FrontendIpConfiguration, &name);
            let check = Check { id: &id, ..*self };
            let public = check.link(&mut properties, "publicIPAddress", Kind::PublicIpAddress, None)?;
            let subnet = check.link(
                &mut properties,
                "subnet",
                Kind::VirtualNetwork,
                Some(ChildKind::Subnet),
            )?;
            match (public, subnet) {
                (Some((address, _)), None) => check.address_unused(address)?,
                (None, Some((network, subnet))) => {
                    let part = subnet.child.as_ref().map_or("", |(_, name)| name.as_str());
                    let goal = network.child(part).and_then(|child| child.goal.as_deref());
                    let ranges = goal.map(subnet_ranges).unwrap_or_default();
                    let before = existing
                        .into_iter()
                        .flat_map(|existing| named(&existing.goal, FRONTENDS))
                        .find(|(other, _)| other.eq_ignore_ascii_case(&name))
                        .map(|(_, goal)| goal);
                    let address = check.private_address(&properties, before, &subnet, &ranges, &taken)?;
                    taken.insert(address);
                    properties.insert("privateIPAddress".to_owned(), json!(address.to_string()));
                }
                _ => {
                    let text = format!("Frontend {name} names either a subnet or a public address.");
                    return Err(refuse(
                        "LoadBalancerFrontendIPConfigMustReferenceSubnetOrPublicIP",
                        text,
                    ));
                }
            }
            frontends.push(json!({ "name": name, "properties": properties }));
        }
        let pools: Vec<Value> = parts(properties, POOLS)?
            .unwrap_or_default()
            .into_iter()
            .map(|(name, properties)| json!({ "name": name, "properties": properties }))
            .collect();
        properties.insert(FRONTENDS.to_owned(), Value::Array(frontends));
        properties.insert(POOLS.to_owned(), Value::Array(pools));
        for list in [RULES, NAT] {
            let mut kept = Vec::new();
            for (name, rule) in parts(properties, list)?.unwrap_or_default() {
                self.balancing(properties, list, &name, &rule)?;
                kept.push(json!({ "name": name, "properties": rule }));
            }
            properties.insert(list.to_owned(), Value::Array(kept));
        }
        Ok(())
    }

    /// A rule names a frontend of its own balancer, a rule of a pool a pool of it, and ports.
    fn balancing(
        &self,
        balancer: &Map<String, Value>,
        list: &str,
        name: &str,
        rule: &Map<String, Value>,
    ) -> Result<(), ArmError> {
        let own = |member: &str, list: &str, kind: ChildKind| {
            let found = named(balancer, list).into_iter().any(|(part, _)| {
                at(rule, &[member, "id"]).is_some_and(|id| is_part(self.id, kind, part, id))
            });
            let text = format!("{name} names no {member} of {}.", self.id.text());
            found
                .then_some(())
                .ok_or_else(|| refuse("InvalidResourceReference", text))
        };
        own(
            "frontendIPConfiguration",
            FRONTENDS,
            ChildKind::FrontendIpConfiguration,
        )?;
        if list == RULES {
            own("backendAddressPool", POOLS, ChildKind::BackendAddressPool)?;
        }
        let all = at(rule, &["protocol"]).is_some_and(|word| word.eq_ignore_ascii_case("All"));
        for member in ["frontendPort", "backendPort"] {
            // 0 to 65534, 0 for all ports together.
            let port = rule.get(member).and_then(Value::as_u64);
            if port.is_none_or(|port| port > 65534 || (port == 0) != all) {
                return Err(bad_request(format!("{name}: `{member}` is no port.")));
            }
        }
        Ok(())
    }

    /// What an IP configuration says of balancers: their parts must be there.
    pub(super) fn memberships(&self, properties: &Map<String, Value>) -> Result<(), ArmError> {
        for (member, kind) in MEMBERSHIPS {
            let list = if kind == ChildKind::InboundNatRule {
                NAT
            } else {
                POOLS
            };
            for text in ids_in(properties.get(member)) {
                let there = Id::parse(text).is_some_and(|id| {
                    self.state.get(&id).is_some_and(|balancer| {
                        named(&balancer.goal, list)
                            .into_iter()
                            .any(|(part, _)| is_part(&balancer.id, kind, part, text))
                    })
                });
                if !there {
                    let from = self.id.text();
                    let text = format!("Resource {text} referenced by resource {from} was not found.");
                    return Err(refuse("InvalidResourceReference", text));
                }
            }
        }
        Ok(())
    }
}

/// The private addresses of a balancer's frontends in a subnet.
pub(super) fn addresses<'r>(
    balancer: &'r Resource,
    subnet: &'r str,
) -> impl Iterator<Item = IpAddr> + use<'r> {
    named(&balancer.goal, FRONTENDS)
        .into_iter()
        .filter_map(move |(_, goal)| {
            at(goal, &["subnet", "id"]).filter(|id| id.eq_ignore_ascii_case(subnet))?;
            at(goal, &["privateIPAddress"])?.parse().ok()
        })
}

fn is_part(balancer: &Id, kind: ChildKind, name: &str, id: &str) -> bool {
    balancer.child(kind, name).text().eq_ignore_ascii_case(id)
}

/// Where a balancer in force takes packets in for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) front: IpAddr,
    /// None for all.
    port: Option<u16>,
    /// The member's port; none when it stays.
    to: Option<u16>,
    protocol: Option<Protocol>,
}

impl Entry {
    /// The frontend's port that leads to a member's, if one does.
    pub(super) fn leading_to(&self, port: u16, protocol: Protocol) -> Option<u16> {
        let spoken = self.protocol.is_none_or(|own| own == protocol);
        let leads = self.to.or(self.port).is_none_or(|to| to == port);
        (spoken && leads).then(|| self.port.unwrap_or(port))
    }

    /// The member's port that a frontend's leads to, if it does.
    pub(super) fn leads(&self, port: u16, protocol: Protocol) -> Option<u16> {
        let spoken = self.protocol.is_none_or(|own| own == protocol);
        let takes = self.port.is_none_or(|own| own == port);
        (spoken && takes).then(|| self.to.unwrap_or(port))
    }
}

/// Where balancers take packets in for an IP configuration.
pub(super) fn entries(world: &World, configuration: &Map<String, Value>) -> Vec<Entry> {
    let kind = Kind::LoadBalancer.segment().to_ascii_lowercase();
    let segment = format!("/providers/microsoft.network/{kind}/");
    let own = at(configuration, &["privateIPAddress"]);
    let holds = |member: &str, id: &str| {
        ids_in(configuration.get(member))
            .iter()
            .any(|held| held.eq_ignore_ascii_case(id))
    };
    let mut found = Vec::new();
    let balancers = world.keys().filter(|key| key.contains(&segment));
    for (key, balancer) in balancers.filter_map(|key| Some((key, in_force(world, key)?))) {
        let id_of = |list: &str, name: &str| format!("{key}/{list}/{name}").to_ascii_lowercase();
        let by_address = |pool: &Map<String, Value>| {
            named(pool, "loadBalancerBackendAddresses")
                .into_iter()
                .any(|(_, member)| own.is_some() && at(member, &["ipAddress"]) == own)
        };
        let member_of = |pool: &str| {
            named(balancer, POOLS).into_iter().any(|(name, goal)| {
                let id = id_of(POOLS, name);
                id.eq_ignore_ascii_case(pool)
                    && (holds("loadBalancerBackendAddressPools", &id) || by_address(goal))
            })
        };
        let rules = named(balancer, RULES)
            .into_iter()
            .filter(|(_, rule)| at(rule, &["backendAddressPool", "id"]).is_some_and(member_of));
        let translations = named(balancer, NAT)
            .into_iter()
            .filter(|(name, _)| holds("loadBalancerInboundNatRules", &id_of(NAT, name)));
        for (_, rule) in rules.chain(translations) {
            let front = named(balancer, FRONTENDS).into_iter().find_map(|(name, goal)| {
                at(rule, &["frontendIPConfiguration", "id"])
                    .filter(|id| id.eq_ignore_ascii_case(&id_of(FRONTENDS, name)))?;
                at(goal, &["privateIPAddress"])?.parse().ok()
            });
            let Some(front) = front else { continue };
            let number = |member: &str| {
                let port = rule.get(member).and_then(Value::as_u64)?;
                u16::try_from(port).ok().filter(|port| *port > 0)
            };
            let floating = rule.get("enableFloatingIP").and_then(Value::as_bool) == Some(true);
            found.push(Entry {
                front,
                port: number("frontendPort"),
                to: number("backendPort").filter(|_| !floating),
                protocol: match at(rule, &["protocol"]) {
                    Some(told) if told.eq_ignore_ascii_case("Tcp") => Some(Protocol::Tcp),
                    Some(told) if told.eq_ignore_ascii_case("Udp") => Some(Protocol::Udp),
                    _ => None,
                },
            });
        }
    }
    found
}
