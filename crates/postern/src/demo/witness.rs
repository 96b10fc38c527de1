//! What the simulators themselves say: who reaches what, and which rules stand. Nothing here asks Postern.

use std::{collections::BTreeMap, net::IpAddr};

use chrono::{DateTime, Utc};
use postern_core::{inventory::MARK_TAG, nsg};
use postern_sim::{
    Interval, Probe, Protocol,
    ec2::{Snapshot, state},
};
use serde_json::{Value, json};

use super::fleet::{ACCOUNT, Fleet, REGION};

/// Every rule of both clouds, by the resource that holds it, as sorted texts; and the groups on each interface.
pub type Rules = BTreeMap<String, Vec<String>>;

/// A change that a cloud saw.
#[derive(Debug, Clone)]
pub struct Write {
    /// `azure` or `aws`.
    pub cloud: String,
    /// When.
    pub at: DateTime<Utc>,
    /// The call.
    pub operation: String,
    /// The resource.
    pub resource: String,
}

/// Looks at both clouds.
#[derive(Clone, Copy)]
pub struct Witness<'a> {
    fleet: &'a Fleet,
    /// The places in the truth logs at which the fleet was built.
    built: (u64, u64),
}

impl<'a> Witness<'a> {
    /// Begins to watch: whatever happened before was the building of the fleet.
    pub fn new(fleet: &'a Fleet) -> Self {
        let built = (fleet.arm.truth().last(), fleet.ec2.truth().last());
        Self { fleet, built }
    }

    /// Whether a packet gets through now.
    pub fn reaches(&self, machine: &str, source: IpAddr, port: u16) -> bool {
        if is_azure(machine) {
            self.fleet
                .arm
                .reachable(machine, source, port, Protocol::Tcp, None)
        } else {
            self.fleet.ec2.reachable(&probe(machine, source, port), None)
        }
    }

    /// The spans in which packets got through.
    pub fn spans(&self, machine: &str, source: IpAddr, port: u16) -> Vec<Interval> {
        if is_azure(machine) {
            self.fleet
                .arm
                .open_intervals(machine, source, port, Protocol::Tcp)
        } else {
            self.fleet.ec2.open_intervals(&probe(machine, source, port))
        }
    }

    /// Every change since the fleet was built.
    pub fn writes(&self) -> Vec<Write> {
        let arm = self.fleet.arm.truth().since(self.built.0);
        let ec2 = self.fleet.ec2.truth().since(self.built.1);
        arm.into_iter()
            .chain(ec2)
            .map(|change| Write {
                cloud: change.cloud,
                at: change.at,
                operation: change.operation,
                resource: change.resource,
            })
            .collect()
    }

    /// Every rule there is, without the ids that a rule gets anew when it is put back.
    pub fn rules(&self) -> anyhow::Result<Rules> {
        self.collect(|_| true)
    }

    /// The rules that carry nobody's mark.
    pub fn foreign_rules(&self) -> anyhow::Result<Rules> {
        self.collect(|marked| !marked)
    }

    fn collect(&self, keep: impl Fn(bool) -> bool) -> anyhow::Result<Rules> {
        let mut rules = Rules::new();
        for id in &self.fleet.security_groups {
            let group = self.fleet.arm.fleet().get(id)?;
            let texts = group
                .pointer("/properties/securityRules")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|rule| {
                    keep(is_marked(
                        rule.pointer("/properties/description").and_then(Value::as_str),
                    ))
                })
                .map(nsg_rule);
            rules.insert(id.to_lowercase(), sorted(texts));
        }
        if let Some(gate) = &self.fleet.gate {
            rules.insert(gate.policy.to_lowercase(), gate.rules(&self.fleet.arm, &keep)?);
        }
        let region: Snapshot = self.fleet.ec2.fleet(ACCOUNT, REGION).snapshot()?;
        let ours = |group: &state::Group| is_marked(group.tags.get(MARK_TAG).map(String::as_str));
        for group in region.groups.iter().filter(|group| keep(ours(group))) {
            let texts = group
                .rules
                .iter()
                .filter(|rule| keep(ours(group) || is_marked(rule.description.as_deref())))
                .map(|rule| json!([rule.allows, rule.description, rule.tags]).to_string());
            rules.insert(group.id.clone(), sorted(texts));
        }
        for interface in &region.interfaces {
            let groups = interface
                .groups
                .iter()
                .filter(|id| region.group(id).is_none_or(|group| keep(ours(group))))
                .cloned();
            rules.insert(interface.id.clone(), sorted(groups));
        }
        Ok(rules)
    }
}

