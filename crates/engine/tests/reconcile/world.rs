//! An engine over a real store and a cloud in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use postern_core::{
    audit::AuditEvent,
    enforcer::{Enforcer, Finding},
    grant::{EndCause, Grant, GrantState, Opening},
    id::GrantId,
    inventory::{Interface, Layer, Machine, Power},
    machine::{Cloud, MachineId},
    net::Source,
    point::PointRef,
    sg::SecurityGroup,
    testing::{a_policy, ports},
    time::{Clock, IdSource, RandomIds, SystemClock},
};
use postern_engine::{Engine, EngineConfig, Metrics};
use postern_store::{
    AuditFilter, Lessee, Order, Store, Urgency, Visible,
    testing::{fresh_store, unsettled_changes},
};

use crate::cloud::FakeCloud;

pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const REGION: &str = "eu-west-1";

/// Ends a grant, as the server does.
pub(crate) async fn revoke(store: &Store, id: GrantId) {
    let mut tx = store.begin().await.unwrap();
    let grant = tx.grant(id).await.unwrap().unwrap();
    let cause = EndCause::Revoked {
        by: "user:corp/eve".parse().unwrap(),
        reason: None,
    };
    let ended = grant.live().unwrap().end(cause, SystemClock.now());
    tx.save_grants(&[ended.into()]).await.unwrap();
    let points = tx.points_of(&[id]).await.unwrap();
    tx.mark_due(&points, SystemClock.now(), Urgency::Closing)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// An engine with one machine under policy, driven step by step.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) cloud: FakeCloud,
    pub(crate) engine: Engine,
    pub(crate) machine: MachineId,
    pub(crate) point: PointRef,
    pub(crate) policy: postern_core::policy::JitPolicy,
}

/// Something that a plan notices, of no grant.
pub(crate) fn a_finding(code: &str, message: &str) -> Finding {
    Finding {
        code: code.into(),
        message: message.into(),
        before: None,
        after: None,
        grants: vec![],
    }
}

/// Why a group of ours stays where nothing is wanted.
pub(crate) fn a_group_that_stays() -> Finding {
    a_finding("own_group_named", "rules of sg-1 name it")
}

