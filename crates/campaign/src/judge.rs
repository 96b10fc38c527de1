//! Invariant 1, from the truth logs: nothing that we wrote lets a packet through without a grant.
//!
//! Two questions are asked of every state of a cloud. Of the state without our grants' rules: does it let in only what
//! the foreign rules alone would have at some time of the run (so that nothing left of a displaced rule, and no copy,
//! opens anything)? And where a packet gets in only through our grants' rules: was a grant live that covers it?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use postern_api::grant::Grant;
use postern_core::{inventory::MARK_TAG, net::Ports};
use postern_sim::{
    arm::ArmJudge,
    ec2::GroupJudge,
    truth::{Change, Judge, Probe, Protocol, Truth, World},
};
use serde_json::Value;

use crate::{
    clouds::is_foreign,
    edit::MARK,
    lag::Disturbances,
    script::{PORTS, SOURCES},
    trail::{Skew, Violation},
};

/// When a grant's rules may stand.
#[derive(Debug, Clone)]
struct Live {
    id: String,
    machine: String,
    ports: Vec<Ports>,
    sources: Vec<IpNet>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// What packets are judged by.
#[derive(Debug)]
pub struct Docket {
    grants: Vec<Live>,
}

impl Docket {
    /// From the grants as they stand at the end. `lag` is how long a describe of the cloud may lag behind: until then
    /// a reading may have confirmed what is not yet so.
    pub fn new(
        grants: &[Grant],
        skew: Skew,
        disturbances: &Disturbances,
        lag: chrono::TimeDelta,
    ) -> anyhow::Result<Self> {
        let mut live = Vec::new();
        for grant in grants {
            let closing = grant
                .ended_at
                .map(|ended| disturbances.deadline(skew.latest(ended)));
            let confirmed = grant.closed_at.map(|closed| skew.latest(closed) + lag);
            let to = [closing, confirmed].into_iter().flatten().min();
            live.push(Live {
                id: grant.id.clone(),
                machine: grant.machine.clone(),
                ports: grant
                    .ports
                    .iter()
                    .map(|ports| ports.parse())
                    .collect::<Result<_, _>>()?,
                sources: grant
                    .sources
                    .iter()
                    .map(|source| source.parse())
                    .collect::<Result<_, _>>()?,
                from: skew.earliest(grant.created_at),
                to: to.unwrap_or(DateTime::<Utc>::MAX_UTC),
            });
        }
        Ok(Self { grants: live })
    }

    /// Whether a grant covers the packet at an instant.
    fn covers(&self, probe: &Probe, at: DateTime<Utc>) -> bool {
        self.grants.iter().any(|grant| {
            grant.from <= at
                && at < grant.to
                && grant.machine.eq_ignore_ascii_case(&probe.machine)
                && grant
                    .ports
                    .iter()
                    .any(|ports| ports.first() <= probe.port && probe.port <= ports.last())
                && grant.sources.iter().any(|source| source.contains(&probe.source))
        })
    }

    /// The grants on the packet's machine, in words.
    fn about(&self, probe: &Probe) -> Vec<String> {
        self.grants
            .iter()
            .filter(|grant| grant.machine.eq_ignore_ascii_case(&probe.machine))
            .map(|grant| {
                let Live {
                    id,
                    ports,
                    sources,
                    from,
                    to,
                    ..
                } = grant;
                format!("{id} for {ports:?} from {sources:?}, {from} to {to}")
            })
            .collect()
    }
}

/// Who last wrote each rule: ARM's rules are resources of their own, EC2's are parts of a group.
#[derive(Default)]
struct Writers {
    foreign: BTreeSet<String>,
}

impl Writers {
    fn note(&mut self, change: &Change) {
        let foreign = is_foreign(&change.caller);
        let mut wrote = |key: String| {
            if foreign {
                self.foreign.insert(key);
            } else {
                self.foreign.remove(&key);
            }
        };
        if change.cloud == "azure" {
            // What is only asked for, such as a deletion under way, is not written yet.
            if change.before.as_ref().map(in_force) != change.after.as_ref().map(in_force) {
                wrote(change.resource.clone());
            }
            return;
        }
        let before = rules(change.before.as_ref());
        for (id, rule) in rules(change.after.as_ref()) {
            if before.get(id) != Some(&rule) {
                wrote(id.to_owned());
            }
        }
    }
}

fn rules(group: Option<&Value>) -> BTreeMap<&str, &Value> {
    group
        .and_then(|group| group.get("rules")?.as_array())
        .into_iter()
        .flatten()
        .filter_map(|rule| Some((rule.get("id")?.as_str()?, rule)))
        .collect()
}

/// A state without the allowing rules of ours; with `edited`, also without those of ours that somebody edited since.
fn cut(world: &World, writers: &Writers, edited: bool) -> World {
    let taken = |key: &str| edited || !writers.foreign.contains(key);
    world
        .iter()
        .filter_map(|(key, value)| {
            if is_our_allow(value) {
                return (!taken(key)).then(|| (key.clone(), value.clone()));
            }
            if !is_holder(value) {
                return Some((key.clone(), value.clone()));
            }
            let mut group = value.clone();
            if let Some(rules) = group.get_mut("rules").and_then(Value::as_array_mut) {
                rules.retain(|rule| !rule.get("id").and_then(Value::as_str).is_some_and(taken));
            }
            Some((key.clone(), group))
        })
        .collect()
}

/// An NSG rule in force that carries our mark and allows.
fn is_our_allow(value: &Value) -> bool {
    let text = |member: &str| in_force(value).and_then(|rule| rule.get(member)?.as_str());
    text("description").is_some_and(|text| text.starts_with(MARK))
        && text("access").is_some_and(|access| access.eq_ignore_ascii_case("allow"))
}

fn in_force(value: &Value) -> Option<&Value> {
    value.get("inForce").or_else(|| value.get("properties"))
}

/// A security group of ours that holds grants' rules.
fn is_holder(value: &Value) -> bool {
    value
        .get("tags")
        .and_then(|tags| tags.get(MARK_TAG)?.as_str())
        .is_some_and(|mark| mark == format!("{MARK}holder"))
}

/// One cloud's logs: of the simulator that Postern guards, and of its twin.
pub struct Logs<'a> {
    /// The truth.
    pub real: &'a Truth,
    /// What foreign edits alone would have made of it.
    pub twin: &'a Truth,
    /// The cloud's machines.
    pub machines: &'a [String],
}

