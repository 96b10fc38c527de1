//! The look of every replica at what only time makes due.

use std::{sync::Arc, time::Duration};

use postern_core::time::Instant;

use crate::{failure::Failure, state::App};

/// The shortest between two looks.
const SHORTEST: Duration = Duration::from_millis(50);

/// Looks until the server stops. A look does what is due and says when the next is; nothing that another replica makes due
/// meanwhile waits longer than `longest`. After a failure, `undone` is said, and it is looked at again.
pub(crate) async fn keep_looking<L, F>(app: Arc<App>, longest: Duration, undone: &str, look: L)
where
    L: Fn(Arc<App>) -> F,
    F: Future<Output = Result<Option<Instant>, Failure>>,
{
    while !app.stopping.is_cancelled() {
        let wait = match look(Arc::clone(&app)).await {
            Ok(next) => next
                .map_or(longest, |at| (at - app.now()).to_std().unwrap_or_default())
                .clamp(SHORTEST, longest),
            Err(failure) => {
                tracing::warn!(detail = failure.detail(), "{undone}; trying again");
                longest
            }
        };
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
