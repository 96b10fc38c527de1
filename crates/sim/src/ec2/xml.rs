//! Writes the XML of answers: leaves, structures and `<item>` lists, escaped.

use std::fmt::{Display, Write};

use chrono::{DateTime, Utc};
use quick_xml::escape::escape;

/// An XML fragment under construction.
#[derive(Debug, Default)]
pub(crate) struct Xml(String);

impl Xml {
    /// A fragment written by `fill`.
    pub(crate) fn of(fill: impl FnOnce(&mut Self)) -> String {
        let mut xml = Self::default();
        fill(&mut xml);
        xml.0
    }

    /// `<name>value</name>`.
    pub(crate) fn leaf(&mut self, name: &str, value: impl Display) {
        let value = value.to_string();
        self.markup(format_args!("<{name}>{}</{name}>", escape(value.as_str())));
    }

    /// A leaf where there is a value, nothing where there is none.
    pub(crate) fn opt(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.leaf(name, value);
        }
    }

    /// A timestamp in the form that EC2 sends, to the millisecond.
    pub(crate) fn time(&mut self, name: &str, at: DateTime<Utc>) {
        self.leaf(name, timestamp(at));
    }

    /// `<name>...</name>` around what `fill` writes.
    pub(crate) fn within(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.markup(format_args!("<{name}>"));
        fill(self);
        self.markup(format_args!("</{name}>"));
    }

    /// `<name><item>...</item>...</name>`, written also where it is empty, as EC2 does.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Self, T),
    ) {
        self.within(name, |xml| {
            for item in items {
                xml.within("item", |xml| fill(xml, item));
            }
        });
    }

    /// A fragment that is XML already.
    pub(crate) fn raw(&mut self, fragment: &str) {
        self.0.push_str(fragment);
    }

    fn markup(&mut self, text: std::fmt::Arguments<'_>) {
        // INVARIANT: writing to a String does not fail.
        let _written = self.0.write_fmt(text);
    }
}

/// ISO 8601, UTC, milliseconds.
pub(crate) fn timestamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
