//! As much of IAM's evaluation as Postern's policies use, to hold them against what was really done.
//!
//! Source: IAM User Guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition".

use std::collections::BTreeMap;

use serde_json::Value;

/// A call on one resource, as IAM sees it.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    /// Such as `ec2:CreateTags`.
    pub(crate) action: &'a str,
    /// The ARN, or `*`.
    pub(crate) resource: &'a str,
    /// Condition keys with their values.
    pub(crate) context: BTreeMap<String, String>,
}

/// Whether a statement of the policy allows it.
pub(crate) fn allows(policy: &Value, question: &Question<'_>) -> bool {
    policy["Statement"].as_array().unwrap().iter().any(|statement| {
        assert_eq!(statement["Effect"], "Allow", "{statement}");
        texts(&statement["Action"])
            .iter()
            .any(|action| action == question.action)
            && texts(&statement["Resource"])
                .iter()
                .any(|pattern| like(pattern, question.resource))
            && holds(&statement["Condition"], question)
    })
}

fn holds(condition: &Value, question: &Question<'_>) -> bool {
    condition.as_object().is_none_or(|operators| {
        operators.iter().all(|(operator, keys)| {
            keys.as_object().unwrap().iter().all(|(key, wanted)| {
                assert!(matches!(operator.as_str(), "StringEquals" | "StringLike"));
                let given = question.context.get(key);
                // Of several values one has to fit.
                texts(wanted).iter().any(|wanted| {
                    given.is_some_and(|value| {
                        value == wanted || operator == "StringLike" && like(wanted, value)
                    })
                })
            })
        })
    })
}

/// One text or many.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    let one = std::slice::from_ref(value);
    let items = value.as_array().map_or(one, Vec::as_slice);
    items
        .iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// `*` stands for any run of characters.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|left| {
            (0..=left.len()).any(|at| left.get(at..).is_some_and(|tail| like(rest, tail)))
        }),
    }
}

#[test]
fn a_star_stands_for_any_run() {
    assert!(like("a:*:b/*", "a::b/c"));
    assert!(like("*", ""));
    assert!(!like("a:*:b/*", "a:x:c/d"));
}
