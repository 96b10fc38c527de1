//! Guardrails: organisation-wide Cedar policies that forbid what a role allows, checked when they are loaded.

use std::{collections::BTreeMap, sync::Arc};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationError, ValidationMode, Validator};
use miette::Diagnostic;
use postern_core::role::Action;
use serde::Serialize;

use crate::{
    AuthzError,
    applicable::{self, Applicable, Together},
    entities::{NETWORK, Names},
    network::Networks,
};

/// The Cedar schema that guardrails are checked against.
pub const SCHEMA: &str = include_str!("../../../config/cedar/postern.cedarschema");

/// One guardrail, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guardrail {
    /// Its `@id`.
    pub id: String,
    /// Its `@message`: what the refused is told.
    pub message: Option<String>,
    /// The policy's text.
    pub text: String,
    /// The file that it came from, as the caller named it.
    pub file: String,
}

/// Guardrails that passed every check. Ids are unique across all files.
#[derive(Debug, Clone, Default)]
pub struct GuardrailSet {
    /// Those of each file, to be asked.
    applicable: Vec<Arc<Applicable>>,
    guardrails: BTreeMap<String, Guardrail>,
    networks: Networks,
}

/// How one set of guardrails differs from another, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Those that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that say something else, to Cedar or to the refused.
    pub changed: Vec<String>,
    /// The named networks that are new, gone or have other ranges.
    pub networks: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.networks.is_empty()
    }
}

/// Why guardrails are refused. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardrailError {
    /// The text is not Cedar.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file, as the caller named it.
        file: String,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A policy that permits: only role assignments do that.
    #[error("{file}: `{policy}` permits; a guardrail can only forbid")]
    Permits {
        /// The file.
        file: String,
        /// The policy's id, or its place in the file.
        policy: String,
    },
    /// A template: nothing would ever link it.
    #[error("{file}: a guardrail has no `?principal` and no `?resource`")]
    Template {
        /// The file.
        file: String,
    },
    /// The audit log could not name it.
    #[error(
        "{file}: {policy} has no usable `@id(\"…\")`: expected 1 to 64 letters, digits, hyphens and underscores"
    )]
    NoId {
        /// The file.
        file: String,
        /// Its place in the file.
        policy: String,
    },
    /// Two guardrails of one name.
    #[error("{file}: guardrail `{id}` is there twice")]
    Duplicate {
        /// The file of the second.
        file: String,
        /// The id.
        id: String,
    },
    /// It names a network that is not configured, so that it could never apply, or always would.
    #[error("{file}: guardrail `{id}` names network `{network}`, which is not configured")]
    UnknownNetwork {
        /// The file.
        file: String,
        /// The guardrail's id.
        id: String,
        /// The network's name.
        network: String,
    },
    /// It does not fit the schema, or could never apply.
    #[error("{file}:{line}:{column}: guardrail `{id}`: {message}")]
    Schema {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// The guardrail's id.
        id: String,
        /// What is wrong.
        message: String,
    },
    /// The schema that Postern was built with is broken, or Cedar refuses what Postern made of a guardrail; a defect.
    #[error("the built-in schema cannot be read, or the guardrails cannot be put together: {0}")]
    BuiltIn(String),
}

impl From<AuthzError> for GuardrailError {
    fn from(error: AuthzError) -> Self {
        Self::BuiltIn(error.to_string())
    }
}

