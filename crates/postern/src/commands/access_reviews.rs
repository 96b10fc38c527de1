//! `postern access-reviews`: who has which role, looked at from time to time.

use chrono::TimeDelta;
use postern_api::access_review::{
    AccessReview, AccessReviewCancel, AccessReviewCreate, AccessReviewItem, AccessReviewItemDecide,
    AccessReviewItemQuery, AccessReviewQuery, AccessReviewRecurrence, ItemVerdict, Undecided,
};
use postern_core::time::{Clock, SystemClock};
use serde::Serialize;

use super::naming;
use crate::{
    cli::{
        AccessReviewCancelArgs, AccessReviewCreateArgs, AccessReviewDecideArgs, AccessReviewGetArgs,
        AccessReviewsArgs, AccessReviewsCommand, AccessReviewsListArgs, Verdict,
    },
    connect,
    exit::{Exit, Failure},
    output,
};

/// Lists access reviews, shows one, starts, decides or cancels one.
pub async fn run(args: AccessReviewsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(AccessReviewsCommand::Get(args)) => get(args).await,
        Some(AccessReviewsCommand::Create(args)) => create(args).await,
        Some(AccessReviewsCommand::Decide(args)) => decide(args).await,
        Some(AccessReviewsCommand::Cancel(args)) => cancel(args).await,
    }
}

async fn list(args: AccessReviewsListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let reviews = connect::all(args.many.limit, |cursor, limit| {
        let query = AccessReviewQuery {
            status: args.status.clone(),
            mine: args.mine.then_some(true),
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.access_reviews(&query).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, reviews.as_slice(), listed)?)
}

fn listed(reviews: &[AccessReview]) -> String {
    let rows = reviews.iter().map(|review| {
        [
            review.id.clone(),
            review.name.clone(),
            review.scope.clone(),
            review.round.to_string(),
            review.status.clone(),
            output::instant(review.deadline),
            review.items.open.to_string(),
            review.items.removed.to_string(),
        ]
    });
    let header = [
        "ACCESS REVIEW",
        "NAME",
        "SCOPE",
        "ROUND",
        "STATUS",
        "DEADLINE",
        "OPEN",
        "REMOVED",
    ];
    output::table(header, rows)
}

/// An access review with its items, as scripts get it.
#[derive(Serialize)]
struct WithItems<'a> {
    access_review: &'a AccessReview,
    items: &'a [AccessReviewItem],
}

async fn get(args: AccessReviewGetArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::access_review(&client, &args.id).await?;
    let review = client.access_review(&id).await?;
    let items = connect::all(args.many.limit, |cursor, limit| {
        let query = AccessReviewItemQuery {
            status: args.status.clone(),
            scope: args.scope.clone(),
            cursor,
            limit: Some(limit),
        };
        let (client, id) = (&client, &id);
        async move { client.access_review_items(id, &query).await }
    })
    .await?;
    if args.remote.json {
        output::json(&WithItems {
            access_review: &review,
            items: &items,
        })?;
        return Ok(());
    }
    let undecided = match review.undecided {
        Undecided::Remove => "removed",
        Undecided::Keep => "kept",
    };
    let mut fields = vec![
        ("Access review", review.id.clone()),
        ("Name", review.name.clone()),
        ("Scope", review.scope.clone()),
        ("Reviewers", review.reviewers.join(", ")),
        ("Round", review.round.to_string()),
        ("Status", review.status.clone()),
        ("Deadline", output::instant(review.deadline)),
        ("Undecided are", undecided.to_owned()),
    ];
    if let Some(next) = review.next_round_at {
        fields.push(("Next round", output::instant(next)));
    }
    if let Some(missed) = &review.not_started {
        let missed = format!("not started at {}: {}", output::instant(missed.at), missed.reason);
        fields.push(("Put off", missed));
    }
    if review.evidence == "gathering" {
        let evidence = "the audit log is still being read; look again for what is recommended";
        fields.push(("Evidence", evidence.to_owned()));
    }
    output::line(&output::fields(fields))?;
    output::line("")?;
    output::line(&items_listed(&items))?;
    Ok(())
}

fn items_listed(items: &[AccessReviewItem]) -> String {
    let rows = items.iter().map(|item| {
        let last = item.last_use.as_ref();
        [
            item.id.clone(),
            item.assignment.principal.clone(),
            item.assignment.role.clone(),
            item.assignment.scope.clone(),
            output::instant_or_dash(last.map(|last| last.at)),
            item.recommendation.as_ref().map_or_else(
                || "-".to_owned(),
                |one| format!("{} ({})", word(one.decision), one.because),
            ),
            item.status.clone(),
        ]
    });
    let header = [
        "ITEM",
        "PRINCIPAL",
        "ROLE",
        "SCOPE",
        "LAST USED",
        "RECOMMENDED",
        "STATUS",
    ];
    output::table(header, rows)
}

const fn word(verdict: ItemVerdict) -> &'static str {
    match verdict {
        ItemVerdict::Keep => "keep",
        ItemVerdict::Remove => "remove",
    }
}

async fn create(args: AccessReviewCreateArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let lasts = args.lasts.unwrap_or_default();
    let deadline = match args.until {
        Some(until) => until,
        None => TimeDelta::from_std(lasts)
            .ok()
            .and_then(|lasts| SystemClock.now().checked_add_signed(lasts))
            .ok_or_else(|| Failure::new(Exit::Usage, "`--for` is longer than any access review lasts"))?,
    };
    let recurrence = args.every_days.zip(args.round_days);
    let body = AccessReviewCreate {
        name: args.name,
        scope: args.scope,
        reviewers: args.reviewers,
        deadline,
        undecided: match args.undecided {
            Verdict::Keep => Undecided::Keep,
            Verdict::Remove => Undecided::Remove,
        },
        unused_after_days: args.unused_after_days,
        recurrence: recurrence.map(|(every_days, round_days)| AccessReviewRecurrence {
            every_days,
            round_days,
        }),
    };
    let made = connect::keyed(|key| {
        let (client, body) = (&client, &body);
        async move { client.create_access_review(Some(&key), body).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, &made, |made| {
        listed(std::slice::from_ref(made))
    })?)
}

async fn decide(args: AccessReviewDecideArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let body = AccessReviewItemDecide {
        decision: match args.decision {
            Verdict::Keep => ItemVerdict::Keep,
            Verdict::Remove => ItemVerdict::Remove,
        },
        reason: args.reason,
    };
    let decided = connect::keyed(|key| {
        let (client, body, id) = (&client, &body, &args.id);
        async move { client.decide_access_review_item(id, Some(&key), body).await }
    })
    .await?;
    if args.remote.json {
        output::json(&decided)?;
        return Ok(());
    }
    let assignment = &decided.assignment;
    output::line(&format!(
        "`{}` of {} at {} is {}",
        assignment.role, assignment.principal, assignment.scope, decided.status
    ))?;
    Ok(())
}

async fn cancel(args: AccessReviewCancelArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::access_review(&client, &args.id).await?;
    let body = AccessReviewCancel { reason: args.reason };
    let cancelled = connect::keyed(|key| {
        let (client, body, id) = (&client, &body, &id);
        async move { client.cancel_access_review(id, Some(&key), body).await }
    })
    .await?;
    if args.remote.json {
        output::json(&cancelled)?;
        return Ok(());
    }
    output::line(&format!(
        "{} is {}; no further round starts",
        cancelled.id, cancelled.status
    ))?;
    Ok(())
}
