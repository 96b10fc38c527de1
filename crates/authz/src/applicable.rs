//! The guardrails that can apply to an action, and one policy that asks them all at once.
//!
//! Cedar takes some two microseconds for each policy of a set, and puts the policy's condition together anew each time.
//! Nearly always none applies. So the guardrails' conditions are put together once, when they are loaded, into policies
//! that apply when any of them does or cannot be evaluated; only then is each asked by itself, for what the refused is
//! told. `||` evaluates its right side when the left is false, and fails when what it evaluates fails, so that it is false
//! exactly when each guardrail is evaluated without an error and is false. A test with which several begin is made once.
//! Those that look at the same are in a policy of their own, and not asked what they [said nothing to](crate::memo) before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use cedar_policy::{
    ActionConstraint, Authorizer as Cedar, Entities, Policy, PolicyId, PolicySet, Request, Response,
};
use postern_core::role::Action;
use serde_json::{Value, json};

use crate::{
    AuthzError,
    entities::Names,
    looked_at::LookedAt,
    memo::{self, Fact, Question, Silent},
};

/// Guardrails in one policy: reading a policy takes time by its size and its depth.
const AT_MOST: usize = 64;
/// How many kinds of questions are kept: each takes a moment to look up.
const KINDS: usize = 32;
/// A guardrail that is nested deeper is not put together with others.
const SHALLOW: usize = 64;
/// A guardrail whose text has more bytes is taken to be nested deeper.
const SHORT: usize = 32 * 1024;
/// What Cedar reads and writes policies on: it recurses by their depth without looking at how much stack is left.
const STACK: usize = 256 * 1024 * 1024;

/// The guardrails of each action.
#[derive(Debug, Default)]
pub(crate) struct Applicable(HashMap<Action, Arc<Together>>);

/// Guardrails that are asked together.
#[derive(Debug, Default)]
pub(crate) struct Together {
    each: PolicySet,
    parts: Vec<Part>,
    looked_at: LookedAt,
}

/// Guardrails that look at the same.
#[derive(Debug)]
struct Part {
    /// `forbid`s of which one applies when any of them does.
    any: PolicySet,
    /// What they look at; none where their silence is not kept.
    facts: Option<BTreeSet<Fact>>,
    silent: Silent,
}

/// Does `work` where deeply nested policies do no harm.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, AuthzError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("guardrails".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| AuthzError::Cedar(error.to_string()))?;
        thread
            .join()
            .map_err(|_| AuthzError::Cedar("guardrails could not be read".to_owned()))
    })
}

impl Applicable {
    /// From guardrails that were loaded together. Done [`with_room`].
    pub(crate) fn new(guardrails: &PolicySet, names: &Names) -> Result<Self, AuthzError> {
        let mut policies: Vec<&Policy> = guardrails.policies().collect();
        policies.sort_by_key(|policy| policy.id().to_string());
        let mut known: BTreeMap<Vec<usize>, Arc<Together>> = BTreeMap::new();
        let mut by_action = HashMap::new();
        for action in Action::ALL {
            let uid = names.action(*action);
            let these: Vec<usize> = (0..)
                .zip(&policies)
                .filter(|(_, policy)| match policy.action_constraint() {
                    ActionConstraint::Any => true,
                    ActionConstraint::Eq(one) => one == uid,
                    // The schema has no groups of actions, so that `in` is the same as being one of them.
                    ActionConstraint::In(several) => several.contains(&uid),
                })
                .map(|(place, _)| place)
                .collect();
            if these.is_empty() {
                continue;
            }
            let together = match known.get(&these) {
                Some(together) => Arc::clone(together),
                None => Arc::new(Together::new(
                    these.iter().filter_map(|place| policies.get(*place).copied()),
                )?),
            };
            by_action.insert(*action, Arc::clone(&together));
            known.insert(these, together);
        }
        Ok(Self(by_action))
    }

    /// Those of `action`; none when no guardrail can apply.
    pub(crate) fn to(&self, action: Action) -> Option<&Together> {
        self.0.get(&action).map(AsRef::as_ref)
    }
}

