//! Which guardrails are known to say nothing, because they said nothing when they were asked the same before.
//!
//! What a guardrail says follows from what it looks at, and most look at little that varies: a machine's tag, a port, an
//! office's address, a duration. Guardrails that look at the same are asked together, and a question to which none of them
//! applied is kept by just these values. Only silence is kept: whatever forbids or fails is asked anew each time.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, PoisonError},
};

use chrono::{Datelike, Timelike};
use ipnet::IpNet;
use postern_core::{
    net::{Ports, Source},
    principal::Principal,
};
use serde_json::Value;

use crate::entities::{Context, NETWORK, Resource};

/// How many questions are kept of guardrails that look at the same.
const KEPT: usize = 16_384;
/// How many are kept of guardrails that are asked together: some 12 MB at most.
const KEPT_TOGETHER: usize = 65_536;
/// How many bytes a question may take to be kept.
const LONGEST: usize = 128;

/// Something of a question that guardrails look at, and that comes again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    Issuer,
    Subject,
    Mfa,
    Kind,
    Cloud,
    Tag(String),
    Port,
    /// And the named networks around it.
    Source,
    Duration,
    ReasonPresent,
    Hour,
    Weekday,
}

/// A question to guardrails, in our words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) resource: &'a Resource,
    pub(crate) context: &'a Context,
    pub(crate) ports: Option<Ports>,
    pub(crate) source: Option<Source>,
}

/// All that the value of an expression of Cedar's JSON policy format follows from; none where it may be more than facts,
/// such as the principal's groups or the time itself.
pub(crate) fn facts<'a>(expressions: impl IntoIterator<Item = &'a Value>) -> Option<BTreeSet<Fact>> {
    let mut facts = BTreeSet::new();
    expressions
        .into_iter()
        .all(|expression| add(expression, &mut facts))
        .then_some(facts)
}

