//! Is the audit trail complete? Every cloud write has an earlier intent and an outcome; every decision names what
//! decided it.

use std::collections::BTreeMap;

use postern_api::{
    audit_event::{AuditEvent, AuditEventQuery},
    client::Client,
};
use serde_json::Value;

use super::witness::Write;
use crate::connect;

/// Actions that are decisions.
const DECISIONS: [&str; 3] = ["access_request.", "jit_policy.", "role_assignment."];

/// Every event, oldest first.
pub async fn all(client: &Client) -> anyhow::Result<Vec<AuditEvent>> {
    let events = connect::all(u32::MAX, |cursor, limit| {
        let query = AuditEventQuery {
            order: Some("asc".to_owned()),
            cursor,
            limit: Some(limit),
            ..AuditEventQuery::default()
        };
        async move { client.audit_events(&query).await }
    })
    .await?;
    Ok(events)
}

/// The changes of which an intent stands in the log and no outcome.
pub fn unsettled(events: &[AuditEvent]) -> Vec<String> {
    changes(events)
        .into_iter()
        .filter(|(_, (intent, outcome))| intent.is_some() && outcome.is_none())
        .map(|(change, _)| change.to_owned())
        .collect()
}

type Changes<'a> = BTreeMap<&'a str, (Option<&'a AuditEvent>, Option<&'a AuditEvent>)>;

fn changes(events: &[AuditEvent]) -> Changes<'_> {
    let mut changes = Changes::new();
    for event in events {
        let Some(change) = event.subject.get("change").and_then(Value::as_str) else {
            continue;
        };
        let (intent, outcome) = changes.entry(change).or_default();
        if event.outcome == "intended" {
            *intent = Some(event);
        } else {
            *outcome = Some(event);
        }
    }
    changes
}

/// What is not as it should be.
pub fn problems(events: &[AuditEvent], writes: &[Write]) -> Vec<String> {
    let mut found = Vec::new();
    let changes = changes(events);
    for (change, (intent, outcome)) in &changes {
        match (intent, outcome) {
            (Some(intent), Some(outcome)) if intent.seq < outcome.seq => {
                if intent.details.get("after").is_none() || intent.details.get("before").is_none() {
                    found.push(format!(
                        "the intent of {change} does not tell the prior and the intended state"
                    ));
                }
            }
            (Some(_), None) => found.push(format!("{change} has an intent and no outcome")),
            _ => found.push(format!("{change} has an outcome and no earlier intent")),
        }
    }
    for write in writes {
        let covered = changes.values().any(|(intent, outcome)| {
            intent.is_some_and(|intent| intent.at <= write.at && is_about(intent, write))
                && outcome.is_some_and(|outcome| write.at <= outcome.at)
        });
        if !covered {
            found.push(format!(
                "{} of {} in {} at {} has no intent in the log",
                write.operation, write.resource, write.cloud, write.at
            ));
        }
    }
    for event in events {
        let decision = DECISIONS.iter().any(|prefix| event.action.starts_with(prefix))
            && event.actor.get("kind").and_then(Value::as_str) == Some("principal");
        if decision && event.decision.as_ref().is_none_or(Value::is_null) {
            found.push(format!(
                "{} ({}) does not say what decided it",
                event.action, event.id
            ));
        }
    }
    for (action, outcome) in [
        ("access_request.create", "denied"),
        ("access_request.create", "succeeded"),
        ("grant.open", "succeeded"),
        ("grant.revoke", "succeeded"),
        ("grant.rule_closed", "succeeded"),
        ("jit_policy.create", "succeeded"),
        ("jit_policy.delete", "succeeded"),
        ("role_assignment.create", "succeeded"),
    ] {
        if !events
            .iter()
            .any(|event| event.action == action && event.outcome == outcome)
        {
            found.push(format!("no event says {action} {outcome}"));
        }
    }
    found
}

/// Whether an intent is about what was written: at a point of the same cloud.
fn is_about(intent: &AuditEvent, write: &Write) -> bool {
    intent
        .subject
        .get("point")
        .and_then(Value::as_str)
        .is_some_and(|point| point.starts_with(&format!("{}:", write.cloud)))
}
