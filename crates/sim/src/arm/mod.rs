//! The ARM simulator: Azure Resource Manager on the wire, as the network and compute clients use it.
//!
//! Subscriptions, resource groups, virtual machines, interfaces, virtual networks and subnets, NSGs and
//! security rules, public addresses, application security groups, route tables, Azure Firewalls with their own
//! rules or a firewall policy's, and what is known of others' roles (`Microsoft.Authorization`), over plain HTTP. It serves its own token
//! endpoint (`/{tenant}/oauth2/v2.0/token`, client credentials). Ids and fixed path segments compare without
//! regard to case; every dated `api-version` is taken.
//!
//! Writes are asynchronous as recorded from Azure: a put answers `201` or `200` with `Updating` and
//! `Azure-AsyncOperation`, a delete `202`. The control plane shows a change at once; the data plane follows
//! when the operation completes, by default before the next request. With [`ArmOptions::operation_duration`]
//! the two come apart, and the truth log says so: an entry whose data plane still does something else has the
//! member `inForce` (null where it does not know the resource yet), one on its way out `leaving`.

mod application_group;
mod authorization;
mod body;
mod check;
mod default_rule;
mod effective;
mod firewall;
mod firewall_limits;
mod fleet;
mod id;
mod identity;
mod in_use;
mod interface;
mod judge;
mod load_balancer;
mod operation;
mod path;
mod precondition;
mod read;
mod references;
mod refusal;
mod resource_group;
mod route;
mod routing;
mod rule;
mod serve;
mod service_tag;
mod state;
mod throttle;
mod view;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use ipnet::IpNet;
use serde_json::Value;

pub use authorization::{Denial, RoleGrant};
pub use fleet::{Fleet, FleetMachine, inbound};
pub use identity::ArmClient;
pub use judge::ArmJudge;
pub use path::ParentsNat;
pub use refusal::ArmError;
pub use rule::{ADDRESS_LIMIT, RULE_LIMIT};
pub use throttle::{BucketSize, RequestLimits};

use crate::clock::{SimClock, SystemClock};
use crate::count::Calls;
use crate::fault::Faults;
use crate::http::{Cloud, Handle, Instruments};
use crate::ids::Ids;
use crate::truth::{Interval, Moment, Probe, Protocol, Truth};
use identity::Identity;
use serve::{Arm, Inner, Settings};
use state::State;
use throttle::Throttle;

/// How a simulator is set up.
#[derive(Clone)]
pub struct ArmOptions {
    /// The port on 127.0.0.1; zero takes any that is free.
    pub port: u16,
    /// Ids, etags and fault dice follow from it.
    pub seed: u64,
    /// Tells the time.
    pub clock: Arc<dyn SimClock>,
    /// The tenant that subscriptions name.
    pub tenant: String,
    /// Ids and display names.
    pub subscriptions: Vec<(String, String)>,
    /// The registered clients. None: every client id is taken with any secret and may do everything.
    pub clients: Vec<ArmClient>,
    /// How long a token lives; whole seconds.
    pub token_lifetime: Duration,
    /// How long an operation takes, from the answer to the effect.
    pub operation_duration: Duration,
    /// How long an operation on a firewall, a firewall policy or a rule collection group takes; minutes in Azure.
    pub firewall_duration: Duration,
    /// Ranges of service tags (`AzureCloud`, `Storage.WestEurope`), for reachability and the `serviceTags` list.
    /// A tag that is not here is taken in rules where Azure knows it, and holds no address.
    pub service_tags: BTreeMap<String, Vec<IpNet>>,
    /// `Retry-After` on accepted writes and on polls of what is under way, in seconds. Azure's network
    /// provider sends none.
    pub retry_after: Option<u64>,
    /// The status of `AnotherOperationInProgress`: Azure is on record with 409, and with 429 for its kin.
    pub busy_status: u16,
    /// Items on one page of a list.
    pub page_size: usize,
    /// Request limits; none: as many requests as come.
    pub limits: Option<RequestLimits>,
}

