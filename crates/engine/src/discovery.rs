//! Keeps the inventory: which machines there are, which points stand before them, which policy covers them.
//!
//! An account that cannot be read does not stop the others, and never makes its machines disappear: a machine is
//! gone only when two complete discoveries of its account in a row did not see it. A discovery that fails at a page
//! goes on there at its next turn, and is not a complete one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    enforcer::{EnforceError, Enforcer, Unlisted},
    grant::{EndCause, Grant},
    inventory::Machine,
    machine::{Account, Cloud},
    point::PointRef,
    policy::{Ask, JitPolicy},
    posture::posture,
    time::Instant,
};
use postern_store::{Asked, Due, MachineRow, StoreError, Tx, Urgency};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Engine, events::Events, metrics::PassLabels, strays::marked_points};

/// Of how many accounts a page is read at the same time.
const ACCOUNTS_AT_ONCE: usize = 8;

/// The shortest time between two questions whose turn it is.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// How many machines are saved in one transaction: what it locks and logs is bounded, whatever a cloud calls a page.
const SAVED_AT_ONCE: usize = 500;

/// How many points that no machine has are looked at after a page for their marks: whoever may write tags can make many.
const STRAYS_AT_ONCE: usize = 100;

/// So many of the points, in the order of their names from another place each time.
fn some_of(points: BTreeSet<PointRef>, now: Instant) -> BTreeSet<PointRef> {
    let count = points.len();
    let from = usize::try_from(now.timestamp_millis().unsigned_abs()).unwrap_or(0) % count.max(1);
    let mut turn = points.into_iter().collect::<Vec<_>>();
    turn.rotate_left(from);
    turn.truncate(STRAYS_AT_ONCE);
    turn.into_iter().collect()
}

/// Why an account was not discovered.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The cloud did not answer, or said no.
    #[error("the account could not be read")]
    Cloud(#[from] EnforceError),
    /// The store failed.
    #[error("the inventory could not be written")]
    Store(#[from] StoreError),
}

/// What a discovery found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Machines seen.
    pub machines: usize,
    /// Of them, new or changed.
    pub changed: usize,
    /// Machines that are not there any more.
    pub gone: usize,
    /// Accounts that could not be read.
    pub failed_accounts: usize,
}

