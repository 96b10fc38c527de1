//! Azure Firewalls and firewall policies: what the provider refuses of them.
//!
//! Shapes from the published specification (Azure/azure-rest-api-specs, Microsoft.Network 2024-05-01,
//! `azureFirewall.json`, `firewallPolicy.json`, examples `AzureFirewallPut`,
//! `FirewallPolicyNatRuleCollectionGroupPut`). Priorities of 100 to 65000 from "Azure Firewall rule processing
//! logic" (learn.microsoft.com), the subnet's name from "Azure Firewall FAQ". Codes as Azure sent them to others:
//! `AzureFirewallRuleInvalidDnatPortOrRangeFormat` (terraform-provider-azurerm 18353),
//! `AzureFirewallPolicyAndRuleCollectionsConflict`,
//! `FirewallPolicyRuleCollectionGroupUpdateNotAllowedWhenUpdatingOrDeleting` and
//! `FirewallPolicyUpdateNotAllowedWhenUpdatingOrDeleting` (quoted in public deployment scripts; their status is
//! from memory). The other codes here are made up in the provider's manner: the refusal is documented, its code
//! was not found.
//!
//! Not modelled: secured hubs, IP groups (kept, they hold no address), base policies of base policies, FQDNs but
//! `*` in application rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::body::{bad_request, parts};
use super::check::{Check, subnet_ranges};
use super::id::{ChildKind, Id, Kind};
use super::refusal::ArmError;
use super::rule;
use super::state::{Resource, State, at};

/// The members of a classic firewall that hold rule collections.
pub(super) const COLLECTIONS: [&str; 3] = [
    "applicationRuleCollections",
    "natRuleCollections",
    "networkRuleCollections",
];

/// The name that a firewall's subnet must have.
const SUBNET: &str = "AzureFirewallSubnet";

/// What a rule collection is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rules {
    Nat,
    Network,
    Application,
}

/// The named items of a list member.
pub(super) fn named<'a>(
    properties: &'a Map<String, Value>,
    member: &str,
) -> Vec<(&'a str, &'a Map<String, Value>)> {
    properties
        .get(member)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|item| Some((item.get("name")?.as_str()?, item.get("properties")?.as_object()?)))
        .collect()
}

fn refuse(code: &str, text: impl Into<String>) -> ArmError {
    ArmError::network(400, code, text)
}

/// What an address in a firewall rule stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Span {
    Any,
    /// First and last address.
    Within(IpAddr, IpAddr),
    Tag(String),
}

/// Reads `*`, an address, a range in CIDR, `first-last` or a service tag.
pub(super) fn span(text: &str) -> Option<Span> {
    if text == "*" {
        return Some(Span::Any);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Span::Within(address, address));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(Span::Within(net.network(), net.broadcast()));
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (
            first.trim().parse::<IpAddr>().ok()?,
            last.trim().parse::<IpAddr>().ok()?,
        );
        return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Span::Within(first, last));
    }
    rule::is_service_tag(text).then(|| Span::Tag(text.to_owned()))
}

/// Refuses a priority outside 100 to 65000.
fn priority(properties: &Map<String, Value>, what: &str) -> Result<i64, ArmError> {
    properties
        .get("priority")
        .and_then(Value::as_i64)
        .filter(|priority| (100..=65000).contains(priority))
        .ok_or_else(|| {
            let given = properties.get("priority").unwrap_or(&Value::Null);
            let text =
                format!("{what} has invalid Priority. Value provided: {given}. Allowed range 100-65000.");
            refuse("AzureFirewallRuleCollectionInvalidPriority", text)
        })
}

fn action(properties: &Map<String, Value>, rules: Rules, what: &str) -> Result<(), ArmError> {
    let given = at(properties, &["action", "type"]).unwrap_or_default();
    let words: &[&str] = match rules {
        Rules::Nat => &["Dnat"],
        Rules::Network | Rules::Application => &["Allow", "Deny"],
    };
    if words.iter().any(|word| word.eq_ignore_ascii_case(given)) {
        return Ok(());
    }
    let text = format!("{what}: action '{given}' is not one of {}.", words.join(", "));
    Err(bad_request(text))
}

