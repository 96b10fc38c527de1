//! Azure Firewall, as far as it decides who reaches a machine: which doors lead to a port, whom they let in, and what
//! the next hop sees.
//!
//! NAT rules are asked first, then network rules; of each kind in the order of their collections, a policy's parents
//! first; the first match decides, and no match is a denial. Whether a parent's NAT rules are inherited is not known:
//! "Azure Firewall Manager policy overview" says that they are not, "Azure Firewall rule processing logic" shows them
//! asked before the policy's own. What they do is called possible. What a NAT rule translates is let through; an older
//! description lets a denying network rule override that, so that such a door is called possible and not certain.
//! Application rules are not asked for inbound packets to a port. A NAT rule is for a public address of the firewall or
//! for its private one, which is not Basic's; who of the connected networks gets to the latter is not known.
//!
//! Sources: Azure documentation, "Azure Firewall rule processing logic", "Filter inbound traffic with Azure Firewall
//! DNAT", "Deploy Azure Firewall private IP DNAT for overlapped and nonroutable networks"; REST reference, `AzureFirewallNatRule`, `AzureFirewallNetworkRule`, `FirewallPolicyRuleCollectionGroup`.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    approach::Routed,
    net::{Ports, Protocol, Source},
    nsg::{Access, NsgPorts, Tag},
    reach::{
        RuleRef, Verdict,
        region::{Addresses, Family, Footprint, Rect, first_match, subtract},
    },
};

/// One entry of a rule's source or destination list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `*`.
    Any,
    /// An address, a network, or a range from the first to the last address, both included and of one family.
    Range(IpAddr, IpAddr),
    /// A service tag, an IP group or a host name: what it stands for is not known here.
    Named(String),
}

impl Endpoint {
    /// Reads `*`, an address, a CIDR block, `first-last`, or a name.
    pub fn parse(text: &str) -> Self {
        let range = |first: IpAddr, last: IpAddr| {
            (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self::Range(first, last))
        };
        if text == "*" {
            return Self::Any;
        }
        let read = || {
            if let Ok(address) = text.parse::<IpAddr>() {
                return range(address, address);
            }
            if let Ok(net) = text.parse::<IpNet>() {
                return range(net.network(), net.broadcast());
            }
            let (first, last) = text.split_once('-')?;
            range(first.trim().parse().ok()?, last.trim().parse().ok()?)
        };
        read().unwrap_or_else(|| Self::Named(text.to_owned()))
    }

    /// The addresses among `all`: those that it is for certain, or that it may be.
    fn among(&self, all: Addresses, family: Family) -> (Option<Addresses>, Option<Addresses>) {
        match self {
            Self::Any => (Some(all), None),
            Self::Range(first, last) if Family::of(*first) == family => (
                Addresses::between(*first, *last).and_then(|range| all.intersect(range)),
                None,
            ),
            Self::Range(..) => (None, None),
            Self::Named(name) => match Tag::read(name) {
                Tag::Any => (Some(all), None),
                _ => (None, Some(all)),
            },
        }
    }

    /// Whether it is the address: for certain, possibly (`Some(false)`), or not.
    fn is(&self, address: IpAddr) -> Option<bool> {
        match self {
            Self::Any => Some(true),
            Self::Range(first, last) => {
                (first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last)
                    .then_some(true)
            }
            Self::Named(_) => Some(false),
        }
    }
}

/// What a packet has to be like for a rule to match it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Of which protocols, of those that have ports.
    pub protocols: Vec<Protocol>,
    /// From where.
    pub sources: Vec<Endpoint>,
    /// To where: for a NAT rule, addresses of the firewall.
    pub destinations: Vec<Endpoint>,
    /// To which ports.
    pub ports: Vec<NsgPorts>,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sends it on to an address and port; without an address, to a host name that is not known here.
    Translate {
        /// The address behind the firewall.
        address: Option<IpAddr>,
        /// Its port.
        port: u16,
    },
    /// Lets it pass, or drops it.
    Filter(Access),
}

/// A rule of a firewall or of its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Its name within the collection.
    pub name: String,
    /// Free text; ours carries a mark.
    pub description: Option<String>,
    /// What it matches.
    pub matches: Match,
    /// What it does.
    pub action: Action,
}

