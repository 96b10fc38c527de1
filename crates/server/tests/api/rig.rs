//! A server on a real socket over a real database, with an issuer, machines and people.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use chrono::TimeDelta;
use postern_api::{
    Client, ClientError, ErrorCode, Problem,
    access_request::{AccessRequest, AccessRequestCreate, AccessRequestCreateQuery},
    jit_policy::{JitPolicy, JitPolicyQuery},
    role::{RoleAssignmentCreate, RoleAssignmentQuery, RoleCreate},
};
use postern_authz::GuardrailSet;
use postern_core::{
    audit::Outcome,
    inventory::{Interface, Layer, Machine, Power},
    machine::MachineId,
    point::PointRef,
    posture::posture,
    scope::Scope,
    sg::SecurityGroup,
    testing::at,
    time::{Clock, CountingIds, ManualClock},
};
use postern_server::{Dependencies, Running, Server, ServerConfig};
use postern_store::{MachineRow, Store, Subscription};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::issuer::{Issuer, TestKey};

/// The subject that is owner of everything.
pub(crate) const OWNER: &str = "root";

/// See the module.
pub(crate) struct Rig {
    pub(crate) running: Running,
    /// The configuration.
    document: Value,
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) clock: ManualClock,
    pub(crate) issuer: Issuer,
    pub(crate) key: TestKey,
    pub(crate) ids: CountingIds,
}

