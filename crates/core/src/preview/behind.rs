//! Who comes to a machine that stands behind a firewall: past it, by a route through it, or by somebody's NAT rule.
//!
//! The firewall's own rules are known as far as discovery saw them: NAT rules of others that lead to the machine, and whom
//! network rules of others let through to it where a route leads there. Whom they do not let through comes possibly: the
//! routes that a peering or a gateway adds lead past the firewall and are not known here, network rules may let through to
//! a load balancer, and an application rule lets through as the firewall.
//!
//! Source: Azure documentation, "Virtual network traffic routing" (the longest prefix decides, also among the routes of
//! peerings and gateways).

use std::{cmp::Reverse, net::IpAddr};

use super::{Origin, Passage, through};
use crate::{
    approach::{Approach, Exposure, Routed},
    inventory::{Interface, Layer},
    net::{Ports, Protocol, Source},
    reach::{
        Flow, RuleRef,
        region::{Addresses, Family, Rect, subtract},
    },
};

/// What gets to the filters behind the firewall as it was sent.
pub(super) fn untranslated(
    approach: &Approach,
    interface: &Interface,
    origin: Origin,
    flow: &Flow,
) -> Vec<Passage> {
    let ports = (flow.ports.first(), flow.ports.last());
    let area = |net| Rect {
        addresses: Addresses::of(net),
        ports,
    };
    let passage = |rect, certain| Passage {
        rect,
        certain,
        rule: None,
        nat: None,
    };
    let all = area(flow.source.net());
    if flow.destination.is_ipv6() {
        // Azure Firewall filters IPv4 alone.
        return vec![passage(all, true)];
    }
    if origin == Origin::Internet {
        // Nobody out there knows another address; a load balancer may, and leaves the source as it is. Where answers
        // take another way than what came, an appliance that knows nothing of the connection may drop them.
        let is_public = interface.public_addresses.iter().any(IpAddr::is_ipv4);
        let astray = approach.legs.iter().filter(|leg| leg.through || leg.elsewhere);
        let astray: Vec<Rect> = astray.map(|leg| area(leg.prefix)).collect();
        let straight = subtract(all, &astray);
        let possible = subtract(all, &straight);
        let straight = straight.into_iter().map(|rect| passage(rect, is_public));
        let possible = possible.into_iter().map(|rect| passage(rect, false));
        return straight.chain(possible).collect();
    }
    let mut legs: Vec<_> = approach.legs.iter().collect();
    legs.sort_by_key(|leg| Reverse(leg.prefix.prefix_len()));
    let is_known = flow.destination == IpAddr::V4(approach.address);
    let mut left = vec![all];
    let mut found = Vec::new();
    for leg in legs.into_iter().filter(|leg| leg.prefix.addr().is_ipv4()) {
        let area = area(leg.prefix);
        let met: Vec<Rect> = left.iter().filter_map(|rect| rect.intersect(area)).collect();
        let known = approach
            .routed
            .iter()
            .flatten()
            .filter(|_| leg.through && is_known);
        let sure: Vec<Rect> = let_through(known, flow.ports.protocol(), &met).collect();
        let rest = met.iter().flat_map(|rect| subtract(*rect, &sure));
        found.extend(rest.map(|rect| passage(rect, !leg.through && !leg.elsewhere)));
        found.extend(sure.iter().map(|rect| passage(*rect, true)));
        left = left
            .into_iter()
            .flat_map(|rect| subtract(rect, &[area]))
            .collect();
    }
    found.extend(left.into_iter().map(|rect| passage(rect, true)));
    found
}

/// What the network rules let through of these packets for certain.
fn let_through<'a>(
    rules: impl Iterator<Item = &'a Routed>,
    protocol: Protocol,
    packets: &[Rect],
) -> impl Iterator<Item = Rect> {
    let rules = rules.filter(move |rule| rule.certain && rule.ports.protocol() == protocol);
    let rects = rules.flat_map(|rule| {
        let ports = (rule.ports.first(), rule.ports.last());
        let nets = rule.sources.iter().map(|net| Addresses::of(*net));
        nets.map(move |addresses| Rect { addresses, ports })
    });
    rects.flat_map(|rect| packets.iter().filter_map(move |packet| packet.intersect(rect)))
}

/// What NAT rules of others lead to the machine, as far as the filters behind the firewall let its subnet in. Which of the
/// subnet's addresses a client gets is not known.
pub(super) fn translated(approach: &Approach, interface: &Interface, ports: Ports) -> Vec<Passage> {
    let mut found = Vec::new();
    for exposure in &approach.exposures {
        if let Some(ports) = exposure.ports.intersect(ports) {
            found.extend(by(exposure, approach, interface, ports));
        }
    }
    found
}

fn by(exposure: &Exposure, approach: &Approach, interface: &Interface, ports: Ports) -> Vec<Passage> {
    let behind = || {
        let layers = interface.layers.iter();
        layers.filter(|layer| !matches!(layer, Layer::Firewall(_)))
    };
    let inside = approach.inside.iter().filter(|net| net.addr().is_ipv4());
    let seen: Vec<Source> = inside
        .filter_map(|net| Source::try_from(net.trunc()).ok())
        .collect();
    let nat = RuleRef {
        resource: approach.firewall.clone(),
        rule: exposure.rule.clone(),
        priority: None,
    };
    let everybody = Addresses::of(Family::V4.any().net());
    let across = |ports| Rect {
        addresses: everybody,
        ports,
    };
    // Which ports the subnet gets to, and to which not with all its addresses.
    let (mut passing, mut doubted) = (Vec::new(), Vec::new());
    for source in seen {
        let flow = Flow {
            source,
            destination: approach.address.into(),
            ports,
        };
        let passages = through(behind(), interface, Origin::Network, &flow);
        let known = passages.iter().filter(|passage| passage.certain);
        let known: Vec<Rect> = known.map(|passage| passage.rect).collect();
        let whole = Rect {
            addresses: Addresses::of(source.net()),
            ports: (ports.first(), ports.last()),
        };
        doubted.extend(subtract(whole, &known).into_iter().map(|rect| across(rect.ports)));
        passing.extend(
            passages
                .into_iter()
                .map(|passage| (passage.rect.ports, passage.rule)),
        );
    }
    let clients = || exposure.sources.iter().filter(|net| net.addr().is_ipv4());
    let mut found = Vec::new();
    for (ports, rule) in passing {
        for client in clients() {
            let rect = Rect {
                addresses: Addresses::of(*client),
                ports,
            };
            let sure = subtract(rect, &doubted);
            let unsure = subtract(rect, &sure);
            let sure = sure.into_iter().map(|rect| (rect, exposure.certain));
            let all = sure.chain(unsure.into_iter().map(|rect| (rect, false)));
            found.extend(all.map(|(rect, certain)| Passage {
                rect,
                certain,
                rule: rule.clone(),
                nat: Some(nat.clone()),
            }));
        }
    }
    found
}
