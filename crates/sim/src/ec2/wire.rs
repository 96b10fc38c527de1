//! Resources in the XML that EC2 sends, member by member as botocore's `ec2/2016-11-15/service-2.json` names them.

use super::auth::Caller;
use super::context::Context;
use super::peering::reference;
use super::state::{
    Allowance, Group, Instance, Interface, Peer, Power, PrefixList, Region, Rule, Subnet, Tags, Vpc,
};
use super::xml::Xml;

pub(crate) fn tags(xml: &mut Xml, tags: &Tags) {
    xml.list("tagSet", tags, |xml, (key, value)| {
        xml.leaf("key", key);
        xml.leaf("value", value);
    });
}

pub(crate) fn vpc(xml: &mut Xml, caller: &Caller, vpc: &Vpc) {
    xml.leaf("vpcId", &vpc.id);
    xml.leaf("ownerId", &caller.account);
    xml.leaf("state", "available");
    xml.leaf("cidrBlock", vpc.cidr);
    xml.list("cidrBlockAssociationSet", [vpc.cidr], |xml, cidr| {
        xml.leaf("cidrBlock", cidr);
        xml.leaf("associationId", vpc.id.replacen("vpc-", "vpc-cidr-assoc-", 1));
        xml.within("cidrBlockState", |xml| xml.leaf("state", "associated"));
    });
    xml.list("ipv6CidrBlockAssociationSet", vpc.ipv6_cidr, |xml, cidr| {
        xml.leaf("ipv6CidrBlock", cidr);
        xml.leaf("associationId", vpc.id.replacen("vpc-", "vpc-cidr-assoc-6", 1));
        xml.within("ipv6CidrBlockState", |xml| xml.leaf("state", "associated"));
        xml.leaf("networkBorderGroup", &caller.region);
        xml.leaf("ipv6Pool", "Amazon");
    });
    xml.leaf("dhcpOptionsId", "default");
    xml.leaf("instanceTenancy", "default");
    xml.leaf("isDefault", vpc.is_default);
    tags(xml, &vpc.tags);
}

/// A zone's id that is the same in every account: the zone's letter as a number behind the region.
pub(crate) fn zone_id(region: &str, zone: &str) -> String {
    let number = match zone.strip_prefix(region) {
        Some("a") => 1,
        Some("b") => 2,
        _ => 3,
    };
    format!("{}-az{number}", region.replace('-', ""))
}

pub(crate) fn subnet(xml: &mut Xml, ctx: &Context<'_>, subnet: &Subnet) {
    let region = &*ctx.region;
    let default = region.vpcs.get(&subnet.vpc_id).is_some_and(|vpc| vpc.is_default);
    let used = region
        .interfaces
        .values()
        .filter(|interface| interface.subnet_id == subnet.id)
        .count();
    let size = subnet.cidr.map_or(0, |cidr| 1_usize << (32 - cidr.prefix_len()));
    xml.leaf("subnetId", &subnet.id);
    xml.leaf("subnetArn", ctx.arn("subnet", &subnet.id));
    xml.leaf("state", "available");
    xml.leaf("ownerId", &ctx.caller.account);
    xml.leaf("vpcId", &subnet.vpc_id);
    xml.opt("cidrBlock", subnet.cidr);
    xml.leaf("ipv6Native", subnet.cidr.is_none());
    xml.list("ipv6CidrBlockAssociationSet", subnet.ipv6_cidr, |xml, cidr| {
        xml.leaf("ipv6CidrBlock", cidr);
        xml.leaf(
            "associationId",
            subnet.id.replacen("subnet-", "subnet-cidr-assoc-", 1),
        );
        xml.within("ipv6CidrBlockState", |xml| xml.leaf("state", "associated"));
    });
    xml.leaf("availableIpAddressCount", size.saturating_sub(5 + used));
    xml.leaf("availabilityZone", &subnet.zone);
    xml.leaf("availabilityZoneId", zone_id(&ctx.caller.region, &subnet.zone));
    xml.leaf("defaultForAz", default);
    xml.leaf("mapPublicIpOnLaunch", default);
    xml.leaf("assignIpv6AddressOnCreation", false);
    tags(xml, &subnet.tags);
}

pub(crate) fn prefix_list(xml: &mut Xml, ctx: &Context<'_>, list: &PrefixList) {
    xml.leaf("prefixListId", &list.id);
    xml.leaf("addressFamily", if list.ipv6 { "IPv6" } else { "IPv4" });
    xml.leaf("state", "create-complete");
    xml.leaf("prefixListArn", ctx.arn("prefix-list", &list.id));
    xml.leaf("prefixListName", &list.name);
    xml.leaf("maxEntries", list.max_entries);
    xml.leaf("version", list.version);
    xml.leaf("ownerId", &ctx.caller.account);
    tags(xml, &list.tags);
}

