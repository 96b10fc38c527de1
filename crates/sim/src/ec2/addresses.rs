//! Elastic addresses and managed prefix lists: what gives machines public addresses and rules their named ranges.

use std::net::Ipv4Addr;

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::params::Part;
use super::rules::{cidr_v4, cidr_v6};
use super::state::{Address, Interface, Peer, Power, PrefixList, Region};
use super::wire;
use super::xml::Xml;

impl Region {
    /// The public address of an interface: its elastic one, or the one that it is lent.
    pub(crate) fn public_ip_of(&self, interface: &Interface) -> Option<Ipv4Addr> {
        self.address_of(&interface.id)
            .map(|address| address.public_ip)
            .or(interface.lent_ip)
    }

    /// A public address that nobody has, out of 198.18.0.0/15, which no one routes: the next one after the last, so that
    /// one that was given back is not given out again at once.
    pub(crate) fn free_public_ip(&mut self) -> Result<Ipv4Addr> {
        const POOL: u32 = 0x1_fffd;
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 1));
        let is_free = |ip: Ipv4Addr| {
            let mut interfaces = self.interfaces.values();
            self.addresses.values().all(|address| address.public_ip != ip)
                && interfaces.all(|interface| interface.lent_ip != Some(ip))
        };
        let free = (0..POOL)
            .map(|step| (self.next_public_ip + step) % POOL)
            .find(|at| is_free(Ipv4Addr::from(base + at)));
        let Some(at) = free else {
            let message = "The maximum number of addresses has been reached.";
            return Err(Ec2Error::new("AddressLimitExceeded", message));
        };
        self.next_public_ip = (at + 1) % POOL;
        Ok(Ipv4Addr::from(base + at))
    }

    /// Lends an instance the public address that its interface is to have, where it has none.
    ///
    /// Source: EC2 user guide, "Amazon EC2 instance IP addressing", "Public IPv4 addresses": an instance receives a new one
    /// when it is started, and when an elastic address is disassociated from it, but "will not receive a new one if there
    /// is more than one network interface attached". Nor does one whose secondary private address has an elastic one,
    /// which no interface has here.
    pub(crate) fn lend_public_ip(&mut self, instance: &str) -> Result<()> {
        let [interface] = self.instance(instance)?.interfaces.as_slice() else {
            return Ok(());
        };
        let interface = interface.clone();
        let shown = self.interface(&interface)?;
        if shown.is_lent_an_ip && self.public_ip_of(shown).is_none() {
            let lent = self.free_public_ip()?;
            self.interface_mut(&interface)?.lent_ip = Some(lent);
        }
        Ok(())
    }

    /// What follows when an elastic address went from an interface: a new lent one, where its instance is on. EC2 takes "a
    /// few minutes" for it (EC2 user guide, "Elastic IP addresses"), which are none here.
    fn lend_in_place_of_elastic(&mut self, interface: &str) -> Result<()> {
        let Some(attachment) = &self.interface(interface)?.attachment else {
            return Ok(());
        };
        let instance = attachment.instance_id.clone();
        match self.instance(&instance)?.power {
            Power::Pending | Power::Running => self.lend_public_ip(&instance),
            _ => Ok(()),
        }
    }
}

/// Makes an elastic address.
pub(crate) fn make_address(ctx: &mut Context<'_>, tags: super::state::Tags) -> Result<Address> {
    let public_ip = ctx.region.free_public_ip()?;
    let id = ctx.new_id("eipalloc");
    let address = Address {
        id: id.clone(),
        public_ip,
        association: None,
        tags,
    };
    ctx.region.addresses.insert(&id, address.clone());
    Ok(address)
}

