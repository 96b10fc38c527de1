//! Posture: how a machine's management ports stand, with the reason.
//!
//! The decision charts are those of Defender for Cloud's just-in-time access, with two differences: a machine
//! that a JIT policy covers is `configured` and not `healthy`, and says which rule keeps a guarded port open all
//! the same; and an Azure rule counts only where it lets a packet all the way through, past the other NSG. A rule
//! whose addresses are not known here (a service tag, a prefix list) is taken to let in what it names. A rule for
//! IPv6 opens nothing on an interface without an IPv6 address.
//!
//! Azure, no policy: no NSG → `not_applicable`; an NSG rule allows a management port → `recommended`, else
//! `healthy`. The default rules (priority 65000 and up) do not count. A firewall would be one more hop.
//! AWS, no policy: an attached security group allows a management port from any address → `recommended`, else
//! `healthy`.

#[cfg(test)]
mod charts;
mod ways_in;

pub use ways_in::{WayIn, WayInKind, ways_in};

use std::{fmt, iter};

use serde::{Deserialize, Serialize};

use crate::{
    inventory::{Interface, Layer, MARK_TAG, Machine},
    machine::Cloud,
    net::{Ports, Protocol, Source},
    nsg::{Access, AddressPrefix, Memberships, Side, Tag, is_marked},
    policy::JitPolicy,
    reach::{
        self, Flow, RuleRef,
        region::{Addresses, Family, Piece, Rect},
    },
    sg::SgRule,
};

/// The ports that machines are managed through: SSH, RDP, `WinRM` over HTTP and over HTTPS; all TCP.
///
/// Source: Defender for Cloud, "Understand just-in-time VM access".
pub const MANAGEMENT_PORTS: [u16; 4] = [22, 3389, 5985, 5986];

/// NSG rules from here on are Azure's defaults.
const FIRST_DEFAULT: u16 = 65_000;

/// How a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostureKind {
    /// A JIT policy covers it.
    Configured,
    /// A management port is open, and no policy covers it.
    Recommended,
    /// No management port is open.
    Healthy,
    /// Nothing filters its traffic, so that there is nothing to close.
    NotApplicable,
}

impl PostureKind {
    /// The word in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Recommended => "recommended",
            Self::Healthy => "healthy",
            Self::NotApplicable => "not_applicable",
        }
    }
}

impl fmt::Display for PostureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A machine's posture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posture {
    /// In a word.
    pub kind: PostureKind,
    /// Why, for people.
    pub reason: String,
    /// The rule that holds a port open, where one does.
    pub rule: Option<RuleRef>,
}

/// The posture of a machine, and `covered_by` the most specific policy that covers it.
pub fn posture(machine: &Machine, covered_by: Option<&JitPolicy>) -> Posture {
    if let Some(policy) = covered_by {
        return configured(machine, policy);
    }
    let filtered: Vec<&Interface> = machine
        .interfaces
        .iter()
        .filter(|interface| !is_unfiltered(interface))
        .collect();
    if filtered.is_empty() {
        return Posture {
            kind: PostureKind::NotApplicable,
            reason: unfiltered_reason(machine),
            rule: None,
        };
    }
    let ports = MANAGEMENT_PORTS
        .iter()
        .filter_map(|port| Ports::one(Protocol::Tcp, *port).ok());
    let openings: Vec<Opening> = ports
        .flat_map(|ports| {
            filtered
                .iter()
                .flat_map(move |interface| openings(interface, ports))
        })
        .collect();
    let counts = |opening: &&Opening| match machine.id.cloud() {
        Cloud::Azure => true,
        Cloud::Aws => opening.from_any,
    };
    if let Some(opening) = openings.iter().find(counts) {
        return Posture {
            kind: PostureKind::Recommended,
            reason: format!("{opening}, and no JIT policy covers the machine"),
            rule: Some(opening.rule.clone()),
        };
    }
    let mut reason = match machine.id.cloud() {
        Cloud::Azure => "no NSG rule lets a management port (22, 3389, 5985, 5986) through".to_owned(),
        Cloud::Aws => {
            "no security group allows a management port (22, 3389, 5985, 5986) from any address".to_owned()
        }
    };
    if let Some(narrow) = openings.first() {
        reason.push_str("; ");
        reason.push_str(&narrow.to_string());
    }
    reason.push_str(&beside_unfiltered(machine));
    Posture {
        kind: PostureKind::Healthy,
        reason,
        rule: None,
    }
}

