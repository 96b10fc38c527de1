//! What guardrails say to whatever somebody may ask: always no, never no, or no by what is not known yet.
//!
//! Before a role assignment is made, nobody has asked for anything: the token, the ports, the source, the time are open.
//! What is known are the principal's name, the action, and the resource with its tags. Cedar's type-aware partial
//! evaluation (<https://docs.rs/cedar-policy/latest/cedar_policy/struct.PolicySet.html#method.tpe>) evaluates a guardrail
//! as far as that goes. It knows an entity's attributes all or none, and an unknown principal's groups not at all; what is
//! known of those is put into the guardrail's text first.
//!
//! It is experimental in Cedar, and so is used for this forecast alone, never for a decision. Whatever it refuses is
//! told as "it depends", which is always true.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{
    EntityId, EntityTypeName, EntityUid, PartialEntities, PartialEntity, PartialEntityUid, PartialRequest,
    Policy, PolicyId, PolicySet, RestrictedExpression, Schema,
};
use postern_core::{
    principal::{Principal, PrincipalRef},
    role::Action,
    scope::Scope,
};
use serde_json::{Value, json};

use crate::{
    applicable::{self, Together, joined, shallow_condition},
    authorizer::{Authorizer, AuthzError},
    entities::{GROUP, Names, Resource, SCOPE},
    guardrail,
    looked_at::LookedAt,
};

/// How much one outlook may evaluate, in parts of guardrails' conditions: one of 60 parts takes some 150 us, so that this is
/// a second or two, and 10,000 evaluations are kept at most. What would be beyond depends.
const WORK: usize = 1_000_000;
/// What an evaluation costs besides, in such parts.
const AT_LEAST: usize = 40;

/// When a guardrail forbids something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forbids {
    /// It may, by what is asked, the token, or the time.
    AtTimes,
    /// Whatever is asked.
    Always,
}

/// What guardrails say to one principal, whose token is not known.
#[derive(Debug)]
pub struct Outlook {
    principal: PrincipalRef,
    named: Principal,
    names: Names,
    schema: Schema,
    /// The guardrails of each action, by id.
    guardrails: BTreeMap<Action, Vec<Foreseen>>,
    /// Of [`WORK`].
    left: usize,
}

/// A guardrail, and what was found of it.
#[derive(Debug)]
struct Foreseen {
    id: String,
    /// What has to be true, one after the other; none for one that is nested too deeply.
    condition: Option<Vec<Value>>,
    looks: Looks,
    /// Of how many parts the condition is made.
    size: usize,
    found: HashMap<Vec<String>, Option<Forbids>>,
}

/// What a guardrail looks at of the resource, rather too much than too little.
#[derive(Debug, Default)]
struct Looks {
    path: bool,
    cloud: bool,
    /// The tags of these names; all where a name is not in the text.
    tags: BTreeSet<String>,
    all_tags: bool,
    /// The scopes that it names.
    scopes: BTreeSet<String>,
}

