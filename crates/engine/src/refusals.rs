//! What a cloud refuses to have put back or cleared away: found and told once, and tried again with growing intervals.
//!
//! A rule that a lockdown displaced may name what is not there any more, such as a group on the other side of a peering
//! connection. Nobody waits for it as for an opening or a closing, and it may stay so for weeks; so it is no failed pass,
//! whose attempts come each minute and are told each time.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use postern_core::{
    enforcer::{Change, EnforceError, Finding, Plan, Print, Verb},
    time::Instant,
};
use serde_json::{Value, json};

use crate::{
    outcome::RoundResult,
    pass::{Attempt, AttemptResult, View},
};

/// EC2's word for what cannot be deleted because something uses it. It may be said for some moments after the last use.
const IN_USE: &str = "DependencyViolation";

/// EC2's call that deletes a group.
const DELETION: &str = "DeleteSecurityGroup";

/// Why changes were refused, by what they are.
pub(crate) type Reasons = BTreeMap<String, String>;

/// What is refused at a point, as its report keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Since when all of it is.
    since: Instant,
    pub(crate) changes: Reasons,
}

impl Refused {
    /// What the report of the last look says.
    pub(crate) fn reported(view: &View) -> Option<Self> {
        let reported = view.report.as_ref()?.get("refused")?;
        Some(Self {
            since: serde_json::from_value(reported.get("since")?.clone()).ok()?,
            changes: serde_json::from_value(reported.get("changes")?.clone()).ok()?,
        })
    }

    /// As the report keeps it.
    pub(crate) fn report(&self) -> Value {
        json!({ "since": self.since, "changes": self.changes })
    }

    /// What is refused now, where that was reported of the last look: since when it is stays the same as long as it is
    /// the same.
    pub(crate) fn now(changes: Reasons, view: &View, now: Instant) -> Self {
        let before = Self::reported(view).filter(|before| before.changes == changes);
        before.unwrap_or(Self { since: now, changes })
    }

    /// When to try again: after as long as it is refused already, but `first` at least and `longest` at most.
    pub(crate) fn again_at(&self, now: Instant, first: Duration, longest: Duration) -> Instant {
        let first = TimeDelta::from_std(first).unwrap_or_default();
        let longest = TimeDelta::from_std(longest).unwrap_or(TimeDelta::MAX);
        now + (now - self.since).max(first).min(longest)
    }
}

/// What a change is, the same each time that it is planned, by whichever version of the server: the report keeps it.
pub(crate) fn name(change: &Change) -> Option<String> {
    let what = (change.verb.as_str(), &change.target, &change.operation);
    Print::of(&what).map(|print| print.to_string())
}

/// Why the cloud will refuse it again, in words that stay the same as long as it does.
fn reason(error: &EnforceError) -> Option<&str> {
    match error {
        EnforceError::Refused { code, .. } | EnforceError::Forbidden { code, .. } => Some(code),
        // What it names is not there, or cannot be named from here; or something uses what is to be cleared away.
        EnforceError::Conflict { code, .. } if code.ends_with(".NotFound") || code == IN_USE => Some(code),
        _ => None,
    }
}

/// Whether it says that a group is not deleted, which may stay so for good. Nothing builds on that, so that a round goes
/// on: of several groups, one that stays keeps no other.
pub(crate) fn is_of_a_deletion(error: &EnforceError) -> bool {
    match error {
        EnforceError::Conflict { code, .. } => code == IN_USE,
        EnforceError::Refused { operation, .. } | EnforceError::Forbidden { operation, .. } => {
            operation == DELETION
        }
        _ => false,
    }
}

/// Why the attempt did not succeed, if that may stand.
fn why(attempt: &Attempt) -> Option<&str> {
    match &attempt.result {
        AttemptResult::Failed(error) => reason(error),
        AttemptResult::NotAttempted => Some(NOT_ATTEMPTED),
        AttemptResult::Done(_) => None,
    }
}

impl Attempt {
    /// Whether it went as the log tells already.
    pub(crate) fn is_told(&self) -> bool {
        self.refused_before.is_some() && self.refused_before.as_deref() == why(self)
    }
}

