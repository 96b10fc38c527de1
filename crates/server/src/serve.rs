//! Listening, serving and stopping.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use axum_server::{Handle, tls_rustls::RustlsConfig};
use hyper_util::rt::TokioTimer;
use postern_authz::GuardrailSet;
use postern_core::{
    cloud_roles::CloudRoles,
    enforcer::Enforcer,
    time::{Clock, IdSource},
};
use postern_store::{Store, StoreError};
use prometheus_client::registry::Registry;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    access_review_turn,
    auth::{Authenticator, failed::FailureBudget},
    bootstrap,
    config::{ConfigError, Limits, ServerConfig, TlsConfig},
    decide::Decider,
    flow::limits::{PrincipalPlaces, PrincipalRate},
    gathering::Gathering,
    guardrails::Guardrails,
    metrics::Metrics,
    router, starting,
    state::{App, EngineHealth},
    tickets::TicketSystem,
    waiting::{self, Waiting},
};

/// The most requests at once to the routes that need no token.
const OPEN_CONCURRENCY: usize = 32;

/// What the server works with.
pub struct Dependencies {
    /// The database, migrated.
    pub store: Store,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub ids: Arc<dyn IdSource>,
    /// Everybody's metrics; the server adds its own and serves all.
    pub registry: Registry,
    /// What forbids whatever roles allow.
    pub guardrails: GuardrailSet,
    /// Whether the reconcile loop works, for `/readyz`.
    pub engine: EngineHealth,
    /// Which read the clouds for dry runs. The server itself writes nothing through them.
    pub enforcers: Vec<Arc<dyn Enforcer>>,
    /// What a cloud's own roles say of requesters, where that is demanded besides Postern's own.
    pub cloud_roles: Option<Arc<dyn CloudRoles>>,
}

impl std::fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dependencies").finish_non_exhaustive()
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error("the server's configuration is refused")]
    Config(#[from] ConfigError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate or key cannot be used.
    #[error("cannot use the certificate or key at {path}")]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The HTTP client that fetches issuers' keys.
    #[error("cannot make the HTTP client that fetches issuers' keys")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database.
    #[error("the database did not do what it should")]
    Store(#[from] StoreError),
}

/// The server.
#[derive(Debug, Clone, Copy)]
pub struct Server;

impl Server {
    /// Checks the configuration, makes the first owners if there are none, and starts to serve.
    pub async fn bind(config: ServerConfig, dependencies: Dependencies) -> Result<Running, StartError> {
        config.validate()?;
        let Dependencies {
            store,
            clock,
            ids,
            mut registry,
            guardrails,
            engine,
            enforcers,
            cloud_roles,
        } = dependencies;
        let count = guardrails.iter().count();
        let decider = Decider::new(guardrails);
        let authenticator = Authenticator::new(&config.issuers, Arc::clone(&clock))
            .map_err(|error| StartError::Client(Box::new(error)))?;
        let tickets = config
            .tickets
            .as_ref()
            .map(TicketSystem::new)
            .transpose()
            .map_err(ConfigError::Tickets)?;
        bootstrap::first_owners(&store, &*clock, &*ids, &config.first_owners).await?;
        let tls = config.tls.as_ref().map(tls).transpose()?;
        let listen = config.listen;
        let failed = |source| StartError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let limits = config.limits.clone();
        let stopping = CancellationToken::new();
        let metrics = Metrics::register(&mut registry);
        let app = Arc::new(App {
            permits: Arc::new(Semaphore::new(limits.concurrency)),
            open_permits: Semaphore::new(OPEN_CONCURRENCY),
            seats: Semaphore::new(limits.waiting),
            foresight: Semaphore::new(1),
            rate: PrincipalRate::new(&limits),
            makers: crate::makers::Makers::default(),
            places: Arc::new(PrincipalPlaces::new(&limits)),
            waiting: Waiting::default(),
            gathering: Gathering::new(metrics.access_requests_under_way.clone()),
            tickets,
            enforcers,
            metrics,
            failures: FailureBudget::default(),
            stopping: stopping.clone(),
            config,
            store,
            clock,
            ids,
            authenticator,
            decider,
            registry,
            engine,
            cloud_roles,
        });
        app.metrics.guardrails_hold(count);
        let guardrails = Guardrails(Arc::clone(&app));
        drop(tokio::spawn(waiting::listen(Arc::clone(&app))));
        drop(tokio::spawn(starting::start_forever(Arc::clone(&app))));
        drop(tokio::spawn(access_review_turn::turn_forever(Arc::clone(&app))));
        let handle = Handle::new();
        let task = serve(listener, tls, router::router(app), &limits, handle.clone()).map_err(failed)?;
        tracing::info!(%address, "serving");
        Ok(Running {
            address,
            handle,
            task,
            guardrails,
            stopping,
            drain: Duration::from_secs(limits.drain_seconds),
        })
    }
}

/// A server that serves.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    task: JoinHandle<io::Result<()>>,
    guardrails: Guardrails,
    stopping: CancellationToken,
    drain: Duration,
}

impl Running {
    /// Where it listens; with port 0 asked for, the port that it got.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The guardrails, which may be replaced while it serves.
    pub fn guardrails(&self) -> Guardrails {
        self.guardrails.clone()
    }

    /// Decides again about the scheduled grants whose time has come, and starts them, as the server does by itself about
    /// once a second.
    pub async fn start_due(&self) {
        if let Err(failure) = self.guardrails.0.start_due().await {
            tracing::warn!(detail = failure.detail(), "scheduled grants were not started");
        }
    }

    /// Ends the access reviews whose deadline has passed, reminds reviewers and starts the next rounds, as the server does
    /// by itself within seconds.
    pub async fn turn_access_reviews(&self) {
        if let Err(failure) = self.guardrails.0.turn_access_reviews().await {
            tracing::warn!(detail = failure.detail(), "access reviews were not looked at");
        }
    }

    /// Waits until serving ends by itself, which is an error.
    pub async fn ended(&mut self) -> io::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => io::Error::other("the server stopped"),
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        }
    }

    /// Takes no more connections, lets requests under way finish within the drain time, and stops.
    pub async fn shutdown(self) -> io::Result<()> {
        self.stopping.cancel();
        self.handle.graceful_shutdown(Some(self.drain));
        self.task.await.map_err(io::Error::other)?
    }
}

fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    router: Router,
    limits: &Limits,
    handle: Handle<SocketAddr>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    macro_rules! serve {
        ($server:expr) => {{
            let mut server = $server.handle(handle);
            server
                .http_builder()
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(limits.header_seconds))
                .max_buf_size(limits.header_bytes);
            server
                .http_builder()
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(Duration::from_secs(30)))
                .max_concurrent_streams(100)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
            Ok(tokio::spawn(server.serve(service)))
        }};
    }
    if let Some(tls) = tls {
        serve!(axum_server::from_tcp_rustls(listener, tls)?)
    } else {
        serve!(axum_server::from_tcp(listener)?)
    }
}

fn tls(config: &TlsConfig) -> Result<RustlsConfig, StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: Box<dyn std::error::Error + Send + Sync>| StartError::Tls { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&config.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&config.certificate)(Box::new(error)))?;
    let key =
        PrivateKeyDer::from_pem_file(&config.key).map_err(|error| failed(&config.key)(Box::new(error)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(&config.certificate)(Box::new(error)))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(tls)))
}
