//! `postern reviews`.

use postern_api::review::{Review, ReviewClose, ReviewQuery};

use super::naming;
use crate::{
    cli::{ReviewCloseArgs, ReviewsArgs, ReviewsCommand, ReviewsListArgs},
    connect,
    exit::Failure,
    output,
};

/// Lists reviews, or closes one.
pub async fn run(args: ReviewsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(ReviewsCommand::Close(args)) => close(args).await,
    }
}

async fn list(args: ReviewsListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let reviews = connect::all(args.many.limit, |cursor, limit| {
        let query = ReviewQuery {
            status: args.open.then(|| "open".to_owned()),
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.reviews(&query).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, reviews.as_slice(), listed)?)
}

fn listed(reviews: &[Review]) -> String {
    let rows = reviews.iter().map(|review| {
        let closed = review.closed.as_ref();
        [
            review.id.clone(),
            review.request_id.clone(),
            output::instant(review.opened_at),
            review.requester.clone(),
            review.reason.clone(),
            closed.map_or_else(|| "open".to_owned(), |verdict| verdict.note.clone()),
        ]
    });
    output::table(["REVIEW", "REQUEST", "SINCE", "BY", "REASON", "VERDICT"], rows)
}

async fn close(args: ReviewCloseArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::review(&client, &args.id).await?;
    let body = ReviewClose { note: args.note };
    let closed = connect::keyed(|key| {
        let (client, body, id) = (&client, &body, &id);
        async move { client.close_review(id, Some(&key), body).await }
    })
    .await?;
    if args.remote.json {
        output::json(&closed)?;
        return Ok(());
    }
    output::line(&format!("{} is closed", closed.id))?;
    Ok(())
}