/// Checks the rules of one collection.
fn check_rules(
    collection: &Map<String, Value>,
    rules: Rules,
    protocols: &str,
    what: &str,
) -> Result<(), ArmError> {
    let empty = Vec::new();
    let list = match collection.get("rules") {
        None | Some(Value::Null) => &empty,
        Some(Value::Array(list)) => list,
        Some(_) => return Err(bad_request(format!("`rules` of {what} is not a list."))),
    };
    let mut names = BTreeSet::new();
    for item in list {
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || !names.insert(name.to_ascii_lowercase()) {
            let text = format!("The rules of {what} must have names, each its own: `{name}`.");
            return Err(refuse("AzureFirewallRuleNameConflict", text));
        }
        let item = item
            .as_object()
            .ok_or_else(|| bad_request(format!("A rule of {what} is no object.")))?;
        match rules {
            Rules::Application => {}
            Rules::Network => check_packets(item, name, protocols, &["TCP", "UDP", "ICMP", "Any"])?,
            Rules::Nat => {
                check_packets(item, name, protocols, &["TCP", "UDP"])?;
                check_translation(item, name)?;
            }
        }
    }
    Ok(())
}

/// Checks what a network or NAT rule says of packets.
fn check_packets(
    item: &Map<String, Value>,
    name: &str,
    protocols: &str,
    words: &[&str],
) -> Result<(), ArmError> {
    let given = rule::texts(item, protocols);
    let known = |given: &&str| words.iter().any(|word| word.eq_ignore_ascii_case(given));
    if given.is_empty() || !given.iter().all(known) {
        let text = format!(
            "AzureFirewallRule {name}: protocols {} are not among {}.",
            given.join(", "),
            words.join(", ")
        );
        return Err(refuse("AzureFirewallRuleInvalidProtocol", text));
    }
    let others = |members: &[&str]| members.iter().any(|member| !rule::texts(item, member).is_empty());
    for (member, instead) in [
        ("sourceAddresses", ["sourceIpGroups"].as_slice()),
        (
            "destinationAddresses",
            &["destinationIpGroups", "destinationFqdns"],
        ),
    ] {
        let addresses = rule::texts(item, member);
        if addresses.is_empty() && !others(instead) {
            let text = format!("AzureFirewallRule {name}: {member} is missing.");
            return Err(refuse("AzureFirewallRuleParameterMissing", text));
        }
        if let Some(wrong) = addresses.into_iter().find(|text| span(text).is_none()) {
            // The message as quoted in azure-cli-extensions 2989.
            let text = format!(
                "AzureFirewallRule {name}: Invalid IP address value or range or Service Tag {wrong}."
            );
            return Err(refuse("AzureFirewallRuleInvalidAddressPrefix", text));
        }
    }
    let ports = rule::texts(item, "destinationPorts");
    if ports.is_empty() || ports.iter().any(|text| rule::ports(text).is_none()) {
        let text = format!(
            "AzureFirewallRule {name}: Invalid port value or range {}.",
            ports.join(", ")
        );
        return Err(refuse("AzureFirewallRuleInvalidPortOrRangeFormat", text));
    }
    Ok(())
}

