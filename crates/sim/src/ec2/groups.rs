//! Security groups: create, delete, describe. Their rules are in `permissions`.
//!
//! Source: API reference `CreateSecurityGroup`, `DeleteSecurityGroup`, `DescribeSecurityGroups`.

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::params::Part;
use super::peering;
use super::rules::{all_traffic, any_v4, any_v6, check_text};
use super::state::{Group, Peer, Region, Rule, Tags};
use super::wire;
use super::xml::Xml;

/// What EC2 lets out by default: everything to IPv4, and to IPv6 where the VPC has an IPv6 range at that time.
/// Source: VPC user guide, "Default security groups for your VPCs" and "Security group rules".
fn default_egress(ctx: &Context<'_>, vpc_id: &str) -> Vec<Rule> {
    let ipv6 = ctx
        .region
        .vpcs
        .get(vpc_id)
        .is_some_and(|vpc| vpc.ipv6_cidr.is_some());
    let peers = std::iter::once(any_v4()).chain(ipv6.then(any_v6));
    peers.map(|peer| new_rule(ctx, all_traffic(true, peer))).collect()
}

fn new_rule(ctx: &Context<'_>, allows: super::state::Allowance) -> Rule {
    Rule {
        id: ctx.new_id("sgr"),
        allows,
        description: None,
        tags: Tags::new(),
    }
}

/// Makes the group `default` of a new VPC: its members reach each other.
pub(crate) fn make_default(ctx: &mut Context<'_>, vpc_id: &str) {
    let id = ctx.new_id("sg");
    let peer = Peer::Group {
        group_id: id.clone(),
        user_id: ctx.caller.account.clone(),
    };
    let mut rules = vec![new_rule(ctx, all_traffic(false, peer))];
    rules.extend(default_egress(ctx, vpc_id));
    let group = Group {
        id: id.clone(),
        name: "default".to_owned(),
        description: "default VPC security group".to_owned(),
        vpc_id: vpc_id.to_owned(),
        rules,
        tags: Tags::new(),
    };
    ctx.region.groups.insert(&id, group);
}

/// Makes a group with EC2's default egress rules.
pub(crate) fn make(
    ctx: &mut Context<'_>,
    name: &str,
    description: &str,
    vpc_id: &str,
    tags: Tags,
) -> Result<String> {
    check_text(name, "value for parameter GroupName")?;
    check_text(description, "security group description")?;
    if name.trim().is_empty() || name.starts_with("sg-") {
        let message = format!(
            "Invalid value '{name}' for parameter GroupName: it must not be empty or start with 'sg-'"
        );
        return Err(Ec2Error::invalid_value(message));
    }
    ctx.region.vpc(vpc_id)?;
    if name.eq_ignore_ascii_case("default") {
        let message = "Cannot use reserved security group name: default";
        return Err(Ec2Error::invalid_value(message));
    }
    if ctx.region.group_named(vpc_id, name).is_some() {
        let message = format!("The security group '{name}' already exists for VPC '{vpc_id}'");
        return Err(Ec2Error::new("InvalidGroup.Duplicate", message));
    }
    if ctx.region.groups.values().count() >= ctx.limits.groups_per_region {
        let message = "The maximum number of security groups has been reached.";
        return Err(Ec2Error::new("SecurityGroupLimitExceeded", message));
    }
    let id = ctx.new_id("sg");
    let group = Group {
        id: id.clone(),
        name: name.to_owned(),
        description: description.to_owned(),
        vpc_id: vpc_id.to_owned(),
        rules: default_egress(ctx, vpc_id),
        tags,
    };
    ctx.region.groups.insert(&id, group);
    Ok(id)
}

pub(crate) fn create_security_group(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let name = root.require("GroupName")?;
    let description = root.require("GroupDescription")?;
    let vpc_id = match root.text("VpcId") {
        Some(id) => id,
        None => default_vpc(ctx.region)?,
    };
    let tags = root.tags("security-group", &["security-group"])?;
    root.finish()?;
    let id = make(ctx, name, description, &vpc_id, tags)?;
    let group = ctx.region.group(&id)?;
    Ok(Xml::of(|xml| {
        xml.leaf("return", true);
        xml.leaf("groupId", &id);
        wire::tags(xml, &group.tags);
        xml.leaf("securityGroupArn", ctx.arn("security-group", &id));
    }))
}

fn default_vpc(region: &Region) -> Result<String> {
    let missing = || Ec2Error::new("VPCIdNotSpecified", "No default VPC for this user");
    Ok(region.default_vpc().ok_or_else(missing)?.id.clone())
}

/// The group that `GroupId` or, in the default VPC only, `GroupName` names.
pub(crate) fn named(region: &Region, part: &Part<'_>) -> Result<String> {
    match (part.text("GroupId"), part.get("GroupName")) {
        (Some(id), None) => Ok(region.group(&id)?.id.clone()),
        (None, Some(name)) => {
            let vpc = default_vpc(region)?;
            let found = region.group_named(&vpc, name).map(|group| group.id.clone());
            found.ok_or_else(|| {
                let message = format!("The security group '{name}' does not exist in default VPC '{vpc}'");
                Ec2Error::new("InvalidGroup.NotFound", message)
            })
        }
        (Some(_), Some(_)) => {
            let message = "The parameter GroupName cannot be used with the parameter GroupId";
            Err(Ec2Error::combination(message))
        }
        (None, None) => Err(Ec2Error::missing("GroupName or GroupId")),
    }
}

