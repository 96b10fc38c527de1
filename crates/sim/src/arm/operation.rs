//! Asynchronous operations: what is under way, when it completes and what completing does.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::id::Kind;
use super::state::{Power, Provisioning, State, Touch};
use crate::ids::Ids;
use crate::truth::{Entry, Truth};

/// What completing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// What is shown comes into force.
    Settle,
    /// The touched resource or part goes.
    Remove,
    /// A machine's power changes.
    Power(Power),
    /// Nothing changes: a read that takes its time.
    Nothing,
}

/// Code and message of an operation that is to fail.
pub(super) type OperationFailure = (String, String);

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) id: Uuid,
    /// Its name for faults and the truth log.
    pub(super) name: String,
    pub(super) subscription: String,
    pub(super) namespace: &'static str,
    /// What it changes: one resource or part of one, or a group with all that is in it.
    pub(super) touches: Vec<Touch>,
    pub(super) work: Work,
    pub(super) started: DateTime<Utc>,
    pub(super) due: DateTime<Utc>,
    pub(super) failure: Option<OperationFailure>,
    pub(super) done: bool,
    /// The body of the final answer at `Location`.
    pub(super) result: Option<Value>,
    pub(super) request_id: String,
    pub(super) caller: String,
}

impl Operation {
    /// The status document at `Azure-AsyncOperation`. The network provider's holds the status alone, as
    /// recorded; the compute provider's also times and name.
    pub(super) fn status(&self) -> Value {
        let status = match (self.done, &self.failure) {
            (false, _) => "InProgress",
            (true, None) => "Succeeded",
            (true, Some(_)) => "Failed",
        };
        let mut document = if self.namespace == Kind::VirtualMachine.namespace() {
            json!({ "name": self.id, "startTime": self.started, "status": status })
        } else {
            json!({ "status": status })
        };
        if let Some(document) = document.as_object_mut() {
            if let (true, Some((code, message))) = (self.done, &self.failure) {
                document.insert(
                    "error".to_owned(),
                    json!({ "code": code, "message": message, "details": [] }),
                );
            }
            if self.done && self.namespace == Kind::VirtualMachine.namespace() {
                document.insert("endTime".to_owned(), json!(self.due));
            }
        }
        document
    }
}

impl State {
    /// The operation that still works on a resource, by the resource's key. One that works on its group
    /// counts too.
    pub(super) fn busy(&self, key: &str) -> Option<&Operation> {
        self.pending
            .iter()
            .filter_map(|id| self.operations.get(id))
            .find(|operation| {
                operation.touches.iter().any(|touch| {
                    let within =
                        |group: &str| key.strip_prefix(group).is_some_and(|rest| rest.starts_with('/'));
                    touch.key() == key || matches!(touch, Touch::Group(group) if within(group))
                })
            })
    }

    /// Completes what is due, in the order of the instants at which it was due, and writes it down at them.
    pub(super) fn settle(&mut self, now: DateTime<Utc>, ids: &Ids, truth: &Truth) {
        let mut due: Vec<(DateTime<Utc>, Uuid)> = self
            .pending
            .iter()
            .filter_map(|id| self.operations.get(id))
            .filter(|operation| operation.due <= now)
            .map(|operation| (operation.due, operation.id))
            .collect();
        due.sort_unstable();
        for (at, id) in due {
            let Some(operation) = self.operations.get(&id).cloned() else {
                continue;
            };
            let mut touches = operation.touches.clone();
            touches.extend(self.mended(&operation));
            let before = self.truth(&touches);
            self.complete(id, ids);
            let after = self.truth(&touches);
            truth.record(changes(before, after, &operation, at));
        }
    }

    /// The groups whose failed parts take effect with an operation.
    ///
    /// A rule is a part of its group, and a write of it is one of the group: the group's entity tag changes, and its
    /// state becomes that of the last operation ("Troubleshoot Azure Microsoft.Network failed provisioning state").
    /// What the data plane is given is the group as it is shown, so that a group which says `Succeeded` does what it
    /// shows, also where an earlier operation failed to bring that about.
    fn mends<'a>(&'a self, operation: &'a Operation) -> impl Iterator<Item = &'a str> {
        let works = operation.failure.is_none() && matches!(operation.work, Work::Settle | Work::Remove);
        operation.touches.iter().filter_map(move |touch| match touch {
            Touch::Child(key, _) if works => self
                .resources
                .get(key)
                .is_some_and(|resource| {
                    resource.id.kind == Kind::NetworkSecurityGroup
                        && resource
                            .children
                            .iter()
                            .any(|child| child.provisioning == Provisioning::Failed)
                })
                .then_some(key.as_str()),
            _ => None,
        })
    }

