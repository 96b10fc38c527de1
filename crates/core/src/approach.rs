//! How packets get to a machine that stands behind a firewall: which of them pass it, where they are sent to, and what
//! the hops behind it see.
//!
//! Sources: Azure documentation, "Virtual network traffic routing" (the longest prefix decides, a user's route before
//! the system's of the same prefix), "Filter inbound traffic with Azure Firewall DNAT" (what comes in by a DNAT rule
//! comes from an address of the firewall's own subnet).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    enforcer::WantedGrant,
    net::{Ports, Protocol, Source},
    point::{PointRef, PointType},
    policy::Lockdown,
};

/// How packets get to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// They are sent to an address of the firewall, and to a mapped port of it.
    Translated {
        /// The firewall's address.
        address: IpAddr,
    },
    /// A route sends them through the firewall.
    Routed,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leg {
    /// For packets to or from where.
    pub prefix: IpNet,
    /// Whether they pass the firewall.
    pub through: bool,
    /// Whether they pass another appliance, of which nothing is known here, or come to no end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub elsewhere: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Where a load balancer inside the network takes packets in for a machine. It leaves their source as it is, so that
/// what stands before the machine cannot tell them from those that came straight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Front {
    /// The balancer's resource id, lower case.
    pub balancer: String,
    /// Its address there.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Ports,
    /// The machine's port; none when the port stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<u16>,
}

impl Front {
    /// The balancer's ports that lead to some of the machine's, if any do.
    pub fn leading_to(&self, ports: Ports) -> Option<Ports> {
        if ports.protocol() != self.ports.protocol() {
            return None;
        }
        if let Some(port) = self.leads_to {
            let wanted = (ports.first()..=ports.last()).contains(&port);
            return wanted.then_some(self.ports);
        }
        let first = ports.first().max(self.ports.first());
        Ports::range(ports.protocol(), first, ports.last().min(self.ports.last())).ok()
    }
}

/// A NAT rule of others that leads to the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposure {
    /// The rule, with its collection.
    pub rule: String,
    /// The machine's ports that it leads to.
    pub ports: Ports,
    /// Whom it lets in, or may.
    pub sources: Vec<IpNet>,
    /// Whether it is certain that it lets all of these in.
    #[serde(default)]
    pub certain: bool,
}

/// Packets that are routed through a firewall to the machine, and that others' network rules let through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Routed {
    /// To which of the machine's ports.
    pub ports: Ports,
    /// Whether it is certain. Otherwise a rule names something whose addresses are not known here.
    pub certain: bool,
    /// From where: networks, aggregated, in order.
    pub sources: Vec<IpNet>,
}

/// What a firewall has left for new doors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// How many more ports it can map.
    pub left: u16,
    /// The machine's ports that it maps already: these take no more of it.
    pub mapped: Vec<Ports>,
}

/// The way to an interface that stands behind a firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approach {
    /// The point whose rules are written: the firewall, or the policy that has its rules.
    pub point: PointRef,
    /// The firewall's resource id, lower case.
    pub firewall: String,
    /// The interface's address that packets are let through to: its primary one. Firewalls know IPv4 alone.
    pub address: Ipv4Addr,
    /// The firewall's public addresses, the one that new doors are made at first.
    pub doors: Vec<IpAddr>,
    /// The prefixes of the firewall's subnet: where what it translated comes from.
    pub inside: Vec<IpNet>,
    /// The routes of the interface's subnet, sorted; the longest prefix decides. What no route speaks of does not pass
    /// the firewall unless it is sent to one of its doors.
    pub legs: Vec<Leg>,
    /// Where load balancers lead on to the machine, by [`Approach::address`] or another interface's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fronts: Vec<Front>,
    /// Load balancers, by id, that lead on to it and could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// NAT rules of others that lead to the machine, straight or by a load balancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposures: Vec<Exposure>,
    /// What others' network rules let through to [`Approach::address`] as it was sent; none where that is not known: rules
    /// cannot be read, are too many, or the firewall puts an address of its own in the client's place. Others may come
    /// all the same: by a load balancer, an application rule, or a network that is connected past the firewall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<Vec<Routed>>,
    /// What the firewall has left, where that is little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Room>,
}

impl Approach {
    /// How packets from there come through the firewall; none when they do not pass it. An address of the internet
    /// comes in by a door, where there is one: the machine's private address is not known out there.
    pub fn way(&self, source: Source) -> Option<Way> {
        let net = source.net();
        let through = self
            .legs
            .iter()
            .filter(|leg| leg.prefix.contains(&net))
            .max_by_key(|leg| leg.prefix.prefix_len())
            .map(|leg| leg.through);
        let door = self.doors.first().filter(|_| !is_private(net));
        match (door, through) {
            (Some(address), _) => Some(Way::Translated { address: *address }),
            (None, Some(true)) => Some(Way::Routed),
            (None, Some(false) | None) => None,
        }
    }

