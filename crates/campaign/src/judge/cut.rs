//! The state of a cloud without rules of ours, and whose a rule is.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::inventory::MARK_TAG;
use postern_sim::truth::{Change, World};
use serde_json::{Value, json};

use crate::{clouds::is_foreign, edit::MARK, gate};

/// Who last wrote each rule: ARM's rules of an NSG are resources of their own, EC2's are parts of a group, and those of
/// a firewall parts of its document or a group of its policy.
#[derive(Default)]
pub(super) struct Writers {
    foreign: BTreeSet<String>,
}

impl Writers {
    pub(super) fn note(&mut self, change: &Change) {
        let foreign = is_foreign(&change.caller);
        let mut wrote = |key: String| {
            if foreign {
                self.foreign.insert(key);
            } else {
                self.foreign.remove(&key);
            }
        };
        if is_firewall(&change.resource) {
            let rules = |value: &Option<Value>| -> BTreeMap<String, Value> {
                value.as_ref().map(firewall_rules).unwrap_or_default()
            };
            let before = rules(&change.before);
            for (name, rule) in rules(&change.after) {
                if before.get(&name) != Some(&rule) {
                    wrote(key_of(&change.resource, &name));
                }
            }
            return;
        }
        if change.cloud == "azure" {
            // What is only asked for, such as a deletion under way, is not written yet.
            if change.before.as_ref().map(in_force) != change.after.as_ref().map(in_force) {
                wrote(change.resource.clone());
            }
            return;
        }
        let before = rules(change.before.as_ref());
        for (id, rule) in rules(change.after.as_ref()) {
            if before.get(id) != Some(&rule) {
                wrote(id.to_owned());
            }
        }
    }
}

