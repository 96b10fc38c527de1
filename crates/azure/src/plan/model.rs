//! A small model of an NSG for the planner's tests: it takes writes as ARM does, refuses what ARM refuses, and
//! tells what a packet meets. Evaluates packets by itself, on concrete addresses.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use postern_core::{
    enforcer::{Change, Desired, Guard, Member, Observed, Plan, WantedGrant},
    net::{Ports, Source},
    nsg::{Access, AddressPrefix, Direction, NsgProtocol, NsgRule, Side},
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, at, ports},
};
use serde_json::{Value, json};

use super::{ObservedNsg, ReadRule};
use crate::{config::PriorityBand, operation::Operation};

pub(super) fn point() -> PointRef {
    PointRef::nsg("00000000-0000-0000-0000-000000000001", "rg", "nsg").unwrap()
}

/// An NSG that takes writes.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) raw: Value,
    pub(super) band: PriorityBand,
    pub(super) bulk: usize,
}

/// A concrete packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) port: u16,
    pub(super) udp: bool,
}

pub(super) fn foreign(
    name: &str,
    priority: u16,
    access: &str,
    protocol: &str,
    from: &str,
    to: &str,
    port: &str,
) -> Value {
    json!({
        "name": name,
        "novelty": { "kept": [1, null] },
        "properties": {
            "priority": priority, "direction": "Inbound", "access": access, "protocol": protocol,
            "sourceAddressPrefix": from, "sourcePortRange": "*",
            "destinationAddressPrefix": to, "destinationPortRange": port,
            "provisioningState": "Succeeded",
        },
    })
}

impl Model {
    pub(super) fn new(rules: &[Value]) -> Self {
        let default = |name: &str, priority: u16, access: &str, from: &str, to: &str| {
            foreign(name, priority, access, "*", from, to, "*")
        };
        Self {
            raw: json!({
                "id": "nsg", "etag": "W/\"0\"", "novelty": true,
                "properties": {
                    "provisioningState": "Succeeded",
                    "securityRules": rules,
                    "defaultSecurityRules": [
                        default("AllowVnetInBound", 65000, "Allow", "VirtualNetwork", "VirtualNetwork"),
                        default("DenyAllInBound", 65500, "Deny", "*", "*"),
                    ],
                },
            }),
            band: PriorityBand::default(),
            bulk: 1000,
        }
    }

    pub(super) fn observed(&self) -> ObservedNsg {
        ObservedNsg::read(point(), self.raw.clone(), self.band, self.bulk).unwrap()
    }

    pub(super) fn plan(&self, desired: &Desired) -> Plan {
        self.observed().plan(desired)
    }

    pub(super) fn rules(&self) -> &Vec<Value> {
        self.raw["properties"]["securityRules"].as_array().unwrap()
    }

    /// The rules without what ARM adds, in the order of their names.
    pub(super) fn content(&self) -> Vec<Value> {
        let mut rules = self.rules().clone();
        rules.sort_by_key(|rule| rule["name"].as_str().unwrap().to_owned());
        rules
    }

    pub(super) fn foreign_rules(&self) -> Vec<Value> {
        let ours = |rule: &&Value| !rule["name"].as_str().unwrap().starts_with("postern-test-");
        self.rules().iter().filter(ours).cloned().collect()
    }

    /// Carries out a change.
    pub(super) fn apply(&mut self, change: &Change) {
        let operation: Operation = serde_json::from_value(change.operation.clone()).unwrap();
        self.raw = operation.edit(self.raw.clone()).unwrap();
        for rule in self.raw["properties"]["securityRules"].as_array_mut().unwrap() {
            rule["properties"]["provisioningState"] = json!("Succeeded");
        }
        self.raw["properties"]["provisioningState"] = json!("Succeeded");
        self.check();
    }

    /// Refuses what ARM refuses.
    fn check(&self) {
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        assert!(self.rules().len() <= 1000);
        for raw in self.rules() {
            let properties = &raw["properties"];
            let rule = ReadRule::read(raw).unwrap().rule;
            assert!(
                numbers.insert((properties["direction"].to_string(), rule.priority)),
                "{raw}"
            );
            assert!(names.insert(rule.name.to_lowercase()), "{raw}");
            assert!((100..=4096).contains(&rule.priority), "{raw}");
            assert!(rule.name.len() <= 80, "{raw}");
            assert!(
                rule.description.as_ref().is_none_or(|text| text.len() <= 140),
                "{raw}"
            );
            let mut families = BTreeSet::new();
            for list in ["sourceAddressPrefixes", "destinationAddressPrefixes"] {
                let nets: Vec<IpNet> = properties[list]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|text| match AddressPrefix::parse(text.as_str().unwrap()) {
                        AddressPrefix::Net(net) => net,
                        AddressPrefix::Tag(tag) => panic!("`{tag}` in a list"),
                    })
                    .collect();
                for (at, one) in nets.iter().enumerate() {
                    assert!(
                        nets.iter()
                            .skip(at + 1)
                            .all(|other| !one.contains(other) && !other.contains(one))
                    );
                }
            }
            for prefix in rule.source.prefixes.iter().chain(&rule.destination.prefixes) {
                if let AddressPrefix::Net(net) = prefix {
                    families.insert(net.addr().is_ipv6());
                }
            }
            assert!(families.len() <= 1, "{raw}");
            assert!(!rule.ports.is_empty());
            for side in [&rule.source, &rule.destination] {
                assert!(!side.prefixes.is_empty() || !side.groups.is_empty(), "{raw}");
            }
        }
    }

    /// Its inbound rules, in the order in which they are asked.
    pub(super) fn filter(&self) -> Filter {
        let properties = &self.raw["properties"];
        let mut rules: Vec<NsgRule> = ["securityRules", "defaultSecurityRules"]
            .iter()
            .flat_map(|list| properties[list].as_array().unwrap())
            .map(|raw| ReadRule::read(raw).unwrap().rule)
            .filter(|rule| rule.direction == Direction::Inbound)
            .collect();
        rules.sort_by_key(|rule| rule.priority);
        Filter(rules)
    }
}

