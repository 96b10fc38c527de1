//! Freezes, as the API shows them.

use postern_api::freeze as api;
use postern_core::freeze::Freeze;

/// The freeze as the API shows it.
pub(crate) fn show(freeze: &Freeze) -> api::Freeze {
    api::Freeze {
        id: freeze.id.to_string(),
        scope: freeze.scope.to_string(),
        reason: freeze.reason.clone(),
        created_by: freeze.created_by.to_string(),
        created_at: freeze.created_at,
        lifted: freeze.lifted.as_ref().map(|lifted| api::FreezeEnd {
            by: lifted.by.to_string(),
            at: lifted.at,
            reason: lifted.reason.clone(),
        }),
    }
}