pub(crate) fn group(xml: &mut Xml, ctx: &Context<'_>, group: &Group) {
    xml.leaf("ownerId", &ctx.caller.account);
    xml.leaf("groupId", &group.id);
    xml.leaf("securityGroupArn", ctx.arn("security-group", &group.id));
    xml.leaf("groupName", &group.name);
    xml.leaf("groupDescription", &group.description);
    xml.leaf("vpcId", &group.vpc_id);
    for (name, egress) in [("ipPermissions", false), ("ipPermissionsEgress", true)] {
        let rules: Vec<(&Allowance, Option<&str>)> = group
            .rules
            .iter()
            .filter(|rule| rule.allows.egress == egress)
            .map(|rule| (&rule.allows, rule.description.as_deref()))
            .collect();
        permissions(xml, name, (ctx.region, &group.vpc_id), &rules);
    }
    tags(xml, &group.tags);
}

/// Rules in `IpPermission` form, of a group in that VPC: those of one protocol and port range together.
pub(crate) fn permissions(
    xml: &mut Xml,
    name: &str,
    (region, own_vpc): (&Region, &str),
    rules: &[(&Allowance, Option<&str>)],
) {
    type Key<'a> = (&'a str, Option<i32>, Option<i32>);
    type Described<'a> = (&'a Peer, Option<&'a str>);
    let mut sets: Vec<(Key<'_>, Vec<Described<'_>>)> = Vec::new();
    for (allows, description) in rules {
        let key = (allows.protocol.as_str(), allows.from_port, allows.to_port);
        match sets.iter_mut().find(|(other, _)| *other == key) {
            Some((_, peers)) => peers.push((&allows.peer, *description)),
            None => sets.push((key, vec![(&allows.peer, *description)])),
        }
    }
    xml.list(name, &sets, |xml, ((protocol, from, to), peers)| {
        xml.leaf("ipProtocol", protocol);
        xml.opt("fromPort", *from);
        xml.opt("toPort", *to);
        let of = |pick: fn(&Peer) -> bool| peers.iter().filter(move |(peer, _)| pick(peer));
        xml.list(
            "groups",
            of(|peer| matches!(peer, Peer::Group { .. })),
            |xml, (peer, description)| {
                if let Peer::Group { group_id, user_id } = peer {
                    group_pair(xml, region, own_vpc, (group_id, user_id));
                }
                xml.opt("description", *description);
            },
        );
        xml.list(
            "ipRanges",
            of(|peer| matches!(peer, Peer::CidrV4(_))),
            |xml, (peer, description)| {
                if let Peer::CidrV4(cidr) = peer {
                    xml.leaf("cidrIp", cidr);
                }
                xml.opt("description", *description);
            },
        );
        xml.list(
            "ipv6Ranges",
            of(|peer| matches!(peer, Peer::CidrV6(_))),
            |xml, (peer, description)| {
                if let Peer::CidrV6(cidr) = peer {
                    xml.leaf("cidrIpv6", cidr);
                }
                xml.opt("description", *description);
            },
        );
        xml.list(
            "prefixListIds",
            of(|peer| matches!(peer, Peer::PrefixList(_))),
            |xml, (peer, description)| {
                if let Peer::PrefixList(id) = peer {
                    xml.leaf("prefixListId", id);
                }
                xml.opt("description", *description);
            },
        );
    });
}

/// A group that a rule names; of one in another VPC also where that is, and whether it can still be reached. Source: API
/// reference `UserIdGroupPair` and `ReferencedSecurityGroup`; of a deleted group there, the account is not told.
pub(crate) fn group_pair(xml: &mut Xml, region: &Region, own_vpc: &str, (group_id, user_id): (&str, &str)) {
    let elsewhere = reference(region, own_vpc, group_id);
    if !elsewhere.is_some_and(|found| found.deleted) {
        xml.leaf("userId", user_id);
    }
    xml.leaf("groupId", group_id);
    if let Some(found) = elsewhere {
        xml.leaf("vpcId", found.vpc_id);
        xml.opt("vpcPeeringConnectionId", found.peering.map(|peering| &peering.id));
        xml.opt(
            "peeringStatus",
            found.peering.map(|peering| peering.status.word()),
        );
    }
}

/// Where a protocol has no ports, `SecurityGroupRule` says -1.
fn rule_ports(xml: &mut Xml, allows: &Allowance) {
    xml.leaf("ipProtocol", &allows.protocol);
    xml.leaf("fromPort", allows.from_port.unwrap_or(-1));
    xml.leaf("toPort", allows.to_port.unwrap_or(-1));
}