fn rules(group: Option<&Value>) -> BTreeMap<&str, &Value> {
    group
        .and_then(|group| group.get("rules")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(|rule| Some((rule.get("id")?.as_str()?, rule)))
        .collect()
}

/// Whether the entry holds rules of a firewall.
pub(super) fn is_firewall(key: &str) -> bool {
    key.contains("/microsoft.network/azurefirewalls/") || key.contains("/rulecollectiongroups/")
}

fn key_of(resource: &str, rule: &str) -> String {
    format!("{resource}#{rule}")
}

/// The rules in force of a firewall's document or a policy's group, by collection and name.
fn firewall_rules(entry: &Value) -> BTreeMap<String, Value> {
    let document = Value::Object(
        [(
            "properties".to_owned(),
            in_force(entry).cloned().unwrap_or_default(),
        )]
        .into_iter()
        .collect(),
    );
    gate::read(&document)
        .iter()
        .flat_map(|shelf| {
            shelf
                .rules()
                .iter()
                .map(|rule| (rule_name(&shelf.name, rule), rule.clone()))
        })
        .collect()
}

fn rule_name(collection: &str, rule: &Value) -> String {
    let name = rule.get("name").and_then(Value::as_str).unwrap_or_default();
    format!("{collection}/{name}").to_ascii_lowercase()
}

/// A firewall's entry with those of its rules in force that are to stay.
fn with_rules(entry: &Value, stays: impl Fn(&str, &Value) -> bool) -> Value {
    let Some(force) = in_force(entry).filter(|force| force.is_object()) else {
        return entry.clone();
    };
    let of_policy = force.get("ruleCollections").is_some();
    let mut document = Value::Object([("properties".to_owned(), force.clone())].into_iter().collect());
    let mut shelves = gate::read(&document);
    for shelf in &mut shelves {
        let name = shelf.name.clone();
        if let Ok(rules) = shelf.rules_mut() {
            rules.retain(|rule| stays(&rule_name(&name, rule), rule));
        }
    }
    let mut entry = entry.clone();
    if gate::write(&mut document, of_policy, shelves).is_ok()
        && let (Some(entry), Some(force)) = (entry.as_object_mut(), document.get("properties"))
    {
        entry.insert("inForce".to_owned(), force.clone());
    }
    entry
}

/// A state whose firewalls have none of our rules; those that somebody edited since are no longer ours.
pub(super) fn without_ours_at_firewalls(world: &World, writers: &Writers) -> World {
    at_firewalls(world, |key, name, rule| {
        !gate::is_marked(rule) || writers.foreign.contains(&key_of(key, name))
    })
}

/// A state whose firewalls have none of our rules, whoever edited them since.
pub(super) fn without_marked_at_firewalls(world: &World) -> World {
    at_firewalls(world, |_, _, rule| !gate::is_marked(rule))
}

/// A state whose firewalls have no rules at all.
pub(super) fn with_bare_firewalls(world: &World) -> World {
    at_firewalls(world, |_, _, _| false)
}

fn at_firewalls(world: &World, stays: impl Fn(&str, &str, &Value) -> bool) -> World {
    world
        .iter()
        .map(|(key, value)| {
            let value = if is_firewall(key) {
                with_rules(value, |name, rule| stays(key, name, rule))
            } else {
                value.clone()
            };
            (key.clone(), value)
        })
        .collect()
}

/// The keys of the subnets that firewalls are in.
pub(super) fn firewall_subnets(world: &World) -> Vec<String> {
    let mut subnets: Vec<String> = world
        .keys()
        .filter(|key| key.ends_with("/subnets/azurefirewallsubnet"))
        .cloned()
        .collect();
    subnets.sort();
    subnets
}

/// A state whose NSGs let in what comes from a firewall's subnet, also of a network that is only peered, nothing from
/// those of others, and else have their default rules: what comes from outside the network gets in by a translating rule
/// only.
pub(super) fn with_nsgs_for_firewall_alone(world: &World, subnet: &str) -> World {
    let world = world
        .iter()
        .filter(|(key, _)| !key.contains("/securityrules/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let opened = in_each_nsg(&world, "Allow", |key| key == subnet);
    let mut world = with_other_firewalls_denied(&world, subnet);
    world.extend(opened);
    world
}

/// A state whose NSGs let in nothing from the subnets of other firewalls than this subnet's.
pub(super) fn with_other_firewalls_denied(world: &World, subnet: &str) -> World {
    let denied = in_each_nsg(world, "Deny", |key| key != subnet);
    let mut world = world.clone();
    world.extend(denied);
    world
}

/// A rule for each NSG that is asked before all others, about what comes from some of the firewalls' subnets.
fn in_each_nsg(world: &World, access: &str, from: impl Fn(&str) -> bool) -> Vec<(String, Value)> {
    let prefixes: Vec<&Value> = firewall_subnets(world)
        .iter()
        .filter(|key| from(key))
        .filter_map(|key| in_force(world.get(key)?)?.get("addressPrefix"))
        .collect();
    if prefixes.is_empty() {
        return Vec::new();
    }
    let rule = json!({ "properties": {
        "priority": 1, "direction": "Inbound", "access": access, "protocol": "*",
        "sourceAddressPrefixes": prefixes, "sourcePortRange": "*",
        "destinationAddressPrefix": "*", "destinationPortRange": "*",
    } });
    let is_nsg = |key: &str| {
        key.rsplit_once('/')
            .is_some_and(|(parent, _)| parent.ends_with("/networksecuritygroups"))
    };
    world
        .keys()
        .filter(|key| is_nsg(key))
        .map(|key| {
            (
                format!("{key}/securityrules/firewalls-{access}").to_lowercase(),
                rule.clone(),
            )
        })
        .collect()
}

/// A state without the allowing rules of ours; with `edited`, also without those of ours that somebody edited since.
pub(super) fn cut(world: &World, writers: &Writers, edited: bool) -> World {
    let taken = |key: &str| edited || !writers.foreign.contains(key);
    world
        .iter()
        .filter_map(|(key, value)| {
            if is_firewall(key) {
                let has = firewall_rules(value).values().any(gate::is_marked);
                let stays = |name: &str, rule: &Value| !gate::is_marked(rule) || !taken(&key_of(key, name));
                return Some((
                    key.clone(),
                    if has {
                        with_rules(value, stays)
                    } else {
                        value.clone()
                    },
                ));
            }
            if is_our_allow(value) {
                return (!taken(key)).then(|| (key.clone(), value.clone()));
            }
            let mut group = value.clone();
            let rules = group.get_mut("rules").and_then(Value::as_array_mut);
            if let Some(rules) = rules.filter(|_| is_marked(value, "holder")) {
                rules.retain(|rule| !rule.get("id").and_then(Value::as_str).is_some_and(taken));
            } else if edited && is_marked(value, "copy=") {
                // What a private copy has of the group's rules is asked for; what somebody put into it is theirs.
                if let Some(rules) = group.get_mut("rules").and_then(Value::as_array_mut) {
                    let foreign = |id: &str| writers.foreign.contains(id);
                    rules.retain(|rule| !rule.get("id").and_then(Value::as_str).is_some_and(foreign));
                }
            }
            Some((key.clone(), group))
        })
        .collect()
}

/// An NSG rule in force that carries our mark and allows.
fn is_our_allow(value: &Value) -> bool {
    let text = |member: &str| in_force(value).and_then(|rule| rule.get(member)?.as_str());
    text("description").is_some_and(|text| text.starts_with(MARK))
        && text("access").is_some_and(|access| access.eq_ignore_ascii_case("allow"))
}

fn in_force(value: &Value) -> Option<&Value> {
    value.get("inForce").or_else(|| value.get("properties"))
}

/// A security group of ours that is for this.
fn is_marked(value: &Value, purpose: &str) -> bool {
    value
        .get("tags")
        .and_then(|tags| tags.get(MARK_TAG)?.as_str())
        .and_then(|mark| mark.strip_prefix(MARK))
        .is_some_and(|mark| mark.starts_with(purpose))
}
