//! Sets of packets: rectangles of source addresses by destination ports, and first-match over them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::{net::Source, nsg::Access};

/// The address family of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Every address of the family, as a source.
    pub(crate) fn any(self) -> Source {
        // A network of length zero has no host bits, so that the fallbacks are never taken.
        let (net, fallback): (IpNet, IpAddr) = match self {
            Self::V4 => (ipnet::Ipv4Net::default().into(), [0; 4].into()),
            Self::V6 => (ipnet::Ipv6Net::default().into(), [0_u16; 8].into()),
        };
        Source::try_from(net).unwrap_or_else(|_| Source::from(fallback))
    }
}

/// An inclusive range of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    first: u128,
    last: u128,
}

impl Addresses {
    pub(crate) fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self {
                first: u32::from(net.network()).into(),
                last: u32::from(net.broadcast()).into(),
            },
            IpNet::V6(net) => Self {
                first: net.network().into(),
                last: net.broadcast().into(),
            },
        }
    }

    /// From the first to the last address, which are of one family.
    pub(crate) fn between(first: IpAddr, last: IpAddr) -> Option<Self> {
        let (first, last) = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (u32::from(first).into(), u32::from(last).into()),
            (IpAddr::V6(first), IpAddr::V6(last)) => (first.into(), last.into()),
            _ => return None,
        };
        (first <= last).then_some(Self { first, last })
    }

    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    fn subtract(self, other: Self) -> Vec<Self> {
        let Some(shared) = self.intersect(other) else {
            return vec![self];
        };
        let below = (self.first < shared.first).then(|| Self {
            first: self.first,
            last: shared.first - 1,
        });
        let above = (shared.last < self.last).then(|| Self {
            first: shared.last + 1,
            last: self.last,
        });
        below.into_iter().chain(above).collect()
    }

    /// What is left of this range without any of `others`.
    pub(crate) fn without(self, others: &[Self]) -> Vec<Self> {
        others.iter().fold(vec![self], |left, other| {
            left.into_iter()
                .flat_map(|range| range.subtract(*other))
                .collect()
        })
    }

    /// The networks that make up the range.
    pub(crate) fn nets(self, family: Family) -> Vec<IpNet> {
        match family {
            Family::V4 => {
                let low = |address: u128| u32::try_from(address).unwrap_or(u32::MAX);
                Ipv4Subnets::new(low(self.first).into(), low(self.last).into(), 0)
                    .map(IpNet::from)
                    .collect()
            }
            Family::V6 => Ipv6Subnets::new(Ipv6Addr::from(self.first), Ipv6Addr::from(self.last), 0)
                .map(IpNet::from)
                .collect(),
        }
    }

    /// The range for people: `any IPv4 address`, one network, or the first of several.
    pub(crate) fn text(self, family: Family) -> String {
        let (first, more, any) = match family {
            Family::V4 => {
                let low = |address: u128| u32::try_from(address).unwrap_or(u32::MAX);
                let mut nets = Ipv4Subnets::new(low(self.first).into(), low(self.last).into(), 0);
                let first = nets.next().map(IpNet::from);
                (first, nets.next().is_some(), "any IPv4 address")
            }
            Family::V6 => {
                let mut nets = Ipv6Subnets::new(Ipv6Addr::from(self.first), Ipv6Addr::from(self.last), 0);
                let first = nets.next().map(IpNet::from);
                (first, nets.next().is_some(), "any IPv6 address")
            }
        };
        match first {
            Some(net) if net.prefix_len() == 0 => any.to_owned(),
            Some(net) if more => format!("{net} and more"),
            Some(net) => net.to_string(),
            None => String::new(),
        }
    }
}

/// Packets from a range of addresses to a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) addresses: Addresses,
    pub(crate) ports: (u16, u16),
}

impl Rect {
    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        let addresses = self.addresses.intersect(other.addresses)?;
        let ports = (self.ports.0.max(other.ports.0), self.ports.1.min(other.ports.1));
        (ports.0 <= ports.1).then_some(Self { addresses, ports })
    }

    /// This rectangle without `inner`, which lies within it.
    fn around(self, inner: Self) -> impl Iterator<Item = Self> {
        let sides = self
            .addresses
            .subtract(inner.addresses)
            .into_iter()
            .map(move |addresses| Self { addresses, ..self });
        let below = (self.ports.0 < inner.ports.0).then(|| (self.ports.0, inner.ports.0 - 1));
        let above = (inner.ports.1 < self.ports.1).then(|| (inner.ports.1 + 1, self.ports.1));
        sides.chain(below.into_iter().chain(above).map(move |ports| Self {
            addresses: inner.addresses,
            ports,
        }))
    }
}

/// What is left of a rectangle without any of `others`.
pub(crate) fn subtract(rect: Rect, others: &[Rect]) -> Vec<Rect> {
    others.iter().fold(vec![rect], |left, other| {
        left.into_iter()
            .flat_map(|one| match one.intersect(*other) {
                None => vec![one],
                Some(inner) => one.around(inner).collect(),
            })
            .collect()
    })
}

/// The packets of a flow that one rule matches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Footprint {
    /// Those that it matches for certain.
    pub(crate) certain: Vec<Rect>,
    /// Those that it may match, as far as is known here.
    pub(crate) possible: Vec<Rect>,
}

/// Packets that share their fate.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) rect: Rect,
    /// What becomes of them, leaving aside the rules of `unsure`.
    pub(crate) access: Access,
    /// The rule that decides it, by its place; none when no rule matches, which is a denial.
    pub(crate) rule: Option<usize>,
    /// Earlier rules that may match and would decide otherwise, by their place.
    pub(crate) unsure: Vec<usize>,
}

/// First-match over a whole flow at once: `rules` in the order in which they are looked at.
pub(crate) fn first_match(flow: Rect, rules: impl Iterator<Item = (Access, Footprint)>) -> Vec<Piece> {
    let mut open: Vec<(Rect, Vec<(usize, Access)>)> = vec![(flow, Vec::new())];
    let mut decided = Vec::new();
    let settle = |rect, access, rule, unsure: Vec<(usize, Access)>| Piece {
        rect,
        access,
        rule,
        unsure: unsure
            .into_iter()
            .filter(|(_, other)| *other != access)
            .map(|(at, _)| at)
            .collect(),
    };
    for (at, (access, footprint)) in rules.enumerate() {
        if open.is_empty() {
            break;
        }
        for matched in footprint.certain {
            let mut left = Vec::with_capacity(open.len());
            for (rect, unsure) in open {
                match rect.intersect(matched) {
                    None => left.push((rect, unsure)),
                    Some(inner) => {
                        left.extend(rect.around(inner).map(|rest| (rest, unsure.clone())));
                        decided.push(settle(inner, access, Some(at), unsure));
                    }
                }
            }
            open = left;
        }
        for matched in footprint.possible {
            let mut left = Vec::with_capacity(open.len());
            for (rect, mut unsure) in open {
                match rect.intersect(matched) {
                    None => left.push((rect, unsure)),
                    Some(inner) => {
                        left.extend(rect.around(inner).map(|rest| (rest, unsure.clone())));
                        if unsure.last() != Some(&(at, access)) {
                            unsure.push((at, access));
                        }
                        left.push((inner, unsure));
                    }
                }
            }
            open = left;
        }
    }
    decided.extend(
        open.into_iter()
            .map(|(rect, unsure)| settle(rect, Access::Deny, None, unsure)),
    );
    decided
}
