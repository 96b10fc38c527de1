//! The address that a request comes from, as the proxies in front tell it that are trusted.
//!
//! A header is believed only as far as trusted proxies wrote it. The way is walked from the right, the end nearest to
//! us; the first address that is no trusted proxy's is the client's, and what stands left of it is what the client
//! says of itself, which nobody believes.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use postern_core::net::Source;

use crate::config::{ForwardedHeader, Proxies};

/// Why it is not clear where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    /// The connection itself does not say; only where the server is driven without a socket.
    #[error("the connection has no address")]
    NoPeer,
    /// Every address that is known is a proxy's, which others come through, too.
    #[error("the trusted proxies in front do not say whom they forward for")]
    OnlyProxies,
    /// What a trusted proxy wrote is no address, for example `unknown` or an obfuscated name (RFC 7239, section 6).
    #[error("the trusted proxies in front say something that is no address")]
    NoAddress,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request comes from that `peer` sent with these headers.
pub(crate) fn client_address(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    proxies: &Proxies,
) -> Result<IpAddr, Unclear> {
    let peer = peer.ok_or(Unclear::NoPeer)?.to_canonical();
    if !is_trusted(peer, proxies) {
        return Ok(peer);
    }
    let name = match proxies.header {
        ForwardedHeader::XForwardedFor => &X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => &FORWARDED,
    };
    let nodes = |line: &str| match proxies.header {
        ForwardedHeader::XForwardedFor => Ok(x_forwarded_for(line)),
        ForwardedHeader::Forwarded => forwarded(line),
    };
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    for line in lines.into_iter().rev() {
        let text = line.to_str().map_err(|_| Unclear::NoAddress)?;
        for node in nodes(text)?.into_iter().rev() {
            let address = address(&node).ok_or(Unclear::NoAddress)?;
            if !is_trusted(address, proxies) {
                return Ok(address);
            }
        }
    }
    Err(Unclear::OnlyProxies)
}

fn is_trusted(address: IpAddr, proxies: &Proxies) -> bool {
    let address = Source::from(address);
    proxies.trusted.iter().any(|network| network.contains(address))
}

/// The addresses of an `X-Forwarded-For`, the client's end first.
fn x_forwarded_for(line: &str) -> Vec<String> {
    // RFC 9110, section 5.6.1: empty elements of a list count for nothing.
    line.split(',')
        .map(|node| node.trim_matches([' ', '\t']))
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The `for` nodes of a `Forwarded` (RFC 7239, section 4), the client's end first. A line that does not hold to the
/// grammar is believed in no part: an open quote of the client's could swallow what the proxies added.
fn forwarded(line: &str) -> Result<Vec<String>, Unclear> {
    let mut nodes = Vec::new();
    let mut rest = Pairs { rest: line };
    let mut node: Option<String> = None;
    let mut any = false;
    loop {
        rest.skip_blank();
        match rest.next() {
            None | Some(',') => {
                if any {
                    nodes.push(node.take().ok_or(Unclear::NoAddress)?);
                }
                any = false;
                if rest.next().is_none() {
                    return Ok(nodes);
                }
                rest.take();
            }
            Some(';') => rest.take(),
            Some(_) => {
                let (name, value) = rest.pair().ok_or(Unclear::NoAddress)?;
                any = true;
                if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                    return Err(Unclear::NoAddress);
                }
            }
        }
    }
}

/// The pairs of a `Forwarded` that were not read yet.
struct Pairs<'a> {
    rest: &'a str,
}

impl<'a> Pairs<'a> {
    fn next(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn skip_blank(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Option<&'a str> {
        // RFC 9110, section 5.6.2.
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
        let (token, rest) = self
            .rest
            .split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A name, `=` and a value, up to the separator after them.
    fn pair(&mut self) -> Option<(&'a str, String)> {
        let name = self.token()?;
        if self.next() != Some('=') {
            return None;
        }
        self.take();
        let value = if self.next() == Some('"') {
            self.take();
            self.quoted()?
        } else {
            self.token()?.to_owned()
        };
        self.skip_blank();
        matches!(self.next(), None | Some(',' | ';')).then_some((name, value))
    }

    /// The rest of a quoted string whose first quote was read.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let c = self.next()?;
            self.take();
            match c {
                '"' => return Some(text),
                '\\' => {
                    text.push(self.next()?);
                    self.take();
                }
                c => text.push(c),
            }
        }
    }
}

/// The address of a node: with or without a port, an IPv6 address in brackets or bare.
fn address(node: &str) -> Option<IpAddr> {
    let address = if let Ok(address) = node.parse::<IpAddr>() {
        address
    } else if let Some((inner, port)) = node.strip_prefix('[').and_then(|node| node.split_once(']')) {
        let inner: std::net::Ipv6Addr = inner.parse().ok()?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        inner.into()
    } else {
        let (address, port) = node.split_once(':')?;
        let address: std::net::Ipv4Addr = address.parse().ok()?;
        if !is_port(port) {
            return None;
        }
        address.into()
    };
    Some(address.to_canonical())
}

