//! The second yes: what the clouds' own roles say of a requester, where the installation demands it.
//!
//! A cloud is asked before a transaction begins, so that nobody's locks wait for it, and only about principals whom
//! Postern's own roles allow what they want, so that nobody else spends the cloud's calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use postern_api::ErrorCode;
use postern_authz::Authorizer;
use postern_core::{
    audit::{Outcome, Subject},
    cloud_roles::CloudDecision,
    id::RequestId,
    machine::MachineId,
    principal::Principal,
    request::{AccessRequest, Target},
    role::Action,
    time::Instant,
};
use postern_store::Tx;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    deciding::Verdict, endpoints::access_requests_create, failure::Failure, flow::authenticate::Caller,
    granting::machines_of, state::App,
};

/// What was found, by machine. Machines at which no cloud has a say are in neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecondYes {
    found: BTreeMap<MachineId, CloudDecision>,
    /// Those about which a cloud was not asked, because Postern's own roles said no to the requester, or its roles or
    /// policies to whoever was about to approve.
    not_asked: BTreeSet<MachineId>,
}

impl SecondYes {
    /// Why not, where the answer is anything but yes.
    pub(crate) fn against(&self, machine: &MachineId) -> Option<CloudDecision> {
        if self.not_asked.contains(machine) {
            // Somebody was given a role of ours between the two looks.
            let reason = "they were not asked for; try again".to_owned();
            return Some(CloudDecision::Unknown { reason });
        }
        self.found
            .get(machine)
            .filter(|decision| !decision.is_allowed())
            .cloned()
    }

    /// Whether a cloud that has a say at the machine was not asked, because Postern's own roles said no then.
    pub(crate) fn was_not_asked(&self, machine: &MachineId) -> bool {
        self.not_asked.contains(machine)
    }

    /// What was decided about the machine, for the audit log; null where no cloud has a say.
    pub(crate) fn shown(&self, machine: &MachineId) -> Value {
        json!(self.found.get(machine))
    }

    /// That some cloud could not be asked, in words.
    pub(crate) fn unknown(&self) -> Option<String> {
        self.found
            .values()
            .find(|decision| matches!(decision, CloudDecision::Unknown { .. }))
            .map(CloudDecision::explain)
    }
}

/// The problem that a decision is which is not yes.
fn code(decision: &CloudDecision) -> ErrorCode {
    match decision {
        CloudDecision::Unknown { .. } => ErrorCode::CloudRolesUnknown,
        _ => ErrorCode::CloudRoleMissing,
    }
}

impl App {
    /// What the clouds say of the requester at each machine of the request, as of now.
    pub(crate) async fn second_yes<S>(
        &self,
        authorizer: &Authorizer,
        request: &AccessRequest<S>,
        action: Action,
        begins: Instant,
    ) -> Result<SecondYes, Failure> {
        let Some(roles) = &self.cloud_roles else {
            return Ok(SecondYes::default());
        };
        let mut asked = Vec::new();
        let mut not_asked = BTreeSet::new();
        for target in &request.targets {
            if !roles.covers(&target.machine) {
                continue;
            }
            let machine = self.store.machine(&target.machine).await?;
            let question =
                access_requests_create::question(action, request, target, machine.as_ref(), begins);
            let ours = authorizer.decide(
                &request.principal,
                question.action,
                &question.resource,
                &question.context,
            );
            if ours.allowed && machine.is_some() {
                asked.push(target.machine.clone());
            } else {
                not_asked.insert(target.machine.clone());
            }
        }
        let found = self.ask_clouds(&request.principal, asked).await?;
        Ok(SecondYes { found, not_asked })
    }

    /// The same for a request that somebody is about to approve. Whoever may not approve it, or is not asked for by the
    /// stage that is due, has no cloud asked: they are refused before it matters what one would say.
    pub(crate) async fn second_yes_for_approver(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        request: RequestId,
        verdict: Verdict<'_>,
    ) -> Result<SecondYes, Failure> {
        let Some(roles) = &self.cloud_roles else {
            return Ok(SecondYes::default());
        };
        let Some(request) = self.store.request(request).await? else {
            return Ok(SecondYes::default());
        };
        match self.would_approve(authorizer, caller, &request, verdict).await? {
            Some(pending) => {
                let begins = pending.begins(self.now());
                self.second_yes(authorizer, &pending, Action::Request, begins)
                    .await
            }
            None => Ok(SecondYes {
                found: BTreeMap::new(),
                not_asked: machines_of(&request)
                    .into_iter()
                    .filter(|machine| roles.covers(machine))
                    .collect(),
            }),
        }
    }

    /// The same for a request that was made before; nothing where there is none.
    pub(crate) async fn second_yes_of(
        &self,
        authorizer: &Authorizer,
        request: RequestId,
    ) -> Result<SecondYes, Failure> {
        if self.cloud_roles.is_none() {
            return Ok(SecondYes::default());
        }
        match self.store.request(request).await? {
            Some(request) => {
                let begins = request.begins(self.now());
                self.second_yes(authorizer, &request, Action::Request, begins)
                    .await
            }
            None => Ok(SecondYes::default()),
        }
    }

    /// What the cloud says of one principal at one machine; nothing where no cloud has a say.
    pub(crate) async fn second_yes_at(
        &self,
        principal: &Principal,
        machine: &MachineId,
    ) -> Result<Option<CloudDecision>, Failure> {
        let has_a_say = self
            .cloud_roles
            .as_ref()
            .is_some_and(|roles| roles.covers(machine));
        if !has_a_say {
            return Ok(None);
        }
        let mut found = self.ask_clouds(principal, vec![machine.clone()]).await?;
        Ok(found.remove(machine))
    }

    async fn ask_clouds(
        &self,
        principal: &Principal,
        machines: Vec<MachineId>,
    ) -> Result<BTreeMap<MachineId, CloudDecision>, Failure> {
        let Some(roles) = &self.cloud_roles else {
            return Ok(BTreeMap::new());
        };
        let mut all = JoinSet::new();
        for machine in machines {
            let (roles, principal) = (Arc::clone(roles), principal.clone());
            all.spawn(async move {
                let decision = roles.decide(&principal, &machine).await;
                (machine, decision)
            });
        }
        let mut found = BTreeMap::new();
        while let Some(one) = all.join_next().await {
            let (machine, decision) = one.map_err(Failure::internal)?;
            self.metrics.cloud_decided(decision.outcome());
            found.insert(machine, decision);
        }
        Ok(found)
    }

    /// Refuses what a cloud's own roles do not allow, and writes down what it said. `request` where there is one
    /// already, which is then left as it is.
    pub(crate) async fn refuse_by_cloud(
        &self,
        tx: Tx,
        caller: &Caller,
        event: &'static str,
        request: Option<RequestId>,
        target: &Target,
        decision: &CloudDecision,
    ) -> Failure {
        let subject = Subject {
            request,
            machine: Some(target.machine.clone()),
            ..Subject::default()
        };
        let scope = target.machine.scope();
        let mut event = self.event(caller, event, scope, subject, None, json!({ "target": target }));
        event.outcome = Outcome::Denied;
        event.decision = Some(json!({ "decided_by": "cloud_roles", "cloud_roles": decision }));
        if let Err(unwritten) = self.write_alone(tx, event).await {
            return unwritten;
        }
        let code = code(decision);
        if request.is_none() || code == ErrorCode::CloudRolesUnknown {
            return Failure::new(code, decision.explain());
        }
        Failure::new(
            ErrorCode::RequesterNotAllowed,
            format!(
                "the requester may not make this request now: {}",
                decision.explain()
            ),
        )
    }
}
