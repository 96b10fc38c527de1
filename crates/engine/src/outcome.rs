//! What became of intended changes: said by the cloud, or judged by what was read afterwards.

use std::time::Duration;

use chrono::TimeDelta;
use postern_core::{
    audit::{AuditEvent, Outcome},
    enforcer::{Change, EnforceError, Plan, Verb},
    id::{GrantId, PassId},
    time::Instant,
};
use postern_store::{JournalEntry, SettledChange, StoreError, Tx};
use serde_json::{Value, json};

use crate::{
    Engine,
    events::{Events, PassRef},
    metrics::ChangeLabels,
    pass::{Attempt, AttemptResult, Seen},
    refusals::Reasons,
};

/// What a pass has done so far.
pub(crate) struct Looked {
    pub(crate) pass: PassId,
    /// Intents without an outcome, of passes that died or did not get a clear answer.
    pub(crate) left_over: Vec<LeftOver>,
    /// Rounds of changes so far.
    pub(crate) rounds: u32,
    /// How long a call without an answer may still take effect, or its effect not show.
    pub(crate) patience: Duration,
    /// The round whose outcome is not committed yet.
    pub(crate) last: Option<RoundResult>,
    /// Changes without an outcome that may still take effect, and until when.
    pub(crate) doubts: Vec<Doubt>,
    /// Whether a lockdown may still take effect or show, so that a rule which stands may have been displaced.
    pub(crate) may_be_displaced: bool,
    /// What the cloud refused before, and why.
    pub(crate) refused: Reasons,
    /// The findings that were reported.
    pub(crate) told: Vec<Value>,
}

impl Looked {
    pub(crate) const fn new(pass: PassId, left_over: Vec<LeftOver>) -> Self {
        Self {
            pass,
            left_over,
            rounds: 0,
            patience: Duration::ZERO,
            last: None,
            doubts: Vec::new(),
            may_be_displaced: false,
            refused: Reasons::new(),
            told: Vec::new(),
        }
    }

    /// Until when a grant cannot be confirmed as closed here, because a call that opens it may still be under way.
    pub(crate) fn doubt_about(&self, grant: GrantId) -> Option<Instant> {
        self.doubts
            .iter()
            .filter(|doubt| doubt.grants.contains(&grant))
            .map(|doubt| doubt.until)
            .max()
    }
}

/// A change without an outcome from an earlier pass.
#[derive(Debug, Clone)]
pub(crate) struct LeftOver {
    pub(crate) entry: JournalEntry,
    /// Until when its call may still take effect; none where no look has noticed it before.
    pub(crate) until: Option<Instant>,
}

impl LeftOver {
    /// As it was read at `now`.
    pub(crate) fn new(entry: JournalEntry, now: Instant) -> Self {
        let left = entry.doubted_for.and_then(|left| TimeDelta::from_std(left).ok());
        Self {
            until: left.map(|left| now + left),
            entry,
        }
    }
}

/// A change without a clear answer that may still take effect.
pub(crate) struct Doubt {
    /// The grants that it would open.
    grants: Vec<GrantId>,
    until: Instant,
}

impl Doubt {
    /// When it is over.
    pub(crate) const fn until(&self) -> Instant {
        self.until
    }
}

/// How the changes of one round went.
pub(crate) struct RoundResult {
    pub(crate) attempts: Vec<Attempt>,
}

impl RoundResult {
    /// What the round ended with, or a deletion that was refused on the way.
    pub(crate) fn error(&self) -> Option<&EnforceError> {
        let mut attempts = self.attempts.iter().rev();
        attempts.find_map(|attempt| match &attempt.result {
            AttemptResult::Failed(error) => Some(error),
            _ => None,
        })
    }

    /// Whether it makes sense to plan anew at once: all went well, or somebody else was faster.
    pub(crate) fn may_go_on(&self) -> bool {
        matches!(self.error(), None | Some(EnforceError::Conflict { .. })) && !self.is_refused_again()
    }
}

/// A change, as far as its effect can be seen.
#[derive(Clone, Copy)]
struct Effect<'a> {
    verb: Verb,
    target: &'a str,
    grants: &'a [GrantId],
    before: Option<&'a Value>,
    operation: &'a Value,
}

