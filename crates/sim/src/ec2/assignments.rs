//! Further addresses of an interface: secondary private ones, and IPv6.
//!
//! Source: API reference `AssignPrivateIpAddresses`, `UnassignPrivateIpAddresses`, `AssignIpv6Addresses`.

use std::net::Ipv4Addr;

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::interfaces::more_ipv4;
use super::network::{free_ipv6, named_ipv6};
use super::xml::Xml;

fn addresses(texts: &[String]) -> Result<Vec<Ipv4Addr>> {
    texts
        .iter()
        .map(|text| {
            let invalid = || Ec2Error::invalid_value(format!("Invalid IPv4 address: {text}"));
            text.parse().map_err(|_| invalid())
        })
        .collect()
}

pub(crate) fn assign_private_ip_addresses(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("NetworkInterfaceId")?.to_owned();
    let named = addresses(&root.list("PrivateIpAddress"))?;
    let count = root.int("SecondaryPrivateIpAddressCount")?.unwrap_or(0);
    root.ignore(&["AllowReassignment"]);
    root.finish()?;
    let subnet = ctx.region.subnet(&ctx.region.interface(&id)?.subnet_id)?.clone();
    if named.is_empty() == (count <= 0) {
        let message =
            "Exactly one of privateIpAddresses and secondaryPrivateIpAddressCount must be specified";
        return Err(Ec2Error::combination(message));
    }
    let assigned = more_ipv4(ctx.region, &subnet, &named, count, &[])?;
    ctx.region.interface_mut(&id)?.secondary.extend(&assigned);
    Ok(Xml::of(|xml| {
        xml.leaf("networkInterfaceId", &id);
        xml.list("assignedPrivateIpAddressesSet", &assigned, |xml, address| {
            xml.leaf("privateIpAddress", address);
        });
        xml.leaf("return", true);
    }))
}

pub(crate) fn unassign_private_ip_addresses(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("NetworkInterfaceId")?.to_owned();
    let named = addresses(&root.list("PrivateIpAddress"))?;
    root.finish()?;
    let interface = ctx.region.interface_mut(&id)?;
    if named.is_empty() {
        return Err(Ec2Error::missing("PrivateIpAddress"));
    }
    for address in &named {
        if !interface.secondary.contains(address) {
            let message = format!("{address} is not a secondary address of interface {id}.");
            return Err(Ec2Error::invalid_value(message));
        }
    }
    interface.secondary.retain(|address| !named.contains(address));
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn assign_ipv6_addresses(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("NetworkInterfaceId")?.to_owned();
    let wanted = root.list("Ipv6Addresses");
    let count = root.int("Ipv6AddressCount")?.unwrap_or(0);
    root.finish()?;
    let subnet = ctx.region.subnet(&ctx.region.interface(&id)?.subnet_id)?.clone();
    if wanted.is_empty() == (count <= 0) {
        let message = "Exactly one of ipv6Addresses and ipv6AddressCount must be specified";
        return Err(Ec2Error::combination(message));
    }
    let mut assigned = named_ipv6(ctx.region, &subnet, &wanted)?;
    assigned.extend(free_ipv6(ctx, &subnet, count)?);
    ctx.region.interface_mut(&id)?.ipv6.extend(&assigned);
    Ok(Xml::of(|xml| {
        xml.leaf("networkInterfaceId", &id);
        xml.list("assignedIpv6Addresses", &assigned, |xml, address| {
            xml.raw(&address.to_string());
        });
    }))
}