/// Checks where a NAT rule sends its packets: one address or name, one port.
fn check_translation(item: &Map<String, Value>, name: &str) -> Result<(), ArmError> {
    let single = rule::text(item, "translatedPort")
        .and_then(rule::ports)
        .is_some_and(|(from, to)| from == to && from > 0);
    if !single {
        let text = format!(
            "AzureFirewallRule {name}: Invalid DNat port value or range. Multiple values, * and ranges are not \
             supported for DNAT translated port."
        );
        return Err(refuse("AzureFirewallRuleInvalidDnatPortOrRangeFormat", text));
    }
    let destinations = rule::texts(item, "destinationAddresses");
    let one = matches!(destinations.as_slice(), [only] if only.parse::<IpAddr>().is_ok());
    let address = rule::text(item, "translatedAddress");
    let translated = address.is_some_and(|text| text.parse::<IpAddr>().is_ok());
    let fqdn = rule::text(item, "translatedFqdn").is_some();
    if !one || (address.is_some() && !translated) || translated == fqdn {
        let text = format!(
            "AzureFirewallRule {name}: a DNAT rule has one destination address and either a translated address or \
             a translated FQDN."
        );
        return Err(refuse("AzureFirewallRuleInvalidDnatAddress", text));
    }
    Ok(())
}

impl Check<'_> {
    /// What a written firewall must be.
    pub(super) fn firewall(
        &self,
        existing: Option<&Resource>,
        properties: &mut Map<String, Value>,
    ) -> Result<(), ArmError> {
        for read_only in ["hubIPAddresses", "ipGroups"] {
            properties.remove(read_only);
        }
        properties
            .entry("sku")
            .or_insert_with(|| json!({ "name": "AZFW_VNet", "tier": "Standard" }));
        if at(properties, &["sku", "name"]).is_some_and(|name| name != "AZFW_VNet") {
            return Err(bad_request(
                "Only firewalls of the SKU AZFW_VNet are simulated.".to_owned(),
            ));
        }
        properties
            .entry("threatIntelMode")
            .or_insert_with(|| json!("Alert"));
        let policy = self.link(properties, "firewallPolicy", Kind::FirewallPolicy, None)?;
        for member in COLLECTIONS {
            let rules = match member {
                "natRuleCollections" => Rules::Nat,
                "networkRuleCollections" => Rules::Network,
                _ => Rules::Application,
            };
            let written = parts(properties, member)?.unwrap_or_default();
            if policy.is_some() && !written.is_empty() {
                let text = format!(
                    "Azure Firewall {} references a firewall policy and cannot have rule collections of its own.",
                    self.id.text()
                );
                return Err(refuse("AzureFirewallPolicyAndRuleCollectionsConflict", text));
            }
            let mut taken = BTreeMap::new();
            for (name, collection) in &written {
                let what = format!("Rule collection {name}");
                let priority = priority(collection, &what)?;
                if let Some(other) = taken.insert(priority, name.clone()) {
                    let text = format!("{what} has the priority {priority} of rule collection {other}.");
                    return Err(refuse("AzureFirewallRuleCollectionPriorityConflict", text));
                }
                action(collection, rules, &what)?;
                check_rules(collection, rules, "protocols", &what)?;
            }
            let kept: Vec<Value> = written
                .into_iter()
                .map(|(name, properties)| json!({ "name": name, "properties": properties }))
                .collect();
            properties.insert(member.to_owned(), Value::Array(kept));
        }
        self.firewall_addresses(existing, properties)?;
        super::firewall_limits::firewall(self.state, &self.id.text(), properties)
    }

    fn firewall_addresses(
        &self,
        existing: Option<&Resource>,
        properties: &mut Map<String, Value>,
    ) -> Result<(), ArmError> {
        let written = parts(properties, "ipConfigurations")?.unwrap_or_default();
        let mut kept = Vec::new();
        let mut subnets = 0_usize;
        for (name, mut properties) in written {
            let id = self.id.child(ChildKind::FirewallIpConfiguration, &name);
            let check = Check { id: &id, ..*self };
            properties.remove("privateIPAddress");
            let Some((public, _)) =
                check.link(&mut properties, "publicIPAddress", Kind::PublicIpAddress, None)?
            else {
                return Err(bad_request(format!(
                    "IP configuration {name} names no public address."
                )));
            };
            check.address_unused(public)?;
            let subnet = check.link(
                &mut properties,
                "subnet",
                Kind::VirtualNetwork,
                Some(ChildKind::Subnet),
            )?;
            if let Some((network, subnet)) = subnet {
                subnets += 1;
                let address = check.firewall_subnet(network, &subnet)?;
                let before = existing
                    .into_iter()
                    .flat_map(|existing| named(&existing.goal, "ipConfigurations"))
                    .find(|(other, _)| other.eq_ignore_ascii_case(&name))
                    .and_then(|(_, goal)| at(goal, &["privateIPAddress"]))
                    .map_or_else(|| address.to_string(), str::to_owned);
                properties.insert("privateIPAddress".to_owned(), json!(before));
                properties.insert("privateIPAllocationMethod".to_owned(), json!("Dynamic"));
            }
            kept.push(json!({ "name": name, "properties": properties }));
        }
        if !kept.is_empty() && subnets != 1 {
            let text = format!(
                "Exactly one IP configuration of Azure Firewall {} names a subnet.",
                self.id.text()
            );
            return Err(refuse("AzureFirewallIpConfigurationSubnetInvalid", text));
        }
        properties.insert("ipConfigurations".to_owned(), Value::Array(kept));
        Ok(())
    }

    /// The address that a firewall gets in its subnet.
    fn firewall_subnet(&self, network: &Resource, subnet: &Id) -> Result<IpAddr, ArmError> {
        let name = subnet.child.as_ref().map_or("", |(_, name)| name.as_str());
        let ranges = network
            .child(name)
            .and_then(|child| child.goal.as_deref())
            .map(subnet_ranges)
            .unwrap_or_default();
        // "Azure Firewall FAQ": a subnet of that name, /26 or larger, for one firewall alone.
        let range = ranges.iter().find_map(|range| match range {
            IpNet::V4(range) if range.prefix_len() <= 26 => Some(*range),
            _ => None,
        });
        let (true, Some(range)) = (name.eq_ignore_ascii_case(SUBNET), range) else {
            let text = format!(
                "A firewall needs a subnet {SUBNET} of /26 or larger, not {}.",
                subnet.text()
            );
            return Err(refuse("AzureFirewallIpConfigurationSubnetInvalid", text));
        };
        let own = self.id.parent().key();
        let references = self.state.back_references();
        let other = references
            .get(&subnet.key())
            .into_iter()
            .flatten()
            .map(|pointer| &pointer.from)
            .find(|from| Id::parse(from).is_none_or(|from| from.parent().key() != own));
        if let Some(other) = other {
            let text = format!("Subnet {} is in use by {other}.", subnet.text());
            return Err(refuse("AzureFirewallSubnetInUse", text));
        }
        Ok(IpAddr::V4(std::net::Ipv4Addr::from(
            u32::from(range.network()).saturating_add(4),
        )))
    }

    /// What a written firewall policy must be. Its rule collection groups are resources of their own.
    pub(super) fn firewall_policy(&self, properties: &mut Map<String, Value>) -> Result<(), ArmError> {
        for read_only in ["ruleCollectionGroups", "firewalls", "childPolicies", "size"] {
            properties.remove(read_only);
        }
        properties
            .entry("sku")
            .or_insert_with(|| json!({ "tier": "Standard" }));
        properties
            .entry("threatIntelMode")
            .or_insert_with(|| json!("Alert"));
        self.link(properties, "basePolicy", Kind::FirewallPolicy, None)?;
        Ok(())
    }
}

