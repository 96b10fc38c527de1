//! What would turn a denial into an allowance: a role, and changes to the request that guardrails would let pass.
//!
//! Found by trying: each change is put to the same guardrails, so that what is named here is known to do.

use std::fmt;

use chrono::{DurationRound, TimeDelta};
use postern_core::{net::Source, principal::Principal, role::Action, time::Instant};
use serde::{Deserialize, Serialize};

use crate::{
    authorizer::Authorizer,
    decision::Missing,
    entities::{Context, Resource},
};

/// Durations that are tried when a shorter one might do, in seconds, the longest first.
const DURATIONS: [u64; 12] = [
    86_400, 43_200, 28_800, 14_400, 7200, 3600, 1800, 900, 600, 300, 120, 60,
];
/// The shortest of them.
const SHORTEST: u64 = 60;
/// How far ahead a better time is looked for, in hours: a week and a day, so that any hour of the week is found.
const HOURS: i64 = 8 * 24;
/// How many named networks are tried.
const NETWORKS: usize = 16;
/// How many changes are tried together.
const TOGETHER: usize = 3;
/// The most decisions that are made to find out.
const ATTEMPTS: usize = 600;

/// One thing that could be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A token that proves a second factor.
    SecondFactor,
    /// A token from a new sign-in.
    SignInAgain,
    /// A reason.
    Reason,
    /// No longer than this, in seconds.
    Duration(u64),
    /// From a named network, for example from here.
    Network {
        /// The network's name.
        name: String,
        /// Its first range.
        source: Source,
    },
    /// At this time; the first full hour that would do.
    Time(Instant),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecondFactor => f.write_str("sign in with a second factor"),
            Self::SignInAgain => f.write_str("sign in again"),
            Self::Reason => f.write_str("give a reason"),
            Self::Duration(seconds) => write!(f, "ask for {seconds} seconds at most"),
            Self::Network { name, source } => write!(f, "ask from the network `{name}` ({source})"),
            Self::Time(at) => write!(f, "ask at {}", at.format("%Y-%m-%d %H:%M UTC")),
        }
    }
}

/// What would allow what is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedies {
    /// The role assignment that is missing, if one is; it is needed whatever else is.
    pub assignment: Option<Missing>,
    /// Whether guardrails stand in the way.
    pub forbidden: bool,
    /// Where guardrails stand in the way, each way past them: everything in it together would do. Empty when no
    /// change that was tried would.
    pub ways: Vec<Vec<Change>>,
}

impl Remedies {
    /// Each way in words, for people.
    pub fn explain(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .assignment
            .iter()
            .map(|missing| {
                let roles: Vec<String> = missing.roles.iter().map(|role| format!("`{role}`")).collect();
                let who: Vec<String> = missing
                    .principals
                    .iter()
                    .take(3)
                    .map(ToString::to_string)
                    .collect();
                let any = if roles.len() > 1 {
                    "one of the roles"
                } else {
                    "the role"
                };
                format!(
                    "assign {any} {} at {} to {}",
                    roles.join(", "),
                    missing.scope,
                    who.join(" or ")
                )
            })
            .collect();
        if self.forbidden && self.ways.is_empty() {
            lines.push("no change to the request that was tried would pass the guardrails".to_owned());
        }
        lines.extend(self.ways.iter().map(|way| {
            let steps: Vec<String> = way.iter().map(ToString::to_string).collect();
            steps.join(" and ")
        }));
        lines
    }
}

/// A question that is asked again and again with changes.
struct Trial<'a> {
    authorizer: &'a Authorizer,
    principal: &'a Principal,
    action: Action,
    resource: &'a Resource,
    context: &'a Context,
    left: std::cell::Cell<usize>,
}

