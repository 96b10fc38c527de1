//! `GET /v1/deliveries`: whom Postern told of what, and whom it could not tell.

use std::sync::Arc;

use axum::{Json, extract::State};
use postern_api::{
    ErrorCode, Page, Problem,
    delivery::{Delivery, DeliveryQuery},
};
use postern_authz::{Context, Resource};
use postern_core::{audit::Subject, role::Action, scope::Scope};
use postern_store::{DeliveryFilter, DeliveryStatus};

use crate::{
    decide::Question,
    failure::Failure,
    flow::{authenticate::Caller, page, query::Parameters},
    shape::delivery,
    state::App,
};

/// Deliveries to the configured subscribers, the newest first. Needs `audit` at `/`: they are of events everywhere.
///
/// What was delivered is listed for as long as the configuration says, what was given up until it is replayed.
#[utoipa::path(
    get, path = "/v1/deliveries", tag = "audit", operation_id = "listDeliveries",
    params(DeliveryQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Delivery>),
        (status = 400, description = "`invalid_query`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_deliveries(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<DeliveryQuery>,
) -> Result<Json<Page<Delivery>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let status = query.status.as_deref().map(status).transpose()?;
    let authorizer = app.authorizer().await?;
    let question = Question {
        action: Action::Audit,
        resource: Resource::scope(Scope::root()),
        context: Context::at(app.now()),
        event: "delivery.read",
        subject: Subject::default(),
        reason: None,
    };
    app.allow_read(&authorizer, &caller, question).await?;
    let filter = DeliveryFilter {
        subscriber: query.subscriber,
        status,
    };
    let found = app.store.deliveries(&filter, after, limit).await?;
    Ok(Json(Page {
        next_cursor: found.next.as_ref().map(page::cursor),
        items: found.items.into_iter().map(delivery::show).collect(),
    }))
}

fn status(word: &str) -> Result<DeliveryStatus, Failure> {
    DeliveryStatus::ALL
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| {
            Failure::new(
                ErrorCode::InvalidQuery,
                "`status` is `waiting`, `delivered` or `dead`",
            )
        })
}
