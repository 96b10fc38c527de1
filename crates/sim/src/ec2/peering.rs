//! VPC peering connections inside one account and region, and what rules become that name a group on the other side.
//!
//! Source: API reference `CreateVpcPeeringConnection`, `AcceptVpcPeeringConnection`, `RejectVpcPeeringConnection`,
//! `DeleteVpcPeeringConnection`, `DescribeVpcPeeringConnections`, `DescribeStaleSecurityGroups`; VPC Peering Guide,
//! "Update your security groups to reference peer security groups": such a rule may be written while the connection is
//! active, and goes stale, but stays, when the connection or the other group is deleted.

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::state::{Group, Peer, Peering, PeeringStatus, Region, Rule, Tags, check_id};
use super::wire;
use super::xml::Xml;

/// What a rule that names a group outside its own VPC refers to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reference<'a> {
    /// The other group's VPC.
    pub(crate) vpc_id: &'a str,
    /// The connection to it: the active one, or one that was.
    pub(crate) peering: Option<&'a Peering>,
    /// Whether the other group is deleted.
    pub(crate) deleted: bool,
}

impl Reference<'_> {
    /// Whether the rule lets nobody in any more.
    pub(crate) fn is_stale(&self) -> bool {
        self.deleted || !self.peering.is_some_and(Peering::is_active)
    }
}

/// What a rule of a group in `own_vpc` that names a group refers to; none where that is in the same VPC.
pub(crate) fn reference<'a>(region: &'a Region, own_vpc: &str, group_id: &str) -> Option<Reference<'a>> {
    let (vpc_id, deleted) = match region.groups.get(group_id) {
        Some(group) => (group.vpc_id.as_str(), false),
        None => (region.gone_groups.get(group_id)?.as_str(), true),
    };
    (vpc_id != own_vpc).then(|| Reference {
        vpc_id,
        peering: between(region, own_vpc, vpc_id),
        deleted,
    })
}

/// The connection between two VPCs: the active one, or else the one with the greatest id.
pub(crate) fn between<'a>(region: &'a Region, one: &str, other: &str) -> Option<&'a Peering> {
    let joins = |peering: &&Peering| {
        let ends = [peering.requester.as_str(), peering.accepter.as_str()];
        ends == [one, other] || ends == [other, one]
    };
    let found = region.peerings.values().filter(joins);
    found.max_by_key(|peering| (peering.is_active(), &peering.id))
}

/// Ends the connections of a VPC that is deleted.
pub(crate) fn end_all(region: &mut Region, vpc_id: &str) {
    let ids: Vec<String> = region
        .peerings
        .values()
        .filter(|peering| peering.requester == vpc_id || peering.accepter == vpc_id)
        .map(|peering| peering.id.clone())
        .collect();
    for id in ids {
        if let Some(peering) = region.peerings.get_mut(&id) {
            peering.status = PeeringStatus::Deleted;
        }
    }
}

fn find<'a>(region: &'a mut Region, id: &str) -> Result<&'a mut Peering> {
    check_id("pcx", id, "InvalidVpcPeeringConnectionId.Malformed")?;
    region.peerings.get_mut(id).ok_or_else(|| {
        let message = format!("The vpcPeeringConnection ID '{id}' does not exist");
        Ec2Error::new("InvalidVpcPeeringConnectionID.NotFound", message)
    })
}

fn in_wrong_state(peering: &Peering) -> Ec2Error {
    let message = format!(
        "Incorrect state ({}) for VPC Peering Connection {}",
        peering.status.word(),
        peering.id
    );
    Ec2Error::new("InvalidStateTransition", message)
}

