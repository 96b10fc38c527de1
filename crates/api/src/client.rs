//! The typed HTTP client: one method per endpoint, with timeouts, idempotency keys and problems as errors.

use std::{fmt, time::Duration};

use reqwest::{Method, RequestBuilder, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    access_check::{AccessCheck, AccessCheckQuery},
    access_request::{
        AccessRequest, AccessRequestApprove, AccessRequestCreate, AccessRequestCreateQuery,
        AccessRequestDeny, AccessRequestQuery,
    },
    access_review::{
        AccessReview, AccessReviewCancel, AccessReviewCreate, AccessReviewItem, AccessReviewItemDecide,
        AccessReviewItemQuery, AccessReviewQuery,
    },
    audit_event::{AuditEvent, AuditEventQuery},
    delivery::{Delivery, DeliveryQuery},
    freeze::{Freeze, FreezeCreate, FreezeLift, FreezeMade, FreezeQuery},
    grant::{Grant, GrantExtend, GrantQuery, GrantRevoke},
    jit_policy::{JitPolicy, JitPolicyChangeQuery, JitPolicyPlan, JitPolicyQuery, JitPolicyWrite},
    lease::{Lease, LeaseCreate, LeaseWaitQuery},
    machine::{Machine, MachineDetail, MachineQuery},
    page::Page,
    preflight::AccessRequestDryRun,
    problem::Problem,
    review::{BreakGlassQuery, Review, ReviewClose, ReviewQuery},
    role::{Role, RoleAssignment, RoleAssignmentCreate, RoleAssignmentPlan, RoleAssignmentQuery, RoleCreate},
};

/// Change nothing, and say what would happen.
const DRY_RUN: JitPolicyChangeQuery = JitPolicyChangeQuery { dry_run: Some(true) };
/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that an answer may take, beyond what the request asks the server to wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why a call did not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base address is not one.
    #[error("`{0}` is not an http or https address to reach the server at")]
    Address(String),
    /// The server said no, and why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// No answer. A change may have taken effect; repeating it with the same idempotency key is safe.
    #[error("no answer from the server")]
    Transport(#[source] reqwest::Error),
    /// An answer that is none of this API's, such as one of a proxy's.
    #[error("unexpected answer with status {status}: {start}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// How the body begins.
        start: String,
    },
}

impl ClientError {
    /// The server's problem, if the server sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// A client of one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `base`, such as `https://postern.example.com`.
    pub fn new(base: &str) -> Result<Self, ClientError> {
        let address = || ClientError::Address(base.chars().take(200).collect());
        let mut url = Url::parse(base).map_err(|_| address())?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(address());
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        // An error means that the process has a provider already, which serves as well.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ClientError::Transport)?;
        Ok(Self {
            http,
            base: url,
            token: None,
        })
    }

