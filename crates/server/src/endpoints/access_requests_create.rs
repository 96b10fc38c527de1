//! `POST /v1/access-requests`: asks for ports.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use http::StatusCode;
use postern_api::{
    Problem,
    access_request::{AccessRequest as Shown, AccessRequestCreate, AccessRequestCreateQuery},
    preflight::{AccessRequestDryRun, DryRunDecision},
};
use postern_authz::{Context, Decision, Resource};
use postern_core::{
    audit::{AuditEvent, Subject},
    id::RequestId,
    request::{AccessRequest, Approved, Mode, Pending, Target},
    role::Action,
    time::Instant,
};
use postern_store::{StoredMachine, Tx};
use serde_json::json;

use super::grants_extend;
use crate::{
    agreeing,
    decide::Question,
    failure::Failure,
    flow::{
        authenticate::Caller,
        body::Command,
        limits::{Place, wait_of},
        query::Parameters,
    },
    gathering::Plain,
    granting::{self, Terms, machines_of},
    idempotency::{self, IdempotencyKey, Replay},
    judging::{Ground, Stop},
    leasing::WantedLease,
    reviewing,
    shape::access_request,
    state::App,
};

const EVENT: &str = "access_request.create";

/// Asks for ports on machines, from sources, for a time, with a reason.
///
/// When the machines' JIT policies ask for nobody's approval, the answer holds a grant per machine. With `wait`,
/// the answer comes when every grant is open or has ended, or when the time is over. What the last observation shows
/// to stand in the way of a grant is refused at once. Targets without `sources` open for the address that the request
/// comes from. With `starts_at`, the grants are `scheduled`, and decided again when their time comes. Where one of several
/// machines cannot be opened, the others are closed again, unless `mode` is `best_effort`. With `dry_run`, nothing is
/// made, and the answer tells what
/// stands in the way of each target.
#[utoipa::path(
    post, path = "/v1/access-requests", tag = "access-requests", operation_id = "createAccessRequest",
    params(
        AccessRequestCreateQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "Makes a repetition safe.")
    ),
    request_body = AccessRequestCreate,
    responses(
        (status = 200, description = "What a dry run would have made.", body = AccessRequestDryRun),
        (status = 201, description = "The request.", body = Shown),
        (status = 400, description = "`invalid_machine_id`, `invalid_ports`, `invalid_source`, `invalid_duration`, `invalid_reason`, `invalid_targets`, `invalid_start`, `unknown_field`, `malformed_json`, …", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`step_up_required` (RFC 9470), and the token's problems", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: names what is missing or forbids; `cloud_role_missing`: names what the cloud's own roles do not allow", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`machine_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`frozen`, `too_many_grants`, `too_many_pending`, `idempotency_in_flight`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`no_policy`, `port_not_guarded`, `source_not_allowed`, `source_unclear`, `source_not_public`, `duration_too_long`, `not_justified`, `nothing_to_open`, `idempotency_key_reused`; by preflight: `blocked_by_rule`, `machine_stopped`, `no_address`, `no_capacity`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`cloud_roles_unknown`: the cloud's own roles could not be read, and nothing is allowed without them; `unavailable`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn create_access_request(
    State(app): State<Arc<App>>,
    caller: Caller,
    place: Place,
    Parameters(query): Parameters<AccessRequestCreateQuery>,
    command: Command<AccessRequestCreate>,
) -> Result<Response, Failure> {
    let wait = wait_of(query.wait)?;
    let dry_run = query.dry_run.unwrap_or(false);
    let manner = if dry_run { Manner::DryRun } else { Manner::Ask };
    match ask(&app, &caller, manner, &command, None).await? {
        Asked::Tried(shown) => Ok(Json(shown).into_response()),
        Asked::Again(id, replay) => replay.with_body(app.wait_for_request(id, wait, &place).await?),
        Asked::Held(id) => {
            let shown = app.wait_for_request(id, wait, &place).await?;
            Ok((StatusCode::OK, Json(shown)).into_response())
        }
        Asked::Made(id, shown) => {
            let shown = if wait.is_zero() {
                *shown
            } else {
                app.wait_for_request(id, wait, &place).await?
            };
            Ok((StatusCode::CREATED, Json(shown)).into_response())
        }
    }
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As usual: the policies say who must agree.
    Ask,
    /// To see what would be.
    DryRun,
    /// In an emergency: nobody must agree, and somebody looks at it afterwards.
    BreakGlass,
    /// For an open grant, to last longer.
    Extend {
        /// When it ends as it is; nobody can agree later.
        ends_at: Instant,
    },
}

impl Manner {
    pub(crate) const fn action(self) -> Action {
        match self {
            Self::Ask | Self::DryRun | Self::Extend { .. } => Action::Request,
            Self::BreakGlass => Action::BreakGlass,
        }
    }

    pub(crate) const fn event(self) -> &'static str {
        match self {
            Self::Ask | Self::DryRun => EVENT,
            Self::BreakGlass => reviewing::EVENT,
            Self::Extend { .. } => grants_extend::EVENT,
        }
    }
}

