//! Leases: requests that are held by heartbeats. Who may hold, what a key finds, and how one is given back.
//!
//! The loop ends those whose heartbeat is missed; here is what their holders do themselves.

use std::time::Duration;

use postern_api::{
    ErrorCode,
    access_request::{AccessRequest as ShownRequest, AccessRequestCreate},
    lease as api,
};
use postern_core::{
    audit::{AuditEvent, Outcome, Subject},
    grant::{EndCause, Grant},
    id::{LeaseId, RequestId},
    lease::{AccessLease, Held, LeaseEnd, LeaseKey},
    request::AccessRequest,
    scope::Scope,
    time::Instant,
};
use postern_store::{NewAccessLease, Tx, Urgency};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    failure::Failure,
    flow::{authenticate::Caller, limits::Place},
    granting::machines_of,
    shape::{access_request, lease},
    state::App,
};

/// A lease that somebody asks for.
#[derive(Debug)]
pub(crate) struct WantedLease {
    /// Its id, if it is made.
    pub(crate) id: LeaseId,
    /// What the holder calls it.
    pub(crate) key: LeaseKey,
    /// The pause between two heartbeats.
    pub(crate) heartbeat_every: Duration,
    /// How long the holder waits for the answer.
    pub(crate) wait: Duration,
    /// Of what is asked.
    pub(crate) fingerprint: [u8; 32],
}

/// Of what is asked under a key, so that another thing is told from it.
pub(crate) fn fingerprint(
    asked: &AccessRequestCreate,
    heartbeat_every: Duration,
) -> Result<[u8; 32], Failure> {
    let text = serde_json::to_vec(&(asked, heartbeat_every.as_secs())).map_err(Failure::internal)?;
    Ok(Sha256::digest(text).into())
}

/// Where what concerns all of a request stands in the audit log.
fn scope_of(request: &AccessRequest) -> Scope {
    match request.targets.as_slice() {
        [one] => one.machine.scope(),
        _ => Scope::root(),
    }
}

fn subject_of(request: RequestId) -> Subject {
    Subject {
        request: Some(request),
        ..Subject::default()
    }
}

/// What becomes of a request that still waits when its lease is given back, and the event of it. One that lapsed by
/// this server's clock is ended as well: by another's it may be approved, with nobody there to be heard of.
fn taken_back(
    request: AccessRequest,
    caller: &Caller,
    now: Instant,
) -> Option<(AccessRequest, &'static str)> {
    if let Some(lapsed) = request.clone().lapse(now) {
        return Some((lapsed.into(), "access_request.lapse"));
    }
    let pending = request.pending(now).ok()?;
    let withdrawn = pending.withdraw(&caller.reference(), now).ok()?;
    Some((withdrawn.into(), "access_request.withdraw"))
}

impl App {
    /// The request of the lease that the caller holds under the key, if it holds one: it is heard of, and waits for
    /// the answer. One that holds nothing any more makes room for the next.
    pub(crate) async fn held_lease(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        wanted: &WantedLease,
        now: Instant,
    ) -> Result<Option<RequestId>, Failure> {
        let Some(found) = tx.lease_under(&caller.reference(), &wanted.key).await? else {
            return Ok(None);
        };
        let request = self.request_of(tx, &found).await?;
        let grants = tx.grants_of_request(found.request).await?;
        if !Held::of(&request.state, &grants).is_live() {
            tx.end_lease(found.id, LeaseEnd::Over, now).await?;
            return Ok(None);
        }
        if found.fingerprint != wanted.fingerprint {
            return Err(Failure::field(
                ErrorCode::LeaseKeyInUse,
                "/key",
                format!(
                    "you hold lease `{}` under key `{}` for something else; release it, or use another key",
                    found.id, found.key
                ),
            ));
        }
        tx.hear_lease(&found, wanted.wait).await?;
        Ok(Some(found.request))
    }

    async fn request_of(&self, tx: &mut Tx, lease: &AccessLease) -> Result<AccessRequest, Failure> {
        tx.request(lease.request)
            .await?
            .ok_or_else(|| Failure::internal("a lease holds no request"))
    }

    /// Has the request held by a lease, in the transaction that makes it.
    pub(crate) async fn make_lease(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        wanted: &WantedLease,
        shown: &ShownRequest,
        request: RequestId,
        now: Instant,
    ) -> Result<AuditEvent, Failure> {
        let new = NewAccessLease {
            id: wanted.id,
            request,
            holder: caller.reference(),
            key: wanted.key.clone(),
            fingerprint: wanted.fingerprint,
            heartbeat_every: wanted.heartbeat_every,
            created_at: now,
        };
        tx.insert_lease(&new, wanted.wait).await?;
        let scope = match shown.targets.as_slice() {
            [one] => one
                .machine
                .parse::<postern_core::machine::MachineId>()
                .map_or_else(|_| Scope::root(), |machine| machine.scope()),
            _ => Scope::root(),
        };
        let details = json!({
            "lease": new.id, "key": new.key, "heartbeat_every_seconds": new.heartbeat_every.as_secs(),
        });
        let mut event = self.event(caller, "lease.create", scope, subject_of(request), None, details);
        event.reason = Some(shown.reason.clone());
        event.decision = Some(json!({ "rule": "who may make the request may hold it by a lease" }));
        Ok(event)
    }