/// What a written rule collection group must be beside the others of its policy.
pub(super) fn rule_collection_group(
    state: &State,
    policy: &Resource,
    name: &str,
    properties: &Map<String, Value>,
) -> Result<Map<String, Value>, ArmError> {
    let mut kept = properties.clone();
    for read_only in ["provisioningState", "size"] {
        kept.remove(read_only);
    }
    let own = priority(&kept, &format!("Rule collection group {name}"))?;
    let twin = policy.shown().find(|(child, goal)| {
        !child.name.eq_ignore_ascii_case(name) && goal.get("priority").and_then(Value::as_i64) == Some(own)
    });
    if let Some((twin, _)) = twin {
        let text = format!(
            "Rule collection group {name} has the priority {own} of {}.",
            twin.name
        );
        return Err(refuse("FirewallPolicyRuleCollectionGroupPriorityConflict", text));
    }
    let collections = match kept.get("ruleCollections") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.clone(),
        Some(_) => return Err(bad_request("`ruleCollections` is not a list.".to_owned())),
    };
    let (mut names, mut taken) = (BTreeSet::new(), BTreeMap::new());
    for collection in &collections {
        let Some(collection) = collection.as_object() else {
            return Err(bad_request("A rule collection is no object.".to_owned()));
        };
        let collection_name = rule::text(collection, "name").unwrap_or_default();
        let what = format!("Rule collection {collection_name}");
        if collection_name.is_empty() || !names.insert(collection_name.to_ascii_lowercase()) {
            let text = format!("{what}: the collections of a group have names, each its own.");
            return Err(refuse("FirewallPolicyRuleCollectionNameConflict", text));
        }
        let priority = priority(collection, &what)?;
        if let Some(other) = taken.insert(priority, collection_name) {
            let text = format!("{what} has the priority {priority} of rule collection {other}.");
            return Err(refuse("FirewallPolicyRuleCollectionPriorityConflict", text));
        }
        let kind = kind_of(collection, &what)?;
        action(collection, kind, &what)?;
        check_rules(collection, kind, "ipProtocols", &what)?;
    }
    kept.insert("ruleCollections".to_owned(), Value::Array(collections));
    super::firewall_limits::group(state, policy, name, &kept)?;
    Ok(kept)
}

