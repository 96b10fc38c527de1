//! The reconcile loop: one level-triggered path for opening, expiry, revocation, policy change, drift and crash
//! recovery.
//!
//! [`Engine::run`] leases due enforcement points and makes a [`pass`] over each; [`discovery`] keeps the
//! inventory and with it the question which machine stands behind which point. Nothing is handed to a pass but
//! the point: what is wanted is read from the store, what is there is read from the cloud.

mod backstop;
pub mod config;
pub mod discovery;
mod dispatch;
mod events;
mod failpoint;
mod findings;
mod heartbeat;
mod leases;
pub mod metrics;
mod outcome;
pub mod pass;
mod refusals;
mod reminders;
mod rest;
mod restore;
mod servers;
mod settle;
mod strays;
mod together;
mod turns;
mod unfinished;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use postern_core::{
    enforcer::Enforcer,
    machine::Cloud,
    time::{Clock, IdSource},
};
use postern_store::Store;

pub use crate::{config::EngineConfig, metrics::Metrics};

/// What the loop needs: the store, an enforcer per cloud, time, ids.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    enforcers: BTreeMap<Cloud, Arc<dyn Enforcer>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    config: Arc<EngineConfig>,
    metrics: Arc<Metrics>,
    /// Whether requests may have been left half-had: the next run of the backstop looks for them.
    half_had: Arc<AtomicBool>,
    /// Where nothing was to be done when it was last looked at.
    at_rest: Arc<rest::AtRest>,
    /// Discoveries that failed at a page.
    unfinished: Arc<unfinished::Unfinished>,
}

impl Engine {
    /// An engine that does nothing until [`Engine::run`].
    pub fn new(
        store: Store,
        enforcers: impl IntoIterator<Item = Arc<dyn Enforcer>>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        config: EngineConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let enforcers = enforcers
            .into_iter()
            .map(|enforcer| (enforcer.cloud(), enforcer))
            .collect();
        Self {
            store,
            enforcers,
            clock,
            ids,
            config: Arc::new(config),
            metrics,
            half_had: Arc::default(),
            at_rest: Arc::default(),
            unfinished: Arc::default(),
        }
    }

    fn enforcer(&self, cloud: Cloud) -> Option<&Arc<dyn Enforcer>> {
        self.enforcers.get(&cloud)
    }
}

pub use crate::{failpoint::crash_at, restore::restored};
