//! The lifecycle of requests and grants against a model: people ask, agree, deny, withdraw, revoke and freeze, the
//! clock moves, the loop works, its calls fail and its process dies, in every order that is drawn. The real server and
//! the real loop over a real database; only the cloud is in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use postern_api::{
    Client, ClientError, ErrorCode,
    access_request::{
        AccessRequestApprove, AccessRequestCreate, AccessRequestCreateQuery, AccessRequestDeny,
    },
    freeze::{FreezeCreate, FreezeLift},
    grant::{GrantExtend, GrantRevoke},
};
use postern_core::{
    enforcer::Enforcer,
    grant::{Grant, GrantState},
    id::{GrantId, PolicyId, RequestId},
    inventory::{Interface, Layer, Machine, Power},
    point::PointRef,
    posture::posture,
    sg::SecurityGroup,
    time::{Clock as _, Instant},
};
use postern_engine::{Engine, EngineConfig, Metrics};
use postern_store::{GrantFilter, Lease, MachineRow, Visible, testing};
use proptest::{sample::Index, test_runner::Config};
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use serde_json::json;
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::rig::{Rig, policy};

mod cloud;
mod judge;
mod model;

use cloud::MemoryCloud;
use model::{APPROVERS, Lifecycle, Model, NEEDS, PENDING_SECONDS, REQUESTERS, Revoker, Transition};

/// One for all cases, because the test's Postgres and its connections outlive a case.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

prop_state_machine! {
    #![proptest_config(Config {
        cases: 64,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    })]

    #[test]
    fn whatever_happens_in_whatever_order_requests_and_grants_are_as_the_model_says(sequential 1..20 => World);
}

/// The server, the loop and their database: one for all cases, each of which has an account of its own in it.
struct Installation {
    rig: Rig,
    client: Client,
    cloud: MemoryCloud,
    engine: Engine,
    /// The policy at whose machines so many must agree.
    policies: Vec<PolicyId>,
    accounts: AtomicU64,
}

static INSTALLATION: OnceCell<Installation> = OnceCell::const_new();

struct World {
    all: &'static Installation,
    /// Twelve digits.
    account: String,
    began: Instant,
    requests: Vec<RequestId>,
    /// Every grant as it was after the step before.
    before: BTreeMap<GrantId, Grant>,
    freeze: Option<String>,
    keys: u32,
}

impl StateMachineTest for World {
    type SystemUnderTest = Self;
    type Reference = Lifecycle;

    fn init_test(_: &Model) -> Self {
        RUNTIME.block_on(Self::start())
    }

    fn apply(mut world: Self, model: &Model, transition: Transition) -> Self {
        RUNTIME.block_on(async {
            world.step(model, transition).await;
            world.check(model).await;
        });
        world
    }

    fn teardown(mut world: Self, model: Model) {
        RUNTIME.block_on(async {
            let mut model = model;
            for (at, _) in model.requests.clone().iter().enumerate() {
                for grant in world.grants_of(at).await {
                    world.revoke(&grant, "root").await.unwrap();
                }
            }
            world.settle().await;
            model.answers.clear();
            world.check(&model).await;
            world.check_log().await;
            assert!(world.standing().is_empty(), "everything closes");
        });
    }
}

fn answer<T>(result: Result<T, ClientError>) -> Result<T, ErrorCode> {
    result.map_err(|error| error.problem().expect("a problem").code)
}

