//! Where each wanted rule stands.
//!
//! - A lockdown's deny stands above every foreign allow that may let in what it guards, at the largest free number
//!   of the band. It stays where it is as long as that holds.
//! - A grant's allow stands above the denies of ours that it makes an exception from and below every foreign deny
//!   that stands above those: at the largest free number between. Nobody's deny is overruled but our own.
//! - Others' rules keep their numbers.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Desired, Finding, Obstacle},
    id::GrantId,
    nsg::Access,
};

use super::{
    ObservedNsg,
    rule::{ReadRule, may_match},
    wanted::{Wanted, allows, denies},
};

/// The most rules of an NSG, both directions together.
///
/// Source: "Azure subscription and service limits, quotas, and constraints", Networking limits, "Security rules
/// per NSG".
pub(super) const RULE_LIMIT: usize = 1000;

/// A wanted rule with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) wanted: Wanted,
    pub(super) priority: u16,
}

/// What is wanted of the NSG, and what cannot be had.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Denies first, then allows, each in the order of their ids.
    pub(super) placed: Vec<Placed>,
    pub(super) obstacles: Vec<Obstacle>,
    pub(super) findings: Vec<Finding>,
}

struct Ground<'a> {
    observed: &'a ObservedNsg,
    desired: &'a Desired,
    /// Others' inbound rules.
    foreign: Vec<&'a ReadRule>,
    /// Numbers that nobody may take any more.
    used: BTreeSet<u16>,
    placed: Vec<Placed>,
    obstacles: Vec<Obstacle>,
    findings: Vec<Finding>,
}

/// Gives every wanted rule its place.
pub(super) fn layout(observed: &ObservedNsg, desired: &Desired) -> Layout {
    let foreign: Vec<&ReadRule> = observed
        .rules
        .iter()
        .filter(|rule| rule.is_inbound() && rule.role(&desired.installation).is_none())
        .collect();
    let used = foreign.iter().map(|rule| rule.rule.priority).collect();
    let mut ground = Ground {
        observed,
        desired,
        foreign,
        used,
        placed: Vec::new(),
        obstacles: Vec::new(),
        findings: Vec::new(),
    };
    let (mut allowed, missing) = ground.wanted_allows();
    ground.obstacles.extend(missing);
    ground.place_denies(&allowed);
    ground.place_allows(&mut allowed);
    Layout {
        placed: ground.placed,
        obstacles: ground.obstacles,
        findings: ground.findings,
    }
}

impl<'a> Ground<'a> {
    /// Each grant's rules for the addresses where its machine really is.
    fn wanted_allows(&self) -> (BTreeMap<GrantId, Vec<Wanted>>, Vec<Obstacle>) {
        let mut all = BTreeMap::new();
        let mut obstacles = Vec::new();
        for member in &self.desired.members {
            let seat = self.observed.seats.get(&member.machine);
            let rules = match seat {
                Some(seat) => allows(&self.desired.installation, member, &seat.addresses),
                None => allows(&self.desired.installation, member, &member.addresses),
            };
            let nowhere = seat.map_or(member.addresses.is_empty(), |seat| seat.addresses.is_empty());
            for (grant, rules) in rules {
                if rules.is_empty() {
                    let machine = member.machine.short();
                    let message = if nowhere {
                        format!("`{machine}` has no interface behind {}", self.observed.point)
                    } else {
                        format!(
                            "`{machine}` has no address behind {} of the family of the grant's sources",
                            self.observed.point
                        )
                    };
                    obstacles.push(obstacle("machine_not_behind_point", message, Some(grant)));
                } else {
                    all.insert(grant, rules);
                }
            }
        }
        (all, obstacles)
    }

