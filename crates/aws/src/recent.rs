//! What this process wrote lately, for readings that do not show it yet.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use postern_core::{
    enforcer::{Bindings, Change, Marked},
    mark::Purpose,
    point::PointRef,
    sg::SecurityGroup,
};
use tokio::time::Instant;

use crate::{
    apply::resolve,
    operation::{GroupRef, Operation},
    plan::{instance::default_egress, written::Written},
};

/// The writes of the last moments, by point.
///
/// A point is forgotten when a reading shows everything: that a later one shows less is then somebody's doing. Not
/// so where one write took back another, because a reading from before both shows the same as one from after. A
/// write that is older than the window is forgotten too. Another replica's writes are not here.
#[derive(Debug)]
pub(crate) struct Recent {
    window: Duration,
    points: std::sync::Mutex<BTreeMap<PointRef, Vec<(Instant, Written)>>>,
}

impl Recent {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            points: std::sync::Mutex::default(),
        }
    }

    fn points(&self) -> std::sync::MutexGuard<'_, BTreeMap<PointRef, Vec<(Instant, Written)>>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the effects of a change that EC2 said is done.
    pub(crate) fn remember(
        &self,
        point: &PointRef,
        change: &Change,
        operation: &Operation,
        bindings: &Bindings,
    ) {
        let now = Instant::now();
        let effects = effects(change, operation, bindings);
        let mut points = self.points();
        let written = points.entry(point.clone()).or_default();
        written.extend(effects.into_iter().map(|effect| (now, effect)));
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
        for written in self.points().values_mut() {
            written.push((now, effect.clone()));
        }
    }

    /// What was written at a point within the window.
    pub(crate) fn at(&self, point: &PointRef) -> Vec<Written> {
        let mut points = self.points();
        let Some(written) = points.get_mut(point) else {
            return Vec::new();
        };
        written.retain(|(at, _)| at.elapsed() < self.window);
        if written.is_empty() {
            points.remove(point);
            return Vec::new();
        }
        written.iter().map(|(_, written)| written.clone()).collect()
    }

    /// Forgets what was written at a point, because a reading shows it, if it could show nothing else.
    pub(crate) fn shown(&self, point: &PointRef) {
        let mut points = self.points();
        let taken_back = points.get(point).is_some_and(|written| {
            written.iter().enumerate().any(|(at, (_, later))| {
                written
                    .iter()
                    .take(at)
                    .any(|(_, earlier)| later.takes_back(earlier))
            })
        });
        if !taken_back {
            points.remove(point);
        }
    }
}

fn effects(change: &Change, operation: &Operation, bindings: &Bindings) -> Vec<Written> {
    let id = |group: &GroupRef| resolve(group, bindings).ok();
    let effect = match operation {
        Operation::CreateHolder { vpc, name, tags, .. } => bindings.get(&GroupRef::binding(vpc)).map(|id| {
            Written::Made(SecurityGroup {
                id: id.clone(),
                name: name.clone(),
                vpc: vpc.clone(),
                ingress: Vec::new(),
                // At most; it is emptied before the group is attached.
                egress: default_egress(true),
                tags: tags.clone(),
            })
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
            return moved(change, interface, &after);
        }
        Operation::DeleteHolder { group } => Some(Written::Deleted { group: group.clone() }),
    };
    effect.into_iter().collect()
}

/// What a new list of groups puts on an interface and takes off it; the rest of the list is others' business.
fn moved(change: &Change, interface: &str, after: &[String]) -> Vec<Written> {
    let before: Vec<String> = change
        .before
        .as_ref()
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
