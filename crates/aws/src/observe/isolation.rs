//! Reads what isolation goes by: the groups that private copies stand for or are to stand for, who else has them, and
//! whose rules name them. An instance that has no copy and is not to be isolated takes no call.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::NetworkInterface;
use postern_core::{
    enforcer::{Desired, EnforceError},
    inventory::MARK_TAG,
    policy::SharedGroups,
    sg::{SecurityGroup, SgPeer},
};

use crate::{
    client::Ec2,
    error::Failure,
    gather::FILTER_VALUES,
    plan::{
        group::Attached,
        instance::{Copied, Elsewhere, ObservedInstance, Original, copy_mark, copy_name, isolating},
        rule,
    },
    wire,
};

/// Whose rules name groups, by what they name.
type Naming = BTreeMap<String, BTreeSet<String>>;

impl Ec2 {
    /// The groups whose rules name any of these, with what they name. Of rules in other accounts, over a peering
    /// connection or a transit gateway, EC2 tells the VPC alone.
    async fn naming(&self, ids: &[String]) -> Result<Naming, EnforceError> {
        const OPERATION: &str = "DescribeSecurityGroupReferences";
        let asked = self
            .client
            .describe_security_group_references()
            .set_group_id(Some(ids.to_vec()))
            .send();
        let (naming, peers) = tokio::join!(self.naming_here(ids), asked);
        let about = |failure: Failure| failure.about(&ids.join(", "));
        let mut naming = named_by(&naming.map_err(about)?);
        let peers = match peers.map_err(|error| about(Failure::new(OPERATION, &error))) {
            Ok(peers) => peers,
            // Nobody is isolated on a guess; and what else is to be done at the instance, is done.
            Err(EnforceError::Forbidden { code, .. }) => {
                tracing::warn!(operation = OPERATION, code, "whose rules name groups is not told");
                for id in ids {
                    let somebody = format!("groups that we may not ask for ({OPERATION})");
                    naming.entry(id.clone()).or_default().insert(somebody);
                }
                return Ok(naming);
            }
            Err(error) => return Err(error),
        };
        for reference in peers.security_group_reference_set() {
            if let (Some(named), Some(vpc)) = (reference.group_id(), reference.referencing_vpc_id()) {
                naming.entry(named.to_owned()).or_default().insert(vpc.to_owned());
            }
        }
        Ok(naming)
    }

    /// The groups of the account and region whose rules name any of these.
    async fn naming_here(&self, ids: &[String]) -> Result<Vec<SecurityGroup>, Failure> {
        let (inbound, outbound) = tokio::join!(
            self.groups(wire::filter("ip-permission.group-id", ids)),
            self.groups(wire::filter("egress.ip-permission.group-id", ids)),
        );
        Ok([inbound?, outbound?].concat())
    }
}

fn named_by(groups: &[SecurityGroup]) -> Naming {
    let mut naming = Naming::new();
    for group in groups {
        for rule in group.ingress.iter().chain(&group.egress) {
            if let SgPeer::Group { group: named, .. } = &rule.peer {
                naming.entry(named.clone()).or_default().insert(group.id.clone());
            }
        }
    }
    naming
}

/// Whose rules name groups that nothing uses any more, and keep them from being deleted: other groups of the same VPC
/// (API reference, `DeleteSecurityGroup`). Where that is not told nobody is found: EC2 then refuses what it would refuse,
/// and what else is to be done at the instance, is done.
pub(super) async fn in_the_way(ec2: &Ec2, unused: &[&SecurityGroup]) -> Naming {
    let ids: Vec<String> = unused.iter().map(|group| group.id.clone()).collect();
    let mut found = Vec::new();
    for part in ids.chunks(FILTER_VALUES) {
        match ec2.naming_here(part).await {
            Ok(naming) => found.extend(naming),
            Err(failure) => {
                let error = failure.about(&part.join(", "));
                tracing::warn!(%error, "whose rules keep groups is not told");
            }
        }
    }
    let mut in_the_way = Naming::new();
    for group in unused {
        let others: Vec<SecurityGroup> = found
            .iter()
            .filter(|other| other.vpc == group.vpc && other.id != group.id)
            .cloned()
            .collect();
        if let Some(naming) = named_by(&others).remove(&group.id) {
            in_the_way.insert(group.id.clone(), naming);
        }
    }
    in_the_way
}

/// The groups that private copies stand for and, where the instance is to be isolated, those that it has, each with
/// who else uses it, where that matters.
pub(super) async fn originals(
    ec2: &Ec2,
    observed: &ObservedInstance,
    desired: &Desired,
) -> Result<Vec<Original>, EnforceError> {
    let guard = isolating(desired);
    let mut originals = read(ec2, observed, guard.is_some()).await?;
    let Some(guard) = guard else {
        return Ok(originals);
    };
    let in_use = |id: &str| {
        let copy = observed.copies.iter().find(|copy| copy.of == id);
        copy.is_some_and(|copy| has(observed, &copy.group.id))
    };
    let mut asked = Vec::new();
    for original in &mut originals {
        let Some(group) = &original.group else { continue };
        if !in_use(&original.id) {
            let is_open = group
                .ingress
                .iter()
                .any(|rule| rule::overlaps(rule, &guard.ports));
            let stood_for = observed.strange_copies.values().any(|of| *of == original.id);
            if is_open {
                original.others = others(ec2, observed, desired, &original.id).await?;
            }
            if original.others.is_empty() && !stood_for {
                continue;
            }
        }
        asked.push(original.id.clone());
    }
    for part in asked.chunks(FILTER_VALUES) {
        let naming = ec2.naming(part).await?;
        for original in &mut originals {
            if let Some(naming) = naming.get(&original.id) {
                original.named_by.clone_from(naming);
            }
        }
    }
    Ok(originals)
}