fn configured(machine: &Machine, policy: &JitPolicy) -> Posture {
    let guarded = policy
        .guards
        .iter()
        .map(|guard| guard.ports.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let mut reason = format!("JIT policy `{}` guards {guarded}", policy.name);
    let opening = policy.guards.iter().find_map(|guard| {
        machine
            .interfaces
            .iter()
            .filter(|interface| !is_unfiltered(interface))
            .find_map(|interface| openings(interface, guard.ports).into_iter().next())
    });
    if let Some(opening) = &opening {
        reason.push_str(", but ");
        reason.push_str(&opening.to_string());
    }
    if machine.interfaces.iter().all(is_unfiltered) {
        reason.push_str(", but ");
        reason.push_str(&unfiltered_reason(machine));
    } else {
        reason.push_str(&beside_unfiltered(machine));
    }
    Posture {
        kind: PostureKind::Configured,
        reason,
        rule: opening.map(|opening| opening.rule),
    }
}

fn unfiltered_reason(machine: &Machine) -> String {
    match (machine.interfaces.is_empty(), machine.id.cloud()) {
        (true, _) => "the machine has no network interface".to_owned(),
        (false, Cloud::Azure) => {
            "no NSG stands at its interfaces or their subnets: there is no rule to close a port with"
                .to_owned()
        }
        (false, Cloud::Aws) => "no security group is known at its interfaces".to_owned(),
    }
}

/// Names an interface that nothing filters, where others are filtered.
fn beside_unfiltered(machine: &Machine) -> String {
    machine
        .interfaces
        .iter()
        .find(|interface| is_unfiltered(interface))
        .map(|interface| {
            format!(
                "; nothing filters interface `{}`",
                interface.id.rsplit('/').next().unwrap_or(&interface.id)
            )
        })
        .unwrap_or_default()
}

/// Somebody else's rules that let packets through to a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Opening {
    rule: RuleRef,
    source: String,
    ports: Ports,
    from_any: bool,
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lets {} reach {}", self.rule, self.source, self.ports)
    }
}

/// Packets that a rule lets through one hop, or may let through.
struct Passage {
    rect: Rect,
    rule: RuleRef,
    /// The rule's own words for where packets come from, when it is not known whether it matches.
    unsure: Option<String>,
}

/// Where foreign rules let packets through every hop to the interface, from the internet first, then from the
/// interface's own network. Rules that carry a mark are left aside: what a grant opens is not an opening, and
/// what a lockdown denies stays denied.
fn openings(interface: &Interface, ports: Ports) -> Vec<Opening> {
    let mut found = Vec::new();
    for destination in interface.addresses.iter().copied() {
        let family = Family::of(destination);
        let any = family.any();
        let own = interface
            .network
            .iter()
            .filter(|net| Family::of(net.addr()) == family)
            .filter_map(|net| Source::try_from(net.trunc()).ok());
        for source in iter::once(any).chain(own) {
            let flow = Flow {
                source,
                destination,
                ports,
            };
            let through = interface
                .layers
                .iter()
                // A machine is safe by what stands at itself: a firewall may be gone around.
                .filter(|layer| !matches!(layer, Layer::Firewall(_)))
                .map(|layer| passages(layer, interface, &flow))
                .reduce(|outer, inner| meet(&outer, &inner))
                .unwrap_or_default();
            // Several rules together may cover every address.
            let sure: Vec<Addresses> = through
                .iter()
                .filter(|one| one.unsure.is_none())
                .map(|one| one.rect.addresses)
                .collect();
            let from_any = source == any && Addresses::of(any.net()).without(&sure).is_empty();
            for one in through {
                let opening = Opening {
                    rule: one.rule,
                    from_any: from_any && one.unsure.is_none(),
                    source: one.unsure.unwrap_or_else(|| one.rect.addresses.text(family)),
                    ports: Ports::range(ports.protocol(), one.rect.ports.0, one.rect.ports.1)
                        .unwrap_or(ports),
                };
                if !found.contains(&opening) {
                    found.push(opening);
                }
            }
        }
    }
    found.sort_by_key(|opening| !opening.from_any);
    found
}