impl Installation {
    async fn start() -> Self {
        let rig = Rig::start().await;
        let owner = rig.owner();
        let mut policies = Vec::new();
        for needs in NEEDS {
            let mut document = policy(&format!("needs {needs}"), "/aws", "policy");
            document.tags.insert("needs".into(), needs.to_string());
            if needs > 0 {
                document.approval =
                    serde_json::from_value(json!({ "stages": [{ "needs": needs }] })).unwrap();
                document.pending_for_seconds = Some(PENDING_SECONDS);
            }
            let made = owner.create_jit_policy(None, &document).await.unwrap();
            policies.push(made.id.parse().unwrap());
        }
        for who in REQUESTERS {
            rig.assign(who, "requester", "/aws").await;
        }
        for who in APPROVERS {
            rig.assign(who, "approver", "/aws").await;
        }
        // She may approve, and never does: ending a grant is for those who did.
        rig.assign("fay", "approver", "/aws").await;
        rig.assign("sam", "operator", "/aws").await;
        let cloud = MemoryCloud {
            state: Arc::default(),
            store: rig.store.clone(),
            died: Arc::default(),
        };
        let mut config = EngineConfig::new("test".parse().unwrap(), "a");
        // Nothing waits: the clock moves only between the steps. Nothing is looked at again for its own sake.
        (config.backoff, config.backoff_max) = (Duration::ZERO, Duration::ZERO);
        config.drift_interval = Duration::from_hours(24 * 365);
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let engine = Engine::new(
            rig.store.clone(),
            [Arc::new(cloud.clone()) as Arc<dyn Enforcer>],
            Arc::new(rig.clock.clone()),
            Arc::new(rig.ids.clone()),
            config,
            Arc::new(metrics),
        );
        Self {
            client: rig.owner(),
            rig,
            cloud,
            engine,
            policies,
            accounts: AtomicU64::new(200_000_000_000),
        }
    }

    /// A new account with a machine for each policy.
    async fn account(&self) -> String {
        let account = self.accounts.fetch_add(1, Ordering::Relaxed).to_string();
        let rows: Vec<MachineRow> = self
            .policies
            .iter()
            .enumerate()
            .map(|(at, policy)| {
                let machine = a_machine(&account, at);
                MachineRow {
                    posture: posture(&machine, None),
                    policy: Some(*policy),
                    opens: machine.grant_points(),
                    locks: BTreeSet::new(),
                    machine,
                }
            })
            .collect();
        let mut tx = self.rig.store.begin().await.unwrap();
        tx.save_machines(&rows, &self.rig.ids, self.rig.clock.now())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        account
    }
}

/// The machine at which so many must agree.
fn machine(account: &str, at: usize) -> String {
    format!("arn:aws:ec2:eu-west-1:{account}:instance/i-{at:017x}")
}

fn a_machine(account: &str, at: usize) -> Machine {
    Machine {
        id: machine(account, at).parse().unwrap(),
        name: format!("web-{at}"),
        tags: [("needs".to_owned(), NEEDS[at].to_string())].into(),
        power: Power::Running,
        interfaces: vec![Interface {
            id: format!("eni-{at:017x}"),
            addresses: vec!["10.0.0.4".parse().unwrap()],
            public_addresses: vec![],
            network: vec![],
            network_id: "vpc-1".into(),
            layers: vec![Layer::SecurityGroups {
                groups: vec![SecurityGroup {
                    id: format!("sg-{at:017x}"),
                    name: "web".into(),
                    vpc: "vpc-1".into(),
                    ingress: vec![],
                    egress: vec![],
                    tags: BTreeMap::new(),
                }],
            }],
        }],
    }
}

impl World {
    async fn start() -> Self {
        let all = INSTALLATION.get_or_init(Installation::start).await;
        let world = Self {
            account: all.account().await,
            began: all.rig.clock.now(),
            all,
            requests: Vec::new(),
            before: BTreeMap::new(),
            freeze: None,
            keys: 0,
        };
        world.settle().await;
        world
    }

    /// A client of somebody's, with a token that is good now.
    fn of(&self, subject: &str) -> Client {
        self.all.client.clone().with_token(self.all.rig.token(subject))
    }

    fn at(&self, index: Index) -> usize {
        index.index(self.requests.len())
    }

