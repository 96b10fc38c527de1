//! Who may do what: roles as Cedar templates, role assignments as their links, guardrails over all.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use cedar_policy::{
    AuthorizationError, Authorizer as Cedar, Entities, PolicyId, PolicySet, Request, Response, SlotId,
    Template,
};
use postern_core::{
    id::AssignmentId,
    principal::{Principal, PrincipalRef},
    role::{Action, Role, RoleAssignment},
    scope::Scope,
    time::Instant,
};

use crate::{
    applicable::Together,
    decision::{AllowedBy, Decision, Failure, ForbiddenBy, Missing},
    entities::{Context, Names, Resource},
    guardrail::GuardrailSet,
    looked_at::LookedAt,
    memo::Question,
};

/// Why an [`Authorizer`] cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthzError {
    /// Two roles of one name.
    #[error("role `{0}` is there twice")]
    DuplicateRole(String),
    /// Two assignments of one id.
    #[error("role assignment `{0}` is there twice")]
    DuplicateAssignment(AssignmentId),
    /// Cedar refuses what Postern made; a defect.
    #[error("cedar: {0}")]
    Cedar(String),
}

/// An assignment of a role that does not exist. It grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("role assignment `{assignment}` names role `{role}`, which does not exist; it grants nothing")]
pub struct UnknownRole {
    /// The assignment.
    pub assignment: AssignmentId,
    /// The role's name.
    pub role: String,
}

/// A snapshot of roles, role assignments and guardrails.
///
/// An assignment of an unknown role grants nothing and is listed in [`Authorizer::unknown_roles`]; it is no
/// error, because then one bad row would keep everybody's changes, revocations among them, from taking effect.
#[derive(Debug)]
pub struct Authorizer {
    cedar: Cedar,
    names: Names,
    roles: BTreeMap<String, Role>,
    templates: HashMap<String, Template>,
    assignments: Vec<RoleAssignment>,
    /// The assignments of each principal, in order: the scope's number, and the place in `assignments`. A decision looks at
    /// few of many.
    by_principal: HashMap<PrincipalRef, Vec<(usize, usize)>>,
    by_scope: HashMap<Scope, Standing>,
    unknown_roles: Vec<UnknownRole>,
    guardrails: GuardrailSet,
    /// What the guardrails of each action look at.
    looked_at: HashMap<Action, LookedAt>,
}

/// The assignments at one scope.
#[derive(Debug)]
struct Standing {
    /// The scope's number, by which the assignments of a principal are found.
    scope: usize,
    /// Places in `assignments`.
    assignments: Vec<usize>,
}

impl Authorizer {
    /// From every role (built-in and custom), every assignment and the guardrails.
    pub fn new(
        roles: impl IntoIterator<Item = Role>,
        assignments: impl IntoIterator<Item = RoleAssignment>,
        guardrails: GuardrailSet,
    ) -> Result<Self, AuthzError> {
        let names = Names::new()?;
        let looked_at = Action::ALL
            .iter()
            .map(|action| {
                let mut all = LookedAt::default();
                guardrails
                    .to(*action)
                    .for_each(|together| all.add_all(together.looked_at()));
                (*action, all)
            })
            .collect();
        let mut authorizer = Self {
            cedar: Cedar::new(),
            looked_at,
            names,
            roles: BTreeMap::new(),
            templates: HashMap::new(),
            assignments: Vec::new(),
            by_principal: HashMap::new(),
            by_scope: HashMap::new(),
            unknown_roles: Vec::new(),
            guardrails,
        };
        for role in roles {
            authorizer.templates.insert(role.name.clone(), template(&role)?);
            let name = role.name.clone();
            if authorizer.roles.insert(name.clone(), role).is_some() {
                return Err(AuthzError::DuplicateRole(name));
            }
        }
        let mut seen = HashSet::new();
        for assignment in assignments {
            if !authorizer.roles.contains_key(&assignment.role) {
                authorizer.unknown_roles.push(UnknownRole {
                    assignment: assignment.id,
                    role: assignment.role,
                });
            } else if seen.insert(assignment.id) {
                authorizer.assign(assignment);
            } else {
                return Err(AuthzError::DuplicateAssignment(assignment.id));
            }
        }
        for theirs in authorizer.by_principal.values_mut() {
            theirs.sort_unstable();
            theirs.shrink_to_fit();
        }
        Ok(authorizer)
    }

