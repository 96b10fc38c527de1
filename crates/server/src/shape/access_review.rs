//! Access reviews and their items between the API and the domain.

use std::collections::BTreeSet;

use postern_api::{ErrorCode, access_review as api};
use postern_core::{
    access_review::{
        AccessReview, AccessReviewState, DecidedBy, InvalidAccessReview, ItemVerdict, Recurrence, Undecided,
    },
    id::AccessReviewId,
    principal::{Principal, PrincipalRef},
    scope::Scope,
    time::Instant,
};
use postern_store::{ItemCounts, StoredItem};

use super::role;
use crate::{config::ServerConfig, failure::Failure};

/// The first round that a body describes, checked.
pub(crate) fn read(
    body: api::AccessReviewCreate,
    config: &ServerConfig,
    id: AccessReviewId,
    maker: &Principal,
    now: Instant,
) -> Result<AccessReview, Failure> {
    let scope: Scope = body
        .scope
        .parse()
        .map_err(|error: postern_core::scope::InvalidScope| {
            Failure::field(ErrorCode::InvalidScope, "/scope", error.to_string())
        })?;
    let reviewers = body
        .reviewers
        .iter()
        .enumerate()
        .map(|(at, text)| reviewer(text, at, config))
        .collect::<Result<BTreeSet<PrincipalRef>, Failure>>()?;
    let recurrence = body.recurrence.map(|recurrence| Recurrence {
        every_days: recurrence.every_days,
        round_days: recurrence.round_days,
    });
    let mut review = AccessReview {
        id,
        series: id,
        round: 1,
        name: body.name,
        scope,
        reviewers,
        undecided: match body.undecided {
            api::Undecided::Remove => Undecided::Remove,
            api::Undecided::Keep => Undecided::Keep,
        },
        unused_after_days: body.unused_after_days,
        recurrence,
        created_by: maker.reference(),
        made_as: Some(Box::new(maker.clone())),
        maker_seen_at: Some(now),
        started_at: now,
        deadline: body.deadline,
        next_round_at: None,
        not_started: None,
        unread: None,
        state: AccessReviewState::Open,
    };
    review.validate(now).map_err(|error| {
        let pointer = match error {
            InvalidAccessReview::Name => "/name",
            InvalidAccessReview::Reviewers | InvalidAccessReview::NotPeople => "/reviewers",
            InvalidAccessReview::Deadline => "/deadline",
            InvalidAccessReview::UnusedAfter => "/unused_after_days",
            InvalidAccessReview::Recurrence => "/recurrence",
        };
        Failure::field(ErrorCode::InvalidAccessReview, pointer, error.to_string())
    })?;
    review.next_round_at = review.first_recurrence();
    Ok(review)
}

fn reviewer(text: &str, at: usize, config: &ServerConfig) -> Result<PrincipalRef, Failure> {
    let invalid = |detail| Failure::field(ErrorCode::InvalidPrincipal, format!("/reviewers/{at}"), detail);
    let principal: PrincipalRef = text
        .parse()
        .map_err(|error: postern_core::principal::InvalidPrincipalRef| invalid(error.to_string()))?;
    let issuer = principal.name().split('/').next().unwrap_or_default();
    if !config.issuers.iter().any(|known| known.name == issuer) {
        return Err(invalid(format!(
            "`{issuer}` is no configured issuer, so nobody could ever be `{principal}`"
        )));
    }
    Ok(principal)
}

/// What somebody says to an item.
pub(crate) const fn verdict(verdict: api::ItemVerdict) -> ItemVerdict {
    match verdict {
        api::ItemVerdict::Keep => ItemVerdict::Keep,
        api::ItemVerdict::Remove => ItemVerdict::Remove,
    }
}

const fn show_verdict(verdict: ItemVerdict) -> api::ItemVerdict {
    match verdict {
        ItemVerdict::Keep => api::ItemVerdict::Keep,
        ItemVerdict::Remove => api::ItemVerdict::Remove,
    }
}

/// The access review as the API shows it.
pub(crate) fn show(review: &AccessReview, counts: ItemCounts) -> api::AccessReview {
    let (completed_at, cancelled) = match &review.state {
        AccessReviewState::Open => (None, None),
        AccessReviewState::Completed { at } => (Some(*at), None),
        AccessReviewState::Cancelled { by, at, reason } => {
            let cancelled = api::AccessReviewCancelled {
                by: by.to_string(),
                at: *at,
                reason: reason.clone(),
            };
            (None, Some(cancelled))
        }
    };
    api::AccessReview {
        id: review.id.to_string(),
        series: review.series.to_string(),
        round: review.round,
        name: review.name.clone(),
        scope: review.scope.to_string(),
        reviewers: review.reviewers.iter().map(ToString::to_string).collect(),
        undecided: match review.undecided {
            Undecided::Remove => api::Undecided::Remove,
            Undecided::Keep => api::Undecided::Keep,
        },
        unused_after_days: review.unused_after_days,
        recurrence: review.recurrence.map(|recurrence| api::AccessReviewRecurrence {
            every_days: recurrence.every_days,
            round_days: recurrence.round_days,
        }),
        created_by: review.created_by.to_string(),
        started_at: review.started_at,
        deadline: review.deadline,
        status: review.state.status().to_owned(),
        completed_at,
        cancelled,
        next_round_at: review.next_round_at,
        not_started: review
            .not_started
            .as_ref()
            .map(|missed| api::AccessReviewNotStarted {
                at: missed.at,
                reason: missed.reason.clone(),
            }),
        evidence: match (review.unread, review.is_gathering()) {
            (None, _) => "complete",
            (Some(_), true) => "gathering",
            (Some(_), false) => "partial",
        }
        .to_owned(),
        items: api::AccessReviewItemCounts {
            open: counts.open,
            kept: counts.kept,
            removed: counts.removed,
            not_removed: counts.not_removed,
            gone: counts.gone,
        },
    }
}

/// The item as the API shows it.
pub(crate) fn show_item(stored: &StoredItem) -> api::AccessReviewItem {
    let item = &stored.item;
    let status = if stored.is_gone {
        "gone"
    } else {
        item.state.status()
    };
    let decided = item
        .state
        .decision()
        .map(|decision| api::AccessReviewItemDecision {
            by: match &decision.by {
                DecidedBy::Reviewer { principal, .. } => Some(principal.to_string()),
                DecidedBy::Deadline => None,
            },
            at: decision.at,
            reason: decision.reason.clone(),
        });
    api::AccessReviewItem {
        id: item.id.to_string(),
        access_review_id: item.review.to_string(),
        assignment: role::show_assignment(&item.assignment),
        last_use: item.last_use.as_ref().map(|last| api::LastUse {
            at: last.at,
            action: last.action.clone(),
            by: last.by.to_string(),
            event_id: last.event.to_string(),
        }),
        recommendation: item
            .recommendation
            .map(|recommendation| api::AccessReviewRecommendation {
                decision: show_verdict(recommendation.verdict),
                because: recommendation.because.as_str().to_owned(),
            }),
        status: status.to_owned(),
        decided,
    }
}

/// A status to filter items by, checked.
pub(crate) fn item_status(text: Option<&str>) -> Result<Option<&str>, Failure> {
    const ALL: [&str; 5] = ["open", "kept", "removed", "not_removed", "gone"];
    match text {
        Some(other) if !ALL.contains(&other) => Err(Failure::new(
            ErrorCode::InvalidQuery,
            format!("`status` is one of {}", ALL.join(", ")),
        )),
        one => Ok(one),
    }
}
