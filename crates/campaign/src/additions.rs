//! What came to the scripts after seeds were kept for what they draw: machines behind an Azure Firewall, groups that
//! are shared and isolated from, later starts and extensions.
//!
//! Drawn from a stream of their own, so that [`Script::plain`] draws the same fleet and the same steps for a seed as
//! ever. Each shape changes a script as little as it can: steps are put between the others.

mod later;

use std::collections::BTreeSet;

use clap::ValueEnum;

use crate::{
    draw::Dice,
    script::{
        AwsFleet, AwsMachine, Cloud, Edit, FirewallAction, FirewallCollection, FirewallEdit, FirewallPlan,
        FirewallRule, Peer, PolicySpec, ScopeSpec, Script, Step,
    },
};

/// What the stream of the additions is told from the first one by.
const STREAM: u64 = 0x6669_7265_7761_6c6c;

/// A shape that a script may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Shape {
    /// An Azure Firewall with rules of its own before some machines.
    FirewallClassic,
    /// One whose rules are a policy's.
    FirewallPolicy,
    /// Instances that share a group, some of which isolate from it.
    Isolate,
    /// Grants that start later, and grants that are extended.
    Lifecycle,
    /// Rules for names at the firewall, where there is one.
    Applications,
    /// A firewall more, in another network.
    SecondFirewall,
    /// Strangers who write whole documents that they read earlier.
    Replays,
    /// A policy above the firewall's policy, where there is one, with rules of others and copies of ours.
    BasePolicy,
}

/// The shapes that there were when the first seeds were kept with shapes.
const FIRST: [Shape; 4] = [
    Shape::FirewallClassic,
    Shape::FirewallPolicy,
    Shape::Isolate,
    Shape::Lifecycle,
];

/// Which shapes scripts get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum With {
    /// Those that the seed says.
    Drawn,
    /// Those that the seed says of the first four: a seed means what it meant before there were more.
    First,
    /// None: a seed means what it meant before there were any.
    Nothing,
    /// These, and no others. Of the two kinds of firewall a script has one, by its seed where both are given.
    These(BTreeSet<Shape>),
}

impl Script {
    /// The script of a seed, with the shapes that are wanted.
    pub fn draw(seed: u64, with: &With) -> Self {
        let mut script = Self::plain(seed);
        let mut dice = Dice::of(seed ^ STREAM);
        // All are drawn always, so that what is forced for one leaves the others as they are.
        let drawn: BTreeSet<Shape> = [
            (Shape::FirewallClassic, dice.chance(22)),
            (Shape::FirewallPolicy, dice.chance(22)),
            (Shape::Isolate, dice.chance(30)),
            (Shape::Lifecycle, dice.chance(50)),
            // What is drawn above stays as it is; more is drawn below.
            (Shape::Applications, dice.chance(60)),
            (Shape::SecondFirewall, dice.chance(40)),
            (Shape::Replays, dice.chance(35)),
            (Shape::BasePolicy, dice.chance(45)),
        ]
        .into_iter()
        .filter_map(|(shape, is)| is.then_some(shape))
        .collect();
        let mut shapes = match with {
            With::Nothing => return script,
            With::Drawn => drawn,
            With::First => drawn.into_iter().filter(|shape| FIRST.contains(shape)).collect(),
            With::These(shapes) => shapes.clone(),
        };
        if shapes.contains(&Shape::FirewallClassic) && shapes.contains(&Shape::FirewallPolicy) {
            shapes.remove(if seed.is_multiple_of(2) {
                &Shape::FirewallClassic
            } else {
                &Shape::FirewallPolicy
            });
        }
        let mut streams = [1, 2, 3].map(|number| Dice::of((seed ^ STREAM).wrapping_add(number << 56)));
        let [isolate, firewall, lifecycle] = &mut streams;
        // First: it may add machines, and isolation counts them.
        let policy = shapes.contains(&Shape::FirewallPolicy);
        if policy || shapes.contains(&Shape::FirewallClassic) {
            firewall.firewall(&mut script, policy);
        }
        if shapes.contains(&Shape::Isolate) {
            isolate.isolate(&mut script);
        }
        if shapes.contains(&Shape::Lifecycle) {
            lifecycle.lifecycle(&mut script);
        }
        later::add(&mut script, seed ^ STREAM, &shapes);
        script
    }
}

