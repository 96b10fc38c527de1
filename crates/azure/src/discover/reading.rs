//! What is read of a subscription, list by list, and kept where one of them fails: the next discovery goes on there.
//!
//! A machine is known when all lists are. So what was read is kept in memory, for the next question of this process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::TimeDelta;
use postern_core::{enforcer::EnforceError, time::Instant};
use serde::de::DeserializeOwned;

use super::{COMPUTE_VERSION, ListedNsg, Network, PublicAddress, Vm, edge};
use crate::{
    arm::{Arm, Pages},
    observe::{Interface, NETWORK_VERSION},
};

/// For how long what was read is gone on with. ARM names no life of a `$skiptoken`; one that leads nowhere may be
/// answered with a server's error for ever (<https://github.com/Azure/azure-rest-api-specs/issues/13843>), and what was
/// read ages.
const KEPT_FOR: TimeDelta = TimeDelta::minutes(20);
/// Of how many subscriptions it is kept: as many as a few that fail at a time, those that were begun first. Were it the
/// newest, more of them at once would push each other out before any comes to its end. One of a thousand machines takes some
/// 10 MB.
const KEPT: usize = 16;

/// What is read of a subscription.
#[derive(Debug)]
pub(crate) struct Reading {
    /// When the first list was asked for.
    pub(super) since: Instant,
    /// Whether it was begun because lists that were read in two goes did not go together.
    pub(super) anew: bool,
    pub(super) vms: Pages<Vm>,
    /// The machines again, with their instance views.
    pub(super) views: Pages<Vm>,
    pub(super) interfaces: Pages<Interface>,
    pub(super) networks: Pages<Network>,
    pub(super) nsgs: Pages<ListedNsg>,
    pub(super) public: Pages<PublicAddress>,
    pub(super) firewalls: edge::Listed,
}

impl Reading {
    fn begin(since: Instant) -> Self {
        Self {
            since,
            anew: false,
            vms: Pages::default(),
            views: Pages::default(),
            interfaces: Pages::default(),
            networks: Pages::default(),
            nsgs: Pages::default(),
            public: Pages::default(),
            firewalls: edge::Listed::default(),
        }
    }

    /// What was given up for want of rights is asked for again: rights may have been missing for a moment.
    fn take_up(&mut self) {
        self.views.take_up();
        self.firewalls.take_up();
    }

    /// Reads what is not read yet.
    async fn go_on(&mut self, arm: &Arm, subscription: &str) -> Result<(), EnforceError> {
        tokio::try_join!(
            list(
                arm,
                subscription,
                "Microsoft.Compute/virtualMachines",
                &mut self.vms
            ),
            views(arm, subscription, &mut self.views),
            list(
                arm,
                subscription,
                "Microsoft.Network/networkInterfaces",
                &mut self.interfaces
            ),
            list(
                arm,
                subscription,
                "Microsoft.Network/virtualNetworks",
                &mut self.networks
            ),
            list(
                arm,
                subscription,
                "Microsoft.Network/networkSecurityGroups",
                &mut self.nsgs
            ),
            list(
                arm,
                subscription,
                "Microsoft.Network/publicIPAddresses",
                &mut self.public
            ),
            self.firewalls.go_on(arm, subscription),
        )?;
        Ok(())
    }
}

/// Reads the pages of a list of the whole subscription that are not read yet. `kind` is a resource type with its
/// namespace, and the action that allows it but for `/read`.
pub(crate) async fn list<T: DeserializeOwned>(
    arm: &Arm,
    subscription: &str,
    kind: &str,
    pages: &mut Pages<T>,
) -> Result<(), EnforceError> {
    queried(arm, subscription, kind, &[], pages).await
}

async fn queried<T: DeserializeOwned>(
    arm: &Arm,
    subscription: &str,
    kind: &str,
    query: &[(&str, &str)],
    pages: &mut Pages<T>,
) -> Result<(), EnforceError> {
    let version = if kind.starts_with("Microsoft.Compute/") {
        COMPUTE_VERSION
    } else {
        NETWORK_VERSION
    };
    let segments = ["subscriptions", subscription, "providers"];
    let url = arm.address(segments.into_iter().chain(kind.split('/')), version, query)?;
    arm.read_on(pages, url, &format!("{kind}/read")).await
}

