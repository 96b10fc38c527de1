//! What EC2's own rules let through, from the truth log's resources.
//!
//! A packet reaches an instance where any group of any of its interfaces allows it; rules only ever allow.
//! A rule that names a group matches the private addresses of the interfaces that have it, in the group's own VPC and in
//! those with an active peering connection to it.
//! Whether the instance runs is no matter here.
//! Source: VPC user guide, "Security group rules" and "Control traffic to your AWS resources using security
//! groups".

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::truth::{Judge, Probe, Protocol, World};

/// Judges probes by security groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct GroupJudge;

impl Judge for GroupJudge {
    fn allows(&self, world: &World, probe: &Probe) -> bool {
        let Some((arn, instance)) = find(world, &probe.machine) else {
            return false;
        };
        let Some((base, _)) = arn.split_once("instance/") else {
            return false;
        };
        let interfaces =
            ids(instance, "interfaces").filter_map(|id| world.get(&format!("{base}network-interface/{id}")));
        interfaces
            .flat_map(|interface| ids(interface, "groups"))
            .filter_map(|id| world.get(&format!("{base}security-group/{id}")))
            .filter_map(|group| {
                let vpc = group.get("vpc_id").and_then(Value::as_str).unwrap_or_default();
                Some((vpc, group.get("rules")?.as_array()?))
            })
            .any(|(vpc, rules)| rules.iter().any(|rule| lets_in(world, (base, vpc), rule, probe)))
    }

    fn hangs_on(&self, world: &World, probe: &Probe) -> Option<Vec<String>> {
        let (base, _) = probe.machine.split_once("instance/")?;
        let mut keys = vec![probe.machine.clone()];
        let Some(instance) = world.get(&probe.machine) else {
            return Some(keys);
        };
        for interface in ids(instance, "interfaces") {
            let key = format!("{base}network-interface/{interface}");
            for group in world
                .get(&key)
                .into_iter()
                .flat_map(|interface| ids(interface, "groups"))
            {
                let key = format!("{base}security-group/{group}");
                let rules = world.get(&key).and_then(|group| group.get("rules")?.as_array());
                let peers = rules.into_iter().flatten().filter_map(|rule| rule.get("peer"));
                let mut groups = peers.clone().filter_map(|peer| peer.get("group"));
                if is_inside(probe.source) && groups.next().is_some() {
                    return None; // any interface may have, or get, the group
                }
                let lists = peers.filter_map(|peer| peer.get("prefix_list")?.as_str());
                keys.extend(lists.map(|list| format!("{base}prefix-list/{list}")));
                keys.push(key);
            }
            keys.push(key);
        }
        Some(keys)
    }
}

/// The instance by ARN, or by id where no region matters.
fn find<'w>(world: &'w World, machine: &str) -> Option<(&'w String, &'w Value)> {
    if machine.starts_with("arn:") {
        return world.get_key_value(machine);
    }
    let tail = format!(":instance/{machine}");
    world.iter().find(|(arn, _)| arn.ends_with(&tail))
}

fn ids<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v str> {
    value
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn lets_in(world: &World, (base, vpc): (&str, &str), rule: &Value, probe: &Probe) -> bool {
    if rule.get("egress").and_then(Value::as_bool) != Some(false) {
        return false;
    }
    let wanted = match probe.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let fits = match rule.get("protocol").and_then(Value::as_str) {
        Some("-1") => true,
        Some(protocol) if protocol == wanted => {
            let port = |field| rule.get(field).and_then(Value::as_i64);
            let asked = i64::from(probe.port);
            port("from_port").is_some_and(|from| from <= asked)
                && port("to_port").is_some_and(|to| asked <= to)
        }
        _ => false,
    };
    fits && rule
        .get("peer")
        .is_some_and(|peer| holds(world, (base, vpc), peer, probe.source))
}

/// Whether an interface may have the address: those of the ranges that VPCs have here.
fn is_inside(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.segments().starts_with(&[0x2600, 0x1f18]),
    }
}

/// Whether the address is of an interface that has the group and from which packets get to the VPC.
fn is_member(world: &World, (base, vpc): (&str, &str), group: &str, source: IpAddr) -> bool {
    let text = source.to_string();
    let has = |interface: &&Value| {
        let more = ids(interface, "secondary").chain(ids(interface, "ipv6"));
        let mut addresses = more.chain(interface.get("private_ip").and_then(Value::as_str));
        ids(interface, "groups").any(|id| id == group) && addresses.any(|address| address == text)
    };
    is_inside(source)
        && below(world, &format!("{base}network-interface/"))
            .filter(has)
            .filter_map(|interface| interface.get("vpc_id")?.as_str())
            .any(|from| from == vpc || are_peered(world, base, from, vpc))
}

fn are_peered(world: &World, base: &str, one: &str, other: &str) -> bool {
    below(world, &format!("{base}vpc-peering-connection/")).any(|peering| {
        let text = |field| peering.get(field).and_then(Value::as_str).unwrap_or_default();
        let ends = [text("requester"), text("accepter")];
        text("status") == "active" && (ends == [one, other] || ends == [other, one])
    })
}

/// The resources whose ARN begins so.
fn below<'w>(world: &'w World, prefix: &str) -> impl Iterator<Item = &'w Value> {
    let prefix = prefix.to_owned();
    world
        .range(prefix.clone()..)
        .take_while(move |(arn, _)| arn.starts_with(&prefix))
        .map(|(_, value)| value)
}

fn holds(world: &World, (base, vpc): (&str, &str), peer: &Value, source: IpAddr) -> bool {
    let within = |range: &Value| {
        range
            .as_str()
            .and_then(|range| range.parse::<IpNet>().ok())
            .is_some_and(|range| range.contains(&source))
    };
    if let Some(range) = peer.get("cidr_v4").or_else(|| peer.get("cidr_v6")) {
        return within(range);
    }
    if let Some(group) = peer.get("group") {
        let id = group.get("group_id").and_then(Value::as_str);
        return id.is_some_and(|id| is_member(world, (base, vpc), id, source));
    }
    let Some(list) = peer.get("prefix_list").and_then(Value::as_str) else {
        return false;
    };
    let entries = world
        .get(&format!("{base}prefix-list/{list}"))
        .and_then(|list| list.get("entries")?.as_array());
    entries
        .into_iter()
        .flatten()
        .any(|entry| entry.get(0).is_some_and(within))
}
