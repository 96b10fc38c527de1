//! One pass over one enforcement point: end what is due, observe, plan, journal, apply, read back, settle.
//!
//! A pass may die at any step. What it leaves is a committed intent without an outcome, which the next owner of
//! the point settles by looking, or nothing at all.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    audit::AuditEvent,
    enforcer::{Bindings, Change, Desired, EnforceError, Enforcer, Observed, Plan},
    grant::{EndCause, Grant, HopState},
    id::{ChangeId, GrantId, PointId, RequestId},
};
use postern_store::{Due, HopUpdate, Lease, Look, NewPass, Next, StoreError, Tx, Urgency};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    Engine,
    events::{Events, PassRef},
    failpoint::failpoint,
    findings,
    heartbeat::HeldLease,
    metrics::PassLabels,
    outcome::{LeftOver, Looked, RoundResult},
    refusals::{self, Refused},
};

/// How often a pass plans anew when what it read back is not yet what is wanted; after that it comes back later.
const MAX_ROUNDS: u32 = 3;

/// Why a pass ended without having settled anything.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The store failed, or the lease is another's.
    #[error("the store did not take the pass's result")]
    Store(#[from] StoreError),
    /// The lease ran out before a write could start.
    #[error("the lease ran out")]
    LeaseRanOut,
    /// No enforcer is configured for the point's cloud.
    #[error("no enforcer is configured for `{0}`")]
    NoEnforcer(String),
}

/// A change of the present round, and how it went.
pub(crate) struct Attempt {
    pub(crate) id: ChangeId,
    pub(crate) change: Change,
    pub(crate) intended_at: postern_core::time::Instant,
    /// Why the cloud refused it before: then it is told only if it goes otherwise now.
    pub(crate) refused_before: Option<String>,
    pub(crate) result: AttemptResult,
}

/// A reading, as far as outcomes are judged by it.
#[derive(Default)]
pub(crate) struct Seen<'a> {
    /// The grants of which anything stands there.
    pub(crate) evidence: BTreeSet<GrantId>,
    /// Whether it is what is in force.
    pub(crate) settled: bool,
    /// All of it; none where nothing could be read.
    pub(crate) observed: Option<&'a dyn Observed>,
}

/// What a pass begins with, as of one instant.
pub(crate) struct View {
    /// What is wanted, without the grants whose time is over.
    pub(crate) desired: Desired,
    /// The grants whose time is over and which the database has as wanted, and all the points of each.
    pub(crate) over: BTreeMap<GrantId, Vec<PointId>>,
    pub(crate) left_over: Vec<LeftOver>,
    /// What the last look reported.
    pub(crate) report: Option<Value>,
    /// Whether the database was restored and nobody looked at the point since.
    pub(crate) doubted: bool,
    /// Whether findings of an earlier look stand.
    pub(crate) found: bool,
    /// The wanted grants that were last read as present here.
    pub(crate) present: BTreeSet<GrantId>,
    /// Which request each grant with a part in the point is of.
    pub(crate) requests: BTreeMap<GrantId, RequestId>,
}

impl View {
    fn of(look: Look, now: postern_core::time::Instant) -> Self {
        let Look {
            mut desired,
            grants,
            left_over,
            report,
            doubted,
            found,
        } = look;
        let present = grants
            .iter()
            .filter(|here| here.present && here.grant.state.is_wanted())
            .map(|here| here.grant.id)
            .collect();
        let requests = grants
            .iter()
            .map(|here| (here.grant.id, here.grant.request))
            .collect();
        let closing = grants.iter().any(|here| here.grant.state.cause().is_some());
        let over: BTreeMap<GrantId, Vec<PointId>> = grants
            .into_iter()
            .filter(|here| here.grant.due_to_end(now).is_some())
            .map(|here| (here.grant.id, here.points))
            .collect();
        for member in &mut desired.members {
            member.grants.retain(|wanted| !over.contains_key(&wanted.grant));
        }
        desired.unsettled = closing || !over.is_empty() || !left_over.is_empty();
        Self {
            desired,
            over,
            left_over: left_over
                .into_iter()
                .map(|entry| LeftOver::new(entry, now))
                .collect(),
            report,
            doubted,
            found,
            present,
            requests,
        }
    }

    /// Whether the last look reported this, under `findings` or `obstacles`.
    pub(crate) fn has_reported(&self, kind: &str, item: &Value) -> bool {
        self.report
            .as_ref()
            .and_then(|report| report.get(kind))
            .and_then(Value::as_array)
            .is_some_and(|items| items.contains(item))
    }
}