impl Default for ArmOptions {
    fn default() -> Self {
        Self {
            port: 0,
            seed: 0,
            clock: Arc::new(SystemClock),
            tenant: "11111111-1111-1111-1111-111111111111".to_owned(),
            subscriptions: vec![(
                "00000000-0000-0000-0000-000000000001".to_owned(),
                "Simulated".to_owned(),
            )],
            clients: Vec::new(),
            token_lifetime: Duration::from_secs(3599),
            operation_duration: Duration::ZERO,
            firewall_duration: Duration::ZERO,
            service_tags: BTreeMap::new(),
            retry_after: None,
            busy_status: 409,
            page_size: 100,
            limits: None,
        }
    }
}

impl std::fmt::Debug for ArmOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArmOptions")
            .field("port", &self.port)
            .field("subscriptions", &self.subscriptions)
            .field("operation_duration", &self.operation_duration)
            .finish_non_exhaustive()
    }
}

/// Starts simulators.
#[derive(Debug)]
pub struct ArmSim;

impl ArmSim {
    /// Starts a simulator on loopback.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn start(options: ArmOptions) -> io::Result<ArmHandle> {
        let instruments = Instruments::seeded(options.seed);
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        let inner = Inner {
            state: State {
                subscriptions: options.subscriptions,
                ..State::default()
            },
            identity: Identity::new(options.clients, delta(options.token_lifetime)),
            throttle: Throttle::default(),
            settings: Settings {
                duration: delta(options.operation_duration),
                firewall_duration: delta(options.firewall_duration),
                service_tags: options.service_tags,
                retry_after: options.retry_after,
                busy_status: options.busy_status,
                page_size: options.page_size,
                limits: options.limits,
            },
        };
        let published = service_tag::entries(&inner.settings.service_tags, options.clock.now());
        instruments.truth.record(published);
        let arm = Arc::new(Arm {
            inner: Mutex::new(inner),
            instruments: instruments.clone(),
            completions: Faults::seeded(options.seed),
            clock: options.clock,
            ids: Ids::seeded(options.seed),
            tenant: options.tenant,
        });
        let cloud: Arc<dyn Cloud> = Arc::<Arm>::clone(&arm);
        let server = crate::http::serve(cloud, instruments, options.port).await?;
        Ok(ArmHandle { arm, server })
    }
}

/// A running simulator. Dropping it stops it without waiting.
pub struct ArmHandle {
    arm: Arc<Arm>,
    server: Handle,
}