/// Puts an elastic address on an interface, in place of a lent one; gives the association id. Where it was before, it is
/// disassociated.
pub(crate) fn associate(
    ctx: &mut Context<'_>,
    allocation: &str,
    interface: &str,
    again: bool,
) -> Result<String> {
    ctx.region.interface(interface)?;
    let association = ctx.new_id("eipassoc");
    let displaced = ctx.region.address_of(interface).map(|address| address.id.clone());
    let address = ctx.region.addresses.get_mut(allocation).ok_or_else(|| {
        let message = format!("The allocation ID '{allocation}' does not exist");
        Ec2Error::new("InvalidAllocationID.NotFound", message)
    })?;
    if !again
        && address
            .association
            .as_ref()
            .is_some_and(|(_, at)| at != interface)
    {
        let message = format!("resource {allocation} is already associated with associate-id");
        return Err(Ec2Error::new("Resource.AlreadyAssociated", message));
    }
    let before = address
        .association
        .replace((association.clone(), interface.to_owned()));
    if let Some(displaced) = displaced.filter(|one| one != allocation)
        && let Some(displaced) = ctx.region.addresses.get_mut(&displaced)
    {
        displaced.association = None;
    }
    ctx.region.interface_mut(interface)?.lent_ip = None;
    if let Some((_, before)) = before {
        ctx.region.lend_in_place_of_elastic(&before)?;
    }
    Ok(association)
}

pub(crate) fn allocate_address(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    root.ignore(&["Domain"]);
    let tags = root.tags("elastic-ip", &["elastic-ip"])?;
    root.finish()?;
    let address = make_address(ctx, tags)?;
    Ok(Xml::of(|xml| {
        xml.leaf("publicIp", address.public_ip);
        xml.leaf("domain", "vpc");
        xml.leaf("allocationId", &address.id);
        xml.leaf("publicIpv4Pool", "amazon");
        xml.leaf("networkBorderGroup", &ctx.caller.region);
    }))
}

pub(crate) fn associate_address(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let allocation = root.require("AllocationId")?.to_owned();
    let again = root.bool("AllowReassociation")?.unwrap_or(true);
    let interface = match (root.text("NetworkInterfaceId"), root.get("InstanceId")) {
        (Some(interface), None) => interface,
        (None, Some(instance)) => {
            let instance = ctx.region.instance(instance)?;
            let primary = ctx
                .region
                .interfaces_of(instance)
                .first()
                .map(|interface| interface.id.clone());
            primary.ok_or_else(|| {
                let message = format!("The instance '{}' has no network interface", instance.id);
                Ec2Error::new("IncorrectInstanceState", message)
            })?
        }
        _ => {
            return Err(Ec2Error::combination(
                "Exactly one of InstanceId and NetworkInterfaceId must be specified",
            ));
        }
    };
    root.ignore(&["PrivateIpAddress"]);
    root.finish()?;
    let association = associate(ctx, &allocation, &interface, again)?;
    Ok(Xml::of(|xml| {
        xml.leaf("return", true);
        xml.leaf("associationId", association);
    }))
}

pub(crate) fn disassociate_address(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let association = root.require("AssociationId")?.to_owned();
    root.finish()?;
    let found = ctx
        .region
        .addresses
        .values()
        .find(|address| {
            address
                .association
                .as_ref()
                .is_some_and(|(id, _)| *id == association)
        })
        .map(|address| address.id.clone());
    let address = found
        .and_then(|id| ctx.region.addresses.get_mut(&id))
        .ok_or_else(|| {
            let message = format!("The association ID '{association}' does not exist");
            Ec2Error::new("InvalidAssociationID.NotFound", message)
        })?;
    if let Some((_, interface)) = address.association.take() {
        ctx.region.lend_in_place_of_elastic(&interface)?;
    }
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn describe_addresses(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, ips, filters) = (root.list("AllocationId"), root.list("PublicIp"), root.filters()?);
    filters.known(&[
        "allocation-id",
        "public-ip",
        "network-interface-id",
        "instance-id",
        "domain",
    ])?;
    root.finish()?;
    let region = &*ctx.region;
    let instance_of = |address: &Address| -> Option<String> {
        let (_, interface) = address.association.as_ref()?;
        Some(
            region
                .interfaces
                .get(interface)?
                .attachment
                .as_ref()?
                .instance_id
                .clone(),
        )
    };
    let found = region
        .addresses
        .values()
        .filter(|address| ids.is_empty() || ids.contains(&address.id))
        .filter(|address| ips.is_empty() || ips.contains(&address.public_ip.to_string()))
        .filter(|address| {
            filters.pass(&address.tags, |name| match name {
                "allocation-id" => vec![address.id.clone()],
                "public-ip" => vec![address.public_ip.to_string()],
                "network-interface-id" => address
                    .association
                    .iter()
                    .map(|(_, interface)| interface.clone())
                    .collect(),
                "instance-id" => instance_of(address).into_iter().collect(),
                _ => vec!["vpc".to_owned()],
            })
        });
    Ok(Xml::of(|xml| {
        xml.list("addressesSet", found, |xml, address| {
            xml.leaf("publicIp", address.public_ip);
            xml.leaf("allocationId", &address.id);
            xml.leaf("domain", "vpc");
            xml.opt("instanceId", instance_of(address));
            if let Some((association, interface)) = &address.association {
                xml.leaf("associationId", association);
                xml.leaf("networkInterfaceId", interface);
                xml.leaf("networkInterfaceOwnerId", &ctx.caller.account);
                xml.opt(
                    "privateIpAddress",
                    region
                        .interfaces
                        .get(interface)
                        .and_then(|interface| interface.private_ip),
                );
            }
            wire::tags(xml, &address.tags);
        });
    }))
}

