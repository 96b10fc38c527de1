//! What a plan would do, before anybody carries it out: the rules before and after, and who would gain or lose reach.
//!
//! Pure, and the same for both clouds: a reading says what a plan would make of its filters
//! ([`Observed::filters`](crate::enforcer::Observed::filters)), [`Preview::of`] puts the changed filters before the
//! machines of the inventory and compares. What passes is judged over all hops, so that a change at one of two NSGs
//! gains nothing while the other stays shut.

mod behind;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    inventory::{Interface, Layer, Machine, is_holder},
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    net::{Ports, Protocol, Source},
    nsg::{Access, Memberships, NsgRule, SharedMark, private_networks},
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
    /// The ingress rules of a security group, wherever it is attached.
    SecurityGroup {
        /// As they are.
        before: Vec<SgRule>,
        /// As they would be.
        after: Vec<SgRule>,
    },
    /// Which security groups the interfaces of an instance have.
    Instance {
        /// Which they have.
        before: Attached,
        /// Which they would have.
        after: Attached,
    },
}

/// The security groups of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The ids of the groups of each interface, by the interface's id.
    pub interfaces: BTreeMap<String, Vec<String>>,
    /// Those of the groups that were read with the instance, with their rules. The others are as last observed.
    pub groups: Vec<SecurityGroup>,
}

impl Filters {
    /// The filters without what grants of `installation` open: what passes then, passes without a grant.
    #[must_use]
    pub fn without_grants(mut self, installation: &Installation) -> Self {
        match &mut self {
            Self::Nsg { before, after } => {
                before.retain(|rule| !opens_a_grant(rule, installation));
                after.retain(|rule| !opens_a_grant(rule, installation));
            }
            Self::SecurityGroup { .. } => {}
            Self::Instance { before, after } => {
                for side in [before, after] {
                    side.groups
                        .iter_mut()
                        .filter(|group| is_holder(group, installation))
                        .for_each(|holder| holder.ingress.clear());
                }
            }
        }
        self
    }
}

/// The machine as it would be seen without what grants of `installation` open.
#[must_use]
pub fn without_grants(mut machine: Machine, installation: &Installation) -> Machine {
    for layer in machine
        .interfaces
        .iter_mut()
        .flat_map(|interface| &mut interface.layers)
    {
        match layer {
            Layer::Nsg { rules, .. } => rules.retain(|rule| !opens_a_grant(rule, installation)),
            Layer::Firewall(_) => {}
            Layer::SecurityGroups { groups } => groups.retain(|group| !is_holder(group, installation)),
        }
    }
    machine
}

fn opens_a_grant(rule: &NsgRule, installation: &Installation) -> bool {
    let text = rule.description.as_deref().unwrap_or_default();
    rule.access == Access::Allow
        && (Mark::parse(text).is_some_and(|mark| {
            mark.installation == *installation && matches!(mark.purpose, Purpose::Grant { .. })
        }) || SharedMark::parse(text).is_some_and(|mark| mark.installation == *installation))
}

/// What would become of one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointPreview {
    /// Which.
    pub point: PointRef,
    /// Its filters.
    pub filters: Filters,
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
    /// The NAT rule of a firewall by which they come; the other rule sees the firewall's subnet then. Somebody else's:
    /// what grants open is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<RuleRef>,
    /// Whether it is certain. Otherwise a rule, before or after, names something (a service tag, a group) whose addresses
    /// are not known here, or a firewall may keep them away, and the sources are the most that it could be.
    pub certain: bool,
}

/// What a plan over some points would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
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
            Some(rule) => write!(f, " by {rule}")?,
            None => f.write_str(", where nothing filters")?,
        }
        match &self.nat {
            Some(nat) => write!(f, ", led there by {nat}"),
            None => Ok(()),
        }
    }
}

