//! The EC2 and STS simulator: the Query protocol on the wire, one server for many accounts and regions.
//!
//! `POST /` or `GET /` with `Action` and `Version` (2016-11-15 for EC2, 2011-06-15 for STS), signed with
//! Signature Version 4. The access key tells the account, the credential scope the region. Each account and
//! region begins with what AWS gives it: a default VPC with three subnets and its default group.
//!
//! What the truth log holds for each resource is the JSON of the structs in [`state`], under its ARN.

mod actions;
mod addresses;
mod assignments;
mod auth;
mod cloud;
mod context;
mod envelope;
mod error;
mod fleet;
mod groups;
mod instances;
mod interfaces;
mod judge;
mod network;
mod params;
mod peering;
mod permissions;
mod rules;
pub mod state;
mod status;
mod sts;
mod tags;
mod throttle;
mod wire;
mod xml;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

pub use auth::AccessKey;
pub use context::Limits;
pub use error::Ec2Error;
pub use fleet::{Fleet, Ingress, Machine, MachinePlan, Origin, Snapshot};
pub use judge::GroupJudge;
pub use sts::Role;
pub use throttle::{ActionClass, Bucket, Throttling};

use crate::clock::{SimClock, SystemClock};
use crate::count::Calls;
use crate::fault::Faults;
use crate::http::{Cloud, Handle, Instruments, serve};
use crate::ids::Ids;
use crate::truth::{Interval, Moment, Probe, Truth};

/// How to start a simulator.
#[derive(Clone)]
pub struct Ec2Options {
    /// The port on 127.0.0.1; zero takes any that is free.
    pub port: u16,
    /// What tells the time.
    pub clock: Arc<dyn SimClock>,
    /// Ids, secrets and fault dice follow from it.
    pub seed: u64,
    /// The access keys that are known.
    pub keys: Vec<AccessKey>,
    /// The roles that can be assumed; where there are none, any role of any account can.
    pub roles: Vec<Role>,
    /// The regions that there are.
    pub regions: Vec<String>,
    /// Regions that no account has opted in to: `DescribeRegions` tells of them where it is asked for all, and calls
    /// there are refused.
    pub opt_in_regions: Vec<String>,
    /// Whether signatures are verified. Off, the `Authorization` header is read and believed.
    pub verify_signatures: bool,
    /// Quotas.
    pub limits: Limits,
    /// How long an instance is pending, stopping or shutting down.
    pub transition_delay: Duration,
    /// Describes tell the state of so long ago (eventual consistency). Zero for none.
    pub describe_lag: Duration,
    /// Request limits; none for no throttling.
    pub throttling: Option<Throttling>,
}

impl Default for Ec2Options {
    /// One key of account 111122223333, verified signatures, EC2's quotas, no delays, no throttling.
    fn default() -> Self {
        let key = AccessKey {
            id: Ec2Sim::ACCESS_KEY_ID.to_owned(),
            secret: Ec2Sim::SECRET_ACCESS_KEY.to_owned(),
            account: Ec2Sim::ACCOUNT.to_owned(),
            user: "postern".to_owned(),
        };
        let regions = ["eu-central-1", "eu-west-1", "us-east-1", "us-east-2", "us-west-2"];
        Self {
            port: 0,
            clock: Arc::new(SystemClock),
            seed: 0,
            keys: vec![key],
            roles: Vec::new(),
            regions: regions.map(str::to_owned).to_vec(),
            opt_in_regions: vec!["ap-east-1".to_owned()],
            verify_signatures: true,
            limits: Limits::default(),
            transition_delay: Duration::ZERO,
            describe_lag: Duration::ZERO,
            throttling: None,
        }
    }
}

/// The simulator of EC2 and STS.
#[derive(Debug, Clone, Copy)]
pub struct Ec2Sim;

impl Ec2Sim {
    /// The account of the default key.
    pub const ACCOUNT: &str = "111122223333";
    /// The default key's id.
    pub const ACCESS_KEY_ID: &str = "AKIAPOSTERNSIM000001";
    /// The default key's secret; guards nothing.
    pub const SECRET_ACCESS_KEY: &str = "postern-simulator-secret-access-key";

    /// Starts a simulator on loopback.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn start(options: Ec2Options) -> io::Result<Ec2Handle> {
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        let instruments = Instruments::seeded(options.seed);
        let settings = cloud::Settings {
            clock: Arc::clone(&options.clock),
            ids: Ids::seeded(options.seed),
            roles: options.roles,
            limits: options.limits,
            opt_in_regions: options.opt_in_regions,
            transition_delay: delta(options.transition_delay),
            describe_lag: delta(options.describe_lag),
            throttling: options.throttling,
        };
        let keyring = auth::Keyring {
            keys: options.keys,
            regions: options.regions,
            verify: options.verify_signatures,
            ..auth::Keyring::default()
        };
        let cloud = Arc::new(cloud::Ec2Cloud::new(settings, keyring, instruments.clone()));
        let server = serve(
            Arc::<cloud::Ec2Cloud>::clone(&cloud),
            instruments.clone(),
            options.port,
        )
        .await?;
        Ok(Ec2Handle {
            server,
            cloud,
            instruments,
            clock: options.clock,
        })
    }
}

/// A running simulator. Dropping it stops it.
pub struct Ec2Handle {
    server: Handle,
    cloud: Arc<cloud::Ec2Cloud>,
    instruments: Instruments,
    clock: Arc<dyn SimClock>,
}

impl Ec2Handle {
    /// The endpoint of both services, without a slash at the end.
    pub fn url(&self) -> String {
        self.server.base_url()
    }

    /// The fault layer.
    pub fn faults(&self) -> &Faults {
        &self.instruments.faults
    }

    /// The truth log, everything due by now carried out and written down.
    pub fn truth(&self) -> &Truth {
        self.cloud.settle();
        &self.instruments.truth
    }

    /// The call counters.
    pub fn calls(&self) -> &Calls {
        &self.instruments.calls
    }

    /// The simulator's time.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Everything that it holds, as `/_sim/state` tells it.
    pub fn state(&self) -> serde_json::Value {
        self.cloud.settle();
        self.cloud.state()
    }

    /// How many requests were refused for their rate since limits were last put in force.
    pub fn refused_for_rate(&self) -> u64 {
        self.cloud.refused_for_rate()
    }

    /// Puts other request limits in force from now on, or none, with every bucket full.
    pub fn set_throttling(&self, throttling: Option<Throttling>) {
        self.cloud.set_throttling(throttling);
    }

    /// Builds and changes machines in one account and region, without the wire.
    pub fn fleet(&self, account: &str, region: &str) -> Fleet {
        Fleet::new(Arc::clone(&self.cloud), account, region)
    }

    /// Whether a probe went through at a moment; now where it is none.
    pub fn reachable(&self, probe: &Probe, at: Option<Moment>) -> bool {
        self.truth().reachable(self.cloud.judge(), probe, at)
    }

    /// The spans in which a probe went through.
    pub fn open_intervals(&self, probe: &Probe) -> Vec<Interval> {
        self.truth().open_intervals(self.cloud.judge(), probe)
    }

    /// Stops it, letting calls under way end.
    pub async fn stop(&self) {
        self.server.stop().await;
    }
}