impl Trial<'_> {
    /// Whether guardrails let it pass with these changes.
    fn passes<'c>(&self, changes: impl IntoIterator<Item = &'c Change>) -> bool {
        let Some(left) = self.left.get().checked_sub(1) else {
            return false;
        };
        self.left.set(left);
        let (mut principal, mut context) = (self.principal.clone(), self.context.clone());
        let mut again = false;
        for change in changes {
            match change {
                Change::SecondFactor => principal.mfa = true,
                Change::SignInAgain => again = true,
                Change::Reason => context.reason_present = true,
                Change::Duration(seconds) => context.duration_seconds = Some(*seconds),
                Change::Network { source, .. } => context.sources = vec![*source],
                Change::Time(at) => context.now = *at,
            }
        }
        if again {
            principal.authenticated_at = Some(context.now);
        }
        let decision = self
            .authorizer
            .decide(&principal, self.action, self.resource, &context);
        decision.forbidden_by.is_empty() && decision.errors.is_empty()
    }

    /// Everything that may be worth changing.
    fn candidates(&self) -> Vec<Change> {
        let mut found = Vec::new();
        if !self.principal.mfa {
            found.push(Change::SecondFactor);
        }
        if self.principal.authenticated_at != Some(self.context.now) {
            found.push(Change::SignInAgain);
        }
        if !self.context.reason_present {
            found.push(Change::Reason);
        }
        // The shortest has the best chance; see `relax`.
        if self
            .context
            .duration_seconds
            .is_some_and(|asked| asked > SHORTEST)
        {
            found.push(Change::Duration(SHORTEST));
        }
        if !self.context.sources.is_empty() {
            let networks = self.authorizer.guardrails().networks().iter().take(NETWORKS);
            found.extend(networks.filter_map(|(name, ranges)| {
                Some(Change::Network {
                    name: name.to_owned(),
                    source: *ranges.first()?,
                })
            }));
        }
        let others: Vec<Change> = found
            .iter()
            .filter(|change| !matches!(change, Change::Network { .. }))
            .cloned()
            .collect();
        let hour = self
            .context
            .now
            .duration_trunc(TimeDelta::hours(1))
            .unwrap_or(self.context.now);
        let mut hours = (1..=HOURS).map(|ahead| Change::Time(hour + TimeDelta::hours(ahead)));
        found.extend(hours.find(|change| self.passes(others.iter().chain([change]))));
        found
    }

    /// The same way, with the longest duration that it allows.
    fn relax(&self, mut way: Vec<Change>) -> Vec<Change> {
        let shorter = DURATIONS.into_iter().filter(|seconds| {
            self.context
                .duration_seconds
                .is_some_and(|asked| *seconds < asked)
        });
        let Some(at) = way
            .iter()
            .position(|change| matches!(change, Change::Duration(_)))
        else {
            return way;
        };
        for seconds in shorter {
            let mut longer = way.clone();
            if let Some(change) = longer.get_mut(at) {
                *change = Change::Duration(seconds);
            }
            if self.passes(&longer) {
                way = longer;
                break;
            }
        }
        way
    }
}

impl Authorizer {
    /// What would let `principal` do `action` to `resource`; nothing when they may.
    ///
    /// Costs up to six hundred decisions: for explanations, not for every refusal.
    pub fn remedies(
        &self,
        principal: &Principal,
        action: Action,
        resource: &Resource,
        context: &Context,
    ) -> Remedies {
        let decision = self.decide(principal, action, resource, context);
        let forbidden = !decision.forbidden_by.is_empty() || !decision.errors.is_empty();
        let mut remedies = Remedies {
            assignment: decision.missing,
            forbidden,
            ways: Vec::new(),
        };
        if !forbidden {
            return remedies;
        }
        let trial = Trial {
            authorizer: self,
            principal,
            action,
            resource,
            context,
            left: std::cell::Cell::new(ATTEMPTS),
        };
        let candidates = trial.candidates();
        for together in 1..=TOGETHER {
            remedies.ways = subsets(&candidates, together)
                .into_iter()
                .filter(|way| trial.passes(way))
                .map(|way| trial.relax(way))
                .collect();
            if !remedies.ways.is_empty() {
                break;
            }
        }
        remedies
    }
}

/// Every choice of `count` of these, in their order, of each kind of change one at most.
fn subsets(of: &[Change], count: usize) -> Vec<Vec<Change>> {
    let Some(rest) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let mut found = Vec::new();
    for (at, first) in of.iter().enumerate() {
        for mut others in subsets(of.get(at + 1..).unwrap_or_default(), rest) {
            let kind = std::mem::discriminant(first);
            if others.iter().any(|other| std::mem::discriminant(other) == kind) {
                continue;
            }
            others.insert(0, first.clone());
            found.push(others);
        }
    }
    found
}
