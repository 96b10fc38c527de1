//! Readings that do not show yet what was written.
//!
//! EC2 is eventually consistent: a describe may tell of a moment before a write that was answered already (Amazon
//! EC2 Developer Guide, "Eventual consistency"). What is planned then goes by what was written as well, so that
//! nothing is written twice and a grant that is revoked at once finds its holder; and nothing is confirmed, until a
//! reading shows it all.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Change, Desired, Evidence, Observed, Plan, Print},
    id::GrantId,
    inventory::copied_from,
    preview::Filters,
    sg::{SecurityGroup, SgRule},
};
use serde_json::Value;

use super::{
    group::ObservedGroup,
    instance::{Copied, ObservedInstance},
    rule::Content,
};

/// The effect of one write that EC2 said is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// A group was made, and has the rules that EC2 gives to a new one.
    Made(SecurityGroup),
    /// A group was deleted.
    Deleted {
        /// Which.
        group: String,
    },
    /// Egress rules were taken out of a group.
    EgressRevoked {
        /// Of which group.
        group: String,
        /// Which.
        rules: Vec<SgRule>,
    },
    /// Egress rules were put into a group, or stood there already.
    EgressAuthorized {
        /// Into which group.
        group: String,
        /// Which.
        rules: Vec<SgRule>,
    },
    /// Ingress rules were put into a group, or stood there already.
    Authorized {
        /// Into which group.
        group: String,
        /// Which.
        rules: Vec<SgRule>,
    },
    /// Ingress rules were taken out of a group.
    Revoked {
        /// Of which group.
        group: String,
        /// Which.
        rules: Vec<SgRule>,
    },
    /// Ingress rules got other descriptions.
    Described {
        /// Of which group.
        group: String,
        /// The rules with their new descriptions.
        rules: Vec<SgRule>,
    },
    /// A group was put on an interface.
    Attached {
        /// Which interface.
        interface: String,
        /// Which group.
        group: String,
    },
    /// A group was taken off an interface.
    Detached {
        /// Which interface.
        interface: String,
        /// Which group.
        group: String,
    },
}

impl Written {
    /// Whether the two together may leave things as they were before.
    pub fn takes_back(&self, earlier: &Self) -> bool {
        let overlap = |one: &[SgRule], other: &[SgRule]| {
            one.iter()
                .any(|rule| other.iter().any(|other| Content::of(rule) == Content::of(other)))
        };
        match (self, earlier) {
            (Self::Deleted { group }, Self::Made(made)) => *group == made.id,
            (
                Self::Attached { interface, group },
                Self::Detached {
                    interface: i,
                    group: g,
                },
            )
            | (
                Self::Detached { interface, group },
                Self::Attached {
                    interface: i,
                    group: g,
                },
            ) => interface == i && group == g,
            (Self::Authorized { group, rules }, Self::Revoked { group: g, rules: r })
            | (Self::Revoked { group, rules }, Self::Authorized { group: g, rules: r })
            | (Self::EgressAuthorized { group, rules }, Self::EgressRevoked { group: g, rules: r })
            | (Self::EgressRevoked { group, rules }, Self::EgressAuthorized { group: g, rules: r })
            | (Self::Described { group, rules }, Self::Described { group: g, rules: r }) => {
                group == g && overlap(rules, r)
            }
            _ => false,
        }
    }
}

/// A state as read that writes can be carried forward to.
pub trait Carry: Observed + Clone {
    /// The state with the effects of `written`, in their order.
    #[must_use]
    fn with(&self, written: &[Written]) -> Self;

    /// Whether the two say the same, leaving aside ids that EC2 gives and the order in which it shows things.
    fn agrees(&self, other: &Self) -> bool;
}

/// A state as read, and as it should be after what was written.
#[derive(Debug)]
pub struct Reading<T> {
    read: T,
    carried: T,
    settled: bool,
}

impl<T: Carry> Reading<T> {
    /// What `read` is, given what was written before.
    pub fn new(read: T, written: &[Written]) -> Self {
        let carried = read.with(written);
        Self {
            settled: read.agrees(&carried),
            read,
            carried,
        }
    }
}

impl<T: Carry> Observed for Reading<T> {
    fn plan(&self, desired: &Desired) -> Plan {
        if self.settled {
            return self.read.plan(desired);
        }
        Plan {
            settled: Vec::new(),
            ..self.carried.plan(desired)
        }
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let read = self.read.evidence(desired);
        if self.settled {
            return read;
        }
        let mut evidence = self.carried.evidence(desired);
        evidence.extend(read);
        for evidence in evidence.values_mut() {
            evidence.complete = false;
        }
        evidence
    }

    fn shows(&self, before: Option<&Value>, operation: &Value) -> Option<bool> {
        self.settled.then(|| self.read.shows(before, operation)).flatten()
    }

    fn snapshot(&self) -> Value {
        self.read.snapshot()
    }

    fn filters(&self, changes: &[Change]) -> Option<Filters> {
        self.carried.filters(changes)
    }

    fn print(&self) -> Option<Print> {
        self.settled.then(|| self.read.print()).flatten()
    }

    fn settled(&self) -> bool {
        self.settled
    }

    fn lags(&self) -> bool {
        !self.settled
    }
}

/// The contents of rules with their descriptions.
fn contents(rules: &[SgRule]) -> BTreeSet<(Content, Option<&String>)> {
    rules
        .iter()
        .map(|rule| (Content::of(rule), rule.description.as_ref()))
        .collect()
}

fn same_group(one: &SecurityGroup, other: &SecurityGroup) -> bool {
    one.id == other.id
        && contents(&one.ingress) == contents(&other.ingress)
        && contents(&one.egress) == contents(&other.egress)
}

