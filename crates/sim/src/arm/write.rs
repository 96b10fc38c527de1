//! Writes: put, tag and delete, and the operations that they start.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use http::HeaderMap;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::body::{Body, Part};
use super::check;
use super::firewall;
use super::id::{ChildKind, Id, Kind, check_name};
use super::in_use;
use super::operation::{Operation, OperationFailure, Work, changes};
use super::refusal::ArmError;
use super::routing;
use super::state::{Child, Power, Properties, Provisioning, Resource, State, Touch, at};
use super::view;
use crate::fault::{Effect, Faults};
use crate::ids::Ids;
use crate::truth::Truth;

/// What a write needs beside the state.
pub(super) struct Desk<'a> {
    pub(super) state: &'a mut State,
    pub(super) ids: &'a Ids,
    pub(super) truth: &'a Truth,
    /// How operations end.
    pub(super) completions: &'a Faults,
    /// How long operations take.
    pub(super) duration: TimeDelta,
    /// How long operations on firewalls and firewall policies take.
    pub(super) firewall_duration: TimeDelta,
    /// The status of `AnotherOperationInProgress`.
    pub(super) busy_status: u16,
    pub(super) origin: Origin<'a>,
}

/// Where a write comes from.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) now: DateTime<Utc>,
    pub(super) operation: &'a str,
    pub(super) request_id: &'a str,
    pub(super) caller: &'a str,
    /// The address that links in answers start with.
    pub(super) base: &'a str,
    pub(super) headers: &'a HeaderMap,
}

/// What a write did.
#[derive(Debug)]
pub(super) enum Written {
    /// Put: whether it is new, what it looks like now and the operation that brings it into force.
    Put {
        created: bool,
        body: Value,
        operation: Option<(Uuid, String)>,
    },
    /// Accepted; the operation and the resource's region.
    Accepted { operation: Uuid, location: String },
    /// There was nothing to delete.
    Absent,
}

