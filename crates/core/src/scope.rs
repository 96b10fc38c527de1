//! Scopes: prefixes of a machine's path, the places where policies and role assignments stand.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::machine::{self, Cloud};

/// A prefix of a machine's path: `/`, `/azure/<subscription>/<resource group>/<vm>` or
/// `/aws/<account>/<region>/<instance>`, at any depth. Lower case throughout.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope {
    segments: Vec<String>,
}

impl Scope {
    /// The most segments that a scope has.
    pub const MAX_DEPTH: usize = 4;

    /// `/`: every machine of every cloud.
    pub const fn root() -> Self {
        Self { segments: Vec::new() }
    }

    /// From segments that are known to be valid, as a machine id has them.
    pub(crate) fn from_segments<const N: usize>(segments: [&str; N]) -> Self {
        Self {
            segments: segments.iter().map(|segment| (*segment).to_owned()).collect(),
        }
    }

    /// The segments from the root down.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// How many segments the scope has, 0 (the root) to 4 (one machine).
    pub fn depth(&self) -> usize {
        self.segments.len()
    }

    /// Whether `other` is this scope or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        other.segments.starts_with(&self.segments)
    }

    /// This scope and all above it, the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        (0..=self.segments.len()).rev().map(|depth| Self {
            segments: self.segments.iter().take(depth).cloned().collect(),
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return f.write_str("/");
        }
        self.segments
            .iter()
            .try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// It does not begin with a slash, or ends with one.
    #[error("a scope begins with `/` and does not end with one")]
    Shape,
    /// The first segment is not a cloud.
    #[error("the first segment of a scope is `azure` or `aws`, not `{0}`")]
    UnknownCloud(String),
    /// More than four segments.
    #[error("a scope has at most 4 segments")]
    TooDeep,
    /// A segment that no resource of that cloud can have as a name.
    #[error("`{segment}` is not {expected}")]
    Segment {
        /// The segment as given, shortened.
        segment: String,
        /// What it should have been.
        expected: &'static str,
    },
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        if text == "/" {
            return Ok(Self::root());
        }
        let path = text
            .strip_prefix('/')
            .filter(|path| !path.ends_with('/'))
            .ok_or(InvalidScope::Shape)?;
        let path = path.to_lowercase();
        let mut segments = Vec::with_capacity(Self::MAX_DEPTH);
        let mut cloud = Cloud::Azure;
        for (depth, segment) in path.split('/').enumerate() {
            let shown = || segment.chars().take(100).collect::<String>();
            let (valid, expected) = match (depth, cloud) {
                (0, _) => {
                    cloud = segment.parse().map_err(|_| InvalidScope::UnknownCloud(shown()))?;
                    (true, "")
                }
                (1, Cloud::Azure) => (machine::is_subscription(segment), "a subscription id (a UUID)"),
                (1, Cloud::Aws) => (machine::is_account(segment), "an AWS account id (12 digits)"),
                (2, Cloud::Azure) => (machine::is_resource_group(segment), "a resource group name"),
                (2, Cloud::Aws) => (machine::is_region(segment), "an AWS region"),
                (3, Cloud::Azure) => (machine::is_azure_name(segment), "a virtual machine name"),
                (3, Cloud::Aws) => (machine::is_instance(segment), "an EC2 instance id"),
                _ => return Err(InvalidScope::TooDeep),
            };
            if !valid {
                return Err(InvalidScope::Segment {
                    segment: shown(),
                    expected,
                });
            }
            segments.push(segment.to_owned());
        }
        Ok(Self { segments })
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIPTION: &str = "/azure/00000000-0000-0000-0000-000000000001";

    #[test]
    fn a_scope_contains_itself_and_what_lies_below() {
        let root = Scope::root();
        let subscription: Scope = SUBSCRIPTION.parse().unwrap();
        let group: Scope = format!("{SUBSCRIPTION}/Prod").parse().unwrap();
        let sibling: Scope = format!("{SUBSCRIPTION}/prod2").parse().unwrap();
        assert!(root.contains(&subscription) && subscription.contains(&group) && group.contains(&group));
        assert!(!group.contains(&subscription));
        assert!(
            !group.contains(&sibling),
            "a prefix of the text is not a prefix of the path"
        );
        assert_eq!(group.to_string(), format!("{SUBSCRIPTION}/prod"));
        assert_eq!(group.ancestors().count(), 4);
    }

    #[test]
    fn path_tricks_are_refused() {
        for text in [
            "",
            "azure",
            "//",
            "/azure/",
            "/gcp",
            "/azure//x",
            "/azure/../aws",
            "/aws/123456789012/..",
            "/aws/12345678901",
            "/aws/123456789012/eu-west-1/i-1",
            "/aws/123456789012/eu-west-1/i-0123456789abcdef0/x",
            "/azure/%2e%2e",
            "/azure/00000000-0000-0000-0000-000000000001/..",
            "/azure/00000000-0000-0000-0000-000000000001/a%2fb",
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
