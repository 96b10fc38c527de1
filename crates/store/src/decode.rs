//! From columns to domain types; what cannot be read is named.

use std::{error::Error, str::FromStr};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::StoreError;

fn corrupt<E: Error + Send + Sync + 'static>(
    table: &'static str,
    column: &'static str,
) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Corrupt {
        table,
        column,
        source: Box::new(error),
    }
}

/// A JSON document.
pub(crate) fn json<T: DeserializeOwned>(
    table: &'static str,
    column: &'static str,
    value: Value,
) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(corrupt(table, column))
}

/// A word of an enum, as serde has it.
pub(crate) fn word<T: DeserializeOwned>(
    table: &'static str,
    column: &'static str,
    word: String,
) -> Result<T, StoreError> {
    json(table, column, Value::String(word))
}

/// A text form.
pub(crate) fn text<T>(table: &'static str, column: &'static str, text: &str) -> Result<T, StoreError>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    text.parse().map_err(corrupt(table, column))
}

/// Something that the row's constraints promise.
pub(crate) fn present<T>(
    table: &'static str,
    column: &'static str,
    value: Option<T>,
) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Corrupt {
        table,
        column,
        source: "it is empty".into(),
    })
}

/// A conversion that the row's constraints promise.
pub(crate) fn convert<T, U>(table: &'static str, column: &'static str, value: T) -> Result<U, StoreError>
where
    U: TryFrom<T>,
    U::Error: Error + Send + Sync + 'static,
{
    value.try_into().map_err(corrupt(table, column))
}