/// The machines' power. With `statusOnly=true` the list holds instance views and little else (Azure REST reference,
/// Virtual Machines, List All). A machine that is not in it, or has none there, is unknown, and so are all when the list
/// is refused: nothing depends on it.
async fn views(arm: &Arm, subscription: &str, pages: &mut Pages<Vm>) -> Result<(), EnforceError> {
    let (kind, query) = ("Microsoft.Compute/virtualMachines", [("statusOnly", "true")]);
    let mut read = queried(arm, subscription, kind, &query, pages).await;
    if matches!(read, Err(EnforceError::Refused { .. })) && pages.read() > 0 {
        // The list is given, and what is refused is a page that leads nowhere any more.
        *pages = Pages::default();
        read = queried(arm, subscription, kind, &query, pages).await;
    }
    match read {
        Err(EnforceError::Forbidden { .. } | EnforceError::Refused { .. }) => {
            pages.leave_aside();
            Ok(())
        }
        read => read,
    }
}

/// By subscription, what was read of it when its last discovery failed.
#[derive(Debug, Default)]
pub(crate) struct Readings(Mutex<BTreeMap<String, Reading>>);

impl Readings {
    /// Reads the whole subscription, from where the last question failed on. What cannot be gone on with is read anew: all,
    /// where a page leads nowhere any more.
    pub(crate) async fn read(
        &self,
        arm: &Arm,
        subscription: &str,
        now: Instant,
    ) -> Result<Reading, EnforceError> {
        let left = self.readings().remove(subscription);
        let left = left.filter(|reading| is_fresh(reading, now));
        let mut resumed = left.is_some();
        let mut reading = left.unwrap_or_else(|| Reading::begin(now));
        loop {
            match reading.go_on(arm, subscription).await {
                Ok(()) => return Ok(reading),
                Err(error) if error.may_pass() => {
                    self.keep(subscription, reading, now);
                    return Err(error);
                }
                Err(error) if resumed => {
                    tracing::info!(subscription, %error, "a discovery cannot go on, and begins anew");
                    resumed = false;
                    reading = Reading::begin(now);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the whole subscription from its first pages on, because lists that were read in two goes did not go together.
    pub(crate) async fn read_anew(
        &self,
        arm: &Arm,
        subscription: &str,
        now: Instant,
    ) -> Result<Reading, EnforceError> {
        let reading = Reading {
            anew: true,
            ..Reading::begin(now)
        };
        self.readings().insert(subscription.to_owned(), reading);
        self.read(arm, subscription, now).await
    }

    /// Keeps what was read, and forgets what is too old or too much.
    fn keep(&self, subscription: &str, mut reading: Reading, now: Instant) {
        reading.take_up();
        let mut readings = self.readings();
        readings.insert(subscription.to_owned(), reading);
        readings.retain(|_, reading| is_fresh(reading, now));
        while readings.len() > KEPT {
            let newest = readings.iter().max_by_key(|(_, reading)| reading.since);
            let Some(newest) = newest.map(|(subscription, _)| subscription.clone()) else {
                break;
            };
            readings.remove(&newest);
        }
    }

    fn readings(&self) -> MutexGuard<'_, BTreeMap<String, Reading>> {
        // A map is whole between two of its calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it may be gone on with. One of the future is of a clock that was set back: how old it is, nobody knows.
fn is_fresh(reading: &Reading, now: Instant) -> bool {
    reading.since <= now && now - reading.since < KEPT_FOR
}

#[cfg(test)]
mod tests {
    use postern_core::testing::at;

    use super::*;

    #[test]
    fn what_was_read_of_many_subscriptions_is_kept_of_the_first_and_not_for_long() {
        let readings = Readings::default();
        let kept = || readings.readings().keys().cloned().collect::<Vec<_>>();
        for number in 0..20 {
            readings.keep(&format!("s{number:02}"), Reading::begin(at(number)), at(20));
        }
        let first: Vec<String> = (0..16).map(|number| format!("s{number:02}")).collect();
        assert_eq!(kept(), first);
        let late = at(14) + KEPT_FOR;
        readings.keep("late", Reading::begin(late), late);
        assert_eq!(kept(), ["late", "s15"]);
        // The clock was set back.
        readings.keep("early", Reading::begin(at(15)), at(15));
        assert_eq!(kept(), ["early", "s15"]);
    }
}
