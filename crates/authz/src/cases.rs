//! Cases: who asks for what, and what the answer has to be. They hold guardrails to what they were written for.
//!
//! A [`Suite`] is data, usually a TOML file; [`Suite::run`] puts every case to the same evaluator that serves
//! requests, with the same guardrails, and says what differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use postern_core::{
    machine::MachineId,
    net::{Ports, Source},
    principal::{Principal, PrincipalKind, PrincipalRef},
    role::{Action, Role, RoleAssignment},
    scope::Scope,
    time::{CountingIds, IdSource, Instant},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    authorizer::{Authorizer, AuthzError},
    decision::Decision,
    entities::{Context, Resource, ResourceKind},
    guardrail::GuardrailSet,
};

/// Roles, people and cases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Roles besides those that every installation has.
    #[serde(default)]
    pub roles: Vec<CustomRole>,
    /// Who has which role where. Without any, everybody here is owner of everything, so that only guardrails are in
    /// the way.
    #[serde(default)]
    pub assignments: Vec<Assignment>,
    /// Who asks, by the names that cases use.
    #[serde(default)]
    pub people: BTreeMap<String, Person>,
    /// The cases.
    #[serde(default, rename = "case")]
    pub cases: Vec<Case>,
}

/// A role of the organisation's own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomRole {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub actions: BTreeSet<Action>,
}

/// A role assignment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The role's name.
    pub role: String,
    /// Who has it.
    pub principal: PrincipalRef,
    /// Where.
    pub scope: Scope,
}

/// Somebody as their token would say, a person or a program.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// `user:<issuer>/<subject>` or `workload:<issuer>/<subject>`.
    pub principal: PrincipalRef,
    /// Their groups, without the issuer.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Whether the token proves a second factor.
    #[serde(default)]
    pub mfa: bool,
    /// When they signed in.
    pub authenticated_at: Option<Instant>,
    /// The claims that the configuration passes on.
    #[serde(default)]
    pub claims: BTreeMap<String, Value>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks: one of the people.
    pub who: String,
    /// To do what; `request` unless told otherwise.
    pub action: Action,
    /// To what: a scope, an ARM resource id or an instance's ARN.
    pub on: String,
    /// The machine's tags.
    pub tags: BTreeMap<String, String>,
    /// What it is. Unless told otherwise a machine, where the scope is a machine's, and else a scope.
    pub kind: Option<ResourceKind>,
    /// Which ports.
    pub ports: Vec<Ports>,
    /// From where.
    pub sources: Vec<Source>,
    /// For how long, in seconds.
    pub duration_seconds: Option<u64>,
    /// Whether a reason is given; so unless told otherwise.
    pub reason: bool,
    /// When; a Monday at ten unless told otherwise.
    pub at: Instant,
}

/// A case.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Written")]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// What is asked.
    pub asked: Asked,
    /// What the answer has to be.
    pub expect: Expected,
    /// Exactly these guardrails forbid it, by their ids; not compared when absent.
    pub forbidden_by: Option<BTreeSet<String>>,
    /// Whether no role assignment allows it; not compared when absent.
    pub role_missing: Option<bool>,
}

/// A case as it is written, in one table, of which nothing is ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    expect: Expected,
    forbidden_by: Option<BTreeSet<String>>,
    role_missing: Option<bool>,
    who: String,
    #[serde(default = "request")]
    action: Action,
    on: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    kind: Option<ResourceKind>,
    #[serde(default)]
    ports: Vec<Ports>,
    #[serde(default)]
    sources: Vec<Source>,
    duration_seconds: Option<u64>,
    #[serde(default = "yes")]
    reason: bool,
    #[serde(default = "a_monday_at_ten")]
    at: Instant,
}