/// Judges Azure.
pub fn azure(logs: &Logs<'_>, docket: &Docket) -> Vec<Violation> {
    judge(logs, docket, &ArmJudge)
}

/// Judges AWS.
pub fn aws(logs: &Logs<'_>, docket: &Docket) -> Vec<Violation> {
    judge(logs, docket, &GroupJudge)
}

fn probes(machines: &[String]) -> Vec<Probe> {
    let sources: Vec<IpAddr> = SOURCES.iter().filter_map(|source| source.parse().ok()).collect();
    machines
        .iter()
        .flat_map(|machine| {
            sources.iter().flat_map(move |source| {
                PORTS.map(|port| Probe {
                    machine: machine.clone(),
                    source: *source,
                    port,
                    protocol: Protocol::Tcp,
                })
            })
        })
        .collect()
}

fn judge(logs: &Logs<'_>, docket: &Docket, inner: &dyn Judge) -> Vec<Violation> {
    let probes = probes(logs.machines);
    let ever = ever_let_in(logs.twin, &probes, inner);
    let (mut world, mut writers) = (World::new(), Writers::default());
    let mut violations = Vec::new();
    let mut told = BTreeSet::new();
    let changes = logs.real.all();
    let mut changes = changes.iter().peekable();
    while let Some(change) = changes.next() {
        match &change.after {
            Some(after) => world.insert(change.resource.clone(), after.clone()),
            None => world.remove(&change.resource),
        };
        writers.note(change);
        // Changes at the same instant are one.
        if changes.peek().is_some_and(|next| next.at == change.at) || is_building(change) {
            continue;
        }
        let (bare, without) = (cut(&world, &writers, true), cut(&world, &writers, false));
        let granted = without != world;
        for (number, probe) in probes.iter().enumerate() {
            let mut note = |kind: u8, what: String| {
                // The first of each kind says it.
                if told.insert((kind, number)) {
                    violations.push(Violation::new(1, what));
                }
            };
            if !ever.contains(&number) && inner.allows(&bare, probe) {
                note(
                    0,
                    format!(
                        "{} lets {} in at {} since {} at {} (change {}), by no rule of a grant, and nobody else's \
                         rules ever would",
                        probe.machine, probe.source, probe.port, change.operation, change.at, change.seq
                    ),
                );
            }
            if !granted || !inner.allows(&world, probe) || inner.allows(&without, probe) {
                continue;
            }
            // Open from here until the next state: both ends must be covered.
            let until = changes.peek().map_or(change.at, |next| next.at);
            for at in [change.at, until] {
                if !docket.covers(probe, at) {
                    note(
                        1,
                        format!(
                            "{} lets {} in at {} at {at} by a rule of ours (after {} as change {}); grants: {:?}",
                            probe.machine,
                            probe.source,
                            probe.port,
                            change.operation,
                            change.seq,
                            docket.about(probe)
                        ),
                    );
                }
            }
        }
    }
    violations
}

/// Fleets are built before anybody guards them.
fn is_building(change: &Change) -> bool {
    change.before.is_none()
        && is_foreign(&change.caller)
        && !change.operation.ends_with("Rules.CreateOrUpdate")
}

