//! What the cloud holds: resources with what is shown and what is in force, groups and subscriptions.
//!
//! The control plane shows a change from the moment it is accepted, as `Updating`; the data plane follows
//! when the operation completes. Every resource and part therefore has two sets of properties, which are the
//! same while nothing is under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::authorization::Authorization;
use super::id::{ChildKind, Id, Kind};
use super::operation::Operation;
use super::references::Resources;

pub(super) type Properties = Arc<Map<String, Value>>;

/// What `provisioningState` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provisioning {
    Creating,
    Updating,
    Deleting,
    Failed,
    Succeeded,
}

impl Provisioning {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Updating => "Updating",
            Self::Deleting => "Deleting",
            Self::Failed => "Failed",
            Self::Succeeded => "Succeeded",
        }
    }
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    Running,
    Stopped,
    Deallocated,
}

impl Power {
    /// The instance view's code and words.
    pub(super) fn status(self) -> (&'static str, &'static str) {
        match self {
            Self::Running => ("PowerState/running", "VM running"),
            Self::Stopped => ("PowerState/stopped", "VM stopped"),
            Self::Deallocated => ("PowerState/deallocated", "VM deallocated"),
        }
    }
}

/// A security rule, subnet or IP configuration.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) name: String,
    /// What a `GET` shows; none where a write of the whole parent left the part out.
    pub(super) goal: Option<Properties>,
    /// What the data plane does; none where it does not know the part yet.
    pub(super) in_force: Option<Properties>,
    pub(super) provisioning: Provisioning,
}

/// A top-level resource.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) id: Id,
    pub(super) location: String,
    pub(super) tags: Option<Value>,
    /// Members beside `properties` that are kept as they came: `sku`, `zones`, `identity`.
    pub(super) top: Map<String, Value>,
    pub(super) goal: Properties,
    pub(super) in_force: Option<Properties>,
    pub(super) children: Vec<Child>,
    pub(super) etag: Uuid,
    pub(super) guid: Uuid,
    pub(super) created: DateTime<Utc>,
    pub(super) provisioning: Provisioning,
    pub(super) power: Power,
}

impl Resource {
    pub(super) fn child(&self, name: &str) -> Option<&Child> {
        self.children
            .iter()
            .find(|child| child.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn child_mut(&mut self, name: &str) -> Option<&mut Child> {
        self.children
            .iter_mut()
            .find(|child| child.name.eq_ignore_ascii_case(name))
    }

    /// The parts that a `GET` shows.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&Child, &Properties)> + Clone {
        self.children
            .iter()
            .filter_map(|child| child.goal.as_ref().map(|goal| (child, goal)))
    }

    pub(super) fn etag_text(&self) -> String {
        format!("W/\"{}\"", self.etag)
    }
}

/// A resource group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) subscription: String,
    pub(super) name: String,
    pub(super) location: String,
    pub(super) tags: Option<Value>,
}

/// Which entries of the truth log a change can touch.
#[derive(Debug, Clone)]
pub(super) enum Touch {
    /// A resource and all its parts, by key.
    All(String),
    /// A resource without its parts.
    Resource(String),
    /// One part of a resource, by the resource's key and the part's name.
    Child(String, String),
    /// A resource group, by its key.
    Group(String),
}

impl Touch {
    /// The key of the resource or group.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::All(key) | Self::Resource(key) | Self::Child(key, _) | Self::Group(key) => key,
        }
    }
}

/// Everything in the cloud.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Id and display name.
    pub(super) subscriptions: Vec<(String, String)>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) resources: Resources,
    pub(super) operations: BTreeMap<Uuid, Operation>,
    /// The operations that are not done.
    pub(super) pending: Vec<Uuid>,
    /// Addresses given to public IPs so far.
    pub(super) public_addresses: u32,
    /// Who has which role.
    pub(super) authorization: Authorization,
}

pub(super) fn group_key(subscription: &str, group: &str) -> String {
    format!("/subscriptions/{subscription}/resourcegroups/{group}").to_ascii_lowercase()
}

/// The text at a path of members.
pub(super) fn at<'a>(properties: &'a Map<String, Value>, path: &[&str]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    let mut value = properties.get(*first)?;
    for member in rest {
        value = value.get(member)?;
    }
    value.as_str()
}

/// The ids in a list of `{"id": ...}`.
pub(super) fn ids_in(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|item| at(item.as_object()?, &["id"]))
        .collect()
}