pub(crate) fn rule(xml: &mut Xml, ctx: &Context<'_>, group_id: &str, rule: &Rule) {
    xml.leaf("securityGroupRuleId", &rule.id);
    xml.leaf("securityGroupRuleArn", ctx.arn("security-group-rule", &rule.id));
    xml.leaf("groupId", group_id);
    xml.leaf("groupOwnerId", &ctx.caller.account);
    xml.leaf("isEgress", rule.allows.egress);
    rule_ports(xml, &rule.allows);
    match &rule.allows.peer {
        Peer::CidrV4(cidr) => xml.leaf("cidrIpv4", cidr),
        Peer::CidrV6(cidr) => xml.leaf("cidrIpv6", cidr),
        Peer::PrefixList(id) => xml.leaf("prefixListId", id),
        Peer::Group {
            group_id: named,
            user_id,
        } => xml.within("referencedGroupInfo", |xml| {
            let own = ctx.region.groups.get(group_id);
            let own_vpc = own.map_or("", |group| group.vpc_id.as_str());
            group_pair(xml, ctx.region, own_vpc, (named, user_id));
        }),
    }
    xml.opt("description", rule.description.as_deref());
    tags(xml, &rule.tags);
}

pub(crate) fn revoked_rule(xml: &mut Xml, group_id: &str, rule: &Rule) {
    xml.leaf("securityGroupRuleId", &rule.id);
    xml.leaf("groupId", group_id);
    xml.leaf("isEgress", rule.allows.egress);
    rule_ports(xml, &rule.allows);
    match &rule.allows.peer {
        Peer::CidrV4(cidr) => xml.leaf("cidrIpv4", cidr),
        Peer::CidrV6(cidr) => xml.leaf("cidrIpv6", cidr),
        Peer::PrefixList(id) => xml.leaf("prefixListId", id),
        Peer::Group { group_id, .. } => xml.leaf("referencedGroupId", group_id),
    }
    xml.opt("description", rule.description.as_deref());
}

/// `groupSet`: the groups of an interface by id and name.
fn group_set(xml: &mut Xml, region: &Region, groups: &[String]) {
    xml.list("groupSet", groups, |xml, id| {
        xml.leaf("groupId", id);
        xml.opt("groupName", region.groups.get(id).map(|group| &group.name));
    });
}

/// `available` or `in-use`.
pub(crate) fn interface_status(interface: &Interface) -> &'static str {
    if interface.attachment.is_some() {
        "in-use"
    } else {
        "available"
    }
}

/// What an interface says of itself, alone and, without the ids of its address, inside an instance.
fn interface_body(xml: &mut Xml, ctx: &Context<'_>, interface: &Interface, alone: bool) {
    let region = &*ctx.region;
    xml.leaf("networkInterfaceId", &interface.id);
    xml.leaf("subnetId", &interface.subnet_id);
    xml.leaf("vpcId", &interface.vpc_id);
    xml.leaf("description", &interface.description);
    xml.leaf("ownerId", &ctx.caller.account);
    xml.leaf("status", interface_status(interface));
    xml.leaf("macAddress", &interface.mac);
    xml.opt("privateIpAddress", interface.private_ip);
    xml.leaf("sourceDestCheck", true);
    xml.leaf("interfaceType", "interface");
    group_set(xml, region, &interface.groups);
    association(xml, ctx, interface, alone);
    let primary = interface.private_ip.iter().map(|ip| (ip, true));
    let addresses = primary.chain(interface.secondary.iter().map(|ip| (ip, false)));
    xml.list("privateIpAddressesSet", addresses, |xml, (ip, primary)| {
        xml.leaf("privateIpAddress", ip);
        xml.leaf("primary", primary);
        if primary {
            association(xml, ctx, interface, alone);
        }
    });
    xml.list("ipv6AddressesSet", &interface.ipv6, |xml, ip| {
        xml.leaf("ipv6Address", ip);
        xml.leaf("isPrimaryIpv6", false);
    });
}

fn association(xml: &mut Xml, ctx: &Context<'_>, interface: &Interface, alone: bool) {
    let Some(public_ip) = ctx.region.public_ip_of(interface) else {
        return;
    };
    let address = ctx.region.address_of(&interface.id);
    xml.within("association", |xml| {
        xml.leaf("publicIp", public_ip);
        xml.leaf("publicDnsName", "");
        let owner = address.map_or("amazon", |_| &ctx.caller.account);
        xml.leaf("ipOwnerId", owner);
        if let Some(address) = address.filter(|_| alone) {
            xml.leaf("allocationId", &address.id);
            xml.opt("associationId", address.association.as_ref().map(|(id, _)| id));
        }
    });
}