/// What came of asking.
pub(crate) enum Asked {
    /// Nothing but an answer: it was a dry run.
    Tried(Box<AccessRequestDryRun>),
    /// It was asked before, under the same idempotency key.
    Again(RequestId, Replay),
    /// The caller holds a lease of it already.
    Held(RequestId),
    /// The request.
    Made(RequestId, Box<Shown>),
}

/// Asks, and has the request held by a lease where one is wanted.
pub(crate) async fn ask(
    app: &Arc<App>,
    caller: &Caller,
    manner: Manner,
    command: &Command<AccessRequestCreate>,
    lease: Option<&WantedLease>,
) -> Result<Asked, Failure> {
    let now = app.now();
    let mode = if manner == Manner::BreakGlass {
        // What an emergency can have, it has.
        Mode::BestEffort
    } else {
        Mode::AllOrNothing
    };
    let request = access_request::read(
        &command.body,
        caller.address,
        mode,
        app.ids.next(now),
        (*caller.principal).clone(),
        now,
        now,
    )?;
    if let Some(starts_at) = request.starts_at {
        if manner == Manner::BreakGlass || lease.is_some() {
            return Err(access_request::invalid_start(
                "an emergency and a lease begin at once",
            ));
        }
        let ahead = app.config.limits.start_ahead();
        let latest = now + TimeDelta::from_std(ahead).map_err(Failure::internal)?;
        if starts_at <= now || starts_at > latest {
            let detail = format!(
                "a start is in the future, and at most {} s ahead",
                ahead.as_secs()
            );
            return Err(access_request::invalid_start(detail));
        }
    }
    let from_caller: Vec<bool> = (0..request.targets.len())
        .map(|at| is_from_caller(&command.body, at))
        .collect();
    let asking = Asking {
        manner,
        request,
        from_caller,
        lease,
    };
    ask_for(app, caller, asking, command.key.as_ref()).await
}

/// A request that was read, and how it is asked.
pub(crate) struct Asking<'a> {
    pub(crate) manner: Manner,
    pub(crate) request: AccessRequest<Pending>,
    /// By target: whether its source is the address that the request comes from, because it named none.
    pub(crate) from_caller: Vec<bool>,
    pub(crate) lease: Option<&'a WantedLease>,
}

