//! The loop that delivers.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use chrono::TimeDelta;
use postern_core::{
    mark::Installation,
    time::{Clock, IdSource, Instant},
};
use postern_store::{Attempted, Store, StoreError, SubscriberLease, Subscription, Waiting};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    channel::{Channel, DeliveryError},
    config::{InvalidNotify, NotifyConfig},
    link::Links,
    message::Message,
};

/// The most messages under one lease, so that a busy subscriber is given back now and then.
const BATCH: u32 = 50;
/// The backstop of the wake-ups.
const POLL: Duration = Duration::from_secs(10);
/// How often what was delivered long ago is forgotten, and the gauges are read.
const HOUSEKEEPING: Duration = Duration::from_mins(1);
/// The first wait after a failed attempt; doubles…
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// …up to this.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    subscriber: String,
    outcome: &'static str,
}

/// What can be watched.
#[derive(Debug, Clone, Default)]
pub struct NotifyMetrics {
    attempts: Family<Labels, Counter>,
    waiting: Gauge<i64, AtomicI64>,
    dead: Gauge<i64, AtomicI64>,
}

impl NotifyMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "postern_deliveries",
            "Attempts to tell a subscriber, by outcome: delivered, again, dead",
            metrics.attempts.clone(),
        );
        registry.register(
            "postern_deliveries_waiting",
            "Deliveries that wait",
            metrics.waiting.clone(),
        );
        registry.register(
            "postern_deliveries_dead",
            "Deliveries that were given up and not replayed",
            metrics.dead.clone(),
        );
        metrics
    }
}

/// Where a notifier works.
#[derive(Debug)]
pub struct Setting {
    /// Whose events these are.
    pub installation: Installation,
    /// Where they are.
    pub store: Store,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub ids: Arc<dyn IdSource>,
    /// The name of this process among the replicas.
    pub owner: String,
    /// How long a subscriber is leased at a time, renewed while it is told: after a crash it hears nothing for so
    /// long.
    pub lease: Duration,
    /// What can be watched.
    pub metrics: NotifyMetrics,
}

/// Tells subscribers what happened.
#[derive(Debug, Clone)]
pub struct Notifier {
    store: Store,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    owner: String,
    lease: Duration,
    installation: Installation,
    links: Links,
    give_up_after: TimeDelta,
    keep_delivered: TimeDelta,
    channels: Arc<BTreeMap<String, Box<dyn Channel>>>,
    subscriptions: Vec<Subscription>,
    metrics: NotifyMetrics,
}

impl Notifier {
    /// A notifier for this configuration.
    pub fn new(config: &NotifyConfig, setting: Setting) -> Result<Self, InvalidNotify> {
        let Setting {
            installation,
            store,
            clock,
            ids,
            owner,
            lease,
            metrics,
        } = setting;
        let (subscriptions, channels): (Vec<Subscription>, Vec<Box<dyn Channel>>) =
            config.channels()?.into_iter().unzip();
        let names = subscriptions.iter().map(|one| one.name.clone());
        Ok(Self {
            channels: Arc::new(names.zip(channels).collect()),
            subscriptions,
            store,
            clock,
            ids,
            owner,
            lease,
            installation,
            links: config.links(),
            give_up_after: TimeDelta::from_std(config.give_up_after()).unwrap_or(TimeDelta::MAX),
            keep_delivered: TimeDelta::from_std(config.keep_delivered()).unwrap_or(TimeDelta::MAX),
            metrics,
        })
    }

    /// Makes the configured subscribers those that events are written for. Before the server takes requests, so
    /// that nothing is missed.
    pub async fn subscribe(&self) -> Result<(), StoreError> {
        self.store.subscribe(&self.subscriptions, self.clock.now()).await
    }

    /// Delivers until `stop`. Attempts that are under way are finished first.
    pub async fn run(self, stop: CancellationToken) {
        let mut listener = None;
        let mut under_way = JoinSet::new();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            if listener.is_none() {
                listener = self.store.outbox_listener().await.ok();
            }
            while under_way.try_join_next().is_some() {}
            while let Some(lease) = self.lease().await {
                let (this, stop) = (self.clone(), stop.clone());
                under_way.spawn(async move { this.deliver_all(lease, &stop).await });
            }
            let pause = self.until_next().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                Some(_) = under_way.join_next() => {}
                _ = housekeeping.tick() => self.keep_house().await,
                heard = async {
                    match listener.as_mut() {
                        Some(listener) => listener.heard().await,
                        None => std::future::pending().await,
                    }
                } => if heard.is_err() {
                    listener = None;
                },
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn lease(&self) -> Option<SubscriberLease> {
        self.store
            .lease_subscriber(&self.owner, self.lease, BATCH, self.clock.now())
            .await
            .inspect_err(|error| tracing::warn!(%error, "no subscriber could be leased"))
            .ok()
            .flatten()
    }

    async fn until_next(&self) -> Duration {
        match self.store.next_delivery().await {
            Ok(Some(due)) => (due - self.clock.now())
                .to_std()
                .unwrap_or_default()
                .clamp(Duration::from_millis(10), POLL),
            Ok(None) | Err(_) => POLL,
        }
    }

    async fn keep_house(&self) {
        let done = async {
            self.store
                .forget_deliveries(self.clock.now() - self.keep_delivered)
                .await?;
            let (waiting, dead) = self.store.count_deliveries().await?;
            self.metrics.waiting.set(waiting);
            self.metrics.dead.set(dead);
            Ok::<_, StoreError>(())
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "deliveries could not be counted");
        }
    }

