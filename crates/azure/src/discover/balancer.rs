//! Which load balancers send on to an address inside the network, and from which of their own.
//!
//! A firewall may translate to a balancer's frontend instead of a machine, and what comes by it keeps its source, the
//! firewall's subnet. The interface names the pools and rules that it is in, a pool of addresses its members itself.
//! Public frontends are left aside: who comes by one is seen as himself.
//!
//! Sources: Azure REST reference, Load Balancers (`LoadBalancerPropertiesFormat`, `LoadBalancingRule`, `InboundNatRule`,
//! `LoadBalancerBackendAddress`); Azure documentation, "Load Balancer components" (port 0 with protocol `All` stands for
//! every port), "Azure Load Balancer Floating IP configuration" (the packet's port stays the frontend's).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use postern_core::{
    approach::Front,
    net::{Ports, Protocol},
};
use serde_json::Value;

use crate::observe::{Interface, IpConfigurationProperties};

/// The balancers of a subscription. All ids are lower case.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    known: BTreeSet<String>,
    /// Where packets are taken in that go to a pool, or by a NAT rule.
    by_part: BTreeMap<String, Vec<Front>>,
    /// The pools that list an address, each with the network or subnet that it is said to be in.
    by_address: BTreeMap<Ipv4Addr, Vec<(String, Option<String>)>>,
}

/// What leads to a machine from elsewhere in the network.
#[derive(Debug, Default)]
pub(crate) struct Before {
    pub(crate) fronts: Vec<Front>,
    /// Balancers that lead to it and were not read.
    pub(crate) unread: Vec<String>,
}

impl Balancers {
    pub(crate) fn new(all: &[Value]) -> Self {
        let mut balancers = Self::default();
        for raw in all {
            let Some(id) = text(raw, "/id").map(str::to_lowercase) else {
                continue;
            };
            balancers.add(&Balancer { id: &id, raw });
            balancers.known.insert(id);
        }
        balancers
    }

    fn add(&mut self, balancer: &Balancer<'_>) {
        for pool in balancer.parts("backendAddressPools") {
            let id = balancer.part("backendaddresspools", pool);
            let members = pool.pointer("/properties/loadBalancerBackendAddresses");
            for member in members.and_then(Value::as_array).into_iter().flatten() {
                let address = text(member, "/properties/ipAddress").and_then(|text| text.parse().ok());
                let network = [
                    text(member, "/properties/virtualNetwork/id"),
                    text(member, "/properties/subnet/id"),
                    text(pool, "/properties/virtualNetwork/id"),
                ];
                let network = network.into_iter().flatten().next().map(str::to_lowercase);
                if let Some(address) = address {
                    self.by_address
                        .entry(address)
                        .or_default()
                        .push((id.clone(), network));
                }
            }
        }
        for rule in balancer.parts("loadBalancingRules") {
            self.lead(&pools_of(rule), &balancer.front(rule));
        }
        for rule in balancer.parts("inboundNatRules") {
            let mut parts = pools_of(rule);
            parts.push(balancer.part("inboundnatrules", rule));
            self.lead(&parts, &balancer.front(rule));
        }
    }

    fn lead(&mut self, parts: &[String], fronts: &[Front]) {
        for part in parts {
            self.by_part
                .entry(part.clone())
                .or_default()
                .extend_from_slice(fronts);
        }
    }

    /// What leads to the interface's address, or to any of the machine's other interfaces.
    pub(crate) fn before(&self, interfaces: &[&Interface], own: usize, address: Ipv4Addr) -> Before {
        let (mut fronts, mut unread) = (BTreeSet::new(), BTreeSet::new());
        for (at, interface) in interfaces.iter().enumerate() {
            for configuration in &interface.properties.ip_configurations {
                let properties = &configuration.properties;
                let private = properties.private_ip_address.as_deref();
                let Some(here) = private.and_then(|text| text.parse::<Ipv4Addr>().ok()) else {
                    continue;
                };
                if at == own && here != address {
                    continue;
                }
                let named: Vec<String> = memberships(properties).collect();
                unread.extend(
                    named
                        .iter()
                        .filter_map(|part| part.rsplitn(3, '/').nth(2))
                        .filter(|id| !self.known.contains(*id))
                        .map(str::to_owned),
                );
                let listed = self.listing(properties, here).cloned();
                for part in named.into_iter().chain(listed) {
                    fronts.extend(self.by_part.get(&part).into_iter().flatten().cloned());
                }
            }
        }
        Before {
            fronts: fronts.into_iter().collect(),
            unread: unread.into_iter().collect(),
        }
    }