    fn assign(&mut self, assignment: RoleAssignment) {
        let (place, scopes) = (self.assignments.len(), self.by_scope.len());
        let standing = self
            .by_scope
            .entry(assignment.scope.clone())
            .or_insert_with(|| Standing {
                scope: scopes,
                assignments: Vec::new(),
            });
        standing.assignments.push(place);
        self.by_principal
            .entry(assignment.principal.clone())
            .or_default()
            .push((standing.scope, place));
        self.assignments.push(assignment);
    }

    /// Assignments that grant nothing, because their role does not exist; worth a warning in the log.
    pub fn unknown_roles(&self) -> &[UnknownRole] {
        &self.unknown_roles
    }

    /// The guardrails.
    pub const fn guardrails(&self) -> &GuardrailSet {
        &self.guardrails
    }

    /// Whether `principal` may do `action` to `resource` in these circumstances, and why.
    pub fn decide(
        &self,
        principal: &Principal,
        action: Action,
        resource: &Resource,
        context: &Context,
    ) -> Decision {
        let references: Vec<PrincipalRef> = principal.references().collect();
        let mut decision = Decision {
            allowed: false,
            principal: principal.reference(),
            action,
            scope: resource.scope.clone(),
            allowed_by: Vec::new(),
            forbidden_by: Vec::new(),
            errors: Vec::new(),
            missing: None,
        };
        if let Err(error) = self.ask(principal, &references, resource, context, &mut decision) {
            decision.errors.push(Failure {
                policy: None,
                error: error.to_string(),
            });
        }
        if decision.allowed_by.is_empty() {
            decision.missing = Some(Missing {
                action,
                scope: resource.scope.clone(),
                principals: references,
                roles: self.roles_granting(action),
            });
        }
        decision.allowed =
            !decision.allowed_by.is_empty() && decision.forbidden_by.is_empty() && decision.errors.is_empty();
        decision
    }

    /// Puts the question to Cedar: the role assignments once, the guardrails for every pair of port and source.
    /// Apart, so that a refusal names both the guardrail that forbids and the role that is missing; together
    /// they are Cedar's own rule, that any forbid overrides every permit.
    fn ask(
        &self,
        principal: &Principal,
        references: &[PrincipalRef],
        resource: &Resource,
        context: &Context,
        decision: &mut Decision,
    ) -> Result<(), AuthzError> {
        let guardrails: Vec<&Together> = self.guardrails.to(decision.action).collect();
        let nothing = LookedAt::default();
        let looked_at = self.looked_at.get(&decision.action).unwrap_or(&nothing);
        let assignments = self.slice(references, decision.action, resource, context.now);
        let entities = Entities::from_entities(
            [
                self.names
                    .principal_entity(principal, references, &assignments, looked_at)?,
                self.names.resource_entity(resource, &assignments, looked_at)?,
            ],
            None,
        )
        .map_err(|error| AuthzError::Cedar(error.to_string()))?;
        let who = self.names.principal(&decision.principal);
        let what = self.names.scope(&resource.scope);
        let action = self.names.action(decision.action);
        let request = |context| {
            Request::new(who.clone(), action.clone(), what.clone(), context, None)
                .map_err(|error| AuthzError::Cedar(error.to_string()))
        };

        let mut errors = BTreeSet::new();
        // Without a link, Cedar denies.
        if !assignments.is_empty() {
            let links = self.links(&assignments)?;
            let request = request(cedar_policy::Context::empty())?;
            let answer = self.cedar.is_authorized(&request, &links, &entities);
            let reasons = answer.diagnostics().reason();
            decision.allowed_by = reasons
                .filter_map(|id| assignment_of(id, &assignments))
                .map(|assignment| AllowedBy {
                    assignment: assignment.id,
                    role: assignment.role.clone(),
                    scope: assignment.scope.clone(),
                    principal: assignment.principal.clone(),
                })
                .collect();
            decision.allowed_by.sort();
            errors.extend(failures(&answer).map(|failure| {
                Failure {
                    policy: failure
                        .policy
                        .and_then(|id| assignment_of(&PolicyId::new(id), &assignments))
                        .map(|assignment| assignment.id.to_string()),
                    ..failure
                }
            }));
        }

        let mut forbidden: BTreeMap<String, (usize, ForbiddenBy)> = BTreeMap::new();
        let mut pairs = 0_usize;
        if !guardrails.is_empty() {
            for (ports, source) in context.pairs() {
                pairs += 1;
                let networks = self.guardrails.networks();
                let question = Question {
                    principal,
                    resource,
                    context,
                    ports,
                    source,
                };
                let made = LazyCell::new(|| {
                    request(context.cedar(ports, source, &self.names, networks, looked_at)?)
                });
                for together in &guardrails {
                    let request = || made.as_ref().map_err(Clone::clone);
                    let Some(answer) = together.ask(&self.cedar, &question, request, &entities)? else {
                        continue;
                    };
                    errors.extend(failures(&answer));
                    for id in answer.diagnostics().reason() {
                        let id: &str = id.as_ref();
                        forbidden
                            .entry(id.to_owned())
                            .or_insert_with(|| {
                                let by = ForbiddenBy {
                                    guardrail: id.to_owned(),
                                    message: self.guardrails.message(id),
                                    ports,
                                    source,
                                };
                                (0, by)
                            })
                            .0 += 1;
                    }
                }
            }
        }
        decision.errors = errors.into_iter().collect();
        decision.forbidden_by = forbidden
            .into_values()
            .map(|(times, mut by)| {
                if times == pairs {
                    (by.ports, by.source) = (None, None);
                }
                by
            })
            .collect();
        Ok(())
    }

