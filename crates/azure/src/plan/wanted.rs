//! The rules that are wanted, before each has a priority.
//!
//! One rule holds one address family: ARM refuses a rule whose addresses are of two
//! (`ResourceCannotContainAddressPrefixesFromDifferentAddressFamilies`), a list whose networks overlap
//! (`OverlappingSubnetsNotPermittedInSecurityRule`), and a list with names or `*` in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    enforcer::{Desired, Member, WantedGrant},
    id::{GrantId, PolicyId},
    mark::{Installation, Mark, Purpose},
    net::{Ports, Protocol, Source},
    nsg::{Access, AddressPrefix, Direction, NsgPorts, NsgProtocol, NsgRule},
    policy::Lockdown,
};
use serde_json::{Map, Value, json};

use super::{
    label::Label,
    rule::{About, allow_name, deny_name},
    share::entries,
};

/// A rule that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) label: Label,
    pub(super) access: Access,
    pub(super) protocol: NsgProtocol,
    /// Sorted, not overlapping; empty for everywhere.
    pub(super) sources: Vec<IpNet>,
    /// Sorted; never empty.
    pub(super) destinations: Vec<IpAddr>,
    /// Sorted, not overlapping; never empty.
    pub(super) ports: Vec<NsgPorts>,
}

/// Where a lockdown's deny stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// Above others' allows, which it overrules.
    Above,
    /// Below others' allows, which win.
    Below,
}

impl Stance {
    const fn of(lockdown: Lockdown) -> Self {
        match lockdown {
            Lockdown::Strict => Self::Above,
            Lockdown::Defer => Self::Below,
        }
    }
}

/// One lockdown's rules.
#[derive(Debug, Clone)]
pub(super) struct Deny {
    pub(super) policy: PolicyId,
    pub(super) stance: Stance,
    pub(super) rules: Vec<Wanted>,
}

/// The lockdowns' rules, in the order of the policies.
pub(super) fn denies(desired: &Desired) -> Vec<Deny> {
    let mut guards: BTreeMap<PolicyId, (Stance, BTreeSet<IpAddr>, BTreeSet<Ports>)> = BTreeMap::new();
    for member in &desired.members {
        if let Some(guard) = &member.guard {
            let (_, addresses, ports) = guards
                .entry(guard.policy)
                .or_insert_with(|| (Stance::of(guard.lockdown), BTreeSet::new(), BTreeSet::new()));
            addresses.extend(&member.addresses);
            ports.extend(&guard.ports);
        }
    }
    guards
        .into_iter()
        .map(|(policy, (stance, addresses, ports))| {
            let ports: Vec<Ports> = ports.into_iter().collect();
            let mut rules = Vec::new();
            for (udp, ports) in by_protocol(&ports) {
                for v6 in [false, true] {
                    let destinations = of_family(&addresses, v6);
                    if destinations.is_empty() {
                        continue;
                    }
                    rules.push(Wanted {
                        name: deny_name(&desired.installation, policy, udp, v6),
                        label: Label::One(Mark {
                            installation: desired.installation.clone(),
                            purpose: Purpose::Lockdown { policy },
                        }),
                        access: Access::Deny,
                        protocol: protocol(udp),
                        sources: Vec::new(),
                        destinations,
                        ports: ports.clone(),
                    });
                }
            }
            Deny {
                policy,
                stance,
                rules,
            }
        })
        .collect()
}

/// The rules of the member's grants, for the addresses given; empty for a grant none of whose sources is of the
/// family of any address.
pub(super) fn allows<'a>(
    installation: &Installation,
    member: &Member,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> Vec<(GrantId, Vec<Wanted>)> {
    let addresses: BTreeSet<IpAddr> = addresses.into_iter().copied().collect();
    member
        .grants
        .iter()
        .map(|grant| {
            let addresses = answered_for(member, grant, &addresses);
            (grant.grant, of_grant(installation, grant, &addresses))
        })
        .collect()
}