    /// The same client, with a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(SecretString::from(token.into()));
        self
    }

    /// The address of a path below the base, each segment percent-encoded.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn call(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let request = self.http.request(method, self.url(segments));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    async fn send(request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let mut response = request.send().await.map_err(ClientError::Transport)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(ClientError::Transport)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(unexpected(status, &body));
            }
        }
        if status.is_success() {
            return Ok((status, body));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => Err(unexpected(status, &body)),
        }
    }

    async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
        let (status, body) = Self::send(request).await?;
        serde_json::from_slice(&body).map_err(|_| unexpected(status, &body))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        Self::read(self.call(Method::GET, segments).query(query)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        key: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        Self::read(keyed(self.call(Method::POST, segments).json(body), key)).await
    }

    /// Lists machines.
    pub async fn machines(&self, query: &MachineQuery) -> Result<Page<Machine>, ClientError> {
        self.get(&["v1", "machines"], query).await
    }

    /// One machine.
    pub async fn machine(&self, id: &str) -> Result<MachineDetail, ClientError> {
        self.get(&["v1", "machines", id], &()).await
    }

    /// Lists JIT policies.
    pub async fn jit_policies(&self, query: &JitPolicyQuery) -> Result<Page<JitPolicy>, ClientError> {
        self.get(&["v1", "jit-policies"], query).await
    }

    /// One JIT policy.
    pub async fn jit_policy(&self, id: &str) -> Result<JitPolicy, ClientError> {
        self.get(&["v1", "jit-policies", id], &()).await
    }

    /// Makes a JIT policy. `key` makes a repetition safe.
    pub async fn create_jit_policy(
        &self,
        key: Option<&str>,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicy, ClientError> {
        self.post(&["v1", "jit-policies"], key, policy).await
    }

    /// Replaces version `version` of a JIT policy.
    pub async fn update_jit_policy(
        &self,
        id: &str,
        version: i64,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicy, ClientError> {
        Self::read(
            self.call(Method::PUT, &["v1", "jit-policies", id])
                .header(header::IF_MATCH, format!("\"{version}\""))
                .json(policy),
        )
        .await
    }

    /// Removes version `version` of a JIT policy: its grants end, and what its lockdown displaced is put back.
    pub async fn delete_jit_policy(&self, id: &str, version: i64) -> Result<(), ClientError> {
        Self::send(
            self.call(Method::DELETE, &["v1", "jit-policies", id])
                .header(header::IF_MATCH, format!("\"{version}\"")),
        )
        .await
        .map(drop)
    }

    /// What making the policy would do.
    pub async fn plan_create_jit_policy(
        &self,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicyPlan, ClientError> {
        let call = self.call(Method::POST, &["v1", "jit-policies"]);
        Self::read(call.query(&DRY_RUN).json(policy)).await
    }

    /// What replacing version `version` of a JIT policy would do.
    pub async fn plan_update_jit_policy(
        &self,
        id: &str,
        version: i64,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicyPlan, ClientError> {
        let call = self
            .call(Method::PUT, &["v1", "jit-policies", id])
            .header(header::IF_MATCH, format!("\"{version}\""));
        Self::read(call.query(&DRY_RUN).json(policy)).await
    }

    /// What removing version `version` of a JIT policy would do.
    pub async fn plan_delete_jit_policy(&self, id: &str, version: i64) -> Result<JitPolicyPlan, ClientError> {
        let call = self
            .call(Method::DELETE, &["v1", "jit-policies", id])
            .header(header::IF_MATCH, format!("\"{version}\""));
        Self::read(call.query(&DRY_RUN)).await
    }

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
        let wait = Duration::from_secs(query.wait.unwrap_or(0).into());
        let call = self
            .call(Method::POST, &["v1", "access-requests"])
            .query(query)
            .json(request)
            .timeout(REQUEST_TIMEOUT.saturating_add(wait));
        Self::read(keyed(call, key)).await
    }

    /// Opens ports at once, without approval, in an emergency.
    pub async fn break_glass(
        &self,
        key: Option<&str>,
        query: &BreakGlassQuery,
        request: &AccessRequestCreate,
    ) -> Result<AccessRequest, ClientError> {
        let wait = Duration::from_secs(query.wait.unwrap_or(0).into());
        let call = self
            .call(Method::POST, &["v1", "break-glass"])
            .query(query)
            .json(request)
            .timeout(REQUEST_TIMEOUT.saturating_add(wait));
        Self::read(keyed(call, key)).await
    }

    /// Lists access reviews of role assignments.
    pub async fn access_reviews(&self, query: &AccessReviewQuery) -> Result<Page<AccessReview>, ClientError> {
        self.get(&["v1", "access-reviews"], query).await
    }

    /// One access review.
    pub async fn access_review(&self, id: &str) -> Result<AccessReview, ClientError> {
        self.get(&["v1", "access-reviews", id], &()).await
    }

    /// Lists the items of an access review.
    pub async fn access_review_items(
        &self,
        id: &str,
        query: &AccessReviewItemQuery,
    ) -> Result<Page<AccessReviewItem>, ClientError> {
        self.get(&["v1", "access-reviews", id, "items"], query).await
    }

    /// Starts an access review.
    pub async fn create_access_review(
        &self,
        key: Option<&str>,
        create: &AccessReviewCreate,
    ) -> Result<AccessReview, ClientError> {
        self.post(&["v1", "access-reviews"], key, create).await
    }

    /// Ends an access review early, and its further rounds.
    pub async fn cancel_access_review(
        &self,
        id: &str,
        key: Option<&str>,
        cancel: &AccessReviewCancel,
    ) -> Result<AccessReview, ClientError> {
        self.post(&["v1", "access-reviews", id, "cancel"], key, cancel)
            .await
    }

    /// Decides about an item of an access review.
    pub async fn decide_access_review_item(
        &self,
        id: &str,
        key: Option<&str>,
        decide: &AccessReviewItemDecide,
    ) -> Result<AccessReviewItem, ClientError> {
        self.post(&["v1", "access-review-items", id, "decide"], key, decide)
            .await
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
        let wait = Duration::from_secs(query.wait.unwrap_or(0).into());
        let call = self
            .call(Method::POST, &["v1", "leases"])
            .query(query)
            .json(lease)
            .timeout(REQUEST_TIMEOUT.saturating_add(wait));
        Self::read(keyed(call, key)).await
    }

    /// One lease.
    pub async fn lease(&self, id: &str) -> Result<Lease, ClientError> {
        self.get(&["v1", "leases", id], &()).await
    }

    /// Tells that the holder of a lease is still there, and waits for its ports where the query says so.
    pub async fn heartbeat_lease(&self, id: &str, query: &LeaseWaitQuery) -> Result<Lease, ClientError> {
        let wait = Duration::from_secs(query.wait.unwrap_or(0).into());
        let call = self
            .call(Method::POST, &["v1", "leases", id, "heartbeat"])
            .query(query)
            .timeout(REQUEST_TIMEOUT.saturating_add(wait));
        Self::read(call).await
    }

    /// Gives a lease back: what it opened is closed. One that has ended is answered as it is.
    pub async fn release_lease(&self, id: &str) -> Result<Lease, ClientError> {
        Self::read(self.call(Method::POST, &["v1", "leases", id, "release"])).await
    }

    /// Lists freezes.
    pub async fn freezes(&self, query: &FreezeQuery) -> Result<Page<Freeze>, ClientError> {
        self.get(&["v1", "freezes"], query).await
    }

    /// Closes everything at a scope, and keeps it closed.
    pub async fn create_freeze(
        &self,
        key: Option<&str>,
        freeze: &FreezeCreate,
    ) -> Result<FreezeMade, ClientError> {
        self.post(&["v1", "freezes"], key, freeze).await
    }

    /// Lifts a freeze.
    pub async fn lift_freeze(
        &self,
        id: &str,
        key: Option<&str>,
        lift: &FreezeLift,
    ) -> Result<Freeze, ClientError> {
        self.post(&["v1", "freezes", id, "lift"], key, lift).await
    }

    /// Every role, built in and custom.
    pub async fn roles(&self) -> Result<Page<Role>, ClientError> {
        self.get(&["v1", "roles"], &()).await
    }

    /// Makes a custom role.
    pub async fn create_role(&self, key: Option<&str>, role: &RoleCreate) -> Result<Role, ClientError> {
        self.post(&["v1", "roles"], key, role).await
    }

    /// Removes a custom role that nobody has.
    pub async fn delete_role(&self, name: &str) -> Result<(), ClientError> {
        Self::send(self.call(Method::DELETE, &["v1", "roles", name]))
            .await
            .map(drop)
    }

    /// Lists role assignments.
    pub async fn role_assignments(
        &self,
        query: &RoleAssignmentQuery,
    ) -> Result<Page<RoleAssignment>, ClientError> {
        self.get(&["v1", "role-assignments"], query).await
    }

    /// Lists deliveries to subscribers.
    pub async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, ClientError> {
        self.get(&["v1", "deliveries"], query).await
    }

    /// Lets a delivery that was given up be tried again.
    pub async fn replay_delivery(&self, id: i64, key: Option<&str>) -> Result<Delivery, ClientError> {
        let id = id.to_string();
        Self::read(keyed(
            self.call(Method::POST, &["v1", "deliveries", &id, "replay"]),
            key,
        ))
        .await
    }

    /// Makes a role assignment.
    pub async fn create_role_assignment(
        &self,
        key: Option<&str>,
        assignment: &RoleAssignmentCreate,
    ) -> Result<RoleAssignment, ClientError> {
        self.post(&["v1", "role-assignments"], key, assignment).await
    }

    /// What making the role assignment would do.
    pub async fn plan_create_role_assignment(
        &self,
        assignment: &RoleAssignmentCreate,
    ) -> Result<RoleAssignmentPlan, ClientError> {
        let call = self.call(Method::POST, &["v1", "role-assignments"]);
        Self::read(call.query(&DRY_RUN).json(assignment)).await
    }

    /// What removing the role assignment would do.
    pub async fn plan_delete_role_assignment(&self, id: &str) -> Result<RoleAssignmentPlan, ClientError> {
        let call = self.call(Method::DELETE, &["v1", "role-assignments", id]);
        Self::read(call.query(&DRY_RUN)).await
    }

    /// Removes a role assignment.
    pub async fn delete_role_assignment(&self, id: &str) -> Result<(), ClientError> {
        Self::send(self.call(Method::DELETE, &["v1", "role-assignments", id]))
            .await
            .map(drop)
    }

    /// May somebody do something somewhere, and what says so?
    pub async fn access_check(&self, query: &AccessCheckQuery) -> Result<AccessCheck, ClientError> {
        let call = self.call(Method::GET, &["v1", "access-check"]);
        Self::read(call.query(query).query(&query.repeated())).await
    }

    /// Lists audit events.
    pub async fn audit_events(&self, query: &AuditEventQuery) -> Result<Page<AuditEvent>, ClientError> {
        self.get(&["v1", "audit-events"], query).await
    }
}

fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    }
}

fn unexpected(status: StatusCode, body: &[u8]) -> ClientError {
    ClientError::Unexpected {
        status: status.as_u16(),
        start: String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_one_segment_of_the_path() {
        let client = Client::new("http://127.0.0.1:1/base").unwrap();
        let url = client.url(&["v1", "machines", "/subscriptions/a/b?c#d%2f"]);
        assert_eq!(
            url.path(),
            "/base/v1/machines/%2Fsubscriptions%2Fa%2Fb%3Fc%23d%252f"
        );
        assert_eq!(url.query(), None);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "localhost:8080", "ftp://x", "mailto:a@b"] {
            assert!(
                matches!(Client::new(text), Err(ClientError::Address(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let client = Client::new("http://127.0.0.1:1").unwrap().with_token("s3cret");
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
