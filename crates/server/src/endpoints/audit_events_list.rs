//! `GET /v1/audit-events`: the audit log.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    audit_event::{AuditEvent as Shown, AuditEventQuery},
};
use postern_authz::{Context, Resource, ResourceKind};
use postern_core::{
    audit::{Outcome, Subject},
    machine::MachineId,
    role::Action,
    scope::Scope,
    time::Instant,
};
use postern_store::{AuditFilter, Order, Visible};
use serde_json::json;

use crate::{
    decide::Question,
    failure::Failure,
    flow::{
        authenticate::Caller,
        page,
        query::{Parameters, parsed},
    },
    shape::audit_event,
    state::App,
};

/// The audit log, as far as you have `audit`, the newest first unless told otherwise.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/audit-events", tag = "audit", operation_id = "listAuditEvents",
    params(AuditEventQuery),
    responses(
        (status = 200, description = "A page of it.", body = Page<Shown>),
        (status = 400, description = "`invalid_query`, `invalid_scope`, `invalid_machine_id`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: you have `audit` nowhere there", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_audit_events(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<AuditEventQuery>,
) -> Result<Json<Page<Shown>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let order = match query.order.as_deref() {
        None | Some("desc") => Order::NewestFirst,
        Some("asc") => Order::OldestFirst,
        Some(_) => {
            return Err(Failure::new(
                ErrorCode::InvalidQuery,
                "`order` is `asc` or `desc`",
            ));
        }
    };
    let scope = query
        .scope
        .as_deref()
        .map(|scope| {
            scope
                .parse::<Scope>()
                .map_err(|error| Failure::new(ErrorCode::InvalidScope, error.to_string()))
        })
        .transpose()?;
    let machine = query
        .machine
        .as_deref()
        .map(|id| {
            id.parse::<MachineId>()
                .map_err(|error| Failure::new(ErrorCode::InvalidMachineId, error.to_string()))
        })
        .transpose()?;
    let authorizer = app.authorizer().await?;
    let scopes = authorizer.scopes(&caller.principal, Action::Audit, app.now());
    let asked = scope.clone().unwrap_or(Scope::root());
    // Where the caller has it on a part of what they ask for, they see that part.
    let question_scope = scopes
        .iter()
        .find(|own| asked.contains(own))
        .cloned()
        .unwrap_or(asked);
    let decision = app
        .allow_read(
            &authorizer,
            &caller,
            Question {
                action: Action::Audit,
                resource: Resource {
                    scope: question_scope.clone(),
                    tags: BTreeMap::new(),
                    kind: ResourceKind::AuditEvent,
                },
                context: Context::at(app.now()),
                event: "audit.read",
                subject: Subject::default(),
                reason: None,
            },
        )
        .await?;
    let filter = AuditFilter {
        visible: Visible { scopes, own: None },
        action_prefix: query.action.clone(),
        outcome: query.outcome.as_deref().map(outcome).transpose()?,
        actor: query.actor.clone(),
        scope,
        machine,
        grant: parsed("grant", query.grant.as_deref())?,
        request: parsed("request", query.request.as_deref())?,
        policy: parsed("policy", query.policy.as_deref())?,
        point: query.point.clone(),
        since: instant("since", query.since.as_deref())?,
        until: instant("until", query.until.as_deref())?,
    };
    let found = app.store.audit_events(&filter, after, limit, order).await?;
    if after.is_none() {
        // Who looked at the log stands in the log, once per look and not per page.
        let mut tx = app.store.begin().await?;
        let details = json!({ "query": query });
        let event = app.event(
            &caller,
            "audit.read",
            question_scope,
            Subject::default(),
            Some(&decision),
            details,
        );
        tx.audit(&[event]).await?;
        tx.commit().await?;
    }
    let next_cursor = found.next.as_ref().map(page::cursor);
    let visible = app.not_forbidden(&authorizer, &caller, Action::Audit, found.items, |stored| {
        vec![Resource {
            scope: stored.event.scope.clone(),
            tags: BTreeMap::new(),
            kind: ResourceKind::AuditEvent,
        }]
    });
    Ok(Json(Page {
        next_cursor,
        items: visible.into_iter().map(audit_event::show).collect(),
    }))
}

fn outcome(word: &str) -> Result<Outcome, Failure> {
    [
        Outcome::Intended,
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::Unknown,
        Outcome::Denied,
    ]
    .into_iter()
    .find(|outcome| outcome.as_str() == word)
    .ok_or_else(|| {
        Failure::new(
            ErrorCode::InvalidQuery,
            "`outcome` is `intended`, `succeeded`, `failed`, `unknown` or `denied`",
        )
    })
}

fn instant(name: &str, text: Option<&str>) -> Result<Option<Instant>, Failure> {
    text.map(|text| {
        text.parse::<Instant>().map_err(|_| {
            Failure::new(
                ErrorCode::InvalidQuery,
                format!("`{name}` is an instant such as `2026-01-31T12:00:00Z`"),
            )
        })
    })
    .transpose()
}
