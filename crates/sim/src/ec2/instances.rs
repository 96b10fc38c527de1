//! Instances: launch, start, stop, terminate, describe.
//!
//! Source: API reference `RunInstances`, `TerminateInstances`, `ModifyInstanceAttribute`, `DescribeInstances`;
//! EC2 user guide, "Amazon EC2 instance state changes".

use chrono::{DateTime, TimeDelta, Utc};

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::interfaces::{self, NewInterface, TOO_MANY_PER_INSTANCE, check_groups};
use super::params::Part;
use super::state::{Instance, Power, Region, Tags, Transition};
use super::wire;
use super::xml::Xml;

/// How long a terminated instance stays visible: EC2 says "usually less than an hour".
const TERMINATED_FOR: TimeDelta = TimeDelta::hours(1);

/// What a launch is to give each instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    pub(crate) image_id: String,
    pub(crate) instance_type: String,
    pub(crate) key_name: Option<String>,
    pub(crate) interfaces: Vec<LaunchInterface>,
    pub(crate) tags: Tags,
}

/// One interface of a launch.
#[derive(Debug, Clone)]
pub(crate) struct LaunchInterface {
    pub(crate) device_index: i32,
    pub(crate) delete_on_termination: bool,
    pub(crate) source: InterfaceSource,
}

/// Where a launch takes an interface from.
#[derive(Debug, Clone)]
pub(crate) enum InterfaceSource {
    /// One that exists.
    Existing(String),
    /// A new one.
    New(NewInterface),
}

/// Launches one instance; it is pending until its transition is due.
pub(crate) fn launch(
    ctx: &mut Context<'_>,
    launch: &Launch,
    reservation: &str,
    index: i32,
) -> Result<String> {
    let id = ctx.new_id("i");
    let transition = transition(ctx, Power::Running);
    let instance = Instance {
        id: id.clone(),
        reservation_id: reservation.to_owned(),
        launch_index: index,
        image_id: launch.image_id.clone(),
        instance_type: launch.instance_type.clone(),
        key_name: launch.key_name.clone(),
        launched: ctx.now,
        power: Power::Pending,
        transition: Some(transition),
        terminated: None,
        interfaces: Vec::new(),
        tags: launch.tags.clone(),
    };
    ctx.region.instances.insert(&id, instance);
    for wanted in &launch.interfaces {
        let interface = match &wanted.source {
            InterfaceSource::Existing(interface) => interface.clone(),
            InterfaceSource::New(new) => interfaces::make(ctx, new.clone(), TOO_MANY_PER_INSTANCE)?,
        };
        interfaces::attach(
            ctx,
            &interface,
            &id,
            wanted.device_index,
            wanted.delete_on_termination,
        )?;
    }
    ctx.region.lend_public_ip(&id)?;
    Ok(id)
}

fn transition(ctx: &Context<'_>, to: Power) -> Transition {
    Transition {
        to,
        due: ctx.now + ctx.delay,
        operation: ctx.operation.to_owned(),
        request_id: ctx.request_id.to_owned(),
        caller: ctx.caller.arn.clone(),
    }
}

/// The next transition in a region that is due by `now`: when, and of which instance.
pub(crate) fn next_due(region: &Region, now: DateTime<Utc>) -> Option<(DateTime<Utc>, String)> {
    let due = region.instances.values().filter_map(|instance| {
        let transition = instance.transition.as_ref()?;
        (transition.due <= now).then(|| (transition.due, instance.id.clone()))
    });
    due.min()
}

