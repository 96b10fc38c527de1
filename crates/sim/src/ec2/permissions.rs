//! The rules of security groups: authorize, revoke, modify, describe. Each call takes effect as a whole or not
//! at all.
//!
//! Source: API reference `AuthorizeSecurityGroupIngress` and its siblings.

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::groups;
use super::params::{Part, add_tags};
use super::rules::{
    Named, check_quota, check_reach, check_text, cidr_v4, cidr_v6, duplicate, permissions, ports,
};
use super::state::{Allowance, Group, Peer, Rule, Tags, check_id};
use super::wire;
use super::xml::Xml;

/// Adds rules to a group; all or none. Gives the new rules.
pub(crate) fn authorize(
    ctx: &mut Context<'_>,
    group_id: &str,
    named: Vec<Named>,
    tags: &Tags,
) -> Result<Vec<Rule>> {
    for (place, rule) in named.iter().enumerate() {
        if named.iter().take(place).any(|other| other.allows == rule.allows) {
            return Err(Ec2Error::invalid_value(
                "The same permission must not appear multiple times",
            ));
        }
    }
    let group = ctx.region.group(group_id)?;
    if let Some(rule) = named
        .iter()
        .find(|rule| group.rules.iter().any(|there| there.allows == rule.allows))
    {
        return Err(duplicate(&rule.allows));
    }
    let added: Vec<Rule> = named
        .into_iter()
        .map(|Named { allows, description }| Rule {
            id: ctx.new_id("sgr"),
            allows,
            description,
            tags: tags.clone(),
        })
        .collect();
    let mut rules = group.rules.clone();
    rules.extend(added.iter().cloned());
    for egress in [false, true] {
        check_quota(&rules, egress, ctx.region, ctx.limits)?;
    }
    ctx.region.group_mut(group_id)?.rules = rules;
    Ok(added)
}

/// The rules that a request names, in `IpPermissions` or, for ingress only, in the parameters of old.
fn requested(ctx: &Context<'_>, group: &Group, egress: bool, strict: bool) -> Result<Vec<Named>> {
    let root = ctx.root();
    let parts = root.parts("IpPermissions");
    let legacy = [
        "IpProtocol",
        "CidrIp",
        "FromPort",
        "ToPort",
        "SourceSecurityGroupName",
        "SourceSecurityGroupOwnerId",
    ]
    .iter()
    .any(|name| ctx.params.has(name));
    if egress || !legacy {
        return permissions(&parts, egress, group, ctx.region, &ctx.caller.account, strict);
    }
    if !parts.is_empty() {
        let message = "The parameter ipPermissions cannot be used with the parameter ipProtocol, cidrIp or sourceSecurityGroupName";
        return Err(Ec2Error::combination(message));
    }
    legacy_permissions(ctx, group)
}

/// One rule in `IpProtocol`, `FromPort`, `ToPort` and `CidrIp`, or all of TCP, UDP and ICMP from a group.
fn legacy_permissions(ctx: &Context<'_>, group: &Group) -> Result<Vec<Named>> {
    let root = ctx.root();
    let rule = |protocol: &str, from, to, peer: &Peer| -> Result<Named> {
        let (protocol, from_port, to_port) = ports(protocol, from, to)?;
        let allows = Allowance {
            egress: false,
            protocol,
            from_port,
            to_port,
            peer: peer.clone(),
        };
        Ok(Named {
            allows,
            description: None,
        })
    };
    root.ignore(&["SourceSecurityGroupOwnerId"]);
    if let Some(name) = root.get("SourceSecurityGroupName") {
        if root.get("CidrIp").is_some() || root.get("IpProtocol").is_some() {
            let message = "The parameter sourceSecurityGroupName cannot be used with the parameter cidrIp or ipProtocol";
            return Err(Ec2Error::combination(message));
        }
        let source = ctx
            .region
            .group_named(&group.vpc_id, name)
            .ok_or_else(|| Ec2Error::group_not_found(name))?;
        let peer = Peer::Group {
            group_id: source.id.clone(),
            user_id: ctx.caller.account.clone(),
        };
        return Ok(vec![
            rule("tcp", Some(0), Some(65535), &peer)?,
            rule("udp", Some(0), Some(65535), &peer)?,
            rule("icmp", Some(-1), Some(-1), &peer)?,
        ]);
    }
    let peer = Peer::CidrV4(cidr_v4(root.require("CidrIp")?)?);
    Ok(vec![rule(
        root.require("IpProtocol")?,
        root.int("FromPort")?,
        root.int("ToPort")?,
        &peer,
    )?])
}