impl GuardrailSet {
    /// The guardrails in `text`; `file` names it in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, GuardrailError> {
        let mut set = Self::default();
        set.add(file, text)?;
        Ok(set)
    }

    /// Adds the guardrails in `text`. When one of them is refused, none of them is added.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), GuardrailError> {
        applicable::with_room(|| self.add_with_room(file, text)).map_err(GuardrailError::from)?
    }

    fn add_with_room(&mut self, file: &str, text: &str) -> Result<(), GuardrailError> {
        let parsed: PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| {
            let (line, column) = place(text, &error);
            GuardrailError::Syntax {
                file: file.to_owned(),
                line,
                column,
                message: error.to_string(),
            }
        })?;
        if parsed.templates().next().is_some() {
            return Err(GuardrailError::Template {
                file: file.to_owned(),
            });
        }
        let mut added = BTreeMap::new();
        let mut policies = PolicySet::new();
        for policy in parsed.policies() {
            let id = id_of(file, policy)?;
            if self.guardrails.contains_key(&id) || added.contains_key(&id) {
                return Err(GuardrailError::Duplicate {
                    file: file.to_owned(),
                    id,
                });
            }
            add(&mut policies, policy, &id, file)?;
            added.insert(
                id.clone(),
                Guardrail {
                    id,
                    message: policy.annotation("message").map(str::to_owned),
                    text: policy.to_cedar().unwrap_or_default(),
                    file: file.to_owned(),
                },
            );
        }
        check(file, text, &policies)?;
        self.check_networks(file, &policies)?;
        let applicable = Applicable::new(&policies, &Names::new()?)?;
        self.applicable.push(Arc::new(applicable));
        self.guardrails.extend(added);
        Ok(())
    }

    /// A set without guardrails, whose guardrails may use these networks.
    pub fn with_networks(networks: Networks) -> Self {
        Self {
            networks,
            ..Self::default()
        }
    }

    /// The networks that have names.
    pub const fn networks(&self) -> &Networks {
        &self.networks
    }

    /// How this set differs from one before it.
    pub fn difference(&self, before: &Self) -> Difference {
        let says_else = |new: &Guardrail, old: &Guardrail| new.text != old.text || new.message != old.message;
        let only_in = |one: &Self, other: &Self| -> Vec<String> {
            let ids = one.guardrails.keys();
            ids.filter(|id| !other.guardrails.contains_key(*id))
                .cloned()
                .collect()
        };
        Difference {
            added: only_in(self, before),
            removed: only_in(before, self),
            changed: self
                .guardrails
                .values()
                .filter(|new| {
                    before
                        .guardrails
                        .get(&new.id)
                        .is_some_and(|old| says_else(new, old))
                })
                .map(|new| new.id.clone())
                .collect(),
            networks: self.networks.difference(&before.networks),
        }
    }

    fn check_networks(&self, file: &str, policies: &PolicySet) -> Result<(), GuardrailError> {
        let mut unknown: Vec<(String, String)> = policies
            .policies()
            .flat_map(|policy| {
                let id = policy.id().to_string();
                let literals = policy.entity_literals().into_iter();
                literals.map(move |literal| (id.clone(), literal))
            })
            .filter(|(_, literal)| literal.type_name().to_string() == NETWORK)
            .map(|(id, literal)| (id, literal.id().unescaped().to_owned()))
            .filter(|(_, name)| !self.networks.contains(name))
            .collect();
        unknown.sort();
        match unknown.into_iter().next() {
            None => Ok(()),
            Some((id, network)) => Err(GuardrailError::UnknownNetwork {
                file: file.to_owned(),
                id,
                network,
            }),
        }
    }

    /// The guardrails, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Guardrail> {
        self.guardrails.values()
    }

    /// The guardrail of this id.
    pub fn get(&self, id: &str) -> Option<&Guardrail> {
        self.guardrails.get(id)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.guardrails.is_empty()
    }

    /// Those that can apply to the action.
    pub(crate) fn to(&self, action: Action) -> impl Iterator<Item = &Together> {
        self.applicable.iter().filter_map(move |file| file.to(action))
    }

    pub(crate) fn message(&self, id: &str) -> Option<String> {
        self.get(id).and_then(|guardrail| guardrail.message.clone())
    }
}

/// The `@id` of a policy that forbids.
fn id_of(file: &str, policy: &Policy) -> Result<String, GuardrailError> {
    let nth = || {
        let given: &str = policy.id().as_ref();
        let place: Option<usize> = given
            .strip_prefix("policy")
            .and_then(|number| number.parse().ok());
        place.map_or_else(|| "a policy".to_owned(), |place| format!("policy {}", place + 1))
    };
    let id = policy.annotation("id").filter(|id| {
        (1..=64).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    if policy.effect() == Effect::Permit {
        return Err(GuardrailError::Permits {
            file: file.to_owned(),
            policy: id.map_or_else(nth, str::to_owned),
        });
    }
    id.map(str::to_owned).ok_or_else(|| GuardrailError::NoId {
        file: file.to_owned(),
        policy: nth(),
    })
}

fn add(set: &mut PolicySet, policy: &Policy, id: &str, file: &str) -> Result<(), GuardrailError> {
    set.add(policy.new_id(PolicyId::new(id)))
        .map_err(|_| GuardrailError::Duplicate {
            file: file.to_owned(),
            id: id.to_owned(),
        })
}

pub(crate) fn schema() -> Result<Schema, GuardrailError> {
    Schema::from_cedarschema_str(SCHEMA)
        .map(|(schema, _)| schema)
        .map_err(|error| GuardrailError::BuiltIn(error.to_string()))
}

/// Strict validation; a warning (a policy that can never apply, letters that look like others) is refused too,
/// because a guardrail that silently does nothing is worse than none.
fn check(file: &str, text: &str, policies: &PolicySet) -> Result<(), GuardrailError> {
    let found = Validator::new(schema()?).validate(policies, ValidationMode::Strict);
    let refusal = |id: &PolicyId, error: &dyn Diagnostic| {
        let (line, column) = place(text, error);
        // Cedar names the policy too.
        let said = |text: String| text.replace(&format!("for policy `{id}`, "), "");
        let message = match error.help() {
            Some(help) => format!("{} ({})", said(error.to_string()), said(help.to_string())),
            None => said(error.to_string()),
        };
        GuardrailError::Schema {
            file: file.to_owned(),
            line,
            column,
            id: id.to_string(),
            message,
        }
    };
    // Cedar reports in no order: the first in the file is the one to tell. That no action applies mostly
    // follows from something else, so that it comes last.
    let errors = found.validation_errors().map(|error| {
        let follows = matches!(error, ValidationError::InvalidActionApplication(_));
        (follows, refusal(error.policy_id(), error))
    });
    let warnings = found
        .validation_warnings()
        .map(|warning| (true, refusal(warning.policy_id(), warning)));
    errors
        .chain(warnings)
        .min_by_key(|(follows, error)| match error {
            GuardrailError::Schema {
                line,
                column,
                message,
                ..
            } => (*follows, *line, *column, message.clone()),
            _ => (*follows, 0, 0, String::new()),
        })
        .map_or(Ok(()), |(_, error)| Err(error))
}

/// Line and column of what an error points at, from 1.
fn place(text: &str, error: &dyn Diagnostic) -> (usize, usize) {
    let offset = error
        .labels()
        .and_then(|mut labels| labels.next())
        .map_or(0, |label| label.offset());
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
