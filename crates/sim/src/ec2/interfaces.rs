//! Network interfaces and the groups on them.
//!
//! Source: API reference `CreateNetworkInterface`, `ModifyNetworkInterfaceAttribute`,
//! `AttachNetworkInterface`, `DetachNetworkInterface`, `DescribeNetworkInterfaces`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::network::{free_ipv4, free_ipv6, named_ipv6};
use super::params::Part;
use super::state::{Attachment, Interface, Power, Region, Subnet, Tags};
use super::wire;
use super::xml::Xml;

/// What a new interface is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewInterface {
    pub(crate) subnet_id: String,
    pub(crate) groups: Vec<String>,
    pub(crate) description: String,
    pub(crate) private_ip: Option<Ipv4Addr>,
    pub(crate) secondary: Vec<Ipv4Addr>,
    pub(crate) secondary_count: i32,
    pub(crate) ipv6: Vec<String>,
    pub(crate) ipv6_count: i32,
    /// Whether EC2 lends it a public address: only of a launch.
    pub(crate) lends_ip: bool,
    pub(crate) tags: Tags,
}

impl NewInterface {
    /// Reads what `CreateNetworkInterface` and an interface of `RunInstances` have in common.
    pub(crate) fn read(part: &Part<'_>, subnet_id: String) -> Result<Self> {
        let parse = |text: &str| -> Result<Ipv4Addr> {
            let invalid = || Ec2Error::invalid_value(format!("Invalid IPv4 address: {text}"));
            text.parse().map_err(|_| invalid())
        };
        let mut private_ip = part.get("PrivateIpAddress").map(parse).transpose()?;
        let mut secondary = Vec::new();
        // API reference `PrivateIpAddressSpecification`: one of them is the primary.
        for listed in part.parts("PrivateIpAddresses") {
            let address = parse(listed.require("PrivateIpAddress")?)?;
            if listed.bool("Primary")?.unwrap_or(false) {
                if private_ip.is_some_and(|other| other != address) {
                    let message = "Only one primary private IP address can be specified";
                    return Err(Ec2Error::combination(message));
                }
                private_ip = Some(address);
            } else {
                secondary.push(address);
            }
        }
        let secondary_count = part.int("SecondaryPrivateIpAddressCount")?.unwrap_or(0);
        if secondary_count > 0 && !secondary.is_empty() {
            let message = "The parameter privateIpAddresses cannot be used with the parameter \
                           secondaryPrivateIpAddressCount";
            return Err(Ec2Error::combination(message));
        }
        // `RunInstances` itself numbers them `Ipv6Address.N`, its interfaces `Ipv6Addresses.N`.
        let ipv6_parts = [part.parts("Ipv6Addresses"), part.parts("Ipv6Address")].concat();
        let ipv6 = ipv6_parts
            .iter()
            .map(|address| {
                address.ignore(&["IsPrimaryIpv6"]);
                Ok(address.require("Ipv6Address")?.to_owned())
            })
            .collect::<Result<Vec<_>>>()?;
        let ipv6_count = part.int("Ipv6AddressCount")?.unwrap_or(0);
        if !ipv6.is_empty() && ipv6_count > 0 {
            let message = "The parameter ipv6Addresses cannot be used with the parameter ipv6AddressCount";
            return Err(Ec2Error::combination(message));
        }
        part.ignore(&["InterfaceType"]);
        Ok(Self {
            subnet_id,
            groups: part.list("SecurityGroupId"),
            description: part.text("Description").unwrap_or_default(),
            private_ip,
            secondary,
            secondary_count,
            ipv6,
            ipv6_count,
            lends_ip: false,
            tags: Tags::new(),
        })
    }
}

/// Refuses groups that do not exist, are too many, or belong to another VPC; drops repeated ones.
pub(crate) fn check_groups(
    ctx: &Context<'_>,
    groups: &[String],
    vpc_id: &str,
    code: &str,
) -> Result<Vec<String>> {
    let mut distinct: Vec<String> = Vec::new();
    for id in groups {
        let group = ctx.region.group(id)?;
        if group.vpc_id != vpc_id {
            // "Client error codes for specific actions": InvalidParameter names this very case.
            let message =
                format!("Security group {id} and the network interface belong to different networks.");
            return Err(Ec2Error::new("InvalidParameter", message));
        }
        if !distinct.contains(id) {
            distinct.push(id.clone());
        }
    }
    if distinct.len() > ctx.limits.groups_per_interface {
        let message = "The maximum number of security groups per interface has been reached.";
        return Err(Ec2Error::new(code, message));
    }
    Ok(distinct)
}

