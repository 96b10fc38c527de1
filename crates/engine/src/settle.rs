//! The end of a pass: outcomes, hops, grants, the next due time; only on what was read back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use chrono::TimeDelta;
use postern_core::{
    approach::is_firewall,
    audit::AuditEvent,
    enforcer::{Desired, EnforceError, Evidence, Member, Observed, Plan, Verb},
    grant::{EndCause, Grant, GrantState, HopState, Live},
    id::{GrantId, RequestId},
    time::Instant,
};
use postern_store::{Due, HopUpdate, Lease, Next, StoreError, Tx, Urgency};
use serde_json::json;

use crate::{
    Engine,
    events::{Events, PassRef},
    findings::lockdown,
    metrics::{CloudLabels, CodeLabels},
    outcome::{Looked, RoundResult},
    pass::{Ended, Seen, View},
    refusals::{self, Refused},
    rest::Rest,
};

impl Engine {
    /// The last transaction of a pass. Says how it ended, for the metrics.
    pub(crate) async fn settle(
        &self,
        lease: &Lease,
        view: &View,
        reading: Result<&(dyn Observed + '_), &EnforceError>,
        evidence: &BTreeMap<GrantId, Evidence>,
        mut plan: Plan,
        mut looked: Looked,
    ) -> Result<&'static str, StoreError> {
        let now = self.clock.now();
        let desired = &view.desired;
        let events = Events::at(now, &*self.ids);
        let pass = PassRef {
            id: looked.pass,
            point: &lease.point_ref,
            requests: &view.requests,
        };
        let gone = matches!(reading, Err(EnforceError::Gone { .. }));
        let known = gone || reading.is_ok_and(Observed::settled);
        // Nothing went wrong: what was written does not show yet.
        let lags = plan.changes.is_empty()
            && looked.last.as_ref().is_none_or(|round| round.error().is_none())
            && reading.is_ok_and(Observed::lags);
        // Nothing that anybody waits for is left to do, and the cloud will not have it.
        let refused = looked
            .last
            .as_ref()
            .filter(|_| known && plan.changes.iter().all(|change| change.verb == Verb::Restore))
            .and_then(RoundResult::refused)
            .map(|changes| Refused::now(changes, view, now));
        if let Some(refused) = &refused {
            let moments = self.config.overdue_after;
            let found = refusals::findings(&plan, refused, now, moments);
            plan.findings.extend(found);
        }
        let failure =
            Failure::of(reading, looked.last.as_ref(), &plan).filter(|_| !lags && refused.is_none());
        let message = failure.as_ref().map(|failure| failure.message.as_str());

        let holds_ours = desired.members.iter().any(|member| !member.grants.is_empty())
            || desired.locked_down().next().is_some()
            || !desired.displaced.is_empty();
        let left = Left::of(
            lease,
            view,
            looked.last.as_ref().filter(|_| !known),
            &plan,
            holds_ours,
        );
        // Such as a group of ours that somebody's rule names, or a copy on another's machine: told once, and gone when it
        // can go.
        let stays = known && !holds_ours && !plan.findings.is_empty();

        let mut tx = self.store.begin().await?;
        let seen = Seen {
            evidence: evidence.keys().copied().collect(),
            settled: known,
            observed: reading.ok(),
        };
        let mut log = self
            .settle_round(&mut tx, &pass, &mut looked, &plan, &seen, now)
            .await?;
        let mut grants = tx.grants_at(lease.point, now, gone).await?;
        // Those whose time is over, unless the intents ended them, or somebody extended them.
        let mut over = Ended::default();
        for grant in &mut grants {
            if let Some(cause) = grant
                .due_to_end(now)
                .filter(|_| view.over.contains_key(&grant.id))
            {
                over.end(grant.clone(), cause, now, &events);
                if let Some(ended) = over.grants.last() {
                    *grant = ended.clone();
                }
            }
        }
        tx.save_grants(&over.grants).await?;
        let mut due = over.due(view, lease.point, now);
        log.append(&mut over.log);

        // What each grant has here, as read.
        let looks: Vec<HopLook> = grants
            .iter()
            .map(|grant| {
                HopLook::new(
                    grant,
                    evidence.get(&grant.id),
                    &plan,
                    known,
                    message,
                    looked.doubt_about(grant.id),
                )
            })
            .collect();
        let updates: Vec<HopUpdate> = looks.iter().map(|look| look.update.clone()).collect();
        // What it makes of an open one does not depend on its other hops, unless the point is gone.
        let depend: Vec<GrantId> = grants
            .iter()
            .filter(|grant| gone || !matches!(grant.state, GrantState::Open(_)))
            .map(|grant| grant.id)
            .collect();
        let hops = tx.set_hops(lease.point, &updates, now, &depend).await?;

        // What that makes of the grants.
        let mut changed: Vec<Grant> = Vec::new();
        let mut next: Option<(Instant, Urgency)> = None;
        let mut unconfirmed = false;
        let mut frozen = false;
        let mut broken: BTreeSet<RequestId> = BTreeSet::new();
        let cloud = CloudLabels {
            cloud: pass.point.cloud().as_str(),
        };
        for (grant, look) in grants.into_iter().zip(looks) {
            let id = grant.id;
            if grant.together && grant.state.never_opened() {
                broken.insert(grant.request);
            }
            let of_grant = hops.get(&id).map(Vec::as_slice).unwrap_or_default();
            let elsewhere = || {
                of_grant
                    .iter()
                    .map(|hop| hop.point)
                    .filter(|point| *point != lease.point)
            };
            match grant.state.clone() {
                GrantState::Opening(_) if gone || look.hopeless.is_some() => {
                    let cause = if gone {
                        EndCause::MachineGone
                    } else {
                        EndCause::OpenFailed {
                            reason: look.hopeless.unwrap_or_default(),
                        }
                    };
                    end(grant, cause, now, &events, &mut log, &mut changed);
                    due.extend(elsewhere().map(|point| Due {
                        point,
                        at: now,
                        urgency: Urgency::Closing,
                    }));
                    earliest(&mut next, now, Urgency::Closing);
                }
                GrantState::Opening(opening) => {
                    if !of_grant.is_empty() && of_grant.iter().all(|hop| hop.state == HopState::Present) {
                        if let Ok(Live::Opening(grant)) = grant.live() {
                            let open = grant.confirm_open(now);
                            let ends_at = open.state.ends_at;
                            log.push(events.grant_opened(&open, of_grant));
                            observe_seconds(
                                &self.metrics.open_seconds.get_or_create(&cloud),
                                now - open.created_at,
                            );
                            due.extend(elsewhere().map(|point| Due {
                                point,
                                at: ends_at,
                                urgency: Urgency::Closing,
                            }));
                            earliest(&mut next, ends_at, Urgency::Closing);
                            changed.push(open.into());
                        }
                    } else {
                        // What stands behind a firewall opens when the firewall has.
                        let let_in = of_grant
                            .iter()
                            .any(|hop| hop.point == lease.point && hop.state == HopState::Present);
                        if let_in && is_firewall(&lease.point_ref) {
                            let behind = of_grant
                                .iter()
                                .filter(|hop| hop.point != lease.point && hop.state == HopState::Absent);
                            due.extend(behind.map(|hop| Due {
                                point: hop.point,
                                at: now,
                                urgency: Urgency::Opening,
                            }));
                        }
                        earliest(&mut next, opening.deadline, Urgency::Closing);
                    }
                }
                GrantState::Open(_) if gone => {
                    end(grant, EndCause::MachineGone, now, &events, &mut log, &mut changed);
                    due.extend(elsewhere().map(|point| Due {
                        point,
                        at: now,
                        urgency: Urgency::Closing,
                    }));
                    earliest(&mut next, now, Urgency::Closing);
                }
                GrantState::Open(open) => earliest(&mut next, open.ends_at, Urgency::Closing),
                GrantState::Closing(state) => {
                    let doubt = looked.doubt_about(id);
                    let urgency = match state.cause {
                        EndCause::Frozen { .. } => Urgency::Freeze,
                        _ => Urgency::Closing,
                    };
                    if let Some(until) = doubt {
                        earliest(&mut next, until, urgency);
                    }
                    let absent_here = !evidence.contains_key(&id) && known && doubt.is_none();
                    unconfirmed |= !absent_here;
                    frozen |= !absent_here && matches!(state.cause, EndCause::Frozen { .. });
                    if let Ok(grant) = grant.closing() {
                        if of_grant.iter().all(|hop| hop.state == HopState::Absent) {
                            let closed = grant.confirm_closed(now);
                            log.push(events.grant_closed(&closed));
                            observe_seconds(
                                &self.metrics.close_seconds.get_or_create(&cloud),
                                closed.state.closed_at - closed.state.ended_at,
                            );
                            changed.push(closed.into());
                        } else if is_overdue(now - state.since, self.config.overdue_after, lease.attempts) {
                            log.push(
                                events.grant_overdue(&grant, message.unwrap_or("its rules still stand")),
                            );
                        }
                    }
                }
                // Nothing is wanted of it yet; one whose time to start has passed was ended with the others above.
                GrantState::Scheduled(_) | GrantState::Closed(_) => {}
            }
        }
        tx.save_grants(&changed).await?;
        let ended = changed
            .iter()
            .filter(|grant| grant.together && grant.state.never_opened());
        broken.extend(ended.map(|grant| grant.request));

        if known {
            log.extend(
                self.found(&mut tx, lease, &mut looked, view, &pass, &events, &plan)
                    .await?,
            );
            log.extend(
                self.resolved(&mut tx, lease, &looked, view, &pass, &events, &plan)
                    .await?,
            );
            log.extend(
                self.report(&mut tx, lease, view, &pass, &events, &plan, refused.as_ref())
                    .await?,
            );
        }
        let settled = if gone {
            desired.displaced.iter().map(|d| d.id).collect()
        } else if known && !looked.may_be_displaced {
            plan.settled.clone()
        } else {
            Vec::new()
        };
        if !settled.is_empty() {
            let displaced: Vec<_> = desired
                .displaced
                .iter()
                .filter(|d| settled.contains(&d.id))
                .collect();
            log.push(events.restored(&pass, &json!({ "rules": displaced, "gone": gone })));
            tx.settle_displaced(&settled, now).await?;
        }
        tx.audit(&log).await?;
        let at_rest = log.is_empty() && changed.is_empty() && due.is_empty() && !view.found;

        let urgency = if frozen {
            Urgency::Freeze
        } else if unconfirmed {
            Urgency::Closing
        } else {
            left.urgency()
        };
        let mut rest = None;
        let outcome = if let Some(failure) = &failure {
            let wait = failure.retry_after.map_or_else(
                || self.backoff(lease),
                // A cloud that asks for a day does not get a day in which a rule outlives its grant.
                |after| after.min(TimeDelta::from_std(self.config.backoff_max).unwrap_or_default()),
            );
            let retry = Next::Retry {
                at: now + wait,
                urgency,
                error: failure.message.clone(),
            };
            tx.finish(lease, retry, &due).await?;
            "retry"
        } else {
            if lags {
                let look = TimeDelta::from_std(self.config.backoff).unwrap_or_default();
                earliest(&mut next, now + look, urgency);
            }
            let interval = self.config.look_interval(holds_ours);
            if let Some(refused) = &refused {
                let again = refused.again_at(now, self.config.backoff, interval);
                earliest(&mut next, again, Urgency::Look);
            }
            for doubt in &looked.doubts {
                earliest(&mut next, doubt.until(), Urgency::Closing);
            }
            if at_rest && !gone && !lags && holds_ours && looked.doubts.is_empty() && plan == Plan::default()
            {
                rest = rest_at(desired, reading, next, now);
            }
            // Also where the point is gone: it may come back under the same name.
            if holds_ours || stays {
                let [a, b, ..] = self.ids.random();
                let look = self.config.next_look(now, holds_ours, u16::from_be_bytes([a, b]));
                earliest(&mut next, look, Urgency::Look);
            }
            let next = next.map_or(Next::Never, |(at, urgency)| Next::At { at, urgency });
            tx.finish(lease, next, &due).await?;
            match (gone, lags, refused) {
                (true, ..) => "gone",
                (false, true, _) => "lagging",
                (false, false, Some(_)) => "refused",
                (false, false, None) => "settled",
            }
        };
        tx.commit().await?;
        if let Some(rest) = rest {
            self.at_rest.keep(lease, rest);
        }
        crate::failpoint::failpoint!("after-outcome");
        for request in broken {
            // What fails here the backstop does.
            if let Err(error) = self.end_broken(Some(request)).await {
                self.half_had.store(true, Ordering::Relaxed);
                tracing::warn!(%request, error = &error as &dyn std::error::Error, "not all, and not yet nothing");
            }
        }
        Ok(outcome)
    }

