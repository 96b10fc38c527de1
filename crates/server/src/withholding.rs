//! The part of a write to an NSG that somebody may see who may not read every machine behind it.
//!
//! A lockdown's deny names the private addresses of machines. A write of the whole NSG holds rules of every policy, and
//! of grants.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::Change,
    mark::{Installation, Mark, Purpose},
};
use serde_json::Value;

/// What is left of a change.
#[derive(Debug)]
pub(crate) struct Withheld {
    /// The change without what is not shown; none where nothing is left of it.
    pub(crate) shown: Option<Change>,
    /// The names of the lockdowns' rules that are not shown.
    pub(crate) names: BTreeSet<String>,
}

/// Leaves out of the change every rule but those lockdowns of ours that are about `addresses` alone.
pub(crate) fn withhold(
    change: &Change,
    installation: &Installation,
    addresses: &BTreeSet<String>,
) -> Withheld {
    let mut names = BTreeSet::new();
    let mut is_part = false;
    let mut of = |value: Option<&Value>| -> Vec<Value> {
        let mut shown = Vec::new();
        for rule in rules(value) {
            let is_about = is_lockdown(rule, installation).then(|| is_about_only(rule, addresses));
            match is_about {
                Some(true) => shown.push(rule.clone()),
                Some(false) => {
                    is_part = true;
                    names.extend(rule.get("name").and_then(Value::as_str).map(str::to_owned));
                }
                None => is_part = true,
            }
        }
        shown
    };
    let (before, after) = (of(change.before.as_ref()), of(change.after.as_ref()));
    let shown = if !is_part {
        // Of nothing but lockdowns; or of no rule at all, which writes the NSG as it is.
        Some(change.clone())
    } else if before.is_empty() && after.is_empty() {
        None
    } else if is_whole(change) {
        let list = |rules: Vec<Value>| (!rules.is_empty()).then_some(Value::Array(rules));
        Some(Change {
            before: list(before),
            after: list(after),
            ..change.clone()
        })
    } else {
        // One rule, of which one side is not shown: its line names what is on the other.
        names.extend(
            before
                .iter()
                .chain(&after)
                .filter_map(|rule| rule.get("name")?.as_str().map(str::to_owned)),
        );
        None
    };
    Withheld { shown, names }
}

/// Whether many rules are written at once.
fn is_whole(change: &Change) -> bool {
    let sides = [&change.before, &change.after];
    sides
        .into_iter()
        .flatten()
        .any(|side| side.get("rules").is_some())
}

/// The rules of one side of a change: one, or those of a whole write.
fn rules(side: Option<&Value>) -> Vec<&Value> {
    match side.map(|side| (side, side.get("rules"))) {
        Some((_, Some(Value::Array(rules)))) => rules.iter().collect(),
        Some((rule, _)) if rule.get("properties").is_some() => vec![rule],
        _ => Vec::new(),
    }
}

fn is_lockdown(rule: &Value, installation: &Installation) -> bool {
    let text = rule.pointer("/properties/description").and_then(Value::as_str);
    text.and_then(Mark::parse).is_some_and(|mark| {
        mark.installation == *installation && matches!(mark.purpose, Purpose::Lockdown { .. })
    })
}

fn is_about_only(rule: &Value, addresses: &BTreeSet<String>) -> bool {
    let one = rule.pointer("/properties/destinationAddressPrefix");
    let many = rule.pointer("/properties/destinationAddressPrefixes");
    let many = many.and_then(Value::as_array).into_iter().flatten();
    let mut all = one
        .into_iter()
        .chain(many)
        .filter(|prefix| !prefix.is_null() && prefix.as_str() != Some(""));
    all.all(|prefix| prefix.as_str().is_some_and(|text| addresses.contains(bare(text))))
}

/// The address of a prefix that is one address: Azure shows some with their length.
fn bare(prefix: &str) -> &str {
    let of = |length: &str| prefix.strip_suffix(length);
    let is_v6 = prefix.contains(':');
    if is_v6 { of("/128") } else { of("/32") }.unwrap_or(prefix)
}

#[cfg(test)]
mod tests;
