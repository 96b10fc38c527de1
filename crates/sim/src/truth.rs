//! The truth log: every state change with its time, and what was reachable when, replayed from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One state change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its place in the log, from 1, without gaps.
    pub seq: u64,
    /// When the state changed. Never earlier than the entry before it.
    pub at: DateTime<Utc>,
    /// `aws` or `azure`.
    pub cloud: String,
    /// The operation that made it; a change that time alone made carries the operation that began it.
    pub operation: String,
    /// The resource: an ARN, or an ARM id in lower case.
    pub resource: String,
    /// The whole resource before; none where it is new.
    pub before: Option<Value>,
    /// The whole resource after; none where it is gone.
    pub after: Option<Value>,
    /// The request that made it, as told to the client.
    pub request_id: String,
    /// Who called.
    pub caller: String,
}

/// A change to be written down; the log adds its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// See [`Change::at`]; taken as the time of the last entry where it is earlier.
    pub at: DateTime<Utc>,
    /// See [`Change::cloud`].
    pub cloud: &'static str,
    /// See [`Change::operation`].
    pub operation: String,
    /// See [`Change::resource`].
    pub resource: String,
    /// See [`Change::before`].
    pub before: Option<Value>,
    /// See [`Change::after`].
    pub after: Option<Value>,
    /// See [`Change::request_id`].
    pub request_id: String,
    /// See [`Change::caller`].
    pub caller: String,
}

/// All resources at one moment, by [`Change::resource`].
pub type World = BTreeMap<String, Value>;

/// A transport protocol to ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A question: would a packet from there reach this port?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The machine: an instance's ARN or id, or an ARM id in any case.
    pub machine: String,
    /// The address that the packet comes from.
    pub source: IpAddr,
    /// The destination port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Right after the change with this number.
    Seq(u64),
    /// Right after the last change at or before this instant.
    Time(DateTime<Utc>),
}

/// A span in which a probe went through: from its start, inclusive, to its end, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// When it opened.
    pub from: DateTime<Utc>,
    /// When it closed; none while it is open.
    pub to: Option<DateTime<Utc>>,
}

/// Decides a probe from one cloud's resources. Each cloud brings its own. It must not touch the log: that is
/// locked while it is asked.
pub trait Judge: Send + Sync {
    /// Whether the packet gets through. A machine that is not there is not reachable.
    fn allows(&self, world: &World, probe: &Probe) -> bool;
}

/// The log; clones share it. Kept whole in memory.
#[derive(Debug, Clone, Default)]
pub struct Truth(Arc<Mutex<Vec<Change>>>);

impl Truth {
    /// Writes changes down, together: no reader sees a part of them. Gives the number of the last.
    pub fn record(&self, entries: impl IntoIterator<Item = Entry>) -> u64 {
        let mut log = self.lock();
        for entry in entries {
            let Entry {
                at,
                cloud,
                operation,
                resource,
                before,
                after,
                request_id,
                caller,
            } = entry;
            let seq = log.last().map_or(1, |last| last.seq + 1);
            let at = log.last().map_or(at, |last| last.at.max(at));
            let cloud = cloud.to_owned();
            log.push(Change {
                seq,
                at,
                cloud,
                operation,
                resource,
                before,
                after,
                request_id,
                caller,
            });
        }
        log.last().map_or(0, |last| last.seq)
    }

    /// The number of the last change; zero before the first.
    pub fn last(&self) -> u64 {
        self.lock().last().map_or(0, |last| last.seq)
    }

    /// All changes, oldest first.
    pub fn all(&self) -> Vec<Change> {
        self.lock().clone()
    }

    /// The changes numbered above `seq`, oldest first.
    pub fn since(&self, seq: u64) -> Vec<Change> {
        let log = self.lock();
        let skip = usize::try_from(seq).unwrap_or(usize::MAX);
        log.iter().skip(skip).cloned().collect()
    }