    /// The caller's own lease, locked. Anybody else's is refused, which stands in the audit log.
    pub(crate) async fn own_lease(
        &self,
        mut tx: Tx,
        caller: &Caller,
        id: LeaseId,
        event: &str,
    ) -> Result<(Tx, AccessLease), Failure> {
        let lease = tx
            .access_lease(id)
            .await?
            .ok_or_else(|| Failure::not_found("such lease"))?;
        if lease.holder == caller.reference() {
            return Ok((tx, lease));
        }
        let rule = "a lease is kept and released by who holds it";
        let details = json!({ "lease": id });
        let mut event = self.event(
            caller,
            event,
            Scope::root(),
            subject_of(lease.request),
            None,
            details,
        );
        event.outcome = Outcome::Denied;
        event.decision = Some(json!({ "rule": rule }));
        self.write_alone(tx, event).await?;
        let refusal = Failure::new(ErrorCode::NotTheHolder, rule);
        let Some(request) = self.store.request(lease.request).await? else {
            return Err(Failure::internal("a lease holds no request"));
        };
        Err(self.refusal_about(caller, &request, "such lease", refusal).await)
    }

    /// Gives a live lease back: its grants end, its pending request is withdrawn.
    pub(crate) async fn release(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        lease: &AccessLease,
        now: Instant,
    ) -> Result<(), Failure> {
        const EVENT: &str = "lease.release";
        let decision = json!({ "rule": "a lease is kept and released by who holds it" });
        let request = self.request_of(tx, lease).await?;
        let scope = scope_of(&request);
        let mut events = Vec::new();
        if let Some((over, action)) = taken_back(request, caller, now) {
            tx.save_request(&over).await?;
            for target in &over.targets {
                let subject = Subject {
                    machine: Some(target.machine.clone()),
                    ..subject_of(over.id)
                };
                let details = json!({ "lease": lease.id });
                let mut event = self.event(caller, action, target.machine.scope(), subject, None, details);
                event.decision = Some(decision.clone());
                events.push(event);
            }
        }
        let mut ended: Vec<Grant> = Vec::new();
        for grant in tx.grants_of_request(lease.request).await? {
            let before = grant.state.clone();
            let Ok(live) = grant.live() else { continue };
            let closing: Grant = live.end(EndCause::Released, now).into();
            let subject = Subject {
                request: Some(closing.request),
                grant: Some(closing.id),
                policy: Some(closing.policy),
                machine: Some(closing.machine.clone()),
                ..Subject::default()
            };
            let details = json!({ "lease": lease.id, "before": before, "after": closing.state });
            let mut event = self.event(
                caller,
                "grant.release",
                closing.machine.scope(),
                subject,
                None,
                details,
            );
            event.decision = Some(decision.clone());
            events.push(event);
            ended.push(closing);
        }
        tx.save_grants(&ended).await?;
        tx.end_lease(lease.id, LeaseEnd::Released, now).await?;
        let details = json!({ "lease": lease.id, "key": lease.key });
        let mut event = self.event(caller, EVENT, scope, subject_of(lease.request), None, details);
        event.decision = Some(decision);
        events.push(event);
        tx.audit(&events).await?;
        let ids: Vec<_> = ended.iter().map(|grant| grant.id).collect();
        let points = tx.points_of(&ids).await?;
        tx.mark_due(&points, now, Urgency::Closing).await?;
        Ok(())
    }

    /// The lease, when each of its grants is open or has ended, or when the time is over. Its holder waits meanwhile,
    /// and is late again from the answer on.
    pub(crate) async fn await_lease(
        &self,
        lease: &AccessLease,
        wait: Duration,
        place: &Place,
    ) -> Result<api::Lease, Failure> {
        if !wait.is_zero() {
            let shown = self.wait_for_request(lease.request, wait, place).await?;
            let settled =
                shown.status != "pending" && shown.grants.iter().all(|grant| grant.status != "opening");
            // While it is not settled, another call of the holder's may wait on.
            if settled {
                self.store.answered_lease(lease).await?;
            }
        }
        self.show_lease(lease.id).await
    }

    /// The lease as it is, with what it holds and where that is reached.
    pub(crate) async fn show_lease(&self, id: LeaseId) -> Result<api::Lease, Failure> {
        let lease = self
            .store
            .access_lease(id)
            .await?
            .ok_or_else(|| Failure::not_found("such lease"))?;
        let request = self
            .store
            .request(lease.request)
            .await?
            .ok_or_else(|| Failure::internal("a lease holds no request"))?;
        let grants = self.grants_of(&request).await?;
        let held = Held::of(&request.state, &grants);
        let mut machines = Vec::with_capacity(request.targets.len());
        for id in machines_of(&request) {
            if let Some(stored) = self.store.machine(&id).await? {
                machines.push(lease::leased(&stored.machine));
            }
        }
        let ids: Vec<_> = grants.iter().map(|grant| grant.id).collect();
        let hops = self.store.hops_of(&ids).await?;
        let shown = access_request::show(&request, crate::granting::show_all(&grants, hops), self.now());
        Ok(lease::show(&lease, held, machines, shown))
    }
}
