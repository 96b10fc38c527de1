//! Calls about access: requests, breaking the glass and its reviews, grants and leases.

use reqwest::Method;

use super::{Client, ClientError, DRY_RUN, keyed, waiting};
use crate::{
    access_request::{
        AccessRequest, AccessRequestApprove, AccessRequestCreate, AccessRequestCreateQuery,
        AccessRequestDeny, AccessRequestQuery,
    },
    grant::{Grant, GrantExtend, GrantQuery, GrantRevoke},
    lease::{Lease, LeaseCreate, LeaseWaitQuery},
    page::Page,
    preflight::AccessRequestDryRun,
    review::{BreakGlassQuery, Review, ReviewClose, ReviewQuery},
};

impl Client {
    /// What asking for ports would come to, and run into.
    pub async fn dry_run_access_request(
        &self,
        request: &AccessRequestCreate,
    ) -> Result<AccessRequestDryRun, ClientError> {
        let call = self.call(Method::POST, &["v1", "access-requests"]);
        Self::read(call.query(&DRY_RUN).json(request)).await
    }

    /// Asks for ports. `key` makes a repetition safe.
    pub async fn create_access_request(
        &self,
        key: Option<&str>,
        query: &AccessRequestCreateQuery,
        request: &AccessRequestCreate,
    ) -> Result<AccessRequest, ClientError> {
        let call = self
            .call(Method::POST, &["v1", "access-requests"])
            .query(query)
            .json(request);
        Self::read(keyed(waiting(call, query.wait), key)).await
    }

    /// Opens ports at once, without approval, in an emergency.
    pub async fn break_glass(
        &self,
        key: Option<&str>,
        query: &BreakGlassQuery,
        request: &AccessRequestCreate,
    ) -> Result<AccessRequest, ClientError> {
        let call = self
            .call(Method::POST, &["v1", "break-glass"])
            .query(query)
            .json(request);
        Self::read(keyed(waiting(call, query.wait), key)).await
    }

    /// Lists reviews of what was opened by breaking the glass.
    pub async fn reviews(&self, query: &ReviewQuery) -> Result<Page<Review>, ClientError> {
        self.get(&["v1", "reviews"], query).await
    }

    /// Closes a review.
    pub async fn close_review(
        &self,
        id: &str,
        key: Option<&str>,
        close: &ReviewClose,
    ) -> Result<Review, ClientError> {
        self.post(&["v1", "reviews", id, "close"], key, close).await
    }

    /// Lists access requests.
    pub async fn access_requests(
        &self,
        query: &AccessRequestQuery,
    ) -> Result<Page<AccessRequest>, ClientError> {
        self.get(&["v1", "access-requests"], query).await
    }

    /// One access request.
    pub async fn access_request(&self, id: &str) -> Result<AccessRequest, ClientError> {
        self.get(&["v1", "access-requests", id], &()).await
    }

    /// Approves somebody else's request.
    pub async fn approve_access_request(
        &self,
        id: &str,
        key: Option<&str>,
    ) -> Result<AccessRequest, ClientError> {
        Self::read(keyed(
            self.call(Method::POST, &["v1", "access-requests", id, "approve"]),
            key,
        ))
        .await
    }

    /// Approves somebody else's request, or less of it.
    pub async fn approve_access_request_for(
        &self,
        id: &str,
        key: Option<&str>,
        approve: &AccessRequestApprove,
    ) -> Result<AccessRequest, ClientError> {
        self.post(&["v1", "access-requests", id, "approve"], key, approve)
            .await
    }

    /// Turns a request down.
    pub async fn deny_access_request(
        &self,
        id: &str,
        key: Option<&str>,
        deny: &AccessRequestDeny,
    ) -> Result<AccessRequest, ClientError> {
        self.post(&["v1", "access-requests", id, "deny"], key, deny).await
    }

    /// Takes back one's own request.
    pub async fn withdraw_access_request(
        &self,
        id: &str,
        key: Option<&str>,
    ) -> Result<AccessRequest, ClientError> {
        Self::read(keyed(
            self.call(Method::POST, &["v1", "access-requests", id, "withdraw"]),
            key,
        ))
        .await
    }

    /// Lists grants.
    pub async fn grants(&self, query: &GrantQuery) -> Result<Page<Grant>, ClientError> {
        self.get(&["v1", "grants"], query).await
    }

    /// One grant.
    pub async fn grant(&self, id: &str) -> Result<Grant, ClientError> {
        self.get(&["v1", "grants", id], &()).await
    }

    /// Ends a grant.
    pub async fn revoke_grant(
        &self,
        id: &str,
        key: Option<&str>,
        revoke: &GrantRevoke,
    ) -> Result<Grant, ClientError> {
        self.post(&["v1", "grants", id, "revoke"], key, revoke).await
    }

    /// Asks for an open grant to last longer. The answer is the request: approved, or pending.
    pub async fn extend_grant(
        &self,
        id: &str,
        key: Option<&str>,
        extend: &GrantExtend,
    ) -> Result<AccessRequest, ClientError> {
        self.post(&["v1", "grants", id, "extend"], key, extend).await
    }

    /// Makes a lease, or finds the one that the caller holds under the same key.
    pub async fn create_lease(
        &self,
        key: Option<&str>,
        query: &LeaseWaitQuery,
        lease: &LeaseCreate,
    ) -> Result<Lease, ClientError> {
        let call = self
            .call(Method::POST, &["v1", "leases"])
            .query(query)
            .json(lease);
        Self::read(keyed(waiting(call, query.wait), key)).await
    }

    /// One lease.
    pub async fn lease(&self, id: &str) -> Result<Lease, ClientError> {
        self.get(&["v1", "leases", id], &()).await
    }

    /// Tells that the holder of a lease is still there, and waits for its ports where the query says so.
    pub async fn heartbeat_lease(&self, id: &str, query: &LeaseWaitQuery) -> Result<Lease, ClientError> {
        let call = self
            .call(Method::POST, &["v1", "leases", id, "heartbeat"])
            .query(query);
        Self::read(waiting(call, query.wait)).await
    }

    /// Gives a lease back: what it opened is closed. One that has ended is answered as it is.
    pub async fn release_lease(&self, id: &str) -> Result<Lease, ClientError> {
        Self::read(self.call(Method::POST, &["v1", "leases", id, "release"])).await
    }
}
