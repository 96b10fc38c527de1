//! A simulator, and a client of it, to begin with.

use std::sync::Arc;

use chrono::DateTime;
use postern_sim::SteppedClock;
use postern_sim::arm::{ArmHandle, ArmOptions, ArmSim};

use crate::client::Client;

/// The NSG of a furnished simulator, in its group.
pub(crate) const NSG: &str = "Microsoft.Network/networkSecurityGroups/web";

pub(crate) async fn start(options: ArmOptions) -> (ArmHandle, Client) {
    let sim = ArmSim::start(options).await.unwrap();
    let client = Client::of(&sim).await;
    (sim, client)
}

/// With a clock that stands at the beginning of the epoch until it is told otherwise.
pub(crate) async fn stepped() -> (Arc<SteppedClock>, ArmHandle, Client) {
    let clock = Arc::new(SteppedClock::at(DateTime::UNIX_EPOCH));
    let options = ArmOptions {
        clock: Arc::clone(&clock) as Arc<_>,
        ..ArmOptions::default()
    };
    let (sim, client) = start(options).await;
    (clock, sim, client)
}

/// With a group that has a network, a subnet and the NSG `web`.
pub(crate) async fn furnished() -> (ArmHandle, Client) {
    let (sim, client) = start(ArmOptions::default()).await;
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let network = fleet.network("net", "10.0.0.0/16").unwrap();
    fleet.subnet(&network, "front", "10.0.1.0/24", None).unwrap();
    fleet.security_group("web", &[]).unwrap();
    (sim, client)
}
