//! What a plan would do, before anybody carries it out: the rules before and after, and who would gain or lose reach.
//!
//! Pure, and the same for both clouds: an enforcer says how the filters of a point would change ([`PointPreview`]),
//! [`Preview::of`] puts the changed filters before the machines of the inventory and compares. What passes is judged
//! over all hops, so that a change at one of two NSGs gains nothing while the other stays shut.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    enforcer::{Finding, Obstacle},
    inventory::{Interface, Layer, Machine},
    machine::MachineId,
    net::{Ports, Protocol, Source},
    nsg::{Access, Memberships, NsgRule, private_networks},
    point::PointRef,
    reach::{
        self, Flow, RuleRef,
        region::{Addresses, Family, Piece, Rect, subtract},
    },
    sg::{SecurityGroup, SgRule},
};

/// NSG rules from here on are Azure's defaults, which nobody writes.
const FIRST_DEFAULT: u16 = 65_000;

/// The filters of a point, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Filters {
    /// An NSG's inbound rules without the defaults, in the order in which they are looked at.
    Nsg {
        /// As they are.
        before: Vec<NsgRule>,
        /// As they would be.
        after: Vec<NsgRule>,
    },
    /// The security groups of each interface concerned, by the interface's id.
    SecurityGroups {
        /// As they are.
        before: BTreeMap<String, Vec<SecurityGroup>>,
        /// As they would be.
        after: BTreeMap<String, Vec<SecurityGroup>>,
    },
}

/// What would become of one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointPreview {
    /// Which.
    pub point: PointRef,
    /// Its filters.
    pub filters: Filters,
    /// What would be written, in order, in a line each.
    pub changes: Vec<String>,
    /// What is wanted and cannot be had.
    pub obstacles: Vec<Obstacle>,
    /// What was noticed.
    pub findings: Vec<Finding>,
}

/// Somebody gains or loses the way to a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReachChange {
    /// To which machine.
    pub machine: MachineId,
    /// At which of its private addresses.
    pub destination: IpAddr,
    /// To which ports.
    pub ports: Ports,
    /// From where, aggregated, in order. `0.0.0.0/0` and `::/0` are the internet.
    pub sources: Vec<IpNet>,
    /// The innermost rule that lets them in, after for a gain, before for a loss; none where nothing filters.
    pub rule: Option<RuleRef>,
    /// Whether it is certain. Otherwise the rule names something (a service tag, a group) whose addresses are not known
    /// here, and the sources are the most that it could be.
    pub certain: bool,
}

/// What a plan over some points would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Each point.
    pub points: Vec<PointPreview>,
    /// Who would get to ports that are closed to them.
    pub gains: Vec<ReachChange>,
    /// Who would not get any more to ports that are open to them.
    pub losses: Vec<ReachChange>,
}

impl fmt::Display for ReachChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        write!(
            f,
            "{}{} to {} of `{}` at {}",
            if self.certain { "" } else { "possibly " },
            sources.join(", "),
            self.ports,
            self.machine.short(),
            self.destination
        )?;
        match &self.rule {
            Some(rule) => write!(f, " by {rule}"),
            None => f.write_str(", where nothing filters"),
        }
    }
}

