//! `postern grants`, `extend` and `revoke`.

use std::time::Duration;

use postern_api::{
    client::Client,
    grant::{Grant, GrantExtend, GrantQuery, GrantRevoke},
};

use super::{machines, request};
use crate::{
    cli::{ExtendArgs, GrantsArgs, GrantsCommand, GrantsListArgs, RevokeArgs},
    connect,
    exit::{Exit, Failure},
    output,
};

/// How often a grant is looked at while waiting.
const LOOK: Duration = Duration::from_millis(300);

/// Lists grants, or shows one.
pub async fn run(args: GrantsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(GrantsCommand::List(args)) => list(args).await,
        Some(GrantsCommand::Get(one)) => {
            let grant = connect::client(&one.remote)?.grant(&one.id).await?;
            show(&grant, one.remote.json)
        }
    }
}

async fn list(args: GrantsListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let machine = match &args.machine {
        Some(text) => Some(machines::resolve(&client, text).await?),
        None => None,
    };
    let grants = connect::all(args.many.limit, |cursor, limit| {
        let query = GrantQuery {
            status: args.status.clone(),
            requester: args.mine.then(|| "me".to_owned()),
            machine: machine.clone(),
            request: None,
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.grants(&query).await }
    })
    .await?;
    if args.remote.json {
        output::json(&grants)?;
    } else {
        output::line(&listed(&grants))?;
    }
    Ok(())
}

/// A table of grants.
pub fn listed(grants: &[Grant]) -> String {
    let rows = grants.iter().map(|grant| {
        [
            grant.id.clone(),
            grant.status.clone(),
            grant.ports.join(" "),
            grant.sources.join(" "),
            output::instant_or_dash(grant.ends_at.or(grant.ended_at)),
            grant.machine.clone(),
        ]
    });
    output::table(["GRANT", "STATUS", "PORTS", "SOURCES", "ENDS", "MACHINE"], rows)
}

fn show(grant: &Grant, json: bool) -> Result<(), Failure> {
    if json {
        output::json(grant)?;
        return Ok(());
    }
    let mut rows = vec![
        ("Grant", grant.id.clone()),
        ("Status", grant.status.clone()),
        ("Truth", grant.truth.clone()),
        ("Machine", grant.machine.clone()),
        ("Ports", grant.ports.join(" ")),
        ("Sources", grant.sources.join(" ")),
        ("For", output::seconds(grant.duration_seconds)),
        ("Requester", grant.requester.clone()),
        ("Request", grant.request_id.clone()),
        ("Policy", grant.policy_id.clone()),
        ("Made", output::instant(grant.created_at)),
    ];
    for (name, at) in [
        ("Starts", grant.starts_at),
        ("Opened", grant.opened_at),
        ("Ends", grant.ends_at),
        ("Ended", grant.ended_at),
        ("Closed", grant.closed_at),
    ] {
        if let Some(at) = at {
            rows.push((name, output::instant(at)));
        }
    }
    if let Some(cause) = &grant.cause {
        let by = cause
            .by
            .as_ref()
            .map(|by| format!(" by {by}"))
            .unwrap_or_default();
        let reason = cause
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        rows.push(("Cause", format!("{}{by}{reason}", cause.kind)));
    }
    output::line(&output::fields(rows))?;
    output::line("")?;
    let hops = grant.hops.iter().map(|hop| {
        [
            hop.point.clone(),
            hop.state.clone(),
            output::instant_or_dash(hop.read_at),
            hop.blocked_by
                .clone()
                .or_else(|| hop.obstacle.clone())
                .unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::line(&output::table(["HOP", "STATE", "READ", "IN THE WAY"], hops))?;
    if !grant.findings.is_empty() {
        output::line("")?;
        output::line(&super::machines::findings(&grant.findings))?;
    }
    Ok(())
}

/// Asks for a grant to last longer.
pub async fn extend(args: ExtendArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let extend = GrantExtend {
        duration_seconds: request::whole_seconds(args.duration)?,
        reason: args.reason,
    };
    let made = connect::keyed(|key| {
        let (client, id, extend) = (&client, &args.id, &extend);
        async move { client.extend_grant(id, Some(&key), extend).await }
    })
    .await?;
    request::show(&made, args.remote.json)
}

/// Ends a grant, and waits until it is closed where told to.
pub async fn revoke(args: RevokeArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let revoke = GrantRevoke { reason: args.reason };
    let mut grant = connect::keyed(|key| {
        let (client, id, revoke) = (&client, &args.id, &revoke);
        async move { client.revoke_grant(id, Some(&key), revoke).await }
    })
    .await?;
    let mut in_time = true;
    if args.waiting.wait {
        (grant, in_time) = closed(&client, grant, args.waiting.timeout).await?;
    }
    show(&grant, args.remote.json)?;
    if in_time {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::TimedOut,
            format!("not closed yet: {}", grant.truth),
        ))
    }
}

async fn closed(client: &Client, mut grant: Grant, timeout: Duration) -> Result<(Grant, bool), Failure> {
    let progress = output::Progress::start(grant.truth.clone());
    let deadline = tokio::time::Instant::now() + timeout;
    while grant.status != "closed" {
        if tokio::time::Instant::now() >= deadline {
            return Ok((grant, false));
        }
        tokio::time::sleep(LOOK).await;
        grant = client.grant(&grant.id).await?;
        progress.say(grant.truth.clone());
    }
    Ok((grant, true))
}