    /// Does to the system what the model was done, and compares the answers.
    async fn step(&mut self, model: &Model, transition: Transition) {
        let answers = match transition {
            Transition::Ask {
                by,
                machines,
                seconds,
                twice,
                ahead,
                best_effort,
            } => {
                let asked = self.asked(&machines, seconds, ahead, best_effort);
                vec![self.ask(REQUESTERS[by], &asked, twice).await]
            }
            Transition::Extend { request, seconds } => {
                self.extend(model, self.at(request), seconds).await;
                vec![Ok(())]
            }
            Transition::Block { machine: at, blocked } => {
                let machine = machine(&self.account, at).parse().unwrap();
                let mut state = self.all.cloud.state.lock().unwrap();
                if blocked {
                    state.blocked.insert(machine);
                } else {
                    state.blocked.remove(&machine);
                }
                vec![Ok(())]
            }
            Transition::Approve { request, by, narrow } => {
                vec![self.approve(self.at(request), APPROVERS[by], narrow).await]
            }
            Transition::ApproveTogether { request, by } => {
                let at = self.at(request);
                let (first, second) = tokio::join!(
                    self.approve(at, APPROVERS[by[0]], None),
                    self.approve(at, APPROVERS[by[1]], None)
                );
                vec![first, second]
            }
            Transition::Deny { request, by } => {
                let deny = AccessRequestDeny {
                    reason: "not today".into(),
                };
                let id = &self.requests[self.at(request)].to_string();
                let denied = self.of(APPROVERS[by]).deny_access_request(id, None, &deny).await;
                vec![answer(denied).map(drop)]
            }
            Transition::Withdraw { request, by } => {
                let id = &self.requests[self.at(request)].to_string();
                let withdrawn = self.of(REQUESTERS[by]).withdraw_access_request(id, None).await;
                vec![answer(withdrawn).map(drop)]
            }
            Transition::Revoke {
                request,
                by,
                meanwhile,
            } => {
                let at = self.at(request);
                let who = match by {
                    Revoker::Requester => REQUESTERS[model.requests[at].by],
                    Revoker::Operator => "sam",
                    Revoker::Stranger => "fay",
                };
                let grants = self.grants_of(at).await;
                let Some(grant) = grants.first() else { return };
                let revoked = if meanwhile {
                    tokio::join!(self.revoke(grant, who), self.pass_once()).0
                } else {
                    self.revoke(grant, who).await
                };
                vec![revoked]
            }
            Transition::Freeze => {
                let freeze = FreezeCreate {
                    scope: format!("/aws/{}", self.account),
                    reason: "keys leaked".into(),
                };
                let made = self.of("sam").create_freeze(None, &freeze).await.unwrap();
                self.freeze = Some(made.freeze.id);
                vec![Ok(())]
            }
            Transition::Lift => {
                let lift = FreezeLift {
                    reason: "keys rotated".into(),
                };
                let id = self.freeze.take().expect("a freeze");
                self.of("sam").lift_freeze(&id, None, &lift).await.unwrap();
                vec![Ok(())]
            }
            Transition::Advance { seconds } => {
                self.all.rig.advance(seconds);
                vec![Ok(())]
            }
            Transition::Stumble { after, fault } => {
                self.all.cloud.state.lock().unwrap().fault = Some((after, fault));
                self.pass_once().await;
                self.all.cloud.state.lock().unwrap().fault = None;
                vec![Ok(())]
            }
            Transition::Settle => {
                self.settle().await;
                self.check_settled(model).await;
                vec![Ok(())]
            }
        };
        assert!(
            model.answers.contains(&answers),
            "{answers:?} and not {:?}",
            model.answers
        );
    }

    fn asked(
        &self,
        machines: &BTreeSet<usize>,
        seconds: i64,
        ahead: Option<i64>,
        best_effort: bool,
    ) -> AccessRequestCreate {
        let starts_at = ahead.map(|ahead| self.all.rig.clock.now() + TimeDelta::seconds(ahead));
        serde_json::from_value(json!({
            "targets": machines.iter().map(|at| json!({
                "machine": machine(&self.account, *at), "ports": ["22"], "sources": ["203.0.113.7"],
            })).collect::<Vec<_>>(),
            "duration_seconds": seconds,
            "reason": "disk full",
            "starts_at": starts_at,
            "mode": best_effort.then_some("best_effort"),
        }))
        .unwrap()
    }

