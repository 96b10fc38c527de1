//! What only time does to access reviews: reading the audit log for what role assignments were used for, the deadline, the
//! reminder before it, and the next round.
//!
//! Every replica looks. The access review's row is locked first and looked at again, so that one of them does what is due
//! and the others find it done; all of it, with its events, is one transaction, so that a crash leaves it due.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use postern_authz::Authorizer;
use postern_core::{
    access_review::{
        AccessReview, AccessReviewItem, AccessReviewState, AtDeadline, NotStarted as Missed, Undecided,
    },
    audit::{AuditEvent, Outcome},
    id::{AccessReviewId, AssignmentId},
    role::RoleAssignment,
    time::Instant,
};
use postern_store::Tx;
use serde_json::json;

use crate::{
    access_reviewing::{self, DECIDE, NotStarted, START, told_with, too_large},
    endpoints::role_assignments_create,
    failure::Failure,
    state::App,
    turning::keep_looking,
};

/// The longest between two looks: how late one may be noticed that another replica made meanwhile.
const LOOK: Duration = Duration::from_secs(5);
/// How many access reviews at a time.
const AT_ONCE: u32 = 20;

/// Does what is due until the server stops.
pub(crate) async fn turn_forever(app: Arc<App>) {
    let look = |app: Arc<App>| async move { app.turn_access_reviews().await };
    keep_looking(app, LOOK, "access reviews were not looked at", look).await;
}

impl App {
    /// Does everything whose time has come; says when the next thing's does.
    pub(crate) async fn turn_access_reviews(&self) -> Result<Option<Instant>, Failure> {
        self.keep_makers().await?;
        let next = self.store.next_access_review_step().await?;
        if next.is_none_or(|at| at > self.now()) {
            return Ok(next);
        }
        let mut failed = false;
        for review in self.store.due_access_reviews(self.now(), AT_ONCE).await? {
            if let Err(failure) = self.turn_access_review(review).await {
                // The others need not wait for it. It stays due.
                tracing::warn!(%review, detail = failure.detail(), "an access review was left as it is; trying again");
                failed = true;
            }
        }
        let next = self.store.next_access_review_step().await?;
        Ok(if failed { None } else { next })
    }

