//! VPCs, subnets, availability zones and regions.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::groups;
use super::peering;
use super::rules::{cidr_v4, cidr_v6};
use super::state::{Region, Subnet, Tags, Vpc};
use super::wire;
use super::xml::Xml;

/// Makes a VPC and its default group.
pub(crate) fn make_vpc(
    ctx: &mut Context<'_>,
    cidr: Ipv4Net,
    ipv6: bool,
    is_default: bool,
    tags: Tags,
) -> Result<String> {
    if !(16..=28).contains(&cidr.prefix_len()) {
        // API reference `CreateVpc`: between /16 and /28.
        return Err(Ec2Error::new(
            "InvalidVpc.Range",
            format!("The CIDR '{cidr}' is invalid."),
        ));
    }
    let id = ctx.new_id("vpc");
    let ipv6_cidr = ipv6.then(|| amazon_ipv6(ctx.ids.below(1 << 24)));
    ctx.region.vpcs.insert(
        &id,
        Vpc {
            id: id.clone(),
            cidr: cidr.trunc(),
            ipv6_cidr,
            is_default,
            tags,
        },
    );
    groups::make_default(ctx, &id);
    Ok(id)
}

/// A /56 out of a range that Amazon gives to VPCs.
fn amazon_ipv6(number: u64) -> Ipv6Net {
    let base = 0x2600_1f18_0000_0000_0000_0000_0000_0000_u128 | (u128::from(number) << 72);
    Ipv6Net::new(Ipv6Addr::from_bits(base), 56).unwrap_or_default()
}

/// Makes a subnet inside a VPC.
pub(crate) fn make_subnet(
    ctx: &mut Context<'_>,
    vpc_id: &str,
    cidr: Option<Ipv4Net>,
    ipv6_cidr: Option<Ipv6Net>,
    zone: Option<String>,
    tags: Tags,
) -> Result<String> {
    let vpc = ctx.region.vpc(vpc_id)?;
    if let Some(cidr) = cidr {
        if !vpc.cidr.contains(&cidr) || !(16..=28).contains(&cidr.prefix_len()) {
            return Err(Ec2Error::new(
                "InvalidSubnet.Range",
                format!("The CIDR '{cidr}' is invalid."),
            ));
        }
        let overlaps = |other: &Subnet| {
            other.vpc_id == vpc_id
                && other
                    .cidr
                    .is_some_and(|other| other.contains(&cidr) || cidr.contains(&other))
        };
        if ctx.region.subnets.values().any(overlaps) {
            let message = format!("The CIDR '{cidr}' conflicts with another subnet");
            return Err(Ec2Error::new("InvalidSubnet.Conflict", message));
        }
    }
    if let Some(range) = &ipv6_cidr {
        let inside = vpc.ipv6_cidr.is_some_and(|vpc| vpc.contains(range));
        if !inside || range.prefix_len() != 64 {
            return Err(Ec2Error::new(
                "InvalidSubnet.Range",
                format!("The CIDR '{range}' is invalid."),
            ));
        }
        if ctx
            .region
            .subnets
            .values()
            .any(|other| other.ipv6_cidr == ipv6_cidr)
        {
            let message = format!("The CIDR '{range}' conflicts with another subnet");
            return Err(Ec2Error::new("InvalidSubnet.Conflict", message));
        }
    }
    let zones = zones(&ctx.caller.region);
    let zone = match zone {
        None => zones.first().cloned().unwrap_or_default(),
        Some(zone) if zones.contains(&zone) => zone,
        Some(zone) => {
            return Err(Ec2Error::invalid_value(format!(
                "Value ({zone}) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: {}.",
                zones.join(", ")
            )));
        }
    };
    let id = ctx.new_id("subnet");
    let subnet = Subnet {
        id: id.clone(),
        vpc_id: vpc_id.to_owned(),
        cidr,
        ipv6_cidr,
        zone,
        tags,
    };
    ctx.region.subnets.insert(&id, subnet);
    Ok(id)
}