/// The addresses that a grant's packets may be for. Of what a firewall translates, its planner has looked at the ways to
/// one address alone: to the others, somebody else's rules may lead whom they like, from the same subnet.
fn answered_for(member: &Member, grant: &WantedGrant, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let Some(approach) = &member.approach else {
        return addresses.clone();
    };
    let is_translated = |source: &Source| {
        let net = source.net();
        approach.inside.iter().any(|inside| inside.trunc() == net)
    };
    if !grant.sources.iter().any(is_translated) {
        return addresses.clone();
    }
    let own = IpAddr::V4(approach.address);
    let stays = |address: &&IpAddr| address.is_ipv6() || **address == own;
    addresses.iter().filter(stays).copied().collect()
}

fn of_grant(installation: &Installation, grant: &WantedGrant, addresses: &BTreeSet<IpAddr>) -> Vec<Wanted> {
    let mut rules = Vec::new();
    for (udp, ports) in by_protocol(&grant.ports) {
        for v6 in [false, true] {
            let sources = outermost(
                grant
                    .sources
                    .iter()
                    .map(|source| source.net())
                    .filter(|net| net.addr().is_ipv6() == v6),
            );
            let destinations = of_family(addresses, v6);
            if sources.is_empty() || destinations.is_empty() {
                continue;
            }
            rules.push(Wanted {
                name: allow_name(installation, grant.grant, udp, v6),
                label: Label::One(Mark {
                    installation: installation.clone(),
                    purpose: Purpose::Grant {
                        grant: grant.grant,
                        end: grant.not_after,
                    },
                }),
                access: Access::Allow,
                protocol: protocol(udp),
                sources,
                destinations,
                ports: ports.clone(),
            });
        }
    }
    rules
}

const fn protocol(udp: bool) -> NsgProtocol {
    if udp { NsgProtocol::Udp } else { NsgProtocol::Tcp }
}

fn of_family(addresses: &BTreeSet<IpAddr>, v6: bool) -> Vec<IpAddr> {
    addresses
        .iter()
        .copied()
        .filter(|address| address.is_ipv6() == v6)
        .collect()
}

/// The ports of each protocol that has any, overlapping ones joined; TCP first.
fn by_protocol(ports: &[Ports]) -> Vec<(bool, Vec<NsgPorts>)> {
    let of = |wanted: Protocol| {
        let mut ranges: Vec<NsgPorts> = ports
            .iter()
            .filter(|ports| ports.protocol() == wanted)
            .map(|ports| NsgPorts {
                first: ports.first(),
                last: ports.last(),
            })
            .collect();
        ranges.sort_by_key(|range| (range.first, range.last));
        ranges
            .into_iter()
            .fold(Vec::new(), |mut joined: Vec<NsgPorts>, next| {
                match joined.last_mut().filter(|last| next.first <= last.last) {
                    Some(last) => last.last = last.last.max(next.last),
                    None => joined.push(next),
                }
                joined
            })
    };
    [(false, of(Protocol::Tcp)), (true, of(Protocol::Udp))]
        .into_iter()
        .filter(|(_, ports)| !ports.is_empty())
        .collect()
}

/// The networks that no other of them holds.
fn outermost(nets: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut sorted: Vec<IpNet> = nets.collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut kept: Vec<IpNet> = Vec::new();
    for net in sorted {
        // Sorted by address and then by prefix length, a network comes right after those that hold it.
        if !kept.last().is_some_and(|last| last.contains(&net)) {
            kept.push(net);
        }
    }
    kept
}

fn ports_text(ports: NsgPorts) -> String {
    if ports.first == ports.last {
        ports.first.to_string()
    } else {
        format!("{}-{}", ports.first, ports.last)
    }
}