impl Engine {
    /// Asks four times in an interval whether it is time, and nobody else's turn; so that little time is lost when
    /// whoever discovered is not there any more.
    pub(crate) async fn discover_forever(&self, stop: &CancellationToken) {
        let mut every = tokio::time::interval((self.config.discovery_interval / 4).max(SHORTEST_WAIT));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.discover_in_turn() => {}
            }
        }
    }

    /// Discovers everything once, if that was not done within the interval and no other server does it now.
    async fn discover_in_turn(&self) {
        let (owner, lease) = (&self.config.owner, self.config.lease);
        let begun = self.clock.now();
        // An eighth less, or a turn that began a moment late would make the next one late by a quarter.
        let fresh_after = begun - self.config.discovery_interval * 7 / 8;
        match self.store.take_discovery_turn(owner, lease, fresh_after).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "whose turn it is to discover is not known");
                return;
            }
        }
        tokio::select! {
            found = self.discover_all() => {
                tracing::debug!(?found, "discovered");
                if let Err(error) = self.store.end_discovery_turn(owner, begun).await {
                    tracing::warn!(%error, "the turn to discover is left to run out");
                }
            }
            () = self.keep_discovery_turn() => {
                tracing::warn!("the turn to discover was lost, and is another's");
            }
        }
    }

    /// Renews the turn until it is lost. What is saved by two servers at once is saved safely; the turn is only there
    /// to spare the clouds.
    async fn keep_discovery_turn(&self) {
        loop {
            tokio::time::sleep(self.config.lease / 3).await;
            match self
                .store
                .renew_discovery_turn(&self.config.owner, self.config.lease)
                .await
            {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::warn!(%error, "the turn to discover was not renewed"),
            }
        }
    }

    /// Discovers every account of every cloud once.
    pub async fn discover_all(&self) -> Discovered {
        let mut accounts = Vec::new();
        let mut total = Discovered::default();
        for enforcer in self.enforcers.values() {
            let listed = enforcer.accounts().await;
            accounts.extend(
                listed
                    .found
                    .into_iter()
                    .map(|account| (enforcer.clone(), account)),
            );
            for Unlisted { scope, error } in listed.failed {
                tracing::warn!(scope, %error, "accounts could not be listed");
                total.failed_accounts += 1;
                self.count_discovery(enforcer.cloud(), "retry");
            }
        }
        let room = Arc::new(Semaphore::new(ACCOUNTS_AT_ONCE));
        let mut running = JoinSet::new();
        for (enforcer, account) in accounts {
            let (engine, room) = (self.clone(), Arc::clone(&room));
            running.spawn(async move {
                let result = engine.discover(&*enforcer, &account, &room).await;
                (account, result)
            });
        }
        while let Some(joined) = running.join_next().await {
            let (account, result) = match joined {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "a discovery broke off");
                    total.failed_accounts += 1;
                    continue;
                }
            };
            let outcome = match result {
                Ok(found) => {
                    total.machines += found.machines;
                    total.changed += found.changed;
                    total.gone += found.gone;
                    "settled"
                }
                Err(error) => {
                    tracing::warn!(%account, error = &error as &dyn std::error::Error, "discovery failed");
                    total.failed_accounts += 1;
                    "retry"
                }
            };
            self.count_discovery(account.cloud(), outcome);
        }
        total
    }

    fn count_discovery(&self, cloud: Cloud, outcome: &'static str) {
        let cloud = cloud.as_str();
        self.metrics
            .discoveries
            .get_or_create(&PassLabels { cloud, outcome })
            .inc();
    }

    /// Goes on where the last discovery of the account failed, or begins anew when the cloud does not know that page
    /// any more. Takes a place in `room` for each page, so that an account that waits for its budget keeps no other from
    /// being read.
    async fn discover(
        &self,
        enforcer: &dyn Enforcer,
        account: &Account,
        room: &Semaphore,
    ) -> Result<Discovered, DiscoveryError> {
        let Some(left) = self.unfinished.take(account, self.clock.now()) else {
            return self.discover_from(enforcer, account, None, room).await;
        };
        match self.discover_from(enforcer, account, Some(left), room).await {
            Err(DiscoveryError::Cloud(error)) if !error.may_pass() => {
                tracing::info!(%account, %error, "a discovery cannot go on, and begins anew");
                self.discover_from(enforcer, account, None, room).await
            }
            done => done,
        }
    }

    /// Reads the pages from `first` on. Only a discovery of all pages, one after the other, says which machines are
    /// gone: one that went on later may not see a machine that moved to a page before that. So it is with an enforcer
    /// that goes on with what it had read.
    async fn discover_from(
        &self,
        enforcer: &dyn Enforcer,
        account: &Account,
        first: Option<String>,
        room: &Semaphore,
    ) -> Result<Discovered, DiscoveryError> {
        let started = self.clock.now();
        let mut since = started;
        let mut found = Discovered::default();
        let mut cursor = first.clone();
        let mut waited = Duration::ZERO;
        loop {
            let page = {
                let _place = room.acquire().await;
                self.discover_page(enforcer, account, cursor.as_deref(), &mut found)
                    .await
            };
            match page {
                Ok((next, known_since)) => {
                    since = since.min(known_since);
                    match next {
                        None => break,
                        next => cursor = next,
                    }
                }
                Err(error) => {
                    if let Some(wait) = self.wait_for_budget(&error, waited) {
                        tracing::debug!(%account, ?wait, "a discovery waits until it may ask again");
                        tokio::time::sleep(wait).await;
                        waited += wait;
                        continue;
                    }
                    let again = match &error {
                        DiscoveryError::Cloud(error) => error.may_pass(),
                        DiscoveryError::Store(_) => true,
                    };
                    if let Some(cursor) = cursor.filter(|_| again)
                        && first.as_ref() != Some(&cursor)
                    {
                        self.unfinished.leave(account, cursor, self.clock.now());
                    }
                    return Err(error);
                }
            }
        }
        if first.is_none() && since >= started {
            found.gone = self.settle_gone(account, started).await?;
        }
        Ok(found)
    }

    /// How long to wait before a page is asked for again that there was no budget for. All of a large account may take
    /// more calls than may be made at once; who waited for a whole interval leaves the rest to the next discovery.
    fn wait_for_budget(&self, error: &DiscoveryError, waited: Duration) -> Option<Duration> {
        let DiscoveryError::Cloud(EnforceError::Throttled { retry_after, .. }) = error else {
            return None;
        };
        let wait = retry_after.unwrap_or(self.config.backoff).max(SHORTEST_WAIT);
        (waited + wait < self.config.discovery_interval).then_some(wait)
    }

    /// Reads and saves one page; where the next begins, and since when all that it tells is known.
    async fn discover_page(
        &self,
        enforcer: &dyn Enforcer,
        account: &Account,
        cursor: Option<&str>,
        found: &mut Discovered,
    ) -> Result<(Option<String>, Instant), DiscoveryError> {
        // What the page says is at least as old as the question.
        let at = self.clock.now();
        let mut page = enforcer.discover(account, cursor).await?;
        let since = page.since.map_or(at, |since| since.min(at));
        let asked = Asked { at, since };
        let next = page.next.take();
        found.machines += page.machines.len();
        let mut marked = marked_points(&page, &self.config.installation);
        // What the page shows may be older than the question.
        let shown = since - enforcer.describe_lag();
        // A list that changes while its pages are read may name a machine twice.
        let machines: BTreeMap<_, _> = page
            .machines
            .into_iter()
            .map(|machine| (machine.id.clone(), machine))
            .collect();
        let mut machines = machines.into_values();
        while machines.len() > 0 {
            let some = machines.by_ref().take(SAVED_AT_ONCE).collect();
            found.changed += self.save(account, some, asked, &mut marked, shown).await?;
        }
        if !marked.is_empty() {
            // A restored database may not know these.
            let now = self.clock.now();
            let elsewhere = some_of(marked, now);
            let mut tx = self.store.begin().await?;
            tx.ensure_points(&elsewhere, &*self.ids, now).await?;
            let mut log = Vec::new();
            let due = self
                .strays(&mut tx, account, &elsewhere, shown, Urgency::Look, &mut log)
                .await?;
            tx.audit(&log).await?;
            tx.mark_each_due(&due).await?;
            tx.commit().await?;
        }
        Ok((next, since))
    }

    /// Saves machines; what changed about the way to them or about their tags makes points due, and so do marks at
    /// points before them: these are taken out of `marked`, which may be as old as `shown`. How many changed.
    async fn save(
        &self,
        account: &Account,
        machines: Vec<Machine>,
        asked: Asked,
        marked: &mut BTreeSet<PointRef>,
        shown: Instant,
    ) -> Result<usize, DiscoveryError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let policies = tx.policies().await?;
        let rows: Vec<MachineRow> = machines
            .into_iter()
            .map(|machine| {
                let policy = JitPolicy::most_specific(&policies, &machine.id.scope(), &machine.tags);
                MachineRow {
                    posture: posture(&machine, policy),
                    policy: policy.map(|policy| policy.id),
                    opens: machine.grant_points(),
                    locks: machine.lockdown_points(&self.config.installation),
                    machine,
                }
            })
            .collect();
        let saved = tx.save_machines(&rows, &*self.ids, asked).await?;
        let mut log = Vec::new();
        if !saved.new.is_empty() {
            log.push(self.inventory_event(account, "machine.discover", json!({ "machines": saved.new })));
        }
        let covering: BTreeMap<_, _> = rows
            .iter()
            .filter(|row| saved.written.contains(&row.machine.id))
            .map(|row| {
                (
                    &row.machine.id,
                    row.policy
                        .and_then(|id| policies.iter().find(|policy| policy.id == id)),
                )
            })
            .collect();
        let machines: Vec<_> = covering.keys().map(|id| (*id).clone()).collect();
        let refused: Vec<Grant> = tx
            .live_grants_of(&machines)
            .await?
            .into_iter()
            .filter(|grant| {
                covering
                    .get(&grant.machine)
                    .is_some_and(|policy| is_refused(grant, *policy))
            })
            .collect();
        let mut due = self
            .end_grants(&mut tx, refused, &EndCause::PolicyRemoved, now, &mut log)
            .await?;
        let in_use = tx.points_in_use(&saved.touched_points).await?;
        // What stands elsewhere has a mark, by which it is found. A subscription that is read for the first time has
        // thousands of points at which nothing is wanted.
        due.extend(in_use.into_iter().map(|point| Due {
            point,
            at: now,
            urgency: Urgency::Opening,
        }));
        let there: BTreeSet<PointRef> = rows
            .iter()
            .flat_map(|row| row.opens.union(&row.locks))
            .filter_map(|point| marked.take(point))
            .collect();
        due.extend(
            self.strays(&mut tx, account, &there, shown, Urgency::Closing, &mut log)
                .await?,
        );
        tx.audit(&log).await?;
        tx.mark_each_due(&due).await?;
        tx.commit().await?;
        Ok(saved.changed)
    }

    /// Those of the points with a mark of this installation at which nothing is wanted and nobody is about to look.
    /// The marks may be as old as `shown`: where something was written since then, they may only be out of date, and
    /// what stands is looked at without a word. What no machine has lets nothing through, and waits for what does.
    async fn strays(
        &self,
        tx: &mut Tx,
        account: &Account,
        marked: &BTreeSet<PointRef>,
        shown: Instant,
        urgency: Urgency,
        log: &mut Vec<AuditEvent>,
    ) -> Result<Vec<Due>, StoreError> {
        if marked.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.clock.now();
        let old = (now - shown).to_std().unwrap_or_default();
        let strays = tx.unattended_points(marked, old).await?;
        let points: Vec<_> = strays
            .iter()
            .filter(|(_, _, written)| !written)
            .map(|(point, ..)| point.to_string())
            .collect();
        if !points.is_empty() {
            tracing::warn!(?points, "rules of ours stand where nothing is wanted");
            log.push(self.inventory_event(account, "point.stray_rules", json!({ "points": points })));
        }
        let due = |(_, point, _)| Due {
            point,
            at: now,
            urgency,
        };
        Ok(strays.into_iter().map(due).collect())
    }

    /// Ends live grants; gives the points that must close them.
    async fn end_grants(
        &self,
        tx: &mut Tx,
        grants: Vec<Grant>,
        cause: &EndCause,
        now: Instant,
        log: &mut Vec<AuditEvent>,
    ) -> Result<Vec<Due>, StoreError> {
        let events = Events::at(now, &*self.ids);
        let mut ended = Vec::new();
        for live in grants.into_iter().filter_map(|grant| grant.live().ok()) {
            let closing = live.end(cause.clone(), now);
            log.push(events.grant_ended(&closing));
            ended.push(Grant::from(closing));
        }
        tx.save_grants(&ended).await?;
        let ids: Vec<_> = ended.iter().map(|grant| grant.id).collect();
        let points = tx.points_of(&ids).await?;
        Ok(points
            .into_iter()
            .map(|point| Due {
                point,
                at: now,
                urgency: Urgency::Closing,
            })
            .collect())
    }

    /// Ends what is left of machines that two discoveries did not see.
    async fn settle_gone(&self, account: &Account, started: Instant) -> Result<usize, DiscoveryError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        // Two replicas may discover one after the other: that is one look, not two.
        let unseen_for = self.config.discovery_interval / 2;
        let gone = tx.discovery_done(account, started, unseen_for, now).await?;
        let mut log = Vec::new();
        let mut due: Vec<Due> = gone
            .touched_points
            .iter()
            .map(|point| Due {
                point: *point,
                at: now,
                urgency: Urgency::Closing,
            })
            .collect();
        if !gone.machines.is_empty() {
            let live = tx.live_grants_of(&gone.machines).await?;
            due.extend(
                self.end_grants(&mut tx, live, &EndCause::MachineGone, now, &mut log)
                    .await?,
            );
            log.push(self.inventory_event(account, "machine.gone", json!({ "machines": gone.machines })));
        }
        tx.audit(&log).await?;
        tx.mark_each_due(&due).await?;
        tx.commit().await?;
        Ok(gone.machines.len())
    }

    fn inventory_event(&self, account: &Account, action: &str, details: serde_json::Value) -> AuditEvent {
        let now = self.clock.now();
        AuditEvent {
            id: self.ids.next(now),
            at: now,
            action: action.to_owned(),
            outcome: Outcome::Succeeded,
            actor: Actor::System {
                component: "discovery".to_owned(),
            },
            scope: account.scope(),
            reason: None,
            decision: None,
            details,
            subject: Subject::default(),
            http_request: None,
        }
    }
}

/// Whether the machine moved (by its tags, mostly) to a policy that would not have granted this, or to none. How long
/// was promised is kept: a shorter maximum does not cut a grant.
fn is_refused(grant: &Grant, policy: Option<&JitPolicy>) -> bool {
    match policy {
        Some(policy) if policy.id == grant.policy => false,
        Some(policy) => {
            let ask = Ask {
                ports: &grant.ports,
                sources: &grant.sources,
                duration: Duration::ZERO,
            };
            policy.check(&ask).is_err()
        }
        None => true,
    }
}