/// Grants that the loop itself ends.
#[derive(Default)]
pub(crate) struct Ended {
    pub(crate) grants: Vec<Grant>,
    pub(crate) log: Vec<AuditEvent>,
}

impl Ended {
    pub(crate) fn end(
        &mut self,
        grant: Grant,
        cause: EndCause,
        now: postern_core::time::Instant,
        events: &Events<'_>,
    ) {
        if let Ok(live) = grant.live() {
            let closing = live.end(cause, now);
            self.log.push(events.grant_ended(&closing));
            self.grants.push(closing.into());
        }
    }

    /// Their other points, which have to close them too.
    pub(crate) fn due(&self, view: &View, own: PointId, now: postern_core::time::Instant) -> Vec<Due> {
        self.grants
            .iter()
            .filter_map(|grant| view.over.get(&grant.id))
            .flatten()
            .filter(|point| **point != own)
            .map(|point| Due {
                point: *point,
                at: now,
                urgency: Urgency::Closing,
            })
            .collect()
    }
}

/// How the rounds of a pass ended.
enum Converged {
    /// With a settled transaction, and how.
    Settled(&'static str),
    /// After so many rounds, because what was wanted changed meanwhile.
    Outdated(u32),
}

pub(crate) enum AttemptResult {
    /// The cloud said that it is done.
    Done(Value),
    /// The cloud said no, or did not say.
    Failed(EnforceError),
    /// An earlier change of the round failed.
    NotAttempted,
}

impl Engine {
    /// Makes a pass over the leased point; `asked` is when the lease was asked for. Every failure is logged here
    /// and leaves the point due.
    pub async fn pass(&self, lease: Lease, asked: Instant) {
        self.pass_in(lease, asked, None).await;
    }