pub(crate) fn a_machine(number: u32) -> Machine {
    let id: MachineId = format!("arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-{number:017x}")
        .parse()
        .unwrap();
    Machine {
        name: format!("web-{number}"),
        tags: BTreeMap::new(),
        power: Power::Running,
        interfaces: vec![Interface {
            id: format!("eni-{number:017x}"),
            addresses: vec![std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()],
            public_addresses: vec![],
            network: vec![],
            network_id: "vpc-00000000000000001".into(),
            layers: vec![Layer::SecurityGroups {
                groups: vec![SecurityGroup {
                    id: format!("sg-{number:017x}"),
                    name: "web".into(),
                    vpc: "vpc-00000000000000001".into(),
                    ingress: vec![],
                    egress: vec![],
                    tags: BTreeMap::new(),
                }],
            }],
        }],
        id,
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let store = fresh_store().await;
        let cloud = FakeCloud::over(store.clone());
        let machine = a_machine(1);
        let id = machine.id.clone();
        let point = machine.grant_points().into_iter().next().unwrap();
        cloud.state.lock().unwrap().machines = vec![machine];
        let engine = Self::engine_named(&store, &cloud, "a");
        let policy = a_policy("/aws");
        let mut tx = store.begin().await.unwrap();
        tx.insert_policy(&policy).await.unwrap();
        tx.commit().await.unwrap();
        let world = Self {
            store,
            cloud,
            engine,
            machine: id,
            point,
            policy,
        };
        world.engine.discover_all().await;
        world.settle().await;
        world
    }

    /// Another engine over the same store and cloud that discovers that often.
    pub(crate) fn patient_engine(&self, discovery_interval: Duration) -> Engine {
        let mut config = EngineConfig::new("test".parse().unwrap(), "a");
        config.discovery_interval = discovery_interval;
        config.backoff = Duration::from_millis(2);
        Self::engine_with(&self.store, [self.cloud.clone()], Arc::new(SystemClock), config)
    }

    /// Another replica over the same store and cloud.
    pub(crate) fn engine_named(store: &Store, cloud: &FakeCloud, owner: &str) -> Engine {
        let mut config = EngineConfig::new("test".parse().unwrap(), owner);
        config.lease = Duration::from_millis(600);
        config.discovery_interval = Duration::from_millis(2);
        config.backoff = Duration::from_millis(2);
        config.backoff_max = Duration::from_millis(20);
        Self::engine_with(store, [cloud.clone()], Arc::new(SystemClock), config)
    }

    /// A replica with these clouds, this clock and these settings.
    pub(crate) fn engine_with(
        store: &Store,
        clouds: impl IntoIterator<Item = FakeCloud>,
        clock: Arc<dyn Clock>,
        config: EngineConfig,
    ) -> Engine {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        Engine::new(
            store.clone(),
            clouds
                .into_iter()
                .map(|cloud| Arc::new(cloud) as Arc<dyn Enforcer>)
                .collect::<Vec<_>>(),
            clock,
            Arc::new(RandomIds),
            config,
            Arc::new(metrics),
        )
    }

    /// The actions of the audit log from the oldest on, with what each says.
    pub(crate) async fn log(&self, action: &str) -> Vec<AuditEvent> {
        let filter = AuditFilter {
            visible: Visible::everything(),
            action_prefix: Some(action.to_owned()),
            ..AuditFilter::default()
        };
        self.store
            .audit_events(&filter, None, 200, Order::OldestFirst)
            .await
            .unwrap()
            .items
            .into_iter()
            .map(|stored| stored.event)
            .collect()
    }

    /// Makes the point of the machine due.
    pub(crate) async fn look_again(&self) {
        let point = self.store.point(&self.point).await.unwrap().unwrap().id;
        let mut tx = self.store.begin().await.unwrap();
        tx.mark_due(&[point], SystemClock.now(), Urgency::Look)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// Approves a grant of `duration` on the machine, as the server does.
    pub(crate) async fn grant(&self, duration: Duration, open_within: Duration) -> GrantId {
        let ids: &dyn IdSource = &RandomIds;
        let now = SystemClock.now();
        let deadline = now + open_within;
        let mut request = postern_core::testing::a_request();
        request.id = ids.next(now);
        request.targets[0].machine = self.machine.clone();
        request.created_at = now;
        let approved: postern_core::request::AccessRequest = request
            .pending(postern_core::testing::at(0))
            .unwrap()
            .approve_by_policy(now)
            .into();
        let grant = Grant {
            id: ids.next(now),
            request: approved.id,
            policy: self.policy.id,
            requester: approved.requester.clone(),
            machine: self.machine.clone(),
            ports: vec![ports("22")],
            sources: vec![Source::from(std::net::IpAddr::from([203, 0, 113, 7]))],
            duration,
            created_at: now,
            not_after: deadline + duration,
            together: false,
            state: GrantState::Opening(Opening { deadline }),
        };
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_request(&approved).await.unwrap();
        let points = tx.insert_grants(std::slice::from_ref(&grant)).await.unwrap();
        tx.mark_due(&points, now, Urgency::Opening).await.unwrap();
        tx.commit().await.unwrap();
        grant.id
    }

    pub(crate) async fn revoke(&self, id: GrantId) {
        revoke(&self.store, id).await;
    }

    pub(crate) async fn grant_now(&self, id: GrantId) -> Grant {
        let mut tx = self.store.begin().await.unwrap();
        let grant = tx.grant(id).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        grant
    }

    pub(crate) async fn is_open(&self, id: GrantId) -> bool {
        matches!(self.grant_now(id).await.state, GrantState::Open(_))
    }

    pub(crate) async fn is_closing(&self, id: GrantId) -> bool {
        matches!(self.grant_now(id).await.state, GrantState::Closing(_))
    }

    pub(crate) async fn has_closed(&self, id: GrantId) -> bool {
        matches!(self.grant_now(id).await.state, GrantState::Closed(_))
    }

    /// Makes passes until nothing is due.
    pub(crate) async fn settle(&self) {
        self.settle_with(&self.engine).await;
    }

    pub(crate) async fn settle_with(&self, engine: &Engine) {
        for _ in 0..200 {
            let asked = tokio::time::Instant::now();
            let leases = self
                .store
                .lease(
                    "a",
                    8,
                    Duration::from_millis(600),
                    Duration::from_millis(50),
                    SystemClock.now(),
                )
                .await
                .unwrap();
            let nothing = leases.is_empty();
            for lease in leases {
                engine.pass(lease, asked).await;
            }
            if nothing {
                let lessee = Lessee {
                    owner: "a",
                    clouds: &[Cloud::Aws],
                    except: &[],
                    lease_for: Duration::from_millis(600),
                    grace: Duration::from_millis(50),
                };
                let soon = self.store.next_due(&lessee).await.unwrap();
                match soon.map(|at| at - SystemClock.now()) {
                    Some(wait) if wait < chrono::TimeDelta::milliseconds(100) => {
                        tokio::time::sleep(wait.to_std().unwrap_or_default()).await;
                    }
                    _ => return,
                }
            }
        }
        panic!("the point never settles");
    }

    pub(crate) fn present(&self) -> BTreeSet<GrantId> {
        self.cloud
            .state
            .lock()
            .unwrap()
            .present
            .get(&self.point)
            .cloned()
            .unwrap_or_default()
    }

    /// The invariants that hold whatever happened.
    pub(crate) async fn assert_sound(&self) {
        assert_eq!(
            self.cloud.state.lock().unwrap().unannounced,
            Vec::<String>::new(),
            "a write without an intent"
        );
        assert_eq!(
            unsettled_changes(&self.store).await,
            0,
            "an intent without an outcome"
        );
    }
}
