//! What holds of requests and grants after every step, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use postern_core::{
    grant::{EndCause, Grant, GrantState},
    id::GrantId,
    request::RequestState,
    time::Clock as _,
};
use postern_store::{AuditFilter, Order, Visible, testing};

use super::{World, model::Model};

impl World {
    /// What holds after every step.
    pub(super) async fn check(&mut self, model: &Model) {
        let now = self.all.rig.clock.now();
        assert_eq!((now - self.began).num_seconds(), model.now);
        let grants = self.grants().await;
        for (at, asked) in model.requests.iter().enumerate() {
            let request = self.all.rig.store.request(self.requests[at]).await;
            let request = request.unwrap().expect("the request");
            let word = match &request.state {
                RequestState::Pending(pending) if pending.lapses_at <= now => "lapsed",
                other => other.status(),
            };
            assert_eq!(word, asked.word(model.now), "request {at}");
            assert_eq!(request.duration.as_secs(), asked.seconds.unsigned_abs());
            let granted = grants.iter().filter(|grant| grant.request == request.id);
            let expected = if word == "approved" {
                asked.machines.len()
            } else {
                0
            };
            assert_eq!(granted.count(), expected, "a grant per machine of request {at}");
            assert_eq!(request.agreements.len(), asked.agreed.len());
        }
        let standing = self.standing();
        let made: usize = model
            .requests
            .iter()
            .filter(|asked| asked.word(model.now) == "approved")
            .map(|asked| asked.machines.len())
            .sum();
        assert_eq!(grants.len(), made, "no grant without an approved request");
        for grant in &grants {
            sound(grant, self.before.get(&grant.id));
            if standing.contains(&grant.id) {
                assert!(
                    !matches!(grant.state, GrantState::Closed(_)),
                    "{grant:?} is closed and stands"
                );
            }
            if matches!(grant.state, GrantState::Open(_)) {
                assert!(
                    standing.contains(&grant.id),
                    "{grant:?} is open and does not stand"
                );
            }
            let asked = self.requests.iter().position(|id| *id == grant.request);
            let starts_at = asked.and_then(|at| model.requests[at].starts_at);
            if let (GrantState::Open(open), Some(starts_at)) = (&grant.state, starts_at) {
                assert!(
                    (open.opened_at - self.began).num_seconds() >= starts_at,
                    "{grant:?} is early"
                );
            }
            if model.frozen {
                assert!(
                    grant.state.cause().is_some(),
                    "{grant:?} in a frozen scope at {now}"
                );
            }
        }
        let known: BTreeSet<GrantId> = grants.iter().map(|grant| grant.id).collect();
        assert!(standing.is_subset(&known), "something stands for nobody");
        assert_eq!(
            self.all.cloud.state.lock().unwrap().unannounced,
            Vec::<String>::new(),
            "a write without an intent"
        );
        self.before = grants.into_iter().map(|grant| (grant.id, grant)).collect();
    }

    /// What holds when the loop has nothing to do.
    pub(super) async fn check_settled(&self, model: &Model) {
        let now = self.all.rig.clock.now();
        let grants = self.grants().await;
        let mut wanted = BTreeSet::new();
        for grant in &grants {
            match &grant.state {
                GrantState::Open(open) => {
                    assert!(open.ends_at > now, "{grant:?} is over at {now}");
                    wanted.insert(grant.id);
                }
                GrantState::Closed(_) => {}
                GrantState::Scheduled(scheduled) => {
                    assert!(scheduled.starts_at > now, "{grant:?} should have begun by {now}");
                }
                GrantState::Opening(_) | GrantState::Closing(_) => {
                    panic!("{grant:?} is neither open nor closed at {now}")
                }
            }
        }
        assert_eq!(self.standing(), wanted);
        for (asked, id) in model.requests.iter().zip(&self.requests) {
            let of_request = || grants.iter().filter(|grant| grant.request == *id);
            if !asked.best_effort
                && asked.machines.len() > 1
                && of_request().any(|one| one.state.never_opened())
            {
                let ended = of_request().all(|one| matches!(one.state, GrantState::Closed(_)));
                assert!(ended, "not all, and not nothing");
            }
        }
        assert_eq!(testing::unsettled_changes(&self.all.rig.store).await, 0);
    }