/// The same, of a request that was read.
pub(crate) async fn ask_for(
    app: &Arc<App>,
    caller: &Caller,
    asking: Asking<'_>,
    key: Option<&IdempotencyKey>,
) -> Result<Asked, Failure> {
    let Asking {
        manner,
        mut request,
        from_caller,
        lease,
    } = asking;
    let mut now = request.created_at;
    let dry_run = manner == Manner::DryRun;
    let key = key.filter(|_| !dry_run);
    // A guardrail about times speaks of when access is had; what holds then is asked again then.
    let begins = request.starts_at.unwrap_or(now);

    // Before the transaction: whatever it takes, it holds nothing up.
    let verdict = if manner == Manner::BreakGlass {
        None
    } else {
        app.ticket_verdict(&request).await?
    };
    let under_way = app.gathering.enter();
    let plain = manner == Manner::Ask
        && (lease.is_none() && request.extends.is_none())
        && (verdict.is_none() && app.cloud_roles.is_none());
    if plain && under_way.is_crowded() {
        let plain = Plain {
            caller: caller.clone(),
            request: request.clone(),
            from_caller: from_caller.clone(),
            key: key.cloned(),
        };
        if let Some(pending) = app.make_with_others(plain).await? {
            let shown = access_request::show(&pending.into(), Vec::new(), now);
            return Ok(Asked::Made(request.id, Box::new(shown)));
        }
        // It waited for the others meanwhile.
        now = app.now();
    }
    let authorizer = app.authorizer().await?;
    let clouds = app
        .second_yes(&authorizer, &request, manner.action(), begins)
        .await?;
    let mut tx = app.store.begin().await?;
    if let Some(replay) = idempotency::claim(&mut tx, caller, key, now).await? {
        tx.rollback().await?;
        let id: RequestId = replay
            .body
            .get("id")
            .cloned()
            .ok_or_else(|| Failure::internal("a stored access request has no id"))
            .and_then(|id| serde_json::from_value(id).map_err(Failure::internal))?;
        return Ok(Asked::Again(id, replay));
    }
    if let Some(wanted) = lease
        && let Some(held) = app.held_lease(&mut tx, caller, wanted, now).await?
    {
        idempotency::store(&mut tx, caller, key, StatusCode::OK, &json!({ "id": held })).await?;
        tx.commit().await?;
        return Ok(Asked::Held(held));
    }
    // Freezes before policies before machines, as everybody locks them.
    let freezes = tx.freezes_in_force().await?;
    let policies = granting::by_id(tx.policies().await?);
    let machines = tx.machines(&machines_of(&request)).await?;
    let ground = Ground {
        authorizer: &authorizer,
        freezes: &freezes,
        policies: &policies,
        machines: &machines,
        clouds: &clouds,
        verdict: verdict.as_ref(),
        now,
    };
    let mut decided = Vec::with_capacity(request.targets.len());
    let mut readable = dry_run;
    let mut ways = Vec::with_capacity(request.targets.len());
    for (at, target) in request.targets.iter().enumerate() {
        let from_caller = from_caller.get(at).copied().unwrap_or(false);
        let judged = app.judge(manner, &request, (at, target), from_caller, &ground);
        let allowed = !matches!(judged, Err(Stop::Denied(..)));
        app.metrics.decided(manner.action().as_str(), allowed);
        let judged = match judged {
            Ok(judged) => judged,
            Err(stop) => {
                return Err(app
                    .stop(tx, caller, manner, &request, (at, target), &ground, stop)
                    .await);
            }
        };
        if readable {
            let read = question(Action::Read, &request, target, machines.get(&target.machine), now);
            readable = app.decide(&authorizer, &caller.principal, &read).allowed;
        }
        ways.push(judged.way.show(target));
        decided.push((judged.decision, judged.terms));
    }
    let (decisions, terms): (Vec<Decision>, Vec<Terms>) = decided.into_iter().unzip();
    app.wait_for_agreement(manner, &mut request, &terms)?;
    let at_once = request.state.awaits.is_empty();
    if let (Manner::Extend { ends_at }, Some(grant)) = (manner, request.extends) {
        request.state.lapses_at = request.state.lapses_at.min(ends_at);
        if !at_once {
            // That it could not be had is said at once, and not when somebody agreed.
            app.lengthened(&mut tx, grant, request.duration, now).await?;
        }
    }
    let mut events = asked(app, caller, manner, &request, &decisions, &ground);

    if dry_run {
        let named: Vec<String> = machines_of(&request).iter().map(ToString::to_string).collect();
        tx.audit(&events).await?;
        tx.commit().await?;
        let writes = app
            .foresee(&request.clone().approve_by_policy(now), &terms, readable, now)
            .await?;
        let exposures = app.exposures(&authorizer, caller, &request.targets, &machines);
        let decided = if at_once {
            request.approve_by_policy(now).into()
        } else {
            request.into()
        };
        let mut shown = access_request::show(&decided, Vec::new(), now);
        shown.dry_run = true;
        shown.exposures = exposures;
        let shown = AccessRequestDryRun {
            request: shown,
            decisions: named
                .iter()
                .zip(&decisions)
                .zip(&terms)
                .map(|((machine, decision), terms)| DryRunDecision {
                    machine: machine.clone(),
                    explanation: decision.explain(),
                    policy: terms.policy.to_string(),
                    policy_name: terms.policy_name.clone(),
                })
                .collect(),
            preflight: ways,
            writes,
        };
        return Ok(Asked::Tried(Box::new(shown)));
    }
    let id = request.id;
    let shown = if at_once {
        let (approved, action): (AccessRequest<Approved>, _) = if manner == Manner::BreakGlass {
            (request.break_glass(now), reviewing::EVENT)
        } else if request.extends.is_some() {
            (request.approve_by_policy(now), grants_extend::EVENT)
        } else {
            (request.approve_by_policy(now), "access_request.approve")
        };
        tx.insert_request(&approved.clone().into()).await?;
        if manner == Manner::BreakGlass {
            tx.insert_review(&reviewing::of(app.ids.next(now), &approved))
                .await?;
        }
        let grants = app.grant_or_extend(&mut tx, &approved, &terms, now).await?;
        events.extend(app.granted(caller, action, &approved, &terms, &grants, None));
        let hops = tx
            .hops_of(&grants.iter().map(|grant| grant.id).collect::<Vec<_>>())
            .await?;
        access_request::show(&approved.into(), granting::show_all(&grants, hops), now)
    } else {
        app.check_pending(&mut tx, caller, now).await?;
        let pending: AccessRequest = request.into();
        tx.insert_request(&pending).await?;
        access_request::show(&pending, Vec::new(), now)
    };
    if let Some(wanted) = lease {
        events.push(app.make_lease(&mut tx, caller, wanted, &shown, id, now).await?);
    }
    tx.audit(&events).await?;
    idempotency::store(&mut tx, caller, key, StatusCode::CREATED, &shown).await?;
    tx.commit().await?;
    Ok(Asked::Made(id, Box::new(shown)))
}

