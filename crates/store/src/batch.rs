//! Rows on their way in: as one JSON parameter, which `jsonb_to_recordset` takes apart again.
//!
//! That carries columns that are arrays themselves, which `unnest` cannot. Postgres keeps no NUL characters, in
//! text or in JSON; names and tags come from clouds and reasons from people, so NULs are replaced on the way.

use serde::Serialize;
use serde_json::Value;

use crate::StoreError;

/// `value` as JSON that Postgres accepts.
pub(crate) fn document<T: Serialize + ?Sized>(value: &T) -> Result<Value, StoreError> {
    let mut value = serde_json::to_value(value).map_err(StoreError::Encode)?;
    replace_nul(&mut value);
    Ok(value)
}

/// `text` as Postgres accepts it.
pub(crate) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn replace_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => {
            if fields.keys().any(|key| key.contains('\0')) {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(key, value)| (clean(&key), value))
                    .collect();
            }
            fields.values_mut().for_each(replace_nul);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_characters_are_replaced_everywhere() {
        let spoiled = json!({ "a\0": ["b\0c", { "d": "\0" }], "e": 1 });
        assert_eq!(
            document(&spoiled).unwrap(),
            json!({ "a\u{fffd}": ["b\u{fffd}c", { "d": "\u{fffd}" }], "e": 1 })
        );
    }
}
