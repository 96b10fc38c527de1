//! How a machine's port can be reached, or may be soon, without the grant that is asked for: by others' rules at the machine
//! itself, and by others' NAT rules of a firewall before it.

use crate::{
    approach::{Approach, Exposure},
    inventory::{Interface, Layer, Machine},
    net::{Ports, Source},
    nsg::Access,
    reach::{Flow, RuleRef, Verdict, reach_address},
};

use super::{is_mark, openings};

/// One way in that a grant neither opens nor closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayIn {
    /// Somebody else's rule, by name: of an NSG, a security group, or a firewall's NAT.
    pub rule: RuleRef,
    /// Who comes in by it, in words: addresses, a tag, a group.
    pub sources: String,
    /// To which of the ports.
    pub ports: Ports,
    /// What it is.
    pub kind: WayInKind,
}

/// How far a way in leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayInKind {
    /// Rules at the machine let packets in, or may.
    Open,
    /// A firewall translates packets to the machine, and what stands there lets the firewall in.
    Translated,
    /// A firewall translates packets to the machine; what stands there stops them as long as no grant lets the firewall in.
    Stopped,
}

impl WayIn {
    /// In a sentence.
    pub fn detail(&self) -> String {
        let Self {
            rule,
            sources,
            ports,
            kind,
        } = self;
        match kind {
            WayInKind::Open => format!("{rule} lets {sources} reach {ports} without a grant"),
            WayInKind::Translated => {
                format!(
                    "NAT {rule} leads {sources} to {ports}, and the machine lets the firewall in without a grant"
                )
            }
            WayInKind::Stopped => format!(
                "NAT {rule} leads {sources} to {ports}; the machine lets nobody in who comes so, and a grant that does comes to share its way"
            ),
        }
    }
}

/// The ways in to these ports, as last observed: rules at the machine first. What carries a mark is left aside.
pub fn ways_in(machine: &Machine, ports: &[Ports]) -> Vec<WayIn> {
    let mut found = Vec::new();
    let mut add = |way: WayIn| {
        if !found.contains(&way) {
            found.push(way);
        }
    };
    let each = || {
        let interfaces = machine.interfaces.iter();
        interfaces.flat_map(|interface| ports.iter().map(move |ports| (interface, *ports)))
    };
    for (interface, ports) in each() {
        let all = openings(interface, ports);
        for opening in &all {
            // What is said of everybody is said of the neighbours.
            let is_said = all.iter().any(|one| {
                one.from_any && !opening.from_any && one.rule == opening.rule && one.ports == opening.ports
            });
            if !is_said {
                add(WayIn {
                    rule: opening.rule.clone(),
                    sources: opening.source.clone(),
                    ports: opening.ports,
                    kind: WayInKind::Open,
                });
            }
        }
    }
    for (interface, ports) in each() {
        for layer in &interface.layers {
            let Layer::Firewall(approach) = layer else {
                continue;
            };
            for exposure in &approach.exposures {
                if let Some(ports) = ports.intersect(exposure.ports) {
                    add(translated(interface, approach, exposure, ports));
                }
            }
        }
    }
    found
}

fn translated(interface: &Interface, approach: &Approach, exposure: &Exposure, ports: Ports) -> WayIn {
    let foreign = without_grants(interface);
    let sources = approach
        .inside
        .iter()
        .filter_map(|net| Source::try_from(net.trunc()).ok());
    let lets_in = sources
        .flat_map(|source| {
            interface.addresses.iter().map(move |destination| Flow {
                source,
                destination: *destination,
                ports,
            })
        })
        .filter(|flow| flow.destination.is_ipv4() == flow.source.net().addr().is_ipv4())
        .any(|flow| reach_address(&foreign, &flow).verdict != Verdict::Denied);
    let all: Vec<String> = exposure.sources.iter().map(ToString::to_string).collect();
    WayIn {
        rule: RuleRef {
            resource: approach.firewall.clone(),
            rule: exposure.rule.clone(),
            priority: None,
        },
        sources: all.join(", "),
        ports,
        kind: if lets_in {
            WayInKind::Translated
        } else {
            WayInKind::Stopped
        },
    }
}