/// Carries out the transition of an instance; gives what began it.
///
/// A stopped instance keeps its interfaces, their groups, their private, IPv6 and elastic addresses, and loses a public
/// address that it was lent; started again it is lent another. Source: EC2 user guide, "Amazon EC2 instance IP
/// addressing": "We release your instance's public IP address when it is stopped, hibernated, or terminated. Your stopped
/// or hibernated instance receives a new public IP address when it is started."
///
/// Only a terminated instance lets go of its interfaces: until then their groups are in use.
pub(crate) fn carry_out(region: &mut Region, id: &str) -> Option<Transition> {
    let instance = region.instances.get_mut(id)?;
    let transition = instance.transition.take()?;
    instance.power = transition.to;
    if transition.to == Power::Stopped {
        for interface in instance.interfaces.clone() {
            if let Some(interface) = region.interfaces.get_mut(&interface) {
                interface.lent_ip = None;
            }
        }
        return Some(transition);
    }
    if transition.to == Power::Terminated {
        instance.terminated = Some(transition.due);
        for interface_id in std::mem::take(&mut instance.interfaces) {
            let Some(interface) = region.interfaces.get_mut(&interface_id) else {
                continue;
            };
            let goes = interface
                .attachment
                .take()
                .is_none_or(|hung| hung.delete_on_termination);
            if goes {
                interfaces::remove(region, &interface_id);
            }
        }
    }
    Some(transition)
}

/// Forgets instances that were terminated long ago; tells whether there were any.
pub(crate) fn forget(region: &mut Region, now: DateTime<Utc>) -> bool {
    let gone = |instance: &&Instance| instance.terminated.is_some_and(|at| at + TERMINATED_FOR <= now);
    let old: Vec<String> = region
        .instances
        .values()
        .filter(gone)
        .map(|instance| instance.id.clone())
        .collect();
    for id in &old {
        region.instances.remove(id);
    }
    !old.is_empty()
}

/// `RunInstances` parameters that change nothing here.
const IGNORED: &[&str] = &[
    "BlockDeviceMapping",
    "ClientToken",
    "CpuOptions",
    "CreditSpecification",
    "DisableApiStop",
    "DisableApiTermination",
    "EbsOptimized",
    "IamInstanceProfile",
    "InstanceInitiatedShutdownBehavior",
    "MaintenanceOptions",
    "MetadataOptions",
    "Monitoring",
    "Placement",
    "PrivateDnsNameOptions",
    "UserData",
];

pub(crate) fn run_instances(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let count = |name: &str| root.int(name)?.ok_or_else(|| Ec2Error::missing(name));
    let (least, most) = (count("MinCount")?, count("MaxCount")?);
    if least < 1 || most < least || most > 1000 {
        let message = format!("Invalid value '{least}' for minCount or '{most}' for maxCount");
        return Err(Ec2Error::invalid_value(message));
    }
    let image_id = root.require("ImageId")?;
    if !image_id.starts_with("ami-") {
        return Err(Ec2Error::new(
            "InvalidAMIID.Malformed",
            format!("Invalid id: \"{image_id}\" (expecting \"ami-...\")"),
        ));
    }
    let types = [
        "instance",
        "network-interface",
        "volume",
        "spot-instances-request",
    ];
    let tags = root.tags("instance", &types)?;
    let interface_tags = root.tags("network-interface", &types)?;
    let mut interfaces = launch_interfaces(ctx, &root)?;
    check_lending(&interfaces)?;
    for interface in &mut interfaces {
        if let InterfaceSource::New(new) = &mut interface.source {
            new.tags.clone_from(&interface_tags);
        }
    }
    if most > 1
        && interfaces
            .iter()
            .any(|interface| matches!(interface.source, InterfaceSource::Existing(_)))
    {
        let message =
            "A network interface can be attached to one instance only: the instance count must be 1";
        return Err(Ec2Error::combination(message));
    }
    let request = Launch {
        image_id: image_id.to_owned(),
        instance_type: root.text("InstanceType").unwrap_or_else(|| "m1.small".to_owned()),
        key_name: root.text("KeyName"),
        interfaces,
        tags,
    };
    root.ignore(IGNORED);
    root.finish()?;
    let reservation = ctx.new_id("r");
    let ids = (0..most)
        .map(|index| launch(ctx, &request, &reservation, index))
        .collect::<Result<Vec<_>>>()?;
    let instances = ids
        .iter()
        .map(|id| ctx.region.instance(id))
        .collect::<Result<Vec<_>>>()?;
    Ok(Xml::of(|xml| {
        wire::reservation(xml, ctx, &reservation, &instances);
    }))
}

