//! What EC2's own rules let through, from the truth log's resources.
//!
//! A packet reaches an instance where any group of any of its interfaces allows it; rules only ever allow.
//! A rule that names a group never matches an address: members are known by interface, not by address.
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
            .filter_map(|group| group.get("rules")?.as_array())
            .flatten()
            .any(|rule| lets_in(world, base, rule, probe))
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
                let lists = rules
                    .into_iter()
                    .flatten()
                    .filter_map(|rule| rule.get("peer")?.get("prefix_list")?.as_str());
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

fn lets_in(world: &World, base: &str, rule: &Value, probe: &Probe) -> bool {
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
        .is_some_and(|peer| holds(world, base, peer, probe.source))
}

fn holds(world: &World, base: &str, peer: &Value, source: IpAddr) -> bool {
    let within = |range: &Value| {
        range
            .as_str()
            .and_then(|range| range.parse::<IpNet>().ok())
            .is_some_and(|range| range.contains(&source))
    };
    if let Some(range) = peer.get("cidr_v4").or_else(|| peer.get("cidr_v6")) {
        return within(range);
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
