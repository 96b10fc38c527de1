//! Reads points: from EC2's answers to the planners' plain structures. Makes no choice about them.
//!
//! An instance takes two reads at once, whatever its state: the instance, and the groups that have its holder's
//! name. More is read only where those two hint at it: holders in places where they do not belong, or a VPC of
//! which it is not known whether a new group would have an IPv6 egress rule.

mod isolation;
mod ours;

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName, ManagedPrefixList};
use postern_core::{
    enforcer::{Desired, EnforceError},
    inventory::Named,
    machine::AwsInstance,
    sg::{SecurityGroup, SgPeer, SgRule},
};

use self::ours::is_ours;
use crate::{
    client::{Clients, Ec2},
    error::Failure,
    gather::{self, FILTER_VALUES},
    plan::{
        group::ObservedGroup,
        instance::{Copied, ObservedInstance, ObservedInterface, copy_name, holder_name, isolating},
        rule::{Count, Weights},
        written::{self, Carry, Written},
    },
    wire,
};

impl Ec2 {
    /// The groups that a filter selects.
    pub(crate) async fn groups(&self, filter: Filter) -> Result<Vec<SecurityGroup>, Failure> {
        gather::groups(&self.client, filter).await
    }

    /// The group of that id, or none where EC2 says that there is none.
    ///
    /// A filter that selects nothing proves nothing: it may miss a group for a moment, and it leaves out what the
    /// caller may not see. Asked by its id, EC2 answers `InvalidGroup.NotFound` for a group that does not exist.
    pub(crate) async fn group(&self, id: &str) -> Result<Option<SecurityGroup>, Failure> {
        const OPERATION: &str = "DescribeSecurityGroups";
        let answer = self.client.describe_security_groups().group_ids(id).send().await;
        match answer.map_err(|error| Failure::new(OPERATION, &error)) {
            Ok(answer) => answer
                .security_groups()
                .iter()
                .filter_map(wire::group)
                .find(|group| group.id == id)
                .map(Some)
                .ok_or_else(|| Failure::unclear(OPERATION, format!("the answer does not tell of `{id}`"))),
            Err(failure) if failure.is("InvalidGroup.NotFound") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// What prefix lists count as peers of a rule: as many as they may have entries, of their address family. A list
    /// of AWS's own tells no such number; it is in the answer as one rule.
    async fn prefix_lists(&self, ids: &[String]) -> Result<Weights, Failure> {
        let lists = self
            .client
            .describe_managed_prefix_lists()
            .filters(wire::filter("prefix-list-id", ids.iter().cloned()))
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(|error| Failure::new("DescribeManagedPrefixLists", &error))?;
        let weight = |list: &ManagedPrefixList| {
            let entries = list
                .max_entries()
                .and_then(|entries| usize::try_from(entries).ok());
            let entries = entries.unwrap_or(1).max(1);
            let (v4, v6) = match list.address_family() {
                Some("IPv4") => (entries, 0),
                Some("IPv6") => (0, entries),
                _ => (entries, entries),
            };
            Some((list.prefix_list_id()?.to_owned(), Count { v4, v6 }))
        };
        Ok(lists.iter().filter_map(weight).collect())
    }

    /// Whether there is a prefix list of that id; asked by the id, as with groups.
    async fn is_prefix_list(&self, id: &str) -> Result<bool, Failure> {
        let answer = self
            .client
            .describe_managed_prefix_lists()
            .prefix_list_ids(id)
            .send()
            .await
            .map_err(|error| Failure::new("DescribeManagedPrefixLists", &error));
        match answer {
            Ok(_) => Ok(true),
            Err(failure) if failure.is("InvalidPrefixListID.NotFound") => Ok(false),
            Err(failure) if failure.is("InvalidPrefixListId.NotFound") => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The ingress rules of a group, with ids and tags.
    pub(crate) async fn ingress(&self, group: &str) -> Result<Vec<SgRule>, Failure> {
        self.rules(group, false).await
    }

    /// The egress rules of a group, with ids and tags.
    pub(crate) async fn egress(&self, group: &str) -> Result<Vec<SgRule>, Failure> {
        self.rules(group, true).await
    }

    async fn rules(&self, group: &str, out: bool) -> Result<Vec<SgRule>, Failure> {
        let rules = self.gathered.rules(group).await?;
        Ok(rules
            .iter()
            .filter_map(wire::group_rule)
            .filter(|(_, egress)| *egress == out)
            .map(|(rule, _)| rule)
            .collect())
    }

    /// The interfaces that a group is attached to.
    pub(crate) async fn attached(
        &self,
        group: &str,
    ) -> Result<Vec<aws_sdk_ec2::types::NetworkInterface>, Failure> {
        self.gathered.attached(group).await
    }

    /// The instance of that id, or none where EC2 says that there is none.
    ///
    /// Asked for with a filter, because a call by id draws from the smaller bucket of unfiltered calls ("Request
    /// throttling for the Amazon EC2 API"); by its id where the filter finds nothing, which proves nothing.
    async fn instance(&self, id: &str) -> Result<Option<Instance>, Failure> {
        const OPERATION: &str = "DescribeInstances";
        if let Some(instance) = self.gathered.instance(id).await? {
            return Ok(Some(instance));
        }
        let answer = self.client.describe_instances().instance_ids(id).send().await;
        match answer.map_err(|error| Failure::new(OPERATION, &error)) {
            Ok(answer) => answer
                .reservations()
                .iter()
                .flat_map(aws_sdk_ec2::types::Reservation::instances)
                .find(|instance| instance.instance_id() == Some(id))
                .cloned()
                .map(Some)
                .ok_or_else(|| Failure::unclear(OPERATION, format!("the answer does not tell of `{id}`"))),
            Err(failure) if failure.is("InvalidInstanceID.NotFound") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether VPCs have an IPv6 block, and their address space.
    pub(crate) async fn vpcs(
        &self,
        ids: impl IntoIterator<Item = String>,
    ) -> Result<Vec<aws_sdk_ec2::types::Vpc>, Failure> {
        self.client
            .describe_vpcs()
            .filters(wire::filter("vpc-id", ids))
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(|error| Failure::new("DescribeVpcs", &error))
    }
}

/// Whether a VPC has, or is getting, an IPv6 block.
pub(crate) fn has_ipv6(vpc: &aws_sdk_ec2::types::Vpc) -> bool {
    vpc.ipv6_cidr_block_association_set().iter().any(|association| {
        association
            .ipv6_cidr_block_state()
            .and_then(|state| state.state())
            .is_none_or(|state| !matches!(state.as_str(), "disassociated" | "failed"))
    })
}

fn is_terminated(instance: &Instance) -> bool {
    instance.state().and_then(|state| state.name()) == Some(&InstanceStateName::Terminated)
}

fn interfaces(instance: &Instance) -> Vec<(ObservedInterface, Vec<(String, String)>)> {
    instance
        .network_interfaces()
        .iter()
        .filter_map(|interface| {
            let groups = interface
                .groups()
                .iter()
                .filter_map(|g| Some((g.group_id()?.to_owned(), g.group_name()?.to_owned())))
                .collect();
            let observed = ObservedInterface {
                id: interface.network_interface_id()?.to_owned(),
                vpc: interface
                    .vpc_id()
                    .or(instance.vpc_id())
                    .unwrap_or_default()
                    .to_owned(),
                ipv6: !interface.ipv6_addresses().is_empty() || !interface.ipv6_prefixes().is_empty(),
                groups: wire::group_ids(interface.groups()),
            };
            Some((observed, groups))
        })
        .collect()
}

/// Reads an instance point.
pub(crate) async fn instance(
    clients: &Clients,
    ec2: &Ec2,
    point: &AwsInstance,
    desired: &Desired,
    written: &[Written],
) -> Result<ObservedInstance, EnforceError> {
    let installation = &desired.installation;
    let id = point.instance();
    let name = holder_name(installation, id);
    // What all its private copies are named like.
    let copies = copy_name(installation, id, "sg-");
    let (found, named) = tokio::join!(ec2.instance(id), ec2.gathered.named(&name, &copies));
    let found = found.map_err(|failure| failure.about(id))?;
    let named = named.map_err(|failure| failure.about(&name))?;
    let (mut holders, mut impostors) = (Vec::new(), Vec::new());
    let (mut copies, mut false_copies) = (Vec::new(), Vec::new());
    for group in named {
        let is_ours = is_ours(&group, desired);
        match Named::read(&group.name, installation) {
            Some(Named::Copy { of, .. }) if is_ours => copies.push(Copied::new(of.to_owned(), group)),
            _ if group.name != name => false_copies.push(group),
            _ if is_ours => holders.push(group),
            _ => impostors.push(group),
        }
    }
    let is_gone = found.is_none();
    let (interfaces, groups): (Vec<_>, Vec<_>) = found
        .filter(|instance| !is_terminated(instance))
        .iter()
        .flat_map(interfaces)
        .unzip();
    let mut observed = ObservedInstance {
        instance: id.to_owned(),
        interfaces,
        ipv6_vpcs: BTreeSet::new(),
        holders,
        impostors,
        strays: Vec::new(),
        misplaced: BTreeSet::new(),
        copies,
        strange_copies: BTreeMap::new(),
        originals: Vec::new(),
        false_copies,
        named_by: BTreeMap::new(),
        limits: clients.config().limits,
    };
    let carried = observed.with(written);
    if is_gone && carried.holders.is_empty() && carried.copies.is_empty() {
        return Err(EnforceError::Gone {
            resource: id.to_owned(),
            code: "InvalidInstanceID.NotFound".to_owned(),
        });
    }
    if hints_at_strays(&observed, desired) {
        observed.strays = strays(ec2, &observed).await?;
    }
    let groups = groups.into_iter().flatten().collect();
    strange(ec2, desired, &mut observed, &groups).await?;
    // Which groups there are to copy or to put back goes by what was written too.
    let carried = observed.with(written);
    observed.originals = isolation::originals(ec2, &carried, desired).await?;
    for copy in &mut observed.copies {
        copy.elsewhere = isolation::elsewhere(ec2, &carried, copy, isolating(desired).is_some()).await?;
    }
    observed.named_by = isolation::in_the_way(ec2, &unused(&observed, desired)).await;
    let carried = observed.with(written);
    // Whether a holder has to be made goes by what was written too.
    observed.ipv6_vpcs = ipv6_vpcs(clients, ec2, &carried, desired).await?;
    Ok(observed)
}

fn is_attached(observed: &ObservedInstance, group: &SecurityGroup) -> bool {
    let mut interfaces = observed.interfaces.iter();
    interfaces.any(|interface| interface.groups.contains(&group.id))
}

fn is_nothing_wanted(desired: &Desired) -> bool {
    desired.members.iter().all(|member| member.grants.is_empty())
}

/// The groups of ours that are on no interface and nothing wants.
fn unused<'a>(observed: &'a ObservedInstance, desired: &Desired) -> Vec<&'a SecurityGroup> {
    let strays = |holder: &SecurityGroup| {
        let mut strays = observed.strays.iter();
        strays.any(|interface| interface.groups.contains(&holder.id))
    };
    let holders = observed.holders.iter();
    let holders = holders.filter(|holder| is_nothing_wanted(desired) && !strays(holder));
    let copies = observed.copies.iter().filter(|copy| copy.elsewhere.is_empty());
    let copies = copies.map(|copy| &copy.group);
    holders
        .chain(copies)
        .filter(|group| !is_attached(observed, group))
        .collect()
}

fn hints_at_strays(observed: &ObservedInstance, desired: &Desired) -> bool {
    let nothing_wanted = is_nothing_wanted(desired);
    let one_left = desired
        .members
        .iter()
        .flat_map(|member| &member.interfaces)
        .any(|known| !observed.interfaces.iter().any(|interface| interface.id == *known));
    observed.holders.iter().any(|holder| {
        one_left || (nothing_wanted && !is_attached(observed, holder)) || observed.interfaces.is_empty()
    })
}

async fn strays(ec2: &Ec2, observed: &ObservedInstance) -> Result<Vec<ObservedInterface>, EnforceError> {
    let mut strays: Vec<ObservedInterface> = Vec::new();
    for holder in &observed.holders {
        let attached = ec2
            .attached(&holder.id)
            .await
            .map_err(|failure| failure.about(&holder.id))?;
        for interface in attached.iter().filter_map(wire::interface) {
            let known = observed.interfaces.iter().chain(&strays);
            if !known.map(|known| &known.id).any(|id| *id == interface.id) {
                strays.push(interface);
            }
        }
    }
    Ok(strays)
}

/// Holders and private copies of other instances among the groups (id and name) of this one's interfaces, and private
/// copies of its own that do not show by their name yet. The name says what they are, and the mark that they are ours.
async fn strange(
    ec2: &Ec2,
    desired: &Desired,
    observed: &mut ObservedInstance,
    groups: &BTreeSet<(String, String)>,
) -> Result<(), EnforceError> {
    let hints = |name: &str| match Named::read(name, &desired.installation) {
        Some(Named::Holder { instance }) => instance != observed.instance,
        Some(Named::Copy { .. }) => true,
        None => false,
    };
    let hinted: BTreeSet<String> = groups
        .iter()
        .filter(|(id, name)| hints(name) && observed.copies.iter().all(|copy| copy.group.id != *id))
        .map(|(id, _)| id.clone())
        .collect();
    if hinted.is_empty() {
        return Ok(());
    }
    let groups = ec2
        .gathered
        .groups(&hinted)
        .await
        .map_err(|failure| failure.about(&observed.instance))?;
    for group in groups.into_iter().filter(|group| is_ours(group, desired)) {
        match Named::read(&group.name, &desired.installation) {
            Some(Named::Holder { .. }) => {
                observed.misplaced.insert(group.id);
            }
            Some(Named::Copy { instance, of }) if instance == observed.instance => {
                observed.copies.push(Copied::new(of.to_owned(), group));
            }
            Some(Named::Copy { of, .. }) => {
                observed.strange_copies.insert(group.id.clone(), of.to_owned());
            }
            None => {}
        }
    }
    Ok(())
}

/// The VPCs with IPv6 among those where a holder would be made. An interface with an IPv6 address needs no asking.
async fn ipv6_vpcs(
    clients: &Clients,
    ec2: &Ec2,
    observed: &ObservedInstance,
    desired: &Desired,
) -> Result<BTreeSet<String>, EnforceError> {
    let mut known = BTreeSet::new();
    if desired.members.iter().all(|member| member.grants.is_empty()) {
        return Ok(known);
    }
    let mut unknown = BTreeSet::new();
    for interface in &observed.interfaces {
        let vpc = &interface.vpc;
        if observed.holders.iter().any(|holder| holder.vpc == *vpc)
            || observed.interfaces.iter().any(|i| i.vpc == *vpc && i.ipv6)
        {
            continue;
        }
        match clients.remembered_ipv6(ec2, vpc).await {
            Some(true) => {
                known.insert(vpc.clone());
            }
            Some(false) => {}
            None => {
                unknown.insert(vpc.clone());
            }
        }
    }
    if !unknown.is_empty() {
        let text = unknown.iter().cloned().collect::<Vec<_>>().join(", ");
        let vpcs = ec2.vpcs(unknown).await.map_err(|failure| failure.about(&text))?;
        for vpc in &vpcs {
            let Some(id) = vpc.vpc_id() else { continue };
            clients.remember_ipv6(ec2, id, has_ipv6(vpc)).await;
            if has_ipv6(vpc) {
                known.insert(id.to_owned());
            }
        }
    }
    Ok(known)
}

/// The peers that rules name: groups of the same account, and prefix lists.
fn peers<'a>(ec2: &Ec2, rules: impl IntoIterator<Item = &'a SgRule>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut groups, mut lists) = (BTreeSet::new(), BTreeSet::new());
    for rule in rules {
        match &rule.peer {
            SgPeer::Group { group, account, .. } if account.as_ref().is_none_or(|a| *a == ec2.account) => {
                groups.insert(group.clone());
            }
            SgPeer::PrefixList(list) => {
                lists.insert(list.clone());
            }
            SgPeer::Group { .. } | SgPeer::Net(_) => {}
        }
    }
    (groups, lists)
}

/// What prefix lists count, and which of `displaced` do not exist.
///
/// A caller who may not ask is told by EC2 when something does not fit, and that a list is gone when its rule is to
/// come back: worse, and no reason to do nothing.
async fn weigh(
    ec2: &Ec2,
    lists: BTreeSet<String>,
    displaced: &BTreeSet<String>,
) -> Result<(Weights, BTreeSet<String>), EnforceError> {
    let (mut weights, mut gone) = (Weights::new(), BTreeSet::new());
    let lists: Vec<String> = lists.into_iter().collect();
    for part in lists.chunks(FILTER_VALUES) {
        match ec2
            .prefix_lists(part)
            .await
            .map_err(|failure| failure.about("prefix lists"))
        {
            Ok(found) => weights.extend(found),
            Err(EnforceError::Forbidden { operation, code, .. }) => {
                tracing::warn!(
                    operation,
                    code,
                    "prefix lists are taken to count as one rule each"
                );
                return Ok((weights, gone));
            }
            Err(error) => return Err(error),
        }
    }
    for list in displaced.iter().filter(|list| !weights.contains_key(*list)) {
        if !ec2
            .is_prefix_list(list)
            .await
            .map_err(|failure| failure.about(list))?
        {
            gone.insert(list.clone());
        }
    }
    Ok((weights, gone))
}

/// Reads a group point.
pub(crate) async fn group(
    clients: &Clients,
    ec2: &Ec2,
    id: &str,
    desired: &Desired,
    written: &[Written],
) -> Result<ObservedGroup, EnforceError> {
    let displaced: Vec<SgRule> = desired
        .displaced
        .iter()
        .filter_map(|displaced| serde_json::from_value::<SgRule>(displaced.rule.clone()).ok())
        .collect();
    let (peers, displaced_lists) = peers(ec2, &displaced);
    let wanted: BTreeSet<String> = peers.iter().cloned().chain([id.to_owned()]).collect();
    let (groups, ingress, attached) =
        tokio::join!(ec2.gathered.groups(&wanted), ec2.ingress(id), ec2.attached(id));
    let mut groups = groups.map_err(|failure| failure.about_point(id))?;
    // What is gone is settled for good, so that only EC2's own word for it counts.
    for missing in peers.iter().map(String::as_str).chain([id]) {
        if groups.iter().all(|group| group.id != *missing) {
            let found = ec2
                .group(missing)
                .await
                .map_err(|failure| failure.about(missing))?;
            groups.extend(found);
        }
    }
    let mut group = groups.iter().find(|group| group.id == id).cloned();
    let mut interfaces = Vec::new();
    match &mut group {
        Some(group) => {
            group.ingress = ingress.map_err(|failure| failure.about_point(id))?;
            interfaces = attached.map_err(|failure| failure.about_point(id))?;
        }
        None if desired.displaced.is_empty() => {
            return Err(EnforceError::Gone {
                resource: id.to_owned(),
                code: "InvalidGroup.NotFound".to_owned(),
            });
        }
        None => {}
    }
    let standing = group.iter().flat_map(|group| &group.ingress);
    let (_, mut lists) = self::peers(ec2, standing);
    lists.extend(displaced_lists.iter().cloned());
    let (weights, gone_lists) = weigh(ec2, lists, &displaced_lists).await?;
    Ok(ObservedGroup {
        id: id.to_owned(),
        confirmed: group
            .as_ref()
            .map(|group| written::confirmed(group, written))
            .unwrap_or_default(),
        group,
        attached: interfaces.iter().filter_map(isolation::attachment).collect(),
        copies: isolation::copies(ec2, id, desired).await?,
        gone_peers: peers
            .into_iter()
            .filter(|peer| !groups.iter().any(|group| group.id == *peer))
            .chain(gone_lists)
            .collect(),
        weights,
        limits: clients.config().limits,
    })
}
