//! What stands in the way of a grant, seen from the last observation, so that nobody waits for what cannot be had.
//!
//! Pure. It follows the planners: a grant's allow stands right above our own deny (or where that would be put, above
//! every foreign allow for the port), and nobody's deny is overruled but our own. Where it cannot be sure, it warns.

mod firewall;

use std::{collections::BTreeSet, net::IpAddr, slice, time::Duration};

use chrono::TimeDelta;
use postern_api::{ErrorCode, preflight as api};
use postern_core::{
    inventory::{Interface, Layer, Power, is_holder},
    mark::{Installation, Mark, Purpose},
    net::Ports,
    nsg::{Access, AddressPrefix, Direction, Memberships, NsgPorts, NsgProtocol, NsgRule, SharedMark, Side},
    point::PointRef,
    reach::{Flow, HopVerdict, RuleRef, Verdict, evaluate_nsg},
    request::Target,
    sg::{SecurityGroup, SgPeer},
    time::Instant,
};
use postern_store::StoredMachine;

use crate::{config::Preflight as Settings, failure::Failure, state::App};

/// The lowest and the highest number that an NSG rule of anybody's may have.
///
/// Source: Azure REST reference, Security Rules, `SecurityRulePropertiesFormat.priority`.
const NUMBERS: (u16, u16) = (100, 4096);

/// The most rules of an NSG, both directions together.
///
/// Source: "Azure subscription and service limits, quotas, and constraints", "Security rules per NSG".
const RULES_PER_NSG: usize = 1000;

/// Something that was seen, with the rule that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note<C> {
    pub(crate) code: C,
    pub(crate) detail: String,
    pub(crate) rule: Option<RuleRef>,
}

/// What a grant on one target would run into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preflight {
    observed_at: Instant,
    /// What keeps the grant from being of use, for certain.
    obstacles: Vec<Note<ErrorCode>>,
    /// What may.
    warnings: Vec<Note<&'static str>>,
}

/// Looks at the way to the target's machine as last observed. Where that is older than the settings trust, nothing
/// is an obstacle.
pub(crate) fn look(
    target: &Target,
    stored: &StoredMachine,
    installation: &Installation,
    settings: &Settings,
    now: Instant,
) -> Preflight {
    let mut found = Preflight {
        observed_at: stored.seen_at,
        obstacles: Vec::new(),
        warnings: Vec::new(),
    };
    found.power(stored);
    found.addresses(target, stored);
    for interface in &stored.machine.interfaces {
        if interface.layers.is_empty() {
            found.warn(
                "unfiltered_interface",
                format!(
                    "nothing filters the way to interface `{}`, so its ports do not close either",
                    interface.id
                ),
                None,
            );
        }
        for layer in &interface.layers {
            match layer {
                Layer::Nsg { .. } => found.nsg(layer, interface, target, installation),
                Layer::Firewall(approach) => found.firewall(approach, target),
                Layer::SecurityGroups { groups } => {
                    found.groups(groups, interface, target, installation, settings);
                }
            }
        }
    }
    found.settle(now, settings.trust);
    found
}

impl App {
    /// See [`look`].
    pub(crate) fn preflight(&self, target: &Target, stored: &StoredMachine, now: Instant) -> Preflight {
        look(
            target,
            stored,
            &self.config.installation,
            &self.config.limits.preflight,
            now,
        )
    }
}

impl Preflight {
    /// The refusal of the target at `at`, if something certain stands in the way.
    pub(crate) fn refusal(&self, at: usize) -> Option<Failure> {
        let note = self.obstacles.first()?;
        Some(Failure::field(
            note.code,
            format!("/targets/{at}/machine"),
            note.detail.clone(),
        ))
    }

    /// As the API shows it.
    pub(crate) fn show(&self, target: &Target) -> api::Preflight {
        api::Preflight {
            machine: target.machine.to_string(),
            opens: self.obstacles.is_empty(),
            observed_at: self.observed_at,
            obstacles: self
                .obstacles
                .iter()
                .map(|note| note.show(note.code.as_str()))
                .collect(),
            warnings: self.warnings.iter().map(|note| note.show(note.code)).collect(),
        }
    }

    fn obstacle(&mut self, code: ErrorCode, detail: String, rule: Option<RuleRef>) {
        let note = Note { code, detail, rule };
        if !self.obstacles.contains(&note) {
            self.obstacles.push(note);
        }
    }

    fn warn(&mut self, code: &'static str, detail: String, rule: Option<RuleRef>) {
        let note = Note { code, detail, rule };
        if !self.warnings.contains(&note) {
            self.warnings.push(note);
        }
    }

    /// Takes obstacles that were seen too long ago as warnings.
    fn settle(&mut self, now: Instant, trust: Duration) {
        let age = now.signed_duration_since(self.observed_at);
        if TimeDelta::from_std(trust).is_ok_and(|trust| age > trust) {
            let old: Vec<_> = self.obstacles.drain(..).collect();
            self.warn(
                "observation_old",
                format!("the way was last observed {} seconds ago", age.num_seconds()),
                None,
            );
            for note in old {
                self.warn(note.code.as_str(), note.detail, note.rule);
            }
        }
    }

