//! Reads Azure Firewalls, classic and with a policy, as ARM holds them, into what decides about packets.
//!
//! Sources of the shapes: Azure REST reference, Azure Firewalls (`AzureFirewallPropertiesFormat`), Firewall Policies and
//! Firewall Policy Rule Collection Groups (`FirewallPolicyRuleCollectionGroupProperties`). A rule of a kind or in words
//! that this version does not know is read as the widest that it could be; words are compared without regard to case.

pub(crate) mod capacity;
mod copies;
pub mod document;
mod foreign;
mod fresh;
mod hidden;
mod layout;
pub mod plan;
#[cfg(test)]
mod properties;
mod sweep;
mod wanted;
mod wire;

pub(crate) use hidden::Hiding;
pub(crate) use sweep::{marked, place_of};
pub use wanted::wanted;
pub(crate) use wire::policy_levels;

use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    enforcer::EnforceError,
    firewall::{Action, Endpoint, Firewall, FirewallRule, Match, RuleCollection},
    net::Protocol,
    nsg::{Access, NsgPorts},
};
use serde_json::Value;

/// Both protocols that have ports.
const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A firewall without its policy's rules; `public` and `inside` are what its references lead to: its public addresses,
/// and the prefixes of its subnet.
///
/// # Errors
/// [`EnforceError::Malformed`] when the document has no id.
pub fn firewall(raw: &Value, public: Vec<IpAddr>, inside: Vec<IpNet>) -> Result<Firewall, EnforceError> {
    let id = raw
        .get("id")
        .and_then(Value::as_str)
        .ok_or_else(|| EnforceError::Malformed("a firewall of the list has no id".to_owned()))?;
    let kinds = [("natRuleCollections", true), ("networkRuleCollections", false)];
    let collections = kinds
        .into_iter()
        .flat_map(|(member, translates)| {
            list(raw.get("properties"), member).map(move |raw| collection(raw, translates))
        })
        .collect();
    Ok(Firewall {
        id: id.to_lowercase(),
        public_addresses: public,
        private_addresses: private_addresses(raw),
        inside,
        collections,
    })
}

/// A firewall's addresses inside.
pub(crate) fn private_addresses(raw: &Value) -> Vec<IpAddr> {
    list(raw.get("properties"), "ipConfigurations")
        .filter_map(|one| {
            one.pointer("/properties/privateIPAddress")?
                .as_str()?
                .parse()
                .ok()
        })
        .collect()
}

/// The collections of a policy's rule collection group. `inherited` is how many policies above the firewall's own it
/// belongs to.
pub fn group(raw: &Value, inherited: u8) -> Vec<RuleCollection> {
    let name = text(raw, "name");
    let properties = raw.get("properties");
    let group_priority = number(properties, "priority");
    list(properties, "ruleCollections")
        .filter_map(|raw| {
            let kind = text(raw, "ruleCollectionType");
            let translates = kind.eq_ignore_ascii_case("FirewallPolicyNatRuleCollection");
            let rules = list(Some(raw), "rules")
                .filter(|rule| !text(rule, "ruleType").eq_ignore_ascii_case("ApplicationRule"))
                .map(|rule| self::rule(rule, &action_of(raw, translates), "ipProtocols"))
                .collect::<Vec<_>>();
            (!rules.is_empty()).then(|| RuleCollection {
                name: format!("{name}/{}", text(raw, "name")),
                inherited,
                group_priority,
                priority: number(Some(raw), "priority"),
                rules,
            })
        })
        .collect()
}

/// What the rules of a collection do.
enum Kind {
    Translate,
    Filter(Access),
}

/// An action in words that are not known lets everything through.
fn action_of(collection: &Value, translates: bool) -> Kind {
    let word = collection.pointer("/action/type").and_then(Value::as_str);
    match word {
        _ if translates => Kind::Translate,
        Some(word) if word.eq_ignore_ascii_case("Deny") => Kind::Filter(Access::Deny),
        _ => Kind::Filter(Access::Allow),
    }
}

