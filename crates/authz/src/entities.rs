//! What a decision is about, in our words and in Cedar's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use chrono::{Datelike, SecondsFormat, Timelike};
use postern_core::{
    net::{Ports, Source},
    principal::{Principal, PrincipalRef},
    role::{Action, RoleAssignment},
    scope::Scope,
    time::Instant,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AuthzError, looked_at::LookedAt, network::Networks};

/// What a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// A scope itself, such as for listing what is below it.
    Scope,
    /// A machine.
    Machine,
    /// A JIT policy.
    JitPolicy,
    /// An access request.
    AccessRequest,
    /// A grant.
    Grant,
    /// A role.
    Role,
    /// A role assignment.
    RoleAssignment,
    /// An audit event.
    AuditEvent,
}

impl ResourceKind {
    /// The word in guardrails.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Machine => "machine",
            Self::JitPolicy => "jit_policy",
            Self::AccessRequest => "access_request",
            Self::Grant => "grant",
            Self::Role => "role",
            Self::RoleAssignment => "role_assignment",
            Self::AuditEvent => "audit_event",
        }
    }
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Where it is. Something about a machine (a grant, say) is at the machine's scope.
    pub scope: Scope,
    /// The tags of the machine that it is or stands for.
    pub tags: BTreeMap<String, String>,
    /// What it is.
    pub kind: ResourceKind,
}

impl Resource {
    /// A scope as such.
    pub const fn scope(scope: Scope) -> Self {
        Self {
            scope,
            tags: BTreeMap::new(),
            kind: ResourceKind::Scope,
        }
    }

    /// A machine, by its scope and tags.
    pub const fn machine(scope: Scope, tags: BTreeMap<String, String>) -> Self {
        Self {
            scope,
            tags,
            kind: ResourceKind::Machine,
        }
    }
}

/// The circumstances that guardrails may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The time of the decision.
    pub now: Instant,
    /// The ports that are asked for, if any are.
    pub ports: Vec<Ports>,
    /// From where, if that is said.
    pub sources: Vec<Source>,
    /// For how long, in seconds, if a duration is asked for.
    pub duration_seconds: Option<u64>,
    /// Whether a reason was given.
    pub reason_present: bool,
}

impl Context {
    /// Only the time: for actions that ask for no ports.
    pub const fn at(now: Instant) -> Self {
        Self {
            now,
            ports: Vec::new(),
            sources: Vec::new(),
            duration_seconds: None,
            reason_present: false,
        }
    }

    /// Every pair of a port and a source. Guardrails look at each by itself, because Cedar cannot say "any
    /// element of the set is such that".
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (Option<Ports>, Option<Source>)> + '_ {
        let each = |count: usize| usize::from(count == 0) + count;
        (0..each(self.ports.len())).flat_map(move |port| {
            (0..each(self.sources.len()))
                .map(move |source| (self.ports.get(port).copied(), self.sources.get(source).copied()))
        })
    }

    /// The Cedar context for one pair, with what is looked at.
    pub(crate) fn cedar(
        &self,
        ports: Option<Ports>,
        source: Option<Source>,
        names: &Names,
        networks: &Networks,
        looked_at: &LookedAt,
    ) -> Result<cedar_policy::Context, AuthzError> {
        let failed = |error: &dyn std::fmt::Display| AuthzError::Cedar(error.to_string());
        let mut pairs = Vec::new();
        let mut put = |name: &str, value: &dyn Fn() -> RestrictedExpression| {
            if looked_at.attribute(name) {
                pairs.push((name.to_owned(), value()));
            }
        };
        put("now", &|| datetime(self.now));
        put("hour", &|| RestrictedExpression::new_long(self.now.hour().into()));
        put("weekday", &|| {
            RestrictedExpression::new_long(self.now.weekday().number_from_monday().into())
        });
        put("reason_present", &|| {
            RestrictedExpression::new_bool(self.reason_present)
        });
        put("networks", &|| {
            RestrictedExpression::new_set(source.into_iter().flat_map(|source| {
                networks
                    .around(source)
                    .map(|name| RestrictedExpression::new_entity_uid(uid(&names.network, name)))
            }))
        });
        if let Some(source) = source {
            put("source", &|| names.source(source));
        }
        if let Some(seconds) = self.duration_seconds {
            put("duration_seconds", &|| {
                RestrictedExpression::new_long(i64::try_from(seconds).unwrap_or(i64::MAX))
            });
        }
        if let Some(ports) = ports.filter(|_| looked_at.attribute("port")) {
            let port = RestrictedExpression::new_record([
                (
                    "first".to_owned(),
                    RestrictedExpression::new_long(ports.first().into()),
                ),
                (
                    "last".to_owned(),
                    RestrictedExpression::new_long(ports.last().into()),
                ),
                (
                    "protocol".to_owned(),
                    RestrictedExpression::new_string(ports.protocol().as_str().to_owned()),
                ),
            ])
            .map_err(|error| failed(&error))?;
            pairs.push(("port".to_owned(), port));
        }
        cedar_policy::Context::from_pairs(pairs).map_err(|error| failed(&error))
    }
}

