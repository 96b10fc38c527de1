//! A stateful cloud in memory.
//!
//! It keeps, for each point, the grants that stand there. It can be told to fail, to fail after the effect, to lag,
//! and it counts its calls. It checks one thing by itself: that every write was committed as an intent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use postern_core::{
    enforcer::{
        Accounts, Bindings, Change, Desired, DiscoveryPage, Displaced, EnforceError, Enforcer, Evidence,
        Finding, Marked, Marks, Observed, Obstacle, Plan, Print, Recalled, Unlisted, Verb,
    },
    id::GrantId,
    inventory::Machine,
    machine::{Account, Cloud},
    mark::Installation,
    point::PointRef,
    testing::a_change,
};
use postern_store::{Store, testing::is_intended};
use serde_json::{Value, json};

use crate::world::{ACCOUNT, REGION, revoke};

/// How the next calls of one kind go wrong.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Fails without an effect.
    Before(EnforceError),
    /// Takes effect and then does not answer.
    After,
    /// Does not answer, and takes effect when [`CloudState::land`] says so.
    Late,
}

#[expect(clippy::struct_excessive_bools, reason = "each is something to be told")]
#[derive(Debug, Default)]
pub(crate) struct CloudState {
    pub(crate) present: BTreeMap<PointRef, BTreeSet<GrantId>>,
    pub(crate) gone: BTreeSet<PointRef>,
    pub(crate) machines: Vec<Machine>,
    /// What discovery tells of marks, whether or not a machine is there.
    pub(crate) marked: Marks,
    pub(crate) apply_faults: VecDeque<Fault>,
    pub(crate) observe_faults: VecDeque<EnforceError>,
    /// Of what it is not told which accounts there are.
    pub(crate) unlisted: Vec<String>,
    /// Accounts beside the usual one.
    pub(crate) more_accounts: Vec<String>,
    pub(crate) discover_fault: Option<EnforceError>,
    /// How many machines stand on a page of a discovery; zero for all.
    pub(crate) page_size: usize,
    /// The pages that were asked for, by the number of machines before them.
    pub(crate) pages: Vec<usize>,
    /// Since when what a page tells is known, where that is not the question.
    pub(crate) read_since: Option<postern_core::time::Instant>,
    /// How the next question for such a page fails.
    pub(crate) page_faults: VecDeque<(usize, EnforceError)>,
    /// How often machines were asked for.
    pub(crate) discoveries: u32,
    /// How many ask at this moment, and how many did at most.
    pub(crate) discovering: (u32, u32),
    /// While it is set, a discovery does not end.
    pub(crate) discovery_stuck: bool,
    pub(crate) no_room_for: BTreeSet<GrantId>,
    pub(crate) observes: u32,
    pub(crate) applies: u32,
    /// Writes that the journal did not announce.
    pub(crate) unannounced: Vec<String>,
    /// How long a call without an answer may still take effect.
    pub(crate) patience: Duration,
    /// What is noticed at the next plans, as long as nothing is repaired.
    pub(crate) findings: Vec<Finding>,
    /// While it is set, reading a point does not end.
    pub(crate) stuck: bool,
    /// Somebody ends this grant while the point is being read.
    pub(crate) revoke_at_next_observe: Option<GrantId>,
    /// A foreign rule that a lockdown wants to displace.
    pub(crate) in_the_way: Option<Displaced>,
    /// Whether what was displaced is read as standing.
    pub(crate) stands: bool,
    /// For how long a reading may lag.
    pub(crate) lag: Duration,
    /// What readings show while it is set, whatever stands.
    pub(crate) shown: Option<BTreeSet<GrantId>>,
    /// What the engine said last of the writes that may not show.
    pub(crate) recalled: Vec<Recalled>,
    /// Whether a displaced rule is to be put back, and why the cloud does not take it.
    pub(crate) to_put_back: bool,
    pub(crate) put_back_refused: Option<EnforceError>,
    /// Groups that are to be deleted last, and why the cloud does not.
    pub(crate) to_delete: BTreeMap<String, Option<EnforceError>>,
    /// Whether it was put back.
    pub(crate) put_back: bool,
    /// What readings say of every other write.
    pub(crate) shows: Option<bool>,
    /// Calls that are under way although nobody waits for them any more.
    pub(crate) late: Vec<(PointRef, Change)>,
}

impl CloudState {
    fn carry_out(&mut self, point: &PointRef, change: &Change) {
        if let Some(group) = change.operation["delete"].as_str() {
            self.to_delete.remove(group);
        } else if change.verb == Verb::Restore {
            (self.to_put_back, self.put_back) = (false, true);
        }
        let grants = self.present.entry(point.clone()).or_default();
        for grant in &change.grants {
            if change.verb == Verb::Open {
                grants.insert(*grant);
            } else {
                grants.remove(grant);
            }
        }
    }

