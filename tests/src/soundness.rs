//! The invariants of the design, checked from the simulators' truth logs and the audit log after a test has done
//! its worst.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use postern_api::{
    audit_event::{AuditEvent, AuditEventQuery},
    grant::{Grant, GrantQuery},
};
use postern_sim::truth::{Change, Interval, Probe, Protocol};
use serde_json::Value;

use crate::{Person, World, world::CLIENT};

/// The state of both clouds that a lockdown must restore: rules and attachments, without etags and ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules(BTreeMap<String, Value>);

impl Rules {
    /// What stands differently in `other`, resource by resource.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let resources: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        resources
            .into_iter()
            .filter(|resource| self.0.get(*resource) != other.0.get(*resource))
            .map(|resource| {
                let show = |rules: &Self| {
                    rules
                        .0
                        .get(resource)
                        .map_or_else(|| "nothing".to_owned(), Value::to_string)
                };
                format!("{resource}\n  was {}\n  is  {}", show(self), show(other))
            })
            .collect()
    }
}

impl World {
    /// Waits until the rules of both clouds are `before` again.
    ///
    /// # Panics
    /// If they are not within `within`; the message says what differs.
    pub async fn until_rules_are(&self, before: &Rules, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let difference = before.difference(&self.rules());
            if difference.is_empty() {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not restored within {within:?}:\n{}",
                difference.join("\n")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The rules of both clouds as they stand.
    pub fn rules(&self) -> Rules {
        let mut rules = BTreeMap::new();
        let worlds = [
            self.fleet.arm.truth().world(None),
            self.fleet.ec2.truth().world(None),
        ];
        for (resource, value) in worlds.into_iter().flatten() {
            rules.insert(resource, essence(&value));
        }
        Rules(rules)
    }

    /// Every audit event, oldest first.
    pub async fn audit_log(&self) -> Vec<AuditEvent> {
        let olga = self.client(Person::Olga);
        let mut events = Vec::new();
        let mut query = AuditEventQuery {
            order: Some("asc".to_owned()),
            limit: Some(200),
            ..Default::default()
        };
        loop {
            let page = olga.audit_events(&query).await.expect("the audit log");
            events.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return events,
            }
        }
    }

    /// Every grant.
    pub async fn all_grants(&self) -> Vec<Grant> {
        let olga = self.client(Person::Olga);
        let mut grants = Vec::new();
        let mut query = GrantQuery {
            limit: Some(200),
            ..Default::default()
        };
        loop {
            let page = olga.grants(&query).await.expect("the grants");
            grants.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return grants,
            }
        }
    }

    /// When packets from [`CLIENT`] reached SSH on a machine, from `since` on.
    pub fn open_intervals(&self, machine: &str, since: DateTime<Utc>) -> Vec<Interval> {
        let (source, port, protocol) = (CLIENT.into(), 22, Protocol::Tcp);
        let intervals = if machine.starts_with("arn:") {
            self.fleet.ec2.open_intervals(&Probe {
                machine: machine.to_owned(),
                source,
                port,
                protocol,
            })
        } else {
            self.fleet.arm.open_intervals(machine, source, port, protocol)
        };
        intervals
            .into_iter()
            .filter(|interval| interval.to.is_none_or(|to| to > since))
            .collect()
    }

    /// Holds the five invariants against what really happened since the machines were locked at `locked`.
    ///
    /// `lag` is the published closing lag for what the test did to the server.
    ///
    /// # Panics
    /// If one is broken.
    pub async fn assert_sound(&self, locked: DateTime<Utc>, lag: Duration) {
        self.assert_sound_between(locked, DateTime::<Utc>::MAX_UTC, lag)
            .await;
    }

    async fn assert_sound_between(&self, locked: DateTime<Utc>, released: DateTime<Utc>, lag: Duration) {
        let grants = self.all_grants().await;
        let events = self.events_with_outcomes().await;
        self.assert_no_packet_without_a_grant(&grants, locked, released, lag);
        assert_writes_were_intended(&self.fleet.arm.truth().all(), &events, "azure");
        assert_writes_were_intended(&self.fleet.ec2.truth().all(), &events, "aws");
        assert_decisions_name_what_decided(&events);
        for grant in &grants {
            assert_eq!(grant.status, "closed", "every grant closes: {grant:?}");
        }
    }

