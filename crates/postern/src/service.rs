//! One running installation in this process: database, reconcile loop and API, put together.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use postern_authz::GuardrailSet;
use postern_core::{
    cloud_roles::CloudRoles,
    enforcer::Enforcer,
    id::PassId,
    mark::Installation,
    time::{Clock, IdSource},
};
use postern_engine::{Engine, EngineConfig, Metrics};
use postern_notify::{Notifier, NotifyConfig, NotifyMetrics};
use postern_server::{Dependencies, Running, Server, config::ServerConfig};
use postern_store::{Store, StoreOptions};
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::guardrails::Watch;

/// How long passes that are under way may take when the service stops.
const DRAIN: Duration = Duration::from_secs(25);

/// What a service is made of.
#[derive(Debug)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// One enforcer per cloud.
    pub enforcers: Vec<Arc<dyn Enforcer>>,
    /// What asks for requesters' own roles in the cloud, if that is demanded.
    pub cloud_roles: Option<Arc<dyn CloudRoles>>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub ids: Arc<dyn IdSource>,
    /// The loop's settings.
    pub engine: EngineConfig,
    /// The API's settings.
    pub server: ServerConfig,
    /// What forbids whatever roles allow.
    pub guardrails: GuardrailSet,
    /// What looks whether that has become something else, if anything does.
    pub watch: Option<Watch>,
    /// Whom to tell of what.
    pub notify: NotifyConfig,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    server: Running,
    store: Store,
    engine: JoinHandle<()>,
    notifier: JoinHandle<()>,
    stop: CancellationToken,
}

/// Connects to the database.
pub async fn connect(url: &SecretString, max_connections: u32) -> anyhow::Result<Store> {
    let options = StoreOptions {
        max_connections,
        ..StoreOptions::default()
    };
    Store::connect(url, options)
        .await
        .context("the database does not answer")
}

/// Applies outstanding migrations and makes sure that the database is this installation's.
pub async fn prepare(store: &Store, installation: &Installation) -> anyhow::Result<()> {
    // Only who owns the schema can migrate it, and a server need not: it asks first.
    if !store.is_migrated().await.context("the schema cannot be read")? {
        store
            .migrate()
            .await
            .context("the migrations cannot be applied")?;
    }
    store
        .claim_installation(installation)
        .await
        .context("the database cannot be this installation's")
}

/// A name that no other process has, for leases.
pub fn owner(clock: &dyn Clock, ids: &dyn IdSource) -> String {
    let id: PassId = ids.next(clock.now());
    format!("{}-{}", std::process::id(), id.hex())
}

impl Service {
    /// Starts the loop and the API.
    pub async fn start(parts: Parts) -> anyhow::Result<Self> {
        let Parts {
            store,
            enforcers,
            cloud_roles,
            clock,
            ids,
            engine,
            server,
            guardrails,
            watch: guardrail_files,
            notify,
        } = parts;
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let stop = CancellationToken::new();
        let setting = postern_notify::Setting {
            installation: engine.installation.clone(),
            store: store.clone(),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            owner: engine.owner.clone(),
            lease: engine.lease,
            metrics: NotifyMetrics::register(&mut registry),
        };
        let notifier =
            Notifier::new(&notify, setting).context("the subscribers of `notify` cannot be told")?;
        // Before anything happens that somebody waits to hear of.
        notifier
            .subscribe()
            .await
            .context("the subscribers of `notify` cannot be written down")?;
        let engine = Engine::new(
            store.clone(),
            enforcers.iter().cloned(),
            Arc::clone(&clock),
            Arc::clone(&ids),
            engine,
            metrics,
        );
        let mut engine = tokio::spawn(engine.run(stop.clone()));
        let watch = engine.abort_handle();
        let notifier = tokio::spawn(notifier.run(stop.clone()));
        let dependencies = Dependencies {
            store: store.clone(),
            clock,
            ids,
            registry,
            guardrails,
            engine: Arc::new(move || {
                if watch.is_finished() {
                    Err("the reconcile loop has stopped".to_owned())
                } else {
                    Ok(())
                }
            }),
            enforcers,
            cloud_roles,
        };
        let server = match Server::bind(server, dependencies).await {
            Ok(server) => server,
            Err(error) => {
                stop.cancel();
                // However it ends, what is told is why there is no API.
                let _ended = tokio::time::timeout(DRAIN, &mut engine).await;
                store.close().await;
                return Err(error).context("the API cannot be served");
            }
        };
        if let Some(files) = guardrail_files {
            drop(tokio::spawn(files.run(server.guardrails(), stop.clone())));
        }
        Ok(Self {
            server,
            store,
            engine,
            notifier,
            stop,
        })
    }

    /// Where the API listens.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.server.addr()
    }

    /// Waits until the API, the loop or the notifier ends by itself, which is an error.
    pub async fn ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.server.ended() => anyhow::Error::from(error).context("the API ended"),
            result = &mut self.engine => match result {
                Ok(()) => anyhow::Error::msg("the reconcile loop ended"),
                Err(error) => anyhow::Error::from(error).context("the reconcile loop ended"),
            },
            result = &mut self.notifier => match result {
                Ok(()) => anyhow::Error::msg("the notifier ended"),
                Err(error) => anyhow::Error::from(error).context("the notifier ended"),
            },
        }
    }

    /// Takes no more requests, lets requests and passes under way finish, and stops.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self {
            server,
            store,
            engine,
            notifier,
            stop,
        } = self;
        let served = server.shutdown().await.context("the API did not stop well");
        stop.cancel();
        if !engine.is_finished() && tokio::time::timeout(DRAIN, engine).await.is_err() {
            // What they were at is taken over when their leases end.
            tracing::warn!("passes were still under way after {DRAIN:?}");
        }
        if !notifier.is_finished() && tokio::time::timeout(DRAIN, notifier).await.is_err() {
            // Whoever is told twice knows it by the event's id.
            tracing::warn!("a subscriber was still being told after {DRAIN:?}");
        }
        store.close().await;
        served
    }
}

/// Ctrl-C and SIGTERM, heard from when this is made: one that comes before it is waited for is not lost, and does not
/// end the process in the middle of something.
#[derive(Debug)]
pub struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// Begins to listen.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("Ctrl-C cannot be listened to")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?,
        })
    }

    /// Waits until one has come.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
