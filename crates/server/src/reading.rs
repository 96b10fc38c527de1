//! Reading requests and grants: who may, and how they are shown.

use postern_api::{ErrorCode, access_request as api, grant as api_grant};
use postern_authz::{Authorizer, Context, Decision, Resource, ResourceKind};
use postern_core::{
    audit::Subject,
    grant::Grant,
    request::{AccessRequest, RequestState},
    role::Action,
};

use crate::{
    decide::Question,
    failure::Failure,
    flow::authenticate::Caller,
    granting::{self, machines_of},
    shape::{access_request, machine},
    state::App,
};

/// A refusal as somebody gets it who may not see what it is about.
pub(crate) fn hidden(refusal: Failure, what: &str) -> Failure {
    match refusal.code() {
        ErrorCode::Forbidden
        | ErrorCode::NotTheRequester
        | ErrorCode::NotTheHolder
        | ErrorCode::NotAReviewer => Failure::not_found(what),
        _ => refusal,
    }
}

/// The most findings that one answer shows.
pub(crate) const MOST_FINDINGS: u32 = 50;

/// What the grant opens, as somebody would ask for it.
pub(crate) fn target_of(grant: &Grant) -> api::AskedTarget {
    api::AskedTarget {
        machine: grant.machine.to_string(),
        ports: grant.ports.iter().map(ToString::to_string).collect(),
        sources: Some(grant.sources.iter().map(ToString::to_string).collect()),
    }
}

impl App {
    /// The question whether somebody may do something to a grant.
    pub(crate) async fn about_grant(
        &self,
        grant: &Grant,
        action: Action,
        event: &'static str,
        reason: Option<String>,
    ) -> Result<Question, Failure> {
        let tags = self
            .store
            .machine(&grant.machine)
            .await?
            .map(|stored| stored.machine.tags)
            .unwrap_or_default();
        Ok(Question {
            action,
            resource: Resource {
                scope: grant.machine.scope(),
                tags,
                kind: ResourceKind::Grant,
            },
            context: Context {
                now: self.now(),
                ports: grant.ports.clone(),
                sources: grant.sources.clone(),
                duration_seconds: Some(grant.duration.as_secs()),
                reason_present: reason.is_some(),
            },
            event,
            subject: Subject {
                request: Some(grant.request),
                grant: Some(grant.id),
                machine: Some(grant.machine.clone()),
                ..Subject::default()
            },
            reason,
        })
    }

    /// The decision by which the caller may still approve at the grant's machine, if they are one of those who approved
    /// its request.
    pub(crate) async fn approved_by(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        grant: &Grant,
        reason: Option<String>,
    ) -> Result<Option<Decision>, Failure> {
        let request = self.store.request(grant.request).await?;
        let agreed = request.is_some_and(|request| {
            let mut agreements = request.agreements.iter();
            agreements.any(|agreement| agreement.by.reference() == caller.reference())
        });
        if !agreed {
            return Ok(None);
        }
        let question = self
            .about_grant(grant, Action::Approve, "grant.revoke", reason)
            .await?;
        let decision = self.decide(authorizer, &caller.principal, &question);
        Ok(decision.allowed.then_some(decision))
    }

    /// Whether the caller may see the request: their own, or one of whose machines they may read every one. A request
    /// is shown whole or not at all, so that a reader of one machine learns of no other.
    pub(crate) async fn may_see_request(
        &self,
        caller: &Caller,
        request: &AccessRequest,
        what: &str,
    ) -> Result<(), Failure> {
        if request.requester == caller.reference() {
            return Ok(());
        }
        let authorizer = self.authorizer().await?;
        let mut tags = self.store.tags_of(&machines_of(request)).await?;
        for target in &request.targets {
            let question = Question {
                action: Action::Read,
                resource: Resource {
                    scope: target.machine.scope(),
                    tags: tags.remove(&target.machine).unwrap_or_default(),
                    kind: ResourceKind::AccessRequest,
                },
                context: Context::at(self.now()),
                event: "access_request.read",
                subject: Subject {
                    request: Some(request.id),
                    machine: Some(target.machine.clone()),
                    ..Subject::default()
                },
                reason: None,
            };
            self.allow_read(&authorizer, caller, question)
                .await
                .map_err(|failure| hidden(failure, what))?;
        }
        Ok(())
    }

    /// `refusal`, to who may see the request; to others, that there is no `what`. A refusal names machines and roles, and
    /// that it is one says that the id is somebody's.
    pub(crate) async fn refusal_about(
        &self,
        caller: &Caller,
        request: &AccessRequest,
        what: &str,
        refusal: Failure,
    ) -> Failure {
        if request.requester == caller.reference() {
            return refusal;
        }
        let seen = async {
            let authorizer = self.authorizer().await?;
            let tags = self.store.tags_of(&machines_of(request)).await?;
            let resources = request.targets.iter().map(|target| Resource {
                scope: target.machine.scope(),
                tags: tags.get(&target.machine).cloned().unwrap_or_default(),
                kind: ResourceKind::AccessRequest,
            });
            Ok::<_, Failure>(self.may_read_all(&authorizer, caller, resources))
        };
        match seen.await {
            Ok(true) => refusal,
            Ok(false) => hidden(refusal, what),
            Err(failure) => failure,
        }
    }