impl RoundResult {
    /// What was refused of a round, where nothing but restoring was refused or is behind it. What is behind it waits, and
    /// [`findings`] says so.
    pub(crate) fn refused(&self) -> Option<Reasons> {
        let failed = |attempt: &&Attempt| !matches!(attempt.result, AttemptResult::Done(_));
        let refused: Vec<&Attempt> = self.attempts.iter().filter(failed).collect();
        if refused.is_empty() || refused.iter().any(|attempt| attempt.change.verb != Verb::Restore) {
            return None;
        }
        refused
            .into_iter()
            .map(|attempt| Some((name(&attempt.change)?, why(attempt)?.to_owned())))
            .collect()
    }

    /// Whether it was refused as it was before.
    pub(crate) fn is_refused_again(&self) -> bool {
        let mut failed = self.attempts.iter();
        failed.any(|attempt| matches!(attempt.result, AttemptResult::Failed(_)) && attempt.is_told())
    }
}

/// Said of a change that comes after one that was refused.
const NOT_ATTEMPTED: &str = "not attempted";

/// A finding for each change of the plan that the cloud refuses, with what waits for it. What is in use is found only
/// after `moments`.
pub(crate) fn findings(plan: &Plan, refused: &Refused, now: Instant, moments: Duration) -> Vec<Finding> {
    let moments = TimeDelta::from_std(moments).unwrap_or_default();
    let why = |change: &Change| refused.changes.get(&name(change)?).map(String::as_str);
    let is_found = |why: &str| why != NOT_ATTEMPTED && (why != IN_USE || now - refused.since >= moments);
    let mut found = Vec::new();
    for (at, change) in plan.changes.iter().enumerate() {
        let Some(why_not) = why(change).filter(|why| is_found(why)) else {
            continue;
        };
        let behind = plan.changes.iter().skip(at + 1);
        let waiting: Vec<&str> = behind
            .filter(|change| why(change) == Some(NOT_ATTEMPTED))
            .map(|change| change.summary.as_str())
            .collect();
        let mut message = format!(
            "the cloud refuses with {why_not} to {}: {}, and it is done at a later look",
            change.summary,
            if why_not == IN_USE {
                "end what uses it"
            } else {
                "bring back what that names, or give the right to do it"
            }
        );
        if !waiting.is_empty() {
            message.push_str("; for it wait: ");
            message.push_str(&waiting.join("; "));
        }
        found.push(Finding {
            code: "restore_refused".to_owned(),
            message,
            before: change.after.clone(),
            after: None::<Value>,
            grants: Vec::new(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use postern_core::testing::at;

    use super::*;

    fn change(rule: &str) -> Change {
        Change {
            verb: Verb::Restore,
            target: "sg-1".to_owned(),
            summary: "put it back".to_owned(),
            grants: Vec::new(),
            policies: Vec::new(),
            before: None,
            after: None,
            operation: json!({ "rule": rule }),
            displaces: Vec::new(),
        }
    }

    #[test]
    fn what_stays_in_use_is_found_after_a_while_and_anything_else_at_once() {
        let plan = Plan {
            changes: vec![change("a")],
            ..Plan::default()
        };
        let found = |why: &str, now| {
            let refused = Refused {
                since: at(100),
                changes: Reasons::from([(name(&change("a")).unwrap(), why.to_owned())]),
            };
            findings(&plan, &refused, at(now), Duration::from_mins(1)).len()
        };
        assert_eq!([100, 159, 160].map(|now| found(IN_USE, now)), [0, 0, 1]);
        assert_eq!(found("InvalidGroup.NotFound", 100), 1);
    }

    #[test]
    fn a_change_is_called_the_same_by_every_version() {
        // `["restore","sg-1",{"rule":"a"}]`, by sha256sum.
        let known = "14d65195ca267b89a33b972b9c87fdf620f0b2273c399b3124da6bdb315bdeb7";
        assert_eq!(name(&change("a")).as_deref(), Some(known));
        assert_ne!(name(&change("b")), name(&change("a")));
    }

    #[test]
    fn what_stays_refused_is_tried_after_as_long_as_it_is_refused_already() {
        let refused = Refused {
            since: at(100),
            changes: Reasons::new(),
        };
        let (first, longest) = (Duration::from_secs(1), Duration::from_mins(5));
        let again = |now| refused.again_at(at(now), first, longest) - at(now);
        assert_eq!([100, 99, 101].map(again), [TimeDelta::seconds(1); 3]);
        assert_eq!([116, 228].map(again), [16, 128].map(TimeDelta::seconds));
        assert_eq!([400, 100_000].map(again), [TimeDelta::minutes(5); 2]);
    }
}
