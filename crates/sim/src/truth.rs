//! The truth log: every state change with its time, and what was reachable when, replayed from it.

use std::collections::{BTreeMap, BTreeSet};
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

    /// The resources that the answer hangs on, each with everything below it (`key` and `key/...`). Whatever else is
    /// in the world, comes or goes changes neither the answer nor this list, and neither does leaving it out. None
    /// where anything may matter.
    fn hangs_on(&self, _world: &World, _probe: &Probe) -> Option<Vec<String>> {
        None
    }
}

/// The log; clones share it. Kept whole in memory, and beside it what it comes to.
#[derive(Debug, Clone, Default)]
pub struct Truth(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    changes: Vec<Change>,
    /// After the last change.
    now: World,
    /// The places in `changes` of each resource's changes, ascending.
    places: BTreeMap<String, Vec<usize>>,
}

impl Log {
    fn push(&mut self, change: Change) {
        step(&mut self.now, &change);
        let place = self.changes.len();
        match self.places.get_mut(&change.resource) {
            Some(places) => places.push(place),
            None => {
                self.places.insert(change.resource.clone(), vec![place]);
            }
        }
        self.changes.push(change);
    }

    /// How many changes there were by then.
    fn until(&self, at: Moment) -> usize {
        self.changes.partition_point(|change| match at {
            Moment::Seq(seq) => change.seq <= seq,
            Moment::Time(time) => change.at <= time,
        })
    }

    /// The histories of a resource and everything below it.
    fn below<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [usize]> {
        let under = format!("{key}/");
        let end = under.clone();
        let children = self
            .places
            .range(under..)
            .take_while(move |(resource, _)| resource.starts_with(&end));
        self.places
            .get_key_value(key)
            .into_iter()
            .chain(children)
            .map(|(_, places)| places.as_slice())
    }

    /// What a probe hangs on after the first `until` changes, and nothing else. None where that is everything.
    fn part(&self, judge: &dyn Judge, probe: &Probe, until: usize) -> Option<World> {
        let mut world = World::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        loop {
            let found = judge.hangs_on(&world, probe)?;
            let new: Vec<String> = found
                .into_iter()
                .filter(|key| known.insert(key.clone()))
                .collect();
            if new.is_empty() {
                return Some(world);
            }
            for places in new.iter().flat_map(|key| self.below(key)) {
                let last = places.partition_point(|place| *place < until).checked_sub(1);
                let change = last
                    .and_then(|last| places.get(last))
                    .and_then(|place| self.changes.get(*place));
                if let Some(change) = change {
                    step(&mut world, change);
                }
            }
        }
    }

    /// The changes of whatever a probe ever hung on, oldest first. None where that is everything.
    fn relevant(&self, judge: &dyn Judge, probe: &Probe) -> Option<Vec<&Change>> {
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut places: BTreeSet<usize> = BTreeSet::new();
        loop {
            let mut found: BTreeSet<String> = judge.hangs_on(&World::new(), probe)?.into_iter().collect();
            let mut world = World::new();
            for change in places.iter().filter_map(|place| self.changes.get(*place)) {
                step(&mut world, change);
                found.extend(judge.hangs_on(&world, probe)?);
            }
            let new: Vec<String> = found
                .into_iter()
                .filter(|key| known.insert(key.clone()))
                .collect();
            if new.is_empty() {
                return Some(
                    places
                        .iter()
                        .filter_map(|place| self.changes.get(*place))
                        .collect(),
                );
            }
            places.extend(new.iter().flat_map(|key| self.below(key)).flatten());
        }
    }
}

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
            let seq = log.changes.last().map_or(1, |last| last.seq + 1);
            let at = log.changes.last().map_or(at, |last| last.at.max(at));
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
        log.changes.last().map_or(0, |last| last.seq)
    }

    /// The number of the last change; zero before the first.
    pub fn last(&self) -> u64 {
        self.lock().changes.last().map_or(0, |last| last.seq)
    }

    /// All changes, oldest first.
    pub fn all(&self) -> Vec<Change> {
        self.lock().changes.clone()
    }

    /// The changes numbered above `seq`, oldest first.
    pub fn since(&self, seq: u64) -> Vec<Change> {
        let log = self.lock();
        let skip = usize::try_from(seq).unwrap_or(usize::MAX);
        log.changes.iter().skip(skip).cloned().collect()
    }

    /// All resources as they stood at a moment; now where it is none.
    pub fn world(&self, at: Option<Moment>) -> World {
        let log = self.lock();
        if at.is_none() {
            return log.now.clone();
        }
        let mut world = World::new();
        for change in &log.changes {
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
        let log = self.lock();
        let Some(at) = at else {
            return judge.allows(&log.now, probe);
        };
        if let Some(part) = log.part(judge, probe, log.until(at)) {
            return judge.allows(&part, probe);
        }
        drop(log);
        judge.allows(&self.world(Some(at)), probe)
    }

    /// The spans in which a probe went through, oldest first. Changes at the same instant count as one.
    pub fn open_intervals(&self, judge: &dyn Judge, probe: &Probe) -> Vec<Interval> {
        let log = self.lock();
        let mut world = World::new();
        let mut intervals: Vec<Interval> = Vec::new();
        let relevant = log
            .relevant(judge, probe)
            .unwrap_or_else(|| log.changes.iter().collect());
        let mut changes = relevant.into_iter().peekable();
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

    fn lock(&self) -> MutexGuard<'_, Log> {
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
