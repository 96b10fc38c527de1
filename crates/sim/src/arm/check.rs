//! What a written resource must be: bodies read, references resolved, ranges and limits checked.
//!
//! Codes and messages as Azure sent them to others, quoted in public issues: `InvalidResourceReference`,
//! `NetcfgSubnetRangesOverlap`, `NetcfgInvalidSubnet`, `InUseSubnetCannotBeDeleted`,
//! `RetryableError`/`ReferencedResourceNotProvisioned` (terraform 7986), `LinkedInvalidPropertyId`.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::body::{Body, Part, bad_request, parts};
use super::id::{ChildKind, Id, Kind};
use super::in_use::{nic_in_use, subnet_unused};
use super::refusal::ArmError;
use super::rule;
use super::state::{Provisioning, Resource, State, interfaces_of};

/// A resource that may be written: properties as they will be kept, and its parts where the body has any.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) location: String,
    pub(super) properties: Map<String, Value>,
    pub(super) children: Option<Vec<Part>>,
}

/// Checks the body of a whole resource.
pub(super) fn draft(
    state: &State,
    id: &Id,
    existing: Option<&Resource>,
    body: &Body,
) -> Result<Draft, ArmError> {
    let Some(place) = body.location.clone() else {
        return Err(ArmError::new(
            400,
            "LocationRequired",
            "The location property is required for this definition.",
        ));
    };
    if let Some(existing) = existing.filter(|existing| existing.location != place) {
        return Err(ArmError::new(
            409,
            "InvalidResourceLocation",
            format!(
                "The resource '{}' already exists in location '{}' in resource group '{}'. A resource with the \
                 same name cannot be created in location '{place}'. Please select a new resource name.",
                id.name, existing.location, id.group
            ),
        ));
    }
    let mut properties = body.properties.clone();
    for read_only in [
        "provisioningState",
        "resourceGuid",
        "instanceView",
        "vmId",
        "timeCreated",
    ] {
        properties.remove(read_only);
    }
    properties.retain(|_, value| !value.is_null());
    let check = Check {
        state,
        id,
        place: &place,
    };
    let children = match id.kind {
        Kind::NetworkSecurityGroup => Some(check.security_group(&mut properties)?),
        Kind::VirtualNetwork => check.network(existing, &mut properties)?,
        Kind::NetworkInterface => Some(check.interface(existing, &mut properties)?),
        Kind::VirtualMachine => {
            check.machine(&mut properties)?;
            None
        }
        Kind::PublicIpAddress => {
            check.public_address(existing, &mut properties);
            None
        }
        Kind::RouteTable => Some(super::routing::route_table(&mut properties)?),
        Kind::AzureFirewall => {
            check.firewall(existing, &mut properties)?;
            None
        }
        Kind::FirewallPolicy => {
            check.firewall_policy(&mut properties)?;
            None
        }
        Kind::LoadBalancer => {
            check.load_balancer(existing, &mut properties)?;
            None
        }
        Kind::ApplicationSecurityGroup => None,
    };
    Ok(Draft {
        location: place,
        properties,
        children,
    })
}

/// Checks the properties of one security rule beside those that the NSG has.
pub(super) fn security_rule(
    state: &State,
    nsg: &Resource,
    name: &str,
    properties: &Map<String, Value>,
) -> Result<Map<String, Value>, ArmError> {
    let rule_id = nsg.id.child(ChildKind::SecurityRule, name);
    let kept = rule::check(&rule_id, properties)?;
    Check {
        state,
        id: &rule_id,
        place: &nsg.location,
    }
    .groups_of_rule(&kept)?;
    let others = nsg
        .shown()
        .filter(|(child, _)| !child.name.eq_ignore_ascii_case(name))
        .map(|(child, goal)| (child.name.as_str(), &**goal));
    let together = others.chain(std::iter::once((name, &kept)));
    rule::check_together(&together)?;
    Check::groups_of_rules(together.map(|(_, properties)| properties))?;
    Ok(kept)
}

/// Checks the properties of one subnet beside those that the network has.
pub(super) fn subnet(
    state: &State,
    network: &Resource,
    name: &str,
    properties: &Map<String, Value>,
) -> Result<Map<String, Value>, ArmError> {
    let id = network.id.child(ChildKind::Subnet, name);
    let check = Check {
        state,
        id: &id,
        place: &network.location,
    };
    let spaces = address_space(&network.goal);
    let taken: Vec<(String, IpNet)> = network
        .shown()
        .filter(|(child, _)| !child.name.eq_ignore_ascii_case(name))
        .flat_map(|(child, goal)| {
            subnet_ranges(goal)
                .into_iter()
                .map(|net| (child.name.clone(), net))
        })
        .collect();
    check.subnet(properties, &spaces, &taken)
}

/// The ranges of a virtual network.
pub(super) fn address_space(network: &Map<String, Value>) -> Vec<IpNet> {
    let space = network.get("addressSpace").and_then(Value::as_object);
    space
        .map(|space| rule::texts(space, "addressPrefixes"))
        .unwrap_or_default()
        .into_iter()
        .filter_map(rule::network)
        .collect()
}

