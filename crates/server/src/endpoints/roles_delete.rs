//! `DELETE /v1/roles/{name}`: removes a custom role that nobody has.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use postern_api::{ErrorCode, Problem};
use postern_core::{audit::Subject, role::Role, scope::Scope};
use serde_json::json;

use super::roles_create::question;
use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathText},
    state::App,
};

/// Removes a custom role that is assigned to nobody. Needs `configure` at `/`.
#[utoipa::path(
    delete, path = "/v1/roles/{name}", tag = "access", operation_id = "deleteRole",
    params(("name" = String, Path, description = "The role's name.")),
    responses(
        (status = 204, description = "It is removed."),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`conflict`: it is built in, or somebody has it", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn delete_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathText(name): PathText,
) -> Result<StatusCode, Failure> {
    let authorizer = app.authorizer().await?;
    let before = app
        .store
        .roles()
        .await?
        .into_iter()
        .find(|role| role.name == name);
    let tx = app.store.begin().await?;
    let asked = question(&app, "role.delete");
    let (mut tx, decision) = app.allow(tx, &authorizer, &caller, asked).await?;
    if Role::built_in().iter().any(|role| role.name == name) {
        return Err(Failure::new(
            ErrorCode::Conflict,
            format!("role `{name}` ships with Postern"),
        ));
    }
    tx.delete_role(&name).await?;
    let event = app.event(
        &caller,
        "role.delete",
        Scope::root(),
        Subject::default(),
        Some(&decision),
        json!({ "before": before, "after": null }),
    );
    tx.audit(&[event]).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
