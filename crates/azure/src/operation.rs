//! One write to an NSG, as the journal keeps it and [`crate::AzureEnforcer`] carries it out.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A write. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Operation {
    /// Creates or replaces one rule of ours.
    PutRule {
        /// Its name.
        name: String,
        /// Its properties, as ARM takes them.
        properties: Map<String, Value>,
    },
    /// Deletes one rule of ours.
    DeleteRule {
        /// Its name.
        name: String,
    },
    /// Writes the whole NSG as read, except for rules of ours. The etag that it must still have stands in the
    /// change's `before`, so that the same intention is the same operation.
    PutNsg {
        /// The names of rules that go.
        remove: Vec<String>,
        /// The rules that come, or come in place of those of their names.
        put: Vec<NamedRule>,
    },
}

/// A rule in a [`Operation::PutNsg`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedRule {
    /// Its name.
    pub name: String,
    /// Its properties, as ARM takes them.
    pub properties: Map<String, Value>,
}

impl Operation {
    /// The names of the rules that go, and the rules that come.
    pub(crate) fn parts(&self) -> (&[String], Cow<'_, [NamedRule]>) {
        match self {
            Self::PutNsg { remove, put } => (remove, Cow::Borrowed(put)),
            Self::DeleteRule { name } => (std::slice::from_ref(name), Cow::Borrowed(&[])),
            Self::PutRule { name, properties } => {
                let rule = NamedRule {
                    name: name.clone(),
                    properties: properties.clone(),
                };
                (&[], Cow::Owned(vec![rule]))
            }
        }
    }

    /// What the NSG document, as read, becomes. Every member that is not a rule of ours stays as it is, also such
    /// as this version knows nothing of. None when the document is no NSG.
    pub fn edit(&self, mut nsg: Value) -> Option<Value> {
        let properties = nsg.get_mut("properties")?.as_object_mut()?;
        let rules = properties
            .entry("securityRules")
            .or_insert_with(|| json!([]))
            .as_array_mut()?;
        let (remove, put) = self.parts();
        rules.retain(|rule| !remove.iter().any(|name| is_named(rule, name)));
        for new in put.iter() {
            let body = json!({ "name": new.name, "properties": new.properties });
            match rules.iter_mut().find(|rule| is_named(rule, &new.name)) {
                Some(rule) => *rule = body,
                None => rules.push(body),
            }
        }
        Some(nsg)
    }
}

/// Whether a rule's document has the name; names do not care for case.
fn is_named(rule: &Value, name: &str) -> bool {
    rule.get("name")
        .and_then(Value::as_str)
        .is_some_and(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_write_keeps_what_it_does_not_know() {
        let before = json!({
            "etag": "W/\"1\"", "sku": { "tier": "new" },
            "properties": {
                "flushConnection": true,
                "securityRules": [
                    { "name": "Theirs", "properties": { "priority": 200, "novelty": [1.5, null] } },
                    { "name": "ours-old", "properties": { "priority": 300 } },
                    { "name": "ours-edited", "properties": { "priority": 301 } },
                ],
                "defaultSecurityRules": [],
            },
        });
        let new = |name: &str, priority: u16| NamedRule {
            name: name.to_owned(),
            properties: json!({ "priority": priority }).as_object().unwrap().clone(),
        };
        let operation = Operation::PutNsg {
            remove: vec!["OURS-OLD".to_owned()],
            put: vec![new("ours-edited", 299), new("ours-new", 298)],
        };
        let after = operation.edit(before.clone()).unwrap();
        let mut expected = before;
        expected["properties"]["securityRules"] = json!([
            { "name": "Theirs", "properties": { "priority": 200, "novelty": [1.5, null] } },
            { "name": "ours-edited", "properties": { "priority": 299 } },
            { "name": "ours-new", "properties": { "priority": 298 } },
        ]);
        assert_eq!(after, expected);
        assert_eq!(operation.edit(after.clone()), Some(after));
    }
}