/// The ranges of a subnet.
pub(super) fn subnet_ranges(subnet: &Map<String, Value>) -> Vec<IpNet> {
    rule::text(subnet, "addressPrefix")
        .into_iter()
        .chain(rule::texts(subnet, "addressPrefixes"))
        .filter_map(rule::network)
        .collect()
}

fn cidr(text: &str) -> Result<IpNet, ArmError> {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(ArmError::network(
            400,
            "InvalidCIDRNotation",
            format!(
                "The address prefix {text} has an invalid CIDR notation. For the given prefix length, the address prefix should be {}.",
                net.trunc()
            ),
        )),
        Err(_) => Err(ArmError::network(
            400,
            "InvalidAddressPrefixFormat",
            format!(
                "Address prefix {text} is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24."
            ),
        )),
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// A resource or part under check: where it is and what is around it.
#[derive(Clone, Copy)]
pub(super) struct Check<'a> {
    pub(super) state: &'a State,
    pub(super) id: &'a Id,
    pub(super) place: &'a str,
}

impl<'a> Check<'a> {
    /// Finds what a reference names. It must exist in the same region and not be in the middle of a change.
    pub(super) fn resolve(
        &self,
        text: &str,
        kind: Kind,
        child: Option<ChildKind>,
        path: &str,
    ) -> Result<(&'a Resource, Id), ArmError> {
        let Some(target) = Id::parse(text) else {
            return Err(ArmError::new(
                400,
                "LinkedInvalidPropertyId",
                format!(
                    "Property id '{text}' at path 'properties.{path}' is invalid. Expect fully qualified resource \
                     Id that start with '/subscriptions/{{subscriptionId}}' or \
                     '/providers/{{resourceProviderNamespace}}/'."
                ),
            ));
        };
        let from = self.id.text();
        let missing = || {
            ArmError::network(
                400,
                "InvalidResourceReference",
                format!(
                    "Resource {text} referenced by resource {from} was not found. Please make sure that the \
                     referenced resource exists, and that both resources are in the same region."
                ),
            )
        };
        if target.kind != kind || target.child.as_ref().map(|(kind, _)| *kind) != child {
            return Err(missing());
        }
        let resource = self
            .state
            .get(&target)
            .filter(|found| found.location == self.place)
            .ok_or_else(missing)?;
        let canonical = match &target.child {
            None => resource.id.clone(),
            Some((kind, name)) => {
                let part = resource
                    .child(name)
                    .filter(|part| part.goal.is_some())
                    .ok_or_else(missing)?;
                resource.id.child(*kind, &part.name)
            }
        };
        if resource.provisioning != Provisioning::Succeeded
            && let Some(operation) = self.state.busy(&resource.id.key())
        {
            let state = resource.provisioning.word();
            return Err(ArmError::network(429, "RetryableError", "A retryable error occurred.")
                .with_detail(
                    "ReferencedResourceNotProvisioned",
                    format!(
                        "Cannot proceed with operation because resource {} used by resource {from} is not in \
                         Succeeded state. Resource is in {state} state and the last operation that updated/is \
                         updating the resource is {}.",
                        canonical.text(),
                        operation.name
                    ),
                )
                .after(10));
        }
        Ok((resource, canonical))
    }

    /// Replaces `{"id": ...}` at a member by the id as the cloud writes it. None where the member is absent.
    pub(super) fn link(
        &self,
        properties: &mut Map<String, Value>,
        member: &str,
        kind: Kind,
        child: Option<ChildKind>,
    ) -> Result<Option<(&'a Resource, Id)>, ArmError> {
        let Some(value) = properties.get(member).filter(|value| !value.is_null()) else {
            properties.remove(member);
            return Ok(None);
        };
        let Some(text) = value.get("id").and_then(Value::as_str) else {
            return Err(bad_request(format!("`{member}` has no `id`.")));
        };
        let found = self.resolve(text, kind, child, &format!("{member}.id"))?;
        properties.insert(member.to_owned(), json!({ "id": found.1.text() }));
        Ok(Some(found))
    }

    fn security_group(&self, properties: &mut Map<String, Value>) -> Result<Vec<Part>, ArmError> {
        for read_only in ["defaultSecurityRules", "networkInterfaces", "subnets", "flowLogs"] {
            properties.remove(read_only);
        }
        let mut rules = Vec::new();
        // A body without rules means an NSG without rules.
        for (name, properties) in parts(properties, "securityRules")?.unwrap_or_default() {
            let id = self.id.child(ChildKind::SecurityRule, &name);
            let kept = rule::check(&id, &properties)?;
            Check { id: &id, ..*self }.groups_of_rule(&kept)?;
            rules.push((name, kept));
        }
        rule::check_together(&rules.iter().map(|(name, properties)| (name.as_str(), properties)))?;
        Check::groups_of_rules(rules.iter().map(|(_, properties)| properties))?;
        Ok(rules)
    }