impl Effect<'_> {
    /// What the reading says: succeeded, failed, or unknown where it cannot tell. That nobody plans it any more is no
    /// sign that it was done: it may be that nobody wants it any more. Nor is it one that it does not show: it may have
    /// been undone since.
    fn judge(self, plan: &Plan, seen: &Seen<'_>) -> Outcome {
        // The same call is planned with another verb where it is for another reason now: to delete a group that was to be
        // closed by that, and is closed. And the same verb may come with what is left to do of a call.
        let again = |change: &Change| {
            change.target == self.target && (change.verb == self.verb || change.operation == *self.operation)
        };
        let stands = |grant: &GrantId| seen.evidence.contains(grant);
        let shown = seen
            .observed
            .and_then(|observed| observed.shows(self.before, self.operation));
        match shown {
            Some(true) => return Outcome::Succeeded,
            _ if plan.changes.iter().any(again) => return Outcome::Failed,
            Some(false) => return Outcome::Unknown,
            None => {}
        }
        let as_meant = match self.verb {
            Verb::Open => self.grants.iter().all(stands),
            Verb::Close => !self.grants.iter().any(stands),
            Verb::LockDown | Verb::Restore | Verb::Repair => seen.observed.is_some(),
        };
        if as_meant {
            Outcome::Succeeded
        } else {
            Outcome::Unknown
        }
    }

    /// The doubt about it until then.
    fn doubt(self, until: Instant) -> Doubt {
        let opens = matches!(self.verb, Verb::Open | Verb::Repair);
        Doubt {
            grants: if opens { self.grants.to_vec() } else { Vec::new() },
            until,
        }
    }
}

impl Engine {
    /// Writes the outcomes of the last round, and of what earlier passes left, given what is planned now.
    ///
    /// A change whose call gave no clear answer is judged by what was read. One that is not in effect stays unsettled
    /// for as long as the call may still be under way, because until then it has not failed; so does one that is, where
    /// the same was tried again meanwhile and that may be what is seen, because the first may come yet; and so does
    /// everything while nothing could be read.
    pub(crate) async fn settle_round(
        &self,
        tx: &mut Tx,
        pass: &PassRef<'_>,
        looked: &mut Looked,
        plan: &Plan,
        seen: &Seen<'_>,
        now: Instant,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let events = Events::at(now, &*self.ids);
        let mut settled = Vec::new();
        let mut log = Vec::new();
        let patience = TimeDelta::from_std(looked.patience).unwrap_or_default();
        let attempts = looked.last.take().map(|round| round.attempts).unwrap_or_default();
        // What is seen may be due to a call of this pass, or to an earlier one that had no answer.
        let (tried, waited_for) = (!attempts.is_empty(), !looked.left_over.is_empty());
        let mut unclear = Vec::new();
        for attempt in attempts {
            let is_told = attempt.is_told();
            let (outcome, detail) = match attempt.result {
                AttemptResult::Done(answer) => (Outcome::Succeeded, answer),
                AttemptResult::NotAttempted => (
                    Outcome::Failed,
                    json!({ "error": "not attempted: an earlier change of the pass failed" }),
                ),
                AttemptResult::Failed(EnforceError::Unavailable { operation, message }) => {
                    let effect = Effect {
                        verb: attempt.change.verb,
                        target: &attempt.change.target,
                        grants: &attempt.change.grants,
                        before: attempt.change.before.as_ref(),
                        operation: &attempt.change.operation,
                    };
                    // From now on, and not from the intent: calls of one round are made one after the other.
                    let Some(outcome) = looked.judge(effect, waited_for, now + patience, plan, seen, now)
                    else {
                        unclear.push(attempt.id);
                        continue;
                    };
                    let note =
                        format!("{operation} gave no clear answer; judged by what was read: {message}");
                    (outcome, json!({ "note": note }))
                }
                AttemptResult::Failed(error) => (Outcome::Failed, json!({ "error": error.to_string() })),
            };
            self.metrics
                .changes
                .get_or_create(&ChangeLabels {
                    cloud: pass.point.cloud().as_str(),
                    verb: attempt.change.verb.as_str(),
                    outcome: outcome.as_str(),
                })
                .inc();
            if !is_told {
                if attempt.refused_before.is_some() {
                    let then = Events::at(attempt.intended_at, &*self.ids);
                    log.push(then.change_intended(pass, attempt.id, &attempt.change));
                }
                log.push(events.change(pass, attempt.id, &attempt.change, outcome, &detail));
            }
            settled.push(SettledChange {
                id: attempt.id,
                outcome,
                detail,
            });
        }
        for mut left in std::mem::take(&mut looked.left_over) {
            let entry = &left.entry;
            let effect = Effect {
                verb: entry.verb,
                target: &entry.target,
                grants: &entry.grants,
                before: entry.before.as_ref(),
                operation: &entry.operation,
            };
            let tried_since = tried || left.until.is_some();
            let until = left.until.unwrap_or(now + patience);
            let Some(outcome) = looked.judge(effect, tried_since, until, plan, seen, now) else {
                if left.until.is_none() {
                    unclear.push(entry.id);
                }
                left.until = Some(until);
                looked.left_over.push(left);
                continue;
            };
            self.metrics
                .changes
                .get_or_create(&ChangeLabels {
                    cloud: pass.point.cloud().as_str(),
                    verb: entry.verb.as_str(),
                    outcome: outcome.as_str(),
                })
                .inc();
            let detail: Value = json!({
                "note": "no outcome was committed at the time; judged by what was read afterwards",
                "pass": entry.pass, "verb": entry.verb, "summary": entry.summary,
            });
            if !entry.told && outcome != Outcome::Failed {
                let then = Events::at(entry.intended_at, &*self.ids);
                log.push(then.change_intended(pass, entry.id, &planned(entry)));
            }
            if entry.told || outcome != Outcome::Failed {
                log.push(events.change_settled_late(pass, entry.id, outcome, &detail));
            }
            settled.push(SettledChange {
                id: entry.id,
                outcome,
                detail,
            });
        }
        tx.settle(&settled, now).await?;
        tx.leave_undecided(&unclear, looked.patience).await?;
        Ok(log)
    }
}

