//! `postern serve`.

use std::sync::Arc;

use anyhow::Context as _;
use postern_core::time::{Clock, IdSource, RandomIds, SystemClock};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::ConfigArgs,
    config::Config,
    enforcers::{self, Reach},
    exit::Failure,
    guardrails::{Texts, Watch},
    logging,
    service::{self, Parts, Service, StopSignal},
};

/// Runs the server until it is told to stop.
pub async fn run(args: ConfigArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    logging::start(&config.logging.filter, config.logging.format)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let reach = enforcers::all(&config, &clock).await?;
    until_told(&config, reach, clock, Arc::new(RandomIds)).await
}

/// As [`run`], with the clouds, the time and the ids that the caller brings: a test may bring others.
pub async fn until_told(
    config: &Config,
    reach: Reach,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
) -> Result<(), Failure> {
    let mut stop = StopSignal::listen()?;
    // From the start on: one that nobody listens for ends the process.
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be listened to")?;
    let texts = Texts::read(&config.guardrails)?;
    let guardrails = texts.parse()?;
    let watched = config.guardrails.path.is_some();
    let watch = watched
        .then(|| Watch::new(config.guardrails.clone(), texts))
        .transpose()?;
    let store = service::connect(&config.database.url()?, config.database.max_connections).await?;
    service::prepare(&store, &config.installation.name).await?;
    let mut service = Service::start(Parts {
        store,
        enforcers: reach.enforcers,
        cloud_roles: reach.roles,
        engine: config.engine(service::owner(&*clock, &*ids)),
        server: config.server(),
        guardrails,
        watch,
        notify: config.notify.clone(),
        clock,
        ids,
    })
    .await?;
    tracing::info!(address = %service.addr(), installation = %config.installation.name, "serving");
    let ended = loop {
        tokio::select! {
            () = stop.told() => break None,
            error = service.ended() => break Some(error),
            // The guardrails' own watch hears it, too.
            Some(()) = hangup.recv() => if !watched {
                tracing::info!("SIGHUP, and nothing to reload: `guardrails.path` is not set");
            },
        }
    };
    if let Some(error) = ended {
        return Err(error.into());
    }
    tracing::info!("stopping");
    service.stop().await?;
    Ok(())
}