/// A classic collection.
fn collection(raw: &Value, translates: bool) -> RuleCollection {
    let nothing = Value::Null;
    let properties = raw.get("properties").unwrap_or(&nothing);
    let kind = action_of(properties, translates);
    RuleCollection {
        name: text(raw, "name").to_owned(),
        inherited: 0,
        group_priority: 0,
        priority: number(Some(properties), "priority"),
        rules: list(Some(properties), "rules")
            .map(|rule| self::rule(rule, &kind, "protocols"))
            .collect(),
    }
}

fn rule(raw: &Value, kind: &Kind, protocols: &str) -> FirewallRule {
    let endpoints = |members: &[&str]| -> Vec<Endpoint> {
        let all = members.iter().flat_map(|member| texts(raw, member));
        all.map(Endpoint::parse).collect()
    };
    // What names an IP group or a host is a name, also where it looks like an address.
    let named = |member: &str| texts(raw, member).map(|text| Endpoint::Named(text.to_owned()));
    let mut sources = endpoints(&["sourceAddresses"]);
    sources.extend(named("sourceIpGroups"));
    let mut destinations = endpoints(&["destinationAddresses"]);
    destinations.extend(named("destinationIpGroups").chain(named("destinationFqdns")));
    FirewallRule {
        name: text(raw, "name").to_owned(),
        description: raw.get("description").and_then(Value::as_str).map(str::to_owned),
        matches: Match {
            protocols: texts(raw, protocols).fold(Vec::new(), |mut known, word| {
                let some: &[Protocol] = match word.to_ascii_lowercase().as_str() {
                    "tcp" => &[Protocol::Tcp],
                    "udp" => &[Protocol::Udp],
                    "icmp" => &[],
                    _ => &BOTH,
                };
                known.extend(
                    some.iter()
                        .copied()
                        .filter(|one| !known.contains(one))
                        .collect::<Vec<_>>(),
                );
                known
            }),
            sources,
            destinations,
            ports: texts(raw, "destinationPorts")
                .map(|text| NsgPorts::parse(text).unwrap_or(NsgPorts::ALL))
                .collect(),
        },
        action: match kind {
            Kind::Translate => Action::Translate {
                address: raw
                    .get("translatedAddress")
                    .and_then(Value::as_str)
                    .and_then(|text| text.parse().ok()),
                // A port is written as text; one that cannot be read leads to none.
                port: text(raw, "translatedPort").parse().unwrap_or(0),
            },
            Kind::Filter(access) => Action::Filter(*access),
        },
    }
}

fn list<'v>(value: Option<&'v Value>, member: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value
        .and_then(|value| value.get(member))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'v>(value: &'v Value, member: &str) -> impl Iterator<Item = &'v str> + use<'v> {
    list(Some(value), member).filter_map(Value::as_str)
}

