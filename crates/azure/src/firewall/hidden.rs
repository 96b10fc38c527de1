//! Whom a firewall hides behind itself: clients that nobody translated to a machine, and whom it sees as the firewall's
//! subnet all the same. At an NSG they cannot be told from those who came by a NAT rule.
//!
//! Source: Azure documentation, "Azure Firewall SNAT private IP address ranges": what application rules let pass is
//! proxied whatever its destination; what network rules let pass is where the destination is in none of the private
//! ranges, by default those of RFC 1918 and RFC 6598. `255.255.255.255/32` alone makes it always so. Names of the REST
//! reference: `snat.privateRanges` of a policy, `Network.SNAT.PrivateRanges` of a firewall.

use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    firewall::Endpoint,
    net::{Ports, Protocol},
};
use serde_json::Value;

use super::{list, text, texts};

/// What stands for the ranges that are private by default.
const DEFAULT: &str = "IANAPrivateRanges";
const DEFAULTS: [([u8; 4], u8); 4] = [
    ([10, 0, 0, 0], 8),
    ([172, 16, 0, 0], 12),
    ([192, 168, 0, 0], 16),
    ([100, 64, 0, 0], 10),
];

/// How a firewall hides clients.
#[derive(Debug, Clone)]
pub(crate) struct Hiding {
    /// Before these destinations, network rules hide nobody.
    seen: Vec<IpNet>,
    /// Whether the policy inherits rules that may not be read: whom they let pass is not known.
    untold: bool,
    proxied: Vec<Proxied>,
}

/// An application rule that lets somebody pass.
#[derive(Debug, Clone)]
struct Proxied {
    name: String,
    sources: Vec<Endpoint>,
    ports: Vec<u16>,
}

impl Hiding {
    /// Of a classic firewall, by its document.
    pub(crate) fn of_firewall(document: &Value) -> Self {
        let properties = document.get("properties");
        let ranges = document
            .pointer("/properties/additionalProperties/Network.SNAT.PrivateRanges")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let proxied = list(properties, "applicationRuleCollections").flat_map(|collection| {
            let inner = collection.get("properties").unwrap_or(&Value::Null);
            of_collection(text(collection, "name"), inner)
        });
        Self {
            seen: seen(ranges.split(',').map(str::trim)),
            untold: false,
            proxied: proxied.collect(),
        }
    }

    /// Of a policy, by its document and the groups of it and of those that it inherits.
    pub(crate) fn of_policy(policies: &[&Value], levels: &[Vec<Value>]) -> Self {
        let policy = policies.first().copied().unwrap_or(&Value::Null);
        let has_parent = |policy: &&&Value| policy.pointer("/properties/basePolicy/id").is_some();
        let parents = policies.iter().filter(has_parent).count();
        let ranges = policy.pointer("/properties/snat").unwrap_or(&Value::Null);
        let proxied = levels.iter().flatten().flat_map(|group| {
            let within = text(group, "name");
            list(group.get("properties"), "ruleCollections").flat_map(move |collection| {
                of_collection(&format!("{within}/{}", text(collection, "name")), collection)
            })
        });
        Self {
            seen: seen(texts(ranges, "privateRanges")),
            untold: parents >= levels.len(),
            proxied: proxied.collect(),
        }
    }

    /// Whether rules that may not be read could let others pass.
    pub(crate) const fn is_untold(&self) -> bool {
        self.untold
    }

    /// Whether a machine there sees the firewall where network rules let somebody pass.
    pub(crate) fn before(&self, machine: IpAddr) -> bool {
        !self.seen.iter().any(|net| net.contains(&machine))
    }

    /// An application rule that may let others pass to one of the ports: `own` says whose addresses are no others'.
    /// What its names stand for is not known here.
    pub(super) fn proxies(&self, ports: Ports, own: impl Fn(IpAddr, IpAddr) -> bool) -> Option<String> {
        let is_own = |source: &Endpoint| matches!(source, Endpoint::Range(first, last) if own(*first, *last));
        self.proxied
            .iter()
            .filter(|_| ports.protocol() == Protocol::Tcp)
            .filter(|rule| {
                let asked = ports.first()..=ports.last();
                rule.ports.iter().any(|port| asked.contains(port))
            })
            .find(|rule| !rule.sources.iter().all(is_own))
            .map(|rule| rule.name.clone())
    }
}

fn seen<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<IpNet> {
    let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
    let defaults = DEFAULTS
        .iter()
        .filter(|_| texts.is_empty() || texts.iter().any(|text| text.eq_ignore_ascii_case(DEFAULT)))
        .filter_map(|(address, length)| IpNet::new(IpAddr::from(*address), *length).ok());
    let given = texts.iter().filter_map(|text| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address)
    });
    defaults.chain(given).collect()
}

