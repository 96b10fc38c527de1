//! Request bodies, taken apart.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::id::check_name;
use super::refusal::ArmError;

/// A body, taken apart.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) location: Option<String>,
    pub(super) tags: Option<Value>,
    pub(super) top: Map<String, Value>,
    pub(super) properties: Map<String, Value>,
}

/// A part of a resource: its name and properties.
pub(super) type Part = (String, Map<String, Value>);

pub(super) fn unreadable(reason: impl std::fmt::Display) -> ArmError {
    let text = format!("The request content was invalid and could not be deserialized: '{reason}'.");
    ArmError::new(400, "InvalidRequestContent", text)
}

/// `West Europe` and `westeurope` are the same place.
pub(super) fn location(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_ascii_lowercase()
}

impl Body {
    /// Reads a body. Read-only members at the top are left out, `properties` is an object.
    pub(super) fn read(body: &[u8]) -> Result<Self, ArmError> {
        let value: Value = serde_json::from_slice(body).map_err(unreadable)?;
        Self::from_value(value)
    }

    pub(super) fn from_value(value: Value) -> Result<Self, ArmError> {
        let Value::Object(mut top) = value else {
            return Err(unreadable("the body is not an object"));
        };
        for read_only in ["id", "name", "type", "etag"] {
            top.remove(read_only);
        }
        let properties = match top.remove("properties") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(properties)) => properties,
            Some(_) => return Err(unreadable("`properties` is not an object")),
        };
        let place = match top.remove("location") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(location(&text)),
            Some(_) => return Err(unreadable("`location` is not a text")),
        };
        let tags = match top.remove("tags") {
            None | Some(Value::Null) => None,
            Some(Value::Object(tags)) if tags.values().all(Value::is_string) => Some(Value::Object(tags)),
            Some(_) => return Err(unreadable("`tags` is not an object of texts")),
        };
        Ok(Self {
            location: place,
            tags,
            top,
            properties,
        })
    }
}

pub(super) fn bad_request(text: String) -> ArmError {
    ArmError::network(400, "InvalidRequestFormat", "Cannot parse the request.")
        .with_detail("InvalidJson", text)
}

/// The named parts of a list member: `[{"name", "properties"}]`.
pub(super) fn parts(
    properties: &mut Map<String, Value>,
    member: &str,
) -> Result<Option<Vec<Part>>, ArmError> {
    let list = match properties.remove(member) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(bad_request(format!("`{member}` is not a list."))),
    };
    let mut parts: Vec<Part> = Vec::with_capacity(list.len());
    let mut names = BTreeSet::new();
    for item in list {
        let name = item
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        check_name(&name)?;
        if !names.insert(name.to_ascii_lowercase()) {
            let text = format!("Resource name {name} is used more than once in `{member}`.");
            return Err(ArmError::network(400, "DuplicateResourceName", text));
        }
        let mut properties = item
            .get("properties")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        properties.remove("provisioningState");
        properties.retain(|_, value| !value.is_null());
        parts.push((name, properties));
    }
    Ok(Some(parts))
}
