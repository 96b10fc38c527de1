//! Audit events as the API shows them.

use postern_api::audit_event as api;
use postern_store::StoredEvent;
use serde_json::json;

/// The event with its place in the log.
pub(crate) fn show(stored: StoredEvent) -> api::AuditEvent {
    let event = stored.event;
    api::AuditEvent {
        seq: stored.seq,
        id: event.id.to_string(),
        at: event.at,
        action: event.action,
        outcome: event.outcome.as_str().to_owned(),
        actor: json!(event.actor),
        scope: event.scope.to_string(),
        reason: event.reason,
        decision: event.decision,
        details: event.details,
        subject: json!(event.subject),
        http_request: event.http_request,
    }
}
