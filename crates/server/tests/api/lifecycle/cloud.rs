//! A cloud in memory that keeps, for each point, the grants that stand there, and dies when it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use postern_core::{
    enforcer::{
        Accounts, Bindings, Change, Desired, DiscoveryPage, EnforceError, Enforcer, Evidence, Marked,
        Observed, Obstacle, Plan, Verb,
    },
    id::GrantId,
    machine::{Account, Cloud, MachineId},
    mark::Installation,
    point::PointRef,
    testing::a_change,
};
use postern_store::{Store, testing::is_intended};
use serde_json::{Value, json};

/// What a call does instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process that called dies before the call takes effect.
    DieBefore,
    /// The process that called dies after the call took effect.
    DieAfter,
    /// The call fails without an effect.
    FailBefore,
    /// The call takes effect, and says that it does not know.
    FailAfter,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) present: BTreeMap<PointRef, BTreeSet<GrantId>>,
    /// Machines on which nothing can be opened.
    pub(crate) blocked: BTreeSet<MachineId>,
    /// After so many more writes, this.
    pub(crate) fault: Option<(u8, Fault)>,
    /// Writes that the journal did not announce.
    pub(crate) unannounced: Vec<String>,
}

/// The cloud; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct MemoryCloud {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) store: Store,
    /// Told when the process that called dies.
    pub(crate) died: Arc<tokio::sync::Notify>,
}

#[derive(Debug)]
struct Seen {
    present: BTreeSet<GrantId>,
    blocked: BTreeSet<MachineId>,
}

fn wanted(desired: &Desired) -> BTreeMap<GrantId, &MachineId> {
    desired
        .members
        .iter()
        .flat_map(|member| {
            member
                .grants
                .iter()
                .map(move |grant| (grant.grant, &member.machine))
        })
        .collect()
}

impl Observed for Seen {
    fn plan(&self, desired: &Desired) -> Plan {
        let wanted = wanted(desired);
        let mut plan = Plan::default();
        let gone = self.present.iter().filter(|grant| !wanted.contains_key(grant));
        plan.changes
            .extend(gone.map(|grant| a_change(Verb::Close, &desired.point, *grant)));
        for (grant, machine) in wanted {
            if self.present.contains(&grant) {
                continue;
            }
            if self.blocked.contains(machine) {
                plan.obstacles.push(Obstacle {
                    code: "no_free_priority".into(),
                    message: "no room".into(),
                    grants: vec![grant],
                    policies: vec![],
                });
            } else {
                plan.changes.push(a_change(Verb::Open, &desired.point, grant));
            }
        }
        plan
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let wanted = wanted(desired);
        let evidence = |grant: &GrantId| Evidence {
            complete: wanted.contains_key(grant),
            rules: json!([grant]),
            blocked_by: None,
        };
        self.present
            .iter()
            .map(|grant| (*grant, evidence(grant)))
            .collect()
    }

    fn snapshot(&self) -> Value {
        json!(self.present)
    }
}

impl MemoryCloud {
    async fn die(&self) {
        self.died.notify_one();
        std::future::pending::<()>().await;
    }

    /// What is to happen to this write.
    fn fault(&self) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let (after, fault) = state.fault?;
        if after > 0 {
            state.fault = Some((after - 1, fault));
            return None;
        }
        state.fault = None;
        Some(fault)
    }
}

fn unclear() -> EnforceError {
    EnforceError::Unavailable {
        operation: "Apply".into(),
        message: "connection reset".into(),
    }
}

#[async_trait::async_trait]
impl Enforcer for MemoryCloud {
    fn cloud(&self) -> Cloud {
        Cloud::Aws
    }

    async fn accounts(&self) -> Accounts {
        Accounts::default()
    }

    async fn discover(&self, _: &Account, _: Option<&str>) -> Result<DiscoveryPage, EnforceError> {
        Ok(DiscoveryPage::default())
    }

    async fn observe(&self, desired: &Desired) -> Result<Box<dyn Observed>, EnforceError> {
        let state = self.state.lock().unwrap();
        Ok(Box::new(Seen {
            present: state.present.get(&desired.point).cloned().unwrap_or_default(),
            blocked: state.blocked.clone(),
        }))
    }

    async fn apply(
        &self,
        point: &PointRef,
        change: &Change,
        _: &mut Bindings,
    ) -> Result<Value, EnforceError> {
        if !is_intended(&self.store, &change.operation).await {
            self.state
                .lock()
                .unwrap()
                .unannounced
                .push(change.summary.clone());
        }
        let fault = self.fault();
        match fault {
            Some(Fault::DieBefore) => self.die().await,
            Some(Fault::FailBefore) => return Err(unclear()),
            _ => {}
        }
        {
            let mut state = self.state.lock().unwrap();
            let grants = state.present.entry(point.clone()).or_default();
            for grant in &change.grants {
                if change.verb == Verb::Open {
                    grants.insert(*grant);
                } else {
                    grants.remove(grant);
                }
            }
        }
        match fault {
            Some(Fault::DieAfter) => {
                self.die().await;
                Err(unclear())
            }
            Some(Fault::FailAfter) => Err(unclear()),
            _ => Ok(json!({ "request_id": "r-1" })),
        }
    }

    async fn marked(&self, _: &Account, _: &Installation) -> Result<Vec<Marked>, EnforceError> {
        Ok(vec![])
    }

    async fn remove(&self, _: &Marked) -> Result<(), EnforceError> {
        Ok(())
    }

    fn request_timeout(&self) -> Duration {
        Duration::ZERO
    }
}