/// A rule without what changes by itself.
fn nsg_rule(rule: &Value) -> String {
    let mut properties = rule.get("properties").cloned().unwrap_or_default();
    if let Some(properties) = properties.as_object_mut() {
        properties.remove("provisioningState");
    }
    json!([rule.get("name"), properties]).to_string()
}

fn is_marked(text: Option<&str>) -> bool {
    text.is_some_and(nsg::is_marked)
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    texts
}

fn is_azure(machine: &str) -> bool {
    machine.starts_with('/')
}

fn probe(machine: &str, source: IpAddr, port: u16) -> Probe {
    Probe {
        machine: machine.to_owned(),
        source,
        port,
        protocol: Protocol::Tcp,
    }
}

/// What is in one collection of rules and not in the other, for messages.
pub fn difference(before: &Rules, after: &Rules) -> Vec<String> {
    let mut found = Vec::new();
    for (resource, texts) in before {
        let now = after.get(resource).cloned().unwrap_or_default();
        found.extend(
            texts
                .iter()
                .filter(|text| !now.contains(text))
                .map(|text| format!("missing at {resource}: {text}")),
        );
    }
    for (resource, texts) in after {
        let then = before.get(resource).cloned().unwrap_or_default();
        found.extend(
            texts
                .iter()
                .filter(|text| !then.contains(text))
                .map(|text| format!("new at {resource}: {text}")),
        );
        if texts.is_empty() && !before.contains_key(resource) {
            found.push(format!("new: {resource}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(pairs: &[(&str, &[&str])]) -> Rules {
        pairs
            .iter()
            .map(|(resource, texts)| {
                (
                    (*resource).to_owned(),
                    texts.iter().map(|text| (*text).to_owned()).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn a_difference_names_what_is_missing_and_what_is_new() {
        let before = rules(&[("a", &["x", "y"]), ("b", &[])]);
        assert!(difference(&before, &before).is_empty());
        let after = rules(&[("a", &["y", "z"]), ("b", &[]), ("c", &[])]);
        assert_eq!(
            difference(&before, &after),
            ["missing at a: x", "new at a: z", "new: c"]
        );
    }

    #[tokio::test]
    async fn the_fleet_is_as_open_as_the_story_says() {
        let fleet = Fleet::with_gate(std::sync::Arc::new(postern_sim::SystemClock))
            .await
            .unwrap();
        let witness = Witness::new(&fleet);
        let anybody: IpAddr = [192, 0, 2, 99].into();
        assert!(witness.reaches(&fleet.web, anybody, 22));
        assert!(witness.reaches(&fleet.web, anybody, 443));
        assert!(!witness.reaches(&fleet.web, anybody, 3389));
        assert!(witness.reaches(&fleet.db, [198, 51, 100, 4].into(), 22));
        assert!(!witness.reaches(&fleet.db, anybody, 22));
        assert!(witness.reaches(&fleet.app, anybody, 22));
        assert!(witness.reaches(&fleet.build, anybody, 1024));
        assert!(witness.reaches(&fleet.build, [10, 9, 9, 9].into(), 3389));
        assert!(witness.reaches(&fleet.build, anybody, 22));
        assert!(!witness.reaches(&fleet.build, anybody, 3389));
        let gate = fleet.gate.as_ref().unwrap();
        assert_eq!(gate.lands(&fleet.arm, anybody, gate.door, 443), Some(443));
        assert_eq!(gate.lands(&fleet.arm, anybody, gate.door, 22), None);
        assert_eq!(gate.lands(&fleet.arm, anybody, gate.own, 22), Some(22));
        assert_eq!(gate.lands(&fleet.arm, anybody, gate.own, 443), None);
        assert_eq!(witness.rules().unwrap(), witness.foreign_rules().unwrap());
        assert!(witness.writes().is_empty());
    }
}