impl std::fmt::Debug for ArmHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArmHandle")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl ArmHandle {
    /// `http://127.0.0.1:<port>`: the resource manager's address and the identity platform's authority.
    pub fn url(&self) -> String {
        self.server.base_url()
    }

    /// The tenant that tokens are asked for.
    pub fn tenant(&self) -> &str {
        &self.arm.tenant
    }

    /// The fault layer for calls.
    pub fn faults(&self) -> &Faults {
        &self.arm.instruments.faults
    }

    /// Decides how accepted operations end: a rule of [`crate::Effect::Status`] ends one of its operation name
    /// as `Failed` with that code and message, the change shown and never in force. Other effects do nothing.
    pub fn completions(&self) -> &Faults {
        &self.arm.completions
    }

    /// The truth log, with everything written down that is due by now. Ask the handle again for a later look.
    pub fn truth(&self) -> &Truth {
        self.arm.settle();
        &self.arm.instruments.truth
    }

    /// The call counters.
    pub fn calls(&self) -> &Calls {
        &self.arm.instruments.calls
    }

    /// Everything that the cloud holds, as `/_sim/state` shows it.
    pub fn state(&self) -> Value {
        self.arm.settle();
        self.arm.state()
    }

    /// Whether a packet reaches a machine (ARM id, any case) at a moment; now where it is none.
    pub fn reachable(
        &self,
        machine: &str,
        source: IpAddr,
        port: u16,
        protocol: Protocol,
        at: Option<Moment>,
    ) -> bool {
        self.truth()
            .reachable(&ArmJudge::default(), &probe(machine, source, port, protocol), at)
    }

    /// The spans in which a packet reached a machine, oldest first.
    pub fn open_intervals(
        &self,
        machine: &str,
        source: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Vec<Interval> {
        self.truth()
            .open_intervals(&ArmJudge::default(), &probe(machine, source, port, protocol))
    }

    /// How long operations take from now on; those under way keep theirs.
    pub fn set_operation_duration(&self, duration: Duration) {
        self.arm.lock().settings.duration = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    }

    /// How long operations on firewalls and firewall policies take from now on.
    pub fn set_firewall_duration(&self, duration: Duration) {
        self.arm.lock().settings.firewall_duration = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    }

    /// The machine (ARM id in lower case) and port that a packet to a public address and port comes to now; none where
    /// a hop refuses it. The address is a firewall's, whose NAT rules take it or not, or a machine's own.
    pub fn lands(
        &self,
        source: IpAddr,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<(String, u16)> {
        ArmJudge::default().lands(&self.truth().world(None), source, address, port, protocol)
    }

    /// How many requests were refused for their rate.
    pub fn refused_for_rate(&self) -> u64 {
        self.arm.lock().throttle.refused
    }

    /// Sets or lifts the request limits; buckets keep their level.
    pub fn set_limits(&self, limits: Option<RequestLimits>) {
        self.arm.lock().settings.limits = limits;
    }

    /// Replaces the registered clients. Tokens stay, and are measured by the new actions.
    pub fn set_clients(&self, clients: Vec<ArmClient>) {
        self.arm.lock().identity.set_clients(clients);
    }

    /// Gives a principal a role. The role assignment's id.
    ///
    /// # Errors
    /// There is no such role, or it is given already.
    pub fn assign(&self, grant: &RoleGrant) -> Result<String, ArmError> {
        let (name, now) = (self.arm.ids.uuid(), self.arm.clock.now());
        self.arm.lock().state.authorization.assign(grant, name, now)
    }

    /// Takes a role assignment away, by its id; whether it was there.
    pub fn unassign(&self, id: &str) -> bool {
        let mut inner = self.arm.lock();
        inner.state.authorization.delete_assignment(id, "").is_some()
    }

    /// Makes a custom role for every scope. Its name, a UUID.
    ///
    /// # Errors
    /// Another has that name.
    pub fn define_role(
        &self,
        name: &str,
        actions: &[&str],
        not_actions: &[&str],
    ) -> Result<String, ArmError> {
        let (id, now) = (self.arm.ids.uuid().to_string(), self.arm.clock.now());
        let mut inner = self.arm.lock();
        inner
            .state
            .authorization
            .define(name, &id, (actions, not_actions), now)?;
        Ok(id)
    }

    /// Takes something from principals, as Azure does for what it manages. The deny assignment's id.
    pub fn deny(&self, denial: Denial) -> String {
        let (name, now) = (self.arm.ids.uuid(), self.arm.clock.now());
        self.arm.lock().state.authorization.deny(denial, name, now)
    }

    /// Takes a deny assignment away, by its id; whether it was there.
    pub fn undeny(&self, id: &str) -> bool {
        self.arm.lock().state.authorization.undeny(id)
    }

    /// Puts a principal, or a group, into a group, by object id.
    pub fn put_in_group(&self, group: &str, member: &str) {
        self.arm.lock().state.authorization.put_in_group(group, member);
    }

    /// Takes it out again.
    pub fn take_from_group(&self, group: &str, member: &str) {
        self.arm.lock().state.authorization.take_from_group(group, member);
    }

    /// Puts a subscription below management groups, the outermost first.
    pub fn place_under(&self, subscription: &str, groups: &[&str]) {
        self.arm
            .lock()
            .state
            .authorization
            .place_under(subscription, groups);
    }

    /// Stops the server; calls under way end first.
    pub async fn stop(&self) {
        self.server.stop().await;
    }
}

fn probe(machine: &str, source: IpAddr, port: u16, protocol: Protocol) -> Probe {
    Probe {
        machine: machine.to_owned(),
        source,
        port,
        protocol,
    }
}