pub(crate) fn interface(xml: &mut Xml, ctx: &Context<'_>, interface: &Interface) {
    interface_body(xml, ctx, interface, true);
    xml.leaf("availabilityZone", &interface.zone);
    xml.leaf("requesterManaged", false);
    tags(xml, &interface.tags);
    if let Some(attachment) = &interface.attachment {
        xml.within("attachment", |xml| {
            xml.leaf("attachmentId", &attachment.id);
            xml.leaf("instanceId", &attachment.instance_id);
            xml.leaf("instanceOwnerId", &ctx.caller.account);
            xml.leaf("deviceIndex", attachment.device_index);
            xml.leaf("networkCardIndex", 0);
            xml.leaf("status", "attached");
            xml.time("attachTime", attachment.at);
            xml.leaf("deleteOnTermination", attachment.delete_on_termination);
        });
    }
    xml.opt("ipv6Address", interface.ipv6.first());
    // botocore, `NetworkInterface.Ipv6Native`; an instance's own `InstanceNetworkInterface` has no such member.
    let is_native = ctx
        .region
        .subnet(&interface.subnet_id)
        .is_ok_and(|subnet| subnet.cidr.is_none());
    xml.leaf("ipv6Native", is_native);
}

pub(crate) fn power(xml: &mut Xml, power: Power) {
    let (code, name) = power.wire();
    xml.leaf("code", code);
    xml.leaf("name", name);
}

pub(crate) fn reservation(xml: &mut Xml, ctx: &Context<'_>, id: &str, members: &[&Instance]) {
    xml.leaf("reservationId", id);
    xml.leaf("ownerId", &ctx.caller.account);
    xml.list("groupSet", std::iter::empty::<()>(), |_, ()| {});
    xml.list("instancesSet", members, |xml, member| instance(xml, ctx, member));
}

fn instance(xml: &mut Xml, ctx: &Context<'_>, instance: &Instance) {
    let region = &*ctx.region;
    let interfaces = region.interfaces_of(instance);
    let primary = interfaces.first();
    xml.leaf("instanceId", &instance.id);
    xml.leaf("imageId", &instance.image_id);
    xml.within("instanceState", |xml| power(xml, instance.power));
    xml.leaf("privateDnsName", "");
    xml.leaf("dnsName", "");
    xml.leaf("reason", "");
    xml.opt("keyName", instance.key_name.as_ref());
    xml.leaf("amiLaunchIndex", instance.launch_index);
    xml.list("productCodes", std::iter::empty::<()>(), |_, ()| {});
    xml.leaf("instanceType", &instance.instance_type);
    xml.time("launchTime", instance.launched);
    xml.within("placement", |xml| {
        xml.opt("availabilityZone", primary.map(|interface| &interface.zone));
        xml.leaf("groupName", "");
        xml.leaf("tenancy", "default");
    });
    xml.within("monitoring", |xml| xml.leaf("state", "disabled"));
    if let Some(primary) = primary {
        xml.leaf("subnetId", &primary.subnet_id);
        xml.leaf("vpcId", &primary.vpc_id);
        xml.opt("privateIpAddress", primary.private_ip);
        xml.opt("ipAddress", region.public_ip_of(primary));
        xml.opt("ipv6Address", primary.ipv6.first());
        xml.leaf("sourceDestCheck", true);
        group_set(xml, region, &primary.groups);
    } else {
        group_set(xml, region, &[]);
    }
    xml.leaf("architecture", "x86_64");
    xml.leaf("rootDeviceType", "ebs");
    xml.leaf("rootDeviceName", "/dev/xvda");
    xml.list("blockDeviceMapping", std::iter::empty::<()>(), |_, ()| {});
    xml.leaf("virtualizationType", "hvm");
    xml.leaf("hypervisor", "xen");
    xml.leaf("platformDetails", "Linux/UNIX");
    tags(xml, &instance.tags);
    xml.list("networkInterfaceSet", &interfaces, |xml, interface| {
        interface_body(xml, ctx, interface, false);
        if let Some(attachment) = &interface.attachment {
            xml.within("attachment", |xml| {
                xml.leaf("attachmentId", &attachment.id);
                xml.leaf("deviceIndex", attachment.device_index);
                xml.leaf("networkCardIndex", 0);
                xml.leaf("status", "attached");
                xml.time("attachTime", attachment.at);
                xml.leaf("deleteOnTermination", attachment.delete_on_termination);
            });
        }
    });
}