    /// Reports the obstacles that the look before did not, and remembers what there is now.
    #[expect(
        clippy::too_many_arguments,
        reason = "a step of the pass, with what the pass has"
    )]
    async fn report(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        view: &View,
        pass: &PassRef<'_>,
        events: &Events<'_>,
        plan: &Plan,
        refused: Option<&Refused>,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let mut log = Vec::new();
        let locked = lockdown(&view.desired).filter(|_| plan.changes.is_empty());
        let report = json!({ "findings": plan.findings, "obstacles": plan.obstacles, "locked": locked,
            "refused": refused.map(Refused::report) });
        if view.report.as_ref() == Some(&report)
            || (view.report.is_none()
                && plan.findings.is_empty()
                && plan.obstacles.is_empty()
                && locked.is_none()
                && refused.is_none())
        {
            return Ok(log);
        }
        tx.replace_report(lease.point, &report).await?;
        let cloud = pass.point.cloud().as_str();
        for obstacle in plan
            .obstacles
            .iter()
            .filter(|obstacle| !view.has_reported("obstacles", &json!(obstacle)))
        {
            self.metrics
                .obstacles
                .get_or_create(&CodeLabels {
                    cloud,
                    code: obstacle.code.clone(),
                })
                .inc();
            log.push(events.obstacle(pass, obstacle));
        }
        Ok(log)
    }
}

