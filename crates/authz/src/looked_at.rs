//! What guardrails look at: only that is made for Cedar, because making it costs as much as asking.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The attributes and tags that some expressions may read, and the entities that they name, rather too many than too few.
#[derive(Debug, Clone, Default)]
pub(crate) struct LookedAt {
    everything: bool,
    attributes: BTreeSet<String>,
    tags: bool,
    /// Ids by entity type.
    entities: BTreeMap<String, BTreeSet<String>>,
}

impl LookedAt {
    /// All there is.
    #[cfg(test)]
    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// Adds all there is.
    pub(crate) const fn add_everything(&mut self) {
        self.everything = true;
    }

    /// Adds what another looks at.
    pub(crate) fn add_all(&mut self, other: &Self) {
        self.everything |= other.everything;
        self.tags |= other.tags;
        self.attributes.extend(other.attributes.iter().cloned());
        for (kind, ids) in &other.entities {
            self.entities
                .entry(kind.clone())
                .or_default()
                .extend(ids.iter().cloned());
        }
    }

    /// Adds what an expression of Cedar's JSON policy format looks at. An attribute counts whatever it is read from.
    pub(crate) fn add(&mut self, expression: &Value) {
        match expression {
            Value::Array(several) => several.iter().for_each(|one| self.add(one)),
            Value::Object(members) => members.iter().for_each(|(key, of)| self.add_member(key, of)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn add_member(&mut self, key: &str, of: &Value) {
        match key {
            "." | "has" => {
                match of.get("attr") {
                    Some(Value::String(name)) => {
                        self.attributes.insert(name.clone());
                    }
                    // `has a.b`.
                    Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                        let names = names.iter().filter_map(Value::as_str);
                        self.attributes.extend(names.map(str::to_owned));
                    }
                    _ => self.everything = true,
                }
                match of.get("left") {
                    Some(left) if is_context(left) => {}
                    Some(left) => self.add(left),
                    None => self.everything = true,
                }
            }
            // The context as a whole, such as `context == {…}`.
            "Var" if of == "context" => self.everything = true,
            "hasTag" | "getTag" => {
                self.tags = true;
                self.add(of);
            }
            "__entity" => {
                let text = |name: &str| of.get(name)?.as_str();
                match (text("type"), text("id")) {
                    (Some(kind), Some(id)) => {
                        let ids = self.entities.entry(kind.to_owned()).or_default();
                        ids.insert(id.to_owned());
                    }
                    _ => self.everything = true,
                }
            }
            _ => self.add(of),
        }
    }

    /// Whether the attribute of this name may be read.
    pub(crate) fn attribute(&self, name: &str) -> bool {
        self.everything || self.attributes.contains(name)
    }

    /// Whether the entity may be named. No attribute is an entity but the networks, so that what is not named is in no
    /// question about the hierarchy (`in`) besides the principal, the action and the resource themselves.
    pub(crate) fn entity(&self, kind: &str, id: &str) -> bool {
        self.everything || self.entities.get(kind).is_some_and(|ids| ids.contains(id))
    }

    /// Whether tags may be read.
    pub(crate) const fn tags(&self) -> bool {
        self.everything || self.tags
    }
}

fn is_context(expression: &Value) -> bool {
    expression
        .as_object()
        .is_some_and(|members| members.len() == 1 && members.get("Var").is_some_and(|name| name == "context"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_at(condition: &str) -> LookedAt {
        let text = format!("forbid (principal, action, resource) when {{ {condition} }};");
        let policy = cedar_policy::Policy::parse(None, text).unwrap();
        let mut found = LookedAt::default();
        found.add(policy.to_json().unwrap().get("conditions").unwrap());
        found
    }

    #[test]
    fn attributes_are_found_wherever_they_are_read() {
        for condition in [
            "principal.mfa",
            "!(principal has mfa)",
            "if {\"Var\": principal.mfa}.Var then true else false",
            "[1, 2].contains(3) || ip(\"192.0.2.1\").isInRange(ip(\"192.0.2.0/24\")) && !principal[\"mfa\"]",
            "context has mfa.first",
        ] {
            let found = looked_at(condition);
            assert!(found.attribute("mfa"), "{condition}: {found:?}");
            assert!(!found.attribute("now") && !found.tags(), "{condition}: {found:?}");
        }
    }

    #[test]
    fn tags_are_found() {
        assert!(looked_at("resource.hasTag(\"env\")").tags());
        assert!(looked_at("1 == 1 && resource.getTag(\"env\") like \"*x\"").tags());
        assert!(!looked_at("resource.hasTag(\"env\")").attribute("kind"));
    }

    #[test]
    fn entities_are_found_wherever_they_are_named() {
        for condition in [
            "principal in Group::\"corp/sre\"",
            "principal in [Group::\"corp/dev\", Group::\"corp/sre\"]",
            "principal is User in Group::\"corp/sre\"",
            "{\"who\": [Group::\"corp/sre\"]}.who.contains(principal)",
            "if principal.mfa then true else !(principal in Group::\"corp/sre\")",
        ] {
            let found = looked_at(condition);
            assert!(found.entity("Group", "corp/sre"), "{condition}: {found:?}");
            assert!(!found.entity("Group", "corp/ops"), "{condition}: {found:?}");
            assert!(!found.entity("Scope", "corp/sre"), "{condition}: {found:?}");
        }
        // A record may call an attribute so.
        assert!(looked_at("{\"__entity\": 1} == {\"a\": 1}").entity("Group", "corp/ops"));
    }

    #[test]
    fn the_context_as_a_whole_is_everything() {
        assert!(looked_at("context == {\"hour\": 1}").attribute("now"));
        assert!(looked_at("[context].contains(context)").tags());
        assert!(!looked_at("context.hour == 1").attribute("now"));
    }
}
