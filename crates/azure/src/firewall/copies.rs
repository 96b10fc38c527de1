//! Rules of ours where we never wrote any: in other groups of a policy, and in those that it inherits.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::{Change, Verb},
    id::GrantId,
    mark::Installation,
};
use serde_json::{Value, json};

use super::{
    document::{Edit, Form, Place, Shelf},
    layout::{Role, collection_name, role},
    plan::ObservedFirewall,
    text,
};

/// A group of a policy above.
#[derive(Debug, Clone)]
pub(super) struct Above {
    pub(super) group: Value,
    /// Whether it is ours there: that policy has firewalls of its own, so that it may be a point of its own, whose look
    /// knows what of it is wanted.
    pub(super) is_own: bool,
}

/// A rule of ours where we never wrote one.
pub(super) type Copied = (Place, Role, Value);

impl ObservedFirewall {
    /// Rules of ours in the policy's other groups and in those that it inherits, where we never wrote any: somebody moved
    /// or copied them, as when a classic firewall's rules become a policy's. By their marks they are ours to close, and
    /// no grant has them there.
    pub(super) fn copies(&self, installation: &Installation) -> Vec<(&Value, Vec<Copied>)> {
        let marked = |group, is_own: bool| -> Vec<Copied> {
            let shelves = Form::Group.shelves(group);
            let written = |shelf: &Shelf<'_>| {
                let name = collection_name(installation, shelf.kind);
                is_own && shelf.name.eq_ignore_ascii_case(&name)
            };
            let rules = shelves
                .into_iter()
                .filter(|shelf| !written(shelf))
                .flat_map(|shelf| shelf.rules);
            rules
                .filter_map(|standing| {
                    let role = role(installation, &standing)?;
                    Some((standing.place.clone(), role, standing.raw.clone()))
                })
                .collect()
        };
        let beside = self.beside.iter().map(|group| (group, marked(group, false)));
        let above = self.above.iter();
        let above = above.map(|above| (&above.group, marked(&above.group, above.is_own)));
        let found = beside.chain(above);
        found.filter(|(_, rules)| !rules.is_empty()).collect()
    }

    pub(super) fn close_copies(&self, installation: &Installation) -> Vec<Change> {
        let close = |(group, rules): (&Value, Vec<Copied>)| {
            let places: Vec<Place> = rules.iter().map(|(place, ..)| place.clone()).collect();
            let edit = Edit {
                form: Form::Group,
                group_priority: None,
                closes: places.clone(),
                // A collection of nothing else came with them; Azure may not take it empty.
                emptied: places
                    .iter()
                    .map(|place| (place.kind, place.collection.clone()))
                    .collect(),
                stays: true,
                remove: places,
                put: Vec::new(),
            };
            let grants: BTreeSet<GrantId> = rules.iter().filter_map(|(_, role, _)| role.grant()).collect();
            let after = edit.apply(group.clone());
            Change {
                verb: Verb::Close,
                target: text(group, "id").to_lowercase(),
                summary: format!(
                    "delete {} rules of ours from `{}`, where somebody put them",
                    rules.len(),
                    text(group, "name")
                ),
                grants: grants.into_iter().collect(),
                policies: Vec::new(),
                before: Some(Form::Group.shown(group)),
                after: after.map(|after| Form::Group.shown(&after)),
                operation: json!(edit),
                displaces: Vec::new(),
            }
        };
        self.copies(installation).into_iter().map(close).collect()
    }
}
