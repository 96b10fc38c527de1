//! Named networks: ranges of addresses that guardrails call by a name.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::net::Source;

/// The most ranges of all networks together: every decision about a source looks at each.
const MAX_RANGES: usize = 1000;

/// Why networks are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetworks {
    /// A name that guardrails could not use well.
    #[error("`{0}` is no name for a network: expected 1 to 64 letters, digits, hyphens and underscores")]
    Name(String),
    /// A network that contains nothing: whatever is allowed from it is allowed from nowhere.
    #[error("network `{0}` has no range")]
    Empty(String),
    /// More than can be looked at in every decision.
    #[error("the networks have {0} ranges, more than the 1000 that fit")]
    TooMany(usize),
}

/// Ranges of addresses by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(BTreeMap<String, Vec<Source>>);

impl Networks {
    /// Networks by their names, each of one or more ranges, a thousand ranges at most in all.
    pub fn new(networks: BTreeMap<String, Vec<Source>>) -> Result<Self, InvalidNetworks> {
        for (name, ranges) in &networks {
            let name_fits = (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !name_fits {
                return Err(InvalidNetworks::Name(name.chars().take(80).collect()));
            }
            if ranges.is_empty() {
                return Err(InvalidNetworks::Empty(name.clone()));
            }
        }
        let ranges = networks.values().map(Vec::len).sum();
        if ranges > MAX_RANGES {
            return Err(InvalidNetworks::TooMany(ranges));
        }
        Ok(Self(networks))
    }

    /// Whether there is a network of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Every network and its ranges, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Source])> {
        self.0
            .iter()
            .map(|(name, ranges)| (name.as_str(), ranges.as_slice()))
    }

    /// The networks one of whose ranges contains all of `source`. Two ranges that only together contain it do not.
    pub(crate) fn around(&self, source: Source) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(move |(_, ranges)| ranges.iter().any(|range| range.contains(source)))
            .map(|(name, _)| name)
    }

    /// The names of those that are only in one of the two, or have other ranges there.
    pub(crate) fn difference(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(of: &[(&str, &[&str])]) -> Result<Networks, InvalidNetworks> {
        Networks::new(
            of.iter()
                .map(|(name, ranges)| {
                    let ranges = ranges.iter().map(|range| range.parse().unwrap());
                    ((*name).to_owned(), ranges.collect())
                })
                .collect(),
        )
    }

    #[test]
    fn a_source_is_in_a_network_that_contains_all_of_it() {
        let networks = networks(&[
            ("all", &["0.0.0.0/0", "::/0"]),
            ("halves", &["203.0.113.0/25", "203.0.113.128/25"]),
            ("office", &["203.0.113.0/24", "2001:db8::/48"]),
        ])
        .unwrap();
        for (source, expected) in [
            ("203.0.113.7", vec!["all", "halves", "office"]),
            ("203.0.113.0/24", vec!["all", "office"]),
            ("203.0.112.0/23", vec!["all"]),
            ("2001:db8::1", vec!["all", "office"]),
            ("2001:db8::/32", vec!["all"]),
        ] {
            let found: Vec<&str> = networks.around(source.parse().unwrap()).collect();
            assert_eq!(found, expected, "{source}");
        }
    }

    #[test]
    fn names_and_numbers_of_ranges_are_bounded() {
        assert!(matches!(
            networks(&[("the office", &["10.0.0.0/8"])]),
            Err(InvalidNetworks::Name(_))
        ));
        assert!(matches!(
            networks(&[("office", &[])]),
            Err(InvalidNetworks::Empty(_))
        ));
        let many: Vec<Source> = vec!["10.0.0.0/8".parse().unwrap(); MAX_RANGES + 1];
        assert_eq!(
            Networks::new(BTreeMap::from([("many".to_owned(), many)])),
            Err(InvalidNetworks::TooMany(MAX_RANGES + 1))
        );
    }
}