impl Preview {
    /// Compares reach at the machines, on these ports, before and after what the points would become. Machines that
    /// are behind none of the points come out unchanged.
    pub fn of(machines: &[Machine], points: &[PointPreview], ports: &[Ports]) -> Self {
        let mut gains = BTreeSet::new();
        let mut losses = BTreeSet::new();
        for machine in machines {
            let interfaces = machine
                .interfaces
                .iter()
                .filter(|interface| points.iter().any(|one| concerns(one, interface)));
            for interface in interfaces {
                let (before, after) = (
                    with(interface, points, Side::Before),
                    with(interface, points, Side::After),
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

impl Side {
    const fn of<'a, T>(self, before: &'a T, after: &'a T) -> &'a T {
        match self {
            Self::Before => before,
            Self::After => after,
        }
    }
}

/// The id of the security group that the point is.
fn group_of(point: &PointRef) -> Option<&str> {
    match point {
        PointRef::AwsSecurityGroup { group, .. } => Some(group),
        _ => None,
    }
}

fn concerns(one: &PointPreview, interface: &Interface) -> bool {
    let mut layers = interface.layers.iter();
    match &one.filters {
        Filters::Nsg { .. } => {
            layers.any(|layer| matches!(layer, Layer::Nsg { point, .. } if *point == one.point))
        }
        // One that an instance is to get comes with the preview of the instance.
        Filters::SecurityGroup { .. } => layers.any(|layer| match layer {
            Layer::SecurityGroups { groups } => groups
                .iter()
                .any(|group| group_of(&one.point) == Some(group.id.as_str())),
            _ => false,
        }),
        Filters::Instance { before, after } => {
            before.interfaces.contains_key(&interface.id) || after.interfaces.contains_key(&interface.id)
        }
    }
}

/// The interface behind the filters of that side.
fn with(interface: &Interface, points: &[PointPreview], side: Side) -> Interface {
    let mut changed = interface.clone();
    for layer in &mut changed.layers {
        match layer {
            Layer::Nsg { point, rules, .. } => {
                for one in points.iter().filter(|one| one.point == *point) {
                    if let Filters::Nsg { before, after } = &one.filters {
                        rules.retain(|rule| rule.priority >= FIRST_DEFAULT);
                        rules.extend(side.of(before, after).iter().cloned());
                    }
                }
            }
            Layer::Firewall(_) => {}
            Layer::SecurityGroups { groups } => {
                for one in points {
                    if let Filters::Instance { before, after } = &one.filters {
                        attach(groups, &interface.id, side.of(before, after));
                    }
                }
                for group in groups {
                    let mut own = points
                        .iter()
                        .filter(|one| group_of(&one.point) == Some(group.id.as_str()));
                    if let Some(Filters::SecurityGroup { before, after }) = own.next().map(|one| &one.filters)
                    {
                        group.ingress.clone_from(side.of(before, after));
                    }
                }
            }
        }
    }
    changed
}

/// Gives the interface the groups of that side: as read, or else as last observed.
fn attach(groups: &mut Vec<SecurityGroup>, interface: &str, attached: &Attached) {
    let Some(ids) = attached.interfaces.get(interface) else {
        return;
    };
    let known = |id: &String| {
        let mut read = attached.groups.iter().chain(groups.iter());
        read.find(|group| group.id == *id).cloned()
    };
    *groups = ids.iter().filter_map(known).collect();
}

/// Packets that pass every hop, or may.
#[derive(Clone)]
struct Passage {
    rect: Rect,
    certain: bool,
    rule: Option<RuleRef>,
    /// The NAT rule that leads them there.
    nat: Option<RuleRef>,
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
    /// Clients of a firewall that translates what they send, wherever they are.
    Translated,
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
            let passages = through(interface.layers.iter(), interface, origin, &flow);
            Way {
                origin,
                all,
                passages,
            }
        })
        .chain(led_there(interface, destination, ports))
        .collect()
}

/// What a firewall before the interface leads to the address.
fn led_there(interface: &Interface, destination: IpAddr, ports: Ports) -> impl Iterator<Item = Way> {
    let mut layers = interface.layers.iter();
    let approach = layers.find_map(|layer| match layer {
        Layer::Firewall(approach) if destination == approach.address => Some(approach),
        _ => None,
    });
    approach.into_iter().map(move |approach| Way {
        origin: Origin::Translated,
        all: Addresses::of(Family::V4.any().net()),
        passages: behind::translated(approach, interface, ports),
    })
}

/// What passes one layer after the other.
fn through<'l>(
    layers: impl Iterator<Item = &'l Layer>,
    interface: &Interface,
    origin: Origin,
    flow: &Flow,
) -> Vec<Passage> {
    let start = Passage {
        rect: Rect {
            addresses: Addresses::of(flow.source.net()),
            ports: (flow.ports.first(), flow.ports.last()),
        },
        certain: true,
        rule: None,
        nat: None,
    };
    layers.fold(vec![start], |outer, layer| {
        let inner = of_layer(layer, interface, origin, flow);
        let pairs = outer
            .iter()
            .flat_map(|one| inner.iter().map(move |other| (one, other)));
        pairs
            .filter_map(|(one, other)| {
                Some(Passage {
                    rect: one.rect.intersect(other.rect)?,
                    certain: one.certain && other.certain,
                    rule: other.rule.clone(),
                    nat: None,
                })
            })
            .collect()
    })
}

fn of_layer(layer: &Layer, interface: &Interface, origin: Origin, flow: &Flow) -> Vec<Passage> {
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
        Layer::Firewall(approach) => behind::untranslated(approach, interface, origin, flow),
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
                nat: None,
            }),
            // Denied, unless an earlier rule matches after all.
            Access::Deny => piece.unsure.first().map(|at| Passage {
                rect: piece.rect,
                certain: false,
                rule: name(*at),
                nat: None,
            }),
        })
        .collect()
}