/// A priority; one that cannot be read is asked first.
fn number(value: Option<&Value>, member: &str) -> u16 {
    value
        .and_then(|value| value.get(member))
        .and_then(Value::as_u64)
        .and_then(|number| number.try_into().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use postern_core::{reach::Verdict, testing::ports};
    use serde_json::json;

    use super::*;

    fn nat(name: &str, source: &str, port: &str) -> Value {
        json!({
            "name": name, "ruleType": "NatRule", "sourceAddresses": [source], "destinationAddresses": ["20.0.0.1"],
            "destinationPorts": [port], "protocols": ["TCP"], "ipProtocols": ["TCP"],
            "translatedAddress": "10.1.0.4", "translatedPort": "22",
        })
    }

    fn network(name: &str, source: &str) -> Value {
        json!({
            "name": name, "ruleType": "NetworkRule", "sourceAddresses": [source], "destinationAddresses": ["*"],
            "destinationPorts": ["20-30"], "protocols": ["Any"], "ipProtocols": ["Any"],
        })
    }

    fn read(raw: &Value) -> Firewall {
        firewall(
            raw,
            vec!["20.0.0.1".parse().unwrap()],
            vec!["10.0.0.0/26".parse().unwrap()],
        )
        .unwrap()
    }

    fn doors(edge: &Firewall) -> Vec<(u16, String, bool)> {
        edge.doors("10.1.0.4".parse().unwrap(), ports("22"))
            .into_iter()
            .map(|door| (door.ports.first, door.rule.rule, door.certain))
            .collect()
    }

    #[test]
    fn a_classic_firewalls_nat_and_network_rules_are_read() {
        let edge = read(&json!({
            "id": "/Subscriptions/S/azureFirewalls/Edge",
            "properties": {
                "natRuleCollections": [
                    { "name": "in", "properties": { "priority": 200, "action": { "type": "Dnat" }, "rules": [
                        nat("ssh", "203.0.113.0/24", "50022"),
                    ] } },
                ],
                "networkRuleCollections": [
                    { "name": "site", "properties": { "priority": 300, "action": { "type": "Allow" }, "rules": [
                        network("office", "192.168.0.0/16"),
                    ] } },
                    { "name": "no", "properties": { "priority": 200, "action": { "type": "deny" }, "rules": [
                        network("lab", "192.168.9.0-192.168.9.255"),
                    ] } },
                ],
            },
        }));
        assert_eq!(edge.id, "/subscriptions/s/azurefirewalls/edge");
        assert_eq!(doors(&edge), [(50022, "in/ssh".to_owned(), true)]);
        let verdict = |source: &str| {
            edge.passes(source.parse().unwrap(), "10.1.0.4".parse().unwrap(), ports("22"))
                .0
        };
        assert_eq!(verdict("192.168.1.1"), Verdict::Allowed);
        assert_eq!(verdict("192.168.9.1"), Verdict::Denied);
    }

    #[test]
    fn a_policys_groups_are_asked_by_their_priorities_and_ip_groups_are_names() {
        let group_of = |name: &str, priority: u16, source: Value| {
            let mut rule = nat("ssh", "203.0.113.7", "50022");
            rule.as_object_mut().unwrap().remove("protocols");
            if let Some(groups) = source.as_array() {
                rule.as_object_mut().unwrap().remove("sourceAddresses");
                rule["sourceIpGroups"] = json!(groups);
            }
            json!({
                "name": name, "properties": { "priority": priority, "ruleCollections": [
                    { "name": "dnat", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 100,
                      "action": { "type": "DNAT" }, "rules": [rule] },
                    { "name": "apps", "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "priority": 200,
                      "action": { "type": "Allow" }, "rules": [{ "name": "web", "ruleType": "ApplicationRule" }] },
                ] },
            })
        };
        let mut edge = read(&json!({ "id": "edge", "properties": { "firewallPolicy": { "id": "policy" } } }));
        edge.collections = group(&group_of("ours", 100, Value::Null), 0);
        edge.collections
            .extend(group(&group_of("theirs", 200, json!(["/ipgroups/office"])), 0));
        assert_eq!(
            edge.collections.len(),
            2,
            "application rules say nothing of ports"
        );
        assert_eq!(
            doors(&edge),
            [
                (50022, "theirs/dnat/ssh".to_owned(), false),
                (50022, "ours/dnat/ssh".to_owned(), true),
                (50022, "theirs/dnat/ssh".to_owned(), false),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_read_as_the_widest() {
        let mut strange = nat("strange", "*", "50022");
        strange["destinationPorts"] = json!(["soon"]);
        strange["protocols"] = json!(["QUIC"]);
        strange["translatedAddress"] = json!("later.example");
        let edge = read(&json!({ "id": "edge", "properties": { "natRuleCollections": [
            { "name": "in", "properties": { "priority": "first", "rules": [strange] } },
        ] } }));
        let found = edge.doors("10.1.0.4".parse().unwrap(), ports("22"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ports, found[0].certain), (NsgPorts::ALL, false));
        assert!(firewall(&json!({}), vec![], vec![]).is_err());
    }
}