/// Makes the ranges of a list canonical; refuses repeated ones, and more than it may hold.
fn check_prefix_list(list: &mut PrefixList) -> Result<()> {
    for (cidr, _) in &mut list.entries {
        *cidr = if list.ipv6 {
            cidr_v6(cidr)?.to_string()
        } else {
            cidr_v4(cidr)?.to_string()
        };
    }
    let mut ranges: Vec<&String> = list.entries.iter().map(|(cidr, _)| cidr).collect();
    ranges.sort();
    ranges.dedup();
    if ranges.len() != list.entries.len() {
        return Err(Ec2Error::invalid_value(
            "The same CIDR block must not appear multiple times",
        ));
    }
    if usize::try_from(list.max_entries).map_or(true, |max| max == 0 || list.entries.len() > max) {
        let message = "The number of entries exceeds the maximum number of entries of the prefix list";
        return Err(Ec2Error::new("PrefixListMaxEntriesExceeded", message));
    }
    Ok(())
}

/// Makes a prefix list of canonical, distinct ranges.
pub(crate) fn make_prefix_list(ctx: &mut Context<'_>, list: PrefixList) -> Result<String> {
    let mut list = list;
    check_prefix_list(&mut list)?;
    let id = ctx.new_id("pl");
    list.id.clone_from(&id);
    ctx.region.prefix_lists.insert(&id, list);
    Ok(id)
}

/// Ranges and what they are described as.
fn described_ranges(root: &Part<'_>, name: &str) -> Result<Vec<(String, String)>> {
    let described = |entry: &Part<'_>| {
        let range = entry.require("Cidr")?.to_owned();
        Ok((range, entry.text("Description").unwrap_or_default()))
    };
    root.parts(name).iter().map(described).collect()
}

pub(crate) fn create_managed_prefix_list(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let name = root.require("PrefixListName")?.to_owned();
    let max_entries = root
        .int("MaxEntries")?
        .ok_or_else(|| Ec2Error::missing("MaxEntries"))?;
    let ipv6 = match root.require("AddressFamily")? {
        "IPv4" => false,
        "IPv6" => true,
        other => {
            return Err(Ec2Error::invalid_value(format!(
                "Invalid address family: {other}"
            )));
        }
    };
    let entries = described_ranges(&root, "Entry")?;
    let tags = root.tags("prefix-list", &["prefix-list"])?;
    root.ignore(&["ClientToken"]);
    root.finish()?;
    let list = PrefixList {
        id: String::new(),
        name,
        ipv6,
        max_entries,
        entries,
        version: 1,
        tags,
    };
    let id = make_prefix_list(ctx, list)?;
    let list = ctx.region.prefix_list(&id)?.clone();
    Ok(Xml::of(|xml| {
        xml.within("prefixList", |xml| wire::prefix_list(xml, ctx, &list));
    }))
}

pub(crate) fn describe_managed_prefix_lists(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("PrefixListId"), root.filters()?);
    filters.known(&["owner-id", "prefix-list-id", "prefix-list-name"])?;
    let page = root.page(None)?;
    root.finish()?;
    for id in &ids {
        ctx.region.prefix_list(id)?;
    }
    let found: Vec<&PrefixList> = ctx
        .region
        .prefix_lists
        .values()
        .filter(|list| ids.is_empty() || ids.contains(&list.id))
        .filter(|list| {
            filters.pass(&list.tags, |name| match name {
                "owner-id" => vec![ctx.caller.account.clone()],
                "prefix-list-id" => vec![list.id.clone()],
                _ => vec![list.name.clone()],
            })
        })
        .collect();
    let (found, next) = page.cut(found, |list| list.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("prefixListSet", found, |xml, list| {
            wire::prefix_list(xml, ctx, list);
        });
        xml.opt("nextToken", next);
    }))
}