pub(crate) fn create_vpc_peering_connection(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let requester = ctx.region.vpc(root.require("VpcId")?)?.clone();
    let accepter = root.require("PeerVpcId")?.to_owned();
    let elsewhere = root
        .text("PeerOwnerId")
        .is_some_and(|owner| owner != ctx.caller.account)
        || root
            .text("PeerRegion")
            .is_some_and(|region| region != ctx.caller.region);
    let tags = root.tags("vpc-peering-connection", &["vpc-peering-connection"])?;
    root.finish()?;
    if elsewhere {
        // Of other accounts and regions no request comes here.
        let message = "Peering with another account or region is not simulated";
        return Err(Ec2Error::new("UnsupportedOperation", message));
    }
    let accepter = ctx.region.vpc(&accepter)?.clone();
    let overlap = requester.cidr.contains(&accepter.cidr) || accepter.cidr.contains(&requester.cidr);
    let id = ctx.new_id("pcx");
    let peering = Peering {
        id: id.clone(),
        requester: requester.id,
        accepter: accepter.id,
        // API reference `CreateVpcPeeringConnection`: with overlapping ranges it fails.
        status: if overlap {
            PeeringStatus::Failed
        } else {
            PeeringStatus::PendingAcceptance
        },
        tags,
    };
    ctx.region.peerings.insert(&id, peering.clone());
    Ok(Xml::of(|xml| {
        xml.within("vpcPeeringConnection", |xml| show(xml, ctx, &peering));
    }))
}

/// Answers a request: accepts or rejects it.
fn answer(ctx: &mut Context<'_>, status: PeeringStatus) -> Result<Peering> {
    let root = ctx.root();
    let id = root.require("VpcPeeringConnectionId")?.to_owned();
    root.finish()?;
    let peering = find(ctx.region, &id)?;
    if peering.status != PeeringStatus::PendingAcceptance {
        return Err(in_wrong_state(peering));
    }
    peering.status = status;
    Ok(peering.clone())
}

pub(crate) fn accept_vpc_peering_connection(ctx: &mut Context<'_>) -> Result<String> {
    let peering = answer(ctx, PeeringStatus::Active)?;
    Ok(Xml::of(|xml| {
        xml.within("vpcPeeringConnection", |xml| show(xml, ctx, &peering));
    }))
}

pub(crate) fn reject_vpc_peering_connection(ctx: &mut Context<'_>) -> Result<String> {
    answer(ctx, PeeringStatus::Rejected)?;
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn delete_vpc_peering_connection(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("VpcPeeringConnectionId")?.to_owned();
    root.finish()?;
    let peering = find(ctx.region, &id)?;
    // API reference: not one that failed or was rejected.
    if !matches!(
        peering.status,
        PeeringStatus::Active | PeeringStatus::PendingAcceptance
    ) {
        return Err(in_wrong_state(peering));
    }
    peering.status = PeeringStatus::Deleted;
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn describe_vpc_peering_connections(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("VpcPeeringConnectionId"), root.filters()?);
    filters.known(&[
        "vpc-peering-connection-id",
        "status-code",
        "requester-vpc-info.vpc-id",
        "requester-vpc-info.owner-id",
        "accepter-vpc-info.vpc-id",
        "accepter-vpc-info.owner-id",
    ])?;
    let page = root.page(None)?;
    root.finish()?;
    for id in &ids {
        find(ctx.region, id)?;
    }
    let found: Vec<&Peering> = ctx
        .region
        .peerings
        .values()
        .filter(|peering| ids.is_empty() || ids.contains(&peering.id))
        .filter(|peering| {
            filters.pass(&peering.tags, |name| {
                vec![match name {
                    "vpc-peering-connection-id" => peering.id.clone(),
                    "status-code" => peering.status.word().to_owned(),
                    "requester-vpc-info.vpc-id" => peering.requester.clone(),
                    "accepter-vpc-info.vpc-id" => peering.accepter.clone(),
                    _ => ctx.caller.account.clone(),
                }]
            })
        })
        .collect();
    let (found, next) = page.cut(found, |peering| peering.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("vpcPeeringConnectionSet", found, |xml, peering| {
            show(xml, ctx, peering);
        });
        xml.opt("nextToken", next);
    }))
}

fn show(xml: &mut Xml, ctx: &Context<'_>, peering: &Peering) {
    for (name, vpc_id) in [
        ("requesterVpcInfo", &peering.requester),
        ("accepterVpcInfo", &peering.accepter),
    ] {
        xml.within(name, |xml| {
            // API reference `VpcPeeringConnection`: ranges are told of an active one alone.
            let vpc = ctx.region.vpcs.get(vpc_id).filter(|_| peering.is_active());
            xml.opt("cidrBlock", vpc.map(|vpc| vpc.cidr));
            xml.leaf("ownerId", &ctx.caller.account);
            xml.leaf("vpcId", vpc_id);
            xml.leaf("region", &ctx.caller.region);
        });
    }
    xml.within("status", |xml| {
        xml.leaf("code", peering.status.word());
        xml.leaf("message", peering.status.word());
    });
    wire::tags(xml, &peering.tags);
    xml.leaf("vpcPeeringConnectionId", &peering.id);
}