/// The interface as it is when no grant is open: of marked rules its NSGs keep the denies.
fn without_grants(interface: &Interface) -> Interface {
    let mut foreign = interface.clone();
    for layer in &mut foreign.layers {
        if let Layer::Nsg { rules, .. } = layer {
            rules.retain(|rule| rule.access == Access::Deny || !is_mark(rule.description.as_ref()));
        }
    }
    foreign
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        inventory::{Place, Power},
        mark::{Mark, Purpose},
        nsg::NsgRule,
        point::PointRef,
        testing::{an_id, an_nsg_rule, at},
    };

    fn rule(name: &str, priority: u16, access: Access, source: &str, description: Option<String>) -> NsgRule {
        NsgRule {
            description,
            ..an_nsg_rule(name, priority, access, source, "22")
        }
    }

    fn mark(purpose: Purpose) -> String {
        let installation = "test".parse().unwrap();
        Mark {
            installation,
            purpose,
        }
        .to_string()
    }

    fn machine(rules: Vec<NsgRule>, exposures: Vec<Exposure>) -> Machine {
        let subscription = "00000000-0000-0000-0000-000000000001";
        let approach = Approach {
            point: PointRef::firewall(subscription, "hub", "edge").unwrap(),
            firewall: "/x/edge".to_owned(),
            address: [10, 0, 1, 4].into(),
            doors: vec!["20.0.0.1".parse().unwrap()],
            inside: vec!["10.0.9.0/26".parse().unwrap()],
            legs: vec![],
            fronts: vec![],
            unread: vec![],
            exposures,
            routed: None,
            room: None,
        };
        Machine {
            id: format!(
                "/subscriptions/{subscription}/resourceGroups/hub/providers/Microsoft.Compute/virtualMachines/vm"
            )
            .parse()
            .unwrap(),
            name: "vm".to_owned(),
            tags: BTreeMap::new(),
            power: Power::Running,
            interfaces: vec![Interface {
                id: "nic".to_owned(),
                addresses: vec!["10.0.1.4".parse().unwrap()],
                public_addresses: vec![],
                network: vec!["10.0.0.0/16".parse().unwrap()],
                network_id: "vnet".to_owned(),
                layers: vec![
                    Layer::Firewall(approach),
                    Layer::Nsg {
                        point: PointRef::nsg(subscription, "hub", "inner").unwrap(),
                        place: Place::Interface,
                        rules,
                        memberships: BTreeSet::new(),
                        possible_memberships: BTreeSet::new(),
                    },
                ],
            }],
        }
    }

    fn nat(ports: &str) -> Exposure {
        Exposure {
            certain: true,
            rule: "theirs/web".to_owned(),
            ports: ports.parse().unwrap(),
            sources: vec!["0.0.0.0/0".parse().unwrap()],
        }
    }

    fn kinds(machine: &Machine, ports: &str) -> Vec<(WayInKind, String)> {
        let found = ways_in(machine, &[ports.parse().unwrap()]);
        let found = found.into_iter();
        found.map(|way| (way.kind, way.rule.rule)).collect()
    }

    #[test]
    fn others_rules_are_ways_in_and_a_lockdown_shuts_them() {
        let everybody = rule("everybody", 300, Access::Allow, "*", None);
        let open = machine(vec![everybody.clone()], vec![]);
        assert_eq!(kinds(&open, "22"), [(WayInKind::Open, "everybody".to_owned())]);
        assert_eq!(kinds(&open, "23"), []);
        let deny = rule(
            "deny",
            200,
            Access::Deny,
            "*",
            Some(mark(Purpose::Lockdown { policy: an_id(1) })),
        );
        assert_eq!(kinds(&machine(vec![deny, everybody], vec![]), "22"), []);
    }

    #[test]
    fn a_nat_rule_of_others_is_a_way_in_as_far_as_the_nsg_lets_the_firewall_in_without_a_grant() {
        let shut = rule("shut", 400, Access::Deny, "*", None);
        let firewall = rule("firewall", 300, Access::Allow, "10.0.9.0/26", None);
        let granted = NsgRule {
            description: Some(mark(Purpose::Grant {
                grant: an_id(1),
                end: at(9),
            })),
            ..firewall.clone()
        };
        let name = || "theirs/web".to_owned();
        for (rules, expected) in [
            (vec![shut.clone()], WayInKind::Stopped),
            (vec![granted, shut.clone()], WayInKind::Stopped),
            (vec![firewall, shut], WayInKind::Translated),
        ] {
            let found = kinds(&machine(rules, vec![nat("22")]), "20-30");
            assert!(found.contains(&(expected, name())), "{expected:?} {found:?}");
        }
        assert_eq!(kinds(&machine(vec![], vec![nat("443")]), "22"), []);
        let default = rule("AllowVnetInBound", 65000, Access::Allow, "VirtualNetwork", None);
        let shown = ways_in(&machine(vec![default], vec![nat("22")]), &["22".parse().unwrap()]);
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!(
            shown[0].detail(),
            "NAT rule `theirs/web` of `edge` leads 0.0.0.0/0 to 22/tcp, and the machine lets the firewall in without a grant"
        );
    }
}