async fn read(ec2: &Ec2, observed: &ObservedInstance, isolates: bool) -> Result<Vec<Original>, EnforceError> {
    let stood_for = observed.copies.iter().map(|copy| &copy.of);
    let mut ids: BTreeSet<String> = stood_for
        .chain(observed.strange_copies.values())
        .cloned()
        .collect();
    if isolates {
        let ours: BTreeSet<&String> = (observed.holders.iter().map(|holder| &holder.id))
            .chain(observed.copies.iter().map(|copy| &copy.group.id))
            .chain(observed.strange_copies.keys())
            .chain(&observed.misplaced)
            .collect();
        let groups = observed.interfaces.iter().flat_map(|interface| &interface.groups);
        ids.extend(groups.filter(|id| !ours.contains(id)).cloned());
    }
    let found = ec2.gathered.groups(&ids).await;
    let found = found.map_err(|failure| failure.about(&observed.instance))?;
    let mut groups: BTreeMap<String, SecurityGroup> =
        found.into_iter().map(|group| (group.id.clone(), group)).collect();
    let mut originals = Vec::new();
    for id in ids {
        let group = match groups.remove(&id) {
            Some(group) => Some(group),
            // What is gone is not put back, so that only EC2's own word for it counts.
            None => ec2.group(&id).await.map_err(|failure| failure.about(&id))?,
        };
        originals.push(Original {
            id,
            group,
            others: Vec::new(),
            named_by: BTreeSet::new(),
        });
    }
    Ok(originals)
}

fn has(observed: &ObservedInstance, group: &String) -> bool {
    let mut own = observed.interfaces.iter();
    own.any(|interface| interface.groups.contains(group))
}

fn is_own(observed: &ObservedInstance, interface: &str) -> bool {
    observed.interfaces.iter().any(|own| own.id == interface)
}

/// Whoever has a group beside the instance: interfaces, and the other private copies of ours, by name.
async fn others(
    ec2: &Ec2,
    observed: &ObservedInstance,
    desired: &Desired,
    id: &str,
) -> Result<Vec<String>, EnforceError> {
    let (attached, copies) = tokio::join!(ec2.attached(id), copies(ec2, id, desired));
    let attached = attached.map_err(|failure| failure.about(id))?;
    let attached = attached.iter().filter_map(attachment);
    let attached = attached
        .filter(|attached| !is_own(observed, &attached.interface))
        .map(|attached| attached.name());
    let own_name = copy_name(&desired.installation, &observed.instance, id);
    let copies = copies?.into_iter().filter(|name| *name != own_name);
    Ok(attached.chain(copies).collect())
}

/// The private copies of ours that stand for a group, by name; none where no machine behind the point is isolated.
pub(super) async fn copies(ec2: &Ec2, id: &str, desired: &Desired) -> Result<Vec<String>, EnforceError> {
    let mut guards = desired.members.iter().filter_map(|member| member.guard.as_ref());
    if !guards.any(|guard| guard.shared_groups == SharedGroups::Isolate) {
        return Ok(Vec::new());
    }
    let tag = format!("tag:{MARK_TAG}");
    let mark = copy_mark(&desired.installation, id).to_string();
    let found = ec2.groups(wire::filter(&tag, [mark])).await;
    let found = found.map_err(|failure| failure.about(id))?;
    Ok(found.into_iter().map(|copy| copy.name).collect())
}

/// The interfaces of others that a copy is on; asked for only where nothing keeps it.
pub(super) async fn elsewhere(
    ec2: &Ec2,
    observed: &ObservedInstance,
    copy: &Copied,
    isolates: bool,
) -> Result<Vec<Elsewhere>, EnforceError> {
    let id = &copy.group.id;
    if isolates && has(observed, id) {
        return Ok(Vec::new());
    }
    let attached = ec2.attached(id).await.map_err(|failure| failure.about(id))?;
    let elsewhere = attached.iter().filter_map(|interface| {
        Some(Elsewhere {
            instance: attachment(interface)?.instance,
            interface: wire::interface(interface)?,
        })
    });
    Ok(elsewhere
        .filter(|found| !is_own(observed, &found.interface.id))
        .collect())
}

pub(super) fn attachment(interface: &NetworkInterface) -> Option<Attached> {
    Some(Attached {
        interface: interface.network_interface_id()?.to_owned(),
        instance: interface
            .attachment()
            .and_then(|attachment| attachment.instance_id())
            .map(str::to_owned),
        description: interface.description().unwrap_or_default().to_owned(),
    })
}