/// Rules of one kind that share a priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCollection {
    /// Its name, after that of its group where it is a policy's.
    pub name: String,
    /// How many policies above the firewall's own it is inherited from; those of the topmost are asked first.
    pub inherited: u8,
    /// The group's priority; 0 for a classic firewall, which has no groups.
    pub group_priority: u16,
    /// Its own, 100 to 65000; the lowest number is asked first.
    pub priority: u16,
    /// Its rules, in order.
    pub rules: Vec<FirewallRule>,
}

/// A firewall, with what decides about inbound packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// Its resource id, lower case.
    pub id: String,
    /// Its public addresses: our DNAT rules are for these.
    pub public_addresses: Vec<IpAddr>,
    /// Its addresses inside, which routes name; others' DNAT rules may be for these, too.
    pub private_addresses: Vec<IpAddr>,
    /// The prefixes of its subnet: where what it translated comes from, for the hops behind it.
    pub inside: Vec<IpNet>,
    /// Its rules, or its policy's.
    pub collections: Vec<RuleCollection>,
}

/// A way through a firewall to a port of a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Door {
    /// The firewall's address that a client connects to.
    pub address: IpAddr,
    /// The ports that a client connects to there: the mapped port, as a rule one.
    pub ports: NsgPorts,
    /// The protocol.
    pub protocol: Protocol,
    /// The machine's port that it leads to.
    pub leads_to: u16,
    /// Whom it lets in: networks, in order.
    pub sources: Vec<IpNet>,
    /// The rule that makes it.
    pub rule: RuleRef,
    /// Whether it is certain. Otherwise a rule names something whose addresses are not known here, a network rule denies
    /// what was translated, a parent policy's NAT rule makes or takes it, one before it may take it, or it is at an
    /// address inside; the sources are then the most that it could be.
    pub certain: bool,
}

impl Firewall {
    /// The rules in the order in which they are asked, within their kind.
    fn ordered(&self) -> Vec<(&RuleCollection, &FirewallRule)> {
        let mut collections: Vec<&RuleCollection> = self.collections.iter().collect();
        collections.sort_by_key(|one| (std::cmp::Reverse(one.inherited), one.group_priority, one.priority));
        collections
            .into_iter()
            .flat_map(|collection| collection.rules.iter().map(move |rule| (collection, rule)))
            .collect()
    }

    fn reference(&self, collection: &RuleCollection, rule: &FirewallRule) -> RuleRef {
        RuleRef {
            resource: self.id.clone(),
            rule: format!("{}/{}", collection.name, rule.name),
            priority: Some(collection.priority),
        }
    }

    /// Whether a NAT rule leads, or may lead, to the address.
    pub fn leads_to(&self, machine: IpAddr) -> bool {
        let mut rules = self.collections.iter().flat_map(|collection| &collection.rules);
        rules.any(|rule| match rule.action {
            Action::Translate { address, .. } => address.is_none_or(|address| address == machine),
            Action::Filter(_) => false,
        })
    }

    /// Every door that leads to one of the ports of the machine's address.
    pub fn doors(&self, machine: IpAddr, ports: Ports) -> Vec<Door> {
        let mut doors = Vec::new();
        let inside = self.private_addresses.iter();
        for address in self.public_addresses.iter().chain(inside).copied() {
            doors.extend(self.doors_at(address, machine, ports));
        }
        doors.sort();
        doors
    }

    fn doors_at(&self, address: IpAddr, machine: IpAddr, ports: Ports) -> Vec<Door> {
        let protocol = ports.protocol();
        let family = Family::of(address);
        let everywhere = Addresses::of(family.any().net());
        let mut doors = Vec::new();
        let mut answered: Vec<Rect> = Vec::new();
        let mut doubted: Vec<Rect> = Vec::new();
        for (collection, rule) in self.ordered() {
            let Action::Translate {
                address: target,
                port: leads_to,
            } = rule.action
            else {
                continue;
            };
            let Some(at) = rule.matches.meets(protocol, address) else {
                continue;
            };
            let footprint = rule.matches.footprint(at, everywhere, family);
            let leads = (target.is_none() || target == Some(machine))
                && (ports.first()..=ports.last()).contains(&leads_to);
            if leads {
                let denied = |source: IpNet| {
                    Source::try_from(source).map_or(true, |source| {
                        // The client is what a network rule would see of a translated packet.
                        self.denies_translated(source, machine, protocol, leads_to)
                    })
                };
                let is_own = collection.inherited == 0 && self.public_addresses.contains(&address);
                let pieces = |rects: &[Rect], taken: &[Rect]| -> Vec<Rect> {
                    rects.iter().flat_map(|rect| subtract(*rect, taken)).collect()
                };
                let left = pieces(&footprint.certain, &answered);
                // What is left where no other rule may answer before, and where one may.
                let free = pieces(&left, &doubted);
                let doubtful = pieces(&left, &free);
                for (rects, certain) in [
                    (free, is_own && target.is_some()),
                    (doubtful, false),
                    (pieces(&footprint.possible, &answered), false),
                ] {
                    for rect in rects {
                        let sources = rect.addresses.nets(family);
                        let certain = certain && !sources.iter().any(|source| denied(*source));
                        doors.push(Door {
                            address,
                            ports: NsgPorts {
                                first: rect.ports.0,
                                last: rect.ports.1,
                            },
                            protocol,
                            leads_to,
                            sources,
                            rule: self.reference(collection, rule),
                            certain,
                        });
                    }
                }
            }
            if collection.inherited == 0 {
                answered.extend(footprint.certain);
            } else {
                doubted.extend(footprint.certain);
            }
            doubted.extend(footprint.possible);
        }
        doors
    }