/// What the look found, where nothing waits to be opened or closed.
fn rest_at(
    desired: &Desired,
    reading: Result<&(dyn Observed + '_), &EnforceError>,
    until: Option<(Instant, Urgency)>,
    since: Instant,
) -> Option<Rest> {
    let waits = |member: &Member| member.grants.iter().any(|grant| grant.opening);
    if desired.unsettled || desired.members.iter().any(waits) {
        return None;
    }
    Some(Rest {
        desired: Arc::new(desired.clone()),
        print: reading.ok()?.print()?,
        until,
        since,
    })
}

/// What is left to do at a point that is not as wanted yet; what a grant that ended leaves there counts apart.
struct Left {
    /// Something of ours stands that nobody wants, or may stand: nothing is wanted there, and not all is confirmed.
    closes: bool,
    /// Something is wanted there, a finding stands, or more is left to do than to put back and to clear away.
    awaited: bool,
    /// What the look was due for.
    due_for: Urgency,
}

impl Left {
    /// By the plan, and by the `last` round where it is not known what came of that.
    fn of(lease: &Lease, view: &View, last: Option<&RoundResult>, plan: &Plan, holds_ours: bool) -> Self {
        let tried = last.map(|round| round.attempts.as_slice()).unwrap_or_default();
        let tried = tried.iter().map(|attempt| attempt.change.verb);
        let verbs: Vec<Verb> = plan
            .changes
            .iter()
            .map(|change| change.verb)
            .chain(tried)
            .collect();
        let unknown = !holds_ours && (view.desired.unsettled || view.doubted);
        Self {
            closes: unknown || verbs.contains(&Verb::Close),
            awaited: holds_ours || view.found || verbs.iter().any(|verb| *verb != Verb::Restore),
            due_for: lease.urgency,
        }
    }

    /// What the next look is for. Where nothing is wanted and nothing is known to stand, that is what this one was for: a
    /// closing, where discovery saw a mark of ours before a machine; a look, where what it saw lets nothing through.
    fn urgency(&self) -> Urgency {
        match self {
            Self { closes: true, .. } => Urgency::Closing,
            Self { awaited: true, .. } => Urgency::Opening,
            Self { due_for, .. } => (*due_for).max(Urgency::Closing),
        }
    }
}

/// Why the point is not as wanted yet.
struct Failure {
    message: String,
    /// When the cloud says to come back.
    retry_after: Option<TimeDelta>,
}

impl Failure {
    fn of(
        reading: Result<&(dyn Observed + '_), &EnforceError>,
        last: Option<&RoundResult>,
        plan: &Plan,
    ) -> Option<Self> {
        let error = match reading {
            Err(EnforceError::Gone { .. }) => return None,
            Err(error) => Some(error),
            Ok(observed) if plan.changes.is_empty() && observed.settled() => return None,
            Ok(_) => last.and_then(RoundResult::error),
        };
        let retry_after = match error {
            Some(EnforceError::Throttled {
                retry_after: Some(after),
                ..
            }) => TimeDelta::from_std(*after).ok(),
            _ => None,
        };
        let message = error.map_or_else(
            || "what was read back is not yet what is wanted".to_owned(),
            std::string::ToString::to_string,
        );
        Some(Self { message, retry_after })
    }
}

/// What was seen of one grant at the point.
struct HopLook {
    update: HopUpdate,
    /// Why the grant can never be opened here as things stand.
    hopeless: Option<String>,
}

impl HopLook {
    fn new(
        grant: &Grant,
        evidence: Option<&Evidence>,
        plan: &Plan,
        known: bool,
        failure: Option<&str>,
        doubt: Option<Instant>,
    ) -> Self {
        let obstacle = plan
            .obstacles
            .iter()
            .find(|o| o.grants.contains(&grant.id))
            .map(|o| o.message.clone());
        let blocked_by = evidence.and_then(|evidence| evidence.blocked_by.clone());
        let hopeless = obstacle.clone().or_else(|| {
            blocked_by
                .as_ref()
                .map(|rule| format!("rule `{rule}`, which is not ours, blocks it"))
        });
        let state = match evidence {
            _ if !known => None,
            Some(evidence) if evidence.complete && blocked_by.is_none() => Some(HopState::Present),
            Some(_) => Some(HopState::Unknown),
            // A call that opens it may still be under way.
            None if doubt.is_some() => Some(HopState::Unknown),
            None => Some(HopState::Absent),
        };
        let update = HopUpdate {
            grant: grant.id,
            state,
            rules: evidence.map(|evidence| evidence.rules.clone()),
            blocked_by,
            obstacle: obstacle.or_else(|| failure.map(str::to_owned)),
        };
        Self { update, hopeless }
    }
}

fn end(
    grant: Grant,
    cause: EndCause,
    now: Instant,
    events: &Events<'_>,
    log: &mut Vec<AuditEvent>,
    changed: &mut Vec<Grant>,
) {
    if let Ok(live) = grant.live() {
        let closing = live.end(cause, now);
        log.push(events.grant_ended(&closing));
        changed.push(closing.into());
    }
}

fn earliest(next: &mut Option<(Instant, Urgency)>, at: Instant, urgency: Urgency) {
    if next.is_none_or(|other| (at, urgency) < other) {
        *next = Some((at, urgency));
    }
}

/// Whether to say again that a closing is overdue: at the 1st, 2nd, 4th, 8th … failed pass after the limit.
fn is_overdue(since: TimeDelta, limit: std::time::Duration, attempts: u32) -> bool {
    since.to_std().is_ok_and(|since| since > limit) && attempts.is_power_of_two()
}

fn observe_seconds(histogram: &prometheus_client::metrics::histogram::Histogram, span: TimeDelta) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a latency in microseconds is far below 2^52"
    )]
    histogram.observe(span.num_microseconds().unwrap_or_default() as f64 / 1e6);
}