/// The question whether somebody may do something about one target of a request.
pub(crate) fn question<S>(
    action: Action,
    request: &AccessRequest<S>,
    target: &Target,
    machine: Option<&StoredMachine>,
    now: Instant,
) -> Question {
    Question {
        action,
        resource: Resource::machine(
            target.machine.scope(),
            machine
                .map(|stored| stored.machine.tags.clone())
                .unwrap_or_default(),
        ),
        context: Context {
            now,
            ports: target.ports.clone(),
            sources: target.sources.clone(),
            duration_seconds: Some(request.duration.as_secs()),
            reason_present: true,
        },
        event: EVENT,
        // The request does not exist if the answer is no.
        subject: Subject {
            machine: Some(target.machine.clone()),
            ..Subject::default()
        },
        reason: Some(request.reason.clone()),
    }
}

/// Whether the source of the target at `at` is where the request comes from.
fn is_from_caller(body: &AccessRequestCreate, at: usize) -> bool {
    body.targets
        .get(at)
        .is_some_and(|target| target.sources.is_none())
}

impl App {
    /// Says whose agreement the request awaits, and for how long.
    pub(crate) fn wait_for_agreement(
        &self,
        manner: Manner,
        request: &mut AccessRequest<Pending>,
        terms: &[Terms],
    ) -> Result<(), Failure> {
        // Whoever breaks the glass waits for nobody.
        if manner != Manner::BreakGlass {
            request.state.awaits = agreeing::awaited(terms);
        }
        let usual = self.config.limits.pending_timeout();
        let waits = terms.iter().map(|terms| terms.pending_for.unwrap_or(usual));
        let pending_for = waits.min().unwrap_or(usual);
        request.state.lapses_at =
            request.created_at + TimeDelta::from_std(pending_for).map_err(Failure::internal)?;
        Ok(())
    }