const AZURE_FIREWALL_OPERATIONS: [&str; 3] = [
    "AzureFirewalls.*",
    "AzureFirewalls.CreateOrUpdate",
    "AzureFirewalls.Get",
];
const FIREWALL_POLICY_OPERATIONS: [&str; 4] = [
    "FirewallPolicyRuleCollectionGroups.*",
    "FirewallPolicyRuleCollectionGroups.CreateOrUpdate",
    "FirewallPolicyRuleCollectionGroups.Delete",
    "FirewallPolicies.*",
];
/// A client on a connected network: packets from there are routed through the firewall.
const ROUTED: &str = "10.9.9.9/32";

impl Dice {
    /// Puts a step between the others, after the first two, which make the first policy.
    pub(super) fn put(&mut self, script: &mut Script, step: Step) {
        let first = script.steps.len().min(2);
        let place = first + self.below(script.steps.len() - first + 1);
        let after = if self.chance(30) { 0 } else { self.between(0, 450) };
        script.steps.insert(place, (after, step));
    }

    fn firewall(&mut self, script: &mut Script, policy: bool) {
        if script.azure.machines.is_empty() {
            let machines = 1 + self.below(2);
            script.azure = self.azure(machines);
        }
        let machines = script.azure.machines.len();
        let mut routed = [0; 2].map(|_| self.chance(80));
        if let Some(machine) = script.azure.machines.first() {
            // Somebody is behind it.
            let own = self.chance(90);
            if let Some(routed) = routed.get_mut(machine.subnet) {
                *routed |= own;
            }
        }
        let collections = (0..=self.below(3))
            .map(|number| self.firewall_collection(format!("theirs-{number}"), machines))
            .collect();
        script.firewall = Some(FirewallPlan {
            policy,
            routed,
            collections,
            applications: Vec::new(),
            parent: None,
            write_ms: if self.chance(25) {
                0
            } else {
                self.between(100, 1500)
            },
        });
        // Those who ask come on both ways, and mostly need nobody's consent: they open more then.
        for (_, step) in &mut script.steps {
            match step {
                Step::Request { sources, .. } => self.reroute(sources),
                Step::CreatePolicy(policy) | Step::UpdatePolicy(_, policy) => self.agree(policy),
                _ => {}
            }
        }
        for number in 0..self.between(5, 10) {
            let step = match self.below(20) {
                0..8 => {
                    let mut step = self.request(machines);
                    if let Step::Request { sources, .. } = &mut step {
                        self.reroute(sources);
                    }
                    step
                }
                8..15 => Step::Edit(Edit::Firewall(self.firewall_edit(number, machines))),
                15..19 => {
                    let operations = if policy && self.chance(80) {
                        &FIREWALL_POLICY_OPERATIONS[..]
                    } else {
                        &AZURE_FIREWALL_OPERATIONS
                    };
                    Step::Fault {
                        cloud: Cloud::Azure,
                        operation: self.pick(operations, "*"),
                        strikes: self.strikes(),
                        trouble: self.trouble(),
                        steps: 3,
                    }
                }
                _ => {
                    let operation = if policy {
                        "FirewallPolicyRuleCollectionGroups.*"
                    } else {
                        "AzureFirewalls.CreateOrUpdate"
                    };
                    Step::FailCompletions(operation, self.between(1, 2))
                }
            };
            self.put(script, step);
        }
    }

    fn agree(&mut self, policy: &mut PolicySpec) {
        if self.chance(70) {
            policy.approval = "policy";
        }
    }

    pub(super) fn reroute(&mut self, sources: &mut Vec<&'static str>) {
        match self.below(10) {
            0 | 1 => *sources = vec![ROUTED],
            2 => sources.push(ROUTED),
            _ => {}
        }
    }

    fn firewall_rule(&mut self, name: String, machines: usize) -> FirewallRule {
        FirewallRule {
            name,
            source: self.pick(
                &[
                    "*",
                    "*",
                    "203.0.113.0/24",
                    "198.51.100.9",
                    "10.9.9.0/24",
                    "10.0.0.0/8",
                ],
                "*",
            ),
            machine: self.below(machines),
            port: self.pick(&[443, 443, 443, 8080, 23, 22, 3389, 5985], 443),
            mapped: self.pick(&[443, 2222, 50000, 50001, 50002], 443),
        }
    }

    pub(super) fn firewall_collection(&mut self, name: String, machines: usize) -> FirewallCollection {
        let action = match self.below(5) {
            0 | 1 => FirewallAction::Nat,
            2 | 3 => FirewallAction::Allow,
            _ => FirewallAction::Deny,
        };
        let priority = self.pick(&[100, 101, 102, 150, 200, 300, 1000, 2000], 300);
        let rules = (0..=self.below(2))
            .map(|number| self.firewall_rule(format!("{name}-rule-{number}"), machines))
            .collect();
        FirewallCollection {
            name,
            action,
            priority,
            rules,
        }
    }