/// What is acted on.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// Exactly this, of whatever kind: a machine, or a request, a grant of it.
    At(&'a Resource),
    /// Anything at the scope and below, with whatever tags.
    Within(&'a Scope),
}

impl Authorizer {
    /// What the guardrails say to `principal`. A group stands for whoever is in it.
    pub fn outlook(&self, principal: &PrincipalRef) -> Result<Outlook, AuthzError> {
        // Reading their text again takes as much stack as loading them did.
        let guardrails = applicable::with_room(|| {
            let of_action = |action: &Action| (*action, Foreseen::of(self, *action));
            Action::ALL.iter().map(of_action).collect()
        })?;
        Ok(Outlook {
            principal: principal.clone(),
            named: Principal::named(principal),
            names: Names::new()?,
            schema: guardrail::schema().map_err(|error| AuthzError::Cedar(error.to_string()))?,
            guardrails,
            left: WORK,
        })
    }
}

impl Outlook {
    /// The guardrails that forbid `action` to `resource`, whatever its kind: those that are not here never do.
    pub fn at(&mut self, action: Action, resource: &Resource) -> BTreeMap<String, Forbids> {
        self.forbidding(action, Place::At(resource))
    }

    /// The guardrails that forbid `action` to what lies at `scope` or below it, with whatever tags. One that is not here
    /// forbids it to nothing there; one that always does forbids it to everything there.
    pub fn within(&mut self, action: Action, scope: &Scope) -> BTreeMap<String, Forbids> {
        self.forbidding(action, Place::Within(scope))
    }

    fn forbidding(&mut self, action: Action, place: Place<'_>) -> BTreeMap<String, Forbids> {
        let mut guardrails = self.guardrails.remove(&action).unwrap_or_default();
        let mut found = BTreeMap::new();
        for guardrail in &mut guardrails {
            let said = self.ask(action, guardrail, place);
            found.extend(said.map(|said| (guardrail.id.clone(), said)));
        }
        self.guardrails.insert(action, guardrails);
        found
    }

    /// Whether the guardrail forbids; none when it never does.
    fn ask(&mut self, action: Action, guardrail: &mut Foreseen, place: Place<'_>) -> Option<Forbids> {
        let key = guardrail.looks.key(place);
        if let Some(known) = guardrail.found.get(&key) {
            return *known;
        }
        // A group is asked about as people and as programs.
        let kinds = if matches!(self.principal, PrincipalRef::Group(_)) {
            2
        } else {
            1
        };
        let cost = (guardrail.size + AT_LEAST) * kinds;
        let Some((condition, left)) = guardrail.condition.as_ref().zip(self.left.checked_sub(cost)) else {
            return Some(Forbids::AtTimes);
        };
        self.left = left;
        let said = self
            .evaluate(action, condition, place)
            .unwrap_or(Some(Forbids::AtTimes));
        guardrail.found.insert(key, said);
        said
    }

    fn evaluate(
        &self,
        action: Action,
        condition: &[Value],
        place: Place<'_>,
    ) -> Result<Option<Forbids>, Box<dyn std::error::Error>> {
        let known = Known {
            principal: &self.principal,
            named: &self.named,
            place,
        };
        let tests = condition.iter().map(|test| known.put_into(test)).collect();
        let policy = Policy::from_json(
            Some(PolicyId::new("0")),
            json!({
                "effect": "forbid",
                "principal": {"op": "All"},
                "action": {"op": "All"},
                "resource": {"op": "All"},
                "conditions": [{"kind": "when", "body": joined("&&", tests)}],
            }),
        )?;
        let mut policies = PolicySet::new();
        policies.add(policy)?;
        let (resource, entities) = match place {
            Place::At(resource) => {
                let uid = self.names.scope(&resource.scope);
                let tags = resource
                    .tags
                    .iter()
                    .map(|(key, value)| (key.into(), RestrictedExpression::new_string(value.clone())))
                    .collect();
                let entity = PartialEntity::new(uid.clone(), None, None, Some(tags), &self.schema)?;
                let entities = PartialEntities::from_partial_entities([entity], &self.schema)?;
                (PartialEntityUid::from_concrete(uid), entities)
            }
            Place::Within(scope) => {
                let kind = self.names.scope(scope).type_name().clone();
                // Not `empty`: that knows no groups of actions, and not even that an action is one of a list.
                let entities = PartialEntities::from_partial_entities([], &self.schema)?;
                (PartialEntityUid::new(kind, None), entities)
            }
        };
        let mut said = BTreeSet::new();
        for principal in self.principals()? {
            let action = self.names.action(action);
            let request = PartialRequest::new(principal, action, resource.clone(), None, &self.schema)?;
            let answer = policies.tpe(&request, &entities, &self.schema)?;
            said.insert(
                // One that fails denies.
                if answer.true_forbids().next().is_some() || answer.error_forbids().next().is_some() {
                    Some(Forbids::Always)
                } else if answer.false_forbids().next().is_some() {
                    None
                } else {
                    Some(Forbids::AtTimes)
                },
            );
        }
        // Where it says one to people and another to programs, it depends on who it is.
        let only = said.pop_first().unwrap_or(Some(Forbids::AtTimes));
        Ok(if said.is_empty() {
            only
        } else {
            Some(Forbids::AtTimes)
        })
    }

    /// Whom Cedar is asked about: both kinds for a group, whose members may be either.
    fn principals(&self) -> Result<Vec<PartialEntityUid>, Box<dyn std::error::Error>> {
        if !matches!(self.principal, PrincipalRef::Group(_)) {
            let uid: EntityUid = self.names.principal(&self.principal);
            return Ok(vec![PartialEntityUid::new(
                uid.type_name().clone(),
                Some(EntityId::new(uid.id().unescaped())),
            )]);
        }
        ["User", "Workload"]
            .into_iter()
            .map(|kind| Ok(PartialEntityUid::new(kind.parse::<EntityTypeName>()?, None)))
            .collect()
    }
}

impl Foreseen {
    /// Those that can apply to the action. Done with room.
    fn of(authorizer: &Authorizer, action: Action) -> Vec<Self> {
        let guardrails = authorizer.guardrails().to(action);
        let guardrails = guardrails.flat_map(Together::each).map(|policy| {
            let condition = shallow_condition(policy);
            Self {
                id: policy.id().to_string(),
                looks: Looks::of(condition.as_deref().unwrap_or_default()),
                size: condition.iter().flatten().map(size).sum(),
                condition,
                found: HashMap::new(),
            }
        });
        guardrails.collect()
    }
}

impl Looks {
    fn of(condition: &[Value]) -> Self {
        let mut looked_at = LookedAt::default();
        let mut looks = Self::default();
        for test in condition {
            looked_at.add(test);
            looks.add(test);
        }
        looks.path = looked_at.attribute("path");
        looks.cloud = looked_at.attribute("cloud");
        looks
    }

    fn add(&mut self, expression: &Value) {
        match expression {
            Value::Array(several) => several.iter().for_each(|one| self.add(one)),
            Value::Object(members) => {
                for (key, of) in members {
                    match key.as_str() {
                        "hasTag" | "getTag" => {
                            match of.get("right").and_then(|name| name.get("Value")?.as_str()) {
                                Some(name) => {
                                    self.tags.insert(name.to_owned());
                                }
                                None => self.all_tags = true,
                            }
                        }
                        "__entity" => {
                            self.scopes
                                .extend(of.get("id").and_then(Value::as_str).map(str::to_owned));
                        }
                        _ => {}
                    }
                    self.add(of);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// All that what it says of the place follows from: of two places with one key it says the same.
    fn key(&self, place: Place<'_>) -> Vec<String> {
        let resource = match place {
            Place::Within(scope) => return vec![format!("within {scope}")],
            Place::At(resource) => resource,
        };
        let mut key = Vec::new();
        if !self.scopes.is_empty() {
            for (depth, above) in resource.scope.ancestors().enumerate() {
                let text = above.to_string();
                if self.scopes.contains(&text) {
                    key.push(format!("{} {text}", if depth == 0 { "is" } else { "in" }));
                }
            }
        }
        if self.path {
            key.push(format!("path {}", resource.scope));
        }
        if self.cloud {
            key.extend(
                resource
                    .scope
                    .segments()
                    .first()
                    .map(|cloud| format!("cloud {cloud}")),
            );
        }
        let tags = resource.tags.iter();
        key.extend(
            tags.filter(|(name, _)| self.all_tags || self.tags.contains(*name))
                .map(|(name, value)| format!("tag {}:{name} {value}", name.len())),
        );
        key
    }
}

/// What can be put into a guardrail's text.
struct Known<'a> {
    principal: &'a PrincipalRef,
    named: &'a Principal,
    place: Place<'a>,
}

impl Known<'_> {
    /// The expression, in Cedar's JSON policy format, with what is known in place of what asks for it.
    fn put_into(&self, expression: &Value) -> Value {
        match expression {
            Value::Array(several) => several.iter().map(|one| self.put_into(one)).collect(),
            Value::Object(members) => {
                if let Some((operator, of)) = members.iter().next().filter(|_| members.len() == 1)
                    && let Some(known) = self.value(operator, of)
                {
                    return known;
                }
                members
                    .iter()
                    .map(|(key, of)| (key.clone(), self.put_into(of)))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => expression.clone(),
        }
    }

    fn value(&self, operator: &str, of: &Value) -> Option<Value> {
        let variable = of.get("left")?.get("Var")?.as_str()?;
        let attribute = || of.get("attr")?.as_str();
        match (variable, operator) {
            ("principal", ".") => match (attribute()?, self.principal) {
                ("issuer", _) => Some(json!({"Value": self.named.issuer})),
                ("subject", PrincipalRef::User(_) | PrincipalRef::Workload(_)) => {
                    Some(json!({"Value": self.named.subject}))
                }
                _ => None,
            },
            ("resource", ".") => match (attribute()?, self.place) {
                ("path", Place::At(resource)) => Some(json!({"Value": resource.scope.to_string()})),
                ("cloud", _) => Some(json!({"Value": self.cloud()?})),
                _ => None,
            },
            ("resource", "has") if attribute()? == "cloud" => match self.place {
                Place::At(_) => Some(json!({"Value": self.cloud().is_some()})),
                Place::Within(_) => self.cloud().map(|_| json!({"Value": true})),
            },
            ("principal", "in") => {
                let is_own = entities(of.get("right")?)?
                    .any(|(kind, id)| kind == GROUP && PrincipalRef::Group(id.to_owned()) == *self.principal);
                is_own.then(|| json!({"Value": true}))
            }
            ("resource", "in") => self.is_in(of.get("right")?).map(|is| json!({"Value": is})),
            ("resource", "==") => {
                let (kind, id) = entities(of.get("right")?)?.next()?;
                let is = match self.place {
                    _ if kind != SCOPE => Some(false),
                    Place::At(resource) => Some(resource.scope.to_string() == id),
                    Place::Within(scope) => (!is_within(id, scope)).then_some(false),
                };
                is.map(|is| json!({"Value": is}))
            }
            // Taken apart, so that its halves are looked at.
            (_, "is") if of.get("in").is_some() => {
                let left = of.get("left")?;
                let within = json!({"in": {"left": left, "right": of.get("in")?}});
                let is = json!({"is": {"left": left, "entity_type": of.get("entity_type")?}});
                Some(json!({"&&": {"left": is, "right": self.put_into(&within)}}))
            }
            _ => None,
        }
    }

    fn cloud(&self) -> Option<&str> {
        let scope = match self.place {
            Place::At(resource) => &resource.scope,
            Place::Within(scope) => scope,
        };
        scope.segments().first().map(String::as_str)
    }

    /// Whether the place is in any of these scopes, where that is known.
    fn is_in(&self, scopes: &Value) -> Option<bool> {
        let mut is_known = true;
        let scope = match self.place {
            Place::At(resource) => &resource.scope,
            Place::Within(scope) => scope,
        };
        for (_, id) in entities(scopes)?.filter(|(kind, _)| *kind == SCOPE) {
            if scope.ancestors().any(|above| above.to_string() == id) {
                return Some(true);
            }
            is_known &= match self.place {
                Place::At(_) => true,
                Place::Within(scope) => !is_within(id, scope),
            };
        }
        is_known.then_some(false)
    }
}

/// Of how many parts an expression is made.
fn size(expression: &Value) -> usize {
    match expression {
        Value::Array(several) => several.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum::<usize>() + 1,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// Whether the scope of this id may be `scope` or below it.
fn is_within(id: &str, scope: &Scope) -> bool {
    id.parse().is_ok_and(|named: Scope| scope.contains(&named))
}

/// The entities that are named, by type and id: one, or a set of nothing else.
fn entities(expression: &Value) -> Option<impl Iterator<Item = (&str, &str)>> {
    let all: Vec<(&str, &str)> = match expression.get("Set") {
        Some(several) => several.as_array()?.iter().map(entity).collect::<Option<_>>()?,
        None => vec![entity(expression)?],
    };
    Some(all.into_iter())
}

fn entity(expression: &Value) -> Option<(&str, &str)> {
    let uid = expression.get("Value")?.get("__entity")?;
    Some((uid.get("type")?.as_str()?, uid.get("id")?.as_str()?))
}

#[cfg(test)]
mod tests;
