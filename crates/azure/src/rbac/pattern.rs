//! Actions as Azure RBAC writes them, `Microsoft.Compute/virtualMachines/read`, with `*` for any run of characters.
//!
//! Source: "Understand Azure role definitions" (Azure RBAC documentation), "Actions format" and "Actions": `*` stands
//! for everything that matches, across slashes too: `Microsoft.Compute/virtualMachines/*` reaches child resource
//! types, and `*/read` every type of every provider. Case does not count: the documentation writes
//! `microsoft.web/sites/restart/Action`.

use std::fmt;

/// The longest action. Azure's own have about two hundred bytes.
const MAX_LENGTH: usize = 512;

/// A set of actions: those that match. One without `*` is the set of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// As it was written, for people.
    text: String,
    /// In lower case.
    lower: String,
}

/// A text that names no actions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no action such as `Microsoft.Compute/virtualMachines/read`")]
pub struct InvalidAction(String);

impl Pattern {
    /// As a cloud's document has it: whatever it says.
    pub fn of(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            lower: text.to_lowercase(),
        }
    }

    /// As people write it, checked.
    ///
    /// # Errors
    /// [`InvalidAction`] where it is neither `*` nor has a slash, or has other characters than letters, digits and
    /// `. / _ - *`.
    pub fn parse(text: &str) -> Result<Self, InvalidAction> {
        let sound = text.len() <= MAX_LENGTH
            && (text == "*" || text.contains('/'))
            && !text.starts_with('/')
            && !text.ends_with('/')
            && !text.contains("//")
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"./_-*".contains(&byte));
        if sound {
            Ok(Self::of(text))
        } else {
            Err(InvalidAction(text.chars().take(200).collect()))
        }
    }

    /// Whether every action of `other` is one of ours.
    ///
    /// A `*` of the other can only be taken in by one of ours: it stands for anything, also for what none of our
    /// letters matches. So the other is matched as if its `*` were a letter that we do not have.
    pub fn includes(&self, other: &Self) -> bool {
        let mut parts = self.lower.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = other.lower.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                return false;
            };
            rest = after;
        }
        rest.ends_with(last)
    }

    /// Whether some action is one of both.
    ///
    /// Two with a `*` each have one in common as soon as their beginnings and their ends agree: what stands between
    /// the first and the last `*` of the one can be taken in by any `*` of the other.
    pub fn meets(&self, other: &Self) -> bool {
        let ends = |text: &str| {
            let first = text.split('*').next().unwrap_or_default().to_owned();
            let last = text.rsplit('*').next().unwrap_or_default().to_owned();
            (first, last)
        };
        match (self.lower.contains('*'), other.lower.contains('*')) {
            (_, false) => self.includes(other),
            (false, true) => other.includes(self),
            (true, true) => {
                let ((first, last), (their_first, their_last)) = (ends(&self.lower), ends(&other.lower));
                (first.starts_with(&their_first) || their_first.starts_with(&first))
                    && (last.ends_with(&their_last) || their_last.ends_with(&last))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn includes(one: &str, other: &str) -> bool {
        Pattern::of(one).includes(&Pattern::of(other))
    }

    fn meets(one: &str, other: &str) -> bool {
        Pattern::of(one).meets(&Pattern::of(other))
    }

    /// Whether `text` matches, tried in every way.
    pub(in super::super) fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            [letter, rest @ ..] => text
                .split_first()
                .is_some_and(|(first, after)| first == letter && naive(rest, after)),
        }
    }

    /// Whether the two have a text in common, letter by letter.
    fn naive_meets(one: &[u8], other: &[u8]) -> bool {
        match (one, other) {
            ([], []) => true,
            ([b'*', rest @ ..], _) if naive_meets(rest, other) => true,
            ([b'*', ..], [_, theirs @ ..]) if naive_meets(one, theirs) => true,
            (_, [b'*', theirs @ ..]) if naive_meets(one, theirs) => true,
            ([_, rest @ ..], [b'*', ..]) if naive_meets(rest, other) => true,
            ([b'*', ..] | [], _) | (_, [b'*', ..] | []) => false,
            ([a, rest @ ..], [b, theirs @ ..]) => a == b && naive_meets(rest, theirs),
        }
    }

    #[test]
    fn a_wildcard_crosses_slashes_and_case_does_not_count() {
        for (pattern, action) in [
            ("*", "Microsoft.Compute/virtualMachines/read"),
            ("*/read", "Microsoft.Network/networkInterfaces/read"),
            (
                "*/READ",
                "microsoft.network/networkinterfaces/ipConfigurations/Read",
            ),
            (
                "Microsoft.Compute/*",
                "Microsoft.Compute/virtualMachines/start/action",
            ),
            (
                "Microsoft.Network/*/read",
                "Microsoft.Network/virtualNetworks/subnets/read",
            ),
            (
                "Microsoft.CostManagement/*/query/*",
                "Microsoft.CostManagement/dimensions/query/action",
            ),
            (
                "microsoft.web/sites/restart/Action",
                "Microsoft.Web/sites/restart/action",
            ),
        ] {
            assert!(includes(pattern, action), "{pattern} {action}");
        }
        for (pattern, action) in [
            ("*/read", "Microsoft.Compute/virtualMachines/write"),
            ("Microsoft.Compute/*", "Microsoft.ComputeX/virtualMachines/read"),
            (
                "Microsoft.Compute/virtualMachines",
                "Microsoft.Compute/virtualMachines/read",
            ),
            ("Microsoft.Network/*/read", "Microsoft.Network/read"),
            ("", "Microsoft.Compute/virtualMachines/read"),
        ] {
            assert!(!includes(pattern, action), "{pattern} {action}");
        }
    }

    #[test]
    fn a_wildcard_that_is_demanded_is_held_only_by_a_wider_one() {
        let demanded = "Microsoft.Network/networkInterfaces/*/read";
        for held in [
            "*",
            "*/read",
            "Microsoft.Network/*",
            "Microsoft.Network/networkInterfaces/*",
            demanded,
        ] {
            assert!(includes(held, demanded), "{held}");
        }
        for held in [
            "Microsoft.Network/networkInterfaces/read",
            "Microsoft.Network/networkInterfaces/ipConfigurations/read",
            "Microsoft.Network/networkInterfaces/ip*/read",
        ] {
            assert!(!includes(held, demanded), "{held}");
        }
    }

    #[test]
    fn what_people_write_is_an_action_or_refused() {
        for text in [
            "*",
            "*/read",
            "Microsoft.Compute/virtualMachines/read",
            "a/b-c_d.*/e",
        ] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "read",
            "/read",
            "a/",
            "a//b",
            "a b/c",
            "a/b?",
            "ä/b",
            &"a/".repeat(300),
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn one_action_matches_as_the_naive_model_says(pattern in "[ab/*]{0,8}", text in "[ab/]{0,8}") {
            prop_assert_eq!(includes(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }

        /// The naive model of inclusion: put anything in the place of each `*`, among them a letter that is in no
        /// pattern.
        #[test]
        fn what_includes_another_matches_all_of_it(
            one in "[ab*]{0,6}",
            other in "[ab*]{0,6}",
            fillings in prop::collection::vec("[abz]{0,3}", 6),
        ) {
            let mut fillings = fillings.into_iter();
            let example: String = other
                .chars()
                .map(|c| if c == '*' { fillings.next().unwrap_or_default() } else { c.to_string() })
                .collect();
            if includes(&one, &other) {
                prop_assert!(naive(one.as_bytes(), example.as_bytes()), "{example}");
            } else {
                let witness = other.replace('*', "z");
                prop_assert!(!naive(one.as_bytes(), witness.as_bytes()), "{witness}");
            }
        }

        #[test]
        fn two_meet_as_the_naive_model_says(one in "[ab/*]{0,7}", other in "[ab/*]{0,7}") {
            prop_assert_eq!(meets(&one, &other), naive_meets(one.as_bytes(), other.as_bytes()));
            prop_assert_eq!(meets(&one, &other), meets(&other, &one));
        }
    }
}
