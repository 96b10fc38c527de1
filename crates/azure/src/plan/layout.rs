//! Where each wanted rule stands.
//!
//! - A strict lockdown's deny stands above every foreign allow that may let in what it guards, at the largest free
//!   number of the band. One that defers stands below them all. It stays where it is as long as that holds.
//! - A grant's allow stands above the denies of ours that it makes an exception from and below every foreign deny
//!   that stands above those: at the largest free number between. Nobody's deny is overruled but our own. Where no
//!   number is left, it shares a rule with others' (`share`).
//! - Others' rules keep their numbers.

mod allows;

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Desired, Finding, Member, Obstacle},
    id::GrantId,
    nsg::{Access, AddressPrefix},
    point::PointRef,
};

use super::{
    ObservedNsg,
    rule::{ReadRule, may_match},
    wanted::{Stance, Wanted, allows, denies},
};

/// The most rules of an NSG, both directions together.
///
/// Source: "Azure subscription and service limits, quotas, and constraints", Networking limits, "Security rules
/// per NSG".
pub(super) const RULE_LIMIT: usize = 1000;

/// The most addresses and networks in the sources of all rules of an NSG, and as many in their destinations.
///
/// Source: the same page, "IP addresses and ranges specified for source or destination in a security group (the limit
/// applies separately to source and destination)".
pub(super) const ADDRESS_LIMIT: usize = 4000;

/// A wanted rule with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) wanted: Wanted,
    pub(super) priority: u16,
    /// For an allow, the rules that its grants would have alone.
    pub(super) pieces: Vec<Wanted>,
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
    let (allowed, missing) = ground.wanted_allows();
    ground.obstacles.extend(missing);
    ground.place_denies(&allowed);
    ground.place_allows(allowed);
    Layout {
        placed: ground.placed,
        obstacles: ground.obstacles,
        findings: ground.findings,
    }
}