/// The resource that keeps a group from being deleted: an interface that has it, or another group of its VPC whose rule
/// names it. A rule of its own does not, and neither does one across a peering connection.
pub(crate) fn dependent(region: &Region, id: &str) -> Option<String> {
    let interface = region
        .interfaces
        .values()
        .find(|interface| interface.groups.iter().any(|group| group == id));
    if let Some(interface) = interface {
        return Some(interface.id.clone());
    }
    let vpc_id = &region.groups.get(id)?.vpc_id;
    region
        .groups
        .values()
        .find(|group| group.id != id && group.vpc_id == *vpc_id && peering::names(group, id))
        .map(|group| group.id.clone())
}

pub(crate) fn delete_security_group(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = named(ctx.region, &root)?;
    root.finish()?;
    let group = ctx.region.group(&id)?;
    if group.name == "default" {
        let message = format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user");
        return Err(Ec2Error::new("CannotDelete", message));
    }
    if dependent(ctx.region, &id).is_some() {
        return Err(Ec2Error::dependency(format!(
            "resource {id} has a dependent object"
        )));
    }
    if let Some(group) = ctx.region.groups.remove(&id) {
        ctx.region.gone_groups.insert(id.clone(), group.vpc_id);
    }
    Ok(Xml::of(|xml| {
        xml.leaf("return", true);
        xml.leaf("groupId", &id);
    }))
}

/// The filters of `DescribeSecurityGroups`; each of the rule filters also with the prefix `egress.`.
const FILTERS: &[&str] = &[
    "description",
    "group-id",
    "group-name",
    "owner-id",
    "vpc-id",
    "ip-permission.cidr",
    "ip-permission.from-port",
    "ip-permission.group-id",
    "ip-permission.group-name",
    "ip-permission.ipv6-cidr",
    "ip-permission.prefix-list-id",
    "ip-permission.protocol",
    "ip-permission.to-port",
    "ip-permission.user-id",
    "egress.ip-permission.cidr",
    "egress.ip-permission.from-port",
    "egress.ip-permission.group-id",
    "egress.ip-permission.group-name",
    "egress.ip-permission.ipv6-cidr",
    "egress.ip-permission.prefix-list-id",
    "egress.ip-permission.protocol",
    "egress.ip-permission.to-port",
    "egress.ip-permission.user-id",
];

/// The values of a group for one filter.
fn attribute(region: &Region, owner: &str, group: &Group, name: &str) -> Vec<String> {
    match name {
        "description" => vec![group.description.clone()],
        "group-id" => vec![group.id.clone()],
        "group-name" => vec![group.name.clone()],
        "owner-id" => vec![owner.to_owned()],
        "vpc-id" => vec![group.vpc_id.clone()],
        _ => {
            let egress = name.starts_with("egress.");
            let field = name.rsplit_once('.').map_or(name, |(_, field)| field);
            let rules = group.rules.iter().filter(|rule| rule.allows.egress == egress);
            rules
                .filter_map(|rule| rule_attribute(region, rule, field))
                .collect()
        }
    }
}

fn rule_attribute(region: &Region, rule: &Rule, field: &str) -> Option<String> {
    match (field, &rule.allows.peer) {
        ("cidr", Peer::CidrV4(cidr)) => Some(cidr.to_string()),
        ("ipv6-cidr", Peer::CidrV6(cidr)) => Some(cidr.to_string()),
        ("prefix-list-id", Peer::PrefixList(id)) => Some(id.clone()),
        ("group-id", Peer::Group { group_id, .. }) => Some(group_id.clone()),
        ("user-id", Peer::Group { user_id, .. }) => Some(user_id.clone()),
        ("group-name", Peer::Group { group_id, .. }) => Some(region.groups.get(group_id)?.name.clone()),
        ("protocol", _) => Some(rule.allows.protocol.clone()),
        ("from-port", _) => rule.allows.from_port.map(|port| port.to_string()),
        ("to-port", _) => rule.allows.to_port.map(|port| port.to_string()),
        _ => None,
    }
}

pub(crate) fn describe_security_groups(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, names, filters) = (root.list("GroupId"), root.list("GroupName"), root.filters()?);
    filters.known(FILTERS)?;
    let page = root.page(None)?;
    root.finish()?;
    let region = &*ctx.region;
    for id in &ids {
        region.group(id)?;
    }
    let mut named_ids = Vec::new();
    for name in &names {
        let vpc = default_vpc(region)?;
        let found = region
            .group_named(&vpc, name)
            .ok_or_else(|| Ec2Error::group_not_found(name))?;
        named_ids.push(found.id.clone());
    }
    let found: Vec<&Group> = region
        .groups
        .values()
        .filter(|group| {
            (ids.is_empty() && names.is_empty()) || ids.contains(&group.id) || named_ids.contains(&group.id)
        })
        .filter(|group| {
            filters.pass(&group.tags, |name| {
                attribute(region, &ctx.caller.account, group, name)
            })
        })
        .collect();
    let (found, next) = page.cut(found, |group| group.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("securityGroupInfo", found, |xml, group| {
            wire::group(xml, ctx, group);
        });
        xml.opt("nextToken", next);
    }))
}
