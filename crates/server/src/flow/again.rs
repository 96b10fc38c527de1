//! Does a request again that met another one's locks.
//!
//! Postgres ends one of two transactions that wait for each other, and takes back all that it did. Locks are taken in
//! one order, so that this is rare; where it happens all the same, nobody needs to hear of it.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{failure::Failure, flow::body::whole, state::App};

/// How often a request is done at most. Whoever loses this often in a row is told to come again.
const TIMES: usize = 3;

/// Runs the handler, and once more where it met another one's locks.
pub(crate) async fn again(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = match whole(Request::from_parts(parts.clone(), body), &app).await {
        Ok(body) => body,
        Err(failure) => return failure.into_response(),
    };
    let mut times = 1;
    loop {
        let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
        let response = next.clone().run(request).await;
        let met_another = response
            .extensions()
            .get::<Arc<Failure>>()
            .is_some_and(|failure| failure.is_contention());
        if !met_another || times == TIMES {
            return response;
        }
        times += 1;
        tracing::debug!(times, "the request met another one's locks and is done again");
    }
}
