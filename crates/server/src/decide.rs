//! Decisions: who may do what, asked of the authorizer, counted, and written to the audit log.
//!
//! A denial is written in a transaction of its own, because the one that it ends changes nothing. An allowance
//! is written by the handler, in the transaction of the change that it allows.

use std::sync::{Arc, PoisonError, RwLock};

use postern_api::ErrorCode;
use postern_authz::{Authorizer, Context, Decision, GuardrailSet, Resource};
use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    principal::Principal,
    role::{Action, Role},
    scope::Scope,
};
use postern_store::{Store, Tx};
use serde_json::{Value, json};

use crate::{failure::Failure, flow::authenticate::Caller, state::App};

/// An authorizer, with the versions of what it was made of.
#[derive(Debug)]
struct Made {
    version: i64,
    generation: u64,
    authorizer: Arc<Authorizer>,
}

/// Keeps the authorizer of the roles, assignments and guardrails as they are.
#[derive(Debug)]
pub(crate) struct Decider {
    /// The guardrails, and how often they were replaced.
    guardrails: RwLock<(u64, GuardrailSet)>,
    current: RwLock<Option<Made>>,
    /// The turn of whoever makes another authorizer: with many role assignments that takes long, and one does for all who
    /// wait for it.
    making: tokio::sync::Mutex<()>,
    /// The turn of whoever wants to know what would allow something, which costs many decisions.
    pub(crate) remedies: Arc<tokio::sync::Semaphore>,
    /// The turn of whoever wants to know what a role assignment changes.
    pub(crate) outlooks: Arc<tokio::sync::Semaphore>,
}

impl Decider {
    pub(crate) fn new(guardrails: GuardrailSet) -> Self {
        Self {
            guardrails: RwLock::new((0, guardrails)),
            current: RwLock::new(None),
            making: tokio::sync::Mutex::new(()),
            remedies: Arc::new(tokio::sync::Semaphore::new(1)),
            outlooks: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }

    /// The guardrails as of now.
    pub(crate) fn guardrails(&self) -> GuardrailSet {
        self.guardrails
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }

    /// Other guardrails, for every decision whose authorizer is asked for from now on.
    pub(crate) fn replace(&self, set: GuardrailSet) {
        let mut guardrails = self.guardrails.write().unwrap_or_else(PoisonError::into_inner);
        *guardrails = (guardrails.0 + 1, set);
    }

    fn generation(&self) -> u64 {
        self.guardrails.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The authorizer, if it is of this version and of the guardrails as of now. A later version does not do: a restored
    /// database has an earlier one.
    fn made(&self, version: i64) -> Option<Arc<Authorizer>> {
        let generation = self.generation();
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current
            .as_ref()
            .filter(|made| made.version == version && made.generation == generation)
            .map(|made| Arc::clone(&made.authorizer))
    }

    /// The authorizer as of now. Asked before a transaction begins, so that no request holds two connections.
    pub(crate) async fn current(&self, store: &Store) -> Result<Arc<Authorizer>, Failure> {
        let version = store.authz_version().await?;
        if let Some(made) = self.made(version) {
            return Ok(made);
        }
        let _turn = self.making.lock().await;
        // It may have risen while others had their turn.
        if let Some(made) = self.made(store.authz_version().await?) {
            return Ok(made);
        }
        let authz = store.authz().await?;
        let (generation, guardrails) = self
            .guardrails
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let roles = Role::built_in().into_iter().chain(authz.roles);
        let authorizer = Authorizer::new(roles, authz.assignments, guardrails)
            .map(Arc::new)
            .map_err(Failure::internal)?;
        for unknown in authorizer.unknown_roles() {
            tracing::warn!("{unknown}");
        }
        // Whoever has the turn has read what is latest, though a restored database has an earlier version than what is here.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Made {
            version: authz.version,
            generation,
            authorizer: Arc::clone(&authorizer),
        });
        Ok(authorizer)
    }
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question {
    /// To do what.
    pub(crate) action: Action,
    /// To what.
    pub(crate) resource: Resource,
    /// In which circumstances.
    pub(crate) context: Context,
    /// The audit event's action, such as `grant.revoke`.
    pub(crate) event: &'static str,
    /// What the event is about.
    pub(crate) subject: Subject,
    /// Why the caller wants it, if they said.
    pub(crate) reason: Option<String>,
}

impl App {
    /// The decision, if it is yes. A no is written to the audit log and is the failure.
    pub(crate) async fn allow(
        &self,
        tx: Tx,
        authorizer: &Authorizer,
        caller: &Caller,
        question: Question,
    ) -> Result<(Tx, Decision), Failure> {
        let decision = self.decide(authorizer, &caller.principal, &question);
        if decision.allowed {
            return Ok((tx, decision));
        }
        Err(self.deny(tx, authorizer, caller, question, &decision).await)
    }