/// The error code where an interface would have too many groups.
pub(crate) const TOO_MANY_PER_INTERFACE: &str = "SecurityGroupsPerInterfaceLimitExceeded";
/// The same, said of an instance.
pub(crate) const TOO_MANY_PER_INSTANCE: &str = "SecurityGroupsPerInstanceLimitExceeded";

/// Makes an interface; without groups it gets the VPC's default group.
pub(crate) fn make(ctx: &mut Context<'_>, new: NewInterface, code: &str) -> Result<String> {
    let subnet = ctx.region.subnet(&new.subnet_id)?.clone();
    let mut groups = check_groups(ctx, &new.groups, &subnet.vpc_id, code)?;
    if groups.is_empty() {
        let default = ctx.region.group_named(&subnet.vpc_id, "default");
        groups.extend(default.map(|group| group.id.clone()));
    }
    if new.description.chars().count() > 255 {
        return Err(Ec2Error::invalid_value(
            "Invalid description. The length must not exceed 255 characters.",
        ));
    }
    let native = subnet.cidr.is_none();
    let private_ip = if native && new.private_ip.is_none() {
        None
    } else {
        Some(free_ipv4(ctx.region, &subnet, new.private_ip, &[])?)
    };
    let taken: Vec<Ipv4Addr> = private_ip.into_iter().collect();
    let secondary = more_ipv4(ctx.region, &subnet, &new.secondary, new.secondary_count, &taken)?;
    let mut ipv6: Vec<Ipv6Addr> = named_ipv6(ctx.region, &subnet, &new.ipv6)?;
    // In a subnet of IPv6 alone an interface gets an address without asking.
    let count = if native && ipv6.is_empty() {
        new.ipv6_count.max(1)
    } else {
        new.ipv6_count
    };
    if count > 0 {
        ipv6.extend(free_ipv6(ctx, &subnet, count)?);
    }
    let id = ctx.new_id("eni");
    let mac: Vec<String> = std::iter::once("02".to_owned())
        .chain((0..5).map(|_| ctx.ids.hex(2)))
        .collect();
    let interface = Interface {
        id: id.clone(),
        subnet_id: subnet.id,
        vpc_id: subnet.vpc_id,
        zone: subnet.zone,
        description: new.description,
        private_ip,
        secondary,
        lent_ip: None,
        is_lent_an_ip: new.lends_ip,
        ipv6,
        mac: mac.join(":"),
        groups,
        attachment: None,
        tags: new.tags,
    };
    ctx.region.interfaces.insert(&id, interface);
    Ok(id)
}

/// Addresses beside those taken: the ones named, then `count` free ones.
pub(crate) fn more_ipv4(
    region: &Region,
    subnet: &Subnet,
    named: &[Ipv4Addr],
    count: i32,
    taken: &[Ipv4Addr],
) -> Result<Vec<Ipv4Addr>> {
    let mut taken = taken.to_vec();
    let mut more = Vec::new();
    let free = (0..count).map(|_| None);
    for wanted in named.iter().copied().map(Some).chain(free) {
        let address = free_ipv4(region, subnet, wanted, &taken)?;
        if taken.contains(&address) {
            let message = format!("Address {address} is named twice.");
            return Err(Ec2Error::invalid_value(message));
        }
        taken.push(address);
        more.push(address);
    }
    Ok(more)
}

