//! What a written network interface must be, and the private addresses that it gets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::body::{Part, bad_request, parts};
use super::check::{Check, subnet_ranges};
use super::id::{ChildKind, Id, Kind};
use super::refusal::ArmError;
use super::rule;
use super::state::{Resource, at, ids_in};

impl Check<'_> {
    pub(super) fn interface(
        &self,
        existing: Option<&Resource>,
        properties: &mut Map<String, Value>,
    ) -> Result<Vec<Part>, ArmError> {
        for read_only in ["virtualMachine", "macAddress", "primary", "hostedWorkloads"] {
            properties.remove(read_only);
        }
        self.link(
            properties,
            "networkSecurityGroup",
            Kind::NetworkSecurityGroup,
            None,
        )?;
        let written = parts(properties, "ipConfigurations")?.unwrap_or_default();
        if written.is_empty() {
            return Err(bad_request(
                "A network interface has at least one IP configuration.".to_owned(),
            ));
        }
        let mut taken = BTreeSet::new();
        let mut configurations = Vec::new();
        for (index, (name, mut properties)) in written.into_iter().enumerate() {
            let id = self.id.child(ChildKind::IpConfiguration, &name);
            let check = Check { id: &id, ..*self };
            let Some((network, subnet)) = check.link(
                &mut properties,
                "subnet",
                Kind::VirtualNetwork,
                Some(ChildKind::Subnet),
            )?
            else {
                return Err(bad_request(format!("IP configuration {name} names no subnet.")));
            };
            if let Some((address, _)) =
                check.link(&mut properties, "publicIPAddress", Kind::PublicIpAddress, None)?
            {
                check.address_unused(address)?;
            }
            for group in ids_in(properties.get("applicationSecurityGroups")) {
                check.resolve(
                    group,
                    Kind::ApplicationSecurityGroup,
                    None,
                    "applicationSecurityGroups.id",
                )?;
            }
            check.memberships(&properties)?;
            properties
                .entry("privateIPAddressVersion")
                .or_insert_with(|| json!("IPv4"));
            properties
                .entry("privateIPAllocationMethod")
                .or_insert_with(|| json!("Dynamic"));
            properties.insert("primary".to_owned(), json!(index == 0));
            let before = existing
                .and_then(|existing| existing.child(&name))
                .and_then(|child| child.goal.as_deref())
                .filter(|goal| {
                    at(goal, &["subnet", "id"]).is_some_and(|old| old.eq_ignore_ascii_case(&subnet.text()))
                });
            let subnet_name = subnet
                .child
                .as_ref()
                .map(|(_, name)| name.as_str())
                .unwrap_or_default();
            let goal = network.child(subnet_name).and_then(|child| child.goal.as_deref());
            let ranges = goal.map(subnet_ranges).unwrap_or_default();
            let address = check.private_address(&properties, before, &subnet, &ranges, &taken)?;
            taken.insert(address);
            properties.insert("privateIPAddress".to_owned(), json!(address.to_string()));
            configurations.push((name, properties));
        }
        self.groups_of_interface(&configurations)?;
        Ok(configurations)
    }

    /// The address that an IP configuration, or a frontend, gets: the static one asked for, the one it had, or the lowest free.
    pub(super) fn private_address(
        &self,
        properties: &Map<String, Value>,
        before: Option<&Map<String, Value>>,
        subnet: &Id,
        ranges: &[IpNet],
        taken_here: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, ArmError> {
        let mut taken = taken_here.clone();
        for resource in self.state.resources.values() {
            if resource.id.kind == Kind::LoadBalancer && resource.id.key() != self.id.parent().key() {
                taken.extend(super::load_balancer::addresses(resource, &subnet.text()));
            }
            if resource.id.kind != Kind::NetworkInterface || resource.id.key() == self.id.parent().key() {
                continue;
            }
            for (_, goal) in resource.shown() {
                if at(goal, &["subnet", "id"]).is_some_and(|other| other.eq_ignore_ascii_case(&subnet.text()))
                {
                    taken.extend(
                        at(goal, &["privateIPAddress"]).and_then(|address| address.parse::<IpAddr>().ok()),
                    );
                }
            }
        }
        let fixed = rule::text(properties, "privateIPAllocationMethod")
            .is_some_and(|method| method.eq_ignore_ascii_case("Static"));
        if fixed {
            let text = rule::text(properties, "privateIPAddress").unwrap_or_default();
            let address = text
                .parse::<IpAddr>()
                .ok()
                .filter(|address| ranges.iter().any(|net| usable(net, *address)));
            let Some(address) = address else {
                let text = format!(
                    "Private static IP address {text} does not belong to the range of subnet prefix {}.",
                    ranges
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                );
                return Err(ArmError::network(400, "PrivateIPAddressNotInSubnet", text));
            };
            if taken.contains(&address) {
                let text = format!(
                    "IP configuration {} is using the private IP address {address} which is already allocated.",
                    self.id.text()
                );
                return Err(ArmError::network(400, "PrivateIPAddressIsAllocated", text));
            }
            return Ok(address);
        }
        let kept = before
            .and_then(|before| at(before, &["privateIPAddress"]))
            .and_then(|text| text.parse().ok());
        let wants_v6 = rule::text(properties, "privateIPAddressVersion")
            .is_some_and(|version| version.eq_ignore_ascii_case("IPv6"));
        let mut free = ranges
            .iter()
            .filter(|net| matches!(net, IpNet::V6(_)) == wants_v6)
            .flat_map(IpNet::hosts)
            .filter(|address| ranges.iter().any(|net| usable(net, *address)) && !taken.contains(address));
        kept.filter(|address| !taken.contains(address))
            .or_else(|| free.next())
            .ok_or_else(|| {
                let text = format!(
                    "Subnet {} does not have enough capacity for 1 IP addresses.",
                    subnet.text()
                );
                ArmError::network(400, "SubnetIsFull", text)
            })
    }

    /// A public address serves one IP configuration.
    pub(super) fn address_unused(&self, address: &Resource) -> Result<(), ArmError> {
        let references = self.state.back_references();
        let own = self.id.parent().key();
        let other = references
            .get(&address.id.key())
            .into_iter()
            .flatten()
            .map(|pointer| &pointer.from)
            .find(|from| Id::parse(from).is_none_or(|from| from.parent().key() != own));
        match other {
            None => Ok(()),
            Some(from) => Err(ArmError::network(
                400,
                "PublicIPAddressInUse",
                format!(
                    "Resource {from} is already using public IP address {} that resource {} wants.",
                    address.id.text(),
                    self.id.text()
                ),
            )),
        }
    }
}

/// The first four addresses and the last of a subnet are Azure's own.
fn usable(net: &IpNet, address: IpAddr) -> bool {
    match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let address = u32::from(address);
            address >= first.saturating_add(4) && address < last
        }
        (IpNet::V6(net), IpAddr::V6(address)) => {
            let (first, address_bits) = (u128::from(net.network()), u128::from(address));
            net.contains(&address) && address_bits >= first.saturating_add(4)
        }
        _ => false,
    }
}