    /// What the point sees of packets from these sources, sorted: the firewall sees the clients that pass it; what
    /// stands behind it sees the firewall's subnet where packets were translated, and the clients where not.
    pub fn seen_at(&self, point: &PointRef, sources: &[Source]) -> Vec<Source> {
        let seen: BTreeSet<Source> = if is_firewall(point) {
            let passing = sources.iter().filter(|source| self.way(**source).is_some());
            passing.copied().collect()
        } else {
            self.seen_behind(sources).into_iter().collect()
        };
        seen.into_iter().collect()
    }

    /// What the point shall let in for a grant that it was told the clients of; `lockdown` is that of the policy that
    /// guards the machine. Behind a firewall its subnet stands for whoever comes by a NAT rule: under `strict` it is let in
    /// no more for a grant that is open, when somebody else's rule leads others to its ports. Of one that is opening, the
    /// firewall's own planner is asked first.
    pub fn wanted_at(
        &self,
        point: &PointRef,
        grant: &WantedGrant,
        lockdown: Option<Lockdown>,
    ) -> Vec<Source> {
        let is_exposed = !grant.opening
            && !is_firewall(point)
            && lockdown == Some(Lockdown::Strict)
            && self.exposure(&grant.ports, &grant.sources).is_some();
        let is_shut =
            |source: &&Source| is_exposed && matches!(self.way(**source), Some(Way::Translated { .. }));
        let sources: Vec<Source> = grant
            .sources
            .iter()
            .filter(|source| !is_shut(source))
            .copied()
            .collect();
        self.seen_at(point, &sources)
    }

    /// A rule of others that lets in to one of the ports from elsewhere than these sources.
    pub fn exposure(&self, ports: &[Ports], sources: &[Source]) -> Option<&Exposure> {
        let within = |net: &IpNet| sources.iter().any(|source| source.net().contains(net));
        let meets = |one: &Exposure| {
            ports.iter().any(|ports| {
                ports.protocol() == one.ports.protocol()
                    && ports.first() <= one.ports.last()
                    && one.ports.first() <= ports.last()
            })
        };
        let mut all = self.exposures.iter();
        all.find(|one| meets(one) && !one.sources.iter().all(within))
    }

    /// What stands behind the firewall sees.
    pub fn seen_behind(&self, sources: &[Source]) -> Vec<Source> {
        let mut seen = Vec::new();
        for source in sources {
            match self.way(*source) {
                Some(Way::Translated { .. }) => seen.extend(
                    self.inside
                        .iter()
                        .filter_map(|net| Source::try_from(net.trunc()).ok()),
                ),
                Some(Way::Routed) | None => seen.push(*source),
            }
        }
        seen
    }
}

/// Where clients connect to for a port of a machine, because a firewall maps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entrance {
    /// The machine's port, with its protocol.
    pub leads_to: Ports,
    /// The firewall's address.
    pub host: IpAddr,
    /// The mapped port there.
    pub port: u16,
}