/// The next free address of a subnet, or the one asked for. The first four and the last are reserved
/// (VPC user guide, "Subnet CIDR blocks").
pub(crate) fn free_ipv4(
    region: &Region,
    subnet: &Subnet,
    wanted: Option<Ipv4Addr>,
    also_taken: &[Ipv4Addr],
) -> Result<Ipv4Addr> {
    let Some(range) = subnet.cidr else {
        return Err(Ec2Error::invalid_value(format!(
            "The subnet {} does not have an IPv4 CIDR block",
            subnet.id
        )));
    };
    let taken: std::collections::BTreeSet<Ipv4Addr> = region
        .interfaces
        .values()
        .filter(|interface| interface.subnet_id == subnet.id)
        .flat_map(|interface| interface.private_ip.iter().chain(&interface.secondary))
        .chain(also_taken)
        .copied()
        .collect();
    let (first, last) = (u32::from(range.network()) + 4, u32::from(range.broadcast()) - 1);
    if let Some(wanted) = wanted {
        if !(first..=last).contains(&u32::from(wanted)) {
            return Err(Ec2Error::invalid_value(
                "Address does not fall within the subnet's address range",
            ));
        }
        if taken.contains(&wanted) {
            return Err(Ec2Error::new(
                "InvalidIPAddress.InUse",
                format!("Address {wanted} is in use."),
            ));
        }
        return Ok(wanted);
    }
    (first..=last)
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
        .ok_or_else(|| {
            Ec2Error::new(
                "InsufficientFreeAddressesInSubnet",
                "The specified subnet does not have enough free addresses to satisfy the request.",
            )
        })
}

/// `count` IPv6 addresses of a subnet that no interface has.
pub(crate) fn free_ipv6(ctx: &Context<'_>, subnet: &Subnet, count: i32) -> Result<Vec<Ipv6Addr>> {
    let range = subnet.ipv6_cidr.ok_or_else(|| no_ipv6(&subnet.id))?;
    (0..count)
        .map(|_| {
            Ok(Ipv6Addr::from_bits(
                range.network().to_bits() | u128::from(ctx.ids.below(u64::MAX)),
            ))
        })
        .collect()
}

/// The IPv6 addresses asked for by name, all inside the subnet and free.
pub(crate) fn named_ipv6(region: &Region, subnet: &Subnet, wanted: &[String]) -> Result<Vec<Ipv6Addr>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let range = subnet.ipv6_cidr.ok_or_else(|| no_ipv6(&subnet.id))?;
    let mut addresses = Vec::new();
    for text in wanted {
        let address: Ipv6Addr = text
            .parse()
            .map_err(|_| Ec2Error::invalid_value(format!("Invalid IPv6 address: {text}")))?;
        if !range.contains(&address) {
            return Err(Ec2Error::invalid_value(format!(
                "{address} is not within the subnet's IPv6 CIDR block"
            )));
        }
        if region
            .interfaces
            .values()
            .any(|interface| interface.ipv6.contains(&address))
        {
            return Err(Ec2Error::new(
                "InvalidIPAddress.InUse",
                format!("Address {address} is in use."),
            ));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn no_ipv6(subnet_id: &str) -> Ec2Error {
    Ec2Error::invalid_value(format!("The subnet {subnet_id} does not have an IPv6 CIDR block"))
}

/// The zones that each region has here: a, b and c.
pub(crate) fn zones(region: &str) -> Vec<String> {
    ["a", "b", "c"]
        .iter()
        .map(|letter| format!("{region}{letter}"))
        .collect()
}

/// Gives an account and region, seen for the first time, what AWS gives it: the default VPC 172.31.0.0/16 with
/// a /20 subnet in each zone. Source: VPC user guide, "Default VPC components".
pub(crate) fn furnish(ctx: &mut Context<'_>) -> Result<()> {
    let vpc = make_vpc(ctx, cidr_v4("172.31.0.0/16")?, false, true, Tags::new())?;
    for (zone, cidr) in
        zones(&ctx.caller.region)
            .into_iter()
            .zip(["172.31.0.0/20", "172.31.16.0/20", "172.31.32.0/20"])
    {
        make_subnet(ctx, &vpc, Some(cidr_v4(cidr)?), None, Some(zone), Tags::new())?;
    }
    Ok(())
}

pub(crate) fn create_vpc(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let cidr = cidr_v4(root.require("CidrBlock")?)?;
    let ipv6 = root.bool("AmazonProvidedIpv6CidrBlock")?.unwrap_or(false);
    let tags = root.tags("vpc", &["vpc"])?;
    root.ignore(&["InstanceTenancy"]);
    root.finish()?;
    let id = make_vpc(ctx, cidr, ipv6, false, tags)?;
    let vpc = ctx.region.vpc(&id)?.clone();
    Ok(Xml::of(|xml| {
        xml.within("vpc", |xml| wire::vpc(xml, ctx.caller, &vpc));
    }))
}

pub(crate) fn delete_vpc(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("VpcId")?.to_owned();
    root.finish()?;
    ctx.region.vpc(&id)?;
    let used = ctx.region.subnets.values().any(|subnet| subnet.vpc_id == id)
        || ctx
            .region
            .groups
            .values()
            .any(|group| group.vpc_id == id && group.name != "default");
    if used {
        return Err(Ec2Error::dependency(format!(
            "The vpc '{id}' has dependencies and cannot be deleted."
        )));
    }
    if let Some(group) = ctx
        .region
        .group_named(&id, "default")
        .map(|group| group.id.clone())
    {
        ctx.region.groups.remove(&group);
    }
    ctx.region.vpcs.remove(&id);
    // VPC Peering Guide, "Delete a VPC peering connection".
    peering::end_all(ctx.region, &id);
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn describe_vpcs(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("VpcId"), root.filters()?);
    filters.known(&["vpc-id", "cidr", "state", "is-default", "isDefault", "owner-id"])?;
    let page = root.page(None)?;
    root.finish()?;
    for id in &ids {
        ctx.region.vpc(id)?;
    }
    let owner = &ctx.caller.account;
    let found: Vec<&Vpc> = ctx
        .region
        .vpcs
        .values()
        .filter(|vpc| ids.is_empty() || ids.contains(&vpc.id))
        .filter(|vpc| {
            filters.pass(&vpc.tags, |name| match name {
                "vpc-id" => vec![vpc.id.clone()],
                "cidr" => vec![vpc.cidr.to_string()],
                "state" => vec!["available".to_owned()],
                "owner-id" => vec![owner.clone()],
                _ => vec![vpc.is_default.to_string()],
            })
        })
        .collect();
    let (found, next) = page.cut(found, |vpc| vpc.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("vpcSet", found, |xml, vpc| wire::vpc(xml, ctx.caller, vpc));
        xml.opt("nextToken", next);
    }))
}

