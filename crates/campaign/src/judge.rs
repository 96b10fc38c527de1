//! Invariant 1, from the truth logs: nothing that we wrote lets a packet through without a grant.
//!
//! Two questions are asked of every state of a cloud. Of the state without our grants' rules: does it let in only what
//! the foreign rules alone would have at some time of the run (so that nothing left of a displaced rule, and no copy,
//! opens anything)? And where a packet gets in only through our grants' rules: was a grant live that covers it?

mod cut;
mod docket;
mod others;

use std::{collections::BTreeSet, net::IpAddr};

use chrono::{DateTime, Utc};
use cut::{Writers, cut};
pub use docket::{Docket, Times};
use others::{Led, OthersAtFirewalls};
use postern_sim::{
    arm::{ArmJudge, ParentsNat},
    ec2::GroupJudge,
    truth::{Change, Judge, Probe, Protocol, Truth, World},
};

use crate::{
    clouds::is_foreign,
    script::{PORTS, SOURCES},
    trail::Violation,
};

/// One cloud's logs: of the simulator that Postern guards, and of its twin.
pub struct Logs<'a> {
    /// The truth.
    pub real: &'a Truth,
    /// What foreign edits alone would have made of it.
    pub twin: &'a Truth,
    /// The cloud's machines.
    pub machines: &'a [String],
}

/// Judges Azure, in each way to read what is not known of it.
pub fn azure(logs: &Logs<'_>, docket: &Docket) -> Vec<Violation> {
    let mut violations = judge(logs, docket, &ArmJudge::default());
    if has_parents(logs.real) {
        let parents = ParentsNat::First;
        for mut violation in judge(logs, docket, &ArmJudge { parents }) {
            if !violations.iter().any(|known| known.what == violation.what) {
                violation
                    .what
                    .push_str("; where a parent policy's NAT rules come first");
                violations.push(violation);
            }
        }
    }
    violations
}

/// Whether a firewall policy inherited from another at some time.
fn has_parents(truth: &Truth) -> bool {
    let inherits = |change: &Change| {
        let is_policy = change.resource.contains("/firewallpolicies/");
        is_policy
            && change
                .after
                .as_ref()
                .is_some_and(|after| after.to_string().contains("\"basePolicy\""))
    };
    truth.all().iter().any(inherits)
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
    let mut others = OthersAtFirewalls::default();
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
        others.note(&change.resource);
        // Changes at the same instant are one.
        if changes.peek().is_some_and(|next| next.at == change.at) || is_building(change) {
            continue;
        }
        others.look(&world, &writers, &probes, inner, change.at);
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
            let uncovered = [change.at, until].map(|at| (!docket.covers(probe, at)).then_some(at));
            let uncovered: Vec<DateTime<Utc>> = uncovered.into_iter().flatten().collect();
            if uncovered.is_empty() {
                continue;
            }
            let led = others.led(number, probe, &world, inner);
            for at in uncovered {
                let excused = |led: &Led| {
                    docket.stood(probe, led.since, at) || led.widened && docket.lives(probe, led.since, at)
                };
                if !led.as_ref().is_some_and(|led| led.iter().all(excused)) {
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
    use postern_api::grant::Grant;
    use postern_core::inventory::MARK_TAG;
    use postern_sim::truth::Entry;
    use serde_json::{Value, json};

    use super::*;
    use crate::{edit::MARK, lag::Disturbances, trail::Skew};

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
        let times = Times {
            skew: Skew::of([0, 0]),
            disturbances: &Disturbances::default(),
            lag: TimeDelta::zero(),
            firewall: TimeDelta::zero(),
        };
        Docket::new(&[grant], &[], &times).unwrap()
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

    #[test]
    fn what_somebody_put_into_a_private_copy_is_theirs_and_what_we_put_there_is_ours() {
        for (caller, found) in [("root", 0), ("postern", 1)] {
            let log = log(&rule("sgr-1", "203.0.113.7/32"), "postern");
            let tags = json!({ MARK_TAG: format!("{MARK}copy=sg-1") });
            let copy = |rules: Value| json!({ "rules": rules, "tags": tags });
            put(&log, 39, "security-group/sg-3", copy(json!([])), "postern");
            let groups = json!({ "groups": ["sg-3"] });
            put(&log, 39, "network-interface/eni-1", groups, "postern");
            let wide = copy(json!([rule("sgr-3", "198.51.100.0/24")]));
            put(&log, 40, "security-group/sg-3", wide, caller);
            // The packet that the copy lets in is one that nobody else's rules ever would.
            assert_eq!(judged(&log, &grant(19, 90)).len(), found, "{caller}");
        }
    }
}
