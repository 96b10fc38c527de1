//! The effective security rules of an interface, as `effectiveNetworkSecurityGroups` answers them.

use serde_json::{Map, Value, json};

use super::application_group;
use super::check::address_space;
use super::default_rule;
use super::id::{ChildKind, Id, Kind};
use super::refusal::ArmError;
use super::rule;
use super::state::{Power, Resource, State, at, ids_in, interfaces_of};
use super::write::{group_missing, not_found};

/// The answer for an interface: the NSGs of its subnets and its own, with their rules. The interface must be
/// on a running machine ("Diagnose a virtual machine network traffic filter problem", learn.microsoft.com).
pub(super) fn security_groups(state: &State, id: &Id) -> Result<Value, ArmError> {
    let interface = running_interface(state, id)?;
    let text = interface.id.text();
    let mut value = Vec::new();
    for (_, goal) in interface.shown() {
        let Some(subnet) = at(goal, &["subnet", "id"]).and_then(Id::parse) else {
            continue;
        };
        let Some(network) = state.get(&subnet) else {
            continue;
        };
        let spaces: Vec<String> = address_space(&network.goal)
            .iter()
            .map(ToString::to_string)
            .collect();
        let subnet_name = subnet
            .child
            .as_ref()
            .map(|(_, name)| name.as_str())
            .unwrap_or_default();
        let subnet_goal = network
            .child(subnet_name)
            .and_then(|subnet| subnet.goal.as_deref());
        let by_subnet = subnet_goal.and_then(|subnet| at(subnet, &["networkSecurityGroup", "id"]));
        let by_interface = at(&interface.goal, &["networkSecurityGroup", "id"]);
        for (group, association) in [
            (by_subnet, json!({ "subnet": { "id": subnet.text() } })),
            (by_interface, json!({ "networkInterface": { "id": text } })),
        ] {
            let Some(group) = group.and_then(Id::parse).and_then(|group| state.get(&group)) else {
                continue;
            };
            let custom = group
                .shown()
                .map(|(child, goal)| (ChildKind::SecurityRule, child.name.as_str(), (**goal).clone()));
            let default = default_rule::all()
                .into_iter()
                .map(|(name, goal)| (ChildKind::DefaultSecurityRule, name, goal));
            let mut rules: Vec<_> = custom.chain(default).collect();
            rules.sort_by_key(|(_, _, goal)| goal.get("priority").and_then(Value::as_i64));
            let rules: Vec<Value> = rules
                .iter()
                .map(|(kind, name, goal)| effective_rule(state, *kind, name, goal, &spaces))
                .collect();
            let entry = json!({
                "networkSecurityGroup": { "id": group.id.text() },
                "association": association,
                "effectiveSecurityRules": rules,
            });
            if !value.contains(&entry) {
                value.push(entry);
            }
        }
    }
    Ok(json!({ "value": value }))
}

/// The interface, where it is on a running machine.
pub(super) fn running_interface<'a>(state: &'a State, id: &Id) -> Result<&'a Resource, ArmError> {
    if state.group(&id.subscription, &id.group).is_none() {
        return Err(group_missing(&id.group));
    }
    let interface = state.get(id).ok_or_else(|| not_found(id))?;
    let text = interface.id.text();
    let running = state.resources.values().any(|machine| {
        machine.id.kind == Kind::VirtualMachine
            && machine.power == Power::Running
            && interfaces_of(&machine.goal)
                .iter()
                .any(|held| held.eq_ignore_ascii_case(&text))
    });
    if !running {
        let text = format!("Network interface {text} must be attached to a running virtual machine.");
        return Err(ArmError::network(
            400,
            "NetworkInterfaceMustBeAttachedToRunningVm",
            text,
        ));
    }
    Ok(interface)
}

fn effective_rule(
    state: &State,
    kind: ChildKind,
    name: &str,
    goal: &Map<String, Value>,
    spaces: &[String],
) -> Value {
    let protocol = match rule::text(goal, "protocol") {
        Some("*") | None => "All".to_owned(),
        Some(protocol) => protocol.to_owned(),
    };
    let ports = |single: &str, list: &str| -> Vec<String> {
        rule::text(goal, single)
            .into_iter()
            .chain(rule::texts(goal, list))
            .filter_map(rule::ports)
            .map(|(from, to)| format!("{from}-{to}"))
            .collect()
    };
    let mut shown = json!({
        "name": format!("{}/{name}", kind.segment()),
        "protocol": protocol,
        "access": goal.get("access"),
        "priority": goal.get("priority"),
        "direction": goal.get("direction"),
    });
    if let Some(shown) = shown.as_object_mut() {
        for (side, expanded) in [
            ("source", "expandedSourceAddressPrefix"),
            ("destination", "expandedDestinationAddressPrefix"),
        ] {
            let (port, ports_member) = (format!("{side}PortRange"), format!("{side}PortRanges"));
            let ports = ports(&port, &ports_member);
            if let [only] = ports.as_slice() {
                shown.insert(port, json!(only));
            }
            shown.insert(ports_member, json!(ports));
            let (prefix, prefixes) = (format!("{side}AddressPrefix"), format!("{side}AddressPrefixes"));
            // Application security groups are shown as their members' addresses.
            let groups = ids_in(goal.get(&format!("{side}ApplicationSecurityGroups")));
            let members = groups
                .into_iter()
                .flat_map(|group| application_group::members(state, group))
                .map(|address| {
                    if address.contains(':') {
                        address + "/128"
                    } else {
                        address + "/32"
                    }
                });
            let all: Vec<String> = rule::text(goal, &prefix)
                .into_iter()
                .chain(rule::texts(goal, &prefixes))
                .map(str::to_owned)
                .chain(members)
                .collect();
            if all
                .iter()
                .any(|prefix| prefix.eq_ignore_ascii_case("VirtualNetwork"))
            {
                shown.insert(expanded.to_owned(), json!(spaces));
            }
            if let [only] = all.as_slice() {
                shown.insert(prefix, json!(only));
            }
            shown.insert(prefixes, json!(all));
        }
    }
    shown
}