    pub(super) fn firewall_edit(&mut self, number: u64, machines: usize) -> FirewallEdit {
        let (a, b) = (self.below(12), self.below(12));
        match self.below(14) {
            0 => FirewallEdit::AddCollection(self.firewall_collection(format!("edit-{number}"), machines)),
            1 | 2 => FirewallEdit::Add(a, self.firewall_rule(format!("edit-{number}"), machines)),
            3 => FirewallEdit::Delete(a, b),
            4 => FirewallEdit::DeleteCollection(a),
            5 => FirewallEdit::Reprioritize(a, self.pick(&[100, 101, 150, 400, 3000], 400)),
            6 => FirewallEdit::Touch(self.pick(&["Off", "Alert", "Deny"], "Off")),
            7 | 8 => FirewallEdit::WidenOurs(a),
            9 => FirewallEdit::TurnOurs(a),
            10 | 11 => FirewallEdit::DeleteOurs(a),
            12 => FirewallEdit::DropOurs,
            _ => FirewallEdit::ToggleRoute(a),
        }
    }

    /// All instances get one group, some isolate from it, and no policy reaches the last.
    fn isolate(&mut self, script: &mut Script) {
        let groups: Vec<_> = (0..2 + self.below(2))
            .map(|number: usize| {
                // A rule that names a group keeps its members from being isolated; most have none.
                let named = if self.chance(15) { number } else { 0 };
                (0..=self.below(3)).map(|_| self.sg_rule(named)).collect()
            })
            .collect();
        let others = groups.len().saturating_sub(1);
        let machines = (0..2 + self.below(2))
            .map(|_| {
                let mut interfaces = vec![vec![0]];
                for on in &mut interfaces {
                    if self.chance(50) {
                        on.push(1 + self.below(others));
                    }
                }
                if self.chance(20) {
                    interfaces.push(vec![1 + self.below(others)]);
                }
                AwsMachine {
                    interfaces,
                    prod: self.chance(60),
                }
            })
            .collect();
        script.aws = AwsFleet { groups, machines };
        script.isolates = true;
        let (azure, aws) = (script.azure.machines.len(), script.aws.machines.len());
        // The last instance is under no policy.
        let guarded = aws.saturating_sub(1);
        let mut on_azure = None;
        for (_, step) in &mut script.steps {
            let (Step::CreatePolicy(policy) | Step::UpdatePolicy(_, policy)) = step else {
                continue;
            };
            if azure > 0 && matches!(policy.scope, ScopeSpec::All) && on_azure.is_none() {
                on_azure = Some(PolicySpec {
                    scope: ScopeSpec::Azure,
                    shared_groups: "isolate",
                    ..policy.clone()
                });
            }
            let stays = match policy.scope {
                ScopeSpec::Azure => azure > 0,
                ScopeSpec::Machine(number) => number
                    .checked_rem(azure + aws)
                    .is_some_and(|number| number < azure),
                ScopeSpec::All | ScopeSpec::Aws => false,
            };
            if !stays {
                policy.scope = ScopeSpec::Machine(azure + self.below(guarded));
            }
            self.agree(policy);
            policy.shared_groups = if self.chance(85) { "isolate" } else { "refuse" };
        }
        if let Some(policy) = on_azure {
            script.steps.insert(0, (0, Step::CreatePolicy(policy)));
        }
        for _ in 0..self.between(2, 4) {
            let mut step = self.request(guarded);
            if let Step::Request { machines, .. } = &mut step {
                for machine in machines {
                    *machine += azure;
                }
            }
            self.put(script, step);
        }
        for _ in 0..self.below(3) {
            let (a, b) = (self.below(12), self.below(12));
            let edit = match self.below(5) {
                0 => Edit::SgDetachOurs(a),
                1 => Edit::SgToggle(a, b),
                2 => Edit::SgWidenOurs(a),
                3 => Edit::SgRevoke(0, b),
                _ => {
                    let mut rule = self.sg_rule(0);
                    if matches!(rule.from, Peer::List) {
                        rule.from = Peer::Range("203.0.113.0/24");
                    }
                    Edit::SgAdd(0, rule)
                }
            };
            self.put(script, Step::Edit(edit));
        }
    }

