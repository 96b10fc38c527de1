//! `postern audit`.

use chrono::{DateTime, SecondsFormat, Utc};
use postern_api::audit_event::{AuditEvent, AuditEventQuery};
use postern_core::time::{Clock, SystemClock};
use serde_json::Value;

use super::{machines, naming};
use crate::{
    cli::{AuditArgs, When},
    connect,
    exit::{Exit, Failure},
    output,
};

/// Reads the audit log, oldest first. As JSON it is one event a line, because it may be long.
pub async fn run(args: AuditArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let machine = match &args.machine {
        Some(text) => Some(machines::resolve(&client, text).await?),
        None => None,
    };
    let grant = match &args.grant {
        Some(text) => Some(naming::grant(&client, text).await?),
        None => None,
    };
    let request = match &args.request {
        Some(text) => Some(naming::request(&client, text, None).await?),
        None => None,
    };
    let policy = match &args.policy {
        Some(text) => Some(naming::policy(&client, text).await?),
        None => None,
    };
    let now = SystemClock.now();
    let at = |when: &Option<When>| when.map(|when| text(when, now)).transpose();
    let base = AuditEventQuery {
        action: args.action,
        outcome: args.outcome,
        actor: args.actor,
        scope: args.scope,
        machine,
        grant,
        request,
        policy,
        point: None,
        since: at(&args.since)?,
        until: at(&args.until)?,
        // The newest are what a limit should keep; they are turned round for reading.
        order: Some("desc".to_owned()),
        cursor: None,
        limit: None,
    };
    let mut events = connect::all(args.many.limit, |cursor, limit| {
        let query = AuditEventQuery {
            cursor,
            limit: Some(limit),
            ..base.clone()
        };
        let client = &client;
        async move { client.audit_events(&query).await }
    })
    .await?;
    events.reverse();
    if args.remote.json {
        for event in &events {
            output::json_line(event)?;
        }
        return Ok(());
    }
    let rows = events.iter().map(|event| {
        [
            output::instant(event.at),
            event.action.clone(),
            event.outcome.clone(),
            actor(event),
            about(event),
            output::reason(&why(event), args.wide),
        ]
    });
    output::line(&output::table(
        ["AT", "ACTION", "OUTCOME", "WHO", "ABOUT", "WHY"],
        rows,
    ))?;
    Ok(())
}

fn text(when: When, now: DateTime<Utc>) -> Result<String, Failure> {
    when.instant(now)
        .map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true))
        .ok_or_else(|| Failure::new(Exit::Usage, "that was before all time"))
}

fn actor(event: &AuditEvent) -> String {
    let field = |name: &str| event.actor.get(name).and_then(Value::as_str);
    field("principal")
        .or_else(|| field("component"))
        .or_else(|| field("kind"))
        .unwrap_or("-")
        .to_owned()
}

/// The most telling of the things that an event is about.
fn about(event: &AuditEvent) -> String {
    ["grant", "request", "policy", "machine", "point", "change", "pass"]
        .iter()
        .find_map(|name| event.subject.get(*name).and_then(Value::as_str))
        .unwrap_or(&event.scope)
        .to_owned()
}

fn why(event: &AuditEvent) -> String {
    event.reason.clone().unwrap_or_else(|| {
        event
            .details
            .get("summary")
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_long_ago_counts_from_now() {
        let now = DateTime::from_timestamp(7200, 0).unwrap();
        assert_eq!(
            text(When::Ago(Duration::from_hours(1)), now).unwrap(),
            "1970-01-01T01:00:00.000000Z"
        );
        assert!(text(When::Ago(Duration::MAX), now).is_err());
    }
}
