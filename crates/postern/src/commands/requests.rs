//! `postern requests`, `approve`, `deny` and `withdraw`.

use postern_api::access_request::{AccessRequestApprove, AccessRequestDeny, AccessRequestQuery};

use super::{
    machines, naming,
    request::{show, whole_seconds},
};
use crate::{
    cli::{ApproveArgs, DecideArgs, DenyArgs, GetCommand, RequestsArgs, RequestsListArgs},
    connect,
    exit::{Exit, Failure},
    output,
};

/// The status of what may be decided.
const PENDING: Option<&str> = Some("pending");

/// Lists access requests, or shows one.
pub async fn run(args: RequestsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(GetCommand::Get(one)) => {
            let client = connect::client(&one.remote)?;
            let id = naming::request(&client, &one.id, None).await?;
            let request = client.access_request(&id).await?;
            show(&request, one.remote.json)
        }
    }
}

async fn list(args: RequestsListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let requests = connect::all(args.many.limit, |cursor, limit| {
        let query = AccessRequestQuery {
            status: args.status.clone(),
            requester: args.mine.then(|| "me".to_owned()),
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.access_requests(&query).await }
    })
    .await?;
    if args.remote.json {
        output::json(&requests)?;
        return Ok(());
    }
    let rows = requests.into_iter().map(|request| {
        [
            request.id,
            request.status,
            request.requester,
            request.targets.len().to_string(),
            output::seconds(request.duration_seconds),
            output::instant(request.created_at),
            request.reason,
        ]
    });
    output::line(&output::table(
        [
            "REQUEST",
            "STATUS",
            "REQUESTER",
            "MACHINES",
            "FOR",
            "MADE",
            "REASON",
        ],
        rows,
    ))?;
    Ok(())
}

/// Approves a request.
pub async fn approve(args: ApproveArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::request(&client, &args.id, PENDING).await?;
    let narrows = !(args.machines.is_empty() && args.ports.is_empty() && args.sources.is_empty());
    let targets = if narrows {
        let mut machines = Vec::with_capacity(args.machines.len());
        for machine in &args.machines {
            machines.push(machines::resolve(&client, machine).await?);
        }
        let mut targets = client.access_request(&id).await?.targets;
        if let Some(other) = machines
            .iter()
            .find(|machine| !targets.iter().any(|target| target.machine == **machine))
        {
            let message = format!("machine `{other}` is not in request `{id}`");
            return Err(Failure::new(Exit::Usage, message));
        }
        targets.retain(|target| machines.is_empty() || machines.contains(&target.machine));
        for target in &mut targets {
            if !args.ports.is_empty() {
                target.ports.clone_from(&args.ports);
            }
            if !args.sources.is_empty() {
                target.sources.clone_from(&args.sources);
            }
        }
        Some(targets)
    } else {
        None
    };
    let approve = AccessRequestApprove {
        duration_seconds: args.duration.map(whole_seconds).transpose()?,
        targets,
        comment: args.comment,
    };
    let request = connect::keyed(|key| {
        let (client, id, approve) = (&client, &id, &approve);
        async move { client.approve_access_request_for(id, Some(&key), approve).await }
    })
    .await?;
    show(&request, args.remote.json)
}

/// Turns a request down.
pub async fn deny(args: DenyArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::request(&client, &args.id, PENDING).await?;
    let deny = AccessRequestDeny { reason: args.reason };
    let request = connect::keyed(|key| {
        let (client, id, deny) = (&client, &id, &deny);
        async move { client.deny_access_request(id, Some(&key), deny).await }
    })
    .await?;
    show(&request, args.remote.json)
}

/// Takes a request back.
pub async fn withdraw(args: DecideArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::request(&client, &args.id, PENDING).await?;
    let request = connect::keyed(|key| {
        let (client, id) = (&client, &id);
        async move { client.withdraw_access_request(id, Some(&key)).await }
    })
    .await?;
    show(&request, args.remote.json)
}
