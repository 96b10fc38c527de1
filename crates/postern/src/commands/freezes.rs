//! `postern freeze` and `postern freezes`.

use postern_api::freeze::{Freeze, FreezeCreate, FreezeLift, FreezeQuery};

use super::naming;
use crate::{
    cli::{FreezeArgs, FreezeLiftArgs, FreezesArgs, FreezesCommand, FreezesListArgs},
    connect,
    exit::Failure,
    output,
};

/// Closes everything at a scope, and keeps it closed.
pub async fn freeze(args: FreezeArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let create = FreezeCreate {
        scope: args.scope,
        reason: args.reason,
    };
    let made = connect::keyed(|key| {
        let (client, create) = (&client, &create);
        async move { client.create_freeze(Some(&key), create).await }
    })
    .await?;
    if args.remote.json {
        output::json(&made)?;
        return Ok(());
    }
    output::line(&format!(
        "{} freezes {}: {} grants ended, {} requests turned down",
        made.freeze.id, made.freeze.scope, made.grants_ended, made.requests_denied
    ))?;
    Ok(())
}

/// Lists freezes, or lifts one.
pub async fn run(args: FreezesArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(FreezesCommand::Lift(args)) => lift(args).await,
    }
}

async fn list(args: FreezesListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let freezes = connect::all(args.many.limit, |cursor, limit| {
        let query = FreezeQuery {
            status: args.in_force.then(|| "in_force".to_owned()),
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.freezes(&query).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, freezes.as_slice(), listed)?)
}

fn listed(freezes: &[Freeze]) -> String {
    let rows = freezes.iter().map(|freeze| {
        [
            freeze.id.clone(),
            freeze.scope.clone(),
            output::instant(freeze.created_at),
            freeze.created_by.clone(),
            output::instant_or_dash(freeze.lifted.as_ref().map(|lifted| lifted.at)),
            freeze.reason.clone(),
        ]
    });
    output::table(["FREEZE", "SCOPE", "SINCE", "BY", "LIFTED", "REASON"], rows)
}

async fn lift(args: FreezeLiftArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::freeze(&client, &args.id).await?;
    let body = FreezeLift { reason: args.reason };
    let lifted = connect::keyed(|key| {
        let (client, body, id) = (&client, &body, &id);
        async move { client.lift_freeze(id, Some(&key), body).await }
    })
    .await?;
    if args.remote.json {
        output::json(&lifted)?;
        return Ok(());
    }
    output::line(&format!(
        "{} is lifted: access at {} may be asked for again; what was closed stays closed",
        lifted.id, lifted.scope
    ))?;
    Ok(())
}
