//! Isolation keeps to itself: machines that no policy ever covers are as if Postern were not there, though they share
//! groups with machines that isolate from them.
//!
//! Whose machine a write touches is seen in the truth log: an interface belongs to a machine, and a group to all whose
//! interfaces have it.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::inventory::MARK_TAG;
use postern_sim::truth::Change;
use serde_json::Value;

use crate::{
    clouds::is_foreign,
    edit::MARK,
    script::{ScopeSpec, Script, Step},
    trail::Violation,
};

/// Invariant 2 for those that share: what Postern did to a machine that none of the run's policies covers. Holds where
/// no policy of the run revokes rules of shared groups.
pub fn others_are_left_alone(script: &Script, instances: &[String], changes: &[Change]) -> Vec<Violation> {
    let others: BTreeSet<&str> = uncovered(script)
        .into_iter()
        .filter_map(|number| instances.get(number)?.rsplit('/').next())
        .collect();
    let revokes = policies(script)
        .any(|policy| policy.shared_groups == "revoke" && !matches!(policy.scope, ScopeSpec::Azure));
    if others.is_empty() || revokes {
        return Vec::new();
    }
    let mut eye = Eye::default();
    let mut violations = Vec::new();
    for change in changes.iter().filter(|change| change.cloud == "aws") {
        if !is_foreign(&change.caller)
            && let Some(what) = eye.touches(change, &others)
        {
            let (operation, at, seq) = (&change.operation, change.at, change.seq);
            violations.push(Violation::new(
                2,
                format!("{operation} at {at} (change {seq}) touches a machine under no policy: {what}"),
            ));
        }
        eye.note(change);
    }
    violations
}

/// How many instances had a private copy in place of a shared group at some time.
pub fn isolated(changes: &[Change]) -> usize {
    let mut copies: BTreeSet<&str> = BTreeSet::new();
    let mut interfaces: BTreeSet<&str> = BTreeSet::new();
    for change in changes.iter().filter(|change| change.cloud == "aws") {
        let Some(after) = &change.after else { continue };
        let Some(id) = id_of(change, "security-group").or_else(|| id_of(change, "network-interface")) else {
            continue;
        };
        if is_copy(after) {
            copies.insert(id);
        }
        if groups_of(Some(after)).iter().any(|group| copies.contains(group)) {
            interfaces.insert(id);
        }
    }
    interfaces.len()
}

fn policies(script: &Script) -> impl Iterator<Item = &crate::script::PolicySpec> {
    script.steps.iter().filter_map(|(_, step)| match step {
        Step::CreatePolicy(policy) | Step::UpdatePolicy(_, policy) => Some(policy),
        _ => None,
    })
}

/// The instances that no policy of the run covers, whether it was made or not.
fn uncovered(script: &Script) -> Vec<usize> {
    let (azure, aws) = (script.azure.machines.len(), script.aws.machines.len());
    (0..aws)
        .filter(|number| {
            !policies(script).any(|policy| match policy.scope {
                ScopeSpec::All | ScopeSpec::Aws => true,
                ScopeSpec::Azure => false,
                ScopeSpec::Machine(machine) => machine.checked_rem(azure + aws) == Some(azure + number),
            })
        })
        .collect()
}

/// What is known of the cloud before a change.
#[derive(Debug, Default)]
struct Eye {
    /// The instance of each interface.
    owners: BTreeMap<String, String>,
    /// The groups of each interface.
    groups: BTreeMap<String, Vec<String>>,
    /// The groups that were taken off an interface, or put on, by somebody else: whose they are is not certain.
    moved: BTreeSet<String>,
    /// The groups that rules name which stood before anybody wrote for us.
    named: BTreeSet<String>,
    begun: bool,
}

impl Eye {
    fn note(&mut self, change: &Change) {
        let foreign = is_foreign(&change.caller);
        self.begun |= !foreign;
        if let Some(instance) = id_of(change, "instance") {
            let interfaces = change
                .after
                .as_ref()
                .and_then(|after| after.get("interfaces")?.as_array());
            for interface in interfaces.into_iter().flatten().filter_map(Value::as_str) {
                self.owners.insert(interface.to_owned(), instance.to_owned());
            }
        }
        if let Some(interface) = id_of(change, "network-interface") {
            let (before, after) = (
                groups_of(change.before.as_ref()),
                groups_of(change.after.as_ref()),
            );
            if foreign && change.before.is_some() {
                let different = before
                    .symmetric_difference(&after)
                    .map(|group| (*group).to_owned());
                self.moved.extend(different);
            }
            let after = after.into_iter().map(str::to_owned).collect();
            self.groups.insert(interface.to_owned(), after);
        }
        if let Some(after) = change.after.as_ref().filter(|_| !self.begun) {
            self.named.extend(named_in(after));
        }
    }

    /// In what way a change of ours touches one of the machines.
    fn touches(&self, change: &Change, others: &BTreeSet<&str>) -> Option<String> {
        let of_others = |interface: &str| {
            self.owners
                .get(interface)
                .is_some_and(|owner| others.contains(owner.as_str()))
        };
        if let Some(interface) = id_of(change, "network-interface") {
            if of_others(interface) {
                return Some(format!("{interface} is its interface"));
            }
            let (before, after) = (
                groups_of(change.before.as_ref()),
                groups_of(change.after.as_ref()),
            );
            // Who leaves a group that a rule names stops being let in by it.
            return before
                .difference(&after)
                .find(|group| self.named.contains(**group))
                .map(|group| format!("{interface} left {group}, which a rule names"));
        }
        let group = id_of(change, "security-group")?;
        let holder = self
            .groups
            .iter()
            .find(|(interface, groups)| of_others(interface) && groups.iter().any(|held| held == group))?;
        (!self.moved.contains(group)).then(|| format!("{group} is on {}", holder.0))
    }
}

