//! Guardrails that are replaced while the server runs, and what is written down about it.

use std::sync::Arc;

use postern_authz::{Difference, GuardrailSet};
use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    scope::Scope,
};
use postern_store::StoreError;
use serde_json::{Value, json};

use crate::state::App;

/// The longest reason that is written down, in characters; an error quotes what it is about.
const MAX_REASON: usize = 2000;

/// The guardrails of a running server.
#[derive(Debug, Clone)]
pub struct Guardrails(pub(crate) Arc<App>);

impl Guardrails {
    /// Every decision from now on goes by `set`, which came from `origin`. Says what is otherwise than before.
    ///
    /// The audit event is committed first: on an error the guardrails are those of before, and the caller tries
    /// again. Without the database nothing is decided meanwhile.
    pub async fn replace(&self, set: GuardrailSet, origin: &str) -> Result<Difference, StoreError> {
        let difference = set.difference(&self.0.decider.guardrails());
        if !difference.is_empty() {
            let details =
                json!({ "origin": origin, "difference": difference, "guardrails": set.iter().count() });
            self.write("guardrails.replace", Outcome::Succeeded, None, details)
                .await?;
            tracing::info!(origin, ?difference, "the guardrails are others now");
            self.0.metrics.guardrails_replaced();
        }
        self.0.metrics.guardrails_hold(set.iter().count());
        self.0.decider.replace(set);
        Ok(difference)
    }

    /// What `origin` holds now is not accepted; the guardrails stay as they are.
    pub async fn refuse(&self, origin: &str, reason: &str) -> Result<(), StoreError> {
        tracing::error!(
            origin,
            reason,
            "the new guardrails are refused; those of before stay"
        );
        self.0.metrics.guardrails_refused();
        let reason = reason.chars().take(MAX_REASON).collect();
        let details = json!({ "origin": origin });
        self.write("guardrails.refuse", Outcome::Failed, Some(reason), details)
            .await
    }

    async fn write(
        &self,
        action: &str,
        outcome: Outcome,
        reason: Option<String>,
        details: Value,
    ) -> Result<(), StoreError> {
        let now = self.0.now();
        let event = AuditEvent {
            id: self.0.ids.next(now),
            at: now,
            action: action.to_owned(),
            outcome,
            actor: Actor::System {
                component: "guardrails".to_owned(),
            },
            scope: Scope::root(),
            reason,
            decision: None,
            details,
            subject: Subject::default(),
            http_request: None,
        };
        let mut tx = self.0.store.begin().await?;
        tx.audit(&[event]).await?;
        tx.commit().await
    }
}