fn of_collection(name: &str, collection: &Value) -> Vec<Proxied> {
    let denies = collection
        .pointer("/action/type")
        .and_then(Value::as_str)
        .is_some_and(|word| word.eq_ignore_ascii_case("Deny"));
    if denies {
        return Vec::new();
    }
    list(Some(collection), "rules")
        // A service of Azure's, or a kind of site on the internet, is no machine here.
        .filter(|rule| {
            ["targetFqdns", "targetUrls"]
                .iter()
                .any(|member| texts(rule, member).next().is_some())
        })
        .map(|rule| Proxied {
            name: format!("{name}/{}", text(rule, "name")),
            sources: texts(rule, "sourceAddresses")
                .map(Endpoint::parse)
                .chain(texts(rule, "sourceIpGroups").map(|group| Endpoint::Named(group.to_owned())))
                .collect(),
            ports: list(Some(rule), "protocols")
                .filter_map(|protocol| protocol.get("port").and_then(Value::as_u64))
                .filter_map(|port| port.try_into().ok())
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use postern_core::testing::ports;
    use serde_json::json;

    use super::*;

    fn of_ranges(ranges: &str) -> Hiding {
        Hiding::of_firewall(&json!({ "properties": {
            "additionalProperties": { "Network.SNAT.PrivateRanges": ranges },
        } }))
    }

    #[test]
    fn nobody_is_hidden_before_a_private_range_and_everybody_before_the_rest() {
        let hides = |ranges: &str, machine: &str| of_ranges(ranges).before(machine.parse().unwrap());
        for (ranges, machine, hidden) in [
            ("", "10.0.1.4", false),
            ("", "100.64.0.1", false),
            ("", "52.1.1.1", true),
            ("255.255.255.255/32", "10.0.1.4", true),
            ("0.0.0.0/0", "52.1.1.1", false),
            ("IANAPrivateRanges, 52.1.0.0/16", "52.1.1.1", false),
            ("ianaprivateranges,52.1.0.0/16", "10.0.1.4", false),
            ("52.1.0.0/16", "10.0.1.4", true),
            // An address is one of itself.
            ("52.1.1.1", "52.1.1.1", false),
            ("52.1.1.1", "52.1.1.2", true),
        ] {
            assert_eq!(hides(ranges, machine), hidden, "`{ranges}` {machine}");
        }
    }

    /// What the policy's application rule says that stands in the way of a grant for one client's TCP port.
    fn proxied(action: &str, member: &str, sources: &Value, port: u16, asked: &str) -> Option<String> {
        let mut rule = json!({
            "name": "web", "ruleType": "ApplicationRule", "protocols": [{ "protocolType": "Http", "port": port }],
        });
        rule[member] = json!(["*"]);
        for (key, value) in sources.as_object().unwrap() {
            rule[key] = value.clone();
        }
        let group = json!({ "name": "g", "properties": { "ruleCollections": [
            { "name": "c", "action": { "type": action }, "rules": [rule] },
        ] } });
        let policy = json!({ "properties": {} });
        let hiding = Hiding::of_policy(&[&policy], &[vec![group]]);
        assert!(!hiding.is_untold());
        let client: IpNet = "192.168.1.0/24".parse().unwrap();
        hiding.proxies(ports(asked), |first, last| {
            client.contains(&first) && client.contains(&last)
        })
    }

    #[test]
    fn an_application_rule_that_lets_others_pass_to_the_port_is_named() {
        let any = json!({ "sourceAddresses": ["*"] });
        let told = Some("g/c/web".to_owned());
        assert_eq!(proxied("Allow", "targetFqdns", &any, 5985, "5985"), told);
        assert_eq!(proxied("Allow", "targetUrls", &any, 5985, "5980-5990"), told);
        let group = json!({ "sourceIpGroups": ["/ipgroups/office"] });
        assert_eq!(proxied("Allow", "targetFqdns", &group, 5985, "5985"), told);
        let wide = json!({ "sourceAddresses": ["192.168.0.0/16"] });
        assert_eq!(proxied("Allow", "targetFqdns", &wide, 5985, "5985"), told);
    }

    #[test]
    fn an_application_rule_for_somebody_or_something_else_is_not() {
        let any = json!({ "sourceAddresses": ["*"] });
        let own = json!({ "sourceAddresses": ["192.168.1.7", "192.168.1.0/25"] });
        assert_eq!(proxied("Deny", "targetFqdns", &any, 5985, "5985"), None);
        assert_eq!(proxied("Allow", "fqdnTags", &any, 5985, "5985"), None);
        assert_eq!(proxied("Allow", "targetFqdns", &any, 5985, "5986"), None);
        assert_eq!(proxied("Allow", "targetFqdns", &any, 5985, "5985/udp"), None);
        assert_eq!(proxied("Allow", "targetFqdns", &own, 5985, "5985"), None);
    }

    #[test]
    fn a_policy_whose_parent_was_not_read_may_hide_anybody() {
        let child = json!({ "properties": { "basePolicy": { "id": "parent" } } });
        let parent = json!({ "properties": {} });
        assert!(Hiding::of_policy(&[&child], &[vec![]]).is_untold());
        assert!(!Hiding::of_policy(&[&child, &parent], &[vec![], vec![]]).is_untold());
    }
}