pub(crate) fn authorize_ingress(ctx: &mut Context<'_>) -> Result<String> {
    authorize_call(ctx, false)
}

pub(crate) fn authorize_egress(ctx: &mut Context<'_>) -> Result<String> {
    authorize_call(ctx, true)
}

fn authorize_call(ctx: &mut Context<'_>, egress: bool) -> Result<String> {
    let root = ctx.root();
    let id = groups::named(ctx.region, &root)?;
    let group = ctx.region.group(&id)?.clone();
    let named = requested(ctx, &group, egress, true)?;
    let tags = root.tags("security-group-rule", &["security-group-rule"])?;
    root.finish()?;
    if named.is_empty() {
        return Err(Ec2Error::missing("ipPermissions"));
    }
    let added = authorize(ctx, &id, named, &tags)?;
    Ok(Xml::of(|xml| {
        xml.leaf("return", true);
        xml.list("securityGroupRuleSet", &added, |xml, rule| {
            wire::rule(xml, ctx, &id, rule);
        });
    }))
}

pub(crate) fn revoke_ingress(ctx: &mut Context<'_>) -> Result<String> {
    revoke_call(ctx, false)
}

pub(crate) fn revoke_egress(ctx: &mut Context<'_>) -> Result<String> {
    revoke_call(ctx, true)
}

/// Takes rules away, named by id or by content. Content that is not there: in the default VPC the rest is
/// revoked and the answer names the unknown; elsewhere `InvalidPermission.NotFound` and nothing is revoked.
fn revoke_call(ctx: &mut Context<'_>, egress: bool) -> Result<String> {
    let root = ctx.root();
    let rule_ids = root.list("SecurityGroupRuleId");
    let id = groups::named(ctx.region, &root)?;
    let group = ctx.region.group(&id)?.clone();
    let named = requested(ctx, &group, egress, false)?;
    root.finish()?;
    let (revoked, unknown) = if rule_ids.is_empty() {
        if named.is_empty() {
            return Err(Ec2Error::missing("ipPermissions"));
        }
        by_content(ctx, &group, named)?
    } else {
        if !named.is_empty() {
            let message =
                "The parameter securityGroupRuleIds cannot be used with the parameter ipPermissions";
            return Err(Ec2Error::combination(message));
        }
        (by_id(&group, &rule_ids, egress)?, Vec::new())
    };
    ctx.region
        .group_mut(&id)?
        .rules
        .retain(|rule| revoked.iter().all(|gone| gone.id != rule.id));
    Ok(Xml::of(|xml| {
        xml.leaf("return", true);
        let unknown: Vec<(&Allowance, Option<&str>)> =
            unknown.iter().map(|named| (&named.allows, None)).collect();
        wire::permissions(
            xml,
            "unknownIpPermissionSet",
            (ctx.region, &group.vpc_id),
            &unknown,
        );
        xml.list("revokedSecurityGroupRuleSet", &revoked, |xml, rule| {
            wire::revoked_rule(xml, &id, rule);
        });
    }))
}

fn by_content(ctx: &Context<'_>, group: &Group, named: Vec<Named>) -> Result<(Vec<Rule>, Vec<Named>)> {
    let (mut revoked, mut unknown) = (Vec::new(), Vec::new());
    for wanted in named {
        match group.rules.iter().find(|rule| rule.allows == wanted.allows) {
            Some(rule) => revoked.push(rule.clone()),
            None => unknown.push(wanted),
        }
    }
    let tolerant = ctx
        .region
        .vpcs
        .get(&group.vpc_id)
        .is_some_and(|vpc| vpc.is_default);
    if !unknown.is_empty() && !tolerant {
        return Err(Ec2Error::new(
            "InvalidPermission.NotFound",
            "The specified rule does not exist in this security group.",
        ));
    }
    Ok((revoked, unknown))
}