fn datetime(instant: Instant) -> RestrictedExpression {
    RestrictedExpression::new_datetime(instant.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// The entity type of named networks.
pub(crate) const NETWORK: &str = "Network";
pub(crate) const GROUP: &str = "Group";
pub(crate) const SCOPE: &str = "Scope";

/// How many sources are kept in Cedar's words: those of offices and runners come again and again.
const SOURCES: usize = 1024;

/// The names of the schema, parsed once.
#[derive(Debug)]
pub(crate) struct Names {
    user: EntityTypeName,
    group: EntityTypeName,
    workload: EntityTypeName,
    scope: EntityTypeName,
    action: EntityTypeName,
    network: EntityTypeName,
    /// For each address, Cedar would parse the name of its function for addresses anew.
    sources: Mutex<HashMap<Source, RestrictedExpression>>,
}

impl Names {
    pub(crate) fn new() -> Result<Self, AuthzError> {
        let name = |text: &str| {
            text.parse::<EntityTypeName>()
                .map_err(|error| AuthzError::Cedar(error.to_string()))
        };
        Ok(Self {
            user: name("User")?,
            group: name(GROUP)?,
            workload: name("Workload")?,
            scope: name(SCOPE)?,
            action: name("Action")?,
            network: name(NETWORK)?,
            sources: Mutex::default(),
        })
    }

    fn source(&self, source: Source) -> RestrictedExpression {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES && !sources.contains_key(&source) {
            sources.clear();
        }
        let known = sources.entry(source);
        known
            .or_insert_with(|| RestrictedExpression::new_ip(source.to_string()))
            .clone()
    }

    pub(crate) fn principal(&self, principal: &PrincipalRef) -> EntityUid {
        let (kind, name) = match principal {
            PrincipalRef::User(name) => (&self.user, name),
            PrincipalRef::Group(name) => (&self.group, name),
            PrincipalRef::Workload(name) => (&self.workload, name),
        };
        uid(kind, name)
    }

    pub(crate) fn scope(&self, scope: &Scope) -> EntityUid {
        uid(&self.scope, &scope.to_string())
    }

    pub(crate) fn action(&self, action: Action) -> EntityUid {
        uid(&self.action, action.as_str())
    }

    /// The principal with what is looked at. Its parents are those of its groups, which `references` names, that the
    /// guardrails or the assignments name too: no other could be asked about, and Cedar spends more on the hierarchy than
    /// on the question.
    pub(crate) fn principal_entity(
        &self,
        principal: &Principal,
        references: &[PrincipalRef],
        assignments: &[&RoleAssignment],
        looked_at: &LookedAt,
    ) -> Result<Entity, AuthzError> {
        let assigned: BTreeSet<&PrincipalRef> = assignments.iter().map(|one| &one.principal).collect();
        let mut claims = BTreeMap::new();
        if looked_at.tags() {
            for (name, value) in &principal.claims {
                flatten(name, value, &mut claims);
            }
        }
        let mut attributes = Vec::new();
        let mut put = |name: &str, value: &dyn Fn() -> RestrictedExpression| {
            if looked_at.attribute(name) {
                attributes.push((name.to_owned(), value()));
            }
        };
        put("issuer", &|| string(&principal.issuer));
        put("subject", &|| string(&principal.subject));
        put("mfa", &|| RestrictedExpression::new_bool(principal.mfa));
        if let Some(at) = principal.authenticated_at {
            put("authenticated_at", &|| datetime(at));
        }
        Entity::new_with_tags(
            self.principal(&principal.reference()),
            attributes,
            references
                .iter()
                .filter(|one| matches!(one, PrincipalRef::Group(_)))
                .filter(|group| looked_at.entity(GROUP, group.name()) || assigned.contains(group))
                .map(|group| self.principal(group)),
            claims
                .into_iter()
                .map(|(name, value)| (name, RestrictedExpression::new_string(value))),
        )
        .map_err(|error| AuthzError::Cedar(error.to_string()))
    }

    /// The resource with what is looked at. Its parents are those of the scopes above it that the guardrails or the
    /// assignments name, be they far above, so that scopes need no entities of their own.
    pub(crate) fn resource_entity(
        &self,
        resource: &Resource,
        assignments: &[&RoleAssignment],
        looked_at: &LookedAt,
    ) -> Result<Entity, AuthzError> {
        let assigned: BTreeSet<&Scope> = assignments.iter().map(|one| &one.scope).collect();
        let path = resource.scope.to_string();
        let mut attributes = Vec::new();
        let mut put = |name: &str, value: &dyn Fn() -> RestrictedExpression| {
            if looked_at.attribute(name) {
                attributes.push((name.to_owned(), value()));
            }
        };
        put("kind", &|| string(resource.kind.as_str()));
        put("path", &|| string(&path));
        if let Some(cloud) = resource.scope.segments().first() {
            put("cloud", &|| string(cloud));
        }
        let tags = resource.tags.iter().filter(|_| looked_at.tags());
        Entity::new_with_tags(
            uid(&self.scope, &path),
            attributes,
            resource
                .scope
                .ancestors()
                .skip(1)
                .map(|above| (above.to_string(), above))
                .filter(|(text, above)| looked_at.entity(SCOPE, text) || assigned.contains(above))
                .map(|(text, _)| uid(&self.scope, &text)),
            tags.map(|(key, value)| (key.clone(), string(value))),
        )
        .map_err(|error| AuthzError::Cedar(error.to_string()))
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// A claim as tags, the way the schema says.
fn flatten(name: &str, value: &Value, tags: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Array(elements) => {
            for element in elements {
                if let Some(text) = scalar(element) {
                    tags.insert(format!("{name}={text}"), text);
                }
            }
        }
        Value::Object(inner) => {
            for (key, value) in inner {
                flatten(&format!("{name}.{key}"), value, tags);
            }
        }
        scalar_value => tags.extend(scalar(scalar_value).map(|text| (name.to_owned(), text))),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use postern_core::{principal::PrincipalKind, testing::at};
    use serde_json::json;

    use super::*;
    use crate::guardrail::schema;

    fn a_principal(kind: PrincipalKind) -> Principal {
        Principal {
            kind,
            issuer: "ci".into(),
            subject: "repo:acme/deploy".into(),
            name: None,
            groups: ["deployers".to_owned()].into(),
            mfa: false,
            authenticated_at: Some(at(-60)),
            claims: BTreeMap::from([
                ("ref".to_owned(), json!("refs/heads/main")),
                ("amr".to_owned(), json!(["pwd", "otp", null])),
                ("run".to_owned(), json!({"attempt": 2, "protected": true})),
                ("none".to_owned(), json!(null)),
            ]),
        }
    }

    #[test]
    fn claims_become_tags_of_strings() {
        let mut tags = BTreeMap::new();
        for (name, value) in &a_principal(PrincipalKind::Workload).claims {
            flatten(name, value, &mut tags);
        }
        let shown: Vec<String> = tags
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(
            shown,
            [
                "amr=otp: otp",
                "amr=pwd: pwd",
                "ref: refs/heads/main",
                "run.attempt: 2",
                "run.protected: true"
            ]
        );
    }

    #[test]
    fn what_cedar_is_given_fits_the_schema() {
        let schema = schema().unwrap();
        let networks = Networks::new(BTreeMap::from([(
            "everywhere".to_owned(),
            vec!["::/0".parse().unwrap()],
        )]))
        .unwrap();
        let names = Names::new().unwrap();
        let everything = LookedAt::everything();
        let context = Context {
            now: at(0),
            ports: vec!["22-23/udp".parse().unwrap()],
            sources: vec!["2001:db8::/32".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
            duration_seconds: Some(u64::MAX),
            reason_present: true,
        };
        let machine = "/aws/123456789012/eu-west-1/i-0123456789abcdef0".parse().unwrap();
        let resources = [
            Resource::scope(Scope::root()),
            Resource::machine(machine, BTreeMap::from([("env".into(), "prod".into())])),
        ];
        for kind in [PrincipalKind::Human, PrincipalKind::Workload] {
            let principal = a_principal(kind);
            let references: Vec<_> = principal.references().collect();
            for resource in &resources {
                let entities = [
                    names
                        .principal_entity(&principal, &references, &[], &everything)
                        .unwrap(),
                    names.resource_entity(resource, &[], &everything).unwrap(),
                ];
                cedar_policy::Entities::from_entities(entities, Some(&schema)).unwrap();
                for action in Action::ALL {
                    for (ports, source) in context.pairs().chain(Context::at(at(0)).pairs()) {
                        cedar_policy::Request::new(
                            names.principal(&principal.reference()),
                            names.action(*action),
                            names.scope(&resource.scope),
                            context
                                .cedar(ports, source, &names, &networks, &everything)
                                .unwrap(),
                            Some(&schema),
                        )
                        .unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn every_port_is_paired_with_every_source() {
        let mut context = Context::at(at(0));
        assert_eq!(context.pairs().collect::<Vec<_>>(), [(None, None)]);
        context.ports = vec!["22".parse().unwrap(), "3389".parse().unwrap()];
        assert_eq!(context.pairs().count(), 2);
        context.sources = vec!["203.0.113.7".parse().unwrap(), "203.0.113.8".parse().unwrap()];
        assert_eq!(context.pairs().count(), 4);
    }

    #[test]
    fn sources_are_kept_as_they_are_asked_and_never_too_many() {
        let names = Names::new().unwrap();
        let address =
            |number: usize| -> Source { format!("10.0.{}.{}", number / 256, number % 256).parse().unwrap() };
        for number in (0..SOURCES * 2).chain(0..SOURCES * 2) {
            let source = address(number);
            let expected = RestrictedExpression::new_ip(source.to_string());
            assert_eq!(format!("{:?}", names.source(source)), format!("{expected:?}"));
            assert!(names.sources.lock().unwrap().len() <= SOURCES);
        }
    }
}