/// The change as it was planned.
fn planned(entry: &JournalEntry) -> Change {
    Change {
        verb: entry.verb,
        target: entry.target.clone(),
        summary: entry.summary.clone(),
        grants: entry.grants.clone(),
        policies: entry.policies.clone(),
        before: entry.before.clone(),
        after: entry.after.clone(),
        operation: entry.operation.clone(),
        displaces: Vec::new(),
    }
}

impl Looked {
    /// The outcome of a change without a clear answer, once there is one; until then the doubt is kept. `contested`
    /// says that what is seen may also be due to another call; after `until` this one cannot take effect any more.
    fn judge(
        &mut self,
        effect: Effect<'_>,
        contested: bool,
        until: Instant,
        plan: &Plan,
        seen: &Seen<'_>,
        now: Instant,
    ) -> Option<Outcome> {
        let outcome = seen.settled.then(|| effect.judge(plan, seen));
        // A displaced rule that stands was put back, or its lockdown has not come to pass, or does not show: also one
        // that is planned again may still land, and then what it displaced must not be forgotten.
        let locks = effect.verb == Verb::LockDown;
        let certain =
            outcome == Some(Outcome::Succeeded) && !contested && (!locks || plan.settled.is_empty());
        if certain || now >= until {
            return outcome;
        }
        self.doubts.push(effect.doubt(until));
        self.may_be_displaced |= locks;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_call_planned_again_for_another_reason_has_failed_before() {
        let delete = json!({ "call": "delete_holder", "group": "sg-1" });
        let effect = Effect {
            verb: Verb::Close,
            target: "sg-1",
            grants: &[],
            before: None,
            operation: &delete,
        };
        let planned = |verb, target: &str, operation: &Value| Plan {
            changes: vec![Change {
                verb,
                target: target.to_owned(),
                summary: String::new(),
                grants: Vec::new(),
                policies: Vec::new(),
                before: None,
                after: None,
                operation: operation.clone(),
                displaces: Vec::new(),
            }],
            ..Plan::default()
        };
        let judged = |plan: Plan| effect.judge(&plan, &Seen::default());
        assert_eq!(judged(planned(Verb::Restore, "sg-1", &delete)), Outcome::Failed);
        let revoke = json!({ "call": "revoke", "group": "sg-1" });
        assert_eq!(
            judged(planned(Verb::Close, "sg-1", &revoke)),
            Outcome::Failed,
            "what is left to do of it"
        );
        for (verb, target, operation) in [(Verb::Restore, "sg-1", &revoke), (Verb::Close, "sg-2", &delete)] {
            assert_eq!(judged(planned(verb, target, operation)), Outcome::Succeeded);
        }
    }
}
