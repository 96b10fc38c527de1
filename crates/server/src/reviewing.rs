//! Breaking the glass: what is kept of it for somebody else to look at.

use std::collections::BTreeMap;

use postern_authz::{Resource, ResourceKind};
use postern_core::{
    id::ReviewId,
    request::{AccessRequest, Approved},
    review::Review,
    scope::Scope,
};

/// The audit event's action, one of its own so that whoever must hear of it can subscribe to it.
pub(crate) const EVENT: &str = "break_glass.use";

/// The review of a request that was granted because its requester broke the glass.
pub(crate) fn of(id: ReviewId, request: &AccessRequest<Approved>) -> Review {
    Review {
        id,
        request: request.id,
        requester: request.requester.clone(),
        scopes: request
            .targets
            .iter()
            .map(|target| target.machine.scope())
            .collect(),
        reason: request.reason.clone(),
        opened_at: request.state.at,
        closed: None,
    }
}

/// What somebody must be allowed to read to see the review: all of its machines, with their tags.
pub(crate) fn resources(review: &Review, tags: &BTreeMap<Scope, BTreeMap<String, String>>) -> Vec<Resource> {
    let resource = |scope: &Scope| Resource {
        scope: scope.clone(),
        tags: tags.get(scope).cloned().unwrap_or_default(),
        kind: ResourceKind::AccessRequest,
    };
    review.scopes.iter().map(resource).collect()
}
