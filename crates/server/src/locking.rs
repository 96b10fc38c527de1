//! What a lockdown would take from whom, from the last observation: the plan that a change of policy shows first.
//!
//! Pure. A lockdown's end is simple to foresee: nobody's rule but a grant's lets anything in to the guarded ports.
//! Whether it gets there (a shared group may be refused, an NSG may be full) is for the planners to say.

use std::collections::BTreeMap;

use postern_core::{
    inventory::{Layer, Machine, is_holder},
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    net::{Ports, Protocol},
    nsg::{Access, AddressPrefix, Direction, NsgPorts, NsgProtocol, NsgRule, SharedMark, Side},
    point::PointRef,
    policy::{JitPolicy, Lockdown},
    preview::{Filters, PointPreview, Preview, ReachChange},
    sg::{SecurityGroup, SgProtocol, SgRule},
};

/// Azure's defaults, which nobody writes, begin here.
const FIRST_DEFAULT: u16 = 65_000;

/// Who would not get any more to ports of the machines when the policy guards them.
pub(crate) fn losses(
    machines: &[Machine],
    policy: &JitPolicy,
    installation: &Installation,
) -> Vec<ReachChange> {
    let ports: Vec<Ports> = policy.guards.iter().map(|guard| guard.ports).collect();
    let mut nsgs: BTreeMap<PointRef, (Vec<NsgRule>, Vec<AddressPrefix>)> = BTreeMap::new();
    let mut points = Vec::new();
    for machine in machines {
        let mut before = BTreeMap::new();
        for interface in &machine.interfaces {
            for layer in &interface.layers {
                match layer {
                    Layer::Nsg { point, rules, .. } => {
                        let (_, addresses) = nsgs
                            .entry(point.clone())
                            .or_insert_with(|| (written(rules), Vec::new()));
                        addresses.extend(
                            interface
                                .addresses
                                .iter()
                                .map(|one| AddressPrefix::parse(&one.to_string())),
                        );
                    }
                    Layer::Firewall(_) => {}
                    Layer::SecurityGroups { groups } => {
                        before.insert(interface.id.clone(), groups.clone());
                    }
                }
            }
        }
        if let MachineId::Aws(instance) = &machine.id {
            let after = match policy.lockdown {
                Lockdown::Strict => before
                    .iter()
                    .map(|(interface, groups)| (interface.clone(), without(groups, &ports, installation)))
                    .collect(),
                Lockdown::Defer => before.clone(),
            };
            points.push(point(
                PointRef::AwsInstance(instance.clone()),
                Filters::SecurityGroups { before, after },
            ));
        }
    }
    points.extend(nsgs.into_iter().map(|(at, (before, addresses))| {
        let after = locked(&before, &addresses, &ports, policy.lockdown, installation);
        point(at, Filters::Nsg { before, after })
    }));
    Preview::of(machines, points, &ports).losses
}

fn point(point: PointRef, filters: Filters) -> PointPreview {
    PointPreview {
        point,
        filters,
        changes: Vec::new(),
        obstacles: Vec::new(),
        findings: Vec::new(),
    }
}

fn written(rules: &[NsgRule]) -> Vec<NsgRule> {
    let inbound = |rule: &&NsgRule| rule.direction == Direction::Inbound && rule.priority < FIRST_DEFAULT;
    rules.iter().filter(inbound).cloned().collect()
}

/// The rules with a deny above everything but the rules of grants, or, where it defers, below everything but Azure's
/// defaults. The numbers say the order, and nothing else.
fn locked(
    rules: &[NsgRule],
    addresses: &[AddressPrefix],
    ports: &[Ports],
    lockdown: Lockdown,
    installation: &Installation,
) -> Vec<NsgRule> {
    let denies = ports.iter().map(|ports| NsgRule {
        name: format!("lockdown of {ports}"),
        description: None,
        priority: match lockdown {
            Lockdown::Strict => 1,
            Lockdown::Defer => FIRST_DEFAULT - 1,
        },
        direction: Direction::Inbound,
        access: Access::Deny,
        protocol: match ports.protocol() {
            Protocol::Tcp => NsgProtocol::Tcp,
            Protocol::Udp => NsgProtocol::Udp,
        },
        source: Side {
            prefixes: vec![AddressPrefix::Tag("*".to_owned())],
            groups: Vec::new(),
        },
        destination: Side {
            prefixes: addresses.to_vec(),
            groups: Vec::new(),
        },
        ports: vec![NsgPorts {
            first: ports.first(),
            last: ports.last(),
        }],
        source_ports: vec![NsgPorts::ALL],
    });
    let others = rules.iter().cloned().map(|mut rule| {
        if opens_a_grant(&rule, installation) {
            rule.priority = 0;
        }
        rule
    });
    denies.chain(others).collect()
}

fn opens_a_grant(rule: &NsgRule, installation: &Installation) -> bool {
    let text = rule.description.as_deref().unwrap_or_default();
    rule.access == Access::Allow
        && (Mark::parse(text).is_some_and(|mark| {
            mark.installation == *installation && matches!(mark.purpose, Purpose::Grant { .. })
        }) || SharedMark::parse(text).is_some_and(|mark| mark.installation == *installation))
}

/// The groups without others' rules for the ports. What such a rule opens beside them is not looked at here.
fn without(groups: &[SecurityGroup], ports: &[Ports], installation: &Installation) -> Vec<SecurityGroup> {
    groups
        .iter()
        .cloned()
        .map(|mut group| {
            if !is_holder(&group, installation) {
                group
                    .ingress
                    .retain(|rule| !ports.iter().any(|ports| lets_in(rule, *ports)));
            }
            group
        })
        .collect()
}

fn lets_in(rule: &SgRule, ports: Ports) -> bool {
    let protocol = match &rule.protocol {
        SgProtocol::All => return true,
        SgProtocol::Tcp => Protocol::Tcp,
        SgProtocol::Udp => Protocol::Udp,
        SgProtocol::Other(_) => return false,
    };
    protocol == ports.protocol()
        && rule
            .ports
            .is_none_or(|(first, last)| first <= i32::from(ports.last()) && i32::from(ports.first()) <= last)
}
