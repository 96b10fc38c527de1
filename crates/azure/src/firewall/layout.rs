//! Which rules of ours a firewall shall have: names, mapped ports, the priorities of our collections.
//!
//! A mapped port belongs to a machine's port: all grants of it share it, and it stays while any of them is open, because
//! people were told it. It is never one that somebody else's rule leads elsewhere from, so that our rule, which is asked
//! first, takes nobody's packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use postern_core::{
    enforcer::{Finding, Obstacle},
    firewall::{Action, Endpoint, FirewallRule, RuleCollection},
    id::GrantId,
    mark::{Installation, Mark, Purpose},
    net::{Ports, Protocol, Source},
    nsg::{Access, NsgPorts},
    time::Instant,
};
use serde_json::{Map, Value, json};

use super::{
    action_of, capacity,
    document::{Form, Kind, Shelf, Standing},
    foreign::{lets_others_in, may_let_others_in},
    list, number,
    plan::{ObservedFirewall, Passage, Wanted, Way},
    rule,
};
use crate::plan::Label;

/// Ports of one passage that are translated at most: each needs a rule of its own.
const MAPPED_AT_MOST: u16 = 32;

/// What a door of ours leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// The firewall's address.
    pub(super) address: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) machine: Ipv4Addr,
    /// The machine's port.
    pub(super) port: u16,
}

/// One rule of ours.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) grant: GrantId,
    not_after: Instant,
    sources: BTreeSet<Source>,
    machine: Ipv4Addr,
    pub(super) ports: Ports,
    /// Where clients connect to; none when packets are routed.
    pub(super) door: Option<(Target, u16)>,
}

/// What shall stand.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) pieces: Vec<Piece>,
    /// The priorities of our collections, as far as they are wanted.
    pub(super) priorities: BTreeMap<Kind, u16>,
    /// The priority of the group, where it has to be made.
    pub(super) group_priority: Option<u16>,
    pub(super) obstacles: Vec<Obstacle>,
    pub(super) findings: Vec<Finding>,
}

impl Layout {
    /// A grant is opened whole or not at all.
    fn give_up(&mut self) {
        let obstacles = self.obstacles.iter();
        let hopeless: BTreeSet<GrantId> = obstacles.flat_map(|one| one.grants.iter().copied()).collect();
        self.pieces.retain(|piece| !hopeless.contains(&piece.grant));
    }
}

/// The name of our collection of the kind.
pub(super) fn collection_name(installation: &Installation, kind: Kind) -> String {
    let kind = match kind {
        Kind::Nat => "nat",
        Kind::Network => "network",
    };
    format!("postern-{installation}-{kind}")
}

/// What a rule of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Grant(GrantId),
    /// A mark that no firewall rule of ours has.
    Stray,
}

impl Role {
    pub(super) const fn grant(self) -> Option<GrantId> {
        match self {
            Self::Grant(grant) => Some(grant),
            Self::Stray => None,
        }
    }
}

/// What a rule is for, when it is the installation's. The mark says so; where somebody edited it away, the name does.
pub(super) fn role(installation: &Installation, standing: &Standing<'_>) -> Option<Role> {
    let label = standing.rule.description.as_deref().and_then(Label::parse);
    if let Some(label) = label {
        let grant = label.grants().first().copied();
        return (label.installation() == installation).then(|| grant.map_or(Role::Stray, Role::Grant));
    }
    let name = standing.place.rule.to_ascii_lowercase();
    let hex = name
        .strip_prefix("postern-")?
        .strip_prefix(installation.as_str())?
        .strip_prefix('-')?
        .split_at_checked(32)?
        .0;
    GrantId::from_hex(hex).map(Role::Grant)
}

pub(super) fn obstacle(code: &str, message: String, grant: GrantId) -> Obstacle {
    Obstacle {
        code: code.to_owned(),
        message,
        grants: vec![grant],
        policies: Vec::new(),
    }
}

