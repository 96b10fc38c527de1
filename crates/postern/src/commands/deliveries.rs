//! `postern deliveries`: whom Postern told of what, and whom it could not tell.

use postern_api::{
    client::Client,
    delivery::{Delivery, DeliveryQuery},
};

use crate::{
    cli::{DeliveriesArgs, DeliveriesCommand, DeliveriesListArgs, ReplayArgs},
    connect,
    exit::Failure,
    output,
};

/// Lists deliveries, or replays what was given up.
pub async fn run(args: DeliveriesArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(DeliveriesCommand::Replay(args)) => replay(args).await,
    }
}

/// Those with this status to this subscriber, the newest first.
async fn found(
    client: &Client,
    status: Option<String>,
    subscriber: Option<String>,
    most: u32,
) -> Result<Vec<Delivery>, Failure> {
    let found = connect::all(most, |cursor, limit| {
        let query = DeliveryQuery {
            subscriber: subscriber.clone(),
            status: status.clone(),
            cursor,
            limit: Some(limit),
        };
        async move { client.deliveries(&query).await }
    });
    Ok(found.await?)
}

async fn list(args: DeliveriesListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let deliveries = found(&client, args.status, args.subscriber, args.many.limit).await?;
    if args.remote.json {
        output::json(&deliveries)?;
    } else {
        output::line(&listed(&deliveries, args.wide))?;
    }
    Ok(())
}

fn listed(deliveries: &[Delivery], wide: bool) -> String {
    let rows = deliveries.iter().map(|delivery| {
        [
            delivery.id.to_string(),
            delivery.subscriber.clone(),
            delivery.action.clone(),
            delivery.status.clone(),
            delivery.attempts.to_string(),
            output::instant_or_dash(delivery.due_at.or(delivery.settled_at)),
            delivery
                .last_error
                .as_ref()
                .map_or_else(|| "-".to_owned(), |error| output::reason(error, wide)),
        ]
    });
    let header = [
        "DELIVERY",
        "SUBSCRIBER",
        "ACTION",
        "STATUS",
        "TRIED",
        "NEXT OR DONE",
        "LAST ERROR",
    ];
    output::table(header, rows)
}

async fn replay(args: ReplayArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let ids = if args.all {
        let dead = found(&client, Some("dead".to_owned()), args.subscriber, u32::MAX).await?;
        dead.into_iter().rev().map(|delivery| delivery.id).collect()
    } else {
        args.ids
    };
    let mut replayed = Vec::with_capacity(ids.len());
    let mut left = 0;
    for id in ids {
        let client = &client;
        let one = connect::keyed(|key| async move { client.replay_delivery(id, Some(&key)).await }).await;
        match one {
            Ok(one) => replayed.push(one),
            // Its subscriber is not configured any more, or somebody replayed it meanwhile.
            Err(error) if args.all && error.problem().is_some_and(|problem| problem.status == 404) => {
                left += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if left > 0 {
        output::note(&format!(
            "{left} of them stay as they are: nobody is configured to get them, or they were replayed meanwhile"
        ))?;
    }
    if args.remote.json {
        output::json(&replayed)?;
    } else if replayed.is_empty() && left == 0 {
        output::note("nothing was given up that is not replayed")?;
    } else if !replayed.is_empty() {
        output::line(&listed(&replayed, false))?;
    }
    Ok(())
}