impl Together {
    fn new<'a>(guardrails: impl Iterator<Item = &'a Policy>) -> Result<Self, AuthzError> {
        let failed = |error: &dyn std::fmt::Display| AuthzError::Cedar(error.to_string());
        let mut together = Self::default();
        let mut deep = PolicySet::new();
        let mut alike: BTreeMap<Option<BTreeSet<Fact>>, Vec<Vec<Value>>> = BTreeMap::new();
        for guardrail in guardrails {
            if let Some(condition) = shallow_condition(guardrail) {
                for test in &condition {
                    together.looked_at.add(test);
                }
                let facts = memo::facts(&condition);
                let is_kept = alike.contains_key(&facts) || alike.len() < KINDS;
                let facts = facts.filter(|_| is_kept);
                alike.entry(facts).or_default().push(condition);
            } else {
                together.looked_at.add_everything();
                deep.add(guardrail.clone()).map_err(|error| failed(&error))?;
            }
            together
                .each
                .add(guardrail.clone())
                .map_err(|error| failed(&error))?;
        }
        let kinds = alike.len();
        for (facts, mut conditions) in alike {
            // Those that begin alike come together. Which of them is asked first is no matter.
            conditions.sort_by_cached_key(|tests| tests.first().map(ToString::to_string));
            let mut part = Part {
                any: PolicySet::new(),
                facts,
                silent: Silent::of(kinds),
            };
            for (number, some) in conditions.chunks(AT_MOST).enumerate() {
                let any = json!({
                    "effect": "forbid",
                    "principal": {"op": "All"},
                    "action": {"op": "All"},
                    "resource": {"op": "All"},
                    "conditions": [{"kind": "when", "body": any_of(some)}],
                });
                // No guardrail's id begins so.
                let id = PolicyId::new(format!("#{number}"));
                let any = Policy::from_json(Some(id), any).map_err(|error| failed(&error))?;
                part.any.add(any).map_err(|error| failed(&error))?;
            }
            together.parts.push(part);
        }
        if !deep.is_empty() {
            together.parts.push(Part {
                any: deep,
                facts: None,
                silent: Silent::of(kinds),
            });
        }
        Ok(together)
    }

    /// Each by itself.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Policy> {
        self.each.policies()
    }

    /// What they look at of the principal, the resource and the context.
    pub(crate) const fn looked_at(&self) -> &LookedAt {
        &self.looked_at
    }

    /// What each guardrail says to the question; nothing when none applies and none fails. `request` is the question in
    /// Cedar's words, and only asked for where it is not known that nothing is said.
    pub(crate) fn ask<'r>(
        &self,
        cedar: &Cedar,
        question: &Question<'_>,
        request: impl Fn() -> Result<&'r Request, AuthzError>,
        entities: &Entities,
    ) -> Result<Option<Response>, AuthzError> {
        for part in &self.parts {
            let key = part.facts.as_ref().map(|facts| question.key(facts));
            if key.as_ref().is_some_and(|key| part.silent.knows(key)) {
                continue;
            }
            let request = request()?;
            let any = cedar.is_authorized(request, &part.any, entities);
            let diagnostics = any.diagnostics();
            if diagnostics.reason().next().is_some() || diagnostics.errors().next().is_some() {
                return Ok(Some(cedar.is_authorized(request, &self.each, entities)));
            }
            if let Some(key) = key {
                part.silent.keep(key);
            }
        }
        Ok(None)
    }

    #[cfg(test)]
    fn asked_together(&self) -> usize {
        self.parts.iter().map(|part| part.any.policies().count()).sum()
    }
}

/// The condition of a guardrail that may be put together with others: tests that are made one after the other, until one
/// is false.
pub(crate) fn shallow_condition(guardrail: &Policy) -> Option<Vec<Value>> {
    if guardrail.to_string().len() > SHORT {
        return None;
    }
    let parts = condition(&guardrail.to_json().ok()?)?;
    if parts.iter().any(|part| depth(part) > SHALLOW) {
        return None;
    }
    let mut tests = Vec::new();
    for part in parts {
        add_tests(part, &mut tests);
    }
    Some(tests)
}