/// What a policy's collection holds. One collection has rules of one type (azure-cli-extensions 1226).
pub(super) fn kind_of(collection: &Map<String, Value>, what: &str) -> Result<Rules, ArmError> {
    let types: BTreeSet<&str> = collection
        .get("rules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|item| item.get("ruleType").and_then(Value::as_str).unwrap_or_default())
        .collect();
    let types: Vec<&str> = types.into_iter().collect();
    match (rule::text(collection, "ruleCollectionType"), types.as_slice()) {
        (Some("FirewallPolicyNatRuleCollection"), [] | ["NatRule"]) => Ok(Rules::Nat),
        (Some("FirewallPolicyFilterRuleCollection"), [] | ["NetworkRule"]) => Ok(Rules::Network),
        (Some("FirewallPolicyFilterRuleCollection"), ["ApplicationRule"]) => Ok(Rules::Application),
        (given, types) => Err(bad_request(format!(
            "{what}: a collection of type {} cannot hold rules of type {}.",
            given.unwrap_or("(none)"),
            types.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_any_one_a_range_or_a_tag() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(span("*"), Some(Span::Any));
        assert_eq!(
            span("10.0.0.0/24"),
            Some(Span::Within(address("10.0.0.0"), address("10.0.0.255")))
        );
        assert_eq!(
            span("10.0.0.5-10.0.0.9"),
            Some(Span::Within(address("10.0.0.5"), address("10.0.0.9")))
        );
        assert_eq!(span("Storage"), Some(Span::Tag("Storage".to_owned())));
        for wrong in [
            "10.0.0.9-10.0.0.5",
            "10.0.0.1-::1",
            "clouddrive",
            "10.0.0.0/33",
            "",
        ] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_collection_holds_rules_of_its_own_type() {
        let collection = |kind: &str, rule: &str| {
            let value = json!({ "ruleCollectionType": kind, "rules": [{ "ruleType": rule }] });
            kind_of(value.as_object().unwrap(), "c").ok()
        };
        assert_eq!(
            collection("FirewallPolicyNatRuleCollection", "NatRule"),
            Some(Rules::Nat)
        );
        assert_eq!(
            collection("FirewallPolicyFilterRuleCollection", "NetworkRule"),
            Some(Rules::Network)
        );
        assert_eq!(collection("FirewallPolicyNatRuleCollection", "NetworkRule"), None);
        assert_eq!(collection("FirewallPolicyFilterRuleCollection", "NatRule"), None);
    }
}