    /// The calls that were under way take effect; how many there were.
    pub(crate) fn land(&mut self) -> usize {
        let late = std::mem::take(&mut self.late);
        for (point, change) in &late {
            self.carry_out(point, change);
        }
        late.len()
    }
}

/// The cloud; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FakeCloud {
    pub(crate) state: Arc<Mutex<CloudState>>,
    store: Store,
}

impl FakeCloud {
    /// An empty cloud whose writes are looked for in the journal of this store.
    pub(crate) fn over(store: Store) -> Self {
        Self {
            state: Arc::default(),
            store,
        }
    }
}

#[expect(clippy::struct_excessive_bools, reason = "each is something to be told")]
#[derive(Debug)]
struct Seen {
    findings: Vec<Finding>,
    present: BTreeSet<GrantId>,
    no_room_for: BTreeSet<GrantId>,
    in_the_way: Option<Displaced>,
    stands: bool,
    to_put_back: bool,
    to_delete: Vec<String>,
    put_back: bool,
    shows: Option<bool>,
    /// Whether what was read is not what was written.
    lags: bool,
}

fn wanted(desired: &Desired) -> BTreeSet<GrantId> {
    desired
        .members
        .iter()
        .flat_map(|member| &member.grants)
        .map(|grant| grant.grant)
        .collect()
}

impl Observed for Seen {
    fn plan(&self, desired: &Desired) -> Plan {
        let wanted = wanted(desired);
        let mut plan = Plan {
            findings: self.findings.clone(),
            ..Plan::default()
        };
        if let Some(displaced) = &self.in_the_way {
            plan.changes.push(Change {
                verb: Verb::LockDown,
                target: desired.point.to_string(),
                summary: "displace a rule".into(),
                grants: vec![],
                policies: vec![],
                before: None,
                after: None,
                operation: json!({ "verb": Verb::LockDown.as_str() }),
                displaces: vec![displaced.clone()],
            });
        }
        if self.to_put_back {
            plan.changes.push(Change {
                verb: Verb::Restore,
                target: desired.point.to_string(),
                summary: "put a rule back".into(),
                grants: vec![],
                policies: vec![],
                before: None,
                after: Some(json!({ "name": "office" })),
                operation: json!({ "verb": Verb::Restore.as_str() }),
                displaces: vec![],
            });
        }
        if self.stands {
            plan.settled = desired.displaced.iter().map(|displaced| displaced.id).collect();
        }
        for grant in self.present.difference(&wanted) {
            plan.changes.push(a_change(Verb::Close, &desired.point, *grant));
        }
        for grant in wanted.difference(&self.present) {
            if self.no_room_for.contains(grant) {
                plan.obstacles.push(Obstacle {
                    code: "no_free_priority".into(),
                    message: "no room".into(),
                    grants: vec![*grant],
                    policies: vec![],
                });
            } else {
                plan.changes.push(a_change(Verb::Open, &desired.point, *grant));
            }
        }
        plan.changes.extend(self.to_delete.iter().map(|group| Change {
            verb: Verb::Restore,
            target: group.clone(),
            summary: format!("delete group {group}"),
            grants: vec![],
            policies: vec![],
            before: None,
            after: None,
            operation: json!({ "delete": group }),
            displaces: vec![],
        }));
        plan
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let wanted = wanted(desired);
        self.present
            .iter()
            .map(|grant| {
                (
                    *grant,
                    Evidence {
                        complete: wanted.contains(grant),
                        rules: json!([grant]),
                        blocked_by: None,
                    },
                )
            })
            .collect()
    }

    fn shows(&self, _: Option<&Value>, operation: &Value) -> Option<bool> {
        if operation["verb"] == json!(Verb::Restore.as_str()) {
            Some(self.put_back)
        } else {
            self.shows
        }
    }

    fn snapshot(&self) -> Value {
        json!(self.present)
    }

    fn print(&self) -> Option<Print> {
        Print::of(&format!("{self:?}"))
    }

    fn settled(&self) -> bool {
        !self.lags
    }

    fn lags(&self) -> bool {
        self.lags
    }
}

pub(crate) fn unavailable() -> EnforceError {
    EnforceError::Unavailable {
        operation: "Apply".into(),
        message: "connection reset".into(),
    }
}

/// A discovery under way, also when it is dropped.
struct Asking<'a>(&'a FakeCloud);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().discovering.0 -= 1;
    }
}

#[async_trait]
impl Enforcer for FakeCloud {
    fn cloud(&self) -> Cloud {
        Cloud::Aws
    }

