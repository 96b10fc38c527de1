//! Who asks: every request below `/v1` presents a token before anything else of it is looked at.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderValue,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use postern_api::ErrorCode;
use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    principal::{Principal, PrincipalRef},
    scope::Scope,
};
use serde_json::json;

use super::{
    client_address::{Unclear, client_address},
    limits::Place,
    respond::HttpRequestId,
};
use crate::{auth::Rejected, failure::Failure, state::App};

/// Who asks, and under which request id.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) principal: Arc<Principal>,
    pub(crate) request_id: String,
    /// Where the request comes from.
    pub(crate) address: Result<IpAddr, Unclear>,
}

impl Caller {
    /// The caller's own name.
    pub(crate) fn reference(&self) -> PrincipalRef {
        self.principal.reference()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Failure::internal("an endpoint that needs a caller is outside the authenticated routes")
        })
    }
}

/// Lets a request through that presents a good token, and remembers whose it is.
pub(crate) async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = request
        .extensions()
        .get::<HttpRequestId>()
        .map(|id| id.0.clone())
        .unwrap_or_default();
    // An explicit clone of what is looked at keeps the request's body out of the future.
    let headers: HeaderMap = request.headers().clone();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = client_address(peer.map(|peer| peer.0.ip()), &headers, &app.config.proxies);
    match app.authenticator.authenticate(&headers).await {
        Ok(principal) => {
            if let Err(failure) = app.rate.take(&principal.reference()) {
                return failure.into_response();
            }
            match app.places.take(principal.reference()) {
                Ok(taken) => {
                    if let Some(place) = request.extensions().get::<Place>() {
                        place.belongs(taken);
                    }
                }
                Err(failure) => return failure.into_response(),
            }
            let principal = Arc::new(principal);
            app.makers.saw(&principal);
            request.extensions_mut().insert(Caller {
                principal,
                request_id,
                address,
            });
            next.run(request).await
        }
        Err(rejected) => {
            record(&app, &rejected, address, request_id).await;
            failure(&rejected).into_response()
        }
    }
}

/// What whoever failed is told: which kind of failure, and nothing of why.
fn failure(rejected: &Rejected) -> Failure {
    let challenge = |text: &'static str| HeaderValue::from_static(text);
    match rejected {
        // RFC 6750, section 3: no error code when there were no credentials.
        Rejected::Missing => Failure::new(
            ErrorCode::TokenMissing,
            "an `Authorization: Bearer` header with a token is needed",
        )
        .with_header(WWW_AUTHENTICATE, challenge("Bearer")),
        Rejected::Invalid { .. } => Failure::new(ErrorCode::TokenInvalid, "the token is not accepted")
            .with_header(WWW_AUTHENTICATE, challenge("Bearer error=\"invalid_token\"")),
        Rejected::Expired { .. } => Failure::new(ErrorCode::TokenExpired, "the token is past its end")
            .with_header(
                WWW_AUTHENTICATE,
                challenge("Bearer error=\"invalid_token\", error_description=\"the token is past its end\""),
            ),
        Rejected::Unavailable { .. } => Failure::new(
            ErrorCode::Unavailable,
            "the issuer of the token does not answer, so the token cannot be verified",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5")),
    }
}

/// Writes the failure to the audit log, as far as the rate allows. A request without a token tried nothing.
async fn record(app: &App, rejected: &Rejected, address: Result<IpAddr, Unclear>, request_id: String) {
    let (reason, issuer) = match rejected {
        Rejected::Missing => return,
        Rejected::Invalid { reason, issuer } => (*reason, issuer.as_deref()),
        Rejected::Expired { issuer } => ("it is past its end", Some(issuer.as_str())),
        Rejected::Unavailable { issuer } => ("the issuer's keys cannot be had", Some(issuer.as_str())),
    };
    app.metrics.authentication_failed();
    tracing::info!(reason, issuer, "authentication failed");
    let now = app.clock.now();
    let Some(suppressed) = app.failures.take(now) else {
        return;
    };
    let event = AuditEvent {
        id: app.ids.next(now),
        at: now,
        action: "authentication.fail".to_owned(),
        outcome: Outcome::Denied,
        actor: Actor::Anonymous,
        scope: Scope::root(),
        reason: Some(reason.to_owned()),
        decision: None,
        details: json!({
            "issuer": issuer,
            "address": address.map(|address| address.to_string()).ok(),
            "not_recorded_before": suppressed,
        }),
        subject: Subject::default(),
        http_request: Some(request_id),
    };
    let written = async {
        let mut tx = app.store.begin().await?;
        tx.audit(&[event]).await?;
        tx.commit().await
    };
    if let Err(error) = written.await {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::error!(error, "could not write a failed authentication to the audit log");
    }
}
