//! Whom others' rules lead to the machines behind a firewall, from the firewall's own subnet.

use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    approach::Front,
    firewall::{Action, Firewall, FirewallRule},
    net::Ports,
};

use super::{
    hidden::Hiding,
    plan::{Passage, Way},
};

/// Others' rule that lets others come to the same ports from the firewall's subnet, because it translates or because the
/// firewall hides whom it lets pass. Behind it, nothing tells them from the grant's clients.
pub(super) fn lets_others_in(foreign: &Firewall, hiding: &Hiding, passage: &Passage) -> Option<String> {
    if passage.way == Way::Routed {
        return None;
    }
    let inside = |net: &IpNet| passage.sources.iter().any(|source| source.net().contains(net));
    let own = |first: IpAddr, last: IpAddr| {
        let mut sources = passage.sources.iter().map(|source| source.net());
        sources.any(|net| net.contains(&first) && net.contains(&last))
    };
    let of_address = |machine: IpAddr, ports: Ports| {
        let doors = foreign.doors(machine, ports).into_iter();
        let doors = doors.map(|door| (door.sources, door.rule));
        let hidden = if hiding.before(machine) {
            foreign.let_pass(machine, ports)
        } else {
            Vec::new()
        };
        doors
            .chain(hidden)
            .find(|(sources, _)| !sources.iter().all(inside))
            .map(|(_, rule)| rule.rule)
            .or_else(|| hiding.proxies(ports, own))
    };
    let by_balancer = |front: &Front| {
        let rule = of_address(front.address, front.leading_to(passage.ports)?)?;
        Some(format!(
            "`{rule}`, by load balancer `{}`,",
            short(&front.balancer)
        ))
    };
    std::iter::once(passage.machine)
        .chain(passage.beside.iter().copied())
        .find_map(|address| of_address(address, passage.ports))
        .map(|rule| format!("`{rule}`"))
        .or_else(|| passage.fronts.iter().find_map(by_balancer))
        .or_else(|| {
            let unread = "what the policy inherits, which may not be read,";
            hiding.is_untold().then(|| unread.to_owned())
        })
}

/// Others' rule that translates to an address of which it is not known whether a balancer has it that leads on to the
/// machine; and the balancer.
pub(super) fn may_let_others_in<'p>(foreign: &Firewall, passage: &'p Passage) -> Option<(String, &'p str)> {
    let balancer = short(passage.unread.first()?);
    let known = |address: IpAddr| {
        address == passage.machine
            || passage.beside.contains(&address)
            || passage.fronts.iter().any(|front| front.address == address)
    };
    let may = |rule: &&FirewallRule| {
        let elsewhere =
            matches!(rule.action, Action::Translate { address, .. } if !address.is_some_and(known));
        elsewhere && rule.matches.protocols.contains(&passage.ports.protocol())
    };
    let translated = matches!(passage.way, Way::Translated { .. });
    let mut rules = foreign
        .collections
        .iter()
        .filter(|_| translated)
        .filter_map(|collection| {
            let found = collection.rules.iter().find(may)?;
            Some(format!("{}/{}", collection.name, found.name))
        });
    Some((rules.next()?, balancer))
}

fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}