    async fn accounts(&self) -> Accounts {
        let state = self.state.lock().unwrap();
        let here = Account::Aws {
            account: ACCOUNT.into(),
            region: REGION.into(),
        };
        let failed = |scope: &String| Unlisted {
            scope: scope.clone(),
            error: unavailable(),
        };
        let more = |account: &String| Account::Aws {
            account: account.clone(),
            region: REGION.into(),
        };
        let mut found = if state.unlisted.contains(&format!("/aws/{ACCOUNT}")) {
            vec![]
        } else {
            vec![here]
        };
        found.extend(state.more_accounts.iter().map(more));
        Accounts {
            found,
            failed: state.unlisted.iter().map(failed).collect(),
        }
    }

    async fn discover(&self, _: &Account, cursor: Option<&str>) -> Result<DiscoveryPage, EnforceError> {
        {
            let mut state = self.state.lock().unwrap();
            state.discoveries += 1;
            state.discovering.0 += 1;
            state.discovering.1 = state.discovering.1.max(state.discovering.0);
        }
        let _asking = Asking(self);
        tokio::task::yield_now().await;
        while self.state.lock().unwrap().discovery_stuck {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = self.state.lock().unwrap();
        if let Some(fault) = &state.discover_fault {
            return Err(fault.clone());
        }
        let first = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        state.pages.push(first);
        if let Some((_, fault)) = state.page_faults.pop_front_if(|(page, _)| *page == first) {
            return Err(fault);
        }
        let size = Some(state.page_size)
            .filter(|size| *size > 0)
            .unwrap_or(usize::MAX);
        let last = first.saturating_add(size);
        Ok(DiscoveryPage {
            machines: state.machines.iter().skip(first).take(size).cloned().collect(),
            marked: state.marked.clone(),
            next: (last < state.machines.len()).then(|| last.to_string()),
            since: state.read_since,
        })
    }

    async fn observe(&self, desired: &Desired) -> Result<Box<dyn Observed>, EnforceError> {
        let revoked = self.state.lock().unwrap().revoke_at_next_observe.take();
        if let Some(grant) = revoked {
            revoke(&self.store, grant).await;
        }
        while self.state.lock().unwrap().stuck {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = self.state.lock().unwrap();
        state.observes += 1;
        if let Some(fault) = state.observe_faults.pop_front() {
            return Err(fault);
        }
        if state.gone.contains(&desired.point) {
            return Err(EnforceError::Gone {
                resource: desired.point.to_string(),
                code: "NotFound".into(),
            });
        }
        let there = state.present.get(&desired.point).cloned().unwrap_or_default();
        let read = state.shown.clone().unwrap_or(there);
        let mut present = read.clone();
        for recalled in &state.recalled {
            let grant: GrantId = serde_json::from_value(recalled.operation["grant"].clone()).unwrap();
            if recalled.operation["verb"] == json!(Verb::Open.as_str()) {
                present.insert(grant);
            } else {
                present.remove(&grant);
            }
        }
        Ok(Box::new(Seen {
            findings: state.findings.clone(),
            lags: present != read,
            present,
            no_room_for: state.no_room_for.clone(),
            in_the_way: state.in_the_way.clone(),
            stands: state.stands,
            to_put_back: state.to_put_back,
            to_delete: state.to_delete.keys().cloned().collect(),
            put_back: state.put_back,
            shows: state.shows,
        }))
    }

    async fn apply(
        &self,
        point: &PointRef,
        change: &Change,
        _: &mut Bindings,
    ) -> Result<Value, EnforceError> {
        let announced = is_intended(&self.store, &change.operation).await;
        let mut state = self.state.lock().unwrap();
        state.applies += 1;
        state.findings.clear();
        if !announced {
            state.unannounced.push(change.summary.clone());
        }
        let refusal = match change.operation["delete"].as_str() {
            Some(group) => state.to_delete.get(group).cloned().flatten(),
            None => (state.put_back_refused.clone()).filter(|_| change.verb == Verb::Restore),
        };
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let fault = state.apply_faults.pop_front();
        if let Some(Fault::Before(error)) = fault {
            return Err(error);
        }
        if let Some(Fault::Late) = fault {
            state.late.push((point.clone(), change.clone()));
            return Err(unavailable());
        }
        state.carry_out(point, change);
        if fault.is_some() {
            Err(unavailable())
        } else {
            Ok(json!({ "request_id": "r-1" }))
        }
    }

    async fn marked(&self, _: &Account, _: &Installation) -> Result<Vec<Marked>, EnforceError> {
        Ok(vec![])
    }

    async fn remove(&self, _: &Marked) -> Result<(), EnforceError> {
        Ok(())
    }

    fn request_timeout(&self) -> Duration {
        self.state.lock().unwrap().patience.max(Duration::from_millis(50))
    }

    fn describe_lag(&self) -> Duration {
        self.state.lock().unwrap().lag
    }

    fn recall(&self, _: &PointRef, written: &[Recalled]) {
        self.state.lock().unwrap().recalled = written.to_vec();
    }
}
