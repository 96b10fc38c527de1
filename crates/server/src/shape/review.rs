//! Reviews, as the API shows them.

use postern_api::review as api;
use postern_core::review::Review;

/// The review as the API shows it.
pub(crate) fn show(review: &Review) -> api::Review {
    api::Review {
        id: review.id.to_string(),
        request_id: review.request.to_string(),
        requester: review.requester.to_string(),
        scopes: review.scopes.iter().map(ToString::to_string).collect(),
        reason: review.reason.clone(),
        opened_at: review.opened_at,
        closed: review.closed.as_ref().map(|verdict| api::ReviewVerdict {
            by: verdict.by.to_string(),
            at: verdict.at,
            note: verdict.note.clone(),
        }),
    }
}