/// Inbound rules in order.
pub(super) struct Filter(Vec<NsgRule>);

impl Filter {
    /// Whether the packet passes: the first rule that matches says.
    pub(super) fn passes(&self, packet: Packet) -> bool {
        let holds = |side: &Side, address: IpAddr| {
            !side.groups.is_empty()
                || side.prefixes.iter().any(|prefix| match prefix {
                    AddressPrefix::Net(net) => net.contains(&address),
                    AddressPrefix::Tag(tag) if tag == "VirtualNetwork" => match address {
                        IpAddr::V4(address) => address.is_private(),
                        IpAddr::V6(address) => address.is_unique_local(),
                    },
                    AddressPrefix::Tag(_) => true,
                })
        };
        self.0
            .iter()
            .find(|rule| {
                let protocol = match rule.protocol {
                    NsgProtocol::Any => true,
                    NsgProtocol::Tcp => !packet.udp,
                    NsgProtocol::Udp => packet.udp,
                    _ => false,
                };
                protocol
                    && rule
                        .ports
                        .iter()
                        .any(|ports| ports.overlaps(packet.port, packet.port))
                    && holds(&rule.source, packet.from)
                    && holds(&rule.destination, packet.to)
            })
            .is_some_and(|rule| rule.access == Access::Allow)
    }
}

pub(super) fn member(number: usize, addresses: &[&str]) -> Member {
    let id = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines";
    Member {
        machine: format!("{id}/vm{number}").parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        interfaces: vec![format!("nic{number}")],
        guard: None,
        approach: None,
        grants: Vec::new(),
    }
}

pub(super) fn guard(policy: u128, guarded: &[&str]) -> Guard {
    let mut guarded: Vec<Ports> = guarded.iter().map(|text| ports(text)).collect();
    guarded.sort();
    Guard {
        policy: an_id(policy),
        ports: guarded,
        lockdown: Lockdown::Strict,
        shared_groups: SharedGroups::Refuse,
    }
}

pub(super) fn deferring(policy: u128, guarded: &[&str]) -> Guard {
    Guard {
        lockdown: Lockdown::Defer,
        ..guard(policy, guarded)
    }
}

pub(super) fn grant(number: u128, wanted: &[&str], sources: &[&str]) -> WantedGrant {
    let sources: Vec<Source> = sources.iter().map(|text| text.parse().unwrap()).collect();
    WantedGrant {
        grant: an_id(1000 + number),
        ports: wanted.iter().map(|text| ports(text)).collect(),
        sources,
        not_after: at(600),
        opening: false,
    }
}

pub(super) fn desired(members: Vec<Member>) -> Desired {
    Desired {
        installation: "test".parse().unwrap(),
        point: point(),
        members,
        displaced: Vec::new(),
        unsettled: false,
    }
}

/// Plans and applies until nothing is left to do, checking every step on the way.
pub(super) fn converge(model: &mut Model, desired: &Desired) {
    let packets = packets();
    for _ in 0..4 {
        let plan = model.plan(desired);
        if plan.changes.is_empty() {
            return;
        }
        let before = model.clone();
        let mut steps = Vec::new();
        for change in &plan.changes {
            model.apply(change);
            let once = model.clone();
            model.apply(change);
            assert_eq!(
                once.raw, model.raw,
                "a change applied twice is one that was applied once"
            );
            steps.push(once);
        }
        let (first, last) = (before.filter(), model.filter());
        let shut: Vec<Packet> = packets
            .iter()
            .copied()
            .filter(|packet| !first.passes(*packet) && !last.passes(*packet))
            .collect();
        for step in steps.iter().map(Model::filter) {
            for packet in &shut {
                assert!(
                    !step.passes(*packet),
                    "{packet:?} passes on the way only:\n{:#?}",
                    plan.changes
                );
            }
        }
        assert_eq!(model.foreign_rules(), before.foreign_rules());
    }
    panic!("no end: {:#?}", model.plan(desired).changes);
}

fn packets() -> Vec<Packet> {
    let mut all = Vec::new();
    for (froms, tos) in [
        (
            &[
                "203.0.113.7",
                "203.0.113.99",
                "198.51.100.1",
                "8.8.8.8",
                "10.0.0.9",
            ][..],
            &["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"][..],
        ),
        (&["2001:db8::7", "2001:db9::1"][..], &["fd00::4", "fd00::5"][..]),
    ] {
        for from in froms {
            for to in tos {
                for (port, udp) in [
                    (22, false),
                    (25, false),
                    (3389, false),
                    (443, false),
                    (53, true),
                    (22, true),
                ] {
                    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                    all.push(Packet { from, to, port, udp });
                }
            }
        }
    }
    all
}