/// The probes that the foreign rules let in at some time.
fn ever_let_in(twin: &Truth, probes: &[Probe], inner: &dyn Judge) -> BTreeSet<usize> {
    let mut world = World::new();
    let mut ever = BTreeSet::new();
    for change in twin.all() {
        match change.after {
            Some(after) => world.insert(change.resource, after),
            None => world.remove(&change.resource),
        };
        for (number, probe) in probes.iter().enumerate() {
            if !ever.contains(&number) && inner.allows(&world, probe) {
                ever.insert(number);
            }
        }
    }
    ever
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use postern_sim::truth::Entry;
    use serde_json::json;

    use super::*;

    const MACHINE: &str = "arn:aws:ec2:eu-west-1:111122223333:instance/i-1";
    const BASE: &str = "arn:aws:ec2:eu-west-1:111122223333:";

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn put(truth: &Truth, second: i64, resource: &str, after: Value, caller: &str) {
        let resource = format!("{BASE}{resource}");
        let before = truth.world(None).get(&resource).cloned();
        truth.record([Entry {
            at: at(second),
            cloud: "aws",
            operation: "Op".to_owned(),
            resource,
            before,
            after: Some(after),
            request_id: "r".to_owned(),
            caller: caller.to_owned(),
        }]);
    }

    fn rule(id: &str, range: &str) -> Value {
        json!({
            "id": id, "egress": false, "protocol": "tcp", "from_port": 22, "to_port": 22,
            "peer": { "cidr_v4": range },
        })
    }

    /// An instance whose one interface has a foreign group without rules and one of ours with `ours`.
    fn log(ours: &Value, caller: &str) -> Truth {
        let truth = Truth::default();
        let groups = json!(["sg-1", "sg-2"]);
        put(
            &truth,
            1,
            "instance/i-1",
            json!({ "interfaces": ["eni-1"] }),
            "root",
        );
        put(
            &truth,
            1,
            "network-interface/eni-1",
            json!({ "groups": groups }),
            "root",
        );
        put(
            &truth,
            1,
            "security-group/sg-1",
            json!({ "rules": [], "tags": {} }),
            "root",
        );
        let holder = json!({ "rules": [], "tags": { MARK_TAG: format!("{MARK}holder") } });
        put(&truth, 2, "security-group/sg-2", holder, "postern");
        let holder = json!({ "rules": [ours], "tags": { MARK_TAG: format!("{MARK}holder") } });
        put(&truth, 20, "security-group/sg-2", holder, caller);
        put(
            &truth,
            30,
            "security-group/sg-1",
            json!({ "rules": [], "tags": { "a": "b" } }),
            "root",
        );
        truth
    }

    fn grant(created: i64, ended: i64) -> Docket {
        let grant: Grant = serde_json::from_value(json!({
            "id": "grt_1", "request_id": "req_1", "policy_id": "pol_1", "requester": "user:demo/ada",
            "machine": MACHINE, "ports": ["22/tcp"], "sources": ["203.0.113.7/32"], "duration_seconds": 10,
            "status": "closed", "truth": "", "created_at": at(created), "not_after": at(ended),
            "ended_at": at(ended), "hops": [],
        }))
        .unwrap();
        Docket::new(
            &[grant],
            Skew::of([0, 0]),
            &Disturbances::default(),
            TimeDelta::zero(),
        )
        .unwrap()
    }

    fn judged(log: &Truth, docket: &Docket) -> Vec<Violation> {
        let logs = Logs {
            real: log,
            twin: &Truth::default(),
            machines: &[MACHINE.to_owned()],
        };
        aws(&logs, docket)
    }

    #[test]
    fn a_packet_under_a_live_grant_is_right_and_one_before_or_long_after_it_is_not() {
        let log = log(&rule("sgr-1", "203.0.113.7/32"), "postern");
        assert_eq!(judged(&log, &grant(19, 31)), []);
        assert_eq!(judged(&log, &grant(19, 26)), [], "within the lag");
        assert_eq!(judged(&log, &grant(21, 31)).len(), 1);
        assert_eq!(judged(&log, &grant(19, 22)).len(), 1);
    }

    #[test]
    fn a_rule_wider_than_its_grant_is_noticed() {
        let log = log(&rule("sgr-1", "203.0.113.0/28"), "postern");
        assert_eq!(judged(&log, &grant(19, 31)).len(), 1, "203.0.113.5 has no grant");
    }

    #[test]
    fn what_somebody_else_put_into_a_group_of_ours_is_not_our_doing() {
        let log = log(&rule("sgr-1", "0.0.0.0/0"), "root");
        assert_eq!(judged(&log, &grant(50, 60)), []);
    }

    #[test]
    fn what_is_left_of_a_displaced_rule_opens_nothing_that_was_closed() {
        let log = log(&rule("sgr-1", "203.0.113.7/32"), "postern");
        let residual = json!({ "rules": [rule("sgr-2", "198.51.100.0/24")], "tags": {} });
        put(&log, 40, "security-group/sg-1", residual, "postern");
        assert_eq!(judged(&log, &grant(19, 90)).len(), 1);
    }
}
