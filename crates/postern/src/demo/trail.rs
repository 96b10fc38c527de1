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
        let covered = changes.values().any(|pair| match pair {
            (Some(intent), Some(outcome)) => {
                intent.at <= write.at && write.at <= outcome.at && is_about(intent, outcome, write)
            }
            _ => false,
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

/// Whether a change is about what was written: at a point of the same cloud, and naming the resource, which a
/// thing that is made has a name for only in the outcome.
fn is_about(intent: &AuditEvent, outcome: &AuditEvent, write: &Write) -> bool {
    let point = intent
        .subject
        .get("point")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let resource = write.resource.to_lowercase();
    let name = resource.rsplit('/').next().unwrap_or(&resource);
    point.starts_with(&format!("{}:", write.cloud))
        && [
            point.to_owned(),
            intent.details.to_string(),
            outcome.details.to_string(),
        ]
        .iter()
        .any(|text| text.to_lowercase().contains(name))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use serde_json::json;

    use super::*;

    fn event(seq: i64, outcome: &str) -> AuditEvent {
        AuditEvent {
            seq,
            id: format!("evt_{seq}"),
            at: DateTime::UNIX_EPOCH + TimeDelta::seconds(seq),
            action: "change.apply".to_owned(),
            outcome: outcome.to_owned(),
            actor: json!({ "kind": "system" }),
            scope: "/".to_owned(),
            reason: None,
            decision: None,
            details: json!({ "before": null, "after": null, "target": "eni-1" }),
            subject: json!({ "change": "chg_1", "point": "aws:instance:a/r/i-1" }),
            http_request: None,
        }
    }

    fn write(second: i64, resource: &str) -> Write {
        Write {
            cloud: "aws".to_owned(),
            at: DateTime::UNIX_EPOCH + TimeDelta::seconds(second),
            operation: "ModifyNetworkInterfaceAttribute".to_owned(),
            resource: resource.to_owned(),
        }
    }

    /// How many of the problems are about writes.
    fn uncovered(events: &[AuditEvent], write: Write) -> usize {
        let found = problems(events, &[write]);
        found
            .iter()
            .filter(|problem| problem.contains("no intent in the log"))
            .count()
    }

    #[test]
    fn a_write_outside_intent_and_outcome_or_of_something_else_is_found() {
        let events = [event(1, "intended"), event(3, "succeeded")];
        assert_eq!(uncovered(&events, write(2, "arn:x/eni-1")), 0);
        assert_eq!(uncovered(&events, write(4, "arn:x/eni-1")), 1);
        assert_eq!(uncovered(&events, write(0, "arn:x/eni-1")), 1);
        assert_eq!(uncovered(&events, write(2, "arn:x/eni-2")), 1);
    }

    #[test]
    fn an_intent_without_an_outcome_is_found() {
        assert_eq!(unsettled(&[event(1, "intended")]), ["chg_1"]);
        assert!(unsettled(&[event(1, "intended"), event(2, "failed")]).is_empty());
    }
}