/// Whether nothing that a lockdown writes to filters the way. A firewall may be gone around.
fn is_unfiltered(interface: &Interface) -> bool {
    interface
        .layers
        .iter()
        .all(|layer| matches!(layer, Layer::Firewall(_)))
}

/// What passes both; the inner rule is named, which is the last to say yes.
fn meet(outer: &[Passage], inner: &[Passage]) -> Vec<Passage> {
    outer
        .iter()
        .flat_map(|one| {
            inner.iter().filter_map(|other| {
                one.rect.intersect(other.rect).map(|rect| Passage {
                    rect,
                    rule: other.rule.clone(),
                    unsure: other.unsure.clone().or_else(|| one.unsure.clone()),
                })
            })
        })
        .collect()
}

fn passages(layer: &Layer, interface: &Interface, flow: &Flow) -> Vec<Passage> {
    match layer {
        Layer::Nsg {
            point,
            rules,
            memberships,
            possible_memberships,
            ..
        } => {
            let mut ordered = reach::nsg_order(rules);
            // Were the defaults in, they would hide a rule that may let the same packets in.
            ordered.retain(|rule| {
                rule.priority < FIRST_DEFAULT
                    && (rule.access == Access::Deny || !is_mark(rule.description.as_ref()))
            });
            let resource = point.to_string();
            let known = Memberships::Known {
                certain: memberships,
                possible: possible_memberships,
            };
            let pieces = reach::nsg_pieces(&ordered, known, &interface.network, flow);
            pass(&pieces, |at| {
                let rule = ordered.get(at).filter(|rule| rule.access == Access::Allow)?;
                let mut from = words(&rule.source);
                if reach::nsg_destination(rule, known, flow.destination) == Some(false) {
                    from = format!(
                        "{from}, where its destination {} is the machine,",
                        words(&rule.destination)
                    );
                }
                Some((reach::nsg_rule_ref(&resource, rule), from))
            })
        }
        // Not asked: see [`openings`].
        Layer::Firewall(_) => Vec::new(),
        Layer::SecurityGroups { groups } => {
            let rules: Vec<(&str, &SgRule)> = groups
                .iter()
                .filter(|group| !is_mark(group.tags.get(MARK_TAG)))
                .flat_map(|group| group.ingress.iter().map(|rule| (group.id.as_str(), rule)))
                .filter(|(_, rule)| !is_mark(rule.description.as_ref()) && !is_mark(rule.tags.get(MARK_TAG)))
                .collect();
            let pieces = reach::group_pieces(rules.iter().map(|(_, rule)| *rule), &interface.network, flow);
            pass(&pieces, |at| {
                let (group, rule) = rules.get(at)?;
                Some((reach::sg_rule_ref(group, rule), reach::peer_text(&rule.peer)))
            })
        }
    }
}

/// The passages among `pieces`; `name` gives the rule at a place and its source in words, if it is one that
/// counts as an opening.
fn pass(pieces: &[Piece], name: impl Fn(usize) -> Option<(RuleRef, String)>) -> Vec<Passage> {
    let mut passages = Vec::new();
    for piece in pieces {
        let sure = piece
            .rule
            .filter(|_| piece.access == Access::Allow)
            .and_then(&name);
        passages.extend(sure.map(|(rule, _)| Passage {
            rect: piece.rect,
            rule,
            unsure: None,
        }));
        passages.extend(
            piece
                .unsure
                .iter()
                .filter_map(|at| name(*at))
                .map(|(rule, from)| Passage {
                    rect: piece.rect,
                    rule,
                    unsure: Some(from),
                }),
        );
    }
    passages
}

/// One side of an NSG rule, with a word on what is not known here.
fn words(side: &Side) -> String {
    let prefixes = side.prefixes.iter().map(|prefix| match prefix {
        AddressPrefix::Tag(tag) if Tag::read(tag) == Tag::Unknown => format!("{tag} (an unknown tag)"),
        prefix => prefix.to_string(),
    });
    let groups = side.groups.iter().map(|group| {
        let name = group.rsplit('/').next().unwrap_or(group);
        format!("application security group `{name}`")
    });
    prefixes.chain(groups).collect::<Vec<_>>().join(", ")
}

fn is_mark(text: Option<&String>) -> bool {
    text.is_some_and(|text| is_marked(text))
}