/// Refuses a lent public address at more than one interface, or at one that exists.
///
/// Source: API reference, `InstanceNetworkInterfaceSpecification.AssociatePublicIpAddress`: "only be assigned to a new
/// network interface, not an existing one", "cannot specify more than one network interface in the request". The message
/// for several interfaces is the one that clients quote; the one for an existing interface is from memory.
pub(crate) fn check_lending(interfaces: &[LaunchInterface]) -> Result<()> {
    let lends =
        |interface: &LaunchInterface| matches!(&interface.source, InterfaceSource::New(new) if new.lends_ip);
    if interfaces.len() > 1 && interfaces.iter().any(lends) {
        return Err(Ec2Error::combination(
            "The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces.",
        ));
    }
    Ok(())
}

fn launch_interfaces(ctx: &Context<'_>, root: &Part<'_>) -> Result<Vec<LaunchInterface>> {
    let parts = root.parts("NetworkInterface");
    let (subnet, groups) = (root.text("SubnetId"), root.list("SecurityGroupId"));
    if parts.is_empty() {
        let subnet_id = match subnet {
            Some(subnet) => subnet,
            None => default_subnet(ctx.region)?,
        };
        let mut new = NewInterface::read(root, subnet_id)?;
        if let Some(vpc) = ctx.region.default_vpc().map(|vpc| vpc.id.clone()) {
            for name in root.list("SecurityGroup") {
                let group = ctx
                    .region
                    .group_named(&vpc, &name)
                    .ok_or_else(|| Ec2Error::group_not_found(&name))?;
                new.groups.push(group.id.clone());
            }
        }
        let source = InterfaceSource::New(new);
        return Ok(vec![LaunchInterface {
            device_index: 0,
            delete_on_termination: true,
            source,
        }]);
    }
    if subnet.is_some() || !groups.is_empty() {
        return Err(Ec2Error::combination(
            "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request",
        ));
    }
    parts.iter().map(|part| launch_interface(ctx, part)).collect()
}

fn launch_interface(ctx: &Context<'_>, part: &Part<'_>) -> Result<LaunchInterface> {
    let device_index = part
        .int("DeviceIndex")?
        .ok_or_else(|| Ec2Error::missing("DeviceIndex"))?;
    let delete = part.bool("DeleteOnTermination")?;
    let lends_ip = part.bool("AssociatePublicIpAddress")?.unwrap_or(false);
    part.ignore(&["NetworkCardIndex"]);
    if let Some(id) = part.get("NetworkInterfaceId") {
        ctx.region.interface(id)?;
        if lends_ip {
            return Err(Ec2Error::combination(
                "The associatePublicIPAddress parameter cannot be specified for a network interface with an ID.",
            ));
        }
        if part.get("SubnetId").is_some() || !part.list("SecurityGroupId").is_empty() {
            let message = "A network interface may not specify both a network interface ID and a subnet or security groups";
            return Err(Ec2Error::combination(message));
        }
        let source = InterfaceSource::Existing(id.to_owned());
        return Ok(LaunchInterface {
            device_index,
            delete_on_termination: delete.unwrap_or(false),
            source,
        });
    }
    let subnet_id = match part.text("SubnetId") {
        Some(subnet) => subnet,
        None => default_subnet(ctx.region)?,
    };
    let source = InterfaceSource::New(NewInterface {
        lends_ip,
        ..NewInterface::read(part, subnet_id)?
    });
    Ok(LaunchInterface {
        device_index,
        delete_on_termination: delete.unwrap_or(true),
        source,
    })
}

fn default_subnet(region: &Region) -> Result<String> {
    let vpc = region.default_vpc();
    let subnet = vpc.and_then(|vpc| region.subnets.values().find(|subnet| subnet.vpc_id == vpc.id));
    let missing = || {
        Ec2Error::new(
            "MissingInput",
            "No subnets found for the default VPC. Please specify a subnet.",
        )
    };
    Ok(subnet.ok_or_else(missing)?.id.clone())
}

