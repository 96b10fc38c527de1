//! What every handler shares.

use std::{fmt, sync::Arc};

use postern_core::{
    cloud_roles::CloudRoles,
    enforcer::Enforcer,
    time::{Clock, IdSource, Instant},
};
use postern_store::Store;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Authenticator, failed::FailureBudget},
    config::ServerConfig,
    decide::Decider,
    flow::limits::{PrincipalPlaces, PrincipalRate},
    gathering::Gathering,
    makers::Makers,
    metrics::Metrics,
    waiting::Waiting,
};

/// Whether the reconcile loop of this process does its work; if not, why.
pub type EngineHealth = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What every handler shares.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) authenticator: Authenticator,
    pub(crate) failures: FailureBudget,
    pub(crate) decider: Decider,
    pub(crate) metrics: Metrics,
    pub(crate) registry: Registry,
    pub(crate) engine: EngineHealth,
    /// Who is asked for a second yes, where one is demanded.
    pub(crate) cloud_roles: Option<Arc<dyn CloudRoles>>,
    /// Places for requests under way.
    pub(crate) permits: Arc<Semaphore>,
    /// Places for requests without a token.
    pub(crate) open_permits: Semaphore,
    /// Places for long polls.
    pub(crate) seats: Semaphore,
    pub(crate) rate: PrincipalRate,
    /// Places of each principal for requests under way.
    pub(crate) places: Arc<PrincipalPlaces>,
    pub(crate) waiting: Waiting,
    /// Requests that share a transaction.
    pub(crate) gathering: Gathering,
    /// Whose groups further rounds of access reviews start by.
    pub(crate) makers: Makers,
    /// The turn to read the clouds for a dry run.
    pub(crate) foresight: Semaphore,
    /// Which read the clouds for dry runs, and are told to write nothing.
    pub(crate) enforcers: Vec<Arc<dyn Enforcer>>,
    /// Which knows tickets, where one is configured.
    pub(crate) tickets: Option<crate::tickets::TicketSystem>,
    /// Ends long polls when the server stops.
    pub(crate) stopping: CancellationToken,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl App {
    /// The current time.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }
}