    fn network(
        &self,
        existing: Option<&Resource>,
        properties: &mut Map<String, Value>,
    ) -> Result<Option<Vec<Part>>, ArmError> {
        let space = properties.get("addressSpace").and_then(Value::as_object);
        let prefixes = space
            .map(|space| rule::texts(space, "addressPrefixes"))
            .unwrap_or_default();
        if prefixes.is_empty() {
            let text = "Address space of a virtual network must have at least one address prefix.";
            return Err(ArmError::network(400, "AddressSpacePrefixesMissing", text));
        }
        let spaces = prefixes.into_iter().map(cidr).collect::<Result<Vec<_>, _>>()?;
        // A body without subnets leaves them; one with an empty list takes them all away.
        let Some(written) = parts(properties, "subnets")? else {
            return Ok(None);
        };
        let mut taken: Vec<(String, IpNet)> = Vec::new();
        let mut subnets = Vec::new();
        for (name, properties) in written {
            let id = self.id.child(ChildKind::Subnet, &name);
            let kept = Check { id: &id, ..*self }.subnet(&properties, &spaces, &taken)?;
            taken.extend(subnet_ranges(&kept).into_iter().map(|net| (name.clone(), net)));
            subnets.push((name, kept));
        }
        for (child, _) in existing.iter().flat_map(|existing| existing.shown()) {
            if !subnets
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(&child.name))
            {
                subnet_unused(self.state, &self.id.child(ChildKind::Subnet, &child.name))?;
            }
        }
        Ok(Some(subnets))
    }

    fn subnet(
        &self,
        properties: &Map<String, Value>,
        spaces: &[IpNet],
        taken: &[(String, IpNet)],
    ) -> Result<Map<String, Value>, ArmError> {
        let mut properties = properties.clone();
        for read_only in [
            "provisioningState",
            "ipConfigurations",
            "privateEndpoints",
            "purpose",
        ] {
            properties.remove(read_only);
        }
        let name = self
            .id
            .child
            .as_ref()
            .map(|(_, name)| name.as_str())
            .unwrap_or_default();
        let texts: Vec<&str> = rule::text(&properties, "addressPrefix")
            .into_iter()
            .chain(rule::texts(&properties, "addressPrefixes"))
            .collect();
        if texts.is_empty() {
            let text = format!("Subnet {name} has no address prefix.");
            return Err(ArmError::network(400, "SubnetAddressPrefixMissing", text));
        }
        for text in texts {
            let net = cidr(text)?;
            let network = &self.id.name;
            if !spaces.iter().any(|space| space.contains(&net)) {
                let text = format!("Subnet '{name}' is not valid in virtual network '{network}'.");
                return Err(ArmError::network(400, "NetcfgInvalidSubnet", text));
            }
            if taken.iter().any(|(_, other)| overlap(&net, other)) {
                let text = format!(
                    "Subnet '{name}' is not valid because its IP address range overlaps with that of an existing \
                     subnet in virtual network '{network}'."
                );
                return Err(ArmError::network(400, "NetcfgSubnetRangesOverlap", text));
            }
        }
        self.link(
            &mut properties,
            "networkSecurityGroup",
            Kind::NetworkSecurityGroup,
            None,
        )?;
        self.link(&mut properties, "routeTable", Kind::RouteTable, None)?;
        Ok(properties)
    }

    fn public_address(&self, existing: Option<&Resource>, properties: &mut Map<String, Value>) {
        for read_only in ["ipConfiguration", "ipAddress"] {
            properties.remove(read_only);
        }
        properties
            .entry("publicIPAddressVersion")
            .or_insert_with(|| json!("IPv4"));
        properties
            .entry("publicIPAllocationMethod")
            .or_insert_with(|| json!("Dynamic"));
        let address = existing
            .and_then(|existing| existing.goal.get("ipAddress").cloned())
            .unwrap_or_else(|| {
                // From 198.18.0.0/15, which is set aside for tests (RFC 2544).
                let number =
                    u32::from(Ipv4Addr::new(198, 18, 0, 10)).saturating_add(self.state.public_addresses);
                json!(Ipv4Addr::from(number).to_string())
            });
        properties.insert("ipAddress".to_owned(), address);
    }

    fn machine(&self, properties: &mut Map<String, Value>) -> Result<(), ArmError> {
        let interfaces: Vec<String> = interfaces_of(properties).into_iter().map(str::to_owned).collect();
        if interfaces.is_empty() {
            let text = "Required parameter 'networkProfile' is missing (null).";
            return Err(ArmError::new(400, "InvalidParameter", text));
        }
        let own = self.id.key();
        for interface in &interfaces {
            let (_, target) = self.resolve(
                interface,
                Kind::NetworkInterface,
                None,
                "networkProfile.networkInterfaces.id",
            )?;
            let holder = self.state.resources.values().find(|other| {
                other.id.kind == Kind::VirtualMachine
                    && other.id.key() != own
                    && interfaces_of(&other.goal)
                        .iter()
                        .any(|held| held.eq_ignore_ascii_case(&target.text()))
            });
            if let Some(holder) = holder {
                return Err(nic_in_use(&target, &holder.id.text()));
            }
        }
        Ok(())
    }
}