/// Adds the operands of `&&`, and of `&&` in those: `(a && b) && c` is evaluated as `a && (b && c)` is.
fn add_tests(expression: Value, tests: &mut Vec<Value>) {
    let operand = |side: &str| expression.get("&&")?.get(side).cloned();
    match (operand("left"), operand("right")) {
        (Some(left), Some(right)) => {
            add_tests(left, tests);
            add_tests(right, tests);
        }
        _ => tests.push(expression),
    }
}

/// What is true, or fails, when one of these conditions does. A test with which several begin, such as `context has port`,
/// is made once: `a && b || a && c` is true, or fails, exactly when `a && (b || c)` is or does.
fn any_of(conditions: &[Vec<Value>]) -> Value {
    let mut alike: BTreeMap<String, (Value, Vec<&[Value]>)> = BTreeMap::new();
    for (first, rest) in conditions.iter().filter_map(|tests| tests.split_first()) {
        alike
            .entry(first.to_string())
            .or_insert_with(|| (first.clone(), Vec::new()))
            .1
            .push(rest);
    }
    let each = alike.into_values().map(|(first, rests)| {
        // One that ends here says what all that go on could only repeat.
        if rests.iter().any(|rest| rest.is_empty()) {
            return first;
        }
        let rests = rests.into_iter().map(|rest| joined("&&", rest.to_vec()));
        joined("&&", vec![first, joined("||", rests.collect())])
    });
    joined("||", each.collect())
}

/// How many expressions are inside of each other.
fn depth(expression: &Value) -> usize {
    let inside = match expression {
        Value::Array(several) => several.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max().map(|deepest| deepest + 1),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    };
    // An operator is an object in an object.
    inside.unwrap_or_default()
}

/// When a guardrail applies, without its action: what has to be true, in this order, as expressions of Cedar's JSON policy
/// format (<https://docs.cedarpolicy.com/policies/json-format.html>); nothing for what that format does not have.
fn condition(policy: &Value) -> Option<Vec<Value>> {
    let mut parts = Vec::new();
    for variable in ["principal", "resource"] {
        parts.extend(scope_of(variable, policy.get(variable)?)?);
    }
    for clause in policy.get("conditions")?.as_array()? {
        let body = clause.get("body")?.clone();
        parts.push(match clause.get("kind")?.as_str()? {
            "when" => body,
            "unless" => json!({"!": {"arg": body}}),
            _ => return None,
        });
    }
    if parts.is_empty() {
        parts.push(json!({"Value": true}));
    }
    Some(parts)
}

/// What the policy's head says of `variable`; an empty list for "any".
fn scope_of(variable: &str, constraint: &Value) -> Option<Vec<Value>> {
    let this = json!({"Var": variable});
    let entity = |of: &Value| {
        let uid = of.get("entity")?;
        Some(json!({"Value": {"__entity": uid.get("__entity").unwrap_or(uid)}}))
    };
    Some(match constraint.get("op")?.as_str()? {
        "All" => Vec::new(),
        operator @ ("==" | "in") => {
            let mut binary = serde_json::Map::new();
            binary.insert(
                operator.to_owned(),
                json!({"left": this, "right": entity(constraint)?}),
            );
            vec![Value::Object(binary)]
        }
        "is" => {
            let mut is = json!({"left": this, "entity_type": constraint.get("entity_type")?});
            if let Some(within) = constraint.get("in") {
                is.as_object_mut()?.insert("in".to_owned(), entity(within)?);
            }
            vec![json!({"is": is})]
        }
        _ => return None,
    })
}

/// The operands under one operator, in their order, as a tree that is as deep as their number's logarithm: Cedar limits how
/// deep an expression may be.
pub(crate) fn joined(operator: &str, mut operands: Vec<Value>) -> Value {
    while operands.len() > 1 {
        let mut above = Vec::with_capacity(operands.len().div_ceil(2));
        let mut rest = operands.into_iter();
        while let Some(left) = rest.next() {
            above.push(match rest.next() {
                None => left,
                Some(right) => {
                    let mut both = serde_json::Map::new();
                    both.insert(operator.to_owned(), json!({"left": left, "right": right}));
                    Value::Object(both)
                }
            });
        }
        operands = above;
    }
    operands.pop().unwrap_or(Value::Null)
}

#[cfg(test)]
pub(crate) mod tests;