/// The rule of others for which a grant without sources has none left here: the firewall's subnet stands for them too.
fn exposed(member: &Member, grant: GrantId) -> Option<&str> {
    let approach = member.approach.as_ref()?;
    let wanted = member.grants.iter().find(|one| one.grant == grant)?;
    let exposure = approach.exposure(&wanted.ports, &[])?;
    wanted.sources.is_empty().then_some(exposure.rule.as_str())
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
                    if let Some(rule) = exposed(member, grant) {
                        let message =
                            format!("`{rule}` lets others in to the grant's ports, by the same firewall");
                        obstacles.push(obstacle("foreign_rule_in_the_way", message, Some(grant)));
                        continue;
                    }
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
        self.placed.push(Placed {
            wanted,
            priority,
            pieces: Vec::new(),
        });
    }

    fn place_denies(&mut self, allowed: &BTreeMap<GrantId, Vec<Wanted>>) {
        let all: Vec<_> = denies(self.desired)
            .into_iter()
            .flat_map(|deny| {
                let (policy, stance) = (deny.policy, deny.stance);
                deny.rules.into_iter().map(move |rule| (policy, stance, rule))
            })
            .collect();
        let held: BTreeSet<u16> = all
            .iter()
            .map(|(_, _, wanted)| wanted)
            .chain(allowed.values().flatten())
            .filter_map(|wanted| self.held(wanted))
            .collect();
        let mut homeless = Vec::new();
        let mut addresses = self.foreign_addresses();
        for (policy, stance, wanted) in all {
            addresses += Addresses::of(&wanted);
            if let Some(message) = addresses.over(&self.observed.point) {
                self.obstacles.push(Obstacle {
                    policies: vec![policy],
                    ..obstacle("addresses_per_group", message, None)
                });
                continue;
            }
            if let Some(message) = self.namesake(&wanted) {
                self.obstacles.push(Obstacle {
                    policies: vec![policy],
                    ..obstacle("foreign_rule_in_the_way", message, None)
                });
                continue;
            }
            let span = self.deny_span(&wanted, stance);
            let held = self.held(&wanted);
            match held.filter(|number| (span.first..=span.last).contains(number)) {
                Some(number) => self.place(wanted, number),
                None => homeless.push((policy, stance, wanted, span, held)),
            }
        }
        for (policy, stance, wanted, span, own) in homeless {
            if stance == Stance::Above
                && let Some((number, rule)) =
                    own.zip(span.rule).filter(|(own, rule)| *own > rule.rule.priority)
            {
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
            if let Some(number) = self.largest_free(span.first, span.last, &held) {
                self.place(wanted, number);
                continue;
            }
            let (code, message) = span.refusal(stance);
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

    /// Between which numbers a deny of ours may stand.
    fn deny_span(&self, wanted: &Wanted, stance: Stance) -> DenySpan<'a> {
        let band = self.observed.band;
        let opening = self
            .foreign
            .iter()
            .filter(|rule| rule.rule.access == Access::Allow && may_match(&rule.rule, &wanted.about()));
        let number = |rule: &ReadRule| rule.rule.priority;
        match stance {
            Stance::Above => {
                let rule = opening.min_by_key(|rule| number(rule)).copied();
                DenySpan {
                    first: band.first,
                    last: rule.map_or(band.last, |rule| band.last.min(number(rule).saturating_sub(1))),
                    rule,
                }
            }
            Stance::Below => {
                let rule = opening.max_by_key(|rule| number(rule)).copied();
                DenySpan {
                    first: rule.map_or(band.first, |rule| band.first.max(number(rule).saturating_add(1))),
                    last: band.last,
                    rule,
                }
            }
        }
    }

    /// The addresses in others' rules, in both directions.
    fn foreign_addresses(&self) -> Addresses {
        let count = |prefixes: &[AddressPrefix]| {
            prefixes
                .iter()
                .filter(|prefix| matches!(prefix, AddressPrefix::Net(_)))
                .count()
        };
        self.observed
            .rules
            .iter()
            .filter(|rule| rule.role(&self.desired.installation).is_none())
            .map(|rule| Addresses {
                sources: count(&rule.rule.source.prefixes),
                destinations: count(&rule.rule.destination.prefixes),
            })
            .fold(Addresses::default(), |mut all, one| {
                all += one;
                all
            })
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

/// How many addresses and networks rules name.
#[derive(Debug, Clone, Copy, Default)]
struct Addresses {
    sources: usize,
    destinations: usize,
}

impl Addresses {
    fn of(wanted: &Wanted) -> Self {
        Self {
            sources: wanted.sources.len(),
            destinations: wanted.destinations.len(),
        }
    }

    /// What is said where they are more than an NSG holds.
    fn over(self, point: &PointRef) -> Option<String> {
        let side = if self.sources > ADDRESS_LIMIT {
            "sources"
        } else if self.destinations > ADDRESS_LIMIT {
            "destinations"
        } else {
            return None;
        };
        Some(format!(
            "the {side} of {point}'s rules would be more than {ADDRESS_LIMIT} addresses"
        ))
    }
}

impl std::ops::AddAssign for Addresses {
    fn add_assign(&mut self, more: Self) {
        self.sources += more.sources;
        self.destinations += more.destinations;
    }
}

impl std::ops::SubAssign for Addresses {
    fn sub_assign(&mut self, less: Self) {
        self.sources = self.sources.saturating_sub(less.sources);
        self.destinations = self.destinations.saturating_sub(less.destinations);
    }
}

/// The numbers where a deny may stand.
struct DenySpan<'a> {
    first: u16,
    last: u16,
    /// The foreign allow that bounds them: the first for a strict lockdown, the last for one that defers.
    rule: Option<&'a ReadRule>,
}

impl DenySpan<'_> {
    fn refusal(&self, stance: Stance) -> (&'static str, String) {
        let room = if self.first > self.last {
            "the band has no number for our deny".to_owned()
        } else {
            format!(
                "no number from {} to {} is free for our deny",
                self.first, self.last
            )
        };
        match (self.rule, stance) {
            (Some(rule), Stance::Above) => (
                "foreign_rule_in_the_way",
                format!(
                    "`{}` (priority {}) lets guarded ports in, and {room} above it",
                    rule.rule.name, rule.rule.priority
                ),
            ),
            (Some(rule), Stance::Below) => (
                "foreign_rule_in_the_way",
                format!(
                    "`{}` (priority {}) stays in force because the lockdown defers, and {room} below it",
                    rule.rule.name, rule.rule.priority
                ),
            ),
            (None, _) => ("no_free_priority", room),
        }
    }
}

/// The numbers where an allow may stand.
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
                format!("{room} below the deny `{name}` (priority {priority}), which is never overruled"),
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
