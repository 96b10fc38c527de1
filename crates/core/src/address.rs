//! Which addresses are somebody's on the Internet, and which mean something only where they are used.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks whose addresses are not one host's on the Internet.
///
/// Source: the IANA IPv4 and IPv6 Special-Purpose Address Registries, entries that are not globally reachable, and
/// multicast (RFC 5771, RFC 4291). Addresses that embed an IPv4 address (mapped, NAT64, 6to4) are judged by it where
/// they can be, and are special where a translator would decide.
const V4: [Ipv4Net; 15] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// See [`V4`].
const V6: [Ipv6Net; 12] = [
    v6([0, 0, 0, 0], 96),
    v6([0x64, 0xff9b, 0, 0], 96),
    v6([0x64, 0xff9b, 1, 0], 48),
    v6([0x100, 0, 0, 0], 64),
    v6([0x2001, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0], 32),
    v6([0x2002, 0, 0, 0], 16),
    v6([0x3fff, 0, 0, 0], 20),
    v6([0x5f00, 0, 0, 0], 16),
    v6([0xfc00, 0, 0, 0], 7),
    v6([0xfe80, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0], 8),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d]: [u16; 4], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// The special network that the address is in; none for an address of the Internet.
pub fn special_network(address: IpAddr) -> Option<IpNet> {
    match address.to_canonical() {
        IpAddr::V4(address) => V4
            .iter()
            .find(|net| net.contains(&address))
            .copied()
            .map(IpNet::V4),
        IpAddr::V6(address) => V6
            .iter()
            .find(|net| net.contains(&address))
            .copied()
            .map(IpNet::V6),
    }
}

/// Whether a host there is on the Internet.
pub fn is_public(address: IpAddr) -> bool {
    special_network(address).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_internet_are_told_from_those_that_mean_something_only_here() {
        for public in [
            "20.0.0.1",
            "9.255.255.255",
            "172.32.0.1",
            "2600::1",
            "::ffff:20.0.0.1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "203.0.113.7",
            "255.255.255.255",
            "::1",
            "::20.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::1400:1",
            "2002:1400:1::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn the_network_that_makes_an_address_special_is_named() {
        let named = |text: &str| special_network(text.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(named("172.31.0.9").as_deref(), Some("172.16.0.0/12"));
        assert_eq!(named("fdaa::9").as_deref(), Some("fc00::/7"));
        assert_eq!(named("20.0.0.1"), None);
    }
}