fn id_of<'a>(change: &'a Change, kind: &str) -> Option<&'a str> {
    let (path, id) = change.resource.rsplit_once('/')?;
    path.ends_with(&format!(":{kind}")).then_some(id)
}

fn groups_of(interface: Option<&Value>) -> BTreeSet<&str> {
    interface
        .and_then(|interface| interface.get("groups")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn is_copy(group: &Value) -> bool {
    group
        .get("tags")
        .and_then(|tags| tags.get(MARK_TAG)?.as_str())
        .and_then(|mark| mark.strip_prefix(MARK))
        .is_some_and(|mark| mark.starts_with("copy="))
}

/// The groups that a group's rules name as the other side.
fn named_in(group: &Value) -> Vec<String> {
    let peer = |rule: &Value| {
        let peer = rule.pointer("/peer/group")?;
        let id = peer.get("group_id").unwrap_or(peer).as_str()?;
        Some(id.to_owned())
    };
    let rules = group.get("rules").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(peer).collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;
    use crate::additions::{Shape, With};

    const BASE: &str = "arn:aws:ec2:eu-west-1:111122223333:";

    /// Two instances with the group `sg-a`, which a rule of `sg-b` names where `named`.
    fn fleet(named: bool) -> Vec<Change> {
        let groups = json!({ "groups": ["sg-a"] });
        let peer = if named {
            json!({ "group": { "group_id": "sg-a" } })
        } else {
            json!({})
        };
        [
            ("security-group/sg-a", json!({ "rules": [] })),
            (
                "security-group/sg-b",
                json!({ "rules": [{ "id": "sgr-1", "peer": peer }] }),
            ),
            ("network-interface/eni-1", groups.clone()),
            ("network-interface/eni-2", groups),
            ("instance/i-1", json!({ "interfaces": ["eni-1"] })),
            ("instance/i-2", json!({ "interfaces": ["eni-2"] })),
        ]
        .map(|(resource, after)| change("root", resource, None, after))
        .into()
    }

    fn change(caller: &str, resource: &str, before: Option<Value>, after: Value) -> Change {
        Change {
            seq: 1,
            at: DateTime::UNIX_EPOCH,
            cloud: "aws".to_owned(),
            operation: "Op".to_owned(),
            resource: format!("{BASE}{resource}"),
            before,
            after: Some(after),
            request_id: "r".to_owned(),
            caller: caller.to_owned(),
        }
    }

    /// What is found where we made one change, after those of others; the second instance is under no policy.
    fn found(mut changes: Vec<Change>, ours: (&str, Value, Value)) -> usize {
        let with = With::These([Shape::Isolate].into());
        let mut script = (0..100)
            .map(|seed| Script::draw(seed, &with))
            .find(|script| script.aws.machines.len() == 2)
            .unwrap();
        script.azure = crate::script::AzureFleet::default();
        for (_, step) in &mut script.steps {
            if let Step::CreatePolicy(policy) | Step::UpdatePolicy(_, policy) = step {
                policy.scope = ScopeSpec::Machine(0);
            }
        }
        let instances = ["i-1", "i-2"].map(|id| format!("{BASE}instance/{id}"));
        let (resource, before, after) = ours;
        changes.push(change("postern", resource, Some(before), after));
        others_are_left_alone(&script, &instances, &changes).len()
    }

    #[test]
    fn a_write_at_the_others_interface_or_at_the_group_that_they_share_is_noticed() {
        let (shared, copied) = (json!({ "groups": ["sg-a"] }), json!({ "groups": ["sg-copy"] }));
        let of = |resource, before: &Value, after: &Value| {
            found(fleet(false), (resource, before.clone(), after.clone()))
        };
        assert_eq!(of("network-interface/eni-1", &shared, &copied), 0);
        assert_eq!(of("network-interface/eni-2", &shared, &copied), 1);
        let (rules, none) = (json!({ "rules": [{ "id": "sgr-2" }] }), json!({ "rules": [] }));
        assert_eq!(of("security-group/sg-a", &rules, &none), 1);
        assert_eq!(of("security-group/sg-b", &rules, &none), 0);
    }

    #[test]
    fn leaving_a_group_that_a_rule_names_is_noticed() {
        let ours = (
            "network-interface/eni-1",
            json!({ "groups": ["sg-a"] }),
            json!({ "groups": ["sg-copy"] }),
        );
        assert_eq!(found(fleet(true), ours), 1);
    }

    #[test]
    fn a_group_that_somebody_moved_the_other_into_is_not_certain_to_be_theirs() {
        let mut changes = fleet(false);
        let (before, after) = (
            json!({ "groups": ["sg-a"] }),
            json!({ "groups": ["sg-a", "sg-b"] }),
        );
        changes.push(change("root", "network-interface/eni-2", Some(before), after));
        let ours = (
            "security-group/sg-b",
            json!({ "rules": [] }),
            json!({ "rules": [{}] }),
        );
        assert_eq!(found(changes, ours), 0);
    }
}
