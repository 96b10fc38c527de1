//! What was written lately, for readings that do not show it yet.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use postern_core::{
    enforcer::{Bindings, Marked, Recalled},
    mark::Purpose,
    point::PointRef,
    sg::SecurityGroup,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    apply::resolve,
    operation::{GroupRef, Operation},
    plan::{instance::default_egress, written::Written},
};

/// The writes of the last moments, by point: this process's as it makes them, and the others' as the journal tells.
///
/// A point is forgotten when a reading shows everything: that a later one shows less is then somebody's doing. Not
/// so where one write took back another, because a reading from before both shows the same as one from after. A
/// write that is older than the window is forgotten too.
#[derive(Debug)]
pub(crate) struct Recent {
    window: Duration,
    points: std::sync::Mutex<BTreeMap<PointRef, AtPoint>>,
}

#[derive(Debug, Default)]
struct AtPoint {
    /// In the order in which they were made.
    written: Vec<(Instant, Written)>,
    /// What a reading showed. The journal goes on telling of it.
    shown: Vec<(Instant, Written)>,
}

impl AtPoint {
    /// What is older than the window.
    fn forget(&mut self, window: Duration) {
        self.written.retain(|(at, _)| at.elapsed() < window);
        self.shown.retain(|(at, _)| at.elapsed() < window);
    }
}

impl Recent {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            points: std::sync::Mutex::default(),
        }
    }

    fn points(&self) -> std::sync::MutexGuard<'_, BTreeMap<PointRef, AtPoint>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the effects of a change that EC2 said is done.
    pub(crate) fn remember(
        &self,
        point: &PointRef,
        before: Option<&Value>,
        operation: &Operation,
        bindings: &Bindings,
    ) {
        let now = Instant::now();
        let effects = effects(before, operation, bindings);
        let mut points = self.points();
        let here = points.entry(point.clone()).or_default();
        here.written
            .extend(effects.into_iter().map(|effect| (now, effect)));
    }

    /// Takes in what the journal has of the writes at a point: the others', beside those that are known.
    pub(crate) fn recall(&self, point: &PointRef, recalled: &[Recalled]) {
        let now = Instant::now();
        let mut latest = None;
        let told = recalled.iter().flat_map(|recalled| {
            let at = now.checked_sub(recalled.age).unwrap_or(now);
            // They come in the order in which they were made, whatever their ages say.
            let at = latest.map_or(at, |latest: Instant| latest.max(at));
            latest = Some(at);
            serde_json::from_value::<Operation>(recalled.operation.clone())
                .map(|operation| {
                    let bindings = bindings(&operation, &recalled.answer);
                    effects(recalled.before.as_ref(), &operation, &bindings)
                })
                // Of another version of this crate: then readings are taken as they come.
                .unwrap_or_default()
                .into_iter()
                .map(move |effect| (at, effect))
        });
        let mut told = told.filter(|(at, _)| at.elapsed() < self.window).peekable();
        if told.peek().is_none() {
            return;
        }
        let mut points = self.points();
        let here = points.entry(point.clone()).or_default();
        // What was done long ago says nothing of the same done again.
        here.forget(self.window);
        // What is known, each once, as the same thing may have been done twice. The journal has it a little later
        // than it was done.
        let mut known: Vec<&mut (Instant, Written)> =
            here.shown.iter_mut().chain(&mut here.written).collect();
        let mut new = Vec::new();
        for (at, effect) in told {
            match known.iter().position(|(_, other)| *other == effect) {
                Some(place) => {
                    let known = known.swap_remove(place);
                    known.0 = known.0.max(at);
                }
                None => new.push((at, effect)),
            }
        }
        here.written.extend(new);
        here.written.sort_by_key(|(at, _)| *at);
    }

    /// Remembers what the sweeper removed, wherever something is remembered of it.
    pub(crate) fn removed(&self, marked: &Marked) {
        let now = Instant::now();
        let effect = match (&marked.mark.purpose, marked.resource.split_once('/')) {
            (Purpose::Holder, _) => Written::Deleted {
                group: marked.resource.clone(),
            },
            (Purpose::Grant { .. }, Some((group, _))) => Written::Revoked {
                group: group.to_owned(),
                rules: marked
                    .detail
                    .get("rule")
                    .and_then(|rule| serde_json::from_value(rule.clone()).ok())
                    .into_iter()
                    .collect(),
            },
            _ => return,
        };
        for here in self.points().values_mut() {
            here.written.push((now, effect.clone()));
        }
    }

    /// What was written at a point within the window.
    pub(crate) fn at(&self, point: &PointRef) -> Vec<Written> {
        let mut points = self.points();
        let Some(here) = points.get_mut(point) else {
            return Vec::new();
        };
        here.forget(self.window);
        let written = here.written.iter().map(|(_, written)| written.clone()).collect();
        if here.written.is_empty() && here.shown.is_empty() {
            points.remove(point);
        }
        written
    }

    /// Forgets what was written at a point, because a reading shows it, if it could show nothing else.
    pub(crate) fn shown(&self, point: &PointRef) {
        let mut points = self.points();
        let Some(here) = points.get_mut(point) else {
            return;
        };
        let taken_back = here.written.iter().enumerate().any(|(at, (_, later))| {
            here.written
                .iter()
                .take(at)
                .any(|(_, earlier)| later.takes_back(earlier))
        });
        if !taken_back {
            here.shown.append(&mut here.written);
        }
    }
}