    /// The pools that list the address. One that does not say of which network may mean this one.
    fn listing(
        &self,
        properties: &IpConfigurationProperties,
        here: Ipv4Addr,
    ) -> impl Iterator<Item = &String> {
        let subnet = properties.subnet.as_ref().map(|subnet| subnet.id.to_lowercase());
        let within = move |network: &str| {
            let own = subnet.as_deref();
            own.is_none_or(|own| own == network || own.starts_with(&format!("{network}/")))
        };
        self.by_address
            .get(&here)
            .into_iter()
            .flatten()
            .filter(move |(_, network)| network.as_deref().is_none_or(&within))
            .map(|(pool, _)| pool)
    }
}

/// The pools and rules that the interface names, lower case.
fn memberships(properties: &IpConfigurationProperties) -> impl Iterator<Item = String> {
    let pools = properties.load_balancer_backend_address_pools.iter();
    pools
        .chain(&properties.load_balancer_inbound_nat_rules)
        .map(|part| part.id.to_lowercase())
}

/// The pools that a rule sends to, lower case.
fn pools_of(rule: &Value) -> Vec<String> {
    let several = rule
        .pointer("/properties/backendAddressPools")
        .and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(|pool| text(pool, "/id"));
    let one = text(rule, "/properties/backendAddressPool/id");
    let all: BTreeSet<String> = one.into_iter().chain(several).map(str::to_lowercase).collect();
    all.into_iter().collect()
}

/// One balancer.
struct Balancer<'b> {
    id: &'b str,
    raw: &'b Value,
}

impl Balancer<'_> {
    fn parts(&self, member: &str) -> impl Iterator<Item = &Value> {
        let all = self.raw.pointer(&format!("/properties/{member}"));
        all.and_then(Value::as_array).into_iter().flatten()
    }

    /// The id of a part, lower case.
    fn part(&self, kind: &str, raw: &Value) -> String {
        let name = text(raw, "/name").unwrap_or_default();
        format!("{}/{kind}/{}", self.id, name.to_lowercase())
    }

    /// Where a rule takes packets in, inside the network; for each protocol.
    fn front(&self, rule: &Value) -> Vec<Front> {
        let wanted = text(rule, "/properties/frontendIPConfiguration/id").map(str::to_lowercase);
        let frontend = self
            .parts("frontendIPConfigurations")
            .find(|frontend| wanted.as_ref() == Some(&self.part("frontendipconfigurations", frontend)));
        let address = frontend.and_then(|frontend| text(frontend, "/properties/privateIPAddress"));
        let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) else {
            return Vec::new();
        };
        let port = |member: &str| {
            let port = rule
                .pointer(&format!("/properties/{member}"))
                .and_then(Value::as_u64)?;
            u16::try_from(port).ok().filter(|port| *port > 0)
        };
        let (first, last) = match (
            port("frontendPort"),
            port("frontendPortRangeStart"),
            port("frontendPortRangeEnd"),
        ) {
            (Some(one), ..) => (one, one),
            (None, Some(first), Some(last)) => (first, last),
            _ => (1, u16::MAX),
        };
        let floats = rule
            .pointer("/properties/enableFloatingIP")
            .and_then(Value::as_bool)
            == Some(true);
        let protocols: &[Protocol] = match text(rule, "/properties/protocol") {
            Some(word) if word.eq_ignore_ascii_case("tcp") => &[Protocol::Tcp],
            Some(word) if word.eq_ignore_ascii_case("udp") => &[Protocol::Udp],
            _ => &[Protocol::Tcp, Protocol::Udp],
        };
        let front = |protocol: &Protocol| {
            Some(Front {
                balancer: self.id.to_owned(),
                address,
                ports: Ports::range(*protocol, first, last).ok()?,
                leads_to: port("backendPort").filter(|_| !floats),
            })
        };
        protocols.iter().filter_map(front).collect()
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer)?.as_str()
}