fn by_id(group: &Group, rule_ids: &[String], egress: bool) -> Result<Vec<Rule>> {
    let mut found: Vec<Rule> = Vec::new();
    for id in rule_ids {
        check_rule_id(id)?;
        let rule = group
            .rules
            .iter()
            .find(|rule| rule.id == *id && rule.allows.egress == egress);
        let rule = rule.ok_or_else(|| no_rule(id))?;
        if found.iter().all(|other| other.id != rule.id) {
            found.push(rule.clone());
        }
    }
    Ok(found)
}

fn check_rule_id(id: &str) -> Result<()> {
    check_id("sgr", id, "InvalidSecurityGroupRuleId.Malformed")
}

fn no_rule(id: &str) -> Ec2Error {
    let message = format!("The security group rule ID '{id}' does not exist");
    Ec2Error::new("InvalidSecurityGroupRuleId.NotFound", message)
}

/// Puts new content into rules of one group; they keep their ids and tags. A rule does not change direction.
pub(crate) fn modify_rules(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let id = root.require("GroupId")?.to_owned();
    let mut rules = ctx.region.group(&id)?.rules.clone();
    let updates = root.parts("SecurityGroupRule");
    if updates.is_empty() {
        return Err(Ec2Error::missing("SecurityGroupRule"));
    }
    for update in &updates {
        let rule_id = update.require("SecurityGroupRuleId")?;
        check_rule_id(rule_id)?;
        let egress = rules
            .iter()
            .find(|rule| rule.id == rule_id)
            .ok_or_else(|| no_rule(rule_id))?
            .allows
            .egress;
        let (allows, description) = modified(ctx, update, &id, egress)?;
        if rules
            .iter()
            .any(|other| other.id != rule_id && other.allows == allows)
        {
            return Err(duplicate(&allows));
        }
        if let Some(rule) = rules.iter_mut().find(|rule| rule.id == rule_id) {
            rule.allows = allows;
            rule.description = description;
        }
    }
    root.finish()?;
    for egress in [false, true] {
        check_quota(&rules, egress, ctx.region, ctx.limits)?;
    }
    ctx.region.group_mut(&id)?.rules = rules;
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

fn modified(
    ctx: &Context<'_>,
    update: &Part<'_>,
    group_id: &str,
    egress: bool,
) -> Result<(Allowance, Option<String>)> {
    let field = |name: &str| format!("SecurityGroupRule.{name}");
    let (protocol, from_port, to_port) = ports(
        update.require(&field("IpProtocol"))?,
        update.int(&field("FromPort"))?,
        update.int(&field("ToPort"))?,
    )?;
    let mut peers: Vec<Peer> = Vec::new();
    if let Some(cidr) = update.get(&field("CidrIpv4")) {
        peers.push(Peer::CidrV4(cidr_v4(cidr)?));
    }
    if let Some(cidr) = update.get(&field("CidrIpv6")) {
        peers.push(Peer::CidrV6(cidr_v6(cidr)?));
    }
    if let Some(list) = update.get(&field("PrefixListId")) {
        peers.push(Peer::PrefixList(ctx.region.prefix_list(list)?.id.clone()));
    }
    if let Some(other) = update.get(&field("ReferencedGroupId")) {
        let other = ctx.region.group(other)?;
        check_reach(ctx.region, &ctx.region.group(group_id)?.vpc_id, other)?;
        peers.push(Peer::Group {
            group_id: other.id.clone(),
            user_id: ctx.caller.account.clone(),
        });
    }
    let [peer] = <[Peer; 1]>::try_from(peers).map_err(|_| {
        Ec2Error::combination("Exactly one source or destination must be specified for a rule")
    })?;
    let description = update.text(&field("Description")).filter(|text| !text.is_empty());
    if let Some(text) = &description {
        check_text(text, "security group rule description")?;
    }
    Ok((
        Allowance {
            egress,
            protocol,
            from_port,
            to_port,
            peer,
        },
        description,
    ))
}

pub(crate) fn describe_ingress_texts(ctx: &mut Context<'_>) -> Result<String> {
    update_descriptions(ctx, false)
}

pub(crate) fn describe_egress_texts(ctx: &mut Context<'_>) -> Result<String> {
    update_descriptions(ctx, true)
}

/// Replaces descriptions; one that is left out is removed.
fn update_descriptions(ctx: &mut Context<'_>, egress: bool) -> Result<String> {
    let root = ctx.root();
    let id = groups::named(ctx.region, &root)?;
    let group = ctx.region.group(&id)?.clone();
    let mut rules = group.rules.clone();
    let named = permissions(
        &root.parts("IpPermissions"),
        egress,
        &group,
        ctx.region,
        &ctx.caller.account,
        true,
    )?;
    for wanted in named {
        let rule = rules
            .iter_mut()
            .find(|rule| rule.allows == wanted.allows)
            .ok_or_else(|| {
                Ec2Error::new(
                    "InvalidPermission.NotFound",
                    "The specified rule does not exist in this security group.",
                )
            })?;
        rule.description = wanted.description;
    }
    for update in root.parts("SecurityGroupRuleDescription") {
        let rule_id = update.require("SecurityGroupRuleId")?;
        check_rule_id(rule_id)?;
        let text = update.text("Description").filter(|text| !text.is_empty());
        if let Some(text) = &text {
            check_text(text, "security group rule description")?;
        }
        let rule = rules
            .iter_mut()
            .find(|rule| rule.id == rule_id && rule.allows.egress == egress);
        rule.ok_or_else(|| no_rule(rule_id))?.description = text;
    }
    root.finish()?;
    ctx.region.group_mut(&id)?.rules = rules;
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

pub(crate) fn describe_rules(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let (ids, filters) = (root.list("SecurityGroupRuleId"), root.filters()?);
    filters.known(&["group-id", "security-group-rule-id"])?;
    let page = root.page(None)?;
    root.finish()?;
    let all = ctx
        .region
        .groups
        .values()
        .flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
    let mut found: Vec<(&Group, &Rule)> = all
        .filter(|(_, rule)| ids.is_empty() || ids.contains(&rule.id))
        .filter(|(group, rule)| {
            filters.pass(&rule.tags, |name| match name {
                "group-id" => vec![group.id.clone()],
                _ => vec![rule.id.clone()],
            })
        })
        .collect();
    for id in &ids {
        check_rule_id(id)?;
        if !ctx
            .region
            .groups
            .values()
            .any(|group| group.rules.iter().any(|rule| rule.id == *id))
        {
            return Err(no_rule(id));
        }
    }
    found.sort_by(|(_, one), (_, other)| one.id.cmp(&other.id));
    let (found, next) = page.cut(found, |(_, rule)| rule.id.clone());
    Ok(Xml::of(|xml| {
        xml.list("securityGroupRuleSet", found, |xml, (group, rule)| {
            wire::rule(xml, ctx, &group.id, rule);
        });
        xml.opt("nextToken", next);
    }))
}

/// Tags on a rule, for `CreateTags`.
pub(crate) fn tag_rule(
    ctx: &mut Context<'_>,
    rule_id: &str,
    change: impl FnOnce(&mut Tags) -> Result<()>,
) -> Result<()> {
    check_rule_id(rule_id)?;
    let owner = ctx
        .region
        .groups
        .values()
        .find(|group| group.rules.iter().any(|rule| rule.id == rule_id));
    let owner = owner.ok_or_else(|| no_rule(rule_id))?.id.clone();
    let rule = ctx
        .region
        .group_mut(&owner)?
        .rules
        .iter_mut()
        .find(|rule| rule.id == rule_id);
    change(&mut rule.ok_or_else(|| no_rule(rule_id))?.tags)
}

/// Adds pairs to tags; here so that rules and resources share one path.
pub(crate) fn with_pairs(pairs: &[(String, String)]) -> impl FnOnce(&mut Tags) -> Result<()> + '_ {
    move |tags| add_tags(tags, pairs.iter().cloned())
}
