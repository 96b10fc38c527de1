//! `GET /v1/roles`: every role.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{Page, Problem, role::Role as Shown};
use postern_core::role::Role;

use crate::{failure::Failure, flow::authenticate::Caller, shape::role, state::App};

/// Every role, built in and custom. Everybody may see them: denials name them.
#[utoipa::path(
    get, path = "/v1/roles", tag = "access", operation_id = "listRoles",
    responses(
        (status = 200, description = "All of them, on one page.", body = Page<Shown>),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_roles(
    State(app): State<Arc<App>>,
    _caller: Caller,
) -> Result<Json<Page<Shown>>, Failure> {
    let custom = app.store.roles().await?;
    Ok(Json(Page {
        items: Role::built_in().iter().chain(&custom).map(role::show).collect(),
        next_cursor: None,
    }))
}
