//! Ports, protocols and sources: what is asked for and what is guarded.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A transport protocol that a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One or more adjacent ports of one protocol, 1 to 65535. Text form: `22/tcp`, `5000-5010/udp`; a text
/// without a protocol means TCP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    protocol: Protocol,
    first: u16,
    last: u16,
}

/// Why a text is not a port or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    /// Not of the form.
    #[error("`{0}` is not a port: expected `22`, `22/tcp` or `5000-5010/udp`")]
    Shape(String),
    /// Outside 1 to 65535.
    #[error("`{0}` is not a port: ports are 1 to 65535")]
    OutOfRange(String),
    /// The range runs backwards.
    #[error("the range {first}-{last} runs backwards")]
    Backwards {
        /// Its first port.
        first: u16,
        /// Its last port.
        last: u16,
    },
    /// Another protocol than TCP or UDP.
    #[error("`{0}` is not a protocol: expected `tcp` or `udp`")]
    Protocol(String),
}

impl Ports {
    /// One port.
    pub fn one(protocol: Protocol, port: u16) -> Result<Self, InvalidPorts> {
        Self::range(protocol, port, port)
    }

    /// The ports from `first` to `last`, both included.
    pub fn range(protocol: Protocol, first: u16, last: u16) -> Result<Self, InvalidPorts> {
        if first == 0 {
            return Err(InvalidPorts::OutOfRange("0".to_owned()));
        }
        if last < first {
            return Err(InvalidPorts::Backwards { first, last });
        }
        Ok(Self {
            protocol,
            first,
            last,
        })
    }

    /// The ports that both have, if any.
    pub fn intersect(self, other: Self) -> Option<Self> {
        if self.protocol() != other.protocol() {
            return None;
        }
        let (first, last) = (self.first().max(other.first()), self.last().min(other.last()));
        Self::range(self.protocol(), first, last).ok()
    }

    /// The protocol.
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }
    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }
    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }
    /// Whether every port of `other` is one of these.
    pub const fn contains(self, other: Self) -> bool {
        self.protocol as u8 == other.protocol as u8 && self.first <= other.first && other.last <= self.last
    }
    /// Whether the two share a port.
    pub const fn overlaps(self, other: Self) -> bool {
        self.protocol as u8 == other.protocol as u8 && self.first <= other.last && other.first <= self.last
    }
    /// `22` or `5000-5010`, without the protocol.
    pub fn range_text(self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.range_text(), self.protocol)
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidPorts> {
    let shown = || text.chars().take(40).collect::<String>();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(if text.parse::<i64>().is_ok() {
            InvalidPorts::OutOfRange(shown())
        } else {
            InvalidPorts::Shape(shown())
        });
    }
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| InvalidPorts::OutOfRange(shown()))
}

impl FromStr for Ports {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(InvalidPorts::Protocol(other.chars().take(40).collect())),
        };
        match ports.split_once('-').filter(|(first, _)| !first.is_empty()) {
            Some((first, last)) => Self::range(protocol, parse_port(first)?, parse_port(last)?),
            None => Self::one(protocol, parse_port(ports)?),
        }
    }
}

impl TryFrom<String> for Ports {
    type Error = InvalidPorts;

    fn try_from(text: String) -> Result<Self, InvalidPorts> {
        text.parse()
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

/// The addresses that a request comes from: an IPv4 or IPv6 network in canonical form (no host bits set).
/// A bare address means that one address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Source(IpNet);

/// Why a text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// Neither an address nor a network.
    #[error("`{0}` is not an address or a CIDR block")]
    Shape(String),
    /// The address has bits beyond the prefix; EC2 would silently drop them.
    #[error("`{given}` has bits set beyond its prefix; the network is `{canonical}`")]
    HostBits {
        /// As given.
        given: String,
        /// The network that contains it.
        canonical: IpNet,
    },
    /// An IPv4 address in IPv6 clothes, which no cloud's firewall matches as either.
    #[error("`{0}` is an IPv4-mapped IPv6 address; give the IPv4 address")]
    Mapped(String),
}

impl Source {
    /// The network.
    pub const fn net(self) -> IpNet {
        self.0
    }
    /// Whether every address of `other` is one of these.
    pub fn contains(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }
    /// Whether it is every address of its family (`0.0.0.0/0` or `::/0`).
    pub fn is_any(self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }
}

impl TryFrom<IpNet> for Source {
    type Error = InvalidSource;

    fn try_from(net: IpNet) -> Result<Self, InvalidSource> {
        let canonical = net.trunc();
        if canonical != net {
            return Err(InvalidSource::HostBits {
                given: net.to_string(),
                canonical,
            });
        }
        if matches!(net, IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some()) {
            return Err(InvalidSource::Mapped(net.to_string()));
        }
        Ok(Self(net))
    }
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let net = if text.contains('/') {
            text.parse::<IpNet>().ok()
        } else {
            text.parse::<IpAddr>().ok().map(IpNet::from)
        };
        net.ok_or_else(|| InvalidSource::Shape(text.chars().take(80).collect()))?
            .try_into()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Source {
    type Error = InvalidSource;

    fn try_from(text: String) -> Result<Self, InvalidSource> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_port_without_protocol_is_tcp() {
        assert_eq!("22".parse::<Ports>(), Ports::one(Protocol::Tcp, 22));
        assert_eq!(
            "5000-5010/udp".parse::<Ports>(),
            Ports::range(Protocol::Udp, 5000, 5010)
        );
    }

    #[test]
    fn zero_negative_and_absurd_ports_are_refused_with_the_reason() {
        for (text, part) in [
            ("0", "1 to 65535"),
            ("-1", "1 to 65535"),
            ("65536", "1 to 65535"),
            ("99999999999999999999999", "1 to 65535"),
            ("", "is not a port"),
            ("ssh", "is not a port"),
            ("22-", "is not a port"),
            ("23-22", "runs backwards"),
            ("22/icmp", "not a protocol"),
            ("+22", "is not a port"),
            (" 22", "is not a port"),
        ] {
            let error = text.parse::<Ports>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn host_bits_are_refused_and_the_network_named() {
        let error = "203.0.113.7/24".parse::<Source>().unwrap_err().to_string();
        assert!(error.contains("203.0.113.0/24"), "{error}");
        for text in [
            "203.0.113.7/33",
            "::/129",
            "203.0.113",
            "::ffff:203.0.113.7",
            "0x7f.1",
            "203.0.113.7/",
            "fe80::1%eth0",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    fn ports() -> impl Strategy<Value = Ports> {
        (any::<bool>(), 1..=u16::MAX, 1..=u16::MAX).prop_map(|(tcp, a, b)| {
            Ports::range(
                if tcp { Protocol::Tcp } else { Protocol::Udp },
                a.min(b),
                a.max(b),
            )
            .unwrap()
        })
    }

    proptest! {
        #[test]
        fn ports_read_back_from_what_they_show(ports in ports()) {
            prop_assert_eq!(ports.to_string().parse::<Ports>(), Ok(ports));
        }

        #[test]
        fn containment_implies_overlap(a in ports(), b in ports()) {
            prop_assert!(!a.contains(b) || (a.overlaps(b) && b.overlaps(a)));
            prop_assert_eq!(a.contains(b) && b.contains(a), a == b);
        }

        #[test]
        fn a_source_reads_back_from_what_it_shows(address: u32, prefix in 0u8..=32) {
            let net = IpNet::new(std::net::Ipv4Addr::from(address).into(), prefix).unwrap().trunc();
            let source = Source::try_from(net).unwrap();
            prop_assert_eq!(source.to_string().parse::<Source>(), Ok(source));
        }
    }
}