/// Whether all was understood.
fn add(expression: &Value, facts: &mut BTreeSet<Fact>) -> bool {
    match expression {
        Value::Array(several) => several.iter().all(|one| add(one, facts)),
        Value::Object(members) => members.iter().all(|(operator, of)| {
            match (operator.as_str(), of.get("left").and_then(variable)) {
                ("." | "has" | "hasTag" | "getTag", Some(variable)) => {
                    let found = fact(operator, variable, of);
                    let is_known = found.is_some();
                    facts.extend(found);
                    is_known
                }
                // One that is not looked into, such as in `principal in …`.
                ("Var", _) if of.is_string() => false,
                // The one who asks or what is asked about, if it is that one by chance; networks are no more than names.
                ("__entity", _) => of.get("type").is_some_and(|kind| kind == NETWORK),
                _ => add(of, facts),
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn variable(expression: &Value) -> Option<&str> {
    let members = expression.as_object().filter(|members| members.len() == 1)?;
    members.get("Var")?.as_str()
}

fn fact(operator: &str, variable: &str, of: &Value) -> Option<Fact> {
    if matches!(operator, "hasTag" | "getTag") {
        let name = of.get("right")?.get("Value")?.as_str()?;
        return (variable == "resource").then(|| Fact::Tag(name.to_owned()));
    }
    let attribute = of.get("attr")?;
    // `has a.b` has a list.
    let attribute = attribute.as_str().or_else(|| attribute.get(0)?.as_str())?;
    Some(match (variable, attribute) {
        ("principal", "issuer") => Fact::Issuer,
        ("principal", "subject") => Fact::Subject,
        ("principal", "mfa") => Fact::Mfa,
        ("resource", "kind") => Fact::Kind,
        ("resource", "cloud") => Fact::Cloud,
        ("context", "port") => Fact::Port,
        ("context", "source" | "networks") => Fact::Source,
        ("context", "duration_seconds") => Fact::Duration,
        ("context", "reason_present") => Fact::ReasonPresent,
        ("context", "hour") => Fact::Hour,
        ("context", "weekday") => Fact::Weekday,
        _ => return None,
    })
}

impl Question<'_> {
    /// The values of facts, so that no two questions with other values have the same bytes.
    pub(crate) fn key(&self, facts: &BTreeSet<Fact>) -> Vec<u8> {
        let mut key = Vec::with_capacity(LONGEST);
        for fact in facts {
            match fact {
                Fact::Issuer => text(&mut key, Some(&self.principal.issuer)),
                Fact::Subject => text(&mut key, Some(&self.principal.subject)),
                Fact::Mfa => key.push(u8::from(self.principal.mfa)),
                Fact::Kind => text(&mut key, Some(self.resource.kind.as_str())),
                Fact::Cloud => {
                    let cloud = self.resource.scope.segments().first();
                    text(&mut key, cloud.map(AsRef::as_ref));
                }
                Fact::Tag(name) => text(&mut key, self.resource.tags.get(name).map(String::as_str)),
                Fact::Port => {
                    text(&mut key, self.ports.map(|ports| ports.protocol().as_str()));
                    for port in self.ports.iter().flat_map(|ports| [ports.first(), ports.last()]) {
                        key.extend(port.to_le_bytes());
                    }
                }
                Fact::Source => network(&mut key, self.source.map(Source::net)),
                Fact::Duration => {
                    key.push(u8::from(self.context.duration_seconds.is_some()));
                    key.extend(self.context.duration_seconds.unwrap_or_default().to_le_bytes());
                }
                Fact::ReasonPresent => key.push(u8::from(self.context.reason_present)),
                Fact::Hour => key.extend(self.context.now.hour().to_le_bytes()),
                Fact::Weekday => key.extend(self.context.now.weekday().number_from_monday().to_le_bytes()),
            }
        }
        key
    }
}

fn text(key: &mut Vec<u8>, text: Option<&str>) {
    key.push(u8::from(text.is_some()));
    if let Some(text) = text {
        key.extend(text.len().to_le_bytes());
        key.extend(text.as_bytes());
    }
}

fn network(key: &mut Vec<u8>, network: Option<IpNet>) {
    match network {
        None => key.push(0),
        Some(IpNet::V4(net)) => {
            key.extend([4, net.prefix_len()]);
            key.extend(net.addr().octets());
        }
        Some(IpNet::V6(net)) => {
            key.extend([6, net.prefix_len()]);
            key.extend(net.addr().octets());
        }
    }
}

/// The questions to which some guardrails say nothing, of at most [`LONGEST`] bytes each.
#[derive(Debug)]
pub(crate) struct Silent {
    kept: Mutex<HashSet<Box<[u8]>>>,
    at_most: usize,
}

impl Silent {
    /// Of one of so many kinds of guardrails that are asked together.
    pub(crate) fn of(kinds: usize) -> Self {
        Self {
            kept: Mutex::default(),
            at_most: KEPT.min(KEPT_TOGETHER / kinds.max(1)),
        }
    }

    pub(crate) fn knows(&self, key: &[u8]) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.contains(key)
    }

    pub(crate) fn keep(&self, key: Vec<u8>) {
        if key.len() > LONGEST {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.at_most {
            kept.clear();
        }
        kept.insert(key.into_boxed_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(condition: &str) -> Option<BTreeSet<Fact>> {
        let text = format!("forbid (principal, action, resource) when {{ {condition} }};");
        let policy = cedar_policy::Policy::parse(None, text).unwrap();
        facts([policy.to_json().unwrap().get("conditions").unwrap()])
    }

    #[test]
    fn what_an_answer_follows_from_is_found_wherever_it_is_read() {
        let env = Fact::Tag("env".to_owned());
        for (condition, expected) in [
            ("true", &[][..]),
            (
                "!principal.mfa || principal[\"issuer\"] like \"ci*\"",
                &[Fact::Issuer, Fact::Mfa],
            ),
            ("if principal has subject then true else false", &[Fact::Subject]),
            (
                "resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\"",
                &[env],
            ),
            ("context has port.first && context.port.first < 80", &[Fact::Port]),
            ("[context.source].contains(ip(\"192.0.2.1\"))", &[Fact::Source]),
            ("Network::\"office\" in context.networks", &[Fact::Source]),
            (
                "{\"Var\": context.hour}.Var == context.weekday",
                &[Fact::Hour, Fact::Weekday],
            ),
            (
                "context has duration_seconds && context.duration_seconds > 1",
                &[Fact::Duration],
            ),
            (
                "resource.kind == \"grant\" && resource.cloud == \"aws\"",
                &[Fact::Kind, Fact::Cloud],
            ),
        ] {
            assert_eq!(
                of(condition),
                Some(expected.iter().cloned().collect()),
                "{condition}"
            );
        }
    }

    #[test]
    fn what_more_than_facts_is_in_is_not_kept() {
        for condition in [
            "principal in Group::\"corp/sre\"",
            "principal is User",
            "principal == User::\"corp/ada\"",
            "principal.authenticated_at < datetime(\"2026-01-01\")",
            "principal.hasTag(\"ref\")",
            "resource in Scope::\"/aws\"",
            "resource.path like \"/aws/*\"",
            "resource.hasTag(principal.subject)",
            "[action].contains(Action::\"read\")",
            "context.now > datetime(\"2026-01-01\")",
            "context == {\"hour\": 1}",
            "principal.mfa && {\"who\": principal}.who in Group::\"corp/sre\"",
            "User::\"corp/ada\".mfa",
            "User::\"corp/ada\" has mfa && !User::\"corp/ada\".mfa",
            "principal.subject == \"ada\" && User::\"corp/ada\" in Group::\"corp/suspended\"",
            "User::\"corp/ada\" is User in Group::\"corp/sre\"",
            "Scope::\"/aws\".hasTag(\"env\")",
            "[Workload::\"ci/build\"].contains(Workload::\"ci/build\")",
            "{\"__entity\": 1} == {\"a\": 1}",
            "(if true then principal else principal).mfa",
        ] {
            assert_eq!(of(condition), None, "{condition}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        assert_eq!(Silent::of(32).at_most, 2048);
        let silent = Silent::of(1);
        silent.keep(vec![0; LONGEST + 1]);
        assert!(!silent.knows(&[0; LONGEST + 1]));
        for number in 0..=KEPT {
            silent.keep(number.to_le_bytes().to_vec());
        }
        assert!(silent.knows(&KEPT.to_le_bytes()) && !silent.knows(&0_usize.to_le_bytes()));
    }
}