pub(crate) fn get_managed_prefix_list_entries(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("PrefixListId")?;
    root.ignore(&["TargetVersion"]);
    let page = root.page(None)?;
    root.finish()?;
    let mut entries: Vec<&(String, String)> = ctx.region.prefix_list(id)?.entries.iter().collect();
    entries.sort();
    let (entries, next) = page.cut(entries, |(cidr, _)| cidr.clone());
    Ok(Xml::of(|xml| {
        xml.list("entrySet", entries, |xml, (cidr, description)| {
            xml.leaf("cidr", cidr);
            xml.leaf("description", description);
        });
        xml.opt("nextToken", next);
    }))
}

/// Adds and removes ranges, renames, or changes how many there may be.
///
/// Source: API reference `ModifyManagedPrefixList`: entries and the largest number are changed apart; entries need
/// the current version (`PrefixListVersionMismatch` otherwise). A larger list must fit every group that names it
/// (VPC user guide, "Work with customer-managed prefix lists", resize); the code of that refusal is from memory.
pub(crate) fn modify_managed_prefix_list(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("PrefixListId")?.to_owned();
    let name = root.text("PrefixListName");
    let current = root.int("CurrentVersion")?;
    let max_entries = root.int("MaxEntries")?;
    let added = described_ranges(&root, "AddEntry")?;
    let removed = root
        .parts("RemoveEntry")
        .iter()
        .map(|entry| Ok(entry.require("Cidr")?.to_owned()))
        .collect::<Result<Vec<String>>>()?;
    root.finish()?;
    let mut list = ctx.region.prefix_list(&id)?.clone();
    let entries_change = !added.is_empty() || !removed.is_empty();
    if entries_change && max_entries.is_some() {
        return Err(Ec2Error::combination(
            "The entries and the maximum number of entries cannot be modified in the same request",
        ));
    }
    if entries_change && current.map(i64::from) != Some(list.version) {
        let message = "The current version of the prefix list does not match the specified version";
        return Err(Ec2Error::new("PrefixListVersionMismatch", message));
    }
    for cidr in removed {
        let before = list.entries.len();
        list.entries.retain(|(other, _)| *other != cidr);
        if list.entries.len() == before {
            let message = format!("The entry {cidr} does not exist in the prefix list");
            return Err(Ec2Error::invalid_value(message));
        }
    }
    for (cidr, description) in added {
        // An entry that is there already gets the new description.
        list.entries.retain(|(other, _)| *other != cidr);
        list.entries.push((cidr, description));
    }
    if let Some(name) = name {
        list.name = name;
    }
    if let Some(max_entries) = max_entries {
        list.max_entries = max_entries;
    }
    check_prefix_list(&mut list)?;
    if entries_change {
        list.version += 1;
    }
    if let Some(stored) = ctx.region.prefix_lists.get_mut(&id) {
        *stored = list.clone();
    }
    for group in ctx.region.groups.values() {
        for egress in [false, true] {
            super::rules::check_quota(&group.rules, egress, ctx.region, ctx.limits)?;
        }
    }
    Ok(Xml::of(|xml| {
        xml.within("prefixList", |xml| wire::prefix_list(xml, ctx, &list));
    }))
}

pub(crate) fn delete_managed_prefix_list(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("PrefixListId")?.to_owned();
    root.finish()?;
    let list = ctx.region.prefix_list(&id)?.clone();
    let named = |peer: &Peer| matches!(peer, Peer::PrefixList(other) if *other == id);
    if ctx
        .region
        .groups
        .values()
        .any(|group| group.rules.iter().any(|rule| named(&rule.allows.peer)))
    {
        // API reference `DeleteManagedPrefixList`: references must go first.
        return Err(Ec2Error::dependency(format!(
            "The prefix list '{id}' is referenced by a resource"
        )));
    }
    ctx.region.prefix_lists.remove(&id);
    Ok(Xml::of(|xml| {
        xml.within("prefixList", |xml| wire::prefix_list(xml, ctx, &list));
    }))
}
