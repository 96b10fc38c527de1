//! How much an Azure Firewall and a firewall policy hold.
//!
//! "Azure subscription and service limits, quotas, and constraints", "Azure Firewall limits" (learn.microsoft.com,
//! `includes/firewall-limits.md` of azure-docs): 250 public addresses of the firewall and unique destinations of its DNAT
//! rules (address, port and protocol) together; of a policy made after July 2022, 90 rule collection groups (60 in
//! older versions of the page) and 2 MB of rules in each. "Azure Firewall Manager policy overview": NAT rule collections
//! are not inherited, so that those of a parent do not count.
//!
//! Not modelled: the 20,000 unique sources and destinations of network rules, which Azure recommends and does not
//! enforce, and the smaller limits of policies made before. No published error code was found: those here are made up in
//! the provider's manner.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::firewall::{COLLECTIONS, named};
use super::id::{ChildKind, Kind};
use super::refusal::ArmError;
use super::rule;
use super::state::{Resource, State, at};

/// Public addresses and unique destinations.
const DESTINATIONS: usize = 250;
const GROUPS: usize = 90;
const GROUP_BYTES: usize = 2_000_000;

/// Address, port and protocol, as written.
type Destination = (String, String, String);

/// The unique destinations of the translating rules of some collections.
fn destinations<'a>(collections: impl Iterator<Item = &'a Map<String, Value>>) -> BTreeSet<Destination> {
    let mut found = BTreeSet::new();
    let rules = collections.filter_map(|collection| collection.get("rules").and_then(Value::as_array));
    for rule in rules.flatten().filter_map(Value::as_object) {
        if rule::text(rule, "translatedPort").is_none() {
            continue;
        }
        for protocol in ["protocols", "ipProtocols"]
            .into_iter()
            .flat_map(|member| rule::texts(rule, member))
        {
            for address in rule::texts(rule, "destinationAddresses") {
                for port in rule::texts(rule, "destinationPorts") {
                    found.insert((address.to_owned(), port.to_owned(), protocol.to_uppercase()));
                }
            }
        }
    }
    found
}

fn public_addresses(firewall: &Map<String, Value>) -> usize {
    named(firewall, "ipConfigurations")
        .into_iter()
        .filter(|(_, goal)| at(goal, &["publicIPAddress", "id"]).is_some())
        .count()
}

fn fits(firewall: &str, public: usize, destinations: usize) -> Result<(), ArmError> {
    if public.saturating_add(destinations) <= DESTINATIONS {
        return Ok(());
    }
    let text = format!(
        "Azure Firewall {firewall} has {public} public IP addresses and {destinations} unique DNAT destinations. At \
         most {DESTINATIONS} are supported together."
    );
    Err(ArmError::network(400, "AzureFirewallNatRulesLimitExceeded", text))
}

fn of_group(group: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let all = group.get("ruleCollections").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_object)
}

/// Whether a written firewall holds its own rules, or its policy's.
pub(super) fn firewall(state: &State, id: &str, properties: &Map<String, Value>) -> Result<(), ArmError> {
    let policy = at(properties, &["firewallPolicy", "id"])
        .and_then(|policy| state.resources.get(&policy.to_ascii_lowercase()));
    let found = match policy {
        Some(policy) => destinations(policy.shown().flat_map(|(_, group)| of_group(group))),
        None => destinations(
            COLLECTIONS
                .into_iter()
                .flat_map(|member| named(properties, member))
                .map(|(_, collection)| collection),
        ),
    };
    fits(id, public_addresses(properties), found.len())
}

/// Whether a policy holds a group as written, and every firewall that has the policy does.
pub(super) fn group(
    state: &State,
    policy: &Resource,
    name: &str,
    properties: &Map<String, Value>,
) -> Result<(), ArmError> {
    let others = || {
        policy
            .shown()
            .filter(|(child, _)| !child.name.eq_ignore_ascii_case(name))
    };
    let group = policy.id.child(ChildKind::RuleCollectionGroup, name).text();
    if others().count() >= GROUPS {
        let text = format!(
            "Firewall Policy {} has {GROUPS} rule collection groups.",
            policy.id.text()
        );
        let code = "FirewallPolicyRuleCollectionGroupLimitExceeded";
        return Err(ArmError::network(400, code, text));
    }
    let bytes = properties
        .get("ruleCollections")
        .map_or(0, |all| all.to_string().len());
    if bytes > GROUP_BYTES {
        let text = format!("The rules of {group} have {bytes} bytes. At most {GROUP_BYTES} are supported.");
        let code = "FirewallPolicyRuleCollectionGroupSizeLimitExceeded";
        return Err(ArmError::network(400, code, text));
    }
    let collections = others()
        .flat_map(|(_, group)| of_group(group))
        .chain(of_group(properties));
    let found = destinations(collections).len();
    fits(&policy.id.text(), 0, found)?;
    let has_it = |resource: &&Resource| {
        resource.id.kind == Kind::AzureFirewall
            && at(&resource.goal, &["firewallPolicy", "id"])
                .is_some_and(|id| id.eq_ignore_ascii_case(&policy.id.text()))
    };
    for firewall in state.resources.values().filter(has_it) {
        fits(&firewall.id.text(), public_addresses(&firewall.goal), found)?;
    }
    Ok(())
}