impl Desk<'_> {
    /// Creates or replaces a top-level resource.
    pub(super) fn put(&mut self, id: &Id, body: &Body) -> Result<Written, ArmError> {
        let id = self.named(id)?;
        let key = id.key();
        let existing = self.state.resources.get(&key);
        self.precondition(&id, existing)?;
        match existing {
            Some(existing) => self.free(existing, None)?,
            None => check_name(&id.name)?,
        }
        let draft = check::draft(self.state, &id, existing, body)?;
        let created = existing.is_none();
        let compute = id.kind == Kind::VirtualMachine;
        let touches = vec![Touch::All(key.clone())];
        let before = self.state.truth(&touches);
        let groups_before = self.linked_groups(&key);
        if created && id.kind == Kind::PublicIpAddress {
            self.state.public_addresses += 1;
        }
        let provisioning = if created && compute {
            Provisioning::Creating
        } else {
            Provisioning::Updating
        };
        let goal: Properties = Arc::new(draft.properties);
        let (etag, guid, now) = (self.ids.uuid(), self.ids.uuid(), self.origin.now);
        let resource = self.state.resources.get_or_insert_with(&key, || Resource {
            id,
            location: draft.location,
            tags: None,
            top: Map::new(),
            goal: Arc::clone(&goal),
            in_force: None,
            children: Vec::new(),
            etag,
            guid,
            created: now,
            provisioning,
            power: Power::Running,
        });
        resource.tags.clone_from(&body.tags);
        resource.top.clone_from(&body.top);
        resource.goal = goal;
        resource.etag = etag;
        resource.provisioning = provisioning;
        if let Some(children) = draft.children {
            replace_children(resource, children);
        }
        self.renew_linked(&key, &groups_before);
        let body = self.show(&key);
        let location = self.location_of(&key);
        let operation = self.launch(touches, Work::Settle, before, None);
        Ok(Written::Put {
            created,
            body,
            operation: Some((operation, location)),
        })
    }

    /// Creates or replaces a security rule, a subnet, a route or a rule collection group.
    pub(super) fn put_child(&mut self, id: &Id, body: &Body) -> Result<Written, ArmError> {
        let Some((
            kind @ (ChildKind::SecurityRule
            | ChildKind::Subnet
            | ChildKind::Route
            | ChildKind::RuleCollectionGroup),
            name,
        )) = id.child.clone()
        else {
            return Err(not_allowed());
        };
        self.named(id)?;
        let parent = self.parent(id, "write")?;
        let key = parent.id.key();
        let shown = parent.child(&name).filter(|child| child.goal.is_some());
        self.precondition(id, shown.map(|_| parent))?;
        self.free(parent, Some(&name))?;
        check_name(&name)?;
        let properties = match kind {
            ChildKind::SecurityRule => check::security_rule(self.state, parent, &name, &body.properties)?,
            ChildKind::Route => routing::route_beside(parent, &name, &body.properties)?,
            ChildKind::RuleCollectionGroup => {
                firewall::rule_collection_group(self.state, parent, &name, &body.properties)?
            }
            _ => check::subnet(self.state, parent, &name, &body.properties)?,
        };
        let (created, goal) = (shown.is_none(), Arc::new(properties));
        let name = parent.child(&name).map_or(name, |child| child.name.clone());
        let touches = vec![Touch::Child(key.clone(), name.clone())];
        let before = self.state.truth(&touches);
        let groups_before = self.linked_groups(&key);
        let etag = self.ids.uuid();
        if let Some(parent) = self.state.resources.get_mut(&key) {
            parent.etag = etag;
            parent.provisioning = Provisioning::Updating;
            if let Some(child) = parent.child_mut(&name) {
                child.goal = Some(goal);
                child.provisioning = Provisioning::Updating;
            } else {
                let provisioning = Provisioning::Updating;
                parent.children.push(Child {
                    name: name.clone(),
                    goal: Some(goal),
                    in_force: None,
                    provisioning,
                });
            }
        }
        self.renew_linked(&key, &groups_before);
        let body = self.show_child(&key, kind, &name);
        let location = self.location_of(&key);
        let operation = self.launch(touches, Work::Settle, before, None);
        Ok(Written::Put {
            created,
            body,
            operation: Some((operation, location)),
        })
    }

    /// Replaces a resource's tags.
    pub(super) fn tag(&mut self, id: &Id, body: Body) -> Result<Value, ArmError> {
        self.named(id)?;
        let key = id.key();
        let Some(existing) = self.state.resources.get(&key) else {
            return Err(not_found(id));
        };
        self.precondition(id, Some(existing))?;
        self.free(existing, None)?;
        let touches = vec![Touch::Resource(key.clone())];
        let before = self.state.truth(&touches);
        let etag = self.ids.uuid();
        if let Some(resource) = self.state.resources.get_mut(&key) {
            resource.tags = body.tags;
            resource.etag = etag;
        }
        self.launch(touches, Work::Nothing, before, None);
        Ok(self.show(&key))
    }

    /// Deletes a top-level resource.
    pub(super) fn delete(&mut self, id: &Id) -> Result<Written, ArmError> {
        self.named(id)?;
        let key = id.key();
        let Some(existing) = self.state.resources.get(&key) else {
            return Ok(Written::Absent);
        };
        self.precondition(id, Some(existing))?;
        self.free(existing, None)?;
        in_use::unused(self.state, existing)?;
        let touches = vec![Touch::All(key.clone())];
        let before = self.state.truth(&touches);
        let groups_before = self.linked_groups(&key);
        let location = self.location_of(&key);
        let etag = self.ids.uuid();
        if let Some(resource) = self.state.resources.get_mut(&key) {
            resource.provisioning = Provisioning::Deleting;
            resource.etag = etag;
        }
        let operation = self.launch(touches, Work::Remove, before, None);
        self.renew_linked(&key, &groups_before);
        Ok(Written::Accepted { operation, location })
    }

    /// Deletes a security rule, a subnet, a route or a rule collection group.
    pub(super) fn delete_child(&mut self, id: &Id) -> Result<Written, ArmError> {
        let Some((
            ChildKind::SecurityRule | ChildKind::Subnet | ChildKind::Route | ChildKind::RuleCollectionGroup,
            name,
        )) = id.child.clone()
        else {
            return Err(not_allowed());
        };
        self.named(id)?;
        let parent = self.parent(id, "delete")?;
        let key = parent.id.key();
        let Some(child) = parent.child(&name).filter(|child| child.goal.is_some()) else {
            return Ok(Written::Absent);
        };
        self.precondition(id, Some(parent))?;
        self.free(parent, Some(&name))?;
        if parent.id.kind == Kind::VirtualNetwork {
            in_use::subnet_unused(self.state, &parent.id.child(ChildKind::Subnet, &child.name))?;
        }
        let touches = vec![Touch::Child(key.clone(), child.name.clone())];
        let before = self.state.truth(&touches);
        let groups_before = self.linked_groups(&key);
        let location = self.location_of(&key);
        let etag = self.ids.uuid();
        if let Some(parent) = self.state.resources.get_mut(&key) {
            parent.etag = etag;
            parent.provisioning = Provisioning::Updating;
            if let Some(child) = parent.child_mut(&name) {
                child.provisioning = Provisioning::Deleting;
            }
        }
        let operation = self.launch(touches, Work::Remove, before, None);
        self.renew_linked(&key, &groups_before);
        Ok(Written::Accepted { operation, location })
    }

    /// Starts, stops or deallocates a machine.
    pub(super) fn power(&mut self, id: &Id, power: Power) -> Result<Written, ArmError> {
        self.named(id)?;
        let key = id.key();
        let Some(existing) = self.state.resources.get(&key) else {
            return Err(not_found(id));
        };
        self.free(existing, None)?;
        let touches = vec![Touch::Resource(key.clone())];
        let before = self.state.truth(&touches);
        let location = self.location_of(&key);
        if let Some(machine) = self.state.resources.get_mut(&key) {
            machine.provisioning = Provisioning::Updating;
        }
        let operation = self.launch(touches, Work::Power(power), before, None);
        Ok(Written::Accepted { operation, location })
    }

    /// Starts a read that takes its time; `result` is its final answer.
    pub(super) fn deferred(&mut self, id: &Id, result: Value) -> Written {
        let location = self.location_of(&id.key());
        let touches = vec![Touch::Resource(id.key())];
        let before = self.state.truth(&touches);
        let operation = self.launch(touches, Work::Nothing, before, Some(result));
        Written::Accepted { operation, location }
    }

    /// Starts the operation for a change already shown, and completes it where operations take no time.
    pub(super) fn launch(
        &mut self,
        touches: Vec<Touch>,
        work: Work,
        mut before: std::collections::BTreeMap<String, Value>,
        result: Option<Value>,
    ) -> Uuid {
        let failure: Option<OperationFailure> = match self.completions.decide(self.origin.operation).effect {
            Some(Effect::Status { code, message, .. }) => Some((code, message)),
            _ => None,
        };
        let id = self.ids.uuid();
        let duration = touches
            .iter()
            .map(|touch| self.duration_of(touch.key()))
            .max()
            .unwrap_or(self.duration);
        let subscription = touches
            .first()
            .and_then(|touch| touch.key().split('/').nth(2))
            .unwrap_or_default()
            .to_owned();
        let namespace = match touches.last() {
            Some(Touch::Group(_)) | None => "Microsoft.Resources",
            Some(touch) => self
                .state
                .resources
                .get(touch.key())
                .map_or("Microsoft.Network", |resource| resource.id.kind.namespace()),
        };
        let operation = Operation {
            id,
            name: self.origin.operation.to_owned(),
            subscription,
            namespace,
            touches,
            work,
            started: self.origin.now,
            due: self
                .origin
                .now
                .checked_add_signed(duration)
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
            failure,
            done: false,
            result,
            request_id: self.origin.request_id.to_owned(),
            caller: self.origin.caller.to_owned(),
        };
        let instant = duration.is_zero();
        self.state.operations.insert(id, operation.clone());
        self.state.pending.push(id);
        let mut touches = operation.touches.clone();
        if instant {
            // What the write mends beside what it touches is as it was until now.
            let mended = self.state.mended(&operation);
            let own = self.state.truth(&touches);
            let beside = self.state.truth(&mended);
            before.extend(beside.into_iter().filter(|(key, _)| !own.contains_key(key)));
            touches.extend(mended);
            self.state.complete(id, self.ids);
        }
        let after = self.state.truth(&touches);
        self.truth
            .record(changes(before, after, &operation, self.origin.now));
        id
    }

    /// Refuses a change of what is still being changed.
    pub(super) fn free(&self, resource: &Resource, part: Option<&str>) -> Result<(), ArmError> {
        if resource.id.kind == Kind::FirewallPolicy {
            in_use::policy_not_busy(self.state, resource, part)?;
        }
        in_use::not_busy(self.state, resource, self.busy_status, self.origin.base)
    }

    /// How long an operation on a kind of resource takes.
    fn duration_of(&self, key: &str) -> TimeDelta {
        match self.state.resources.get(key).map(|resource| resource.id.kind) {
            Some(Kind::AzureFirewall | Kind::FirewallPolicy) => self.firewall_duration,
            _ => self.duration,
        }
    }

    /// The keys of the NSGs that a resource's interfaces or subnets name.
    fn linked_groups(&self, key: &str) -> Vec<String> {
        let Some(resource) = self.state.resources.get(key) else {
            return Vec::new();
        };
        let properties = std::iter::once(&resource.goal).chain(resource.shown().map(|(_, goal)| goal));
        properties
            .filter_map(|properties| at(properties, &["networkSecurityGroup", "id"]))
            .map(str::to_ascii_lowercase)
            .collect()
    }

    /// An NSG's etag changes when something starts or ceases to point at it.
    fn renew_linked(&mut self, key: &str, before: &[String]) {
        let after = self.linked_groups(key);
        let gone = before.iter().filter(|group| !after.contains(group));
        let new = after.iter().filter(|group| !before.contains(group));
        for group in gone.chain(new) {
            if let Some(group) = self.state.resources.get_mut(group) {
                group.etag = self.ids.uuid();
            }
        }
    }

    /// The id with subscription, group and name as they were created. Refuses an unknown group.
    fn named(&self, id: &Id) -> Result<Id, ArmError> {
        let subscription = self.known_subscription(&id.subscription)?;
        let group = self
            .state
            .group(&subscription, &id.group)
            .ok_or_else(|| group_missing(&id.group))?;
        if let Some(existing) = self.state.get(id) {
            return Ok(existing.id.clone());
        }
        Ok(Id {
            subscription,
            group: group.name.clone(),
            ..id.clone()
        })
    }

    pub(super) fn known_subscription(&self, subscription: &str) -> Result<String, ArmError> {
        subscription_known(self.state, subscription)
    }

    fn parent(&self, id: &Id, verb: &str) -> Result<&Resource, ArmError> {
        self.state.get(id).ok_or_else(|| {
            let child = id.child.as_ref().map_or("", |(child, _)| child.segment());
            ArmError::new(
                404,
                "ParentResourceNotFound",
                format!(
                    "Failed to perform '{verb}' on resource(s) of type '{}/{child}', because the parent resource \
                     '{}' could not be found.",
                    id.kind.segment(),
                    id.parent().text()
                ),
            )
        })
    }

    fn show(&self, key: &str) -> Value {
        let references = self.state.back_references();
        self.state
            .resources
            .get(key)
            .map(|resource| view::resource(resource, &references))
            .unwrap_or_default()
    }

    fn show_child(&self, key: &str, kind: ChildKind, name: &str) -> Value {
        let references = self.state.back_references();
        self.state
            .resources
            .get(key)
            .and_then(|parent| {
                let child = parent.child(name)?;
                let goal = child.goal.as_ref()?;
                Some(view::child(
                    parent,
                    kind,
                    &child.name,
                    goal,
                    child.provisioning,
                    &references,
                ))
            })
            .unwrap_or_default()
    }

    fn location_of(&self, key: &str) -> String {
        self.state
            .resources
            .get(key)
            .map(|resource| resource.location.clone())
            .unwrap_or_default()
    }
}