    /// All resources as they stood at a moment; now where it is none.
    pub fn world(&self, at: Option<Moment>) -> World {
        let mut world = World::new();
        for change in self.lock().iter() {
            match at {
                Some(Moment::Seq(seq)) if change.seq > seq => break,
                Some(Moment::Time(time)) if change.at > time => break,
                _ => step(&mut world, change),
            }
        }
        world
    }

    /// Whether a probe went through at a moment; now where it is none.
    pub fn reachable(&self, judge: &dyn Judge, probe: &Probe, at: Option<Moment>) -> bool {
        judge.allows(&self.world(at), probe)
    }

    /// The spans in which a probe went through, oldest first. Changes at the same instant count as one.
    pub fn open_intervals(&self, judge: &dyn Judge, probe: &Probe) -> Vec<Interval> {
        let log = self.lock();
        let mut world = World::new();
        let mut intervals: Vec<Interval> = Vec::new();
        let mut changes = log.iter().peekable();
        while let Some(change) = changes.next() {
            step(&mut world, change);
            if changes.peek().is_some_and(|next| next.at == change.at) {
                continue;
            }
            let open = judge.allows(&world, probe);
            match intervals.last_mut().filter(|last| last.to.is_none()) {
                Some(last) if !open => last.to = Some(change.at),
                None if open => intervals.push(Interval {
                    from: change.at,
                    to: None,
                }),
                _ => {}
            }
        }
        intervals
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Change>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn step(world: &mut World, change: &Change) {
    match &change.after {
        Some(after) => world.insert(change.resource.clone(), after.clone()),
        None => world.remove(&change.resource),
    };
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;

    struct OpenFlag;

    impl Judge for OpenFlag {
        fn allows(&self, world: &World, probe: &Probe) -> bool {
            world
                .get(&probe.machine)
                .is_some_and(|machine| machine["open"] == json!(true))
        }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn entry(second: i64, resource: &str, after: Option<Value>) -> Entry {
        Entry {
            at: at(second),
            cloud: "aws",
            operation: "Op".to_owned(),
            resource: resource.to_owned(),
            before: None,
            after,
            request_id: "r".to_owned(),
            caller: "c".to_owned(),
        }
    }

    fn probe() -> Probe {
        Probe {
            machine: "m".to_owned(),
            source: [203, 0, 113, 7].into(),
            port: 22,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn intervals_follow_the_changes_and_the_last_may_stay_open() {
        let truth = Truth::default();
        truth.record([
            entry(1, "m", Some(json!({"open": false}))),
            entry(2, "m", Some(json!({"open": true}))),
            entry(3, "other", Some(json!({"open": true}))),
            entry(4, "m", Some(json!({"open": false}))),
            entry(6, "m", Some(json!({"open": true}))),
        ]);
        let spans = truth.open_intervals(&OpenFlag, &probe());
        assert_eq!(
            spans,
            [
                Interval {
                    from: at(2),
                    to: Some(at(4))
                },
                Interval {
                    from: at(6),
                    to: None
                }
            ]
        );
    }

    #[test]
    fn a_moment_is_named_by_number_or_by_time() {
        let truth = Truth::default();
        truth.record([entry(1, "m", Some(json!({"open": true}))), entry(5, "m", None)]);
        assert!(truth.reachable(&OpenFlag, &probe(), Some(Moment::Seq(1))));
        assert!(truth.reachable(&OpenFlag, &probe(), Some(Moment::Time(at(4)))));
        assert!(!truth.reachable(&OpenFlag, &probe(), Some(Moment::Time(at(0)))));
        assert!(!truth.reachable(&OpenFlag, &probe(), None));
        assert_eq!(truth.since(1).len(), 1);
    }

    #[test]
    fn time_never_runs_backwards_in_the_log() {
        let truth = Truth::default();
        truth.record([entry(5, "m", None)]);
        assert_eq!(truth.record([entry(3, "m", None)]), 2);
        assert_eq!(truth.all()[1].at, at(5));
    }
}
