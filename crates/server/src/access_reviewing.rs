//! Access reviews: how a round starts, who sees it, and its events. Reviews of broken glass are in [`crate::reviewing`].

use std::collections::BTreeMap;

use postern_authz::{Authorizer, Context, Decision, Resource, ResourceKind};
use postern_core::{
    access_review::{
        AccessReview, AccessReviewItem, GROUPS_BELIEVED_DAYS, ItemState, ItemVerdict, LastUse, MAX_ITEMS,
        Recommendation, recommend,
    },
    audit::{Actor, AuditEvent, Outcome, Subject},
    id::AssignmentId,
    role::{Action, RoleAssignment},
    scope::Scope,
};
use postern_store::{ItemCounts, LastUses, Tx};
use serde_json::{Value, json};

use crate::{decide::Question, failure::Failure, flow::authenticate::Caller, reading::hidden, state::App};

/// How many reviewers a message names.
const NAMED: usize = 5;
/// A round starts; whoever subscribes for reviewers is told.
pub(crate) const START: &str = "access_review.start";
/// An item is decided, by a reviewer or at the deadline.
pub(crate) const DECIDE: &str = "access_review.decide";

/// Why a round does not start.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// Its scope has more role assignments than one takes.
    TooLarge(usize),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for NotStarted {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// That there are too many role assignments.
pub(crate) fn too_large(found: usize) -> String {
    format!("there are {found} role assignments at the scope and below; one access review takes {MAX_ITEMS}")
}

/// That whoever made the access review may not start a round of it any more.
/// `until_seen` where a group of theirs would allow it, if it were known that they still are in it.
pub(crate) fn not_allowed(next: &AccessReview, decision: &Decision, until_seen: bool) -> String {
    let again = match next.next_round_at {
        _ if until_seen => format!(
            " No token has named their groups for more than {GROUPS_BELIEVED_DAYS} days: it starts when they sign in with \
             the group that allows it."
        ),
        Some(at) => format!(" It is tried again at {}.", postern_core::time::written(at)),
        None => String::new(),
    };
    format!(
        "round {} of `{}` starts by the right of {}, who made it: {}. Whoever may `assign` at `{}` makes it anew.{again}",
        next.round,
        next.name,
        next.created_by,
        decision.explain(),
        next.scope,
    )
}

/// What somebody must be allowed to see an access review, or to act on role assignments in it.
pub(crate) fn resource(scope: &Scope) -> Resource {
    Resource {
        scope: scope.clone(),
        tags: BTreeMap::new(),
        kind: ResourceKind::RoleAssignment,
    }
}

/// What every event of an access review tells.
pub(crate) fn told(review: &AccessReview) -> Value {
    json!({
        "access_review": review.id,
        "series": review.series,
        "round": review.round,
        "name": review.name,
        "reviewers": review.reviewers,
        "deadline": review.deadline,
        "undecided": review.undecided,
    })
}

/// What every event of an access review tells, and these fields.
pub(crate) fn told_with(review: &AccessReview, more: Value) -> Value {
    let mut details = told(review);
    if let (Value::Object(details), Value::Object(more)) = (&mut details, more) {
        details.extend(more);
    }
    details
}

/// For whoever is told: which access review it is, who decides and until when.
pub(crate) fn summary(review: &AccessReview, waiting: usize) -> String {
    let named: Vec<String> = review
        .reviewers
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let more = match review.reviewers.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "`{}`, round {}: {waiting} role assignments wait for {}{more} until {}",
        review.name,
        review.round,
        named.join(", "),
        postern_core::time::written(review.deadline),
    )
}

/// How many items stand how in a round that just started.
pub(crate) fn all_open(items: &[AccessReviewItem]) -> ItemCounts {
    ItemCounts {
        open: u32::try_from(items.len()).unwrap_or(u32::MAX),
        ..ItemCounts::default()
    }
}