/// How a rig differs from the usual one.
pub(crate) struct Plan {
    pub(crate) change: Box<dyn FnOnce(&mut Value) + Send>,
    pub(crate) guardrails: &'static str,
    pub(crate) engine: Result<(), String>,
    pub(crate) keys: Vec<TestKey>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            change: Box::new(|_| ()),
            guardrails: "",
            engine: Ok(()),
            keys: vec![TestKey::ed25519("one", 1)],
        }
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Plan::default()).await
    }

    pub(crate) async fn with(plan: Plan) -> Self {
        let issuer = Issuer::start(&plan.keys.iter().collect::<Vec<_>>()).await;
        let mut config = json!({
            "listen": "127.0.0.1:0",
            "installation": "test",
            "issuers": [{
                "name": "corp",
                "issuer": issuer.url(),
                "audiences": ["postern"],
                "algorithms": ["EdDSA", "RS256"],
                "loopback_http": true,
                "claims": { "workload_when": [{ "claim": "idtyp", "values": ["app"] }] },
            }],
            "first_owners": [format!("user:corp/{OWNER}")],
        });
        (plan.change)(&mut config);
        let document = config.clone();
        let config: ServerConfig = serde_json::from_value(config).unwrap();
        let store = postern_store::testing::fresh_store().await;
        let clock = ManualClock::new(at(0));
        let ids = CountingIds::new(1);
        let engine = plan.engine;
        let running = Server::bind(
            config,
            Dependencies {
                store: store.clone(),
                clock: Arc::new(clock.clone()),
                ids: Arc::new(ids.clone()),
                registry: Registry::default(),
                guardrails: GuardrailSet::parse("test", plan.guardrails).unwrap(),
                engine: Arc::new(move || engine.clone()),
                enforcers: Vec::new(),
                cloud_roles: None,
            },
        )
        .await
        .unwrap();
        Self {
            address: running.addr(),
            running,
            document,
            store,
            clock,
            issuer,
            key: plan.keys.into_iter().next().unwrap(),
            ids,
        }
    }

    /// Another server over the same database, without guardrails.
    pub(crate) async fn replica(&self) -> Running {
        let dependencies = Dependencies {
            store: self.store.clone(),
            clock: Arc::new(self.clock.clone()),
            ids: Arc::new(self.ids.clone()),
            registry: Registry::default(),
            guardrails: GuardrailSet::parse("test", "").unwrap(),
            engine: Arc::new(|| Ok(())),
            enforcers: Vec::new(),
            cloud_roles: None,
        };
        let config: ServerConfig = serde_json::from_value(self.document.clone()).unwrap();
        Server::bind(config, dependencies).await.unwrap()
    }

    /// A client of somebody in these groups.
    pub(crate) fn member(&self, subject: &str, groups: &[&str]) -> Client {
        let mut claims = self.claims(subject);
        claims["groups"] = json!(groups);
        self.client(subject).with_token(self.key.sign(&claims))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Good claims of somebody.
    pub(crate) fn claims(&self, subject: &str) -> Value {
        let now = self.clock.now().timestamp();
        json!({ "iss": self.issuer.url(), "aud": "postern", "sub": subject, "iat": now, "exp": now + 3600 })
    }

    pub(crate) fn token(&self, subject: &str) -> String {
        self.key.sign(&self.claims(subject))
    }

    /// A client of somebody's.
    pub(crate) fn client(&self, subject: &str) -> Client {
        Client::new(&format!("http://{}", self.address))
            .unwrap()
            .with_token(self.token(subject))
    }

    pub(crate) fn owner(&self) -> Client {
        self.client(OWNER)
    }

    /// Gives somebody a role.
    pub(crate) async fn assign(&self, subject: &str, role: &str, scope: &str) {
        self.assign_to(&format!("user:corp/{subject}"), role, scope).await;
    }

    /// Gives a principal a role.
    pub(crate) async fn assign_to(&self, principal: &str, role: &str, scope: &str) {
        self.owner()
            .create_role_assignment(
                None,
                &RoleAssignmentCreate {
                    role: role.into(),
                    principal: principal.into(),
                    scope: scope.into(),
                    ..RoleAssignmentCreate::default()
                },
            )
            .await
            .unwrap();
    }

    /// Takes a person's role away, wherever they have it first.
    pub(crate) async fn take_away(&self, subject: &str, role: &str) {
        let owner = self.owner();
        let all = owner
            .role_assignments(&RoleAssignmentQuery::default())
            .await
            .unwrap();
        let who = format!("user:corp/{subject}");
        let its = all
            .items
            .iter()
            .find(|one| one.principal == who && one.role == role)
            .unwrap();
        owner.delete_role_assignment(&its.id).await.unwrap();
    }

    /// Ada may break the glass of everything in the scope.
    pub(crate) async fn on_call(&self, scope: &str) {
        let role = RoleCreate {
            name: "on-call".into(),
            actions: ["read".to_owned(), "break_glass".to_owned()].into(),
        };
        self.owner().create_role(None, &role).await.unwrap();
        self.assign("ada", "on-call", scope).await;
    }

    /// Somebody wants to hear of what is done so, anywhere, and comes out so.
    pub(crate) async fn subscribe(&self, name: &str, actions: &[&str], outcome: Outcome) {
        let subscription = Subscription {
            name: name.into(),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
            outcomes: vec![outcome],
            scope: Scope::root(),
        };
        self.store
            .subscribe(&[subscription], self.clock.now())
            .await
            .unwrap();
    }

    /// The JIT policy, where there is one.
    pub(crate) async fn only_policy(&self) -> JitPolicy {
        let page = self.owner().jit_policies(&JitPolicyQuery::default()).await;
        page.unwrap().items.remove(0)
    }

    /// A machine behind one security group, discovered.
    pub(crate) async fn discover(&self, id: &str) -> MachineId {
        self.discover_with(id, true, &[]).await
    }

    pub(crate) async fn discover_with(&self, id: &str, filtered: bool, tags: &[(&str, &str)]) -> MachineId {
        let id: MachineId = id.parse().unwrap();
        let group = SecurityGroup {
            id: "sg-0123456789abcdef0".into(),
            name: "web".into(),
            vpc: "vpc-1".into(),
            ingress: vec![],
            egress: vec![],
            tags: BTreeMap::new(),
        };
        let machine = Machine {
            id: id.clone(),
            name: "web-1".into(),
            tags: tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            power: Power::Running,
            interfaces: vec![Interface {
                id: "eni-0123456789abcdef0".into(),
                addresses: vec!["10.0.0.4".parse().unwrap()],
                public_addresses: vec![],
                network: vec![],
                network_id: "vpc-1".into(),
                layers: if filtered {
                    vec![Layer::SecurityGroups { groups: vec![group] }]
                } else {
                    vec![]
                },
            }],
        };
        let locks = if filtered {
            [PointRef::security_group("123456789012", "eu-west-1", "sg-0123456789abcdef0").unwrap()].into()
        } else {
            [].into()
        };
        let row = MachineRow {
            posture: posture(&machine, None),
            policy: None,
            opens: machine.grant_points(),
            locks,
            machine,
        };
        let mut tx = self.store.begin().await.unwrap();
        tx.save_machines(&[row], &self.ids, self.clock.now())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// A machine, a policy on everything, somebody who may ask: the start of most stories.
    pub(crate) async fn ready_for_requests(&self, approval: &str) -> String {
        self.discover(MACHINE).await;
        self.owner()
            .create_jit_policy(None, &policy("ssh", "/aws", approval))
            .await
            .unwrap();
        self.assign("ada", "requester", "/aws").await;
        self.pass().await;
        MACHINE.to_owned()
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }

    /// The audit events whose action begins so, the oldest first.
    pub(crate) async fn audit(&self, action: &str) -> Vec<postern_store::StoredEvent> {
        let filter = postern_store::AuditFilter {
            visible: postern_store::Visible::everything(),
            action_prefix: Some(action.into()),
            ..Default::default()
        };
        self.store
            .audit_events(&filter, None, 1000, postern_store::Order::OldestFirst)
            .await
            .unwrap()
            .items
    }

    /// The loop looks at everything that is due, and finds it as it should be.
    pub(crate) async fn pass(&self) {
        let (lease_for, grace) = (Duration::from_mins(1), Duration::ZERO);
        let leases = self
            .store
            .lease("rig", 100, lease_for, grace, self.clock.now())
            .await
            .unwrap();
        for lease in leases {
            let mut tx = self.store.begin().await.unwrap();
            tx.finish(&lease, postern_store::Next::Never, &[]).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    /// Whether the point is due.
    pub(crate) async fn is_due(&self, point: &str) -> bool {
        let point: PointRef = point.parse().unwrap();
        self.store
            .point(&point)
            .await
            .unwrap()
            .is_some_and(|point| point.due_at.is_some())
    }

    /// Sends raw bytes as a body with somebody's token.
    pub(crate) async fn post_raw(
        &self,
        path: &str,
        subject: &str,
        content_type: Option<&str>,
        body: &str,
    ) -> Answer {
        let mut request = http()
            .post(self.url(path))
            .bearer_auth(self.token(subject))
            .body(body.to_owned());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// A GET with this token.
    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        Answer::of(
            http()
                .get(self.url(path))
                .bearer_auth(token)
                .send()
                .await
                .unwrap(),
        )
        .await
    }
}

pub(crate) const MACHINE: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0";
pub(crate) const GROUP_POINT: &str = "aws:security-group:123456789012/eu-west-1/sg-0123456789abcdef0";
pub(crate) const INSTANCE_POINT: &str = "aws:instance:123456789012/eu-west-1/i-0123456789abcdef0";

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(
            self.headers
                .get("content-type")
                .and_then(|value| value.to_str().ok()),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem: Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem
    }
}

pub(crate) fn http() -> reqwest::Client {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(30))
        .build()
        .unwrap()
}

pub(crate) fn policy(name: &str, scope: &str, approval: &str) -> postern_api::jit_policy::JitPolicyWrite {
    serde_json::from_value(json!({
        "name": name,
        "scope": scope,
        "guards": [{ "ports": "22/tcp", "allowed_sources": ["203.0.113.0/24"], "max_duration_seconds": 3600 }],
        "approval": approval,
    }))
    .unwrap()
}

/// How a request is made that nobody waits for.
pub(crate) fn now() -> AccessRequestCreateQuery {
    AccessRequestCreateQuery::default()
}

/// Asks for what [`ask`] says, and is not refused.
pub(crate) async fn asks(client: &Client, machine: &str) -> AccessRequest {
    let asked = client.create_access_request(None, &now(), &ask(machine)).await;
    asked.unwrap()
}

pub(crate) fn ask(machine: &str) -> AccessRequestCreate {
    serde_json::from_value(json!({
        "targets": [{ "machine": machine, "ports": ["22"], "sources": ["203.0.113.7"] }],
        "duration_seconds": 600,
        "reason": "disk full",
    }))
    .unwrap()
}

#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorCode {
    result.unwrap_err().problem().expect("a problem").code
}