    /// Writes why a target may not be had, and is the failure that the caller gets.
    #[expect(clippy::too_many_arguments, reason = "all of it stands in the event")]
    async fn stop(
        &self,
        tx: Tx,
        caller: &Caller,
        manner: Manner,
        request: &AccessRequest<Pending>,
        (at, target): (usize, &Target),
        ground: &Ground<'_>,
        stop: Stop,
    ) -> Failure {
        let event = manner.event();
        match stop {
            Stop::Denied(asked, decision) => {
                self.deny(tx, ground.authorizer, caller, *asked, &decision).await
            }
            Stop::Frozen(freeze) => self.frozen(tx, caller, event, None, target, &freeze).await,
            Stop::NoMachine => {
                let read = question(Action::Read, request, target, None, ground.now);
                match self.allow(tx, ground.authorizer, caller, read).await {
                    Err(denied) => denied,
                    Ok((tx, _)) => match tx.rollback().await {
                        Err(error) => error.into(),
                        Ok(()) => granting::no_machine(&target.machine, at),
                    },
                }
            }
            Stop::Cloud(decision) => {
                self.refuse_by_cloud(tx, caller, event, None, target, &decision)
                    .await
            }
            Stop::Unproven(terms, lack) => {
                self.refuse_unproven(tx, caller, event, target, &terms, lack)
                    .await
            }
            Stop::NotJustified(terms, error) => {
                let said = (&*error, ground.verdict);
                self.refuse_unjustified(tx, caller, event, request, target, &terms, said)
                    .await
            }
            Stop::Refused(failure) => *failure,
        }
    }
}

/// What was asked, an event per machine, each with what allowed it.
pub(crate) fn asked(
    app: &App,
    caller: &Caller,
    manner: Manner,
    request: &AccessRequest<Pending>,
    decisions: &[Decision],
    ground: &Ground<'_>,
) -> Vec<AuditEvent> {
    let dry_run = manner == Manner::DryRun;
    let action = if dry_run { "access_request.dry_run" } else { EVENT };
    request
        .targets
        .iter()
        .zip(decisions)
        .map(|(target, decision)| {
            let subject = Subject {
                request: (!dry_run).then_some(request.id),
                grant: request.extends,
                machine: Some(target.machine.clone()),
                ..Subject::default()
            };
            let mut details = json!({
                "target": target,
                "duration_seconds": request.duration.as_secs(),
                "asked_from": caller.address.map(|address| address.to_string()).ok(),
                "starts_at": request.starts_at,
                "mode": request.mode,
                "extends": request.extends,
                "awaits": request.state.awaits,
                "cloud_roles": ground.clouds.shown(&target.machine),
            });
            if let (Some(ticket), Some(details)) = (&request.ticket, details.as_object_mut()) {
                let told = json!({ "ticket": ticket, "system": ground.verdict });
                details.insert("ticket".to_owned(), told);
            }
            let mut event = app.event(
                caller,
                action,
                target.machine.scope(),
                subject,
                Some(decision),
                details,
            );
            event.reason = Some(request.reason.clone());
            event
        })
        .collect()
}
