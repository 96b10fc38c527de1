//! Limits on a request: how many at once, how many of one principal, how long, and what happens when a handler
//! panics.

use std::{
    any::Any,
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter, clock::Clock as _, middleware::NoOpMiddleware, state::keyed::HashMapStateStore,
};
use http::{HeaderValue, Uri, header::RETRY_AFTER, request::Parts};
use postern_api::ErrorCode;
use postern_core::principal::PrincipalRef;
use tokio::sync::OwnedSemaphorePermit;
use url::form_urlencoded;

use crate::{config::Limits, failure::Failure, state::App};

/// The longest that a request may ask to wait, in seconds.
pub(crate) const MAX_WAIT: u32 = 60;

/// The `wait` of a query, within its bounds.
pub(crate) fn wait_of(seconds: Option<u32>) -> Result<Duration, Failure> {
    let seconds = seconds.unwrap_or(0);
    if seconds > MAX_WAIT {
        return Err(Failure::new(
            ErrorCode::InvalidWait,
            format!("`wait` is 0 to {MAX_WAIT} seconds"),
        ));
    }
    Ok(Duration::from_secs(seconds.into()))
}

/// How long the request asks to wait itself.
fn asked_to_wait(uri: &Uri) -> Duration {
    let seconds = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "wait")
        .and_then(|(_, value)| value.parse::<u32>().ok())
        .unwrap_or(0);
    Duration::from_secs(seconds.min(MAX_WAIT).into())
}

/// What a request takes up while it is under way, until this is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "what it holds is held by being there")]
struct Taken {
    of_all: OwnedSemaphorePermit,
    /// Once it is known whose it is.
    of_principal: Option<PrincipalPlace>,
}

/// A request's place among those under way, and among those of its principal. It is free again when the request is
/// answered, or before.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<Mutex<Option<Taken>>>);

impl Place {
    /// It is this principal's.
    pub(crate) fn belongs(&self, to: PrincipalPlace) {
        if let Some(taken) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            taken.of_principal = Some(to);
        }
    }

    /// Lets another request in: this one only waits from now on.
    pub(crate) fn give_up(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Failure::internal("an endpoint that waits is outside the limited routes"))
    }
}

/// How many requests of each principal are under way.
#[derive(Debug)]
pub(crate) struct PrincipalPlaces {
    most: usize,
    taken: Mutex<HashMap<PrincipalRef, usize>>,
}

/// One of a principal's places; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct PrincipalPlace {
    of: Arc<PrincipalPlaces>,
    principal: PrincipalRef,
}

impl PrincipalPlaces {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            most: limits.concurrency_per_principal,
            taken: Mutex::new(HashMap::new()),
        }
    }

    /// Takes one of the principal's places, or refuses the request.
    pub(crate) fn take(self: &Arc<Self>, principal: PrincipalRef) -> Result<PrincipalPlace, Failure> {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(principal.clone()).or_default();
        if *taken >= self.most {
            return Err(Failure::new(
                ErrorCode::RateLimited,
                "as many requests of yours are under way as one principal may have at once",
            )
            .with_header(RETRY_AFTER, HeaderValue::from_static("1")));
        }
        *taken += 1;
        Ok(PrincipalPlace {
            of: Arc::clone(self),
            principal,
        })
    }
}

impl Drop for PrincipalPlace {
    fn drop(&mut self) {
        let mut all = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = all.get_mut(&self.principal) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                all.remove(&self.principal);
            }
        }
    }
}

/// How often one principal may ask: a bucket for each who asked lately.
#[derive(Debug)]
pub(crate) struct PrincipalRate(
    RateLimiter<
        PrincipalRef,
        HashMapStateStore<PrincipalRef>,
        governor::clock::DefaultClock,
        NoOpMiddleware<<governor::clock::DefaultClock as governor::clock::Clock>::Instant>,
    >,
);

/// With this many buckets, those that are full again are forgotten.
const BUCKETS: usize = 10_000;

impl PrincipalRate {
    pub(crate) fn new(limits: &Limits) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(limits.requests_per_second))
            .allow_burst(at_least_one(limits.request_burst));
        Self(RateLimiter::hashmap(quota))
    }

    /// Counts a request of this principal's, or refuses it and says when to come again.
    pub(crate) fn take(&self, principal: &PrincipalRef) -> Result<(), Failure> {
        if self.0.len() > BUCKETS {
            self.0.retain_recent();
        }
        self.0.check_key(principal).map_err(|until| {
            let wait = until.wait_time_from(governor::clock::DefaultClock::default().now());
            let seconds = wait.as_secs() + 1;
            Failure::new(
                ErrorCode::RateLimited,
                "you send more requests than one principal may",
            )
            .with_header(RETRY_AFTER, HeaderValue::from(seconds))
        })
    }
}

/// Refuses a request beyond the number that may be under way, and ends one that takes too long.
pub(crate) async fn limit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Ok(permit) = Arc::clone(&app.permits).try_acquire_owned() else {
        return overloaded();
    };
    let place = Place(Arc::new(Mutex::new(Some(Taken {
        of_all: permit,
        of_principal: None,
    }))));
    request.extensions_mut().insert(place);
    let allowed =
        Duration::from_secs(app.config.limits.request_seconds).saturating_add(asked_to_wait(request.uri()));
    within(allowed, request, next).await
}

/// The same for the routes that need no token, which have places of their own: whoever watches the server sees it
/// when it is busy, and nobody without a token keeps those who have one out.
pub(crate) async fn limit_open(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = app.open_permits.try_acquire() else {
        return overloaded();
    };
    within(
        Duration::from_secs(app.config.limits.request_seconds),
        request,
        next,
    )
    .await
}

fn overloaded() -> Response {
    Failure::new(ErrorCode::Overloaded, "too many requests are under way")
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
        .into_response()
}

async fn within(allowed: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(allowed, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(
            ErrorCode::Timeout,
            format!("the request took more than {} s", allowed.as_secs()),
        )
        .into_response(),
    }
}

/// The answer when a handler panics. The message goes to the log only.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the panic layer's handlers take the payload"
)]
pub(crate) fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let message = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    Failure::internal(format!("panic: {message}")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_the_time_that_it_asks_to_wait_and_no_more_than_a_minute() {
        for (uri, seconds) in [
            ("/v1/access-requests", 0),
            ("/v1/access-requests?wait=30", 30),
            ("/v1/access-requests?dry_run=true&wait=4000000", 60),
            ("/v1/access-requests?wait=-1", 0),
        ] {
            assert_eq!(
                asked_to_wait(&uri.parse().unwrap()),
                Duration::from_secs(seconds),
                "{uri}"
            );
        }
    }
}
