//! What became of intended changes: said by the cloud, or judged by what was read afterwards.

use std::time::Duration;

use postern_core::{
    audit::{AuditEvent, Outcome},
    enforcer::{EnforceError, Plan, Verb},
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
};

/// What a pass has done so far.
pub(crate) struct Looked {
    pub(crate) pass: PassId,
    /// Intents without an outcome, of passes that died or did not get a clear answer.
    pub(crate) left_over: Vec<JournalEntry>,
    /// Rounds of changes so far.
    pub(crate) rounds: u32,
    /// How long a call without an answer may still take effect, or its effect not show.
    pub(crate) patience: Duration,
    /// The round whose outcome is not committed yet.
    pub(crate) last: Option<RoundResult>,
    /// Openings that may still take effect, and until when.
    pub(crate) doubts: Vec<Doubt>,
    /// Whether a lockdown may still take effect or show, so that a rule which stands may have been displaced.
    pub(crate) may_be_displaced: bool,
    /// The findings that were reported.
    pub(crate) told: Vec<Value>,
}

impl Looked {
    pub(crate) const fn new(pass: PassId, left_over: Vec<JournalEntry>) -> Self {
        Self {
            pass,
            left_over,
            rounds: 0,
            patience: Duration::ZERO,
            last: None,
            doubts: Vec::new(),
            may_be_displaced: false,
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

/// An opening without a clear answer that is not in effect, yet.
pub(crate) struct Doubt {
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
    pub(crate) fn error(&self) -> Option<&EnforceError> {
        self.attempts.iter().find_map(|attempt| match &attempt.result {
            AttemptResult::Failed(error) => Some(error),
            _ => None,
        })
    }

    /// Whether it makes sense to plan anew at once: all went well, or somebody else was faster.
    pub(crate) fn may_go_on(&self) -> bool {
        matches!(self.error(), None | Some(EnforceError::Conflict { .. }))
    }
}

/// A change, as far as its effect can be seen.
#[derive(Clone, Copy)]
struct Effect<'a> {
    verb: Verb,
    target: &'a str,
    grants: &'a [GrantId],
    intended_at: Instant,
}

impl Effect<'_> {
    /// What the reading says: succeeded, failed, or unknown where it cannot tell.
    fn judge(self, plan: &Plan, seen: &Seen) -> Outcome {
        let again = |change: &postern_core::enforcer::Change| {
            change.verb == self.verb && change.target == self.target
        };
        let stands = |grant: &GrantId| seen.evidence.contains(grant);
        if plan.changes.iter().any(again) {
            return Outcome::Failed;
        }
        let as_meant = match self.verb {
            Verb::Open => self.grants.iter().all(stands),
            Verb::Close => !self.grants.iter().any(stands),
            Verb::LockDown | Verb::Restore | Verb::Repair => true,
        };
        if as_meant {
            Outcome::Succeeded
        } else {
            Outcome::Unknown
        }
    }

    /// Until when the call may still take effect or show, if that would open something.
    fn doubt(self, patience: Duration) -> Option<Doubt> {
        matches!(self.verb, Verb::Open | Verb::Repair).then(|| self.doubt_of(self.grants.to_vec(), patience))
    }

    fn doubt_of(self, grants: Vec<GrantId>, patience: Duration) -> Doubt {
        let patience = chrono::TimeDelta::from_std(patience).unwrap_or_default();
        Doubt {
            grants,
            until: self.intended_at + patience,
        }
    }
}

impl Engine {
    /// Writes the outcomes of the last round, and of what earlier passes left, given what is planned now.
    ///
    /// A change whose call gave no clear answer is judged by what was read. One that would open something and is
    /// not in effect stays unsettled for as long as the call may still be under way; so does everything while
    /// nothing could be read.
    pub(crate) async fn settle_round(
        &self,
        tx: &mut Tx,
        pass: &PassRef<'_>,
        looked: &mut Looked,
        plan: &Plan,
        seen: &Seen,
        now: Instant,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let events = Events::at(now, &*self.ids);
        let mut settled = Vec::new();
        let mut log = Vec::new();
        for attempt in looked.last.take().map(|round| round.attempts).unwrap_or_default() {
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
                        intended_at: attempt.intended_at,
                    };
                    let Some(outcome) = looked.judge(effect, plan, seen, now) else {
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
            log.push(events.change(pass, attempt.id, &attempt.change, outcome, &detail));
            settled.push(SettledChange {
                id: attempt.id,
                outcome,
                detail,
            });
        }
        for entry in std::mem::take(&mut looked.left_over) {
            let effect = Effect {
                verb: entry.verb,
                target: &entry.target,
                grants: &entry.grants,
                intended_at: entry.intended_at,
            };
            let Some(outcome) = looked.judge(effect, plan, seen, now) else {
                looked.left_over.push(entry);
                continue;
            };
            let detail: Value = json!({
                "note": "no outcome was committed at the time; judged by what was read afterwards",
                "pass": entry.pass, "verb": entry.verb, "summary": entry.summary,
            });
            log.push(events.change_settled_late(pass, entry.id, outcome, &detail));
            settled.push(SettledChange {
                id: entry.id,
                outcome,
                detail,
            });
        }
        tx.settle(&settled, now).await?;
        Ok(log)
    }
}

impl Looked {
    /// The outcome of a change without a clear answer, once there is one; until then the doubt is kept.
    fn judge(&mut self, effect: Effect<'_>, plan: &Plan, seen: &Seen, now: Instant) -> Option<Outcome> {
        let outcome = seen.settled.then(|| effect.judge(plan, seen));
        // A displaced rule that stands was put back, or its lockdown has not come to pass, or does not show: also one
        // that is planned again may still land, and then what it displaced must not be forgotten.
        if effect.verb == Verb::LockDown && (outcome != Some(Outcome::Succeeded) || !plan.settled.is_empty())
        {
            let doubt = effect.doubt_of(Vec::new(), self.patience);
            if now < doubt.until {
                self.doubts.push(doubt);
                self.may_be_displaced = true;
                return None;
            }
        }
        if outcome == Some(Outcome::Succeeded) {
            return outcome;
        }
        match effect.doubt(self.patience) {
            Some(doubt) if now < doubt.until => {
                self.doubts.push(doubt);
                None
            }
            _ => outcome,
        }
    }
}
