//! Takes a request through the simulator: who calls, is it too much, do it as a whole or not at all, write it down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::actions::{Action, action};
use super::auth::{Caller, Keyring, Service};
use super::context::{Context, Limits, arn};
use super::envelope::{EC2_VERSION, STS_VERSION, refusal, success};
use super::error::{Ec2Error, Result};
use super::judge::GroupJudge;
use super::params::Params;
use super::state::{Region, Replay, Table, Touched, Transition};
use super::sts::{self, Role};
use super::throttle::{Call, Levels, Throttling};
use super::{instances, network};
use crate::clock::SimClock;
use crate::http::{Cloud, Failure, Instruments};
use crate::ids::Ids;
use crate::truth::{Entry, Judge};

/// An account and a region.
pub(crate) type Place = (String, String);

/// What the simulator was told at its start.
pub(crate) struct Settings {
    pub(crate) clock: Arc<dyn SimClock>,
    pub(crate) ids: Ids,
    pub(crate) roles: Vec<Role>,
    pub(crate) limits: Limits,
    pub(crate) opt_in_regions: Vec<String>,
    pub(crate) transition_delay: TimeDelta,
    pub(crate) describe_lag: TimeDelta,
    pub(crate) throttling: Option<Throttling>,
}

/// EC2 and STS.
pub(crate) struct Ec2Cloud {
    settings: Settings,
    instruments: Instruments,
    core: Mutex<Core>,
}

/// States of a region with the time since when each held.
type Past = VecDeque<(DateTime<Utc>, Arc<Region>)>;

struct Core {
    keyring: Keyring,
    regions: BTreeMap<Place, Region>,
    throttling: Option<Throttling>,
    levels: Levels,
    /// Earlier states, oldest first; kept only where describes lag.
    past: BTreeMap<Place, Past>,
}

/// One request to carry out.
#[derive(Clone, Copy)]
struct Job<'a> {
    caller: &'a Caller,
    operation: &'a str,
    request_id: &'a str,
    params: &'a Params,
    now: DateTime<Utc>,
}