    /// Whether the caller may read all of it. Not a decision that anything comes of, so it is not counted or written.
    pub(crate) fn may_read_all(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        resources: impl IntoIterator<Item = Resource>,
    ) -> bool {
        let context = Context::at(self.now());
        resources.into_iter().all(|resource| {
            authorizer
                .decide(&caller.principal, Action::Read, &resource, &context)
                .allowed
        })
    }

    /// What guardrails leave of items that were chosen by the scopes of role assignments: those whose every
    /// resource the caller may do this to.
    pub(crate) fn not_forbidden<T>(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        action: Action,
        items: Vec<T>,
        resources: impl Fn(&T) -> Vec<Resource>,
    ) -> Vec<T> {
        if authorizer.guardrails().is_empty() {
            return items;
        }
        let context = Context::at(self.now());
        let allowed = |resource: &Resource| {
            authorizer
                .decide(&caller.principal, action, resource, &context)
                .allowed
        };
        items
            .into_iter()
            .filter(|item| resources(item).iter().all(allowed))
            .collect()
    }

    /// The grants that came of the request.
    pub(crate) async fn grants_of(&self, request: &AccessRequest) -> Result<Vec<Grant>, Failure> {
        match (&request.state, request.extends) {
            (RequestState::Approved(_), Some(grant)) => {
                Ok(self.store.grant(grant).await?.into_iter().collect())
            }
            (RequestState::Approved(_), None) => Ok(self.store.grants_of_request(request.id).await?),
            _ => Ok(Vec::new()),
        }
    }

    /// The request as it is, with its grants and their hops.
    pub(crate) async fn show_request(&self, request: &AccessRequest) -> Result<api::AccessRequest, Failure> {
        let grants = self.grants_of(request).await?;
        self.show_request_with(request, &grants).await
    }

    /// The requests as they are, each with its grants and their hops, in two statements however many they are.
    pub(crate) async fn show_requests(
        &self,
        requests: &[AccessRequest],
    ) -> Result<Vec<api::AccessRequest>, Failure> {
        let approved = || {
            requests
                .iter()
                .filter(|request| matches!(request.state, RequestState::Approved(_)))
        };
        let own: Vec<_> = approved()
            .filter(|request| request.extends.is_none())
            .map(|request| request.id)
            .collect();
        let extended: Vec<_> = approved().filter_map(|request| request.extends).collect();
        let grants = self.store.grants_of_requests(&own, &extended).await?;
        let ids: Vec<_> = grants.iter().map(|grant| grant.id).collect();
        let hops = self.store.hops_of(&ids).await?;
        let now = self.now();
        let show = |request: &AccessRequest| {
            let came_of_it = |grant: &&Grant| match (&request.state, request.extends) {
                (RequestState::Approved(_), Some(extended)) => grant.id == extended,
                (RequestState::Approved(_), None) => grant.request == request.id,
                _ => false,
            };
            let grants: Vec<Grant> = grants.iter().filter(came_of_it).cloned().collect();
            let hops = grants
                .iter()
                .filter_map(|grant| Some((grant.id, hops.get(&grant.id)?.clone())))
                .collect();
            access_request::show(request, granting::show_all(&grants, hops), now)
        };
        Ok(requests.iter().map(show).collect())
    }

    /// The request as it is, with these grants of it and their hops.
    pub(crate) async fn show_request_with(
        &self,
        request: &AccessRequest,
        grants: &[Grant],
    ) -> Result<api::AccessRequest, Failure> {
        let ids: Vec<_> = grants.iter().map(|grant| grant.id).collect();
        let hops = self.store.hops_of(&ids).await?;
        Ok(access_request::show(
            request,
            granting::show_all(grants, hops),
            self.now(),
        ))
    }

    /// The grant as it is, with its hops.
    pub(crate) async fn show_grant(&self, grant: &Grant) -> Result<api_grant::Grant, Failure> {
        let hops = self.store.hops_of(&[grant.id]).await?;
        let mut shown = granting::show_all(std::slice::from_ref(grant), hops)
            .pop()
            .ok_or_else(|| Failure::internal("one grant is shown as one"))?;
        let findings = self.store.findings_of_grant(grant.id, MOST_FINDINGS).await?;
        shown.findings = findings.into_iter().map(machine::finding).collect();
        Ok(shown)
    }
}