    /// As [`Engine::pass`]; the lease may come with the transaction that makes it ours.
    pub(crate) async fn pass_in(&self, lease: Lease, asked: Instant, tx: Option<Tx>) {
        let cloud = lease.point_ref.cloud().as_str();
        let held = HeldLease::new(self.store.clone(), lease.clone(), asked, self.config.lease);
        let outcome = match self.try_pass(&lease, &held, tx).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(point = %lease.point_ref, error = &error as &dyn std::error::Error, "pass failed");
                drop(held);
                // With the lease still ours the point is given back at once; otherwise its new owner has it.
                let at = self.clock.now() + self.backoff(&lease);
                let retry = Next::Retry {
                    at,
                    // What it has to do is not known, so it may be a closing.
                    urgency: lease.urgency.min(Urgency::Closing),
                    error: error.to_string(),
                };
                if let Err(error) = self.finish_only(&lease, retry).await {
                    tracing::debug!(point = %lease.point_ref, %error, "lease left to run out");
                }
                "lost"
            }
        };
        self.metrics
            .passes
            .get_or_create(&PassLabels { cloud, outcome })
            .inc();
    }

    async fn finish_only(&self, lease: &Lease, next: Next) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        tx.finish(lease, next, &[]).await?;
        tx.commit().await
    }

    pub(crate) fn backoff(&self, lease: &Lease) -> chrono::TimeDelta {
        let [a, b, ..] = self.ids.random();
        let wait = self
            .config
            .backoff_after(lease.attempts, u16::from_be_bytes([a, b]));
        chrono::TimeDelta::from_std(wait).unwrap_or_default()
    }

    async fn try_pass(
        &self,
        lease: &Lease,
        held: &HeldLease,
        mut leasing: Option<Tx>,
    ) -> Result<&'static str, PassError> {
        let mut rounds = 0;
        failpoint!("after-lease");
        let enforcer = self
            .enforcer(lease.point_ref.cloud())
            .ok_or_else(|| PassError::NoEnforcer(lease.point_ref.to_string()))?;
        let now = self.clock.now();
        let mut read = None;
        if let Some(rest) = self.at_rest.take(lease, now) {
            let committed = async {
                match leasing.take() {
                    Some(tx) => tx.commit().await,
                    None => Ok(()),
                }
            };
            let (committed, observed) = tokio::join!(committed, enforcer.observe(&rest.desired));
            committed?;
            if observed
                .as_ref()
                .is_ok_and(|observed| observed.print() == Some(rest.print))
            {
                self.stay_at_rest(lease, rest, now).await?;
                return Ok("unchanged");
            }
            read = Some((rest.desired, observed));
        }
        loop {
            let mut tx = match leasing.take() {
                Some(tx) => tx,
                None => self.store.begin().await?,
            };
            let view = View::of(
                tx.look(&self.config.installation, lease.point).await?,
                self.clock.now(),
            );
            let lag = enforcer.describe_lag();
            // The journal of a restored database tells what was written last before the backup, not before now.
            if !lag.is_zero() && !view.doubted {
                let written = tx.recorded_lately(lease.point, lag).await?;
                enforcer.recall(&lease.point_ref, &written);
            }
            // Reading the cloud changes nothing, so it need not wait for the lease to be on disk. Nothing else
            // happens before it is.
            let reading = async {
                match read.take() {
                    Some((desired, observed)) if *desired == view.desired => observed,
                    _ => enforcer.observe(&view.desired).await,
                }
            };
            let (committed, observed) = tokio::join!(tx.commit(), reading);
            committed?;
            failpoint!("after-decide");
            if view.doubted && self.end_doubt(lease, &view, &observed).await? {
                continue;
            }
            let looked = Looked {
                rounds,
                patience: enforcer.request_timeout() + lag,
                refused: Refused::reported(&view)
                    .map(|told| told.changes)
                    .unwrap_or_default(),
                ..Looked::new(self.ids.next(self.clock.now()), view.left_over.clone())
            };
            match self
                .converge(&**enforcer, lease, held, &view, observed, looked)
                .await?
            {
                Converged::Settled(outcome) => return Ok(outcome),
                Converged::Outdated(after) => rounds = after,
            }
        }
    }

    /// Rounds of plan, intent, apply and read-back, until the point is as wanted, or not for now.
    async fn converge(
        &self,
        enforcer: &dyn Enforcer,
        lease: &Lease,
        held: &HeldLease,
        view: &View,
        mut observed: Result<Box<dyn Observed>, EnforceError>,
        mut looked: Looked,
    ) -> Result<Converged, PassError> {
        let desired = &view.desired;
        failpoint!("after-observe");
        loop {
            let mut evidence = BTreeMap::new();
            let (seen, plan) = match &observed {
                Ok(observed) => {
                    evidence = observed.evidence(desired);
                    let seen = Seen {
                        evidence: evidence.keys().copied().collect(),
                        settled: observed.settled(),
                        observed: Some(&**observed),
                    };
                    let mut plan = observed.plan(desired);
                    if looked.rounds == 0 && seen.settled {
                        let missing = findings::missing(view, &seen.evidence, &plan);
                        plan.findings.extend(missing);
                    }
                    (seen, plan)
                }
                Err(_) => (Seen::default(), Plan::default()),
            };
            let go_on = observed.is_ok()
                && !plan.changes.is_empty()
                && looked.rounds < MAX_ROUNDS
                && looked.last.as_ref().is_none_or(RoundResult::may_go_on);
            if !go_on {
                let outcome = self
                    .settle(lease, view, observed.as_deref(), &evidence, plan, looked)
                    .await?;
                return Ok(Converged::Settled(outcome));
            }
            looked.rounds += 1;
            let rounds = looked.rounds;
            let snapshot = observed.as_deref().map(Observed::snapshot).unwrap_or_default();
            let intended = self
                .intend(lease, view, seen, snapshot, plan, &mut looked)
                .await?;
            let Some(attempts) = intended else {
                return Ok(Converged::Outdated(rounds));
            };
            failpoint!("after-intent");
            let round = self.apply(enforcer, lease, held, attempts).await?;
            failpoint!("before-read-back");
            observed = enforcer.observe(desired).await;
            failpoint!("before-outcome");
            looked.refused.extend(round.refused().unwrap_or_default());
            looked.last = Some(round);
        }
    }

    /// Commits what is about to be done, the end of the grants whose time is over, and the outcome of the round
    /// before. Nothing when a grant stands otherwise than the plan assumes: one that it would open ended meanwhile,
    /// and another point may already have confirmed it as closed; or one that it would close was extended. Then what
    /// is wanted is read again.
    async fn intend(
        &self,
        lease: &Lease,
        view: &View,
        seen: Seen<'_>,
        snapshot: Value,
        plan: Plan,
        looked: &mut Looked,
    ) -> Result<Option<Vec<Attempt>>, PassError> {
        let now = self.clock.now();
        let events = Events::at(now, &*self.ids);
        let pass = PassRef {
            id: looked.pass,
            point: &lease.point_ref,
            requests: &view.requests,
        };
        let wanted: BTreeSet<GrantId> = view
            .desired
            .members
            .iter()
            .flat_map(|member| &member.grants)
            .map(|grant| grant.grant)
            .collect();
        let concerned: Vec<GrantId> = plan
            .changes
            .iter()
            .flat_map(|change| &change.grants)
            .filter(|grant| wanted.contains(*grant))
            .chain(view.over.keys())
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut tx = self.store.begin().await?;
        let mut over = Ended::default();
        let grants = if concerned.is_empty() {
            Vec::new()
        } else {
            tx.grants_by_id(&concerned).await?
        };
        for grant in grants {
            if wanted.contains(&grant.id) {
                if !grant.state.is_wanted() {
                    return Ok(None);
                }
            } else if let Some(cause) = grant.due_to_end(now) {
                over.end(grant, cause, now, &events);
            } else if grant.state.is_wanted() {
                return Ok(None);
            }
        }
        tx.save_grants(&over.grants).await?;
        let due = over.due(view, lease.point, now);
        let mut log = over.log;
        log.extend(
            self.settle_round(&mut tx, &pass, looked, &plan, &seen, now)
                .await?,
        );
        if seen.settled {
            log.extend(
                self.found(&mut tx, lease, looked, view, &pass, &events, &plan)
                    .await?,
            );
        }

        let attempts: Vec<Attempt> = plan
            .changes
            .into_iter()
            .map(|change| Attempt {
                id: self.ids.next(now),
                refused_before: refusals::name(&change).and_then(|name| looked.refused.get(&name).cloned()),
                change,
                intended_at: now,
                result: AttemptResult::NotAttempted,
            })
            .collect();
        let quiet: Vec<ChangeId> = attempts
            .iter()
            .filter(|attempt| attempt.refused_before.is_some())
            .map(|attempt| attempt.id)
            .collect();
        let new = NewPass {
            id: looked.pass,
            snapshot,
        };
        let intents: Vec<_> = attempts
            .iter()
            .map(|attempt| (attempt.id, &attempt.change))
            .collect();
        tx.intend(&new, lease, &intents, now).await?;
        tx.keep_quiet(&quiet).await?;
        let displaced: Vec<_> = attempts
            .iter()
            .flat_map(|a| a.change.displaces.iter().cloned())
            .collect();
        if !displaced.is_empty() {
            tx.save_displaced(lease.point, &displaced, now).await?;
        }
        let unknown: Vec<HopUpdate> = attempts
            .iter()
            .flat_map(|attempt| &attempt.change.grants)
            .filter(|grant| wanted.contains(*grant))
            .map(|grant| HopUpdate {
                grant: *grant,
                state: Some(HopState::Unknown),
                rules: None,
                blocked_by: None,
                obstacle: None,
            })
            .collect();
        tx.set_hops(lease.point, &unknown, now, &[]).await?;
        log.extend(
            attempts
                .iter()
                .filter(|attempt| attempt.refused_before.is_none())
                .map(|attempt| events.change_intended(&pass, attempt.id, &attempt.change)),
        );
        tx.audit(&log).await?;
        tx.mark_each_due(&due).await?;
        tx.commit().await?;
        Ok(Some(attempts))
    }

    /// Carries out the intended changes in order; stops at the first that fails, unless all that failed is to delete a
    /// group.
    async fn apply(
        &self,
        enforcer: &dyn Enforcer,
        lease: &Lease,
        held: &HeldLease,
        mut attempts: Vec<Attempt>,
    ) -> Result<RoundResult, PassError> {
        let mut bindings = Bindings::new();
        for attempt in &mut attempts {
            if !held.may_write() {
                return Err(PassError::LeaseRanOut);
            }
            failpoint!("before-apply");
            match enforcer
                .apply(&lease.point_ref, &attempt.change, &mut bindings)
                .await
            {
                Ok(answer) => attempt.result = AttemptResult::Done(answer),
                Err(error) => {
                    tracing::info!(point = %lease.point_ref, change = attempt.change.summary, %error, "change failed");
                    let goes_on = refusals::is_of_a_deletion(&error);
                    attempt.result = AttemptResult::Failed(error);
                    if !goes_on {
                        break;
                    }
                }
            }
            failpoint!("after-apply");
        }
        Ok(RoundResult { attempts })
    }
}