    /// Whether the caller may see something. A yes is not written to the audit log, because it changes nothing and
    /// is asked all the time; a no is, and is the failure.
    pub(crate) async fn allow_read(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        question: Question,
    ) -> Result<Decision, Failure> {
        let decision = self.decide(authorizer, &caller.principal, &question);
        if decision.allowed {
            return Ok(decision);
        }
        let tx = self.store.begin().await?;
        Err(self.deny(tx, authorizer, caller, question, &decision).await)
    }

    /// The authorizer as of now.
    pub(crate) async fn authorizer(&self) -> Result<Arc<Authorizer>, Failure> {
        self.decider.current(&self.store).await
    }

    /// The decision.
    pub(crate) fn decide(
        &self,
        authorizer: &Authorizer,
        principal: &Principal,
        question: &Question,
    ) -> Decision {
        let decision = authorizer.decide(principal, question.action, &question.resource, &question.context);
        self.metrics.decided(question.action.as_str(), decision.allowed);
        decision
    }

    /// Writes a denial to the audit log, and is the failure that the caller gets.
    pub(crate) async fn deny(
        &self,
        tx: Tx,
        authorizer: &Authorizer,
        caller: &Caller,
        question: Question,
        decision: &Decision,
    ) -> Failure {
        let lack = self.would_do(authorizer, caller, &question);
        let event = AuditEvent {
            outcome: Outcome::Denied,
            reason: question.reason,
            ..self.event(
                caller,
                question.event,
                question.resource.scope,
                question.subject,
                Some(decision),
                json!({}),
            )
        };
        if let Err(failure) = self.write_alone(tx, event).await {
            return failure;
        }
        if let Some(lack) = lack {
            return self.challenge(caller, lack, &decision.explain());
        }
        Failure::new(ErrorCode::Forbidden, decision.explain())
    }

    /// Ends `tx` without effect and writes `event` in one of its own. One connection at a time, so that refused
    /// requests cannot wait for each other's.
    pub(crate) async fn write_alone(&self, tx: Tx, event: AuditEvent) -> Result<(), Failure> {
        tx.rollback().await?;
        let mut tx = self.store.begin().await?;
        tx.audit(&[event]).await?;
        tx.commit().await?;
        Ok(())
    }

    /// An event of the caller's that succeeded.
    pub(crate) fn event(
        &self,
        caller: &Caller,
        action: &str,
        scope: Scope,
        subject: Subject,
        decision: Option<&Decision>,
        details: Value,
    ) -> AuditEvent {
        let now = self.now();
        AuditEvent {
            id: self.ids.next(now),
            at: now,
            action: action.to_owned(),
            outcome: Outcome::Succeeded,
            actor: Actor::Principal {
                principal: caller.reference(),
            },
            scope,
            reason: None,
            decision: decision.map(|decision| json!(decision)),
            details,
            subject,
            http_request: Some(caller.request_id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_makes_the_authorizer_for_all_who_wait_for_it() {
        let store = postern_store::testing::fresh_store().await;
        let decider = Arc::new(Decider::new(GuardrailSet::parse("test", "").unwrap()));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (decider, store) = (Arc::clone(&decider), store.clone());
            all.spawn(async move { decider.current(&store).await.unwrap() });
        }
        let made = all.join_all().await;
        assert!(made.iter().all(|one| Arc::ptr_eq(one, &made[0])));
    }
}
