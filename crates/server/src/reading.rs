//! Reading requests and grants: who may, how they are shown, and waiting until they are decided and open.

use std::time::Duration;

use postern_api::{access_request as api, grant as api_grant};
use postern_authz::{Context, Resource, ResourceKind};
use postern_core::{
    audit::Subject,
    grant::{Grant, GrantState},
    id::RequestId,
    request::{AccessRequest, RequestState},
    role::Action,
};

use crate::{
    decide::Question, failure::Failure, flow::authenticate::Caller, granting, shape::access_request,
    state::App,
};

/// The first pause between two looks of a long poll; each is twice as long as the one before…
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

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

    /// Whether the caller may see the request: their own, or one for a machine that they may read.
    pub(crate) async fn may_see_request(
        &self,
        caller: &Caller,
        request: &AccessRequest,
    ) -> Result<(), Failure> {
        if request.requester == caller.reference() {
            return Ok(());
        }
        let authorizer = self.authorizer().await?;
        let mut refused = None;
        for target in &request.targets {
            let tags = self
                .store
                .machine(&target.machine)
                .await?
                .map(|stored| stored.machine.tags)
                .unwrap_or_default();
            let question = Question {
                action: Action::Read,
                resource: Resource {
                    scope: target.machine.scope(),
                    tags,
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
            let decision = self.decide(&authorizer, &caller.principal, &question);
            if decision.allowed {
                return Ok(());
            }
            refused.get_or_insert((question, decision));
        }
        let (question, decision) = refused.ok_or_else(|| Failure::not_found("such access request"))?;
        let tx = self.store.begin().await?;
        Err(self.deny(tx, &authorizer, caller, question, &decision).await)
    }

    /// The request as it is, with its grants and their hops.
    pub(crate) async fn show_request(&self, request: &AccessRequest) -> Result<api::AccessRequest, Failure> {
        let grants = match &request.state {
            RequestState::Approved(_) => self.store.grants_of_request(request.id).await?,
            _ => Vec::new(),
        };
        let ids: Vec<_> = grants.iter().map(|grant| grant.id).collect();
        let hops = self.store.hops_of(&ids).await?;
        Ok(access_request::show(
            request,
            granting::show_all(&grants, hops),
            self.now(),
        ))
    }

    /// The grant as it is, with its hops.
    pub(crate) async fn show_grant(&self, grant: &Grant) -> Result<api_grant::Grant, Failure> {
        let hops = self.store.hops_of(&[grant.id]).await?;
        granting::show_all(std::slice::from_ref(grant), hops)
            .pop()
            .ok_or_else(|| Failure::internal("one grant is shown as one"))
    }

    /// The request, when it is decided and each of its grants is open or has ended, or when the time is over, or
    /// when the server stops.
    pub(crate) async fn wait_for_request(
        &self,
        id: RequestId,
        longest: Duration,
    ) -> Result<api::AccessRequest, Failure> {
        let until = tokio::time::Instant::now() + longest;
        let mut pause = FIRST_PAUSE;
        loop {
            let request = self
                .store
                .request(id)
                .await?
                .ok_or_else(|| Failure::not_found("such access request"))?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() || self.stopping.is_cancelled() || self.is_settled(&request).await? {
                return self.show_request(&request).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause.min(left)) => {}
                () = self.stopping.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn is_settled(&self, request: &AccessRequest) -> Result<bool, Failure> {
        match &request.state {
            RequestState::Pending(pending) => Ok(pending.lapses_at <= self.now()),
            RequestState::Approved(_) => Ok(self
                .store
                .grants_of_request(request.id)
                .await?
                .iter()
                .all(|grant| !matches!(grant.state, GrantState::Opening(_)))),
            RequestState::Denied(_) | RequestState::Withdrawn(_) | RequestState::Lapsed(_) => Ok(true),
        }
    }
}