    fn power(&mut self, stored: &StoredMachine) {
        let name = stored.machine.id.short();
        match stored.machine.power {
            Power::Running => {}
            Power::Stopped => self.obstacle(
                ErrorCode::MachineStopped,
                format!("machine `{name}` is stopped"),
                None,
            ),
            Power::Changing | Power::Unknown => {
                self.warn(
                    "not_running",
                    format!("machine `{name}` was not seen to run"),
                    None,
                );
            }
        }
    }

    fn addresses(&mut self, target: &Target, stored: &StoredMachine) {
        let has = |v4: bool| {
            let mut all = stored.machine.interfaces.iter().flat_map(|one| &one.addresses);
            all.any(|address| address.is_ipv4() == v4)
        };
        for source in &target.sources {
            let v4 = source.net().addr().is_ipv4();
            if !has(v4) {
                let family = if v4 { "IPv4" } else { "IPv6" };
                let name = stored.machine.id.short();
                self.obstacle(
                    ErrorCode::NoAddress,
                    format!("machine `{name}` has no {family} address for packets from {source}"),
                    None,
                );
            }
        }
    }

    fn nsg(&mut self, layer: &Layer, interface: &Interface, target: &Target, installation: &Installation) {
        let Layer::Nsg { point, rules, .. } = layer else {
            return;
        };
        let sources = interface.approach().map_or_else(
            || target.sources.clone(),
            |approach| approach.seen_behind(&target.sources),
        );
        for ports in &target.ports {
            let place = Place::of(rules, *ports, &interface.addresses, installation);
            self.numbers(point, rules, &place, installation);
            for source in &sources {
                let family = source.net().addr().is_ipv4();
                let destinations = interface
                    .addresses
                    .iter()
                    .filter(|address| address.is_ipv4() == family);
                for destination in destinations {
                    let flow = Flow {
                        source: *source,
                        destination: *destination,
                        ports: *ports,
                    };
                    let verdict = with_grant(layer, interface, &place, &flow);
                    let Some(verdict) = verdict else { continue };
                    let about = format!("packets from {source} to {ports} at {destination}");
                    match verdict.verdict {
                        Verdict::Allowed => {}
                        Verdict::Denied => {
                            let by = verdict
                                .rule
                                .as_ref()
                                .map_or_else(|| point.to_string(), ToString::to_string);
                            self.obstacle(
                                ErrorCode::BlockedByRule,
                                format!("{by} drops {about}, and is not ours to overrule"),
                                verdict.rule,
                            );
                        }
                        Verdict::Partly => {
                            let rule = verdict.denied_by.into_iter().chain(verdict.unsure).next();
                            let by = rule
                                .as_ref()
                                .map_or_else(|| point.to_string(), ToString::to_string);
                            self.warn("may_be_blocked", format!("{by} may drop some {about}"), rule);
                        }
                    }
                }
            }
        }
    }

    /// Whether a number is left for the grant's rule. Where rules of our grants stand already, it may share theirs.
    fn numbers(&mut self, point: &PointRef, rules: &[NsgRule], place: &Place, installation: &Installation) {
        let lets_in = |rule: &&NsgRule| rule.access == Access::Allow && whose(rule, installation).is_some();
        if rules.iter().any(|rule| lets_in(&rule)) {
            return;
        }
        let used: BTreeSet<u16> = place.foreign.iter().map(|rule| rule.priority).collect();
        let written = rules.iter().filter(|rule| rule.priority <= NUMBERS.1).count();
        if written >= RULES_PER_NSG {
            let detail = format!("{point} has {written} of {RULES_PER_NSG} rules");
            self.obstacle(ErrorCode::NoCapacity, detail, None);
        } else if (NUMBERS.0..place.above).all(|number| used.contains(&number)) {
            let rule = place.anchor.clone().map(|rule| RuleRef {
                resource: point.to_string(),
                rule: rule.name,
                priority: Some(rule.priority),
            });
            let by = rule
                .as_ref()
                .map_or_else(|| point.to_string(), ToString::to_string);
            let detail = format!("no priority is free above {by}");
            self.obstacle(ErrorCode::NoCapacity, detail, rule);
        }
    }

