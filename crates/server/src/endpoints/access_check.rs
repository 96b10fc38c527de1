//! `GET /v1/access-check`: may somebody do something somewhere, and what says so?

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Problem,
    access_check::{AccessCheck, AccessCheckQuery, Assumed},
};
use postern_authz::{Context, Resource};
use postern_core::{
    audit::Subject,
    cloud_roles::CloudDecision,
    machine::{MachineId, partition},
    net::{Ports, Source},
    principal::{Principal, PrincipalRef},
    role::Action,
    scope::Scope,
    time::Instant,
};
use serde_json::json;

use crate::{
    auth::{assumed::Assumption, config::IssuerConfig},
    decide::Question,
    failure::Failure,
    flow::{
        authenticate::Caller,
        query::{RepeatedParameters, Repeats},
    },
    state::App,
};

impl Repeats for AccessCheckQuery {
    fn values_of(&mut self, name: &str) -> Option<&mut Vec<String>> {
        match name {
            "groups" => Some(&mut self.groups),
            "claims" => Some(&mut self.claims),
            _ => None,
        }
    }
}

/// May this principal do this here, and what says so?
///
/// Everybody may ask about themselves; about others, whoever has `assign` or `audit` at the scope. Of somebody
/// else only what names them directly is known, because their groups are in their tokens: say in `groups`, `mfa`,
/// `authenticated_at` and `claims` what a token of theirs is to be taken to say. `assumed` repeats it.
#[utoipa::path(
    get, path = "/v1/access-check", tag = "access", operation_id = "checkAccess",
    params(AccessCheckQuery),
    responses(
        (status = 200, description = "The decision, explained.", body = AccessCheck),
        (status = 400, description = "`invalid_query`, `invalid_principal`, `invalid_action`, `invalid_scope`, \
                       `invalid_ports`, `invalid_source`",
         body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn check_access(
    State(app): State<Arc<App>>,
    caller: Caller,
    RepeatedParameters(query): RepeatedParameters<AccessCheckQuery>,
) -> Result<Json<AccessCheck>, Failure> {
    let required = |name: &str| Failure::new(ErrorCode::InvalidQuery, format!("`{name}` is needed"));
    let action: Action = query
        .action
        .as_deref()
        .ok_or_else(|| required("action"))?
        .parse()
        .map_err(|error: postern_core::role::UnknownAction| {
            Failure::new(ErrorCode::InvalidAction, error.to_string())
        })?;
    let scope: Scope = query
        .scope
        .as_deref()
        .ok_or_else(|| required("scope"))?
        .parse()
        .map_err(|error: postern_core::scope::InvalidScope| {
            Failure::new(ErrorCode::InvalidScope, error.to_string())
        })?;
    let asked = circumstances(&query, app.now())?;
    let wants_remedies = query.remedies.unwrap_or(false);
    let assumption = Assumption {
        groups: query.groups,
        mfa: query.mfa,
        authenticated_at: query.authenticated_at,
        claims: query.claims,
    };
    // What is assumed takes the place of a token, also of the caller's own.
    let own_token = !assumption.is_any();
    let other = query
        .principal
        .as_deref()
        .map(str::parse::<PrincipalRef>)
        .transpose()
        .map_err(|error| Failure::new(ErrorCode::InvalidPrincipal, error.to_string()))?
        .or_else(|| (!own_token).then(|| caller.reference()))
        .filter(|other| !own_token || *other != caller.reference());

    let now = app.now();
    let authorizer = app.authorizer().await?;
    let tags = match machine_at(&scope) {
        Some(id) => app.store.machine(&id).await?.map(|stored| stored.machine.tags),
        None => None,
    };
    let mut tx = app.store.begin().await?;
    let principal = match &other {
        None => (*caller.principal).clone(),
        Some(other) => {
            let question = |action| Question {
                action,
                resource: Resource::scope(scope.clone()),
                context: Context::at(now),
                event: "access.check",
                subject: Subject::default(),
                reason: None,
            };
            // Either will do; the denial speaks of `assign`.
            if !app
                .decide(&authorizer, &caller.principal, &question(Action::Audit))
                .allowed
            {
                (tx, _) = app
                    .allow(tx, &authorizer, &caller, question(Action::Assign))
                    .await?;
            }
            assumed(other, assumption, &app.config.issuers)?
        }
    };
    let machine = tags.is_some().then(|| machine_at(&scope)).flatten();
    let resource = match tags {
        Some(tags) => Resource::machine(scope.clone(), tags),
        None => Resource::scope(scope.clone()),
    };
    let decision = authorizer.decide(&principal, action, &resource, &asked);
    let checked = principal.reference();
    let assumed = other.is_some().then(|| Assumed {
        groups: principal.groups.clone(),
        mfa: principal.mfa,
        authenticated_at: principal.authenticated_at,
        claims: principal.claims.clone(),
    });
    if let Some(assumed) = &assumed {
        let details =
            json!({ "principal": checked, "action": action, "assumed": assumed, "decision": decision });
        let event = app.event(
            &caller,
            "access.check",
            scope.clone(),
            Subject::default(),
            None,
            details,
        );
        tx.audit(&[event]).await?;
    }
    tx.commit().await?;
    let demanded = matches!(action, Action::Request | Action::BreakGlass) && decision.allowed;
    let second = match machine.filter(|_| demanded) {
        Some(machine) => app.second_yes_at(&principal, &machine).await?,
        None => None,
    };
    let remedies = if wants_remedies && !decision.allowed {
        // One at a time, also when nobody waits for the answer any more, and off the threads that answer requests: it costs
        // hundreds of decisions.
        let turn = Arc::clone(&app.decider.remedies);
        let turn = turn.acquire_owned().await.map_err(Failure::internal)?;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            authorizer
                .remedies(&principal, action, &resource, &asked)
                .explain()
        })
        .await
        .map_err(Failure::internal)?
    } else {
        Vec::new()
    };
    Ok(Json(AccessCheck {
        principal: checked.to_string(),
        action: action.to_string(),
        scope: scope.to_string(),
        allowed: decision.allowed && second.as_ref().is_none_or(CloudDecision::is_allowed),
        explanation: match &second {
            None => decision.explain(),
            Some(second) if second.is_allowed() => format!("{}; {}", decision.explain(), second.explain()),
            Some(second) => format!("{}, but {}", decision.explain(), second.explain()),
        },
        decision: json!(decision),
        assumed,
        cloud_roles: second.map(|second| json!(second)),
        remedies,
    }))
}