    /// Tells one subscriber, in order, until something does not arrive, the lease is lost or nothing is left.
    async fn deliver_all(&self, lease: SubscriberLease, stop: &CancellationToken) {
        for waiting in &lease.waiting {
            if stop.is_cancelled() {
                break;
            }
            let attempted = tokio::select! {
                attempted = self.attempt(&lease.subscriber, waiting) => attempted,
                () = self.until_lost(&lease) => {
                    tracing::warn!(subscriber = lease.subscriber, "another server delivers now");
                    return;
                }
            };
            let go_on = matches!(attempted, Attempted::Delivered | Attempted::Dead { .. });
            let held = self
                .store
                .attempted(&lease, waiting.id, &attempted, self.lease, self.clock.now())
                .await;
            match held {
                Ok(true) if go_on => {}
                Ok(true) => break,
                Ok(false) => {
                    tracing::warn!(subscriber = lease.subscriber, "another server delivers now");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "what became of a delivery could not be written; it is repeated");
                    break;
                }
            }
        }
        if let Err(error) = self.store.release_subscriber(&lease).await {
            tracing::debug!(%error, "lease of a subscriber left to run out");
        }
    }

    /// Renews the lease until it is lost.
    async fn until_lost(&self, lease: &SubscriberLease) {
        loop {
            tokio::time::sleep(self.lease / 3).await;
            match self.store.renew_subscriber(lease, self.lease).await {
                Ok(true) => {}
                Ok(false) => return,
                // A database that does not answer now may answer before the lease runs out.
                Err(error) => tracing::warn!(%error, "the lease of a subscriber was not renewed"),
            }
        }
    }

    async fn attempt(&self, subscriber: &str, waiting: &Waiting) -> Attempted {
        let now = self.clock.now();
        let message = Message::of(&waiting.event, &self.installation, &self.links);
        let result = match self.channels.get(subscriber) {
            Some(channel) => channel.deliver(&message, now).await,
            // Another replica has a later configuration, in which it is.
            None => Err(DeliveryError::passing("this server does not know the subscriber")),
        };
        let (attempted, outcome) = match result {
            Ok(()) => (Attempted::Delivered, "delivered"),
            Err(error) => {
                let (attempted, outcome) = self.failed(waiting, &error, now);
                tracing::warn!(subscriber, event = message.id, outcome, %error, "not delivered");
                (attempted, outcome)
            }
        };
        let labels = Labels {
            subscriber: subscriber.to_owned(),
            outcome,
        };
        self.metrics.attempts.get_or_create(&labels).inc();
        attempted
    }

    fn failed(&self, waiting: &Waiting, error: &DeliveryError, now: Instant) -> (Attempted, &'static str) {
        let [a, b, ..] = self.ids.random();
        let wait = wait_after(waiting.attempts, u16::from_be_bytes([a, b]))
            .max(error.retry_after.unwrap_or_default().min(LONGEST_WAIT));
        let at = now + TimeDelta::from_std(wait).unwrap_or_default();
        let message = error.message.clone();
        if error.permanent || at - waiting.created_at > self.give_up_after {
            (Attempted::Dead { error: message }, "dead")
        } else {
            (Attempted::Again { at, error: message }, "again")
        }
    }
}

/// How long to wait after `attempts` failed attempts before this one: doubling, with jitter in the upper half.
fn wait_after(attempts: u32, random: u16) -> Duration {
    let ceiling = FIRST_WAIT.saturating_mul(1 << attempts.min(16)).min(LONGEST_WAIT);
    ceiling / 2 + (ceiling / 2).mul_f64(f64::from(random) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour_and_never_come_together() {
        assert_eq!(wait_after(0, u16::MAX), FIRST_WAIT);
        assert_eq!(wait_after(0, 0), FIRST_WAIT / 2);
        assert_eq!(wait_after(3, u16::MAX), FIRST_WAIT * 8);
        assert_eq!(wait_after(u32::MAX, u16::MAX), LONGEST_WAIT);
    }
}
