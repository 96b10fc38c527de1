//! The routes, the layers around them, and the document that describes them.

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    endpoints as e,
    flow::{again, authenticate, fallback, limits, respond},
    state::App,
};

struct BearerScheme;

impl Modify for BearerScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("JWT".to_owned());
        http.description = Some("A token of one of the configured issuers.".to_owned());
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(http));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postern",
        description = "Just-in-time network access to machines in Azure and AWS. Errors are RFC 9457 \
                       problems with a stable `code`. Lists come in pages. A POST with an `Idempotency-Key` \
                       is done once, however often it is sent."
    ),
    modifiers(&BearerScheme),
    security(("bearer" = [])),
    tags(
        (name = "machines", description = "Discovered machines and their posture."),
        (name = "jit-policies", description = "Which machines are guarded, on which ports, on what terms."),
        (name = "access-requests", description = "Who asks for which ports, from where, how long and why."),
        (name = "grants", description = "One machine's share of an approved request, with the truth of each hop."),
        (name = "leases", description = "Requests that last as long as their holder is heard of, for pipelines."),
        (name = "freezes", description = "Emergencies: close everything at a scope, and keep it closed until lifted."),
        (name = "break-glass", description = "Emergencies: open at once without approval, to be looked at afterwards."),
        (name = "access", description = "Roles, role assignments and the explanation of decisions."),
        (name = "access-reviews", description = "Who has which role, looked at from time to time, and taken away where it is not needed."),
        (name = "audit", description = "Who did what, why, decided by what, with which outcome, when."),
        (name = "health", description = "For those who run the server. Needs no token."),
    )
)]
struct Api;

/// The routes that need a token.
fn guarded() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(e::machines_list::list_machines))
        .routes(routes!(e::machines_get::get_machine))
        .routes(routes!(
            e::jit_policies_list::list_jit_policies,
            e::jit_policies_create::create_jit_policy
        ))
        .routes(routes!(
            e::jit_policies_get::get_jit_policy,
            e::jit_policies_update::update_jit_policy,
            e::jit_policies_delete::delete_jit_policy
        ))
        .routes(routes!(
            e::access_requests_list::list_access_requests,
            e::access_requests_create::create_access_request
        ))
        .routes(routes!(e::access_requests_get::get_access_request))
        .routes(routes!(e::access_requests_approve::approve_access_request))
        .routes(routes!(e::access_requests_deny::deny_access_request))
        .routes(routes!(e::access_requests_withdraw::withdraw_access_request))
        .routes(routes!(e::grants_list::list_grants))
        .routes(routes!(e::grants_get::get_grant))
        .routes(routes!(e::grants_revoke::revoke_grant))
        .routes(routes!(e::grants_extend::extend_grant))
        .routes(routes!(e::leases_create::create_lease))
        .routes(routes!(e::leases_get::get_lease))
        .routes(routes!(e::leases_heartbeat::heartbeat_lease))
        .routes(routes!(e::leases_release::release_lease))
        .routes(routes!(
            e::freezes_list::list_freezes,
            e::freezes_create::create_freeze
        ))
        .routes(routes!(e::freezes_lift::lift_freeze))
        .routes(routes!(e::break_glass::break_glass))
        .routes(routes!(e::reviews_list::list_reviews))
        .routes(routes!(e::reviews_close::close_review))
        .routes(routes!(e::roles_list::list_roles, e::roles_create::create_role))
        .routes(routes!(e::roles_delete::delete_role))
        .routes(routes!(
            e::role_assignments_list::list_role_assignments,
            e::role_assignments_create::create_role_assignment
        ))
        .routes(routes!(e::role_assignments_delete::delete_role_assignment))
        .routes(routes!(
            e::access_reviews_list::list_access_reviews,
            e::access_reviews_create::create_access_review
        ))
        .routes(routes!(e::access_reviews_get::get_access_review))
        .routes(routes!(e::access_reviews_items::list_access_review_items))
        .routes(routes!(e::access_reviews_cancel::cancel_access_review))
        .routes(routes!(e::access_review_items_decide::decide_access_review_item))
        .routes(routes!(e::access_check::check_access))
        .routes(routes!(e::audit_events_list::list_audit_events))
        .routes(routes!(e::deliveries_list::list_deliveries))
        .routes(routes!(e::deliveries_replay::replay_delivery))
}

/// The routes that need none.
fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(e::health::livez))
        .routes(routes!(e::health::readyz))
        .routes(routes!(e::health::metrics))
        .routes(routes!(e::openapi::openapi))
}

/// The description of the API, in `OpenAPI` 3.1.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut openapi = OpenApiRouter::with_openapi(Api::openapi())
        .merge(guarded())
        .merge(open())
        .into_openapi();
    // The version of the crate says nothing about the API, whose version is in its paths.
    "1".clone_into(&mut openapi.info.version);
    openapi
}

/// The whole service.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = open().split_for_parts();
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(Arc::clone(&app), respond::respond))
        .layer(CatchPanicLayer::custom(limits::panicked));
    let open = open
        .route("/", get(fallback::root))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            limits::limit_open,
        ));
    guarded
        .layer(middleware::from_fn_with_state(Arc::clone(&app), again::again))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            authenticate::authenticate,
        ))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), limits::limit))
        .merge(open)
        .fallback(fallback::no_path)
        .method_not_allowed_fallback(fallback::no_method)
        .layer(DefaultBodyLimit::max(app.config.limits.body_bytes))
        .layer(layers)
        .with_state(app)
}
