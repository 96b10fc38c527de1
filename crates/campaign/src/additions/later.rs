//! Shapes that came after seeds had been kept with the first ones: rules for names, a second firewall, strangers who
//! write whole documents that they read earlier, and a policy that the firewall's policy inherits.

use std::collections::BTreeSet;

use super::Shape;
use crate::{
    draw::Dice,
    script::{
        ApplicationCollection, ApplicationRule, Cloud, Copying, Document, Edit, FirewallEdit, FirewallPlan,
        Script, Step,
    },
};

/// Adds those that are wanted. `stream` is what the first shapes' streams are numbered from.
pub(super) fn add(script: &mut Script, stream: u64, shapes: &BTreeSet<Shape>) {
    let mut streams = [4, 5, 6, 7].map(|number| Dice::of(stream.wrapping_add(number << 56)));
    let [second, applications, replays, parent] = &mut streams;
    if shapes.contains(&Shape::SecondFirewall) && script.firewall.is_some() {
        second.second_firewall(script);
    }
    if shapes.contains(&Shape::Applications) && script.firewall.is_some() {
        applications.applications(script);
    }
    if shapes.contains(&Shape::Replays) && !script.azure.machines.is_empty() {
        replays.replays(script);
    }
    if shapes.contains(&Shape::BasePolicy) {
        parent.base_policy(script);
    }
}

impl Dice {
    /// The other firewall is before the subnets that the first is not before, and perhaps before one that it is.
    fn second_firewall(&mut self, script: &mut Script) {
        let machines = script.azure.machines.len();
        let Some(first) = &mut script.firewall else { return };
        if self.chance(60) {
            // Of two subnets, each has its own.
            let last = self.below(2);
            for (number, routed) in first.routed.iter_mut().enumerate() {
                *routed &= number != last;
            }
        }
        let routed = first.routed.map(|routed| !routed);
        let collections = (0..=self.below(2))
            .map(|number| self.firewall_collection(format!("second-{number}"), machines))
            .collect();
        let policy = self.chance(50);
        script.second = Some(FirewallPlan {
            policy,
            routed,
            collections,
            applications: Vec::new(),
            parent: None,
            // One duration holds for all firewalls of a simulator.
            write_ms: first.write_ms,
        });
        for number in 0..self.between(4, 7) {
            let step = match self.below(10) {
                0..4 => {
                    let mut step = self.request(machines);
                    if let Step::Request { sources, .. } = &mut step {
                        self.reroute(sources);
                    }
                    step
                }
                4..8 => Step::Edit(Edit::SecondFirewall(self.firewall_edit(100 + number, machines))),
                _ => Step::Fault {
                    cloud: Cloud::Azure,
                    operation: if policy {
                        "FirewallPolicyRuleCollectionGroups.*"
                    } else {
                        "AzureFirewalls.*"
                    },
                    strikes: self.strikes(),
                    trouble: self.trouble(),
                    steps: 3,
                },
            };
            self.put(script, step);
        }
    }

    fn applications(&mut self, script: &mut Script) {
        let count = 1 + self.below(2);
        let collections = (0..count)
            .map(|number| {
                // Apart from each other and from the collections that are drawn elsewhere.
                let priority = 5000 + u16::try_from(number).unwrap_or_default();
                self.application_collection(format!("names-{number}"), priority)
            })
            .collect();
        match (&mut script.firewall, &mut script.second) {
            (_, Some(plan)) if self.chance(40) => plan.applications = collections,
            (Some(plan), _) => plan.applications = collections,
            _ => {}
        }
        for number in 0..self.between(2, 4) {
            let edit = if self.chance(60) {
                let priority = 6000 + u16::try_from(number).unwrap_or_default();
                let name = format!("names-edit-{number}");
                FirewallEdit::AddApplications(self.application_collection(name, priority))
            } else {
                FirewallEdit::DeleteApplications(self.below(12))
            };
            let edit = if script.second.is_some() && self.chance(40) {
                Edit::SecondFirewall(edit)
            } else {
                Edit::Firewall(edit)
            };
            self.put(script, Step::Edit(edit));
        }
    }

    fn application_collection(&mut self, name: String, priority: u16) -> ApplicationCollection {
        let rules = (0..=self.below(2))
            .map(|number| ApplicationRule {
                name: format!("{name}-rule-{number}"),
                source: self.pick(&["10.20.0.0/16", "10.20.0.0/16", "10.9.9.0/24", "*"], "*"),
                target: self.pick(&["packages.example.com", "packages.example.com", "*"], "*"),
                port: self.pick(&[443, 443, 8443], 443),
            })
            .collect();
        ApplicationCollection {
            name,
            denies: self.chance(25),
            priority,
            rules,
        }
    }

    fn base_policy(&mut self, script: &mut Script) {
        let machines = script.azure.machines.len();
        let Some(plan) = script.firewall.as_mut().filter(|plan| plan.policy) else {
            return;
        };
        let collections = (0..=self.below(2))
            .map(|number| self.firewall_collection(format!("above-{number}"), machines))
            .collect();
        plan.parent = Some(collections);
        for number in 0..self.between(6, 9) {
            let (a, b) = (self.below(12), self.below(12));
            let step = match self.below(12) {
                // There is something to copy only where something is open.
                0..3 => {
                    let mut step = self.request(machines);
                    if let Step::Request { sources, .. } = &mut step {
                        self.reroute(sources);
                    }
                    step
                }
                3..6 => Step::Edit(Edit::CopyOurs(Copying::All)),
                6..9 => Step::Edit(Edit::CopyOurs(Copying::One(a))),
                9 => {
                    let name = format!("above-edit-{number}");
                    let collection = self.firewall_collection(name, machines);
                    Step::Edit(Edit::Parent(FirewallEdit::AddCollection(collection)))
                }
                10 => Step::Edit(Edit::Parent(FirewallEdit::DeleteCollection(a))),
                _ => Step::Edit(Edit::Parent(FirewallEdit::Delete(a, b))),
            };
            self.put(script, step);
        }
        // Whatever was drawn: one copy is tried late.
        self.put(script, Step::Edit(Edit::CopyOurs(Copying::All)));
    }

    /// Each document is read at some step and written at a later one.
    fn replays(&mut self, script: &mut Script) {
        let policy = script.firewall.as_ref().map(|plan| plan.policy);
        for _ in 0..self.between(1, 3) {
            let document = match policy {
                Some(true) if self.chance(35) => Document::OurGroup,
                Some(_) if self.chance(50) => Document::Firewall,
                _ => Document::Nsg(self.below(script.azure.nsgs.len())),
            };
            let first = script.steps.len().min(2);
            let read = first + self.below(script.steps.len() - first + 1);
            let after = self.between(0, 300);
            script
                .steps
                .insert(read, (after, Step::Edit(Edit::Read(document))));
            // Something should happen in between.
            let apart = 2 + self.below(8);
            let write = (read + apart).min(script.steps.len());
            let after = self.between(0, 600);
            script
                .steps
                .insert(write, (after, Step::Edit(Edit::Replay(document))));
        }
    }
}