fn put_in(standing: &mut Vec<SgRule>, rules: &[SgRule]) {
    for rule in rules {
        let content = Content::of(rule);
        if !standing.iter().any(|standing| Content::of(standing) == content) {
            standing.push(SgRule {
                id: None,
                ..rule.clone()
            });
        }
    }
}

fn carry(group: &mut SecurityGroup, written: &Written) {
    match written {
        Written::EgressAuthorized { group: of, rules } if *of == group.id => {
            put_in(&mut group.egress, rules);
        }
        Written::EgressRevoked { group: of, rules } if *of == group.id => {
            let gone: BTreeSet<Content> = rules.iter().map(Content::of).collect();
            group
                .egress
                .retain(|standing| !gone.contains(&Content::of(standing)));
        }
        Written::Authorized { group: of, rules } if *of == group.id => {
            put_in(&mut group.ingress, rules);
        }
        Written::Revoked { group: of, rules } if *of == group.id => {
            // With another id it is another rule, which somebody made since.
            let is_it = |standing: &SgRule, rule: &SgRule| {
                Content::of(standing) == Content::of(rule)
                    && (standing.id == rule.id || standing.id.is_none() || rule.id.is_none())
            };
            group
                .ingress
                .retain(|standing| !rules.iter().any(|rule| is_it(standing, rule)));
        }
        Written::Described { group: of, rules } if *of == group.id => {
            for standing in &mut group.ingress {
                let content = Content::of(standing);
                if let Some(rule) = rules.iter().find(|rule| Content::of(rule) == content) {
                    standing.description.clone_from(&rule.description);
                }
            }
        }
        _ => {}
    }
}

impl Carry for ObservedInstance {
    fn with(&self, written: &[Written]) -> Self {
        let mut state = self.clone();
        // A group of others that a reading shows on an interface may have been put back there.
        let has = |group: &String| {
            let mut interfaces = self.interfaces.iter().chain(&self.strays);
            interfaces.any(|interface| interface.groups.contains(group))
        };
        for written in written {
            let mut interfaces = state.interfaces.iter_mut().chain(&mut state.strays);
            match written {
                Written::Made(group) => {
                    if let Some(of) = copied_from(group) {
                        if !state.copies.iter().any(|copy| copy.group.id == group.id) {
                            state.copies.push(Copied::new(of, group.clone()));
                        }
                    } else if !state.holders.iter().any(|holder| holder.vpc == group.vpc) {
                        state.holders.push(group.clone());
                    }
                }
                Written::Deleted { group } => {
                    for found in interfaces {
                        found.groups.retain(|standing| standing != group);
                    }
                    state.holders.retain(|holder| holder.id != *group);
                    state.copies.retain(|copy| copy.group.id != *group);
                }
                Written::Attached { interface, group } => {
                    if let Some(found) = interfaces.find(|found| found.id == *interface)
                        && !found.groups.contains(group)
                        && (state.holders.iter().any(|holder| holder.id == *group)
                            || state.copies.iter().any(|copy| copy.group.id == *group)
                            || state.originals.iter().any(|original| original.id == *group)
                            || has(group))
                    {
                        found.groups.push(group.clone());
                    }
                }
                Written::Detached { interface, group } => {
                    if let Some(found) = interfaces.find(|found| found.id == *interface) {
                        found.groups.retain(|standing| standing != group);
                    }
                }
                in_group => {
                    let copies = state.copies.iter_mut().map(|copy| &mut copy.group);
                    for group in state.holders.iter_mut().chain(copies) {
                        carry(group, in_group);
                    }
                }
            }
        }
        state
    }

    fn agrees(&self, other: &Self) -> bool {
        let interfaces = |state: &Self| {
            state
                .interfaces
                .iter()
                .chain(&state.strays)
                .map(|interface| {
                    let groups: BTreeSet<String> = interface.groups.iter().cloned().collect();
                    (interface.id.clone(), groups)
                })
                .collect::<BTreeMap<_, _>>()
        };
        interfaces(self) == interfaces(other)
            && self.copies.len() == other.copies.len()
            && self.copies.iter().all(|copy| {
                other
                    .copies
                    .iter()
                    .any(|found| same_group(&copy.group, &found.group))
            })
            && self.holders.len() == other.holders.len()
            && self
                .holders
                .iter()
                .all(|holder| other.holders.iter().any(|found| same_group(holder, found)))
    }
}

impl Carry for ObservedGroup {
    fn with(&self, written: &[Written]) -> Self {
        let mut state = self.clone();
        if let Some(group) = &mut state.group {
            for written in written {
                carry(group, written);
            }
        }
        state
    }

    fn agrees(&self, other: &Self) -> bool {
        match (&self.group, &other.group) {
            (Some(one), Some(other)) => same_group(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

/// The ids of the rules of `group` of which the last write says that they stand.
pub fn confirmed(group: &SecurityGroup, written: &[Written]) -> BTreeSet<String> {
    let mut standing: BTreeSet<Content> = BTreeSet::new();
    for written in written {
        match written {
            Written::Authorized { group: of, rules } if *of == group.id => {
                standing.extend(rules.iter().map(Content::of));
            }
            Written::Revoked { group: of, rules } if *of == group.id => {
                for rule in rules {
                    standing.remove(&Content::of(rule));
                }
            }
            _ => {}
        }
    }
    group
        .ingress
        .iter()
        .filter(|rule| standing.contains(&Content::of(rule)))
        .filter_map(|rule| rule.id.clone())
        .collect()
}