/// What the start of a round tells. How many removals are recommended is not known while the audit log is being read.
pub(crate) fn started(review: &AccessReview, items: &[AccessReviewItem]) -> Value {
    let removals = items
        .iter()
        .filter_map(|item| item.recommendation)
        .filter(|recommendation| recommendation.verdict == ItemVerdict::Remove);
    let removals = (!review.is_gathering()).then(|| removals.count());
    told_with(
        review,
        json!({ "items": items.len(), "recommended_removals": removals }),
    )
}

/// What is recommended for a role assignment of the access review that was last used then.
pub(crate) fn recommended(
    authorizer: &Authorizer,
    review: &AccessReview,
    assignment: &RoleAssignment,
    last_use: Option<&LastUse>,
) -> Recommendation {
    recommend(
        assignment,
        &authorizer.actions_of(&assignment.role),
        last_use.map(|last| last.at),
        review.unused_after(),
        review.started_at,
    )
}

impl App {
    /// Starts a round: saves it, with the role assignments at its scope and below as they are. What they were used for is
    /// read from as much of the audit log as can be in a moment, and what is unread then is read in turns.
    pub(crate) async fn start_round(
        &self,
        tx: &mut Tx,
        authorizer: &Authorizer,
        review: &mut AccessReview,
    ) -> Result<Vec<AccessReviewItem>, NotStarted> {
        let assignments = tx.assignments_below(&review.scope).await?;
        if assignments.len() > MAX_ITEMS {
            return Err(NotStarted::TooLarge(assignments.len()));
        }
        let ids: Vec<AssignmentId> = assignments.iter().map(|one| one.id).collect();
        let since = review.looked_back_to();
        let mut uses = match tx.events_since(since).await? {
            Some(unread) => tx.read_last_uses(&ids, since, unread).await?,
            None => LastUses {
                found: BTreeMap::new(),
                unread: None,
            },
        };
        review.unread = uses.unread;
        let review = &*review;
        let items: Vec<AccessReviewItem> = assignments
            .into_iter()
            .map(|assignment| {
                let last_use = uses.found.remove(&assignment.id);
                let is_known = last_use.is_some() || review.unread.is_none();
                AccessReviewItem {
                    id: self.ids.next(review.started_at),
                    review: review.id,
                    recommendation: is_known
                        .then(|| recommended(authorizer, review, &assignment, last_use.as_ref())),
                    assignment,
                    last_use,
                    state: ItemState::Open,
                }
            })
            .collect();
        tx.insert_access_review(review, &items).await?;
        Ok(items)
    }

    /// Whether the caller may see the access review: they are one of its reviewers, or may read at its scope.
    pub(crate) async fn may_see_access_review(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        review: &AccessReview,
        what: &str,
    ) -> Result<(), Failure> {
        if review.reviewer(&caller.principal).is_some() {
            return Ok(());
        }
        let question = Question {
            action: Action::Read,
            resource: resource(&review.scope),
            context: Context::at(self.now()),
            event: "access_review.read",
            subject: Subject::default(),
            reason: None,
        };
        self.allow_read(authorizer, caller, question)
            .await
            .map(drop)
            .map_err(|failure| hidden(failure, what))
    }

    /// An event of an access review that nobody's call made.
    pub(crate) fn access_review_event(
        &self,
        action: &str,
        scope: &Scope,
        rule: &str,
        details: Value,
    ) -> AuditEvent {
        let now = self.now();
        AuditEvent {
            id: self.ids.next(now),
            at: now,
            action: action.to_owned(),
            outcome: Outcome::Succeeded,
            actor: Actor::System {
                component: "access-reviews".to_owned(),
            },
            scope: scope.clone(),
            reason: None,
            decision: Some(json!({ "decided_by": "lifecycle", "rule": rule })),
            details,
            subject: Subject::default(),
            http_request: None,
        }
    }
}

/// What the removal of a role assignment tells, as its deletion does.
pub(crate) fn removed(review: &AccessReview, item: &AccessReviewItem, removed: &RoleAssignment) -> Value {
    json!({ "before": removed, "after": null, "access_review": review.id, "item": item.id })
}