impl Wanted {
    pub(super) fn about(&self) -> About<'_> {
        About {
            protocol: self.protocol,
            sources: &self.sources,
            destinations: &self.destinations,
            ports: &self.ports,
        }
    }

    /// ARM's properties of the rule at this priority.
    pub(super) fn properties(&self, priority: u16) -> Map<String, Value> {
        let mut properties = Map::new();
        let mut set = |name: &str, value: Value| properties.insert(name.to_owned(), value);
        set("description", json!(self.label.to_string()));
        set("priority", json!(priority));
        set("direction", json!("Inbound"));
        set("access", json!(self.access));
        set("protocol", json!(self.protocol));
        set("sourcePortRange", json!("*"));
        let prefix = |net: IpNet| AddressPrefix::Net(net).to_string();
        let sources: Vec<String> = self.sources.iter().copied().map(prefix).collect();
        let destinations: Vec<String> = self
            .destinations
            .iter()
            .map(|address| prefix(IpNet::from(*address)))
            .collect();
        let ports: Vec<String> = self.ports.iter().copied().map(ports_text).collect();
        if sources.is_empty() {
            set("sourceAddressPrefix", json!("*"));
        } else {
            one_or_many(&mut set, "sourceAddressPrefix", "sourceAddressPrefixes", &sources);
        }
        one_or_many(
            &mut set,
            "destinationAddressPrefix",
            "destinationAddressPrefixes",
            &destinations,
        );
        one_or_many(&mut set, "destinationPortRange", "destinationPortRanges", &ports);
        properties
    }

    /// Whether the rule says what is wanted, its priority aside.
    pub(super) fn is(&self, rule: &NsgRule) -> bool {
        self.is_but_for_reach(rule)
            && same(
                rule.destination.prefixes.iter().map(ToString::to_string),
                self.destinations
                    .iter()
                    .map(|address| AddressPrefix::Net(IpNet::from(*address)).to_string()),
            )
            && same(
                rule.ports.iter().copied().map(ports_text),
                self.ports.iter().copied().map(ports_text),
            )
    }

    /// Whether the rule says what is wanted in all that never changes in the life of a rule of ours: what differs
    /// was edited by somebody. Destinations, a lockdown's ports and a grant's end do change, and the sources of a rule
    /// that other grants share or shared.
    pub(super) fn is_unedited(&self, rule: &NsgRule) -> bool {
        let Some(label) = rule.description.as_deref().and_then(Label::parse) else {
            return false;
        };
        let ports = self.access == Access::Deny
            || same(
                rule.ports.iter().copied().map(ports_text),
                self.ports.iter().copied().map(ports_text),
            );
        let intact = match &label {
            Label::One(_) => true,
            Label::Shared(mark) => entries(rule, mark).is_some(),
        };
        let purpose = label.installation() == self.label.installation()
            && label.policy() == self.label.policy()
            && label.grants().is_empty() == self.label.grants().is_empty();
        let moved_in = label.grants() != self.label.grants();
        purpose
            && ports
            && intact
            && self.is_but_for_sources(rule)
            && (moved_in || self.comes_from_there(rule))
    }

    fn is_but_for_reach(&self, rule: &NsgRule) -> bool {
        rule.description.as_deref() == Some(self.label.to_string().as_str())
            && self.is_but_for_sources(rule)
            && self.comes_from_there(rule)
    }

    fn is_but_for_sources(&self, rule: &NsgRule) -> bool {
        rule.direction == Direction::Inbound
            && rule.access == self.access
            && rule.protocol == self.protocol
            && rule.source.groups.is_empty()
            && rule.destination.groups.is_empty()
            && rule.source_ports == [NsgPorts::ALL]
    }

    fn comes_from_there(&self, rule: &NsgRule) -> bool {
        if self.sources.is_empty() {
            matches!(rule.source.prefixes.as_slice(), [only] if only.is_any())
        } else {
            same(
                rule.source.prefixes.iter().map(ToString::to_string),
                self.sources
                    .iter()
                    .map(|net| AddressPrefix::Net(*net).to_string()),
            )
        }
    }
}

fn one_or_many(
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
    single: &str,
    list: &str,
    texts: &[String],
) {
    if let [only] = texts {
        set(single, json!(only));
    } else {
        set(list, json!(texts));
    }
}

fn same(one: impl Iterator<Item = String>, other: impl Iterator<Item = String>) -> bool {
    one.collect::<BTreeSet<_>>() == other.collect::<BTreeSet<_>>()
}