/// RFC 7239, section 6.2: one to five digits, or an obfuscated port.
fn is_port(text: &str) -> bool {
    let obfuscated = text.strip_prefix('_').is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    });
    obfuscated || ((1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";
    const CLIENT: &str = "20.0.0.7";

    fn proxies(header: ForwardedHeader) -> Proxies {
        Proxies {
            trusted: ["10.0.0.0/8", "2001:db8:1::/48"]
                .map(|network| network.parse().unwrap())
                .to_vec(),
            header,
        }
    }

    fn seen(header: ForwardedHeader, peer: &str, lines: &[&str]) -> Result<String, Unclear> {
        let name = match header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        client_address(Some(peer.parse().unwrap()), &headers, &proxies(header))
            .map(|address| address.to_string())
    }

    fn xff(peer: &str, lines: &[&str]) -> Result<String, Unclear> {
        seen(ForwardedHeader::XForwardedFor, peer, lines)
    }

    fn rfc7239(lines: &[&str]) -> Result<String, Unclear> {
        seen(ForwardedHeader::Forwarded, PROXY, lines)
    }

    #[test]
    fn whoever_comes_without_a_trusted_proxy_is_believed_nothing() {
        assert_eq!(xff(CLIENT, &["9.9.9.9"]).as_deref(), Ok(CLIENT));
        assert_eq!(xff("::ffff:20.0.0.7", &["9.9.9.9"]).as_deref(), Ok(CLIENT));
    }

    #[test]
    fn the_last_address_that_is_no_proxys_counts_and_nothing_left_of_it() {
        for lines in [
            &["20.0.0.7"][..],
            &["9.9.9.9, 20.0.0.7"],
            &["9.9.9.9", "20.0.0.7"],
            &["9.9.9.9", "20.0.0.7, 10.0.0.2", "10.0.0.3"],
            &["nonsense, \"20.9, 20.0.0.7:443 ,,10.2.3.4:1"],
            &["::ffff:20.0.0.7, ::ffff:10.0.0.9"],
        ] {
            assert_eq!(xff(PROXY, lines).as_deref(), Ok(CLIENT), "{lines:?}");
        }
        assert_eq!(xff(PROXY, &["[2600::9]:443"]).as_deref(), Ok("2600::9"));
        assert_eq!(xff(PROXY, &["2600::9"]).as_deref(), Ok("2600::9"));
    }

    #[test]
    fn a_proxy_that_does_not_say_leaves_it_unclear() {
        for lines in [&[][..], &[""], &["10.0.0.9"], &["10.0.0.9, 10.0.0.8"]] {
            assert_eq!(xff(PROXY, lines), Err(Unclear::OnlyProxies), "{lines:?}");
        }
        for lines in [
            &["20.0.0.7, unknown"][..],
            &["20.0.0.7", "_hidden"],
            &["20.0.0.7, fe80::1%eth0"],
            &["20.0.0.7:port"],
            &["[20.0.0.7]"],
            &["20.0.0.7\u{e9}"],
        ] {
            assert_eq!(xff(PROXY, lines), Err(Unclear::NoAddress), "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for lines in [
            &["for=20.0.0.7"][..],
            &["For=\"20.0.0.7:8080\";proto=https;by=10.0.0.1"],
            &["proto=https;by=\"[2001:db8:1::1]\";FOR=20.0.0.7 , for=\"[2001:db8:1::17]:4711\""],
            &["for=9.9.9.9", "for=20.0.0.7, for=10.0.0.4"],
            &["for=_gone;secret=\"a\\\"b,for=9.9.9.9\", for=20.0.0.7"],
        ] {
            assert_eq!(rfc7239(lines).as_deref(), Ok(CLIENT), "{lines:?}");
        }
    }

    #[test]
    fn a_quote_that_the_client_leaves_open_swallows_nothing() {
        for line in [
            "for=\"9.9.9.9, for=\"[2600::7]\"",
            "for=9.9.9.9;x=\", for=\"[2600::7]\";by=\"[2001:db8:1::1]\"",
            "for=\"9.9.9.9, for=20.0.0.7",
            "for=9.9.9.9;for=8.8.8.8",
            "for =20.0.0.7",
            "for=20.0.0.7:80",
            "proto=https",
            "20.0.0.7",
        ] {
            assert_eq!(rfc7239(&[line]), Err(Unclear::NoAddress), "{line}");
        }
    }

    fn any_node() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
            "[ -~]{0,20}",
        ]
    }

    proptest! {
        #[test]
        fn no_client_can_say_that_it_is_somebody_else(
            forged in prop::collection::vec(any_node(), 0..4),
            lines in prop::collection::vec("[ -~]{0,30}", 0..3),
            client: std::net::Ipv4Addr,
            hops in 0u8..4,
        ) {
            prop_assume!(!is_trusted(client.into(), &proxies(ForwardedHeader::XForwardedFor)));
            // What the client sent, and what each proxy on the way added to it.
            let mut last = forged.join(",");
            for added in std::iter::once(client.to_string()).chain((0..hops).map(|hop| format!("10.0.0.{hop}"))) {
                if !last.is_empty() {
                    last.push_str(", ");
                }
                last.push_str(&added);
            }
            let mut all: Vec<&str> = lines.iter().map(String::as_str).collect();
            all.push(&last);
            prop_assert_eq!(xff(PROXY, &all), Ok(client.to_string()));
        }

        #[test]
        fn no_client_can_say_so_in_a_forwarded_header_either(forged in "[ -~]{0,60}", client: std::net::Ipv4Addr) {
            prop_assume!(!is_trusted(client.into(), &proxies(ForwardedHeader::Forwarded)));
            let line = format!("{forged}, for=\"{client}:1\";by=\"[2001:db8:1::1]\"");
            let found = rfc7239(&[&line]);
            prop_assert!(found == Ok(client.to_string()) || found == Err(Unclear::NoAddress), "{found:?}");
        }

        #[test]
        fn nothing_that_arrives_panics_or_names_a_proxy(lines in prop::collection::vec("\\PC{0,80}", 0..3)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                if let Ok(address) = seen(header, PROXY, &lines) {
                    prop_assert!(!is_trusted(address.parse().unwrap(), &proxies(header)));
                }
            }
        }
    }
}
