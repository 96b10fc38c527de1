//! `GET /v1/grants/{id}`: one grant, with the truth of each hop.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{Problem, grant::Grant};
use postern_core::{id::GrantKind, role::Action};

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, path::PathId},
    reading::hidden,
    state::App,
};

/// One grant, with what was last read back at each hop. Yours, or one on a machine that you may read.
#[utoipa::path(
    get, path = "/v1/grants/{id}", tag = "grants", operation_id = "getGrant",
    params(("id" = String, Path, description = "The grant's id.")),
    responses(
        (status = 200, description = "The grant.", body = Grant),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn get_grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathId(id): PathId<GrantKind>,
) -> Result<Json<Grant>, Failure> {
    let grant = app
        .store
        .grant(id)
        .await?
        .ok_or_else(|| Failure::not_found("such grant"))?;
    if grant.requester != caller.reference() {
        let authorizer = app.authorizer().await?;
        let question = app.about_grant(&grant, Action::Read, "grant.read", None).await?;
        app.allow_read(&authorizer, &caller, question)
            .await
            .map_err(|failure| hidden(failure, "such grant"))?;
    }
    app.show_grant(&grant).await.map(Json)
}
