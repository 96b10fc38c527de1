//! Which packets of a flow a rule matches, for certain and possibly.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Flow,
    region::{Addresses, Family, Footprint, Rect},
};
use crate::{
    net::Protocol,
    nsg::{AddressPrefix, Memberships, NsgPorts, NsgProtocol, NsgRule, PROBES, Side, Tag, private_networks},
    sg::{SgPeer, SgProtocol, SgRule},
};

/// A flow's packets, with what is needed to match rules against them.
pub(super) struct Packets<'f> {
    flow: &'f Flow,
    family: Family,
    pub(super) rect: Rect,
    /// The network's ranges, of the flow's family.
    network: Vec<Addresses>,
    /// The private ranges, of the flow's family.
    private: Vec<Addresses>,
}

impl<'f> Packets<'f> {
    pub(super) fn of(network: &[IpNet], flow: &'f Flow) -> Option<Self> {
        let family = Family::of(flow.destination);
        if Family::of(flow.source.net().addr()) != family {
            return None;
        }
        Some(Self {
            flow,
            family,
            rect: Rect {
                addresses: Addresses::of(flow.source.net()),
                ports: (flow.ports.first(), flow.ports.last()),
            },
            network: network
                .iter()
                .filter(|net| Family::of(net.addr()) == family)
                .map(|net| Addresses::of(*net))
                .collect(),
            private: private_networks()
                .filter(|net| Family::of(net.addr()) == family)
                .map(Addresses::of)
                .collect(),
        })
    }

    /// All of the flow's sources.
    fn all(&self) -> Vec<Addresses> {
        vec![self.rect.addresses]
    }

    /// The flow's sources within `net`.
    fn within(&self, net: IpNet) -> Vec<Addresses> {
        if Family::of(net.addr()) == self.family {
            self.among(&[Addresses::of(net)])
        } else {
            Vec::new()
        }
    }

    fn among(&self, ranges: &[Addresses]) -> Vec<Addresses> {
        ranges
            .iter()
            .filter_map(|range| self.rect.addresses.intersect(*range))
            .collect()
    }

    /// The flow's sources that may belong to a group of interfaces, whose members are not known here.
    fn inside(&self) -> Vec<Addresses> {
        if self.flow.source.is_any() {
            return Vec::new();
        }
        let mut ranges = self.among(&self.network);
        ranges.extend(self.among(&self.private));
        ranges
    }

    /// The flow's sources that one side of an NSG rule matches: for certain, and possibly.
    fn sources(&self, side: &Side) -> (Vec<Addresses>, Vec<Addresses>) {
        let (mut certain, mut possible) = (Vec::new(), Vec::new());
        for prefix in &side.prefixes {
            match prefix {
                AddressPrefix::Net(net) => certain.extend(self.within(*net)),
                AddressPrefix::Tag(tag) => match Tag::read(tag) {
                    Tag::Any => certain.extend(self.all()),
                    Tag::Internet if self.flow.source.is_any() => certain.extend(self.all()),
                    Tag::VirtualNetwork | Tag::LoadBalancer | Tag::Platform(_)
                        if self.flow.source.is_any() => {}
                    Tag::Internet => {
                        let not: Vec<Addresses> = self.network.iter().chain(&self.private).copied().collect();
                        certain.extend(self.rect.addresses.without(&not));
                    }
                    Tag::VirtualNetwork => {
                        certain.extend(self.among(&self.network));
                        possible.extend(self.among(&self.private));
                    }
                    Tag::LoadBalancer => {
                        for probe in PROBES {
                            certain.extend(self.within(IpNet::from(probe)));
                        }
                    }
                    Tag::Platform(address) => certain.extend(self.within(IpNet::from(address))),
                    Tag::Service if self.flow.source.is_any() => possible.extend(self.all()),
                    Tag::Service => possible.extend(self.rect.addresses.without(&self.private)),
                    Tag::Unknown => possible.extend(self.all()),
                },
            }
        }
        if !side.groups.is_empty() {
            possible.extend(self.inside());
        }
        (certain, possible)
    }