pub(crate) fn create_subnet(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let vpc_id = root.require("VpcId")?.to_owned();
    // API reference `CreateSubnet`: `Ipv6Native` makes a subnet without an IPv4 range.
    let native = root.bool("Ipv6Native")?.unwrap_or(false);
    let ipv6 = root.get("Ipv6CidrBlock").map(cidr_v6).transpose()?;
    let cidr = match (native, root.get("CidrBlock")) {
        (false, Some(cidr)) => Some(cidr_v4(cidr)?),
        (false, None) => return Err(Ec2Error::missing("CidrBlock")),
        (true, None) if ipv6.is_some() => None,
        (true, None) => return Err(Ec2Error::missing("Ipv6CidrBlock")),
        (true, Some(_)) => {
            let message = "The parameter cidrBlock cannot be used with the parameter ipv6Native";
            return Err(Ec2Error::combination(message));
        }
    };
    let zone = root.text("AvailabilityZone");
    let tags = root.tags("subnet", &["subnet"])?;
    root.finish()?;
    let id = make_subnet(ctx, &vpc_id, cidr, ipv6, zone, tags)?;
    let subnet = ctx.region.subnet(&id)?.clone();
    Ok(Xml::of(|xml| {
        xml.within("subnet", |xml| wire::subnet(xml, ctx, &subnet));
    }))
}

pub(crate) fn delete_subnet(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("SubnetId")?.to_owned();
    root.finish()?;
    ctx.region.subnet(&id)?;
    if ctx
        .region
        .interfaces
        .values()
        .any(|interface| interface.subnet_id == id)
    {
        return Err(Ec2Error::dependency(format!(
            "The subnet '{id}' has dependencies and cannot be deleted."
        )));
    }
    ctx.region.subnets.remove(&id);
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn describe_subnets(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("SubnetId"), root.filters()?);
    filters.known(&[
        "subnet-id",
        "vpc-id",
        "cidr-block",
        "availability-zone",
        "state",
        "default-for-az",
        "ipv6-native",
    ])?;
    let page = root.page(None)?;
    root.finish()?;
    for id in &ids {
        ctx.region.subnet(id)?;
    }
    let region = &*ctx.region;
    let found: Vec<&Subnet> = region
        .subnets
        .values()
        .filter(|subnet| ids.is_empty() || ids.contains(&subnet.id))
        .filter(|subnet| {
            filters.pass(&subnet.tags, |name| match name {
                "subnet-id" => vec![subnet.id.clone()],
                "vpc-id" => vec![subnet.vpc_id.clone()],
                "cidr-block" => subnet.cidr.iter().map(ToString::to_string).collect(),
                "ipv6-native" => vec![subnet.cidr.is_none().to_string()],
                "availability-zone" => vec![subnet.zone.clone()],
                "state" => vec!["available".to_owned()],
                _ => vec![
                    region
                        .vpcs
                        .get(&subnet.vpc_id)
                        .is_some_and(|vpc| vpc.is_default)
                        .to_string(),
                ],
            })
        })
        .collect();
    let (found, next) = page.cut(found, |subnet| subnet.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("subnetSet", found, |xml, subnet| wire::subnet(xml, ctx, subnet));
        xml.opt("nextToken", next);
    }))
}