/// Hangs an interface on an instance.
pub(crate) fn attach(
    ctx: &mut Context<'_>,
    interface_id: &str,
    instance_id: &str,
    device_index: i32,
    delete_on_termination: bool,
) -> Result<String> {
    if !(0..=15).contains(&device_index) {
        return Err(Ec2Error::invalid_value(format!(
            "Invalid value '{device_index}' for deviceIndex"
        )));
    }
    let interface = ctx.region.interface(interface_id)?;
    if interface.attachment.is_some() {
        let message = format!("Interface: [{interface_id}] in use.");
        return Err(Ec2Error::new("InvalidNetworkInterface.InUse", message));
    }
    let instance = ctx.region.instance(instance_id)?;
    let others = ctx.region.interfaces_of(instance);
    let index_of = |other: &&Interface| {
        other
            .attachment
            .as_ref()
            .map(|attachment| attachment.device_index)
    };
    if others.iter().any(|other| index_of(other) == Some(device_index)) {
        let message = format!(
            "Instance '{instance_id}' already has an interface attached at device index '{device_index}'."
        );
        return Err(Ec2Error::invalid_value(message));
    }
    if let Some(primary) = others.first()
        && (primary.vpc_id != interface.vpc_id || primary.zone != interface.zone)
    {
        let message = format!(
            "The interface '{interface_id}' is in another VPC or availability zone than the instance."
        );
        return Err(Ec2Error::combination(message));
    }
    let id = ctx.new_id("eni-attach");
    let attachment = Attachment {
        id: id.clone(),
        instance_id: instance_id.to_owned(),
        device_index,
        delete_on_termination,
        at: ctx.now,
    };
    ctx.region.interface_mut(interface_id)?.attachment = Some(attachment);
    ctx.region
        .instance_mut(instance_id)?
        .interfaces
        .push(interface_id.to_owned());
    Ok(id)
}

pub(crate) fn create_network_interface(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let subnet_id = root.require("SubnetId")?.to_owned();
    let mut new = NewInterface::read(&root, subnet_id)?;
    new.tags = root.tags("network-interface", &["network-interface"])?;
    let token = root.text("ClientToken");
    root.finish()?;
    let id = make(ctx, new, TOO_MANY_PER_INTERFACE)?;
    let interface = ctx.region.interface(&id)?;
    Ok(Xml::of(|xml| {
        xml.within("networkInterface", |xml| wire::interface(xml, ctx, interface));
        xml.opt("clientToken", token);
    }))
}