    /// Each step of each grant stands in the audit log once.
    pub(super) async fn check_log(&self) {
        let mut times: BTreeMap<(GrantId, String), u32> = BTreeMap::new();
        let filter = AuditFilter {
            visible: Visible::everything(),
            scope: Some(format!("/aws/{}", self.account).parse().unwrap()),
            ..AuditFilter::default()
        };
        let log = self
            .all
            .rig
            .store
            .audit_events(&filter, None, 1000, Order::OldestFirst)
            .await
            .unwrap();
        for stored in log.items {
            if let Some(grant) = stored.event.subject.grant
                && stored.event.outcome.as_str() == "succeeded"
            {
                let action = match stored.event.action.as_str() {
                    "grant.revoke" => "grant.end".to_owned(),
                    other => other.to_owned(),
                };
                *times.entry((grant, action)).or_default() += 1;
            }
        }
        for grant in self.before.values() {
            let count = |action: &str| {
                times
                    .get(&(grant.id, action.to_owned()))
                    .copied()
                    .unwrap_or_default()
            };
            assert_eq!(count("access_request.approve"), 1, "{grant:?}");
            assert_eq!(count("grant.end"), 1, "{grant:?}");
            assert_eq!(count("grant.rule_closed"), 1, "{grant:?}");
            let GrantState::Closed(closed) = &grant.state else {
                panic!("{grant:?} is not closed at the end")
            };
            assert_eq!(
                count("grant.open"),
                u32::from(closed.opened_at.is_some()),
                "{grant:?}"
            );
        }
    }
}

/// How far along a grant is.
const fn rank(state: &GrantState) -> u8 {
    match state {
        GrantState::Scheduled(_) => 0,
        GrantState::Opening(_) => 1,
        GrantState::Open(_) => 2,
        GrantState::Closing(_) => 3,
        GrantState::Closed(_) => 4,
    }
}

/// What holds of a grant by itself, and of what it became since the step before.
fn sound(grant: &Grant, before: Option<&Grant>) {
    let length = TimeDelta::from_std(grant.duration).unwrap();
    if let GrantState::Open(open) = &grant.state {
        assert!(open.opened_at >= grant.created_at, "{grant:?}");
        assert_eq!(
            open.ends_at,
            (open.opened_at + length).min(grant.not_after),
            "{grant:?}"
        );
    }
    let ended = match &grant.state {
        GrantState::Closing(closing) => Some((&closing.cause, closing.since, closing.opened_at)),
        GrantState::Closed(closed) => {
            assert!(closed.closed_at >= closed.ended_at, "{grant:?}");
            Some((&closed.cause, closed.ended_at, closed.opened_at))
        }
        GrantState::Scheduled(_) | GrantState::Opening(_) | GrantState::Open(_) => None,
    };
    match ended {
        Some((EndCause::Expired, at, opened_at)) => {
            assert!(
                at >= opened_at.expect("it was open") + length,
                "{grant:?} ended early"
            );
        }
        Some((EndCause::OpenFailed { .. } | EndCause::NotAllowed { .. }, _, opened_at)) => {
            assert_eq!(opened_at, None, "{grant:?}");
        }
        _ => {}
    }
    let Some(before) = before else { return };
    assert!(
        rank(&grant.state) >= rank(&before.state),
        "{before:?} became {grant:?}"
    );
    assert!(grant.duration >= before.duration, "{before:?} became {grant:?}");
    if let (GrantState::Open(was), GrantState::Open(is)) = (&before.state, &grant.state) {
        assert!(
            is.opened_at == was.opened_at && is.ends_at >= was.ends_at,
            "{before:?} became {grant:?}"
        );
    }
    if let GrantState::Closed(_) = before.state {
        assert_eq!(before, grant, "what is closed does not change");
    }
}