pub(super) fn layout(observed: &ObservedFirewall, wanted: &Wanted, shelves: &[Shelf<'_>]) -> Layout {
    let mut layout = Layout::default();
    let mut pieces: BTreeMap<String, Piece> = BTreeMap::new();
    let foreign = observed.foreign(&wanted.installation);
    let stand = |found: &[Piece]| {
        shelves.iter().flat_map(|shelf| &shelf.rules).any(|standing| {
            let own = |piece: &Piece| standing.place.rule.eq_ignore_ascii_case(&piece.name);
            role(&wanted.installation, standing).is_some() && found.iter().any(own)
        })
    };
    for passage in &wanted.passages {
        let found = match pieces_of(&wanted.installation, passage).and_then(|found| {
            let elsewhere = matches!(passage.way, Way::Translated { address }
                if !foreign.public_addresses.contains(&address));
            // It may be one of a firewall that cannot be read any more: no reason to end what is open.
            let is_kept = observed.partly_read && !passage.opening && stand(&found);
            if elsewhere && !is_kept {
                let message = "the address is not one of the firewall's".to_owned();
                return Err(obstacle("machine_not_behind_point", message, passage.grant));
            }
            Ok(found)
        }) {
            Ok(found) => found,
            Err(obstacle) => {
                layout.obstacles.push(obstacle);
                continue;
            }
        };
        if let Some(rule) = lets_others_in(&foreign, &observed.hiding, passage) {
            let message = format!(
                "{rule} lets others in to {} of {}",
                passage.ports, passage.machine
            );
            // One that is not open yet has no NSG open behind it: it can still be refused.
            if passage.opening || !stand(&found) {
                layout
                    .obstacles
                    .push(obstacle("foreign_rule_in_the_way", message, passage.grant));
                continue;
            }
            // It came while the grant was open: to shut out the grant's clients would not shut out the others.
            layout.findings.push(Finding {
                code: "foreign_rule_opens".to_owned(),
                message,
                before: None,
                after: None,
                grants: vec![passage.grant],
            });
        } else if let Some((rule, balancer)) = may_let_others_in(&foreign, passage) {
            layout.findings.push(Finding {
                code: "foreign_rule_may_open".to_owned(),
                message: format!(
                    "load balancer `{balancer}` leads to {}, and may not be read: whether `{rule}` lets others in to {} by \
                     it is not known",
                    passage.machine, passage.ports
                ),
                before: None,
                after: None,
                grants: vec![passage.grant],
            });
        }
        for piece in found {
            pieces
                .entry(piece.name.clone())
                .and_modify(|one| one.sources.extend(piece.sources.iter().copied()))
                .or_insert(piece);
        }
    }
    let targets: BTreeSet<Target> = pieces
        .values()
        .filter_map(|piece| piece.door.map(|(target, _)| target))
        .collect();
    let mapped = mapped_ports(
        observed,
        &wanted.installation,
        shelves,
        &foreign.collections,
        &targets,
    );
    let hopeless: BTreeSet<GrantId> = layout
        .obstacles
        .iter()
        .flat_map(|obstacle| obstacle.grants.iter().copied())
        .collect();
    for mut piece in pieces
        .into_values()
        .filter(|piece| !hopeless.contains(&piece.grant))
    {
        if let Some((target, port)) = &mut piece.door {
            let Some(found) = mapped.get(target) else {
                let message = format!("no port of {} is free for another door", target.address);
                layout
                    .obstacles
                    .push(obstacle("no_free_port", message, piece.grant));
                continue;
            };
            *port = *found;
        }
        layout.pieces.push(piece);
    }
    priorities(observed, &wanted.installation, shelves, &mut layout);
    layout.give_up();
    capacity::fit(observed, wanted, shelves, &foreign, &mut layout);
    layout.give_up();
    let used: BTreeSet<Kind> = layout.pieces.iter().map(|piece| piece.kind).collect();
    layout.priorities.retain(|kind, _| used.contains(kind));
    layout
}

fn pieces_of(installation: &Installation, passage: &Passage) -> Result<Vec<Piece>, Obstacle> {
    let refuse = |code: &str, message: String| Err(obstacle(code, message, passage.grant));
    // Source: "Azure Firewall known issues and limitations": IPv4 alone.
    let sources: BTreeSet<Source> = passage
        .sources
        .iter()
        .copied()
        .filter(|source| source.net().addr().is_ipv4())
        .collect();
    let IpAddr::V4(machine) = passage.machine else {
        return refuse(
            "no_ipv4",
            format!("{} is not behind the firewall", passage.machine),
        );
    };
    if sources.is_empty() {
        return refuse("no_ipv4", "the firewall lets no IPv6 sources in".to_owned());
    }
    let piece = |kind: Kind, ports: Ports, door: Option<(Target, u16)>| Piece {
        name: name(
            installation,
            passage.grant,
            ports,
            machine,
            door.map(|(target, _)| target.address),
        ),
        kind,
        grant: passage.grant,
        not_after: passage.not_after,
        sources: sources.clone(),
        machine,
        ports,
        door,
    };
    let Way::Translated { address } = passage.way else {
        return Ok(vec![piece(Kind::Network, passage.ports, None)]);
    };
    let (first, last) = (passage.ports.first(), passage.ports.last());
    if last.saturating_sub(first) >= MAPPED_AT_MOST {
        let message = format!(
            "{} are more than {MAPPED_AT_MOST} ports, and each is mapped by itself",
            passage.ports
        );
        return refuse("too_many_mapped_ports", message);
    }
    let protocol = passage.ports.protocol();
    Ok((first..=last)
        .filter_map(|port| {
            let ports = Ports::one(protocol, port).ok()?;
            let target = Target {
                address,
                protocol,
                machine,
                port,
            };
            Some(piece(Kind::Nat, ports, Some((target, 0))))
        })
        .collect())
}

/// The installation, the grant, what it is about and to where, so that no two rules of ours share a name: `d` and `e`
/// for TCP and UDP ports that are translated, `t` and `u` for routed ones, the port, then the machine's address and the
/// firewall's in hex. At most 80 characters, as network resources' names have.
fn name(
    installation: &Installation,
    grant: GrantId,
    ports: Ports,
    machine: Ipv4Addr,
    address: Option<IpAddr>,
) -> String {
    let protocol = match (address, ports.protocol()) {
        (Some(_), Protocol::Tcp) => 'd',
        (Some(_), Protocol::Udp) => 'e',
        (None, Protocol::Tcp) => 't',
        (None, Protocol::Udp) => 'u',
    };
    let hex = |address: Ipv4Addr| format!("{:08x}", u32::from(address));
    let address = match address {
        Some(IpAddr::V4(address)) => hex(address),
        Some(IpAddr::V6(_)) | None => String::new(),
    };
    format!(
        "postern-{installation}-{}{protocol}{}-{}{address}",
        grant.hex(),
        ports.range_text(),
        hex(machine)
    )
}

/// What a name stands for is not known here.
fn may_be(endpoint: &Endpoint, address: IpAddr) -> bool {
    match endpoint {
        Endpoint::Any | Endpoint::Named(_) => true,
        Endpoint::Range(first, last) => {
            first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
        }
    }
}

/// Whether a rule that may answer at the target's address and port leads to the target; none when it does not answer.
fn answers(rule: &FirewallRule, target: Target, port: u16) -> Option<bool> {
    let Action::Translate { address, port: inner } = rule.action else {
        return None;
    };
    let matches = &rule.matches;
    let meets = matches.protocols.contains(&target.protocol)
        && matches.destinations.iter().any(|one| may_be(one, target.address))
        && matches.ports.iter().any(|range| range.overlaps(port, port));
    meets.then_some(address == Some(IpAddr::V4(target.machine)) && inner == target.port)
}

/// The ports of rules that lead to the target from one port.
fn leading<'r>(rules: impl Iterator<Item = &'r FirewallRule>, target: Target) -> BTreeSet<u16> {
    rules
        .filter_map(|rule| match rule.matches.ports.as_slice() {
            [NsgPorts { first, last }] if first == last && *first > 0 => answers(rule, target, *first)
                .filter(|leads| *leads)
                .map(|_| *first),
            _ => None,
        })
        .collect()
}