pub(crate) fn delete_network_interface(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("NetworkInterfaceId")?.to_owned();
    root.finish()?;
    if ctx.region.interface(&id)?.attachment.is_some() {
        let message = format!("Network interface '{id}' is currently in use.");
        return Err(Ec2Error::new("InvalidNetworkInterface.InUse", message));
    }
    remove(ctx.region, &id);
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

/// Deletes an interface and lets go of its elastic address.
pub(crate) fn remove(region: &mut Region, id: &str) {
    if let Some(address) = region.address_of(id).map(|address| address.id.clone())
        && let Some(address) = region.addresses.get_mut(&address)
    {
        address.association = None;
    }
    region.interfaces.remove(id);
}

pub(crate) fn attach_network_interface(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let interface = root.require("NetworkInterfaceId")?.to_owned();
    let instance = root.require("InstanceId")?.to_owned();
    let index = root
        .int("DeviceIndex")?
        .ok_or_else(|| Ec2Error::missing("DeviceIndex"))?;
    root.ignore(&["NetworkCardIndex"]);
    root.finish()?;
    let power = ctx.region.instance(&instance)?.power;
    if !matches!(power, Power::Running | Power::Stopped | Power::Pending) {
        let message = format!("Instance '{instance}' is not 'running' or 'stopped'.");
        return Err(Ec2Error::new("IncorrectState", message));
    }
    let id = attach(ctx, &interface, &instance, index, false)?;
    Ok(Xml::of(|xml| {
        xml.leaf("attachmentId", id);
        xml.leaf("networkCardIndex", 0);
    }))
}

pub(crate) fn detach_network_interface(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("AttachmentId")?.to_owned();
    root.ignore(&["Force"]);
    root.finish()?;
    let found = ctx.region.interfaces.values().find_map(|interface| {
        let attachment = interface
            .attachment
            .as_ref()
            .filter(|attachment| attachment.id == id)?;
        Some((
            interface.id.clone(),
            attachment.instance_id.clone(),
            attachment.device_index,
        ))
    });
    let (interface, instance, index) = found.ok_or_else(|| {
        let message = format!("The attachment ID '{id}' does not exist");
        Ec2Error::new("InvalidAttachmentID.NotFound", message)
    })?;
    if index == 0 {
        let message = "The network interface at device index 0 cannot be detached.";
        return Err(Ec2Error::new("OperationNotPermitted", message));
    }
    ctx.region.interface_mut(&interface)?.attachment = None;
    ctx.region
        .instance_mut(&instance)?
        .interfaces
        .retain(|other| *other != interface);
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

/// Sets the groups, the description or what happens on termination. The groups given replace those that are there.
pub(crate) fn modify_network_interface_attribute(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("NetworkInterfaceId")?.to_owned();
    let groups = root.list("SecurityGroupId");
    let description = root.text("Description.Value");
    let attachment = root.text("Attachment.AttachmentId");
    let delete = root.bool("Attachment.DeleteOnTermination")?;
    root.ignore(&["SourceDestCheck"]);
    root.finish()?;
    let vpc_id = ctx.region.interface(&id)?.vpc_id.clone();
    if groups.is_empty() && description.is_none() && delete.is_none() {
        let message = "No attributes specified.";
        return Err(Ec2Error::combination(message));
    }
    if !groups.is_empty() {
        let groups = check_groups(ctx, &groups, &vpc_id, TOO_MANY_PER_INTERFACE)?;
        ctx.region.interface_mut(&id)?.groups = groups;
    }
    let interface = ctx.region.interface_mut(&id)?;
    if let Some(description) = description {
        interface.description = description;
    }
    if let Some(delete) = delete {
        let hung = interface
            .attachment
            .as_mut()
            .filter(|hung| Some(&hung.id) == attachment.as_ref());
        let hung = hung.ok_or_else(|| {
            let message = "The attachment ID does not exist on this interface";
            Ec2Error::new("InvalidAttachmentID.NotFound", message)
        })?;
        hung.delete_on_termination = delete;
    }
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

const FILTERS: &[&str] = &[
    "addresses.private-ip-address",
    "attachment.attachment-id",
    "attachment.device-index",
    "attachment.instance-id",
    "availability-zone",
    "description",
    "group-id",
    "group-name",
    "ipv6-addresses.ipv6-address",
    "network-interface-id",
    "owner-id",
    "private-ip-address",
    "status",
    "subnet-id",
    "vpc-id",
];

fn attribute(region: &Region, owner: &str, interface: &Interface, name: &str) -> Vec<String> {
    let attachment = interface.attachment.as_ref();
    match name {
        "private-ip-address" => interface.private_ip.iter().map(ToString::to_string).collect(),
        "addresses.private-ip-address" => interface
            .private_ip
            .iter()
            .chain(&interface.secondary)
            .map(ToString::to_string)
            .collect(),
        "attachment.attachment-id" => attachment.iter().map(|hung| hung.id.clone()).collect(),
        "attachment.device-index" => attachment
            .iter()
            .map(|hung| hung.device_index.to_string())
            .collect(),
        "attachment.instance-id" => attachment.iter().map(|hung| hung.instance_id.clone()).collect(),
        "availability-zone" => vec![interface.zone.clone()],
        "description" => vec![interface.description.clone()],
        "group-id" => interface.groups.clone(),
        "group-name" => interface
            .groups
            .iter()
            .filter_map(|id| Some(region.groups.get(id)?.name.clone()))
            .collect(),
        "ipv6-addresses.ipv6-address" => interface.ipv6.iter().map(ToString::to_string).collect(),
        "network-interface-id" => vec![interface.id.clone()],
        "owner-id" => vec![owner.to_owned()],
        "status" => vec![wire::interface_status(interface).to_owned()],
        "subnet-id" => vec![interface.subnet_id.clone()],
        "vpc-id" => vec![interface.vpc_id.clone()],
        _ => Vec::new(),
    }
}

pub(crate) fn describe_network_interfaces(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("NetworkInterfaceId"), root.filters()?);
    filters.known(FILTERS)?;
    let page = root.page((!ids.is_empty()).then_some("networkInterfaceIdSet"))?;
    root.ignore(&["IncludeManagedResources"]);
    root.finish()?;
    let region = &*ctx.region;
    for id in &ids {
        region.interface(id)?;
    }
    let found: Vec<&Interface> = region
        .interfaces
        .values()
        .filter(|interface| ids.is_empty() || ids.contains(&interface.id))
        .filter(|interface| {
            filters.pass(&interface.tags, |name| {
                attribute(region, &ctx.caller.account, interface, name)
            })
        })
        .collect();
    let (found, next) = page.cut(found, |interface| interface.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("networkInterfaceSet", found, |xml, interface| {
            wire::interface(xml, ctx, interface);
        });
        xml.opt("nextToken", next);
    }))
}