    fn groups(
        &mut self,
        groups: &[SecurityGroup],
        interface: &Interface,
        target: &Target,
        installation: &Installation,
        settings: &Settings,
    ) {
        let Some(quotas) = settings.quotas else { return };
        let holder = groups.iter().find(|group| is_holder(group, installation));
        if holder.is_none() && groups.len() >= quotas.groups_per_interface {
            let detail = format!(
                "interface `{}` has {} of {} security groups, and the grant needs one more",
                interface.id,
                groups.len(),
                quotas.groups_per_interface
            );
            self.obstacle(ErrorCode::NoCapacity, detail, None);
        }
        let limit = quotas.rules_per_group;
        for v4 in [true, false] {
            let sources = target
                .sources
                .iter()
                .filter(|source| source.net().addr().is_ipv4() == v4)
                .count();
            let needed = sources * target.ports.len();
            let standing = holder.map_or(0, |group| {
                let of_family =
                    |peer: &SgPeer| matches!(peer, SgPeer::Net(net) if net.addr().is_ipv4() == v4);
                group.ingress.iter().filter(|rule| of_family(&rule.peer)).count()
            });
            if needed > limit {
                let detail =
                    format!("the grant needs {needed} rules in one security group, and {limit} are the most");
                self.obstacle(ErrorCode::NoCapacity, detail, None);
            } else if needed + standing > limit {
                let detail = format!(
                    "with {standing} rules of other grants, {needed} more may not fit: {limit} are the most"
                );
                self.warn("rules_may_not_fit", detail, None);
            }
        }
    }
}

impl<C> Note<C> {
    fn show(&self, code: &str) -> api::PreflightNote {
        api::PreflightNote {
            code: code.to_owned(),
            detail: self.detail.clone(),
            rule: self.rule.as_ref().map(|rule| api::PreflightRule {
                resource: rule.resource.clone(),
                rule: rule.rule.clone(),
                priority: rule.priority,
            }),
        }
    }
}

/// Where a grant's allow would stand.
struct Place {
    /// Its number is smaller than this one.
    above: u16,
    /// The rule that has this number, if one does.
    anchor: Option<NsgRule>,
    /// Others' inbound rules.
    foreign: Vec<NsgRule>,
}

impl Place {
    fn of(rules: &[NsgRule], ports: Ports, addresses: &[IpAddr], installation: &Installation) -> Self {
        let inbound = || rules.iter().filter(|rule| rule.direction == Direction::Inbound);
        let about = |rule: &&NsgRule| {
            let mut all = rule.ports.iter();
            all.any(|range| range.overlaps(ports.first(), ports.last()))
        };
        let lockdown = inbound()
            .filter(|rule| whose(rule, installation) == Some(Access::Deny))
            .filter(about)
            // The NSG may hold the denies of other machines, at quite other numbers.
            .filter(|rule| names_any(&rule.destination, addresses))
            .min_by_key(|rule| rule.priority);
        let first_allow = || {
            inbound()
                .filter(|rule| rule.priority <= NUMBERS.1)
                .filter(|rule| rule.access == Access::Allow && whose(rule, installation).is_none())
                .filter(about)
                .min_by_key(|rule| rule.priority)
        };
        let anchor = lockdown.or_else(first_allow).cloned();
        Self {
            above: anchor.as_ref().map_or(NUMBERS.1 + 1, |rule| rule.priority),
            anchor,
            foreign: inbound()
                .filter(|rule| whose(rule, installation).is_none())
                .cloned()
                .collect(),
        }
    }
}

/// Whether the side names one of the addresses. A word stands for all.
fn names_any(side: &Side, addresses: &[IpAddr]) -> bool {
    side.prefixes.iter().any(|prefix| match prefix {
        AddressPrefix::Net(net) => addresses.iter().any(|address| net.contains(address)),
        AddressPrefix::Tag(_) => true,
    })
}

/// What a rule of ours does: a lockdown denies, a grant allows. `None` for a rule that is not ours.
fn whose(rule: &NsgRule, installation: &Installation) -> Option<Access> {
    let text = rule.description.as_deref()?;
    let lockdown = Mark::parse(text).filter(|mark| mark.installation == *installation);
    match lockdown {
        Some(mark) if matches!(mark.purpose, Purpose::Lockdown { .. }) => Some(Access::Deny),
        Some(_) => Some(Access::Allow),
        None => SharedMark::parse(text)
            .is_some_and(|mark| mark.installation == *installation)
            .then_some(Access::Allow),
    }
}

/// What becomes of the flow at the NSG when the grant's allow stands.
fn with_grant(layer: &Layer, interface: &Interface, place: &Place, flow: &Flow) -> Option<HopVerdict> {
    let Layer::Nsg {
        point,
        memberships,
        possible_memberships,
        ..
    } = layer
    else {
        return None;
    };
    let any = || Side {
        prefixes: vec![AddressPrefix::Tag("*".to_owned())],
        groups: Vec::new(),
    };
    let grant = NsgRule {
        name: "grant".to_owned(),
        description: None,
        priority: place.above,
        direction: Direction::Inbound,
        access: Access::Allow,
        protocol: NsgProtocol::Any,
        source: any(),
        destination: any(),
        ports: vec![NsgPorts::ALL],
        source_ports: vec![NsgPorts::ALL],
    };
    let rules: Vec<NsgRule> = place
        .foreign
        .iter()
        .filter(|rule| rule.priority < place.above)
        .chain(slice::from_ref(&grant))
        .cloned()
        .collect();
    let known = Memberships::Known {
        certain: memberships,
        possible: possible_memberships,
    };
    Some(evaluate_nsg(point, &rules, known, &interface.network, flow))
}

#[cfg(test)]
mod tests;