/// Puts the parts that a whole write names, in its order; the others are no longer shown.
fn replace_children(resource: &mut Resource, written: Vec<Part>) {
    let mut old = std::mem::take(&mut resource.children);
    for (name, properties) in written {
        let provisioning = Provisioning::Updating;
        let known = old
            .iter()
            .position(|child| child.name.eq_ignore_ascii_case(&name))
            .map(|at| old.remove(at));
        let (name, in_force) = known.map_or((name, None), |child| (child.name, child.in_force));
        resource.children.push(Child {
            name,
            goal: Some(Arc::new(properties)),
            in_force,
            provisioning,
        });
    }
    for mut child in old {
        child.goal = None;
        if child.in_force.is_some() {
            resource.children.push(child);
        }
    }
}

/// The subscription's id as it was made.
pub(super) fn subscription_known(state: &State, subscription: &str) -> Result<String, ArmError> {
    if Uuid::parse_str(subscription).is_err() {
        let text = format!("The provided subscription identifier '{subscription}' is malformed or invalid.");
        return Err(ArmError::new(400, "InvalidSubscriptionId", text));
    }
    state
        .subscription(subscription)
        .map(|(id, _)| id.clone())
        .ok_or_else(|| {
            let text = format!("The subscription '{subscription}' could not be found.");
            ArmError::new(404, "SubscriptionNotFound", text)
        })
}

pub(super) fn group_missing(group: &str) -> ArmError {
    ArmError::new(
        404,
        "ResourceGroupNotFound",
        format!("Resource group '{group}' could not be found."),
    )
}

pub(super) fn not_found(id: &Id) -> ArmError {
    if id.child.is_some() {
        return ArmError::network(404, "NotFound", format!("Resource {} not found.", id.text()));
    }
    ArmError::new(
        404,
        "ResourceNotFound",
        format!(
            "The Resource '{}/{}' under resource group '{}' was not found. For more details please go to \
             https://aka.ms/ARMResourceNotFoundFix",
            id.kind.type_name(),
            id.name,
            id.group
        ),
    )
}

pub(super) fn not_allowed() -> ArmError {
    ArmError::new(
        405,
        "HttpMethodNotSupported",
        "The HTTP method is not supported at this resource.",
    )
}