    /// Whether a network rule denies, or may deny, some of what was translated. That none allows it does not matter.
    fn denies_translated(&self, source: Source, machine: IpAddr, protocol: Protocol, port: u16) -> bool {
        let Ok(ports) = Ports::one(protocol, port) else {
            return true;
        };
        let (pieces, _) = self.pieces(source, machine, ports);
        pieces
            .iter()
            .any(|piece| (piece.access == Access::Deny && piece.rule.is_some()) || !piece.unsure.is_empty())
    }

    /// Whether packets that are routed through the firewall, untranslated, pass its network rules, and the rules that
    /// let them or drop them, in order.
    pub fn passes(&self, source: Source, destination: IpAddr, ports: Ports) -> (Verdict, Vec<RuleRef>) {
        let (pieces, rules) = self.pieces(source, destination, ports);
        let allows = pieces.iter().any(|piece| piece.access == Access::Allow);
        let denies = pieces.iter().any(|piece| piece.access == Access::Deny);
        let unsure = pieces.iter().any(|piece| !piece.unsure.is_empty());
        let verdict = match (allows, denies) {
            _ if unsure => Verdict::Partly,
            (true, true) => Verdict::Partly,
            (true, false) => Verdict::Allowed,
            (false, _) => Verdict::Denied,
        };
        let mut named: Vec<usize> = pieces
            .iter()
            .flat_map(|piece| piece.rule.into_iter().chain(piece.unsure.iter().copied()))
            .collect();
        named.sort_unstable();
        named.dedup();
        let named = named
            .into_iter()
            .filter_map(|at| rules.get(at))
            .map(|(collection, rule)| self.reference(collection, rule))
            .collect();
        (verdict, named)
    }

    /// Whom the network rules let pass to one of the ports, for certain or possibly: networks, and the rule, in order.
    pub fn let_pass(&self, destination: IpAddr, ports: Ports) -> Vec<(Vec<IpNet>, RuleRef)> {
        let family = Family::of(destination);
        let (pieces, rules) = self.pieces(family.any(), destination, ports);
        let passing = pieces.iter().filter_map(|piece| {
            let rule = match piece.access {
                Access::Allow => piece.rule.or_else(|| piece.unsure.first().copied()),
                // Denied, unless an earlier rule matches after all.
                Access::Deny => piece.unsure.first().copied(),
            };
            let (collection, rule) = rules.get(rule?)?;
            Some((
                piece.rect.addresses.nets(family),
                self.reference(collection, rule),
            ))
        });
        passing.collect()
    }

    /// What the network rules let through to the ports, untranslated: whom, to which of them, and whether that is certain.
    /// None where the rules that speak of it have more than `most` sources and ports together: that takes the square of
    /// their number.
    pub fn routed(&self, destination: IpAddr, ports: Ports, most: usize) -> Option<Vec<Routed>> {
        let all = self.collections.iter().flat_map(|collection| &collection.rules);
        let speaking = all.filter(|rule| {
            let met = || rule.matches.meets(ports.protocol(), destination).is_some();
            matches!(rule.action, Action::Filter(_)) && met()
        });
        let asked = speaking.fold(0_usize, |sum, rule| {
            let own = rule
                .matches
                .sources
                .len()
                .saturating_mul(rule.matches.ports.len());
            sum.saturating_add(own)
        });
        if asked > most {
            return None;
        }
        let family = Family::of(destination);
        let (pieces, _) = self.pieces(family.any(), destination, ports);
        let mut found: BTreeMap<(Ports, bool), Vec<IpNet>> = BTreeMap::new();
        for piece in pieces {
            let certain = match (piece.access, piece.unsure.is_empty()) {
                (Access::Allow, certain) => certain,
                // Denied, unless an earlier rule matches after all.
                (Access::Deny, false) => false,
                (Access::Deny, true) => continue,
            };
            let (first, last) = piece.rect.ports;
            if let Ok(ports) = Ports::range(ports.protocol(), first, last) {
                let nets = piece.rect.addresses.nets(family);
                found.entry((ports, certain)).or_default().extend(nets);
            }
        }
        let found = found.into_iter().map(|((ports, certain), nets)| Routed {
            ports,
            certain,
            sources: IpNet::aggregate(&nets),
        });
        Some(found.collect())
    }