impl From<Written> for Case {
    fn from(written: Written) -> Self {
        Self {
            name: written.name,
            expect: written.expect,
            forbidden_by: written.forbidden_by,
            role_missing: written.role_missing,
            asked: Asked {
                who: written.who,
                action: written.action,
                on: written.on,
                tags: written.tags,
                kind: written.kind,
                ports: written.ports,
                sources: written.sources,
                duration_seconds: written.duration_seconds,
                reason: written.reason,
                at: written.at,
            },
        }
    }
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

const fn request() -> Action {
    Action::Request
}

const fn yes() -> bool {
    true
}

fn a_monday_at_ten() -> Instant {
    // 2026-01-05T10:00:00Z.
    Instant::from_timestamp(1_767_607_200, 0).unwrap_or_default()
}

/// Why a suite cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A case names nobody of the suite.
    #[error("`{0}` is none of the suite's people")]
    Nobody(String),
    /// A group cannot ask for anything.
    #[error("`{0}` is a group; a user or a workload asks")]
    Group(PrincipalRef),
    /// An assignment of a role that is not there would grant nothing.
    #[error("there is no role `{0}`")]
    UnknownRole(String),
    /// Where is unclear.
    #[error("`{0}` is neither a scope nor a machine's id")]
    On(String),
    /// A case expects a guardrail that is not there.
    #[error("case `{case}` expects guardrail `{guardrail}`, which does not exist")]
    UnknownGuardrail {
        /// The case.
        case: String,
        /// The guardrail.
        guardrail: String,
    },
    /// The roles and assignments do not go together.
    #[error("the roles and assignments do not hold")]
    Authz(#[from] AuthzError),
}

/// A question that can be put to an [`Authorizer`].
#[derive(Debug, Clone)]
pub struct Question {
    /// Who asks.
    pub principal: Principal,
    /// To do what.
    pub action: Action,
    /// To what.
    pub resource: Resource,
    /// In which circumstances.
    pub context: Context,
}

/// What became of a case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The case's name.
    pub name: String,
    /// The decision.
    pub decision: Decision,
    /// What should be otherwise: what was expected and what was found, in words. Empty when all is well.
    pub differences: Vec<(String, String)>,
}

/// What became of a suite.
#[derive(Debug, Clone)]
pub struct Report {
    /// Each case, in the suite's order.
    pub outcomes: Vec<Outcome>,
    /// Guardrails that forbade nothing in any case: nothing shows that they work.
    pub untried: Vec<String>,
}

impl Report {
    /// How many cases came out otherwise than expected.
    pub fn failed(&self) -> usize {
        self.outcomes
            .iter()
            .filter(|outcome| !outcome.is_as_expected())
            .count()
    }
}

impl Outcome {
    /// Whether it came out as expected.
    pub const fn is_as_expected(&self) -> bool {
        self.differences.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_as_expected() { "ok    " } else { "FAILED" };
        write!(f, "{word}  {}", self.name)?;
        for (expected, found) in &self.differences {
            write!(f, "\n        - expected: {expected}\n        + found:    {found}")?;
        }
        if !self.is_as_expected() {
            write!(f, "\n          {}", self.decision.explain())?;
        }
        Ok(())
    }
}

impl Person {
    /// The principal that a token would have made.
    pub fn principal(&self) -> Result<Principal, SuiteError> {
        let kind = match &self.principal {
            PrincipalRef::User(_) => PrincipalKind::Human,
            PrincipalRef::Workload(_) => PrincipalKind::Workload,
            PrincipalRef::Group(_) => return Err(SuiteError::Group(self.principal.clone())),
        };
        let (issuer, subject) = self.principal.name().split_once('/').unwrap_or_default();
        Ok(Principal {
            kind,
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            name: None,
            groups: self.groups.clone(),
            mfa: self.mfa,
            authenticated_at: self.authenticated_at,
            claims: self.claims.clone(),
        })
    }
}

impl Suite {
    /// The authorizer of the suite's roles and assignments, with these guardrails.
    pub fn authorizer(&self, guardrails: GuardrailSet) -> Result<Authorizer, SuiteError> {
        let custom = self.roles.iter().map(|role| Role {
            name: role.name.clone(),
            actions: role.actions.clone(),
            built_in: false,
        });
        let roles: Vec<Role> = Role::built_in().into_iter().chain(custom).collect();
        if let Some(unknown) = self
            .assignments
            .iter()
            .find(|assignment| !roles.iter().any(|role| role.name == assignment.role))
        {
            return Err(SuiteError::UnknownRole(unknown.role.clone()));
        }
        let owners = self.people.values().map(|person| Assignment {
            role: "owner".to_owned(),
            principal: person.principal.clone(),
            scope: Scope::root(),
        });
        let mut assignments = self.assignments.clone();
        if assignments.is_empty() {
            assignments.extend(owners);
        }
        let now = a_monday_at_ten();
        let ids = CountingIds::new(1);
        let ids: &dyn IdSource = &ids;
        let assignments = assignments.into_iter().map(|assignment| RoleAssignment {
            id: ids.next(now),
            role: assignment.role,
            principal: assignment.principal,
            scope: assignment.scope,
            created_by: "system:cases".to_owned(),
            created_at: now,
            tags: std::collections::BTreeMap::new(),
            ends_at: None,
        });
        Ok(Authorizer::new(roles, assignments, guardrails)?)
    }