    /// The assignments of these principals at the resource's scope and above that could permit `action`. Those that ended,
    /// or are for machines with other tags, are no part of the question; those whose role has nothing to do with `action`
    /// could not permit it, and linking is what costs.
    fn slice(
        &self,
        references: &[PrincipalRef],
        action: Action,
        resource: &Resource,
        now: Instant,
    ) -> Vec<&RoleAssignment> {
        let scopes = self.numbers_above(&resource.scope);
        let standing = references
            .iter()
            .flat_map(|reference| self.standing(reference, &scopes));
        standing
            .filter(|assignment| {
                self.allows(assignment, action)
                    && assignment.counts_at(now)
                    && assignment.is_for(&resource.tags)
            })
            .collect()
    }

    /// The numbers of this scope and of those above it, as far as anything is assigned there.
    fn numbers_above(&self, scope: &Scope) -> Vec<usize> {
        let above = scope.ancestors();
        above
            .filter_map(|above| Some(self.by_scope.get(&above)?.scope))
            .collect()
    }

    /// The assignments of `principal` itself at the scopes of these numbers.
    fn standing(&self, principal: &PrincipalRef, scopes: &[usize]) -> impl Iterator<Item = &RoleAssignment> {
        let theirs = self.by_principal.get(principal).map_or(&[][..], Vec::as_slice);
        scopes
            .iter()
            .flat_map(move |number| {
                let first = theirs.partition_point(|(scope, _)| scope < number);
                let from = theirs.get(first..).unwrap_or_default();
                from.iter().take_while(move |(scope, _)| scope == number)
            })
            .filter_map(|(_, place)| self.assignments.get(*place))
    }

    /// These assignments as links. The first has the id `#0`, and so on, which Cedar keeps without allocating, and which
    /// no role has.
    fn links(&self, assignments: &[&RoleAssignment]) -> Result<PolicySet, AuthzError> {
        let failed = |error: cedar_policy::PolicySetError| AuthzError::Cedar(error.to_string());
        let mut links = PolicySet::new();
        let mut templates = BTreeSet::new();
        for (place, assignment) in assignments.iter().enumerate() {
            let Some(template) = self.templates.get(&assignment.role) else {
                continue;
            };
            if templates.insert(&assignment.role) {
                links.add_template(template.clone()).map_err(failed)?;
            }
            let id = PolicyId::new(format!("#{place}"));
            let slots = HashMap::from([
                (SlotId::principal(), self.names.principal(&assignment.principal)),
                (SlotId::resource(), self.names.scope(&assignment.scope)),
            ]);
            links.link(template.id().clone(), id, slots).map_err(failed)?;
        }
        Ok(links)
    }

    /// The names of the roles that allow `action`, those that allow the least first.
    pub fn roles_granting(&self, action: Action) -> Vec<String> {
        let mut roles: Vec<&Role> = self
            .roles
            .values()
            .filter(|role| role.actions.contains(&action))
            .collect();
        roles.sort_by_key(|role| role.actions.len());
        roles.into_iter().map(|role| role.name.clone()).collect()
    }

    /// The role assignments that allow `action` to `resource` at `now`, to whomever, in the order of their ids.
    /// Guardrails may still forbid it.
    pub fn who_may(&self, action: Action, resource: &Resource, now: Instant) -> Vec<&RoleAssignment> {
        let mut found: Vec<&RoleAssignment> = resource
            .scope
            .ancestors()
            .filter_map(|above| self.by_scope.get(&above))
            .flat_map(|standing| &standing.assignments)
            .filter_map(|place| self.assignments.get(*place))
            .filter(|assignment| {
                self.allows(assignment, action)
                    && assignment.counts_at(now)
                    && assignment.is_for(&resource.tags)
            })
            .collect();
        found.sort_by_key(|assignment| assignment.id);
        found
    }