/// The circumstances that the query speaks of.
fn circumstances(query: &AccessCheckQuery, now: Instant) -> Result<Context, Failure> {
    let ports = query.port.as_deref().map(str::parse::<Ports>).transpose();
    let source = query.source.as_deref().map(str::parse::<Source>).transpose();
    Ok(Context {
        now,
        ports: ports
            .map_err(|error| Failure::new(ErrorCode::InvalidPorts, error.to_string()))?
            .into_iter()
            .collect(),
        sources: source
            .map_err(|error| Failure::new(ErrorCode::InvalidSource, error.to_string()))?
            .into_iter()
            .collect(),
        duration_seconds: query.duration_seconds,
        reason_present: query.reason.unwrap_or(false),
    })
}

/// What is known of somebody by name, and what is assumed besides.
fn assumed(
    reference: &PrincipalRef,
    assumption: Assumption,
    issuers: &[IssuerConfig],
) -> Result<Principal, Failure> {
    if matches!(reference, PrincipalRef::Group(_)) {
        return Err(Failure::new(
            ErrorCode::InvalidPrincipal,
            "a group does nothing itself: name a user or a workload",
        ));
    }
    assumption
        .of(reference, issuers)
        .map_err(|detail| Failure::new(ErrorCode::InvalidQuery, detail))
}

/// The machine whose own scope this is.
fn machine_at(scope: &Scope) -> Option<MachineId> {
    let text = match scope.segments() {
        [cloud, subscription, group, name] if cloud == "azure" => format!(
            "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{name}"
        ),
        [cloud, account, region, instance] if cloud == "aws" => {
            format!(
                "arn:{}:ec2:{region}:{account}:instance/{instance}",
                partition(region)
            )
        }
        _ => return None,
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_own_scope_names_the_machine() {
        for text in [
            "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0",
            "arn:aws-cn:ec2:cn-north-1:123456789012:instance/i-0123456789abcdef0",
            "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/a/providers/Microsoft.Compute/virtualMachines/b",
        ] {
            let id: MachineId = text.parse().unwrap();
            assert_eq!(machine_at(&id.scope()), Some(id));
        }
        assert_eq!(machine_at(&"/aws/123456789012".parse().unwrap()), None);
    }
}