fn stale<'a>(region: &Region, group: &'a Group, egress: bool) -> Vec<&'a Rule> {
    let is_stale = |rule: &&Rule| {
        rule.allows.egress == egress
            && matches!(&rule.allows.peer, Peer::Group { group_id, .. }
                if reference(region, &group.vpc_id, group_id).is_some_and(|found| found.is_stale()))
    };
    group.rules.iter().filter(is_stale).collect()
}

pub(crate) fn describe_stale_security_groups(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let vpc_id = root.require("VpcId")?.to_owned();
    let page = root.page(None)?;
    root.finish()?;
    ctx.region.vpc(&vpc_id)?;
    let region = &*ctx.region;
    let found: Vec<&Group> = region
        .groups
        .values()
        .filter(|group| group.vpc_id == vpc_id)
        .filter(|group| {
            [false, true]
                .into_iter()
                .any(|egress| !stale(region, group, egress).is_empty())
        })
        .collect();
    let (found, next) = page.cut(found, |group| group.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("staleSecurityGroupSet", found, |xml, group| {
            xml.leaf("description", &group.description);
            xml.leaf("groupId", &group.id);
            xml.leaf("groupName", &group.name);
            for (name, egress) in [("staleIpPermissions", false), ("staleIpPermissionsEgress", true)] {
                // `StaleIpPermission` has no IPv6 ranges, and the other lists are empty.
                xml.list(name, stale(region, group, egress), |xml, rule| {
                    xml.leaf("ipProtocol", &rule.allows.protocol);
                    xml.opt("fromPort", rule.allows.from_port);
                    xml.opt("toPort", rule.allows.to_port);
                    if let Peer::Group { group_id, user_id } = &rule.allows.peer {
                        xml.list("groups", [(group_id, user_id)], |xml, (group_id, user_id)| {
                            wire::group_pair(xml, region, &group.vpc_id, (group_id, user_id));
                        });
                    }
                });
            }
            xml.leaf("vpcId", &group.vpc_id);
        });
        xml.opt("nextToken", next);
    }))
}

/// Whose groups in peered VPCs name these.
pub(crate) fn describe_references(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let ids = root.list("GroupId");
    root.finish()?;
    if ids.is_empty() {
        return Err(Ec2Error::missing("GroupId"));
    }
    let region = &*ctx.region;
    let mut found: Vec<(&str, &str, &str)> = Vec::new();
    for id in &ids {
        let named = region.group(id)?;
        for group in region.groups.values().filter(|group| names(group, id)) {
            let peering = between(region, &group.vpc_id, &named.vpc_id).filter(|one| one.is_active());
            if let Some(peering) = peering {
                found.push((&named.id, &group.vpc_id, &peering.id));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(Xml::of(|xml| {
        xml.list(
            "securityGroupReferenceSet",
            found,
            |xml, (group, vpc, peering)| {
                xml.leaf("groupId", group);
                xml.leaf("referencingVpcId", vpc);
                xml.leaf("vpcPeeringConnectionId", peering);
            },
        );
    }))
}

/// Whether any rule of the group names that one.
pub(crate) fn names(group: &Group, id: &str) -> bool {
    let mut rules = group.rules.iter();
    rules.any(|rule| matches!(&rule.allows.peer, Peer::Group { group_id, .. } if group_id == id))
}

/// Makes an active connection.
pub(crate) fn make(ctx: &mut Context<'_>, requester: &str, accepter: &str) -> Result<String> {
    for vpc in [requester, accepter] {
        ctx.region.vpc(vpc)?;
    }
    let id = ctx.new_id("pcx");
    let peering = Peering {
        id: id.clone(),
        requester: requester.to_owned(),
        accepter: accepter.to_owned(),
        status: PeeringStatus::Active,
        tags: Tags::new(),
    };
    ctx.region.peerings.insert(&id, peering);
    Ok(id)
}
