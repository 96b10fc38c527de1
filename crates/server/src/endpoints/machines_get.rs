//! `GET /v1/machines/{id}`: one machine, with everything known about the way to it.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Problem,
    machine::{MachineDetail, MayRequest},
};
use postern_authz::{Context, Resource};
use postern_core::{audit::Subject, machine::MachineId, role::Action};

use crate::{
    decide::Question,
    failure::Failure,
    flow::{authenticate::Caller, path::PathText},
    reading::MOST_FINDINGS,
    shape::{jit_policy, machine},
    state::App,
};

/// One machine, with its policy, its enforcement points and who may ask for its ports.
///
/// The id is one segment of the path, so its slashes are percent-encoded:
/// `/v1/machines/%2Fsubscriptions%2F…`.
#[utoipa::path(
    get, path = "/v1/machines/{id}", tag = "machines", operation_id = "getMachine",
    params(("id" = String, Path, description = "The machine's cloud id, percent-encoded as one segment.")),
    responses(
        (status = 200, description = "The machine.", body = MachineDetail),
        (status = 400, description = "`invalid_machine_id`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: also when there is no such machine and you could not read it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`machine_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_machine(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(id): PathText,
) -> Result<Json<MachineDetail>, Failure> {
    let id: MachineId = id
        .parse()
        .map_err(|error: postern_core::machine::InvalidMachineId| {
            Failure::new(ErrorCode::InvalidMachineId, error.to_string())
        })?;
    let stored = app.store.machine(&id).await?;
    let tags = stored
        .as_ref()
        .map(|stored| stored.machine.tags.clone())
        .unwrap_or_default();
    let authorizer = app.authorizer().await?;
    let resource = Resource::machine(id.scope(), tags);
    app.allow_read(
        &authorizer,
        &caller,
        Question {
            action: Action::Read,
            resource: resource.clone(),
            context: Context::at(app.now()),
            event: "machine.read",
            subject: Subject {
                machine: Some(id.clone()),
                ..Subject::default()
            },
            reason: None,
        },
    )
    .await?;
    let stored = stored.ok_or_else(|| {
        Failure::new(
            ErrorCode::MachineNotFound,
            format!("machine `{id}` was not discovered"),
        )
    })?;
    let policy = match stored.policy {
        Some(policy) => app.store.policy(policy).await?,
        None => None,
    };
    let points = app.store.points_of_machine(&id).await?;
    let findings = app.store.findings_of_machine(&id, MOST_FINDINGS).await?;
    let may_request = authorizer
        .who_may(Action::Request, &resource, app.now())
        .into_iter()
        .map(|assignment| MayRequest {
            principal: assignment.principal.to_string(),
            role: assignment.role.clone(),
            scope: assignment.scope.to_string(),
            assignment_id: assignment.id.to_string(),
        })
        .collect();
    Ok(Json(MachineDetail {
        interfaces: machine::interfaces(&stored),
        machine: machine::show(&stored),
        policy: policy.as_ref().map(jit_policy::show),
        points: points.iter().map(machine::point).collect(),
        findings: findings.into_iter().map(machine::finding).collect(),
        may_request,
    }))
}
