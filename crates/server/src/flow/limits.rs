//! Limits on a request: how many at once, how long, and what happens when a handler panics.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Uri, header::RETRY_AFTER};
use postern_api::ErrorCode;
use url::form_urlencoded;

use crate::{failure::Failure, state::App};

/// The longest that a request may ask to wait, in seconds.
pub(crate) const MAX_WAIT: u32 = 60;

/// How long the request asks to wait itself.
fn asked_to_wait(uri: &Uri) -> Duration {
    let seconds = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "wait")
        .and_then(|(_, value)| value.parse::<u32>().ok())
        .unwrap_or(0);
    Duration::from_secs(seconds.min(MAX_WAIT).into())
}

/// Refuses a request beyond the number that may be under way, and ends one that takes too long.
pub(crate) async fn limit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = app.permits.try_acquire() else {
        return Failure::new(ErrorCode::Overloaded, "too many requests are under way")
            .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
            .into_response();
    };
    let allowed =
        Duration::from_secs(app.config.limits.request_seconds).saturating_add(asked_to_wait(request.uri()));
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