/// Of what is told as one: the ports, the rule and the NAT rule that let in, and whether that is certain.
type Told = (Ports, Option<RuleRef>, Option<RuleRef>, bool);

/// What passes `now` and does not on the `other` side; what passes there possibly, is told as not certain. Addresses of
/// more than one origin are told with the narrowest, except where it is not certain that they pass.
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
    let mut found: BTreeMap<Told, Vec<IpNet>> = BTreeMap::new();
    for (now, other) in now.iter().zip(other) {
        let rects = |certain: bool| -> Vec<Rect> {
            let passages = other.passages.iter();
            let passages = passages.filter(|passage| passage.certain || !certain);
            passages.map(|passage| passage.rect).collect()
        };
        let (known, all) = (rects(true), rects(false));
        for passage in &now.passages {
            let mut told: Vec<(Rect, bool)> = subtract(passage.rect, &all)
                .into_iter()
                .map(|rect| (rect, passage.certain))
                .collect();
            if passage.certain {
                // What may pass on the other side, and does on this one, may be a change.
                let sure: Vec<Rect> = told.iter().map(|(rect, _)| *rect).collect();
                let may = subtract(passage.rect, &known);
                let may = may.into_iter().flat_map(|rect| subtract(rect, &sure));
                told.extend(may.map(|rect| (rect, false)));
            }
            for (rect, certain) in told {
                let range = range(ports.protocol(), rect.ports).unwrap_or(ports);
                let addresses = match now.origin {
                    Origin::Internet if rect.addresses != now.all => rect.addresses.without(&narrower),
                    Origin::Private if certain => rect.addresses.without(&own),
                    _ => vec![rect.addresses],
                };
                let nets = addresses
                    .into_iter()
                    .flat_map(|addresses| addresses.nets(Family::of(destination)));
                found
                    .entry((range, passage.rule.clone(), passage.nat.clone(), certain))
                    .or_default()
                    .extend(nets);
            }
        }
    }
    found
        .into_iter()
        .filter(|(_, nets)| !nets.is_empty())
        .map(|((ports, rule, nat, certain), nets)| ReachChange {
            machine: machine.clone(),
            destination,
            ports,
            sources: IpNet::aggregate(&nets),
            rule,
            nat,
            certain,
        })
        .collect()
}

fn range(protocol: Protocol, (first, last): (u16, u16)) -> Option<Ports> {
    Ports::range(protocol, first, last).ok()
}

#[cfg(test)]
mod tests;
