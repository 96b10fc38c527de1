//! Every operation with every role: who may, who may not, and none without a case.

use std::collections::{BTreeMap, BTreeSet};

use postern_api::{
    access_request::AccessRequestCreateQuery,
    access_review::AccessReviewItemQuery,
    freeze::FreezeCreate,
    jit_policy::JitPolicyQuery,
    lease::LeaseWaitQuery,
    review::{BreakGlassQuery, ReviewQuery},
    role::{RoleAssignmentCreate, RoleCreate},
};
use postern_core::{role::Role, time::Clock as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    deliveries::{give_up, with_a_dead_delivery},
    rig::{Answer, MACHINE, OWNER, Rig, ask, http, policy},
};

/// Somebody without any role.
const NOBODY: &str = "nobody";

/// A machine that needs nobody's approval.
const LEASED: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";

/// Each operation, and the roles at `/` that may do it. A list that shows nothing counts as may not; what one may do
/// to one's own things has tests of its own.
const MATRIX: &[(&str, &[&str])] = &[
    ("listMachines", EVERY_ROLE),
    ("getMachine", EVERY_ROLE),
    ("listJitPolicies", EVERY_ROLE),
    ("getJitPolicy", EVERY_ROLE),
    ("createJitPolicy", &["operator", "owner"]),
    ("updateJitPolicy", &["operator", "owner"]),
    ("deleteJitPolicy", &["operator", "owner"]),
    ("listAccessRequests", EVERY_ROLE),
    ("getAccessRequest", EVERY_ROLE),
    ("createAccessRequest", &["owner", "requester"]),
    ("approveAccessRequest", &["approver", "owner"]),
    ("denyAccessRequest", &["approver", "owner"]),
    ("withdrawAccessRequest", &[]),
    ("listGrants", EVERY_ROLE),
    ("getGrant", EVERY_ROLE),
    ("revokeGrant", &["operator", "owner"]),
    // One's own only.
    ("extendGrant", &[]),
    ("createLease", &["owner", "requester"]),
    ("getLease", EVERY_ROLE),
    ("heartbeatLease", &[]),
    ("releaseLease", &[]),
    ("breakGlass", &["owner"]),
    ("listReviews", EVERY_ROLE),
    ("closeReview", &["approver", "owner"]),
    ("listFreezes", EVERY_ROLE),
    ("createFreeze", &["operator", "owner"]),
    ("liftFreeze", &["operator", "owner"]),
    ("listRoles", EVERYBODY),
    ("createRole", &["operator", "owner"]),
    ("deleteRole", &["operator", "owner"]),
    ("listRoleAssignments", EVERY_ROLE),
    ("createRoleAssignment", &["owner"]),
    ("deleteRoleAssignment", &["owner"]),
    ("listAccessReviews", EVERY_ROLE),
    ("getAccessReview", EVERY_ROLE),
    ("listAccessReviewItems", EVERY_ROLE),
    ("createAccessReview", &["owner"]),
    ("cancelAccessReview", &["owner"]),
    // Whom the access review names, and no role.
    ("decideAccessReviewItem", &[]),
    ("checkAccess", &["auditor", "owner"]),
    ("listAuditEvents", &["auditor", "owner"]),
    ("listDeliveries", &["auditor", "owner"]),
    ("replayDelivery", &["operator", "owner"]),
];

const EVERY_ROLE: &[&str] = &["approver", "auditor", "operator", "owner", "reader", "requester"];
const EVERYBODY: &[&str] = &[
    "approver",
    "auditor",
    NOBODY,
    "operator",
    "owner",
    "reader",
    "requester",
];

/// What the calls are about. Each call that changes something gets a thing of its own.
struct Stage {
    rig: Rig,
    policy: String,
    delivery: i64,
    made: usize,
}

/// A call without its path's parameters.
struct Call {
    id: String,
    query: &'static str,
    if_match: Option<i64>,
    body: Option<Value>,
}

impl Call {
    fn of(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            query: "",
            if_match: None,
            body: None,
        }
    }

    fn plain() -> Self {
        Self::of("")
    }

    fn with(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }
}

impl Stage {
    async fn set() -> Self {
        let rig = Rig::start().await;
        rig.ready_for_requests("one").await;
        rig.discover(LEASED).await;
        let leased = policy("leased", "/aws/123456789012/eu-central-1", "policy");
        rig.owner().create_jit_policy(None, &leased).await.unwrap();
        rig.pass().await;
        for role in Role::built_in().into_iter().filter(|role| role.name != "owner") {
            rig.assign(&as_role(&role.name), &role.name, "/").await;
        }
        let on_call = RoleCreate {
            name: "on-call".to_owned(),
            actions: BTreeSet::from(["break_glass".to_owned()]),
        };
        rig.owner().create_role(None, &on_call).await.unwrap();
        rig.assign("zoe", "on-call", "/").await;
        let policies = rig
            .owner()
            .jit_policies(&JitPolicyQuery::default())
            .await
            .unwrap();
        let policy = policies.items[0].id.clone();
        let delivery = with_a_dead_delivery(&rig).await;
        let stage = Self {
            rig,
            policy,
            delivery,
            made: 0,
        };
        stage.grant().await;
        stage
    }

