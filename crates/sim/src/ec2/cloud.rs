//! Takes a request through the simulator: who calls, is it too much, do it as a whole or not at all, write it down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::auth::{Caller, Keyring, Service};
use super::context::{Context, Limits, arn};
use super::error::{Ec2Error, Result};
use super::judge::GroupJudge;
use super::params::Params;
use super::state::{Region, Replay, Table, Touched};
use super::sts::{self, Role};
use super::throttle::{Call, Levels, Throttling};
use super::xml::Xml;
use super::{addresses, groups, instances, interfaces, network, permissions, tags};
use crate::clock::SimClock;
use crate::http::{Cloud, Failure, Instruments, respond};
use crate::ids::Ids;
use crate::truth::{Entry, Judge};

/// The API version of EC2 that is spoken.
const EC2_VERSION: &str = "2016-11-15";
/// The API version of STS that is spoken.
const STS_VERSION: &str = "2011-06-15";

type Action = fn(&mut Context<'_>) -> Result<String>;

/// An account and a region.
pub(crate) type Place = (String, String);

/// What the simulator was told at its start.
pub(crate) struct Settings {
    pub(crate) clock: Arc<dyn SimClock>,
    pub(crate) ids: Ids,
    pub(crate) roles: Vec<Role>,
    pub(crate) limits: Limits,
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

struct Core {
    keyring: Keyring,
    regions: BTreeMap<Place, Region>,
    levels: Levels,
    /// Earlier states with the time since when they held, oldest first; kept only where describes lag.
    past: BTreeMap<Place, VecDeque<(DateTime<Utc>, Arc<Region>)>>,
}

/// Which request a change belongs to.
struct Stamp<'a> {
    at: DateTime<Utc>,
    operation: &'a str,
    request_id: &'a str,
    caller: &'a str,
}

impl Ec2Cloud {
    pub(crate) fn new(settings: Settings, keyring: Keyring, instruments: Instruments) -> Self {
        let core = Core {
            keyring,
            regions: BTreeMap::new(),
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
        self.change(&mut core, caller, operation, &request_id, params, now, change)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one request, spelled out; both callers have all of it at hand"
    )]
    fn change<T>(
        &self,
        core: &mut Core,
        caller: &Caller,
        operation: &str,
        request_id: &str,
        params: &Params,
        now: DateTime<Utc>,
        change: impl FnOnce(&mut Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let place = place(caller);
        let regions = core.keyring.regions.clone();
        let region = core.regions.entry(place.clone()).or_default();
        let mut context = Context {
            params,
            region: &mut *region,
            caller,
            regions: &regions,
            ids: &self.settings.ids,
            limits: &self.settings.limits,
            delay: self.settings.transition_delay,
            now,
            operation,
            request_id,
        };
        match change(&mut context) {
            Ok(outcome) => {
                let stamp = Stamp {
                    at: now,
                    operation,
                    request_id,
                    caller: &caller.arn,
                };
                self.write_down(core, &place, caller, &stamp);
                Ok(outcome)
            }
            Err(error) => {
                region.undo();
                Err(error)
            }
        }
    }

    /// Ends a change: truth log, and the past where describes lag.
    fn write_down(&self, core: &mut Core, place: &Place, caller: &Caller, stamp: &Stamp<'_>) {
        let Some(region) = core.regions.get_mut(place) else {
            return;
        };
        let mut entries = Vec::new();
        write_table(&mut entries, &mut region.vpcs, "vpc", caller, stamp);
        write_table(&mut entries, &mut region.subnets, "subnet", caller, stamp);
        write_table(
            &mut entries,
            &mut region.prefix_lists,
            "prefix-list",
            caller,
            stamp,
        );
        write_table(&mut entries, &mut region.groups, "security-group", caller, stamp);
        write_table(
            &mut entries,
            &mut region.interfaces,
            "network-interface",
            caller,
            stamp,
        );
        write_table(&mut entries, &mut region.instances, "instance", caller, stamp);
        write_table(&mut entries, &mut region.addresses, "elastic-ip", caller, stamp);
        if entries.is_empty() {
            return;
        }
        self.instruments.truth.record(entries);
        let lag = self.settings.describe_lag;
        if lag > TimeDelta::zero() {
            let past = core.past.entry(place.clone()).or_default();
            past.push_back((stamp.at, Arc::new(region.clone())));
            while past.get(1).is_some_and(|(since, _)| *since + lag <= stamp.at) {
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
        self.change(
            core,
            &owner,
            "CreateDefaultVpc",
            &request_id,
            &Params::default(),
            now,
            network::furnish,
        )?;
        if let Some((since, _)) = core.past.get_mut(&place).and_then(|past| past.front_mut()) {
            // What was always there does not lag.
            *since = DateTime::<Utc>::MIN_UTC;
        }
        Ok(())
    }

    /// Carries out every transition that is due, in the order of time.
    fn carry_out(&self, core: &mut Core, now: DateTime<Utc>) {
        for region in core.regions.values_mut() {
            instances::forget(region, now);
        }
        loop {
            let due = core.regions.iter().filter_map(|(place, region)| {
                instances::next_due(region, now).map(|(at, id)| (at, place.clone(), id))
            });
            let Some((at, place, id)) = due.min() else { return };
            let Some(transition) = core
                .regions
                .get_mut(&place)
                .and_then(|region| instances::carry_out(region, &id))
            else {
                return;
            };
            let caller = Caller {
                account: place.0.clone(),
                region: place.1.clone(),
                arn: transition.caller.clone(),
                user_id: String::new(),
            };
            let stamp = Stamp {
                at,
                operation: &transition.operation,
                request_id: &transition.request_id,
                caller: &transition.caller,
            };
            self.write_down(core, &place, &caller, &stamp);
        }
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
            Ec2Error::new(
                "InvalidAction",
                format!("The action {name} is not valid for this web service."),
            )
        })?;
        if let Some(throttling) = &self.settings.throttling {
            let narrowed = [
                "Filter",
                "MaxResults",
                "InstanceId",
                "NetworkInterfaceId",
                "GroupId",
                "GroupName",
            ];
            let wanted = params.peek("MaxCount").and_then(|count| count.parse().ok());
            let named = u32::try_from(params.root().list("InstanceId").len()).unwrap_or(u32::MAX);
            let call = Call {
                account: &caller.account,
                region: &caller.region,
                action: name,
                narrowed: narrowed.iter().any(|name| params.has(name)),
                resources: wanted.unwrap_or(named),
            };
            core.levels.pay(throttling, &call, now)?;
        }
        self.furnish(&mut core, &caller, now)?;
        if name.starts_with("Describe") || name.starts_with("Get") {
            return self.look(&core, &caller, params, action, now, name, request_id);
        }
        self.once(&mut core, &caller, name, request_id, params, now, action)
    }

    /// Answers a question from the state, or from how it was `describe_lag` ago.
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out")]
    fn look(
        &self,
        core: &Core,
        caller: &Caller,
        params: &Params,
        action: Action,
        now: DateTime<Utc>,
        operation: &str,
        request_id: &str,
    ) -> Result<String> {
        let place = place(caller);
        let lag = self.settings.describe_lag;
        let past = core.past.get(&place).filter(|_| lag > TimeDelta::zero());
        let seen = past.and_then(|past| past.iter().rev().find(|(since, _)| *since <= now - lag));
        let mut region = match seen {
            Some((_, region)) => Region::clone(region),
            None => core.regions.get(&place).cloned().unwrap_or_default(),
        };
        action(&mut Context {
            params,
            region: &mut region,
            caller,
            regions: &core.keyring.regions,
            ids: &self.settings.ids,
            limits: &self.settings.limits,
            delay: self.settings.transition_delay,
            now,
            operation,
            request_id,
        })
    }

    /// Carries out a change; one with a client token only once.
    ///
    /// The same token with other parameters is refused (API reference, "Ensuring idempotency").
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out")]
    fn once(
        &self,
        core: &mut Core,
        caller: &Caller,
        name: &str,
        request_id: &str,
        params: &Params,
        now: DateTime<Utc>,
        action: Action,
    ) -> Result<String> {
        let tokened = matches!(
            name,
            "RunInstances" | "CreateNetworkInterface" | "CreateManagedPrefixList"
        );
        let token = params
            .peek("ClientToken")
            .filter(|token| tokened && !token.is_empty());
        let Some(token) = token else {
            return self.change(core, caller, name, request_id, params, now, action);
        };
        if token.len() > 64 || !token.is_ascii() {
            return Err(Ec2Error::new(
                "InvalidClientToken",
                "A client token has at most 64 ASCII characters",
            ));
        }
        let key = (name.to_owned(), token.to_owned());
        let place = place(caller);
        let fingerprint = params.fingerprint();
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
        let answer = self.change(core, caller, name, request_id, params, now, action)?;
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

fn write_table<T: Clone + PartialEq + Serialize>(
    entries: &mut Vec<Entry>,
    table: &mut Table<T>,
    kind: &str,
    caller: &Caller,
    stamp: &Stamp<'_>,
) {
    let value = |row: Option<T>| row.and_then(|row| serde_json::to_value(row).ok());
    let touched: Vec<Touched<T>> = table.settle();
    entries.extend(touched.into_iter().map(|(id, before, after)| Entry {
        at: stamp.at,
        cloud: "aws",
        operation: stamp.operation.to_owned(),
        resource: arn(caller, kind, &id),
        before: value(before),
        after: value(after),
        request_id: stamp.request_id.to_owned(),
        caller: stamp.caller.to_owned(),
    }));
}

/// The code of an action.
pub(crate) fn action(name: &str) -> Option<Action> {
    let action: Action = match name {
        "AllocateAddress" => addresses::allocate_address,
        "AssignIpv6Addresses" => interfaces::assign_ipv6_addresses,
        "AssociateAddress" => addresses::associate_address,
        "AttachNetworkInterface" => interfaces::attach_network_interface,
        "AuthorizeSecurityGroupEgress" => permissions::authorize_egress,
        "AuthorizeSecurityGroupIngress" => permissions::authorize_ingress,
        "CreateManagedPrefixList" => addresses::create_managed_prefix_list,
        "CreateNetworkInterface" => interfaces::create_network_interface,
        "CreateSecurityGroup" => groups::create_security_group,
        "CreateSubnet" => network::create_subnet,
        "CreateTags" => tags::create_tags,
        "CreateVpc" => network::create_vpc,
        "DeleteManagedPrefixList" => addresses::delete_managed_prefix_list,
        "DeleteNetworkInterface" => interfaces::delete_network_interface,
        "DeleteSecurityGroup" => groups::delete_security_group,
        "DeleteSubnet" => network::delete_subnet,
        "DeleteTags" => tags::delete_tags,
        "DeleteVpc" => network::delete_vpc,
        "DescribeAccountAttributes" => network::describe_account_attributes,
        "DescribeAddresses" => addresses::describe_addresses,
        "DescribeAvailabilityZones" => network::describe_availability_zones,
        "DescribeInstances" => instances::describe_instances,
        "DescribeManagedPrefixLists" => addresses::describe_managed_prefix_lists,
        "DescribeNetworkInterfaces" => interfaces::describe_network_interfaces,
        "DescribeRegions" => network::describe_regions,
        "DescribeSecurityGroupRules" => permissions::describe_rules,
        "DescribeSecurityGroups" => groups::describe_security_groups,
        "DescribeSubnets" => network::describe_subnets,
        "DescribeTags" => tags::describe_tags,
        "DescribeVpcs" => network::describe_vpcs,
        "DetachNetworkInterface" => interfaces::detach_network_interface,
        "DisassociateAddress" => addresses::disassociate_address,
        "GetManagedPrefixListEntries" => addresses::get_managed_prefix_list_entries,
        "ModifyInstanceAttribute" => instances::modify_instance_attribute,
        "ModifyNetworkInterfaceAttribute" => interfaces::modify_network_interface_attribute,
        "ModifySecurityGroupRules" => permissions::modify_rules,
        "RevokeSecurityGroupEgress" => permissions::revoke_egress,
        "RevokeSecurityGroupIngress" => permissions::revoke_ingress,
        "RunInstances" => instances::run_instances,
        "StartInstances" => instances::start_instances,
        "StopInstances" => instances::stop_instances,
        "TerminateInstances" => instances::terminate_instances,
        "UpdateSecurityGroupRuleDescriptionsEgress" => permissions::describe_egress_texts,
        "UpdateSecurityGroupRuleDescriptionsIngress" => permissions::describe_ingress_texts,
        _ => return None,
    };
    Some(action)
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

fn success(service: Service, action: &str, request_id: &str, inner: &str) -> Response<Bytes> {
    let mut body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    match service {
        Service::Ec2 => {
            let namespace = format!("http://ec2.amazonaws.com/doc/{EC2_VERSION}/");
            body.push_str(&format!("<{action}Response xmlns=\"{namespace}\">"));
            body.push_str(&Xml::of(|xml| xml.leaf("requestId", request_id)));
            body.push_str(inner);
        }
        Service::Sts => {
            let namespace = format!("https://sts.amazonaws.com/doc/{STS_VERSION}/");
            body.push_str(&format!("<{action}Response xmlns=\"{namespace}\">"));
            body.push_str(inner);
            body.push_str(&Xml::of(|xml| {
                xml.within("ResponseMetadata", |xml| xml.leaf("RequestId", request_id));
            }));
        }
    }
    body.push_str(&format!("</{action}Response>"));
    respond(StatusCode::OK, "text/xml;charset=UTF-8", body)
}

fn refusal(service: Service, request_id: &str, error: &Ec2Error) -> Response<Bytes> {
    let mut body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    match service {
        Service::Ec2 => body.push_str(&Xml::of(|xml| {
            xml.within("Response", |xml| {
                xml.within("Errors", |xml| {
                    xml.within("Error", |xml| {
                        xml.leaf("Code", &error.code);
                        xml.leaf("Message", &error.message);
                    });
                });
                xml.leaf("RequestID", request_id);
            });
        })),
        Service::Sts => {
            let sender = if error.status.is_server_error() {
                "Receiver"
            } else {
                "Sender"
            };
            let inner = Xml::of(|xml| {
                xml.within("Error", |xml| {
                    xml.leaf("Type", sender);
                    xml.leaf("Code", &error.code);
                    xml.leaf("Message", &error.message);
                });
                xml.leaf("RequestId", request_id);
            });
            let namespace = format!("https://sts.amazonaws.com/doc/{STS_VERSION}/");
            body.push_str(&format!(
                "<ErrorResponse xmlns=\"{namespace}\">{inner}</ErrorResponse>"
            ));
        }
    }
    respond(error.status, "text/xml;charset=UTF-8", body)
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
                replays: _,
            } = region;
            let dump = json!({
                "vpcs": vpcs.values().collect::<Vec<_>>(),
                "subnets": subnets.values().collect::<Vec<_>>(),
                "security_groups": groups.values().collect::<Vec<_>>(),
                "network_interfaces": interfaces.values().collect::<Vec<_>>(),
                "instances": instances.values().collect::<Vec<_>>(),
                "prefix_lists": prefix_lists.values().collect::<Vec<_>>(),
                "addresses": addresses.values().collect::<Vec<_>>(),
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