pub(crate) fn start_instances(ctx: &mut Context<'_>) -> Result<String> {
    change_power(ctx, |power| match power {
        Power::Stopped => Ok(Some((Power::Pending, Power::Running))),
        Power::Running | Power::Pending => Ok(None),
        _ => Err("is not in a state from which it can be started."),
    })
}

pub(crate) fn stop_instances(ctx: &mut Context<'_>) -> Result<String> {
    change_power(ctx, |power| match power {
        Power::Running => Ok(Some((Power::Stopping, Power::Stopped))),
        Power::Stopped | Power::Stopping => Ok(None),
        _ => Err("is not in a state from which it can be stopped."),
    })
}

pub(crate) fn terminate_instances(ctx: &mut Context<'_>) -> Result<String> {
    change_power(ctx, |power| match power {
        Power::Terminated | Power::ShuttingDown => Ok(None),
        _ => Ok(Some((Power::ShuttingDown, Power::Terminated))),
    })
}

/// The state to take now and the one to come, or none where nothing is to do, or why it cannot be.
type Step = std::result::Result<Option<(Power, Power)>, &'static str>;

fn change_power(ctx: &mut Context<'_>, step: impl Fn(Power) -> Step) -> Result<String> {
    let root = ctx.root();
    let ids = root.list("InstanceId");
    root.ignore(&["Force", "Hibernate", "SkipOsShutdown", "AdditionalInfo"]);
    root.finish()?;
    if ids.is_empty() {
        return Err(Ec2Error::missing("InstanceId"));
    }
    let mut changes: Vec<(String, Power, Power)> = Vec::new();
    for id in ids {
        let before = ctx.region.instance(&id)?.power;
        let next = step(before)
            .map_err(|why| Ec2Error::new("IncorrectInstanceState", format!("The instance '{id}' {why}")))?;
        let Some((now, then)) = next else {
            changes.push((id, before, before));
            continue;
        };
        let transition = transition(ctx, then);
        if then == Power::Running {
            ctx.region.lend_public_ip(&id)?;
        }
        let instance = ctx.region.instance_mut(&id)?;
        instance.power = now;
        instance.transition = Some(transition);
        changes.push((id, before, now));
    }
    Ok(Xml::of(|xml| {
        xml.list("instancesSet", changes, |xml, (id, before, now)| {
            xml.leaf("instanceId", id);
            xml.within("currentState", |xml| wire::power(xml, now));
            xml.within("previousState", |xml| wire::power(xml, before));
        });
    }))
}