/// The entrances that a grant's rules at a firewall make, in order; `rules` as they were read back there
/// ([`crate::enforcer::Evidence::rules`]). Rules that translate nothing make none.
pub fn entrances(rules: &Value) -> Vec<Entrance> {
    let first = |rule: &Value, member: &str| -> Option<String> {
        Some(rule.get(member)?.as_array()?.first()?.as_str()?.to_owned())
    };
    let read = |rule: &Value| -> Option<Entrance> {
        let port: u16 = rule.get("translatedPort")?.as_str()?.parse().ok()?;
        let word = first(rule, "protocols").or_else(|| first(rule, "ipProtocols"))?;
        let protocol = if word.eq_ignore_ascii_case("udp") {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        Some(Entrance {
            leads_to: Ports::one(protocol, port).ok()?,
            host: first(rule, "destinationAddresses")?.parse().ok()?,
            port: first(rule, "destinationPorts")?.parse().ok()?,
        })
    };
    let mut found: Vec<Entrance> = rules.as_array().into_iter().flatten().filter_map(read).collect();
    found.sort();
    found.dedup();
    found
}

/// Whether the point is a firewall or a policy of one.
pub const fn is_firewall(point: &PointRef) -> bool {
    matches!(
        point.point_type(),
        PointType::AzureFirewall | PointType::AzureFirewallPolicy
    )
}

/// Whether no address of it is one of the internet.
///
/// Source: RFC 1918, RFC 6598 (which providers' and virtual networks use inside), RFC 4193.
fn is_private(net: IpNet) -> bool {
    let within = |first: [u8; 4], length: u8| {
        IpNet::new(IpAddr::from(first), length).is_ok_and(|wide| wide.contains(&net))
    };
    within([10, 0, 0, 0], 8)
        || within([172, 16, 0, 0], 12)
        || within([192, 168, 0, 0], 16)
        || within([100, 64, 0, 0], 10)
        || match net {
            IpNet::V6(net) => net.addr().is_unique_local() && net.prefix_len() >= 7,
            IpNet::V4(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approach(doors: &[&str], legs: &[(&str, bool)]) -> Approach {
        Approach {
            point: PointRef::firewall("00000000-0000-0000-0000-000000000001", "hub", "edge").unwrap(),
            firewall: "edge".to_owned(),
            address: Ipv4Addr::new(10, 1, 0, 4),
            doors: doors.iter().map(|text| text.parse().unwrap()).collect(),
            inside: vec!["10.0.0.0/26".parse().unwrap()],
            legs: legs
                .iter()
                .map(|(prefix, through)| Leg {
                    prefix: prefix.parse().unwrap(),
                    through: *through,
                    elsewhere: false,
                })
                .collect(),
            fronts: Vec::new(),
            unread: Vec::new(),
            exposures: Vec::new(),
            routed: None,
            room: None,
        }
    }

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_on_the_internet_comes_in_by_a_door_and_is_seen_as_the_firewalls_subnet() {
        let approach = approach(&["20.0.0.1"], &[("0.0.0.0/0", true)]);
        let client = source("203.0.113.7");
        let address = "20.0.0.1".parse().unwrap();
        assert_eq!(approach.way(client), Some(Way::Translated { address }));
        assert_eq!(approach.seen_behind(&[client]), [source("10.0.0.0/26")]);
        assert_eq!(approach.seen_at(&approach.point, &[client]), [client]);
    }

    #[test]
    fn under_strict_the_firewalls_subnet_is_let_in_no_more_when_others_are_led_to_an_open_port() {
        let mut approach = approach(&["20.0.0.1"], &[("0.0.0.0/0", true)]);
        let nsg = PointRef::nsg("00000000-0000-0000-0000-000000000001", "hub", "inner").unwrap();
        let grant = |opening: bool| WantedGrant {
            grant: crate::testing::an_id(1),
            ports: vec!["22".parse().unwrap()],
            sources: vec![source("203.0.113.0/24"), source("192.168.1.1")],
            not_after: crate::testing::at(0),
            opening,
        };
        let (strict, defer) = (Some(Lockdown::Strict), Some(Lockdown::Defer));
        let (inside, office) = (source("10.0.0.0/26"), source("192.168.1.1"));
        let both = [inside, office];
        assert_eq!(approach.wanted_at(&nsg, &grant(false), strict), both);
        for (ports, from, shuts) in [
            ("22", "0.0.0.0/0", true),
            ("20-30", "203.0.0.0/16", true),
            ("22", "203.0.113.128/25", false),
            ("23", "0.0.0.0/0", false),
            ("22/udp", "0.0.0.0/0", false),
        ] {
            approach.exposures = vec![Exposure {
                certain: true,
                rule: "theirs/web".to_owned(),
                ports: ports.parse().unwrap(),
                sources: vec![from.parse().unwrap()],
            }];
            let expected: &[Source] = if shuts { &[office] } else { &both };
            assert_eq!(
                approach.wanted_at(&nsg, &grant(false), strict),
                expected,
                "{ports} {from}"
            );
            for lockdown in [defer, None] {
                assert_eq!(approach.wanted_at(&nsg, &grant(false), lockdown), both);
            }
            assert_eq!(approach.wanted_at(&nsg, &grant(true), strict), both);
            let seen = approach.wanted_at(&approach.point, &grant(false), strict);
            assert_eq!(seen.len(), 2, "the firewall is told of its clients");
        }
    }

    #[test]
    fn a_client_on_a_connected_network_passes_where_the_longest_route_says_so() {
        let approach = approach(
            &["20.0.0.1"],
            &[("0.0.0.0/0", true), ("10.1.0.0/16", false), ("10.1.9.0/24", true)],
        );
        let way = |text: &str| approach.way(source(text));
        assert_eq!(way("192.168.1.1"), Some(Way::Routed));
        assert_eq!(way("10.1.2.3"), None);
        assert_eq!(way("10.1.9.3"), Some(Way::Routed));
        let sources = [source("192.168.1.1"), source("10.1.2.3")];
        assert_eq!(approach.seen_behind(&sources), sources);
        assert_eq!(
            approach.seen_at(&approach.point, &sources),
            [source("192.168.1.1")]
        );
    }

    #[test]
    fn a_grants_translating_rules_say_where_to_connect_to() {
        let rules = serde_json::json!([
            { "protocols": ["TCP"], "destinationAddresses": ["20.0.0.1"], "destinationPorts": ["50001"],
              "translatedAddress": "10.1.0.4", "translatedPort": "22" },
            { "ipProtocols": ["UDP"], "destinationAddresses": ["20.0.0.1"], "destinationPorts": ["50000"],
              "translatedAddress": "10.1.0.4", "translatedPort": "53" },
            { "ipProtocols": ["TCP"], "destinationAddresses": ["10.1.0.4"], "destinationPorts": ["22"] },
        ]);
        let found: Vec<String> = entrances(&rules)
            .into_iter()
            .map(|one| format!("{} at {}:{}", one.leads_to, one.host, one.port))
            .collect();
        assert_eq!(found, ["22/tcp at 20.0.0.1:50001", "53/udp at 20.0.0.1:50000"]);
        assert_eq!(entrances(&Value::Null), []);
    }

    #[test]
    fn without_a_door_the_internet_is_routed_or_does_not_pass() {
        let client = source("203.0.113.7");
        assert_eq!(
            approach(&[], &[("0.0.0.0/0", true)]).way(client),
            Some(Way::Routed)
        );
        assert_eq!(approach(&[], &[]).way(client), None);
    }
}