    /// What is asked, in the evaluator's terms.
    pub fn question(&self, asked: &Asked) -> Result<Question, SuiteError> {
        let person = self
            .people
            .get(&asked.who)
            .ok_or_else(|| SuiteError::Nobody(asked.who.clone()))?;
        let scope = asked
            .on
            .parse::<Scope>()
            .ok()
            .or_else(|| asked.on.parse::<MachineId>().ok().map(|machine| machine.scope()))
            .ok_or_else(|| SuiteError::On(asked.on.clone()))?;
        let kind = asked.kind.unwrap_or(if scope.depth() == 4 {
            ResourceKind::Machine
        } else {
            ResourceKind::Scope
        });
        Ok(Question {
            principal: person.principal()?,
            action: asked.action,
            resource: Resource {
                scope,
                tags: asked.tags.clone(),
                kind,
            },
            context: Context {
                now: asked.at,
                ports: asked.ports.clone(),
                sources: asked.sources.clone(),
                duration_seconds: asked.duration_seconds,
                reason_present: asked.reason,
            },
        })
    }

    /// Puts every case to the guardrails.
    pub fn run(&self, guardrails: &GuardrailSet) -> Result<Report, SuiteError> {
        let authorizer = self.authorizer(guardrails.clone())?;
        let mut untried: BTreeSet<&str> = guardrails.iter().map(|rail| rail.id.as_str()).collect();
        let known = untried.clone();
        let mut outcomes = Vec::new();
        for case in &self.cases {
            let expected = case.forbidden_by.iter().flatten();
            if let Some(unknown) = expected.into_iter().find(|id| !known.contains(id.as_str())) {
                return Err(SuiteError::UnknownGuardrail {
                    case: case.name.clone(),
                    guardrail: unknown.clone(),
                });
            }
            let question = self.question(&case.asked)?;
            let decision = authorizer.decide(
                &question.principal,
                question.action,
                &question.resource,
                &question.context,
            );
            for by in &decision.forbidden_by {
                untried.remove(by.guardrail.as_str());
            }
            outcomes.push(Outcome {
                name: case.name.clone(),
                differences: case.differences(&decision),
                decision,
            });
        }
        Ok(Report {
            outcomes,
            untried: untried.into_iter().map(str::to_owned).collect(),
        })
    }
}

impl Case {
    fn differences(&self, decision: &Decision) -> Vec<(String, String)> {
        let word = |allowed: bool| if allowed { "allowed" } else { "denied" }.to_owned();
        let list = |ids: &BTreeSet<&str>| {
            if ids.is_empty() {
                "forbidden by no guardrail".to_owned()
            } else {
                let ids: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
                format!("forbidden by {}", ids.join(", "))
            }
        };
        let mut found = Vec::new();
        let expected = self.expect == Expected::Allow;
        if expected != decision.allowed {
            found.push((word(expected), word(decision.allowed)));
        }
        if let Some(expected) = &self.forbidden_by {
            let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
            let by: BTreeSet<&str> = decision
                .forbidden_by
                .iter()
                .map(|by| by.guardrail.as_str())
                .collect();
            if expected != by {
                found.push((list(&expected), list(&by)));
            }
        }
        if let Some(expected) = self.role_missing
            && expected != decision.missing.is_some()
        {
            let word = |missing: bool| {
                if missing {
                    "no role allows it"
                } else {
                    "a role allows it"
                }
                .to_owned()
            };
            found.push((word(expected), word(!expected)));
        }
        found
    }
}
