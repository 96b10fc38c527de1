//! The demo: everything on this machine. A private Postgres, both clouds simulated with a few machines, an
//! identity provider with a few users, and the real server with the real enforcers in between.

pub mod check;
pub mod fleet;
pub mod gate;
pub mod issuer;
pub mod people;
pub mod place;
pub mod stage;
pub mod story;
pub mod trail;
mod webhook;
pub mod witness;

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
};

use postern_core::time::{Clock, IdSource, RandomIds, SystemClock};
use postern_localpg::LocalPostgresError;

use crate::{
    cli::DemoArgs,
    config::LogFormat,
    exit::{Exit, Failure},
    logging, output,
    service::StopSignal,
};
use place::{DemoDir, DemoState};
use stage::{Keeping, Stage};
use webhook::Webhook;

/// Runs the demo until it is told to stop, or plays its story.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    logging::start(
        &std::env::var("POSTERN_LOG").unwrap_or_else(|_| "warn".to_owned()),
        LogFormat::Text,
    )?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids: Arc<dyn IdSource> = Arc::new(RandomIds);
    if args.check {
        return Box::pin(story::play(clock, ids)).await;
    }
    let dir = DemoDir::choose(args.data_dir)?;
    look_for_port(args.port)?;
    let webhook = args.webhook.map(Webhook::new);
    let notify = webhook
        .as_ref()
        .map(|webhook| webhook.subscriber(args.port))
        .transpose()?;
    // From here on there is something to clean up.
    let mut stop = StopSignal::listen()?;
    let kept = dir.database().exists();
    dir.make()?;
    let started = {
        let _progress = output::Progress::start("starting Postgres, two clouds and the server");
        Stage::start(
            Keeping::In(dir.database()),
            args.port,
            clock,
            ids,
            notify.unwrap_or_default(),
        )
        .await
    };
    let mut stage = match started {
        Ok(stage) => stage,
        Err(error) if is_in_use(&error) => {
            return Err(error
                .context(
                    "another demo runs: end it, or choose another directory with --data-dir and another port \
                     with --port",
                )
                .into());
        }
        Err(error) => {
            // What was there before is somebody's.
            if !kept {
                dir.remove()?;
            }
            return Err(error.into());
        }
    };
    let ran = until_told(&mut stage, &dir, webhook.as_ref(), &mut stop).await;
    output::note("stopping")?;
    let stopped = stage.stop().await;
    if args.keep {
        dir.clear()?;
        output::note(&format!("the data is kept in {}", dir.path().display()))?;
    } else {
        dir.remove()?;
    }
    ran?;
    stopped?;
    Ok(())
}

/// Whether the port can be had; said before anything is started, because it is what most often cannot.
fn look_for_port(port: u16) -> Result<(), Failure> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Failure::new(
            Exit::Conflict,
            format!(
                "port {port} of 127.0.0.1 is taken, perhaps by another demo: end that, or choose another port with \
                 --port (0 takes any that is free)"
            ),
        )),
        Err(error) => Err(Failure::new(
            Exit::Failure,
            format!("port {port} of 127.0.0.1 cannot be listened on: {error}"),
        )),
    }
}

/// Whether the data directory is another running demo's.
fn is_in_use(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<LocalPostgresError>(),
            Some(LocalPostgresError::InUse(_))
        )
    })
}

async fn until_told(
    stage: &mut Stage,
    dir: &DemoDir,
    webhook: Option<&Webhook>,
    stop: &mut StopSignal,
) -> Result<(), Failure> {
    let reach = DemoState {
        server: stage.url(),
        issuer: stage.issuer.url().to_owned(),
        ec2: stage.fleet.ec2.url(),
        arm: stage.fleet.arm.url(),
    };
    dir.write(&reach)?;
    stage.give_roles().await?;
    output::line(&welcome(&reach, stage, dir))?;
    if let Some(webhook) = webhook {
        output::line(&webhook.told())?;
    }
    tokio::select! {
        () = stop.told() => Ok(()),
        error = stage.service.ended() => Err(error.into()),
    }
}

fn welcome(reach: &DemoState, stage: &Stage, dir: &DemoDir) -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "postern".to_owned(), |path| path.display().to_string());
    let usual = DemoDir::choose(None).is_ok_and(|usual| usual.path() == dir.path());
    let data_dir = if usual {
        String::new()
    } else {
        format!(" --data-dir '{}'", dir.path().display())
    };
    let DemoState {
        server,
        issuer,
        ec2,
        arm,
    } = reach;
    let (web, app) = (&stage.fleet.web, &stage.fleet.app);
    let door = match &stage.fleet.gate {
        Some(gate) => gate.door.to_string(),
        None => "…".to_owned(),
    };
    format!(
        r#"Postern's demo serves at {server}   (Ctrl-C ends it and cleans up)
  identity provider {issuer}
  Azure simulator   {arm}
  EC2 simulator     {ec2}

Users: ada (engineer), sam (approver), olga (owner), ci (a pipeline), eve (nobody).
Machines: web-1 and db-1 in Azure, vault-1 there behind an Azure Firewall, app-1 and build-1 in AWS. Their SSH ports
are open to far too many.

In another shell:

  postern() {{ '{program}' "$@"; }}
  export POSTERN_SERVER={server}
  as() {{ POSTERN_TOKEN=$(postern token --user "$1"{data_dir}) postern "${{@:2}}"; }}

  as ada machines
  echo '{{"name": "management ports", "scope": "/", "guards": [
    {{"ports": "22", "allowed_sources": ["203.0.113.0/24"], "max_duration_seconds": 10800}},
    {{"ports": "3389", "allowed_sources": ["203.0.113.0/24"], "max_duration_seconds": 10800}}]}}' |
    as olga policies create --file -
  as ada machines
  as ada request web-1 app-1 --port 22 --source 203.0.113.7 --for 5m --reason "disk full" --wait
  as ada grants
  as ada request vault-1 --port 22 --source 203.0.113.7 --for 5m --reason "rotate keys" --wait
  as eve request {web} --port 22 --source 203.0.113.7 --for 5m --reason "let me in"
  as olga audit --since 10m

Or with curl:

  TOKEN=$(postern token --user ada{data_dir})
  curl -s {server}/v1/machines -H "Authorization: Bearer $TOKEN"
  curl -s '{server}/v1/access-requests?wait=10' -H "Authorization: Bearer $TOKEN" \
    -H 'Content-Type: application/json' -d '{{
      "duration_seconds": 300, "reason": "disk full",
      "targets": [
        {{"machine": "{web}", "ports": ["22"], "sources": ["203.0.113.7"]}},
        {{"machine": "{app}", "ports": ["22"], "sources": ["203.0.113.7"]}}]}}'

What the clouds really did: {arm}/_sim/truth and {ec2}/_sim/truth
Where a packet to the firewall gets to (address and port as the grant of vault-1 says under CONNECT TO):
  curl -s '{arm}/_sim/lands?source=203.0.113.7&address={door}&port=50000'
"#
    )
}