    /// The same groups, as what an operation touches.
    pub(super) fn mended(&self, operation: &Operation) -> Vec<Touch> {
        self.mends(operation)
            .map(|key| Touch::All(key.to_owned()))
            .collect()
    }

    /// Does an operation's work now. Nobody is told.
    pub(super) fn complete(&mut self, id: Uuid, ids: &Ids) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.done = true;
        self.pending.retain(|pending| *pending != id);
        let failed = operation.failure.is_some();
        let (touches, work) = (operation.touches.clone(), operation.work);
        let mended: Vec<String> = self
            .operations
            .get(&id)
            .map(|operation| self.mends(operation).map(str::to_owned).collect())
            .unwrap_or_default();
        for key in mended {
            let Some(resource) = self.resources.get_mut(&key) else {
                continue;
            };
            resource.in_force = Some(resource.goal.clone());
            for child in &mut resource.children {
                if child.provisioning == Provisioning::Failed {
                    child.in_force.clone_from(&child.goal);
                    child.provisioning = Provisioning::Succeeded;
                }
            }
            resource
                .children
                .retain(|child| child.goal.is_some() || child.in_force.is_some());
        }
        for touch in &touches {
            if work == Work::Remove && !failed {
                self.remove(touch);
            }
            let Some(resource) = self.resources.get_mut(touch.key()) else {
                continue;
            };
            let state = if failed {
                Provisioning::Failed
            } else {
                Provisioning::Succeeded
            };
            if work != Work::Nothing {
                resource.provisioning = state;
                resource.etag = ids.uuid();
            }
            match work {
                Work::Power(power) if !failed => resource.power = power,
                Work::Settle => {
                    if !failed && !matches!(touch, Touch::Child(..)) {
                        resource.in_force = Some(resource.goal.clone());
                    }
                    for child in &mut resource.children {
                        let included = match touch {
                            Touch::All(_) => true,
                            Touch::Child(_, name) => child.name.eq_ignore_ascii_case(name),
                            Touch::Resource(_) | Touch::Group(_) => false,
                        };
                        if included {
                            child.provisioning = state;
                            if !failed {
                                child.in_force.clone_from(&child.goal);
                            }
                        }
                    }
                    resource
                        .children
                        .retain(|child| child.goal.is_some() || child.in_force.is_some());
                }
                Work::Remove if failed => {
                    if let Touch::Child(_, name) = touch
                        && let Some(child) = resource.child_mut(name)
                    {
                        child.provisioning = state;
                    }
                }
                Work::Power(_) | Work::Remove | Work::Nothing => {}
            }
        }
    }

    fn remove(&mut self, touch: &Touch) {
        match touch {
            Touch::All(key) | Touch::Resource(key) => {
                self.resources.remove(key);
            }
            Touch::Child(key, name) => {
                if let Some(resource) = self.resources.get_mut(key) {
                    resource
                        .children
                        .retain(|child| !child.name.eq_ignore_ascii_case(name));
                }
            }
            Touch::Group(key) => {
                self.groups.remove(key);
            }
        }
    }
}

/// The log entries for what differs between two looks at the same touches.
pub(super) fn changes(
    mut before: std::collections::BTreeMap<String, Value>,
    after: std::collections::BTreeMap<String, Value>,
    operation: &Operation,
    at: DateTime<Utc>,
) -> Vec<Entry> {
    let entry = |resource: String, before: Option<Value>, after: Option<Value>| Entry {
        at,
        cloud: "azure",
        operation: operation.name.clone(),
        resource,
        before,
        after,
        request_id: operation.request_id.clone(),
        caller: operation.caller.clone(),
    };
    let mut entries = Vec::new();
    for (resource, after) in after {
        let before = before.remove(&resource);
        if before.as_ref() != Some(&after) {
            entries.push(entry(resource, before, Some(after)));
        }
    }
    entries.extend(
        before
            .into_iter()
            .map(|(resource, before)| entry(resource, Some(before), None)),
    );
    entries
}