/// The interfaces that a machine's properties name.
pub(super) fn interfaces_of(machine: &Map<String, Value>) -> Vec<&str> {
    ids_in(
        machine
            .get("networkProfile")
            .and_then(|profile| profile.get("networkInterfaces")),
    )
}

impl State {
    pub(super) fn subscription(&self, id: &str) -> Option<&(String, String)> {
        self.subscriptions
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(id))
    }

    pub(super) fn group(&self, subscription: &str, group: &str) -> Option<&Group> {
        self.groups.get(&group_key(subscription, group))
    }

    pub(super) fn get(&self, id: &Id) -> Option<&Resource> {
        self.resources.get(&id.parent().key())
    }

    /// The resources of a kind in a subscription, or in one of its groups, in the order of their ids.
    pub(super) fn of_kind<'a>(
        &'a self,
        subscription: &'a str,
        group: Option<&'a str>,
        kind: Kind,
    ) -> impl Iterator<Item = (&'a String, &'a Resource)> {
        self.resources.iter().filter(move |(_, resource)| {
            resource.id.kind == kind
                && resource.id.subscription.eq_ignore_ascii_case(subscription)
                && group.is_none_or(|group| resource.id.group.eq_ignore_ascii_case(group))
        })
    }

    /// The entries of the truth log for what a change touches, as they stand.
    ///
    /// `properties` is what the control plane shows. While the data plane still does something else,
    /// `inForce` is what it does (null: it does not know the resource yet), and `leaving` marks what is
    /// being deleted.
    pub(super) fn truth(&self, touches: &[Touch]) -> BTreeMap<String, Value> {
        let mut entries = BTreeMap::new();
        for touch in touches {
            if let Touch::Group(key) = touch {
                if let Some(group) = self.groups.get(key) {
                    entries.insert(key.clone(), super::view::group(group));
                }
                continue;
            }
            let Some((key, resource)) = self.resources.get_key_value(touch.key()) else {
                continue;
            };
            if matches!(touch, Touch::All(_) | Touch::Resource(_)) {
                entries.insert(key.clone(), resource_truth(resource));
            }
            for child in &resource.children {
                let included = match touch {
                    Touch::All(_) => true,
                    Touch::Child(_, name) => child.name.eq_ignore_ascii_case(name),
                    Touch::Resource(_) | Touch::Group(_) => false,
                };
                if let Some(kind) = resource.id.kind.child().filter(|_| included) {
                    let id = resource.id.child(kind, &child.name);
                    entries.insert(id.key(), child_truth(&id, kind, child));
                }
            }
        }
        entries
    }
}

fn resource_truth(resource: &Resource) -> Value {
    let id = &resource.id;
    let mut entry = json!({
        "id": id.text(),
        "name": id.name,
        "type": id.kind.type_name(),
        "location": resource.location,
        "properties": *resource.goal,
    });
    if let Some(entry) = entry.as_object_mut() {
        if let Some(tags) = &resource.tags {
            entry.insert("tags".to_owned(), tags.clone());
        }
        if id.kind == Kind::VirtualMachine {
            entry.insert("powerState".to_owned(), json!(resource.power.status().0));
        }
        mark(
            entry,
            Some(&resource.goal),
            resource.in_force.as_ref(),
            resource.provisioning,
        );
    }
    entry
}

fn child_truth(id: &Id, kind: ChildKind, child: &Child) -> Value {
    let shown = child.goal.as_ref().or(child.in_force.as_ref());
    let mut entry = json!({
        "id": id.text(),
        "name": child.name,
        "type": kind.type_name(),
        "properties": shown.map(|shown| (**shown).clone()),
    });
    if let Some(entry) = entry.as_object_mut() {
        mark(
            entry,
            child.goal.as_ref(),
            child.in_force.as_ref(),
            child.provisioning,
        );
    }
    entry
}

fn mark(
    entry: &mut Map<String, Value>,
    goal: Option<&Properties>,
    in_force: Option<&Properties>,
    provisioning: Provisioning,
) {
    if goal.is_none() || provisioning == Provisioning::Deleting {
        entry.insert("leaving".to_owned(), json!(true));
    }
    let same = match (goal, in_force) {
        (Some(goal), Some(in_force)) => Arc::ptr_eq(goal, in_force) || goal == in_force,
        (None, None) => true,
        _ => false,
    };
    if !same {
        entry.insert(
            "inForce".to_owned(),
            in_force.map_or(Value::Null, |force| Value::Object((**force).clone())),
        );
    }
}