    pub(super) fn nsg_footprint(&self, rule: &NsgRule, memberships: Memberships<'_>) -> Footprint {
        let protocol = matches!(
            (rule.protocol, self.flow.ports.protocol()),
            (NsgProtocol::Any, _) | (NsgProtocol::Tcp, Protocol::Tcp) | (NsgProtocol::Udp, Protocol::Udp)
        );
        let destination = destination(&rule.destination, memberships, self.flow.destination);
        let source_port = source_port(&rule.source_ports);
        let Some(sure) = destination
            .and_then(|to| source_port.map(|from| to && from))
            .filter(|_| protocol)
        else {
            return Footprint::default();
        };
        let (certain, mut possible) = self.sources(&rule.source);
        let ports: Vec<(u16, u16)> = rule.ports.iter().map(|range| (range.first, range.last)).collect();
        let certain = if sure {
            certain
        } else {
            possible.extend(certain);
            Vec::new()
        };
        Footprint {
            certain: rectangles(&certain, &ports),
            possible: rectangles(&possible, &ports),
        }
    }

    pub(super) fn sg_footprint(&self, rule: &SgRule) -> Footprint {
        let protocol = match (&rule.protocol, self.flow.ports.protocol()) {
            (SgProtocol::All, _) | (SgProtocol::Tcp, Protocol::Tcp) | (SgProtocol::Udp, Protocol::Udp) => {
                true
            }
            // EC2 shows 6 and 17 by name; a number that slipped through means the same.
            (SgProtocol::Other(number), Protocol::Tcp) => number == "6",
            (SgProtocol::Other(number), Protocol::Udp) => number == "17",
            _ => false,
        };
        if !protocol {
            return Footprint::default();
        }
        let ports = match rule.ports {
            Some((first, last)) if rule.protocol != SgProtocol::All => {
                match (u16::try_from(first.max(0)), u16::try_from(last)) {
                    (Ok(first), Ok(last)) => (first, last),
                    _ => return Footprint::default(),
                }
            }
            _ => (0, u16::MAX),
        };
        let (certain, possible) = match &rule.peer {
            SgPeer::Net(net) => (self.within(*net), Vec::new()),
            SgPeer::PrefixList(_) => (Vec::new(), self.all()),
            SgPeer::Group { stale: true, .. } => return Footprint::default(),
            SgPeer::Group { .. } => (Vec::new(), self.inside()),
        };
        Footprint {
            certain: rectangles(&certain, &[ports]),
            possible: rectangles(&possible, &[ports]),
        }
    }
}

fn rectangles(addresses: &[Addresses], ports: &[(u16, u16)]) -> Vec<Rect> {
    addresses
        .iter()
        .flat_map(|addresses| {
            ports.iter().filter(|range| range.0 <= range.1).map(|ports| Rect {
                addresses: *addresses,
                ports: *ports,
            })
        })
        .collect()
}

/// Whether the destination matches: certainly (`Some(true)`), possibly (`Some(false)`) or not.
pub(super) fn destination(side: &Side, memberships: Memberships<'_>, address: IpAddr) -> Option<bool> {
    let prefixes = side.prefixes.iter().filter_map(|prefix| match prefix {
        AddressPrefix::Net(net) => net.contains(&address).then_some(true),
        AddressPrefix::Tag(tag) => match Tag::read(tag) {
            Tag::Any | Tag::VirtualNetwork => Some(true),
            tag => tag.may_be_destination(address).then_some(false),
        },
    });
    let groups = side.groups.iter().filter_map(|group| match memberships {
        Memberships::Unknown => Some(false),
        Memberships::Known { certain, possible } => {
            let group = group.to_lowercase();
            if certain.contains(&group) {
                Some(true)
            } else {
                possible.contains(&group).then_some(false)
            }
        }
    });
    prefixes.chain(groups).max()
}

/// Whether the source ports match, which a client chooses as it likes: all of them (`Some(true)`), some of them
/// (`Some(false)`) or none.
fn source_port(ranges: &[NsgPorts]) -> Option<bool> {
    let mut sorted: Vec<NsgPorts> = ranges.iter().copied().filter(|r| r.first <= r.last).collect();
    sorted.sort_by_key(|range| range.first);
    // Port 0 is no port that a client sends from.
    let covered = sorted.iter().fold(0_u16, |up_to, range| {
        if range.first <= up_to.saturating_add(1) {
            up_to.max(range.last)
        } else {
            up_to
        }
    });
    (!sorted.is_empty()).then_some(covered == u16::MAX)
}
