//! The planners: every choice, and no call.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::{Change, Verb},
    id::{GrantId, PolicyId},
};
use serde_json::Value;

use crate::operation::Operation;

mod foreseen;
pub mod group;
pub mod instance;
#[cfg(test)]
mod model;
pub mod rule;
mod shown;
pub mod written;

/// A change with everything but its subject filled in.
fn change(
    verb: Verb,
    target: &str,
    summary: String,
    operation: &Operation,
    before: Option<Value>,
    after: Option<Value>,
) -> Change {
    Change {
        verb,
        target: target.to_owned(),
        summary,
        grants: Vec::new(),
        policies: Vec::new(),
        before,
        after,
        // INVARIANT: operations are plain data with string keys, which always have a JSON form.
        operation: json(operation),
        displaces: Vec::new(),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn for_grants(mut change: Change, grants: impl IntoIterator<Item = GrantId>) -> Change {
    change.grants = grants.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    change
}

fn for_policies(mut change: Change, policies: &BTreeSet<PolicyId>) -> Change {
    change.policies = policies.iter().copied().collect();
    change
}