    /// The scopes at which role assignments allow `action` to `principal` at `now`, without those that lie below
    /// another: what a listing shows. Guardrails are not asked, because they may depend on each machine. Assignments
    /// that are only for machines with certain tags are in [`Authorizer::tagged_scopes`].
    pub fn scopes(&self, principal: &Principal, action: Action, now: Instant) -> Vec<Scope> {
        let references: Vec<PrincipalRef> = principal.references().collect();
        let all: BTreeSet<&Scope> = references
            .iter()
            .flat_map(|reference| self.of(reference))
            .filter(|assignment| {
                assignment.tags.is_empty() && assignment.counts_at(now) && self.allows(assignment, action)
            })
            .map(|assignment| &assignment.scope)
            .collect();
        let mut top: Vec<Scope> = Vec::new();
        // A scope sorts before what lies below it.
        for scope in all {
            if !top.last().is_some_and(|above| above.contains(scope)) {
                top.push(scope.clone());
            }
        }
        top
    }

    /// The scopes at which role assignments allow `action` to `principal` at `now` for the machines alone that carry
    /// all of the tags that go with each.
    pub fn tagged_scopes(
        &self,
        principal: &Principal,
        action: Action,
        now: Instant,
    ) -> Vec<(Scope, BTreeMap<String, String>)> {
        let references: Vec<PrincipalRef> = principal.references().collect();
        let found: BTreeSet<(Scope, BTreeMap<String, String>)> = references
            .iter()
            .flat_map(|reference| self.of(reference))
            .filter(|assignment| {
                !assignment.tags.is_empty() && assignment.counts_at(now) && self.allows(assignment, action)
            })
            .map(|assignment| (assignment.scope.clone(), assignment.tags.clone()))
            .collect();
        found.into_iter().collect()
    }

    /// The assignments of `principal` itself.
    fn of(&self, principal: &PrincipalRef) -> impl Iterator<Item = &RoleAssignment> {
        let theirs = self.by_principal.get(principal).into_iter().flatten();
        theirs.filter_map(|(_, place)| self.assignments.get(*place))
    }

    /// What the role allows; nothing where there is none by that name.
    pub fn actions_of(&self, role: &str) -> BTreeSet<Action> {
        self.roles
            .get(role)
            .map(|role| role.actions.clone())
            .unwrap_or_default()
    }

    /// Whether an assignment to this very principal, other than `besides`, allows `action` to `resource` at `now`. What
    /// its groups have does not count here.
    pub fn has_by_name(
        &self,
        principal: &PrincipalRef,
        action: Action,
        resource: &Resource,
        now: Instant,
        besides: AssignmentId,
    ) -> bool {
        self.standing(principal, &self.numbers_above(&resource.scope))
            .filter(|assignment| assignment.id != besides)
            .any(|assignment| {
                self.allows(assignment, action)
                    && assignment.counts_at(now)
                    && assignment.is_for(&resource.tags)
            })
    }

    fn allows(&self, assignment: &RoleAssignment, action: Action) -> bool {
        self.roles
            .get(&assignment.role)
            .is_some_and(|role| role.actions.contains(&action))
    }
}

/// A role as a template.
fn template(role: &Role) -> Result<Template, AuthzError> {
    let actions: Vec<String> = role
        .actions
        .iter()
        .map(|action| format!("Action::\"{action}\""))
        .collect();
    let text = format!(
        "permit (principal in ?principal, action in [{}], resource in ?resource);",
        actions.join(", ")
    );
    Template::parse(Some(PolicyId::new(&role.name)), text)
        .map_err(|error| AuthzError::Cedar(error.to_string()))
}

/// The assignment that a link is of.
fn assignment_of<'a>(link: &PolicyId, linked: &[&'a RoleAssignment]) -> Option<&'a RoleAssignment> {
    let place: &str = link.as_ref();
    linked
        .get(place.strip_prefix('#')?.parse::<usize>().ok()?)
        .copied()
}

fn failures(answer: &Response) -> impl Iterator<Item = Failure> + '_ {
    answer
        .diagnostics()
        .errors()
        .map(|AuthorizationError::PolicyEvaluationError(error)| Failure {
            policy: Some(error.policy_id().to_string()),
            error: error.to_string(),
        })
}