    fn standing(&self, wanted: &Wanted) -> Option<&'a ReadRule> {
        self.observed
            .standing(&wanted.name)
            .filter(|rule| rule.role(&self.desired.installation).is_some())
    }

    /// Somebody else's rule with the name that ours has to have.
    fn namesake(&self, wanted: &Wanted) -> Option<String> {
        let rule = self.observed.standing(&wanted.name)?;
        rule.role(&self.desired.installation)
            .is_none()
            .then(|| format!("a rule that is not ours has the name `{}`", rule.rule.name))
    }

    fn held(&self, wanted: &Wanted) -> Option<u16> {
        self.standing(wanted)
            .filter(|rule| rule.is_inbound())
            .map(|rule| rule.rule.priority)
    }

    /// The largest number from `first` to `last` that is free, and if it can be, not held by a rule of ours that
    /// has not been placed yet.
    fn largest_free(&self, first: u16, last: u16, held: &BTreeSet<u16>) -> Option<u16> {
        let free = |number: &u16| !self.used.contains(number);
        (first..=last)
            .rev()
            .find(|number| free(number) && !held.contains(number))
            .or_else(|| (first..=last).rev().find(free))
    }

    fn place(&mut self, wanted: Wanted, priority: u16) {
        self.used.insert(priority);
        self.placed.push(Placed { wanted, priority });
    }

    fn place_denies(&mut self, allowed: &BTreeMap<GrantId, Vec<Wanted>>) {
        let band = self.observed.band;
        let all: Vec<_> = denies(self.desired)
            .into_iter()
            .flat_map(|deny| {
                let policy = deny.policy;
                deny.rules.into_iter().map(move |rule| (policy, rule))
            })
            .collect();
        let held: BTreeSet<u16> = all
            .iter()
            .map(|(_, wanted)| wanted)
            .chain(allowed.values().flatten())
            .filter_map(|wanted| self.held(wanted))
            .collect();
        let mut homeless = Vec::new();
        for (policy, wanted) in all {
            if let Some(message) = self.namesake(&wanted) {
                self.obstacles.push(Obstacle {
                    policies: vec![policy],
                    ..obstacle("foreign_rule_in_the_way", message, None)
                });
                continue;
            }
            let above = self
                .foreign
                .iter()
                .filter(|rule| rule.rule.access == Access::Allow && may_match(&rule.rule, &wanted.about()))
                .min_by_key(|rule| rule.rule.priority)
                .copied();
            let last = above.map_or(band.last, |rule| {
                band.last.min(rule.rule.priority.saturating_sub(1))
            });
            let held = self.held(&wanted);
            match held.filter(|number| (band.first..=last).contains(number)) {
                Some(number) => self.place(wanted, number),
                None => homeless.push((policy, wanted, above, last, held)),
            }
        }
        for (policy, wanted, above, last, own) in homeless {
            if let Some((number, rule)) = own.zip(above).filter(|(own, rule)| *own > rule.rule.priority) {
                self.findings.push(Finding {
                    code: "foreign_rule_opens".to_owned(),
                    message: format!(
                        "`{}` (priority {}) lets guarded ports in above our deny (priority {number})",
                        rule.rule.name, rule.rule.priority
                    ),
                    before: None,
                    after: Some(rule.raw.clone()),
                    grants: Vec::new(),
                });
            }
            if let Some(number) = self.largest_free(band.first, last, &held) {
                self.place(wanted, number);
                continue;
            }
            let room = format!("no number from {} to {last} is free for our deny", band.first);
            let (code, message) = match above {
                Some(rule) => (
                    "foreign_rule_in_the_way",
                    format!(
                        "`{}` (priority {}) lets guarded ports in, and {}",
                        rule.rule.name,
                        rule.rule.priority,
                        if last < band.first {
                            format!("our band of priorities begins at {}", band.first)
                        } else {
                            room
                        }
                    ),
                ),
                None => ("no_free_priority", room),
            };
            self.obstacles.push(Obstacle {
                policies: vec![policy],
                ..obstacle(code, message, None)
            });
            // Better a deny that something passes than none.
            if let Some(number) = own.filter(|number| !self.used.contains(number)) {
                self.place(wanted, number);
            }
        }
    }

    fn place_allows(&mut self, allowed: &mut BTreeMap<GrantId, Vec<Wanted>>) {
        let others = self
            .observed
            .rules
            .iter()
            .filter(|rule| rule.role(&self.desired.installation).is_none())
            .count();
        let mut room = RULE_LIMIT.saturating_sub(others + self.placed.len());
        // Those that may stay where they are keep their numbers before anybody looks for one.
        let mut spans: BTreeMap<GrantId, Vec<Span>> = BTreeMap::new();
        allowed.retain(|grant, rules| {
            let problem = rules
                .iter()
                .find_map(|wanted| {
                    self.namesake(wanted)
                        .map(|name| ("foreign_rule_in_the_way", name))
                })
                .or_else(|| {
                    (rules.len() > room).then(|| {
                        let message = format!("{} holds {RULE_LIMIT} rules already", self.observed.point);
                        ("rules_per_group", message)
                    })
                });
            if let Some((code, message)) = problem {
                self.obstacles.push(obstacle(code, message, Some(*grant)));
                return false;
            }
            room -= rules.len();
            spans.insert(*grant, rules.iter().map(|wanted| self.span(wanted)).collect());
            true
        });
        let mut kept: BTreeMap<String, u16> = BTreeMap::new();
        for (grant, rules) in allowed.iter() {
            for (wanted, span) in rules.iter().zip(spans.get(grant).into_iter().flatten()) {
                if let Some(number) = self.held(wanted)
                    && (span.first..=span.last).contains(&number)
                    && self.used.insert(number)
                {
                    kept.insert(wanted.name.clone(), number);
                }
            }
        }
        for (grant, rules) in std::mem::take(allowed) {
            let mut found = Vec::new();
            let mut problem = None;
            for (wanted, span) in rules.into_iter().zip(spans.remove(&grant).into_iter().flatten()) {
                let number = kept
                    .get(&wanted.name)
                    .copied()
                    .or_else(|| self.largest_free(span.first, span.last, &BTreeSet::new()));
                match number {
                    Some(number) => {
                        self.used.insert(number);
                        found.push(Placed {
                            wanted,
                            priority: number,
                        });
                    }
                    None => problem = Some(span.refusal()),
                }
            }
            match problem {
                None => self.placed.extend(found),
                Some((code, message)) => {
                    for placed in found {
                        self.used.remove(&placed.priority);
                    }
                    self.obstacles.push(obstacle(code, message, Some(grant)));
                }
            }
        }
    }

    /// Between which numbers an allow of ours may stand.
    fn span(&self, wanted: &Wanted) -> Span {
        let band = self.observed.band;
        let deny = self
            .placed
            .iter()
            .filter(|placed| placed.wanted.access == Access::Deny && meet(&placed.wanted, wanted))
            .map(|placed| placed.priority)
            .min();
        let last = deny.map_or(band.last, |deny| band.last.min(deny.saturating_sub(1)));
        let below = self
            .foreign
            .iter()
            .filter(|rule| {
                rule.rule.access == Access::Deny
                    && rule.rule.priority <= last
                    && may_match(&rule.rule, &wanted.about())
            })
            .max_by_key(|rule| rule.rule.priority)
            .map(|rule| (rule.rule.priority, rule.rule.name.clone()));
        Span {
            first: below.as_ref().map_or(band.first, |(priority, _)| {
                band.first.max(priority.saturating_add(1))
            }),
            last,
            below,
        }
    }
}