    async fn turn_access_review(&self, id: AccessReviewId) -> Result<(), Failure> {
        let authorizer = self.authorizer().await?;
        let mut tx = self.store.begin().await?;
        let mut review = tx
            .access_review(id)
            .await?
            .ok_or_else(|| Failure::internal("an access review is not there any more"))?;
        let now = self.now();
        let mut log = Vec::new();
        if review.is_gathering() {
            // One step at a time, each kept as soon as it is made. Nothing else is due before the last.
            log.extend(self.gather(&mut tx, &authorizer, review).await?);
            tx.audit(&log).await?;
            tx.commit().await?;
            return Ok(());
        }
        if review.state == AccessReviewState::Open && review.deadline <= now {
            review = self.complete(&mut tx, review, now, &mut log).await?;
        }
        if review.state == AccessReviewState::Open && tx.take_access_review_reminder(id, now).await? {
            log.extend(self.remind_reviewers(&mut tx, &review).await?);
        }
        if let Some(next) = review.next_round(self.ids.next(now), now) {
            log.push(self.start_next(&mut tx, &authorizer, review, next).await?);
        }
        tx.audit(&log).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Reads another part of the audit log for what role assignments of the access review were used for.
    async fn gather(
        &self,
        tx: &mut Tx,
        authorizer: &Authorizer,
        review: AccessReview,
    ) -> Result<Option<AuditEvent>, Failure> {
        let Some(unread) = review.unread else {
            return Ok(None);
        };
        let wanted = tx.ungathered_assignments(review.id).await?;
        let mut uses = tx
            .read_last_uses(&wanted, review.looked_back_to(), unread)
            .await?;
        let review = AccessReview {
            unread: uses.unread,
            ..review
        };
        // Once nothing is unread, of all the others it is known that they were not used.
        let known: Vec<AssignmentId> = match review.unread {
            Some(_) => uses.found.keys().copied().collect(),
            None => wanted,
        };
        let mut items = tx.items_of_assignments(review.id, &known).await?;
        for item in &mut items {
            item.last_use = uses.found.remove(&item.assignment.id);
            let last_use = item.last_use.as_ref();
            item.recommendation = Some(access_reviewing::recommended(
                authorizer,
                &review,
                &item.assignment,
                last_use,
            ));
        }
        tx.save_access_review_items(&items).await?;
        tx.save_access_review(&review).await?;
        if review.unread.is_some() {
            return Ok(None);
        }
        let removals = tx.recommended_removals(review.id).await?;
        let rule = "the audit log was read to the end that it is looked back to";
        let details = told_with(&review, json!({ "recommended_removals": removals }));
        let mut event = self.access_review_event("access_review.gather", &review.scope, rule, details);
        event.reason = Some(format!(
            "`{}`, round {}: {removals} role assignments are recommended for removal",
            review.name, review.round
        ));
        Ok(Some(event))
    }

    /// Removes or keeps what nobody decided.
    async fn complete(
        &self,
        tx: &mut Tx,
        review: AccessReview,
        now: Instant,
        log: &mut Vec<AuditEvent>,
    ) -> Result<AccessReview, Failure> {
        let undecided = tx.undecided_items(review.id).await?;
        let ids: Vec<AssignmentId> = in_order_of_removal(&undecided);
        let mut removed: BTreeMap<AssignmentId, RoleAssignment> = BTreeMap::new();
        let mut last_owner = None;
        let mut standing = BTreeSet::new();
        let rule = match review.undecided {
            Undecided::Remove => {
                let removal = tx.remove_assignments(&ids).await?;
                removed.extend(removal.removed.into_iter().map(|one| (one.id, one)));
                last_owner = removal.last_owner.map(|one| one.id);
                "nobody decided by the deadline, and the access review says to remove what is undecided"
            }
            Undecided::Keep => {
                standing = tx.standing_assignments(&ids).await?;
                "nobody decided by the deadline, and the access review says to keep what is undecided"
            }
        };
        let mut settled = Vec::with_capacity(undecided.len());
        for item in undecided {
            let assignment = item.assignment.id;
            let scope = item.assignment.scope.clone();
            let (became, rule) = if let Some(before) = removed.get(&assignment) {
                let details = access_reviewing::removed(&review, &item, before);
                log.push(self.access_review_event("role_assignment.delete", &scope, rule, details));
                (AtDeadline::Removed, rule)
            } else if last_owner == Some(assignment) {
                let rule = "the last owner of the installation stays";
                (AtDeadline::LastOwner, rule)
            } else if standing.contains(&assignment) {
                (AtDeadline::Kept, rule)
            } else {
                let rule = "the role assignment was removed before anybody decided";
                (AtDeadline::Gone, rule)
            };
            let after = item.clone().at_deadline(became, now);
            let details = told_with(&review, json!({ "before": item, "after": after }));
            let mut event = self.access_review_event(DECIDE, &scope, rule, details);
            if became == AtDeadline::LastOwner {
                event.outcome = Outcome::Failed;
            }
            log.push(event);
            settled.push(after);
        }
        tx.save_access_review_items(&settled).await?;
        let completed = AccessReview {
            state: AccessReviewState::Completed { at: now },
            ..review
        };
        tx.save_access_review(&completed).await?;
        let counts = tx.access_review_counts(completed.id).await?;
        let details = told_with(
            &completed,
            json!({
                "kept": counts.kept, "removed": counts.removed, "not_removed": counts.not_removed, "gone": counts.gone,
            }),
        );
        let rule = "its deadline has come";
        log.push(self.access_review_event("access_review.complete", &completed.scope, rule, details));
        Ok(completed)
    }

    /// Tells reviewers of what nobody has decided, where there is something.
    async fn remind_reviewers(
        &self,
        tx: &mut Tx,
        review: &AccessReview,
    ) -> Result<Option<AuditEvent>, Failure> {
        let counts = tx.access_review_counts(review.id).await?;
        if counts.open == 0 {
            return Ok(None);
        }
        let details = told_with(review, json!({ "open": counts.open }));
        let rule = "three quarters of the time for it have passed";
        let mut event = self.access_review_event("access_review.remind", &review.scope, rule, details);
        let open = usize::try_from(counts.open).unwrap_or(usize::MAX);
        event.reason = Some(access_reviewing::summary(review, open));
        Ok(Some(event))
    }

    /// Starts the round after a round that is over, by the right that whoever made the first has now.
    async fn start_next(
        &self,
        tx: &mut Tx,
        authorizer: &Authorizer,
        before: AccessReview,
        mut next: AccessReview,
    ) -> Result<AuditEvent, Failure> {
        let rule = "an access review recurs";
        let asked = role_assignments_create::question(self, START, next.scope.clone());
        // A guardrail looks at the groups, however old. A role that one of them has allows nothing once they may have left.
        let known = self.decide(authorizer, &next.starter(), &asked);
        let (decision, until_seen) = if known.allowed && !next.believes_groups(next.started_at) {
            let alone = self.decide(authorizer, &next.starter_alone(), &asked);
            let until_seen = !alone.allowed;
            (alone, until_seen)
        } else {
            (known, false)
        };
        let decided = json!({ "decided_by": "lifecycle", "rule": rule, "authorization": decision });
        let refusal = if decision.allowed {
            match self.start_round(tx, authorizer, &mut next).await {
                Ok(items) => {
                    let before = AccessReview {
                        next_round_at: None,
                        not_started: None,
                        ..before
                    };
                    tx.save_access_review(&before).await?;
                    let details = access_reviewing::started(&next, &items);
                    let event = self.access_review_event(START, &next.scope, rule, details);
                    return Ok(AuditEvent {
                        reason: Some(access_reviewing::summary(&next, items.len())),
                        decision: Some(decided),
                        ..event
                    });
                }
                Err(NotStarted::TooLarge(found)) => (Outcome::Failed, too_large(found)),
                Err(NotStarted::Failed(failure)) => return Err(failure),
            }
        } else {
            let told = access_reviewing::not_allowed(&next, &decision, until_seen);
            (Outcome::Denied, told)
        };
        // It is told, and tried again when the round after it would start.
        let (outcome, reason) = refusal;
        let before = AccessReview {
            next_round_at: next.next_round_at,
            not_started: Some(Missed {
                at: next.started_at,
                reason: reason.clone(),
                until_seen,
            }),
            ..before
        };
        tx.save_access_review(&before).await?;
        let details = told_with(&before, json!({ "next_round_at": before.next_round_at }));
        let event = self.access_review_event(START, &before.scope, rule, details);
        Ok(AuditEvent {
            outcome,
            reason: Some(reason),
            decision: Some(decided),
            ..event
        })
    }
}

/// The items' role assignments, the longest unused first: of several owners, the one who was there last stays.
fn in_order_of_removal(items: &[AccessReviewItem]) -> Vec<AssignmentId> {
    let mut order: Vec<(Option<Instant>, AssignmentId)> = items
        .iter()
        .map(|item| (item.last_use.as_ref().map(|last| last.at), item.assignment.id))
        .collect();
    order.sort();
    order.into_iter().map(|(_, id)| id).collect()
}
