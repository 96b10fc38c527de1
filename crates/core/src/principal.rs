//! Principals: who asks, as a verified token says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::time::Instant;

/// Whether a person or a program asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A person.
    Human,
    /// A CI job or a service.
    Workload,
}

/// Claims that name a person, where the issuer's configuration keeps them. The last ones are those by which pipelines say
/// who started them: GitHub's `actor`, GitLab's `user_login` and `user_email`.
const NAMES_A_PERSON: [&str; 6] = [
    "email",
    "preferred_username",
    "upn",
    "actor",
    "user_login",
    "user_email",
];

/// A name without what people do not tell names by.
fn comparable(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Who asks. Comes from a verified token, never from a request's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// A person or a program.
    pub kind: PrincipalKind,
    /// The configured name of the issuer that vouches for them.
    pub issuer: String,
    /// The subject, unique within the issuer.
    pub subject: String,
    /// A name for people, where the token has one.
    pub name: Option<String>,
    /// Groups that the token names.
    pub groups: BTreeSet<String>,
    /// Whether the token proves a second factor.
    pub mfa: bool,
    /// When they proved who they are to the issuer, where the token says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<Instant>,
    /// Other claims that guardrails may look at, as configured.
    pub claims: BTreeMap<String, serde_json::Value>,
}

impl Principal {
    /// What is known of somebody by name alone: no groups, no second factor and no claims.
    pub fn named(reference: &PrincipalRef) -> Self {
        let (issuer, subject) = reference.name().split_once('/').unwrap_or((reference.name(), ""));
        Self {
            kind: match reference {
                PrincipalRef::Workload(_) => PrincipalKind::Workload,
                PrincipalRef::User(_) | PrincipalRef::Group(_) => PrincipalKind::Human,
            },
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            name: None,
            groups: BTreeSet::new(),
            mfa: false,
            authenticated_at: None,
            claims: BTreeMap::new(),
        }
    }

    /// The reference that role assignments and the audit log use.
    pub fn reference(&self) -> PrincipalRef {
        let name = format!("{}/{}", self.issuer, self.subject);
        match self.kind {
            PrincipalKind::Human => PrincipalRef::User(name),
            PrincipalKind::Workload => PrincipalRef::Workload(name),
        }
    }

    /// Whether the two could be one and the same: they have a name in common, whatever the issuer or kind. Errs towards
    /// yes, because it guards against somebody agreeing with themselves.
    pub fn may_be(&self, other: &Self) -> bool {
        let theirs: BTreeSet<String> = other.names().collect();
        self.names().any(|name| theirs.contains(&name))
    }

    /// Whether `name`, a subject of some issuer's, could be this one's; see [`Principal::may_be`].
    pub fn may_be_named(&self, name: &str) -> bool {
        let name = comparable(name);
        self.names().any(|own| own == name)
    }

    /// What it is called: the subject and the claims that name a person. What one issuer has as a mail address another
    /// has as the subject, so they are all names alike.
    fn names(&self) -> impl Iterator<Item = String> + '_ {
        let claims = NAMES_A_PERSON
            .iter()
            .filter_map(|claim| self.claims.get(*claim)?.as_str());
        std::iter::once(self.subject.as_str())
            .chain(claims)
            .map(comparable)
            .filter(|name| !name.is_empty())
    }

    /// Everything that a role assignment may name to reach this principal: itself and its groups.
    pub fn references(&self) -> impl Iterator<Item = PrincipalRef> + '_ {
        std::iter::once(self.reference()).chain(
            self.groups
                .iter()
                .map(|group| PrincipalRef::Group(format!("{}/{group}", self.issuer))),
        )
    }
}

/// Whom a role assignment names. Text form: `user:<issuer>/<subject>`, `group:<issuer>/<group>`,
/// `workload:<issuer>/<subject>`; the issuer by its configured name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PrincipalRef {
    /// A person.
    User(String),
    /// A group.
    Group(String),
    /// A program.
    Workload(String),
}

impl PrincipalRef {
    /// `<issuer>/<subject>`, or `<issuer>/<group>`: who it is whatever the kind. Which kind a token makes of its
    /// subject is a claim mapping's word, and mappings change; the issuer and the subject stay.
    pub fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Group(name) | Self::Workload(name) => name,
        }
    }

    /// Whether a person is named.
    pub const fn is_person(&self) -> bool {
        matches!(self, Self::User(_))
    }
}

/// A text that names no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no principal: expected `user:<issuer>/<subject>`, `group:<issuer>/<group>` or `workload:<issuer>/<subject>`"
)]
pub struct InvalidPrincipalRef(String);

impl fmt::Display for PrincipalRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Workload(name) => write!(f, "workload:{name}"),
        }
    }
}

impl FromStr for PrincipalRef {
    type Err = InvalidPrincipalRef;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipalRef> {
        let invalid = || InvalidPrincipalRef(text.chars().take(120).collect());
        let (kind, name) = text.split_once(':').ok_or_else(invalid)?;
        let (issuer, subject) = name.split_once('/').ok_or_else(invalid)?;
        if issuer.is_empty() || subject.is_empty() || name.len() > 400 || name.chars().any(char::is_control) {
            return Err(invalid());
        }
        match kind {
            "user" => Ok(Self::User(name.to_owned())),
            "group" => Ok(Self::Group(name.to_owned())),
            "workload" => Ok(Self::Workload(name.to_owned())),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for PrincipalRef {
    type Error = InvalidPrincipalRef;

    fn try_from(text: String) -> Result<Self, InvalidPrincipalRef> {
        text.parse()
    }
}

impl From<PrincipalRef> for String {
    fn from(principal: PrincipalRef) -> Self {
        principal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_reached_by_itself_and_by_its_groups_of_the_same_issuer() {
        let principal = Principal {
            kind: PrincipalKind::Human,
            issuer: "corp".into(),
            subject: "ada".into(),
            name: None,
            groups: ["sre".to_owned()].into(),
            mfa: false,
            authenticated_at: None,
            claims: BTreeMap::new(),
        };
        let names: Vec<String> = principal.references().map(|r| r.to_string()).collect();
        assert_eq!(names, ["user:corp/ada", "group:corp/sre"]);
    }

    #[test]
    fn a_reference_needs_kind_issuer_and_name() {
        for text in [
            "",
            "ada",
            "user:ada",
            "user:/ada",
            "user:corp/",
            "robot:corp/x",
            "user:corp/a\nb",
        ] {
            assert!(text.parse::<PrincipalRef>().is_err(), "{text:?}");
        }
        assert_eq!(
            "workload:ci/repo:org/app:ref"
                .parse::<PrincipalRef>()
                .unwrap()
                .to_string(),
            "workload:ci/repo:org/app:ref"
        );
    }
}