    /// Every audit event, once every intent has an outcome: a call without an answer is undecided for as long as it may
    /// still take effect.
    async fn events_with_outcomes(&self) -> Vec<AuditEvent> {
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        loop {
            let events = self.audit_log().await;
            let open = without_outcome(&events);
            if open.is_empty() {
                return events;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "intents without an outcome: {open:?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// As [`World::assert_sound`], where the policy was removed at the end and the ports are as open as they were
    /// before it.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub async fn assert_sound_until_release(&self, locked: DateTime<Utc>, lag: Duration) {
        let released = self
            .audit_log()
            .await
            .into_iter()
            .find(|event| event.action == "jit_policy.delete" && event.outcome == "succeeded")
            .expect("the policy was removed")
            .at;
        self.assert_sound_between(locked, released, lag).await;
    }

    fn assert_no_packet_without_a_grant(
        &self,
        grants: &[Grant],
        locked: DateTime<Utc>,
        released: DateTime<Utc>,
        lag: Duration,
    ) {
        let lag = TimeDelta::from_std(lag).expect("a lag");
        for machine in self.machines() {
            let mine: Vec<&Grant> = grants
                .iter()
                .filter(|grant| grant.machine.eq_ignore_ascii_case(machine))
                .collect();
            for open in self.open_intervals(machine, locked) {
                let mut at = open.from.max(locked);
                // Walk through the interval along the grants that cover it.
                while at < released && open.to.is_none_or(|to| at < to) {
                    let until = mine
                        .iter()
                        .filter(|grant| grant.created_at <= at)
                        .map(|grant| {
                            grant
                                .ended_at
                                .map_or(DateTime::<Utc>::MAX_UTC, |ended| ended + lag)
                        })
                        .max();
                    let Some(until) = until.filter(|until| *until > at) else {
                        panic!("{machine} let packets in at {at} without a grant: {open:?}, {mine:?}");
                    };
                    at = until;
                }
            }
        }
    }
}

/// Every change that our credentials made lies between an intent and its outcome.
fn assert_writes_were_intended(changes: &[Change], events: &[AuditEvent], cloud: &str) {
    let mut windows: BTreeMap<&str, (DateTime<Utc>, Option<DateTime<Utc>>)> = BTreeMap::new();
    for event in events.iter().filter(|event| event.action == "change.apply") {
        let Some(change) = event.subject.get("change").and_then(Value::as_str) else {
            continue;
        };
        if event.outcome == "intended" {
            windows.insert(change, (event.at, None));
        } else if let Some((_, outcome)) = windows.get_mut(change) {
            *outcome = Some(event.at);
        }
    }
    for change in changes.iter().filter(|change| is_ours(change)) {
        let covered = windows.values().any(|(from, to)| {
            *from <= change.at && to.is_none_or(|to| change.at <= to + TimeDelta::milliseconds(1))
        });
        assert!(
            covered,
            "{cloud}: {} on {} at {} was not announced",
            change.operation, change.resource, change.at
        );
    }
}

/// The fleet is built by the simulators' own builders; whatever comes over the wire in these tests is the server.
fn is_ours(change: &Change) -> bool {
    change.caller.contains("postern") || change.caller.contains(postern::demo::fleet::CLIENT_ID)
}

fn without_outcome(events: &[AuditEvent]) -> BTreeMap<String, &AuditEvent> {
    let mut open: BTreeMap<String, &AuditEvent> = BTreeMap::new();
    for event in events.iter().filter(|event| event.action == "change.apply") {
        let change = event
            .subject
            .get("change")
            .and_then(Value::as_str)
            .expect("a change event names its change");
        if event.outcome == "intended" {
            open.insert(change.to_owned(), event);
        } else {
            open.remove(change);
        }
    }
    open
}

fn assert_decisions_name_what_decided(events: &[AuditEvent]) {
    let decided = [
        "access_request.",
        "grant.revoke",
        "grant.end",
        "jit_policy.",
        "role_assignment.",
        "role.",
    ];
    for event in events
        .iter()
        .filter(|event| decided.iter().any(|prefix| event.action.starts_with(prefix)))
    {
        assert!(
            event
                .decision
                .as_ref()
                .is_some_and(|decision| !decision.is_null()),
            "no decision in {event:?}"
        );
    }
}

/// Without what a cloud makes anew with each write: the ids of security group rules; and without whether a machine runs,
/// and the address that it is lent for as long as it does. (Etags and provisioning states are not in the truth log.)
fn essence(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                // A rule that was revoked and authorized again has a new id; EC2 offers no way to get the old one.
                .filter(|(_, value)| !value.as_str().is_some_and(|text| text.starts_with("sgr-")))
                .filter(|(key, _)| !["power", "powerState", "transition", "lent_ip"].contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), essence(value)))
                .collect(),
        ),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(essence).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other.clone(),
    }
}