fn mapped_ports(
    observed: &ObservedFirewall,
    installation: &Installation,
    shelves: &[Shelf<'_>],
    foreign: &[RuleCollection],
    targets: &BTreeSet<Target>,
) -> BTreeMap<Target, u16> {
    let foreign: Vec<&FirewallRule> = foreign.iter().flat_map(|collection| &collection.rules).collect();
    let own: Vec<&FirewallRule> = shelves
        .iter()
        .flat_map(|shelf| &shelf.rules)
        .filter(|standing| role(installation, standing).is_some())
        .map(|standing| &standing.rule)
        .collect();
    let mut mapped: BTreeMap<Target, u16> = BTreeMap::new();
    let free = |mapped: &BTreeMap<Target, u16>, target: &Target, port: u16| {
        let elsewhere = |rule: &&FirewallRule| answers(rule, *target, port) == Some(false);
        !foreign.iter().any(elsewhere)
            && !mapped.iter().any(|(other, taken)| {
                *taken == port && other.address == target.address && other.protocol == target.protocol
            })
    };
    // Those that people were told come first, then those that people know, then new ones.
    for target in targets {
        let told = leading(own.iter().copied(), *target);
        if let Some(port) = told.into_iter().find(|port| free(&mapped, target, *port)) {
            mapped.insert(*target, port);
        }
    }
    for target in targets {
        if mapped.contains_key(target) {
            continue;
        }
        let known = leading(foreign.iter().copied(), *target);
        let port = known
            .into_iter()
            .chain(observed.bands.ports.clone())
            .find(|port| free(&mapped, target, *port));
        if let Some(port) = port {
            mapped.insert(*target, port);
        }
    }
    mapped
}

fn priorities(
    observed: &ObservedFirewall,
    installation: &Installation,
    shelves: &[Shelf<'_>],
    layout: &mut Layout,
) {
    let kinds: BTreeSet<Kind> = layout.pieces.iter().map(|piece| piece.kind).collect();
    let mut refused = Vec::new();
    let band = &observed.bands.collections;
    if observed.form == Form::Group && observed.document.is_null() && !kinds.is_empty() {
        layout.group_priority = band.clone().find(|one| !observed.group_priorities.contains(one));
        if layout.group_priority.is_none() {
            refused.extend(kinds.iter().copied());
        }
    }
    for kind in kinds {
        let name = collection_name(installation, kind);
        let own = |shelf: &&Shelf<'_>| shelf.kind == kind && shelf.name.eq_ignore_ascii_case(&name);
        let mut taken: BTreeSet<u16> = shelves
            .iter()
            .filter(|shelf| !own(shelf) && (observed.form == Form::Group || shelf.kind == kind))
            .map(|shelf| shelf.priority)
            .collect();
        if observed.form == Form::Group {
            // Application rules' collections are numbered among the others.
            let all = list(observed.document.get("properties"), "ruleCollections");
            let others = all.filter(|raw| !super::text(raw, "name").eq_ignore_ascii_case(&name));
            taken.extend(others.map(|raw| number(Some(raw), "priority")));
            taken.extend(layout.priorities.values());
        }
        let standing = shelves.iter().find(own).map(|shelf| shelf.priority);
        let priority = standing
            .filter(|one| band.contains(one) && !taken.contains(one))
            .or_else(|| band.clone().find(|one| !taken.contains(one)));
        match priority {
            Some(priority) => {
                layout.priorities.insert(kind, priority);
            }
            None => refused.push(kind),
        }
    }
    for piece in layout.pieces.iter().filter(|piece| refused.contains(&piece.kind)) {
        let message = format!("no priority from {} to {} is free", band.start(), band.end());
        layout
            .obstacles
            .push(obstacle("no_free_priority", message, piece.grant));
    }
}

impl Piece {
    /// The rule as ARM takes it.
    pub(super) fn document(&self, installation: &Installation, form: Form) -> Value {
        let protocol = match self.ports.protocol() {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let sources: Vec<String> = self.sources.iter().map(|source| written(*source)).collect();
        let mut rule = Map::new();
        let mut set = |member: &str, value: Value| rule.insert(member.to_owned(), value);
        set("name", json!(self.name));
        set("description", json!(self.mark(installation).to_string()));
        set(form.protocols(), json!([protocol]));
        set("sourceAddresses", json!(sources));
        if let Some((target, port)) = self.door {
            set("destinationAddresses", json!([target.address.to_string()]));
            set("destinationPorts", json!([port.to_string()]));
            set("translatedAddress", json!(self.machine.to_string()));
            set("translatedPort", json!(target.port.to_string()));
        } else {
            set("destinationAddresses", json!([self.machine.to_string()]));
            set("destinationPorts", json!([self.ports.range_text()]));
        }
        form.finish(self.kind, &mut rule);
        Value::Object(rule)
    }

    pub(super) fn mark(&self, installation: &Installation) -> Mark {
        Mark {
            installation: installation.clone(),
            purpose: Purpose::Grant {
                grant: self.grant,
                end: self.not_after,
            },
        }
    }

    /// Whether the rule says what this one shall, however ARM writes it.
    pub(super) fn is(&self, installation: &Installation, form: Form, standing: &FirewallRule) -> bool {
        let does = match self.kind {
            Kind::Nat => action_of(&Value::Null, true),
            Kind::Network => super::Kind::Filter(Access::Allow),
        };
        let own = rule(&self.document(installation, form), &does, form.protocols());
        let alike = |one: &FirewallRule| {
            let sorted = |all: &[Endpoint]| {
                let mut texts: Vec<String> = all.iter().map(|one| format!("{one:?}")).collect();
                texts.sort();
                texts
            };
            let matches = &one.matches;
            (
                one.description.clone(),
                matches.protocols.clone(),
                sorted(&matches.sources),
                sorted(&matches.destinations),
                matches.ports.clone(),
            )
        };
        let action = self.kind == Kind::Network || own.action == standing.action;
        action && alike(&own) == alike(standing)
    }

    /// The machine's address.
    pub(super) const fn machine(&self) -> IpAddr {
        IpAddr::V4(self.machine)
    }

    /// From where it lets in.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.sources.iter().copied()
    }

    /// In one line for people.
    pub(super) fn summary(&self) -> String {
        let sources: Vec<String> = self.sources().map(written).collect();
        let from = match sources.as_slice() {
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            [] => String::new(),
        };
        match self.door {
            Some((target, port)) => format!(
                "{from} to {}:{port}, on to {}:{}",
                target.address, self.machine, target.port
            ),
            None => format!("{from} to {}:{}", self.machine, self.ports.range_text()),
        }
    }
}

fn written(source: Source) -> String {
    let net = source.net();
    if source.is_any() {
        "*".to_owned()
    } else if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}