    fn lifecycle(&mut self, script: &mut Script) {
        for (_, step) in &mut script.steps {
            if let Step::Request { starts_in_ms, .. } = step
                && self.chance(15)
            {
                // A server whose clock is three seconds ahead takes a start that is nearer for a past one.
                *starts_in_ms = Some(i64::try_from(self.between(3200, 7000)).unwrap_or(5000));
            }
        }
        for _ in 0..=self.below(3) {
            let step = Step::Extend(self.below(12), self.pick(&[12, 14], 12));
            self.put(script, step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(script: &Script) -> String {
        serde_json::to_string(script).unwrap()
    }

    #[test]
    fn without_additions_a_seed_draws_what_it_always_drew() {
        for seed in 0..200 {
            let plain = Script::draw(seed, &With::Nothing);
            assert_eq!(text(&plain), text(&Script::plain(seed)));
            assert!(plain.firewall.is_none() && !plain.isolates);
        }
    }

    #[test]
    fn the_first_shapes_alone_draw_what_they_drew_before_there_were_more() {
        // Of the seeds that were kept with the first shapes; the draws' lengths stand for the draws.
        let steps = |seed| Script::draw(seed, &With::First).steps.len();
        assert_eq!([128, 645, 774, 824].map(steps), [30, 29, 30, 36]);
        for seed in 0..200 {
            let script = Script::draw(seed, &With::First);
            assert!(script.second.is_none());
            assert!(
                script
                    .firewall
                    .is_none_or(|plan| plan.applications.is_empty() && plan.parent.is_none())
            );
        }
    }

    #[test]
    fn later_shapes_are_drawn_and_can_be_forced() {
        let drawn: Vec<Script> = (0..200).map(|seed| Script::draw(seed, &With::Drawn)).collect();
        let count = |has: &dyn Fn(&Script) -> bool| drawn.iter().filter(|script| has(script)).count();
        let names = |script: &Script| {
            let mut plans = script.firewall.iter().chain(&script.second);
            plans.any(|plan| !plan.applications.is_empty())
        };
        let replays = |script: &Script| {
            let mut steps = script.steps.iter();
            steps.any(|(_, step)| matches!(step, Step::Edit(Edit::Replay(_))))
        };
        assert!(count(&names) > 20);
        assert!(count(&|script| script.second.is_some()) > 20);
        assert!(count(&replays) > 20);
        let inherits = |script: &Script| {
            let copies = |(_, step): &(u64, Step)| matches!(step, Step::Edit(Edit::CopyOurs(_)));
            script.firewall.as_ref().is_some_and(|plan| plan.parent.is_some())
                && script.steps.iter().any(copies)
        };
        assert!(count(&inherits) > 10);
        let forced = With::These([Shape::FirewallPolicy, Shape::BasePolicy].into());
        assert!((0..100).all(|seed| inherits(&Script::draw(seed, &forced))));
        let forced = With::These(
            [
                Shape::FirewallClassic,
                Shape::Applications,
                Shape::SecondFirewall,
                Shape::Replays,
            ]
            .into(),
        );
        for seed in 0..100 {
            let script = Script::draw(seed, &forced);
            assert!(
                names(&script) && replays(&script) && script.second.is_some(),
                "{seed}"
            );
        }
    }

    #[test]
    fn every_shape_is_drawn_and_can_be_forced() {
        let drawn: Vec<Script> = (0..200).map(|seed| Script::draw(seed, &With::Drawn)).collect();
        for policy in [false, true] {
            let of = |script: &&Script| script.firewall.as_ref().is_some_and(|plan| plan.policy == policy);
            assert!(drawn.iter().filter(of).count() > 20);
        }
        assert!(drawn.iter().filter(|script| script.isolates).count() > 30);
        let forced = With::These([Shape::FirewallPolicy, Shape::Isolate].into());
        for seed in 0..100 {
            let script = Script::draw(seed, &forced);
            assert!(script.isolates && script.firewall.is_some_and(|plan| plan.policy));
            assert!(!script.azure.machines.is_empty());
        }
    }

    #[test]
    fn where_instances_isolate_the_last_is_under_no_policy() {
        let forced = With::These([Shape::Isolate].into());
        for seed in 0..100 {
            let script = Script::draw(seed, &forced);
            let all = script.azure.machines.len() + script.aws.machines.len();
            for (_, step) in &script.steps {
                let (Step::CreatePolicy(policy) | Step::UpdatePolicy(_, policy)) = step else {
                    continue;
                };
                match policy.scope {
                    ScopeSpec::Azure => {}
                    ScopeSpec::Machine(number) => assert_ne!(number % all, all - 1, "{seed}"),
                    ScopeSpec::All | ScopeSpec::Aws => panic!("{seed}: {policy:?}"),
                }
            }
        }
    }
}