/// Sets the groups of an instance that has one interface; the other attributes that EC2 takes are noted only.
pub(crate) fn modify_instance_attribute(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("InstanceId")?.to_owned();
    let groups = root.list("GroupId");
    let kind = root.text("InstanceType.Value");
    root.ignore(&[
        "DisableApiTermination",
        "DisableApiStop",
        "SourceDestCheck",
        "EbsOptimized",
        "EnaSupport",
    ]);
    root.finish()?;
    let instance = ctx.region.instance(&id)?.clone();
    if let Some(kind) = kind {
        if instance.power != Power::Stopped {
            let message = format!("The instance '{id}' is not in the 'stopped' state.");
            return Err(Ec2Error::new("IncorrectInstanceState", message));
        }
        ctx.region.instance_mut(&id)?.instance_type = kind;
    }
    if !groups.is_empty() {
        let interface = match instance.interfaces.as_slice() {
            [interface] => interface.clone(),
            [] => {
                return Err(Ec2Error::new(
                    "IncorrectInstanceState",
                    format!("The instance '{id}' is terminated"),
                ));
            }
            _ => {
                let message = format!(
                    "There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for the operation instead."
                );
                return Err(Ec2Error::new("InvalidInstanceID", message));
            }
        };
        let vpc_id = ctx.region.interface(&interface)?.vpc_id.clone();
        let groups = check_groups(ctx, &groups, &vpc_id, TOO_MANY_PER_INSTANCE)?;
        ctx.region.interface_mut(&interface)?.groups = groups;
    }
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

const FILTERS: &[&str] = &[
    "availability-zone",
    "image-id",
    "instance-id",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "instance.group-name",
    "ip-address",
    "key-name",
    "network-interface.group-id",
    "network-interface.group-name",
    "network-interface.network-interface-id",
    "network-interface.subnet-id",
    "network-interface.vpc-id",
    "owner-id",
    "private-ip-address",
    "reservation-id",
    "subnet-id",
    "vpc-id",
];

fn attribute(region: &Region, owner: &str, instance: &Instance, name: &str) -> Vec<String> {
    let interfaces = region.interfaces_of(instance);
    let primary = interfaces.first();
    let group_names = |ids: &[String]| -> Vec<String> {
        ids.iter()
            .filter_map(|id| Some(region.groups.get(id)?.name.clone()))
            .collect()
    };
    match name {
        "availability-zone" => primary
            .map(|interface| interface.zone.clone())
            .into_iter()
            .collect(),
        "image-id" => vec![instance.image_id.clone()],
        "instance-id" => vec![instance.id.clone()],
        "instance-state-code" => vec![instance.power.wire().0.to_string()],
        "instance-state-name" => vec![instance.power.wire().1.to_owned()],
        "instance-type" => vec![instance.instance_type.clone()],
        "instance.group-id" => primary
            .map(|interface| interface.groups.clone())
            .unwrap_or_default(),
        "instance.group-name" => primary
            .map(|interface| group_names(&interface.groups))
            .unwrap_or_default(),
        "ip-address" => {
            let address = primary.and_then(|interface| region.public_ip_of(interface));
            address.map(|address| address.to_string()).into_iter().collect()
        }
        "key-name" => instance.key_name.clone().into_iter().collect(),
        "network-interface.group-id" => interfaces
            .iter()
            .flat_map(|interface| interface.groups.clone())
            .collect(),
        "network-interface.group-name" => interfaces
            .iter()
            .flat_map(|interface| group_names(&interface.groups))
            .collect(),
        "network-interface.network-interface-id" => instance.interfaces.clone(),
        "network-interface.subnet-id" => interfaces
            .iter()
            .map(|interface| interface.subnet_id.clone())
            .collect(),
        "network-interface.vpc-id" => interfaces
            .iter()
            .map(|interface| interface.vpc_id.clone())
            .collect(),
        "owner-id" => vec![owner.to_owned()],
        "private-ip-address" => primary
            .and_then(|interface| interface.private_ip)
            .map(|address| address.to_string())
            .into_iter()
            .collect(),
        "reservation-id" => vec![instance.reservation_id.clone()],
        "subnet-id" => primary
            .map(|interface| interface.subnet_id.clone())
            .into_iter()
            .collect(),
        "vpc-id" => primary
            .map(|interface| interface.vpc_id.clone())
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

pub(crate) fn describe_instances(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("InstanceId"), root.filters()?);
    filters.known(FILTERS)?;
    let page = root.page((!ids.is_empty()).then_some("instancesSet"))?;
    root.ignore(&["IncludeManagedResources"]);
    root.finish()?;
    let region = &*ctx.region;
    for id in &ids {
        region.instance(id)?;
    }
    let found: Vec<&Instance> = region
        .instances
        .values()
        .filter(|instance| ids.is_empty() || ids.contains(&instance.id))
        .filter(|instance| {
            filters.pass(&instance.tags, |name| {
                attribute(region, &ctx.caller.account, instance, name)
            })
        })
        .collect();
    let (found, next) = page.cut(found, |instance| instance.id.clone());
    let mut reservations: Vec<(&str, Vec<&Instance>)> = Vec::new();
    for instance in found {
        match reservations
            .iter_mut()
            .find(|(id, _)| *id == instance.reservation_id)
        {
            Some((_, members)) => members.push(instance),
            None => reservations.push((&instance.reservation_id, vec![instance])),
        }
    }
    Ok(Xml::of(|xml| {
        xml.list("reservationSet", &reservations, |xml, (id, members)| {
            wire::reservation(xml, ctx, id, members);
        });
        xml.opt("nextToken", next);
    }))
}