    /// Asks for the first grant of a request that needs nobody's approval to last longer, and judges the answer by
    /// where the grant stood.
    async fn extend(&self, model: &Model, at: usize, seconds: i64) {
        let asked = &model.requests[at];
        let store = &self.all.rig.store;
        let grants = store.grants_of_request(self.requests[at]).await.unwrap();
        let Some(before) = grants.first().filter(|_| asked.needs() == 0) else {
            return;
        };
        let extend = GrantExtend {
            duration_seconds: seconds,
            reason: "restore takes longer".into(),
        };
        let client = self.of(REQUESTERS[asked.by]);
        let extended = answer(client.extend_grant(&before.id.to_string(), None, &extend).await);
        let now = self.all.rig.clock.now();
        let expected = match &before.state {
            GrantState::Open(open) if open.ends_at > now => {
                if before.duration.as_secs() >= seconds.unsigned_abs() {
                    Err(ErrorCode::NotLonger)
                } else {
                    Ok(open.opened_at + TimeDelta::seconds(seconds))
                }
            }
            _ => Err(ErrorCode::GrantNotOpen),
        };
        let frozen = model.frozen && extended == Err(ErrorCode::Frozen);
        let ends_at = extended.map(|request| request.grants[0].ends_at.unwrap());
        assert!(
            ends_at == expected || frozen,
            "{before:?} for {seconds} s: {ends_at:?}"
        );
    }

    async fn ask(&mut self, by: &str, asked: &AccessRequestCreate, twice: bool) -> Result<(), ErrorCode> {
        self.keys += 1;
        let (key, query) = (
            format!("{}-{}", self.account, self.keys),
            AccessRequestCreateQuery::default(),
        );
        let client = self.of(by);
        let made = answer(client.create_access_request(Some(&key), &query, asked).await)?;
        if twice {
            let again = client.create_access_request(Some(&key), &query, asked).await;
            assert_eq!(again.unwrap().id, made.id, "asked once");
        }
        self.requests.push(made.id.parse().unwrap());
        Ok(())
    }

    async fn approve(&self, at: usize, by: &str, narrow: Option<i64>) -> Result<(), ErrorCode> {
        let approve = AccessRequestApprove {
            duration_seconds: narrow,
            ..AccessRequestApprove::default()
        };
        let id = &self.requests[at].to_string();
        answer(self.of(by).approve_access_request_for(id, None, &approve).await).map(drop)
    }

    async fn revoke(&self, grant: &str, by: &str) -> Result<(), ErrorCode> {
        let revoked = self
            .of(by)
            .revoke_grant(grant, None, &GrantRevoke::default())
            .await;
        answer(revoked).map(drop)
    }

    async fn grants_of(&self, at: usize) -> Vec<String> {
        let grants = self
            .all
            .rig
            .store
            .grants_of_request(self.requests[at])
            .await
            .unwrap();
        grants.into_iter().map(|grant| grant.id.to_string()).collect()
    }

    /// Every grant of this case, by id.
    async fn grants(&self) -> Vec<Grant> {
        let filter = GrantFilter {
            visible: Visible::everything(),
            scope: Some(format!("/aws/{}", self.account).parse().unwrap()),
            ..GrantFilter::default()
        };
        let mut page = self.all.rig.store.grants(&filter, None, 200).await.unwrap();
        page.items.sort_by_key(|grant| grant.id);
        page.items
    }

    /// What is due, leased.
    async fn due(&self) -> Vec<Lease> {
        let (lease_for, grace) = (Duration::from_mins(1), Duration::ZERO);
        self.all
            .rig
            .store
            .lease("a", 100, lease_for, grace, self.all.rig.clock.now())
            .await
            .unwrap()
    }

    /// The loop takes what is due, once; it may die over it, and what it had leased is another's later.
    async fn pass_once(&self) {
        let asked = tokio::time::Instant::now();
        for lease in self.due().await {
            tokio::select! {
                () = self.all.engine.pass(lease, asked) => {}
                () = self.all.cloud.died.notified() => break,
            }
        }
        testing::let_leases_run_out(&self.all.rig.store).await;
    }

    /// The loop works until nothing is due.
    async fn settle(&self) {
        self.all.rig.running.start_due().await;
        for _ in 0..50 {
            let asked = tokio::time::Instant::now();
            let leases = self.due().await;
            if leases.is_empty() {
                return;
            }
            for lease in leases {
                self.all.engine.pass(lease, asked).await;
            }
        }
        panic!("it never settles");
    }

    /// What stands in the cloud.
    fn standing(&self) -> BTreeSet<GrantId> {
        let state = self.all.cloud.state.lock().unwrap();
        let here = |point: &PointRef| point.account().scope().to_string().contains(&self.account);
        let here = state.present.iter().filter(|(point, _)| here(point));
        here.flat_map(|(_, grants)| grants).copied().collect()
    }
}
