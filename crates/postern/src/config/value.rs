//! Single values: texts that parse, and what a variable of the environment sets.

use std::{fmt::Display, str::FromStr};

use figment::providers::Serialized;
use serde::{Deserialize, Deserializer, de::Error};

/// A text that parses to `T`, or nothing.
pub(super) fn parsed_option<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    Option::<String>::deserialize(deserializer)?
        .map(|text| {
            text.parse()
                .map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
        })
        .transpose()
}

/// What a variable sets: its value is read as TOML would read it, and as a text where it is not TOML.
pub(super) fn overriding(key: &str, value: &str) -> Serialized<figment::value::Value> {
    // Infallible: what does not look like a number, a boolean, an array or a table is a text.
    let value = value
        .parse()
        .unwrap_or_else(|_: std::convert::Infallible| figment::value::Value::from(value));
    Serialized::default(key, value)
}
