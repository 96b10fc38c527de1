//! Deliveries as the API shows them.

use postern_api::delivery as api;
use postern_store::Delivery;

/// The delivery.
pub(crate) fn show(delivery: Delivery) -> api::Delivery {
    api::Delivery {
        id: delivery.id,
        subscriber: delivery.subscriber,
        event: delivery.event.to_string(),
        action: delivery.action,
        status: delivery.status.as_str().to_owned(),
        attempts: delivery.attempts,
        created_at: delivery.created_at,
        due_at: delivery.due_at,
        settled_at: delivery.settled_at,
        last_error: delivery.last_error,
    }
}