/// The names that an answer gave to what was made, as far as `operation` uses them.
fn bindings(operation: &Operation, answer: &Value) -> Bindings {
    let id = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let made = |group: &GroupRef, id: Option<String>| match group {
        GroupRef::Made { vpc } => id.map(|id| (GroupRef::binding(vpc), id)),
        GroupRef::Copied { of } => id.map(|id| (GroupRef::copy_binding(of), id)),
        GroupRef::Id(_) => None,
    };
    match operation {
        Operation::CreateHolder { vpc, .. } => id(answer.get("group"))
            .map(|id| (GroupRef::binding(vpc), id))
            .into_iter()
            .collect(),
        Operation::CreateCopy { of, .. } => id(answer.get("group"))
            .map(|id| (GroupRef::copy_binding(of), id))
            .into_iter()
            .collect(),
        Operation::RevokeEgress { group, .. }
        | Operation::TrimEgress { group, .. }
        | Operation::AuthorizeEgress { group, .. }
        | Operation::Authorize { group, .. }
        | Operation::Revoke { group, .. }
        | Operation::Describe { group, .. } => made(group, id(answer.get("group"))).into_iter().collect(),
        Operation::SetGroups { groups, .. } => {
            let ids = answer.get("groups").and_then(Value::as_array);
            groups
                .iter()
                .zip(ids.into_iter().flatten())
                .filter_map(|(group, value)| made(group, id(Some(value))))
                .collect()
        }
        Operation::TagRule { .. } | Operation::DeleteHolder { .. } => Bindings::new(),
    }
}

/// What the operation brings about, as far as the names of what was made are known. `before` is what the plan found of its
/// target.
pub(crate) fn effects(before: Option<&Value>, operation: &Operation, bindings: &Bindings) -> Vec<Written> {
    let id = |group: &GroupRef| resolve(group, bindings).ok();
    let made = |binding: &str, vpc: &String, name: &String, tags: &BTreeMap<String, String>| {
        bindings.get(binding).map(|id| {
            Written::Made(SecurityGroup {
                id: id.clone(),
                name: name.clone(),
                vpc: vpc.clone(),
                ingress: Vec::new(),
                // At most; it is emptied before the group is attached.
                egress: default_egress(true),
                tags: tags.clone(),
            })
        })
    };
    let effect = match operation {
        Operation::CreateHolder { vpc, name, tags, .. } => made(&GroupRef::binding(vpc), vpc, name, tags),
        Operation::CreateCopy {
            of, vpc, name, tags, ..
        } => made(&GroupRef::copy_binding(of), vpc, name, tags),
        Operation::TrimEgress { group, rules } => id(group).map(|group| Written::EgressRevoked {
            group,
            rules: rules.clone(),
        }),
        Operation::AuthorizeEgress { group, rules } => id(group).map(|group| Written::EgressAuthorized {
            group,
            rules: rules.clone(),
        }),
        Operation::RevokeEgress { group, rules } => id(group).map(|group| Written::EgressRevoked {
            group,
            // What EC2 put in and the VPC has no use for was not there.
            rules: rules.iter().cloned().chain(default_egress(true)).collect(),
        }),
        Operation::Authorize { group, rules } => id(group).map(|group| Written::Authorized {
            group,
            rules: rules.clone(),
        }),
        Operation::Revoke { group, rules } => id(group).map(|group| Written::Revoked {
            group,
            rules: rules.clone(),
        }),
        Operation::Describe { group, rules } => id(group).map(|group| Written::Described {
            group,
            rules: rules.clone(),
        }),
        // Tags decide nothing once the rule has its description.
        Operation::TagRule { .. } => None,
        Operation::SetGroups {
            interface, groups, ..
        } => {
            let after: Vec<String> = groups.iter().filter_map(id).collect();
            return moved(before, interface, &after);
        }
        Operation::DeleteHolder { group } => Some(Written::Deleted { group: group.clone() }),
    };
    effect.into_iter().collect()
}

/// What a new list of groups puts on an interface and takes off it; the rest of the list is others' business.
fn moved(before: Option<&Value>, interface: &str, after: &[String]) -> Vec<Written> {
    let before: Vec<String> = before
        .and_then(|before| before.get("groups"))
        .and_then(|groups| serde_json::from_value(groups.clone()).ok())
        .unwrap_or_default();
    let detached = before
        .iter()
        .filter(|group| !after.contains(group))
        .map(|group| Written::Detached {
            interface: interface.to_owned(),
            group: group.clone(),
        });
    let attached = after
        .iter()
        .filter(|group| !before.contains(group))
        .map(|group| Written::Attached {
            interface: interface.to_owned(),
            group: group.clone(),
        });
    detached.chain(attached).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    /// What the journal tells of a group put on an interface a moment ago.
    fn attached() -> Recalled {
        let operation = Operation::SetGroups {
            interface: "eni-1".to_owned(),
            groups: vec![GroupRef::Id("sg-1".to_owned())],
            emptied: None,
        };
        Recalled {
            before: None,
            operation: serde_json::to_value(operation).unwrap(),
            answer: Value::Null,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn what_was_done_long_ago_does_not_hide_the_same_done_again() {
        let recent = Recent::new(WINDOW);
        let point: PointRef = "aws:instance:111122223333/eu-west-1/i-0123456789abcdef0"
            .parse()
            .unwrap();
        recent.recall(&point, &[attached()]);
        recent.shown(&point);
        recent.recall(&point, &[attached()]);
        assert_eq!(recent.at(&point), [], "a reading showed it");
        for (at, _) in &mut recent.points().get_mut(&point).unwrap().shown {
            *at = at.checked_sub(WINDOW * 2).unwrap();
        }
        recent.recall(&point, &[attached()]);
        assert_eq!(recent.at(&point).len(), 1, "no reading showed this one");
    }
}