impl Ec2Cloud {
    pub(crate) fn new(settings: Settings, keyring: Keyring, instruments: Instruments) -> Self {
        let core = Core {
            keyring,
            regions: BTreeMap::new(),
            throttling: settings.throttling.clone(),
            levels: Levels::default(),
            past: BTreeMap::new(),
        };
        Self {
            settings,
            instruments,
            core: Mutex::new(core),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of a region as it stands, everything due carried out.
    pub(crate) fn region(&self, caller: &Caller) -> Result<Region> {
        let mut core = self.lock();
        let now = self.settings.clock.now();
        self.carry_out(&mut core, now);
        self.furnish(&mut core, caller, now)?;
        Ok(core.regions.get(&place(caller)).cloned().unwrap_or_default())
    }

    /// Runs one change on a region, as a whole or not at all.
    pub(crate) fn act<T>(
        &self,
        caller: &Caller,
        operation: &str,
        params: &Params,
        change: impl FnOnce(&mut Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let request_id = self.settings.ids.uuid().to_string();
        let mut core = self.lock();
        let now = self.settings.clock.now();
        self.carry_out(&mut core, now);
        self.furnish(&mut core, caller, now)?;
        self.change(
            &mut core,
            Job {
                caller,
                operation,
                request_id: &request_id,
                params,
                now,
            },
            change,
        )
    }

    fn context<'a>(&'a self, job: Job<'a>, region: &'a mut Region, regions: &'a [String]) -> Context<'a> {
        let Job {
            caller,
            operation,
            request_id,
            params,
            now,
        } = job;
        let Settings {
            ids,
            limits,
            transition_delay,
            opt_in_regions,
            ..
        } = &self.settings;
        Context {
            params,
            region,
            caller,
            regions,
            opt_in_regions,
            ids,
            limits,
            delay: *transition_delay,
            now,
            operation,
            request_id,
        }
    }

    fn change<T>(
        &self,
        core: &mut Core,
        job: Job<'_>,
        change: impl FnOnce(&mut Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let place = place(job.caller);
        let region = core.regions.entry(place.clone()).or_default();
        let outcome = change(&mut self.context(job, region, &core.keyring.regions));
        if outcome.is_ok() {
            self.write_down(core, &place, job);
        } else {
            region.undo();
        }
        outcome
    }

    /// Ends a change: truth log, and the past where describes lag.
    fn write_down(&self, core: &mut Core, place: &Place, job: Job<'_>) {
        let Some(region) = core.regions.get_mut(place) else {
            return;
        };
        let Region {
            vpcs,
            subnets,
            groups,
            interfaces,
            instances,
            prefix_lists,
            addresses,
            peerings,
            gone_groups: _,
            replays: _,
            next_public_ip: _,
        } = region;
        let mut entries = Vec::new();
        write_table(&mut entries, vpcs, "vpc", job);
        write_table(&mut entries, subnets, "subnet", job);
        write_table(&mut entries, peerings, "vpc-peering-connection", job);
        write_table(&mut entries, prefix_lists, "prefix-list", job);
        write_table(&mut entries, groups, "security-group", job);
        write_table(&mut entries, interfaces, "network-interface", job);
        write_table(&mut entries, instances, "instance", job);
        write_table(&mut entries, addresses, "elastic-ip", job);
        if entries.is_empty() {
            return;
        }
        self.instruments.truth.record(entries);
        let lag = self.settings.describe_lag;
        if lag > TimeDelta::zero() {
            let past = core.past.entry(place.clone()).or_default();
            past.push_back((job.now, Arc::new(region.clone())));
            while past.get(1).is_some_and(|(since, _)| *since + lag <= job.now) {
                past.pop_front();
            }
        }
    }

    /// Gives a region seen for the first time its default VPC.
    fn furnish(&self, core: &mut Core, caller: &Caller, now: DateTime<Utc>) -> Result<()> {
        let place = place(caller);
        if core.regions.contains_key(&place) {
            return Ok(());
        }
        let request_id = self.settings.ids.uuid().to_string();
        let owner = Caller {
            arn: format!("arn:aws:iam::{}:root", caller.account),
            ..caller.clone()
        };
        let params = Params::default();
        let job = Job {
            caller: &owner,
            operation: "CreateDefaultVpc",
            request_id: &request_id,
            params: &params,
            now,
        };
        self.change(core, job, network::furnish)?;
        if let Some((since, _)) = core.past.get_mut(&place).and_then(|past| past.front_mut()) {
            // What was always there does not lag.
            *since = DateTime::<Utc>::MIN_UTC;
        }
        Ok(())
    }

    /// Carries out every transition that is due, in the order of time, and forgets what ended long ago.
    fn carry_out(&self, core: &mut Core, now: DateTime<Utc>) {
        let params = Params::default();
        loop {
            let due = core.regions.iter().filter_map(|(place, region)| {
                instances::next_due(region, now).map(|(at, id)| (at, place.clone(), id))
            });
            let Some((at, place, id)) = due.min() else { break };
            let region = core.regions.get_mut(&place);
            let Some(transition) = region.and_then(|region| instances::carry_out(region, &id)) else {
                break;
            };
            let caller = in_place(&place, &transition.caller);
            let Transition {
                operation,
                request_id,
                ..
            } = &transition;
            self.write_down(
                core,
                &place,
                Job {
                    caller: &caller,
                    operation,
                    request_id,
                    params: &params,
                    now: at,
                },
            );
        }
        let emptied: Vec<Place> = core
            .regions
            .iter_mut()
            .filter_map(|(place, region)| instances::forget(region, now).then(|| place.clone()))
            .collect();
        for place in emptied {
            let caller = in_place(&place, "ec2.amazonaws.com");
            let request_id = self.settings.ids.uuid().to_string();
            let operation = "TerminateInstances";
            let job = Job {
                caller: &caller,
                operation,
                request_id: &request_id,
                params: &params,
                now,
            };
            self.write_down(core, &place, job);
        }
    }

    /// How many calls were refused for their rate since other limits were put in force.
    pub(crate) fn refused_for_rate(&self) -> u64 {
        self.lock().levels.refused
    }

    /// Puts other request limits in force, or none, with every bucket full.
    pub(crate) fn set_throttling(&self, throttling: Option<Throttling>) {
        let mut core = self.lock();
        core.throttling = throttling;
        core.levels = Levels::default();
    }

    fn ec2(&self, request: &Request<Bytes>, params: &Params, request_id: &str) -> Result<String> {
        let name = params
            .peek("Action")
            .ok_or_else(|| Ec2Error::new("MissingAction", "The request must contain the parameter Action"))?;
        let mut core = self.lock();
        let now = self.settings.clock.now();
        self.carry_out(&mut core, now);
        let caller = core.keyring.authenticate(request, Service::Ec2, now)?;
        let action = action(name).ok_or_else(|| {
            let message = format!("The action {name} is not valid for this web service.");
            Ec2Error::new("InvalidAction", message)
        })?;
        let Core {
            throttling, levels, ..
        } = &mut *core;
        if let Some(throttling) = throttling {
            levels.pay(throttling, &price(&caller, name, params), now)?;
        }
        self.furnish(&mut core, &caller, now)?;
        let job = Job {
            caller: &caller,
            operation: name,
            request_id,
            params,
            now,
        };
        if name.starts_with("Describe") || name.starts_with("Get") {
            self.look(&mut core, job, action)
        } else {
            self.once(&mut core, job, action)
        }
    }

    /// Answers a question from the state, or from how it was `describe_lag` ago.
    fn look(&self, core: &mut Core, job: Job<'_>, action: Action) -> Result<String> {
        let place = place(job.caller);
        let Core {
            keyring,
            regions,
            past,
            ..
        } = core;
        let seen_at = job.now - self.settings.describe_lag;
        let earlier = past
            .get(&place)
            .and_then(|past| past.iter().rev().find(|(since, _)| *since <= seen_at));
        if let Some((_, region)) = earlier {
            return action(&mut self.context(job, &mut Region::clone(region), &keyring.regions));
        }
        action(&mut self.context(job, regions.entry(place).or_default(), &keyring.regions))
    }

    /// Carries out a change; one with a client token only once.
    ///
    /// The same token with other parameters is refused (API reference, "Ensuring idempotency").
    fn once(&self, core: &mut Core, job: Job<'_>, action: Action) -> Result<String> {
        let tokened = matches!(
            job.operation,
            "RunInstances" | "CreateNetworkInterface" | "CreateManagedPrefixList"
        );
        let token = job
            .params
            .peek("ClientToken")
            .filter(|token| tokened && !token.is_empty());
        let Some(token) = token else {
            return self.change(core, job, action);
        };
        if token.len() > 64 || !token.is_ascii() {
            return Err(Ec2Error::new(
                "InvalidClientToken",
                "A client token has at most 64 ASCII characters",
            ));
        }
        let key = (job.operation.to_owned(), token.to_owned());
        let place = place(job.caller);
        let fingerprint = job.params.fingerprint();
        if let Some(earlier) = core
            .regions
            .get(&place)
            .and_then(|region| region.replays.get(&key))
        {
            if earlier.fingerprint == fingerprint {
                return Ok(earlier.answer.clone());
            }
            return Err(Ec2Error::new(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            ));
        }
        let answer = self.change(core, job, action)?;
        if let Some(region) = core.regions.get_mut(&place) {
            region.replays.insert(
                key,
                Replay {
                    fingerprint,
                    answer: answer.clone(),
                },
            );
        }
        Ok(answer)
    }

    fn sts(&self, request: &Request<Bytes>, params: &Params) -> Result<String> {
        let mut core = self.lock();
        let now = self.settings.clock.now();
        let caller = core.keyring.authenticate(request, Service::Sts, now)?;
        let Settings { roles, ids, .. } = &self.settings;
        match params.peek("Action") {
            Some("AssumeRole") => sts::assume_role(params, &caller, &mut core.keyring, roles, ids, now),
            Some("GetCallerIdentity") => sts::get_caller_identity(params, &caller),
            other => {
                let message = format!(
                    "Could not find operation {} for version {STS_VERSION}",
                    other.unwrap_or_default()
                );
                Err(Ec2Error::new("InvalidAction", message))
            }
        }
    }
}

fn place(caller: &Caller) -> Place {
    (caller.account.clone(), caller.region.clone())
}

/// Someone in an account and region.
fn in_place((account, region): &Place, arn: &str) -> Caller {
    Caller {
        account: account.clone(),
        region: region.clone(),
        arn: arn.to_owned(),
        user_id: String::new(),
    }
}

/// What a call is to pay: whether it is narrowed by a filter or a page, and how many instances it is about.
fn price<'a>(caller: &'a Caller, action: &'a str, params: &Params) -> Call<'a> {
    let launched = params.peek("MaxCount").and_then(|count| count.parse().ok());
    let named = u32::try_from(params.count("InstanceId")).unwrap_or(u32::MAX);
    Call {
        account: &caller.account,
        region: &caller.region,
        action,
        narrowed: params.has("Filter") || params.has("MaxResults"),
        resources: launched.unwrap_or(named),
    }
}

fn write_table<T: Clone + PartialEq + Serialize>(
    entries: &mut Vec<Entry>,
    table: &mut Table<T>,
    kind: &str,
    job: Job<'_>,
) {
    let value = |row: Option<T>| row.and_then(|row| serde_json::to_value(row).ok());
    let touched: Vec<Touched<T>> = table.settle();
    entries.extend(touched.into_iter().map(|(id, before, after)| Entry {
        at: job.now,
        cloud: "aws",
        operation: job.operation.to_owned(),
        resource: arn(job.caller, kind, &id),
        before: value(before),
        after: value(after),
        request_id: job.request_id.to_owned(),
        caller: job.caller.arn.clone(),
    }));
}

/// The parameters, from the query string and the body alike.
fn params_of(request: &Request<Bytes>) -> Params {
    Params::parse(request.uri().query().unwrap_or_default(), request.body())
}

fn service_of(params: &Params) -> Result<Service> {
    match params.peek("Version") {
        Some(EC2_VERSION) => Ok(Service::Ec2),
        Some(STS_VERSION) => Ok(Service::Sts),
        Some(version) => {
            let message = format!("The requested version ({version}) is not valid");
            Err(Ec2Error::new("NoSuchVersion", message))
        }
        None => Err(Ec2Error::missing("Version")),
    }
}

impl Cloud for Ec2Cloud {
    fn operation(&self, request: &Request<Bytes>) -> String {
        params_of(request).peek("Action").unwrap_or("Unknown").to_owned()
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let request_id = self.settings.ids.uuid().to_string();
        if !matches!(*request.method(), Method::GET | Method::POST) || request.uri().path() != "/" {
            let error = Ec2Error::with_status(
                StatusCode::NOT_FOUND,
                "InvalidRequest",
                "The request is not valid.",
            );
            return refusal(Service::Ec2, &request_id, &error);
        }
        let params = params_of(request);
        let service = match service_of(&params) {
            Ok(service) => service,
            Err(error) => return refusal(Service::Ec2, &request_id, &error),
        };
        let outcome = match service {
            Service::Ec2 => self.ec2(request, &params, &request_id),
            Service::Sts => self.sts(request, &params),
        };
        match outcome {
            Ok(inner) => success(
                service,
                params.peek("Action").unwrap_or_default(),
                &request_id,
                &inner,
            ),
            Err(error) => refusal(service, &request_id, &error),
        }
    }

    fn failure(&self, request: &Request<Bytes>, failure: &Failure) -> Response<Bytes> {
        let request_id = self.settings.ids.uuid().to_string();
        let service = service_of(&params_of(request)).unwrap_or(Service::Ec2);
        let error = Ec2Error::with_status(failure.status, &failure.code, failure.message.as_str());
        refusal(service, &request_id, &error)
    }

    fn settle(&self) {
        let mut core = self.lock();
        self.carry_out(&mut core, self.settings.clock.now());
    }

    fn state(&self) -> Value {
        let core = self.lock();
        let mut accounts = serde_json::Map::new();
        for ((account, name), region) in &core.regions {
            let Region {
                vpcs,
                subnets,
                groups,
                interfaces,
                instances,
                prefix_lists,
                addresses,
                peerings,
                gone_groups: _,
                replays: _,
                next_public_ip: _,
            } = region;
            let dump = json!({
                "vpcs": vpcs.values().collect::<Vec<_>>(),
                "subnets": subnets.values().collect::<Vec<_>>(),
                "security_groups": groups.values().collect::<Vec<_>>(),
                "network_interfaces": interfaces.values().collect::<Vec<_>>(),
                "instances": instances.values().collect::<Vec<_>>(),
                "prefix_lists": prefix_lists.values().collect::<Vec<_>>(),
                "addresses": addresses.values().collect::<Vec<_>>(),
                "vpc_peering_connections": peerings.values().collect::<Vec<_>>(),
            });
            if let Some(regions) = accounts
                .entry(account.clone())
                .or_insert_with(|| json!({}))
                .as_object_mut()
            {
                regions.insert(name.clone(), dump);
            }
        }
        json!({ "accounts": accounts })
    }

    fn judge(&self) -> &dyn Judge {
        &GroupJudge
    }
}