    fn pieces(
        &self,
        source: Source,
        destination: IpAddr,
        ports: Ports,
    ) -> (
        Vec<crate::reach::region::Piece>,
        Vec<(&RuleCollection, &FirewallRule)>,
    ) {
        let family = Family::of(destination);
        let mut rules = self.ordered();
        rules.retain(|(_, rule)| matches!(rule.action, Action::Filter(_)));
        if Family::of(source.net().addr()) != family {
            return (Vec::new(), rules);
        }
        let all = Addresses::of(source.net());
        let flow = Rect {
            addresses: all,
            ports: (ports.first(), ports.last()),
        };
        let footprints = rules.iter().map(|(_, rule)| {
            let access = match rule.action {
                Action::Filter(access) => access,
                Action::Translate { .. } => Access::Deny,
            };
            let footprint = rule
                .matches
                .meets(ports.protocol(), destination)
                .map(|at| rule.matches.footprint(at, all, family))
                .unwrap_or_default();
            (access, footprint)
        });
        (first_match(flow, footprints), rules)
    }

    /// Whom the hops behind the firewall see behind a NAT rule: any address of its subnet, whoever the client is.
    pub fn seen_behind(&self) -> Vec<Source> {
        self.inside
            .iter()
            .filter_map(|net| Source::try_from(net.trunc()).ok())
            .collect()
    }

    /// The port for a new door of the machine's port: one that clients know already because a rule leads from there
    /// to it, else the lowest of `band` that no rule answers at the address; none when every one is taken.
    pub fn mapped_port(
        &self,
        address: IpAddr,
        machine: IpAddr,
        port: Ports,
        band: std::ops::RangeInclusive<u16>,
    ) -> Option<u16> {
        let translating: Vec<&FirewallRule> = self
            .ordered()
            .into_iter()
            .map(|(_, rule)| rule)
            .filter(|rule| rule.matches.meets(port.protocol(), address).is_some())
            .filter(|rule| matches!(rule.action, Action::Translate { .. }))
            .collect();
        let known = translating
            .iter()
            .find_map(|rule| match (&rule.action, rule.matches.ports.as_slice()) {
                (
                    Action::Translate {
                        address: Some(to),
                        port: inner,
                    },
                    [only],
                ) if *to == machine && *inner == port.first() && only.first == only.last => Some(only.first),
                _ => None,
            });
        known.or_else(|| {
            band.into_iter().find(|candidate| {
                !translating.iter().any(|rule| {
                    rule.matches
                        .ports
                        .iter()
                        .any(|taken| taken.overlaps(*candidate, *candidate))
                })
            })
        })
    }
}

impl Match {
    /// Whether it speaks of the protocol and the destination: for certain, possibly (`Some(false)`), or not.
    fn meets(&self, protocol: Protocol, destination: IpAddr) -> Option<bool> {
        if !self.protocols.contains(&protocol) {
            return None;
        }
        self.destinations
            .iter()
            .filter_map(|one| one.is(destination))
            .max()
    }

    fn footprint(&self, certain: bool, all: Addresses, family: Family) -> Footprint {
        let mut footprint = Footprint::default();
        for source in &self.sources {
            let (sure, maybe) = source.among(all, family);
            for range in self.ports.iter().filter(|range| range.first <= range.last) {
                let rect = |addresses| Rect {
                    addresses,
                    ports: (range.first, range.last),
                };
                if certain {
                    footprint.certain.extend(sure.map(rect));
                } else {
                    footprint.possible.extend(sure.map(rect));
                }
                footprint.possible.extend(maybe.map(rect));
            }
        }
        footprint
    }
}

#[cfg(test)]
mod tests;