    fn name(&mut self) -> String {
        self.made += 1;
        format!("made-{}", self.made)
    }

    /// Ada's request, which waits for somebody to decide.
    async fn request(&self) -> String {
        let ada = self.rig.client("ada");
        let query = AccessRequestCreateQuery::default();
        ada.create_access_request(None, &query, &ask(MACHINE))
            .await
            .unwrap()
            .id
    }

    async fn grant(&self) -> String {
        let approved = self
            .rig
            .owner()
            .approve_access_request(&self.request().await, None)
            .await
            .unwrap();
        approved.grants[0].id.clone()
    }

    /// The review of a glass that somebody on call broke.
    async fn a_review(&self) -> String {
        let query = BreakGlassQuery::default();
        let broken = self
            .rig
            .client("zoe")
            .break_glass(None, &query, &ask(MACHINE))
            .await;
        let request = broken.unwrap().id;
        let reviews = self.rig.owner().reviews(&ReviewQuery::default()).await.unwrap();
        let review = reviews
            .items
            .into_iter()
            .find(|review| review.request_id == request);
        review.unwrap().id
    }

    /// A freeze's body, of a scope where nothing is.
    fn freeze(&mut self) -> FreezeCreate {
        let name = self.name();
        FreezeCreate {
            scope: format!("/azure/00000000-0000-0000-0000-000000000001/{name}"),
            reason: "drill".to_owned(),
        }
    }

    async fn a_freeze(&mut self) -> String {
        let freeze = self.freeze();
        self.rig
            .owner()
            .create_freeze(None, &freeze)
            .await
            .unwrap()
            .freeze
            .id
    }

    /// A lease's body, of a machine that needs nobody's approval.
    fn lease(&mut self) -> Value {
        let mut lease = json!(ask(LEASED));
        lease["key"] = json!(self.name());
        lease
    }

    async fn a_lease(&mut self) -> String {
        let lease = serde_json::from_value(self.lease()).unwrap();
        let ada = self.rig.client("ada");
        let made = ada.create_lease(None, &LeaseWaitQuery::default(), &lease).await;
        made.unwrap().id
    }

    /// A policy of its own, on machines that there are not.
    fn document(&mut self) -> Value {
        let name = self.name();
        let scope = format!("/azure/00000000-0000-0000-0000-000000000001/{name}");
        json!(policy(&name, &scope, "one"))
    }

    async fn a_policy(&mut self) -> (String, i64) {
        let document = serde_json::from_value(self.document()).unwrap();
        let made = self.rig.owner().create_jit_policy(None, &document).await.unwrap();
        (made.id, made.version)
    }

    async fn a_role(&mut self) -> String {
        let role = RoleCreate {
            name: self.name(),
            actions: BTreeSet::from(["read".to_owned()]),
        };
        self.rig.owner().create_role(None, &role).await.unwrap().name
    }

    fn assignment(&mut self) -> RoleAssignmentCreate {
        RoleAssignmentCreate {
            role: "reader".to_owned(),
            principal: format!("group:corp/{}", self.name()),
            scope: "/".to_owned(),
            ..RoleAssignmentCreate::default()
        }
    }

    /// An access review's body.
    fn access_review(&mut self) -> Value {
        json!({
            "name": self.name(), "scope": "/aws", "reviewers": ["user:corp/lea"],
            "deadline": self.rig.clock.now() + chrono::TimeDelta::days(7), "undecided": "keep",
        })
    }

    async fn an_access_review(&mut self) -> String {
        let create = serde_json::from_value(self.access_review()).unwrap();
        self.rig
            .owner()
            .create_access_review(None, &create)
            .await
            .unwrap()
            .id
    }

    async fn an_item(&mut self) -> String {
        let review = self.an_access_review().await;
        let query = AccessReviewItemQuery::default();
        let items = self.rig.owner().access_review_items(&review, &query).await;
        items.unwrap().items.remove(0).id
    }

    async fn an_assignment(&mut self) -> String {
        let assignment = self.assignment();
        let owner = self.rig.owner();
        owner.create_role_assignment(None, &assignment).await.unwrap().id
    }