pub(crate) fn describe_regions(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (names, filters) = (root.list("RegionName"), root.filters()?);
    filters.known(&["region-name", "endpoint", "opt-in-status"])?;
    // API reference `DescribeRegions`: without `AllRegions` only those that the account may use, unless named.
    let all = root.bool("AllRegions")?.unwrap_or(false);
    root.finish()?;
    let known = |name: &String| ctx.regions.contains(name) || ctx.opt_in_regions.contains(name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let message = format!("Invalid region names: '{unknown}'");
        return Err(Ec2Error::invalid_value(message));
    }
    let endpoint = |region: &str| format!("ec2.{region}.amazonaws.com");
    let optional = ctx
        .opt_in_regions
        .iter()
        .filter(|region| all || names.contains(region))
        .map(|region| (region, "not-opted-in"));
    let found = ctx
        .regions
        .iter()
        .map(|region| (region, "opt-in-not-required"))
        .chain(optional)
        .filter(|(region, _)| names.is_empty() || names.contains(region))
        .filter(|(region, status)| {
            filters.pass(&Tags::new(), |name| match name {
                "region-name" => vec![(*region).clone()],
                "endpoint" => vec![endpoint(region)],
                _ => vec![(*status).to_owned()],
            })
        });
    Ok(Xml::of(|xml| {
        xml.list("regionInfo", found, |xml, (region, status)| {
            xml.leaf("regionName", region);
            xml.leaf("regionEndpoint", endpoint(region));
            xml.leaf("optInStatus", status);
        });
    }))
}

pub(crate) fn describe_availability_zones(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (names, filters) = (root.list("ZoneName"), root.filters()?);
    filters.known(&["region-name", "zone-name", "zone-id", "state", "zone-type"])?;
    root.ignore(&["ZoneId", "AllAvailabilityZones"]);
    root.finish()?;
    let region = &ctx.caller.region;
    let found: Vec<String> = zones(region)
        .into_iter()
        .filter(|zone| names.is_empty() || names.contains(zone))
        .filter(|zone| {
            filters.pass(&Tags::new(), |name| match name {
                "region-name" => vec![region.clone()],
                "zone-name" => vec![zone.clone()],
                "zone-id" => vec![wire::zone_id(region, zone)],
                "state" => vec!["available".to_owned()],
                _ => vec!["availability-zone".to_owned()],
            })
        })
        .collect();
    Ok(Xml::of(|xml| {
        xml.list("availabilityZoneInfo", &found, |xml, zone| {
            xml.leaf("zoneName", zone);
            xml.leaf("zoneState", "available");
            xml.leaf("regionName", region);
            xml.list("messageSet", std::iter::empty::<()>(), |_, ()| {});
            xml.leaf("zoneId", wire::zone_id(region, zone));
            xml.leaf("groupName", region);
            xml.leaf("networkBorderGroup", region);
            xml.leaf("zoneType", "availability-zone");
            xml.leaf("optInStatus", "opt-in-not-required");
        });
    }))
}

pub(crate) fn describe_account_attributes(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let names = root.list("AttributeName");
    root.finish()?;
    let default_vpc = ctx
        .region
        .default_vpc()
        .map_or_else(|| "none".to_owned(), |vpc| vpc.id.clone());
    let attributes = [
        ("supported-platforms", "VPC".to_owned()),
        ("default-vpc", default_vpc),
        (
            "vpc-max-security-groups-per-interface",
            ctx.limits.groups_per_interface.to_string(),
        ),
    ];
    let found = attributes
        .into_iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name));
    Ok(Xml::of(|xml| {
        xml.list("accountAttributeSet", found, |xml, (name, value)| {
            xml.leaf("attributeName", name);
            xml.list("attributeValueSet", [value], |xml, value| {
                xml.leaf("attributeValue", value);
            });
        });
    }))
}
