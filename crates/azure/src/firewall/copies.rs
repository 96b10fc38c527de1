//! Rules of ours where we never wrote any: in other groups of a policy, and in those that it inherits.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::{Change, Verb},
    id::GrantId,
    mark::Installation,
};
use serde_json::{Value, json};

use super::{
    document::{Edit, Form, Kind, Place, Shelf},
    layout::{Role, collection_name, role},
    plan::{ObservedFirewall, has_failed},
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

fn marked(group: &Value, is_own: bool, installation: &Installation) -> Vec<Copied> {
    not_written(group, is_own, installation)
        .flat_map(|shelf| shelf.rules)
        .filter_map(|standing| {
            let role = role(installation, &standing)?;
            Some((standing.place.clone(), role, standing.raw.clone()))
        })
        .collect()
}

/// The collections of a group that we did not write there ourselves.
fn not_written<'g>(
    group: &'g Value,
    is_own: bool,
    installation: &Installation,
) -> impl Iterator<Item = Shelf<'g>> {
    let written = move |shelf: &Shelf<'_>| is_own && is_named_ours(shelf, installation);
    Form::Group
        .shelves(group)
        .into_iter()
        .filter(move |shelf| !written(shelf))
}

fn is_named_ours(shelf: &Shelf<'_>, installation: &Installation) -> bool {
    let name = collection_name(installation, shelf.kind);
    shelf.name.eq_ignore_ascii_case(&name)
}

impl ObservedFirewall {
    /// The policy's other groups and those that it inherits, and whether we may have written there.
    fn elsewhere(&self) -> impl Iterator<Item = (&Value, bool)> {
        let beside = self.beside.iter().map(|group| (group, false));
        let above = self.above.iter().map(|above| (&above.group, above.is_own));
        beside.chain(above)
    }

    /// Rules of ours in the policy's other groups and in those that it inherits, where we never wrote any: somebody moved
    /// or copied them, as when a classic firewall's rules become a policy's. By their marks they are ours to close, and
    /// no grant has them there.
    pub(super) fn copies(&self, installation: &Installation) -> Vec<(&Value, Vec<Copied>)> {
        self.elsewhere()
            .map(|(group, is_own)| (group, marked(group, is_own, installation)))
            .filter(|(_, rules)| !rules.is_empty())
            .collect()
    }

    /// Takes them away. Where such a write was taken and then failed, they are shown no more and may filter all the same:
    /// while something waits to be confirmed, what is shown is written again.
    pub(super) fn close_copies(&self, installation: &Installation, unsettled: bool) -> Vec<Change> {
        let close = |(group, is_own): (&Value, bool)| {
            let rules = marked(group, is_own, installation);
            // Copied when nothing was left in it; its name says whose it is.
            let empty: Vec<(Kind, String)> = not_written(group, is_own, installation)
                .filter(|shelf| shelf.rules.is_empty() && is_named_ours(shelf, installation))
                .map(|shelf| (shelf.kind, shelf.name.to_owned()))
                .collect();
            let again = unsettled && !is_own && has_failed(group);
            if rules.is_empty() && empty.is_empty() && !again {
                return None;
            }
            let places: Vec<Place> = rules.iter().map(|(place, ..)| place.clone()).collect();
            let edit = Edit {
                form: Form::Group,
                group_priority: None,
                closes: places.clone(),
                // A collection of nothing else came with them; Azure may not take it empty.
                emptied: places
                    .iter()
                    .map(|place| (place.kind, place.collection.clone()))
                    .chain(empty)
                    .collect(),
                stays: true,
                remove: places,
                put: Vec::new(),
            };
            let grants: BTreeSet<GrantId> = rules.iter().filter_map(|(_, role, _)| role.grant()).collect();
            let after = edit.apply(group.clone());
            let name = text(group, "name");
            let summary = match (rules.len(), edit.emptied.is_empty()) {
                (0, true) => format!("write `{name}` again, which did not come into force"),
                (0, false) => {
                    format!("delete a collection of ours without rules from `{name}`, where others wrote")
                }
                (several, _) => format!("delete {several} rules of ours from `{name}`, where others wrote"),
            };
            Some(Change {
                verb: Verb::Close,
                target: text(group, "id").to_lowercase(),
                summary,
                grants: grants.into_iter().collect(),
                policies: Vec::new(),
                before: Some(Form::Group.shown(group)),
                after: after.map(|after| Form::Group.shown(&after)),
                operation: json!(edit),
                displaces: Vec::new(),
            })
        };
        self.elsewhere().filter_map(close).collect()
    }
}