/// The numbers where a rule may stand.
struct Span {
    first: u16,
    last: u16,
    /// The foreign deny that it must stay below.
    below: Option<(u16, String)>,
}

impl Span {
    fn refusal(&self) -> (&'static str, String) {
        let room = if self.first > self.last {
            format!(
                "there is no number above our deny (priority {})",
                self.last.saturating_add(1)
            )
        } else {
            format!(
                "no number from {} to {} is free for an allow of ours",
                self.first, self.last
            )
        };
        match &self.below {
            Some((priority, name)) => (
                "foreign_rule_in_the_way",
                format!("{room} below the deny `{name}` (priority {priority}), which is not overruled"),
            ),
            None => ("no_free_priority", room),
        }
    }
}

fn meet(one: &Wanted, other: &Wanted) -> bool {
    one.protocol == other.protocol
        && one.ports.iter().any(|ports| {
            other
                .ports
                .iter()
                .any(|theirs| ports.overlaps(theirs.first, theirs.last))
        })
        && one
            .destinations
            .iter()
            .any(|address| other.destinations.binary_search(address).is_ok())
}

fn obstacle(code: &str, message: String, grant: Option<GrantId>) -> Obstacle {
    Obstacle {
        code: code.to_owned(),
        message,
        grants: grant.into_iter().collect(),
        policies: Vec::new(),
    }
}