impl Preview {
    /// Compares reach at the machines, on these ports, before and after what the points would become. Machines that
    /// are behind none of the points come out unchanged.
    pub fn of(machines: &[Machine], points: Vec<PointPreview>, ports: &[Ports]) -> Self {
        let mut gains = BTreeSet::new();
        let mut losses = BTreeSet::new();
        for machine in machines {
            let interfaces = machine
                .interfaces
                .iter()
                .filter(|interface| points.iter().any(|one| concerns(one, interface)));
            for interface in interfaces {
                let (before, after) = (
                    with(interface, &points, Side::Before),
                    with(interface, &points, Side::After),
                );
                for destination in interface.addresses.iter().copied() {
                    for ports in ports {
                        let (was, will) = (
                            ways(&before, destination, *ports),
                            ways(&after, destination, *ports),
                        );
                        let about = (&machine.id, interface, destination, *ports);
                        gains.extend(changes(about, &will, &was));
                        losses.extend(changes(about, &was, &will));
                    }
                }
            }
        }
        Self {
            points,
            gains: gains.into_iter().collect(),
            losses: losses.into_iter().collect(),
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

fn concerns(one: &PointPreview, interface: &Interface) -> bool {
    match &one.filters {
        Filters::Nsg { .. } => interface
            .layers
            .iter()
            .any(|layer| matches!(layer, Layer::Nsg { point, .. } if *point == one.point)),
        Filters::SecurityGroups { before, after } => {
            before.contains_key(&interface.id) || after.contains_key(&interface.id)
        }
    }
}

/// The interface behind the filters of that side.
fn with(interface: &Interface, points: &[PointPreview], side: Side) -> Interface {
    let mut changed = interface.clone();
    for layer in &mut changed.layers {
        for one in points {
            match (&mut *layer, &one.filters) {
                (Layer::Nsg { point, rules, .. }, Filters::Nsg { before, after }) if *point == one.point => {
                    let own = match side {
                        Side::Before => before,
                        Side::After => after,
                    };
                    rules.retain(|rule| rule.priority >= FIRST_DEFAULT);
                    rules.extend(own.iter().cloned());
                }
                (Layer::SecurityGroups { groups }, Filters::SecurityGroups { before, after }) => {
                    let own = match side {
                        Side::Before => before,
                        Side::After => after,
                    };
                    if let Some(own) = own.get(&interface.id) {
                        groups.clone_from(own);
                    }
                }
                _ => {}
            }
        }
    }
    changed
}

/// Packets that pass every hop, or may.
#[derive(Clone)]
struct Passage {
    rect: Rect,
    certain: bool,
    rule: Option<RuleRef>,
}

/// Where packets come from. Names in rules mean different things for each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The internet: every address that is not of the others.
    Internet,
    /// Addresses that are nobody's on the internet: of peered and on-premises networks, perhaps.
    Private,
    /// The interface's own network.
    Network,
}

/// What passes to an address from one origin.
struct Way {
    origin: Origin,
    /// All of the origin's addresses, as a range.
    all: Addresses,
    passages: Vec<Passage>,
}

/// What passes to the address from everywhere.
fn ways(interface: &Interface, destination: IpAddr, ports: Ports) -> Vec<Way> {
    let family = Family::of(destination);
    let sources = |origin, nets: Vec<IpNet>| {
        nets.into_iter()
            .filter(move |net| Family::of(net.addr()) == family)
            .filter_map(move |net| Some((origin, Source::try_from(net.trunc()).ok()?)))
    };
    iter::once((Origin::Internet, family.any()))
        .chain(sources(Origin::Private, private_networks().collect()))
        .chain(sources(Origin::Network, interface.network.clone()))
        .map(|(origin, source)| {
            let flow = Flow {
                source,
                destination,
                ports,
            };
            let all = Addresses::of(source.net());
            let start = Passage {
                rect: Rect {
                    addresses: all,
                    ports: (ports.first(), ports.last()),
                },
                certain: true,
                rule: None,
            };
            let passages = interface.layers.iter().fold(vec![start], |outer, layer| {
                let inner = of_layer(layer, interface, &flow);
                outer
                    .iter()
                    .flat_map(|one| {
                        inner.iter().filter_map(|other| {
                            Some(Passage {
                                rect: one.rect.intersect(other.rect)?,
                                certain: one.certain && other.certain,
                                rule: other.rule.clone(),
                            })
                        })
                    })
                    .collect()
            });
            Way {
                origin,
                all,
                passages,
            }
        })
        .collect()
}

fn of_layer(layer: &Layer, interface: &Interface, flow: &Flow) -> Vec<Passage> {
    match layer {
        Layer::Nsg {
            point,
            rules,
            memberships,
            possible_memberships,
            ..
        } => {
            let ordered = reach::nsg_order(rules);
            let known = Memberships::Known {
                certain: memberships,
                possible: possible_memberships,
            };
            let resource = point.to_string();
            let pieces = reach::nsg_pieces(&ordered, known, &interface.network, flow);
            passing(pieces, |at| {
                ordered.get(at).map(|rule| reach::nsg_rule_ref(&resource, rule))
            })
        }
        // Its rules are not previewed: what passes the others is told.
        Layer::Firewall(_) => vec![Passage {
            rect: Rect {
                addresses: Addresses::of(flow.source.net()),
                ports: (flow.ports.first(), flow.ports.last()),
            },
            certain: true,
            rule: None,
        }],
        Layer::SecurityGroups { groups } => {
            let rules: Vec<(&str, &SgRule)> = reach::group_rules(groups).collect();
            let pieces = reach::group_pieces(rules.iter().map(|(_, rule)| *rule), &interface.network, flow);
            passing(pieces, |at| {
                rules.get(at).map(|(group, rule)| reach::sg_rule_ref(group, rule))
            })
        }
    }
}

fn passing(pieces: Vec<Piece>, name: impl Fn(usize) -> Option<RuleRef>) -> Vec<Passage> {
    pieces
        .into_iter()
        .filter_map(|piece| match piece.access {
            Access::Allow => Some(Passage {
                rect: piece.rect,
                certain: piece.unsure.is_empty(),
                rule: piece.rule.and_then(&name),
            }),
            // Denied, unless an earlier rule matches after all.
            Access::Deny => piece.unsure.first().map(|at| Passage {
                rect: piece.rect,
                certain: false,
                rule: name(*at),
            }),
        })
        .collect()
}

/// What passes `now` and does not, not even possibly, on the `other` side. Addresses of more than one origin are told
/// with the narrowest, except where it is not certain that they pass.
fn changes(
    (machine, interface, destination, ports): (&MachineId, &Interface, IpAddr, Ports),
    now: &[Way],
    other: &[Way],
) -> Vec<ReachChange> {
    let own: Vec<Addresses> = interface.network.iter().copied().map(Addresses::of).collect();
    let narrower: Vec<Addresses> = private_networks()
        .filter(|net| Family::of(net.addr()) == Family::of(destination))
        .map(Addresses::of)
        .chain(own.iter().copied())
        .collect();
    let mut found: BTreeMap<(Ports, Option<RuleRef>, bool), Vec<IpNet>> = BTreeMap::new();
    for (now, other) in now.iter().zip(other) {
        let others: Vec<Rect> = other.passages.iter().map(|passage| passage.rect).collect();
        for passage in &now.passages {
            for rect in subtract(passage.rect, &others) {
                let range = range(ports.protocol(), rect.ports).unwrap_or(ports);
                let addresses = match now.origin {
                    Origin::Internet if rect.addresses != now.all => rect.addresses.without(&narrower),
                    Origin::Private if passage.certain => rect.addresses.without(&own),
                    _ => vec![rect.addresses],
                };
                let nets = addresses
                    .into_iter()
                    .flat_map(|addresses| addresses.nets(Family::of(destination)));
                found
                    .entry((range, passage.rule.clone(), passage.certain))
                    .or_default()
                    .extend(nets);
            }
        }
    }
    found
        .into_iter()
        .filter(|(_, nets)| !nets.is_empty())
        .map(|((ports, rule, certain), nets)| ReachChange {
            machine: machine.clone(),
            destination,
            ports,
            sources: IpNet::aggregate(&nets),
            rule,
            certain,
        })
        .collect()
}

fn range(protocol: Protocol, (first, last): (u16, u16)) -> Option<Ports> {
    Ports::range(protocol, first, last).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        inventory::{Place, Power},
        nsg::{AddressPrefix, Direction, NsgPorts, NsgProtocol},
        reach::{Verdict, reach_address},
        sg::{SgPeer, SgProtocol},
        testing::ports,
    };

    fn rule(priority: u16, access: Access, source: &str, range: &str) -> NsgRule {
        let side = |text: &str| crate::nsg::Side {
            prefixes: vec![AddressPrefix::parse(text)],
            groups: vec![],
        };
        NsgRule {
            name: format!("r{priority}"),
            description: None,
            priority,
            direction: Direction::Inbound,
            access,
            protocol: NsgProtocol::Any,
            source: side(source),
            destination: side("*"),
            ports: vec![NsgPorts::parse(range).unwrap()],
            source_ports: vec![NsgPorts::ALL],
        }
    }

    fn point(name: &str) -> PointRef {
        PointRef::nsg("00000000-0000-0000-0000-000000000001", "rg", name).unwrap()
    }

    fn defaults() -> Vec<NsgRule> {
        vec![
            rule(65000, Access::Allow, "VirtualNetwork", "*"),
            rule(65500, Access::Deny, "*", "*"),
        ]
    }

    fn machine(layers: Vec<Layer>) -> Machine {
        let id = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
        Machine {
            id: id.parse().unwrap(),
            name: "vm1".into(),
            tags: BTreeMap::new(),
            power: Power::Running,
            interfaces: vec![Interface {
                id: "nic".into(),
                addresses: vec!["10.0.0.4".parse().unwrap()],
                public_addresses: vec![],
                network: vec!["10.0.0.0/16".parse().unwrap()],
                network_id: "n".into(),
                layers,
            }],
        }
    }

    fn nsg(name: &str, place: Place, mut rules: Vec<NsgRule>) -> Layer {
        rules.extend(defaults());
        Layer::Nsg {
            point: point(name),
            place,
            rules,
            memberships: BTreeSet::new(),
            possible_memberships: BTreeSet::new(),
        }
    }

    fn becomes(name: &str, before: Vec<NsgRule>, after: Vec<NsgRule>) -> PointPreview {
        PointPreview {
            point: point(name),
            filters: Filters::Nsg { before, after },
            changes: vec![],
            obstacles: vec![],
            findings: vec![],
        }
    }

    fn lines(changes: &[ReachChange]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lockdown_says_who_loses_what_by_which_rule() {
        let before = vec![
            rule(300, Access::Allow, "203.0.113.0/24", "20-30"),
            rule(310, Access::Allow, "*", "443"),
        ];
        let mut after = before.clone();
        after.push(rule(299, Access::Deny, "*", "22"));
        let machine = machine(vec![nsg("own", Place::Interface, before.clone())]);
        let preview = Preview::of(
            &[machine],
            vec![becomes("own", before, after)],
            &[ports("22"), ports("443")],
        );
        assert_eq!(preview.gains, []);
        assert_eq!(
            lines(&preview.losses),
            [
                "10.0.0.0/16 to 22/tcp of `vm1` at 10.0.0.4 by rule `r65000` (priority 65000) of `own`",
                "possibly 10.1.0.0/16, 10.2.0.0/15, 10.4.0.0/14, 10.8.0.0/13, 10.16.0.0/12, 10.32.0.0/11, \
                 10.64.0.0/10, 10.128.0.0/9, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16 to 22/tcp \
                 of `vm1` at 10.0.0.4 by rule `r65000` (priority 65000) of `own`",
                "203.0.113.0/24 to 22/tcp of `vm1` at 10.0.0.4 by rule `r300` (priority 300) of `own`",
            ]
        );
    }

    #[test]
    fn what_opens_one_hop_of_two_gains_nothing_and_what_opens_both_does() {
        let open = [rule(298, Access::Allow, "203.0.113.7", "22")];
        let shut = vec![rule(299, Access::Deny, "*", "22")];
        let both: Vec<NsgRule> = open.iter().chain(&shut).cloned().collect();
        let machine = machine(vec![
            nsg("outer", Place::Subnet, shut.clone()),
            nsg("inner", Place::Interface, shut.clone()),
        ]);
        let of = |names: &[&str]| {
            let points = names
                .iter()
                .map(|name| becomes(name, shut.clone(), both.clone()))
                .collect();
            Preview::of(std::slice::from_ref(&machine), points, &[ports("22")])
        };
        assert_eq!(of(&["outer"]).gains, []);
        assert_eq!(of(&["inner"]).gains, []);
        let preview = of(&["outer", "inner"]);
        assert_eq!(
            lines(&preview.gains),
            ["203.0.113.7/32 to 22/tcp of `vm1` at 10.0.0.4 by rule `r298` (priority 298) of `inner`"]
        );
        assert_eq!(preview.losses, []);
    }

    #[test]
    fn a_rule_for_a_name_gains_possibly() {
        let after = vec![rule(298, Access::Allow, "FutureService", "22")];
        let machine = machine(vec![nsg("own", Place::Interface, vec![])]);
        let preview = Preview::of(&[machine], vec![becomes("own", vec![], after)], &[ports("22")]);
        assert_eq!(
            lines(&preview.gains),
            ["possibly 0.0.0.0/0 to 22/tcp of `vm1` at 10.0.0.4 by rule `r298` (priority 298) of `own`",]
        );
    }

    #[test]
    fn a_group_that_is_attached_gains_in_the_same_words() {
        let group = |id: &str, net: &str| SecurityGroup {
            id: id.into(),
            name: id.into(),
            vpc: "vpc-1".into(),
            ingress: vec![SgRule {
                id: Some(format!("{id}-1")),
                protocol: SgProtocol::Tcp,
                ports: Some((22, 22)),
                peer: SgPeer::Net(net.parse().unwrap()),
                description: None,
                tags: BTreeMap::new(),
            }],
            egress: vec![],
            tags: BTreeMap::new(),
        };
        let old = vec![group("sg-a", "10.1.0.0/16")];
        let new = vec![group("sg-a", "10.1.0.0/16"), group("sg-b", "203.0.113.7/32")];
        let mut machine = machine(vec![Layer::SecurityGroups { groups: old.clone() }]);
        let instance = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0";
        machine.id = instance.parse().unwrap();
        let MachineId::Aws(id) = machine.id.clone() else {
            panic!("{instance}");
        };
        let one = PointPreview {
            point: PointRef::AwsInstance(id),
            filters: Filters::SecurityGroups {
                before: BTreeMap::from([("nic".to_owned(), old)]),
                after: BTreeMap::from([("nic".to_owned(), new)]),
            },
            changes: vec![],
            obstacles: vec![],
            findings: vec![],
        };
        let preview = Preview::of(&[machine], vec![one], &[ports("22")]);
        assert_eq!(preview.gains.len(), 1);
        assert_eq!(preview.gains[0].sources, ["203.0.113.7/32".parse().unwrap()]);
        assert_eq!(preview.losses, []);
    }

    fn some_rules() -> impl Strategy<Value = Vec<NsgRule>> {
        let one = (
            any::<bool>(),
            prop::sample::select(vec![
                "*",
                "203.0.113.0/24",
                "203.0.113.7",
                "Internet",
                "10.0.0.0/8",
                "FutureService",
            ]),
            prop::sample::select(vec!["22", "20-30", "*", "3389"]),
        );
        prop::collection::btree_map(100u16..200, one, 0..6).prop_map(|rules| {
            rules
                .into_iter()
                .map(|(priority, (allow, source, range))| {
                    let access = if allow { Access::Allow } else { Access::Deny };
                    rule(priority, access, source, range)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn whoever_gains_or_loses_does_and_nobody_else(before in some_rules(), after in some_rules()) {
            let side = |rules: &[NsgRule]| machine(vec![nsg("own", Place::Interface, rules.to_vec())]);
            let (was, will) = (side(&before), side(&after));
            let points = vec![becomes("own", before, after)];
            let wanted = [ports("22"), ports("3389")];
            let preview = Preview::of(std::slice::from_ref(&was), points, &wanted);
            for source in ["203.0.113.7", "203.0.113.8", "198.51.100.1", "10.9.0.1", "10.0.0.9"] {
                let source: Source = source.parse().unwrap();
                for ports in wanted {
                    let verdict = |machine: &Machine| {
                        let flow = Flow { source, destination: "10.0.0.4".parse().unwrap(), ports };
                        reach_address(&machine.interfaces[0], &flow).verdict
                    };
                    let named = |changes: &[ReachChange]| changes.iter().any(|change| {
                        change.ports.contains(ports) && change.certain
                            && change.sources.iter().any(|net| net.prefix_len() > 0 && net.contains(&source.net()))
                    });
                    let (first, last) = (verdict(&was), verdict(&will));
                    // The internet as a whole stands for addresses that `Internet` means; others are told exactly.
                    if named(&preview.gains) {
                        prop_assert!(first != Verdict::Allowed, "{source} {ports} {preview:#?}");
                    }
                    if named(&preview.losses) {
                        prop_assert!(last != Verdict::Allowed, "{source} {ports} {preview:#?}");
                    }
                    let said = |changes: &[ReachChange]| changes.iter().any(|change| {
                        change.ports.contains(ports) && change.sources.iter().any(|net| net.contains(&source.net()))
                    });
                    if (first, last) == (Verdict::Denied, Verdict::Allowed) {
                        prop_assert!(said(&preview.gains), "{source} {ports} {preview:#?}");
                    }
                    if (first, last) == (Verdict::Allowed, Verdict::Denied) {
                        prop_assert!(said(&preview.losses), "{source} {ports} {preview:#?}");
                    }
                }
            }
        }
    }
}