    /// The call of an operation, about something that is there and ready for it.
    async fn call(&mut self, operation: &str) -> Call {
        match operation {
            "listMachines"
            | "listJitPolicies"
            | "listAccessRequests"
            | "listGrants"
            | "listRoles"
            | "listRoleAssignments"
            | "listAuditEvents"
            | "listDeliveries" => Call::plain(),
            "getMachine" => Call::of(MACHINE.replace('/', "%2F")),
            "getJitPolicy" => Call::of(self.policy.clone()),
            "createJitPolicy" => Call::plain().with(self.document()),
            "updateJitPolicy" => {
                let (id, version) = self.a_policy().await;
                Call {
                    if_match: Some(version),
                    ..Call::of(id).with(self.document())
                }
            }
            "deleteJitPolicy" => {
                let (id, version) = self.a_policy().await;
                Call {
                    if_match: Some(version),
                    ..Call::of(id)
                }
            }
            "createAccessRequest" | "breakGlass" => Call::plain().with(json!(ask(MACHINE))),
            "getAccessRequest" | "approveAccessRequest" | "withdrawAccessRequest" => {
                Call::of(self.request().await)
            }
            "denyAccessRequest" => Call::of(self.request().await).with(json!({ "reason": "no" })),
            "getGrant" => Call::of(self.grant().await),
            "revokeGrant" => Call::of(self.grant().await).with(json!({ "reason": "done" })),
            "extendGrant" => {
                Call::of(self.grant().await).with(json!({ "duration_seconds": 1200, "reason": "longer" }))
            }
            "createLease" => Call::plain().with(self.lease()),
            "getLease" | "heartbeatLease" | "releaseLease" => Call::of(self.a_lease().await),
            "listReviews" => {
                self.a_review().await;
                Call::plain()
            }
            "closeReview" => Call::of(self.a_review().await).with(json!({ "note": "needed" })),
            "listFreezes" => {
                self.a_freeze().await;
                Call::plain()
            }
            "createFreeze" => Call::plain().with(json!(self.freeze())),
            "liftFreeze" => Call::of(self.a_freeze().await).with(json!({ "reason": "over" })),
            "listAccessReviews" => {
                self.an_access_review().await;
                Call::plain()
            }
            "createAccessReview" => Call::plain().with(self.access_review()),
            "getAccessReview" | "listAccessReviewItems" => Call::of(self.an_access_review().await),
            "cancelAccessReview" => {
                Call::of(self.an_access_review().await).with(json!({ "reason": "not now" }))
            }
            "decideAccessReviewItem" => {
                let decision = json!({ "decision": "keep", "reason": "needed" });
                Call::of(self.an_item().await).with(decision)
            }
            "createRole" => Call::plain().with(json!({ "name": self.name(), "actions": ["read"] })),
            "deleteRole" => Call::of(self.a_role().await),
            "createRoleAssignment" => Call::plain().with(json!(self.assignment())),
            "deleteRoleAssignment" => Call::of(self.an_assignment().await),
            // About somebody else; about oneself everybody may ask.
            "checkAccess" => Call {
                query: "?principal=user:corp/zoe&action=read&scope=/",
                ..Call::plain()
            },
            "replayDelivery" => Call::of(self.delivery.to_string()),
            other => panic!(
                "operation `{other}` has no case in the role matrix: say in `MATRIX` who may, and here how it is called"
            ),
        }
    }

    /// Whether somebody may: a success that shows something, or a refusal. Anything else is a fault of the case.
    async fn may(&self, method: &str, path: &str, call: &Call, subject: &str, what: &str) -> bool {
        let path = path.replace("{id}", &call.id).replace("{name}", &call.id);
        let mut request = http()
            .request(
                Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(),
                self.rig.url(&format!("{path}{}", call.query)),
            )
            .bearer_auth(self.rig.token(subject));
        if let Some(version) = call.if_match {
            request = request.header("if-match", format!("\"{version}\""));
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let answer = Answer::of(request.send().await.unwrap()).await;
        match answer.status {
            200 | 201 | 204 => {
                let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                body["items"].as_array().is_none_or(|items| !items.is_empty())
            }
            // What one may not even see is not there.
            403 | 404 => false,
            _ => panic!("{what} as {subject}: {answer:?}"),
        }
    }
}

fn as_role(role: &str) -> String {
    if role == "owner" {
        OWNER.to_owned()
    } else {
        format!("the-{role}")
    }
}

#[tokio::test]
async fn every_operation_is_for_the_roles_that_the_matrix_says_and_for_no_others() {
    let mut stage = Stage::set().await;
    let document = serde_json::to_value(postern_server::openapi()).unwrap();
    let expected: BTreeMap<&str, BTreeSet<&str>> = MATRIX
        .iter()
        .map(|(operation, roles)| (*operation, roles.iter().copied().collect()))
        .collect();
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"] == json!([{}]) {
                continue;
            }
            let name = operation["operationId"].as_str().unwrap();
            let mut may = BTreeSet::new();
            for role in EVERYBODY {
                let call = stage.call(name).await;
                if stage.may(method, path, &call, &as_role(role), name).await {
                    may.insert(*role);
                }
                // It waits again, and is given up again for the next.
                if name == "replayDelivery" && may.contains(role) {
                    stage.delivery = give_up(&stage.rig).await;
                }
            }
            found.insert(name.to_owned(), may);
        }
    }
    for (operation, roles) in &found {
        assert_eq!(
            Some(roles),
            expected.get(operation.as_str()),
            "`{operation}`: who may (left) is not who should (right)"
        );
    }
    assert_eq!(
        found.len(),
        expected.len(),
        "the matrix has an operation that is gone"
    );
}
