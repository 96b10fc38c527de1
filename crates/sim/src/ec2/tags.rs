//! Tags on any resource: create, delete, describe.
//!
//! Source: API reference `CreateTags`, `DeleteTags`, `DescribeTags`.

use super::context::Context;
use super::error::{Ec2Error, Result};
use super::params::tag_pairs;
use super::permissions::{tag_rule, with_pairs};
use super::state::{Region, Tags};
use super::xml::Xml;

/// Changes the tags of the resource that an id names.
fn change(ctx: &mut Context<'_>, id: &str, change: impl FnOnce(&mut Tags) -> Result<()>) -> Result<()> {
    let region = &mut *ctx.region;
    let missing = |code: &str| {
        let message = format!("The ID '{id}' does not exist");
        Ec2Error::new(code, message)
    };
    let tags = match id.rsplit_once('-').map_or(id, |(kind, _)| kind) {
        "i" => &mut region.instance_mut(id)?.tags,
        "sg" => &mut region.group_mut(id)?.tags,
        "eni" => &mut region.interface_mut(id)?.tags,
        "sgr" => return tag_rule(ctx, id, change),
        "vpc" => {
            &mut region
                .vpcs
                .get_mut(id)
                .ok_or_else(|| missing("InvalidVpcID.NotFound"))?
                .tags
        }
        "subnet" => {
            &mut region
                .subnets
                .get_mut(id)
                .ok_or_else(|| missing("InvalidSubnetID.NotFound"))?
                .tags
        }
        "pl" => {
            &mut region
                .prefix_lists
                .get_mut(id)
                .ok_or_else(|| missing("InvalidPrefixListID.NotFound"))?
                .tags
        }
        "pcx" => {
            &mut region
                .peerings
                .get_mut(id)
                .ok_or_else(|| missing("InvalidVpcPeeringConnectionID.NotFound"))?
                .tags
        }
        "eipalloc" => {
            &mut region
                .addresses
                .get_mut(id)
                .ok_or_else(|| missing("InvalidAllocationID.NotFound"))?
                .tags
        }
        _ => return Err(Ec2Error::new("InvalidID", format!("The ID '{id}' is not valid"))),
    };
    change(tags)
}

pub(crate) fn create_tags(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let ids = root.list("ResourceId");
    let pairs = tag_pairs(&root)?;
    root.finish()?;
    if ids.is_empty() {
        return Err(Ec2Error::missing("resourceIdSet"));
    }
    if pairs.is_empty() {
        return Err(Ec2Error::missing("tagSet"));
    }
    for id in &ids {
        change(ctx, id, with_pairs(&pairs))?;
    }
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

/// Removes tags: with a value only where it is that value, without tags all of them.
pub(crate) fn delete_tags(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let ids = root.list("ResourceId");
    let mut doomed: Vec<(String, Option<String>)> = Vec::new();
    for tag in root.parts("Tag") {
        doomed.push((tag.require("Key")?.to_owned(), tag.text("Value")));
    }
    root.finish()?;
    if ids.is_empty() {
        return Err(Ec2Error::missing("resourceIdSet"));
    }
    for id in &ids {
        change(ctx, id, |tags| {
            if doomed.is_empty() {
                tags.clear();
            }
            for (key, value) in &doomed {
                if value.is_none() || tags.get(key) == value.as_ref() {
                    tags.remove(key);
                }
            }
            Ok(())
        })?;
    }
    Ok(Xml::of(|xml| xml.leaf("return", true)))
}

/// All tags of a region: resource id, resource type, key, value.
fn all(region: &Region) -> Vec<(String, &'static str, String, String)> {
    let mut found = Vec::new();
    let mut add = |id: &str, kind: &'static str, tags: &Tags| {
        found.extend(
            tags.iter()
                .map(|(key, value)| (id.to_owned(), kind, key.clone(), value.clone())),
        );
    };
    region
        .instances
        .values()
        .for_each(|row| add(&row.id, "instance", &row.tags));
    region
        .interfaces
        .values()
        .for_each(|row| add(&row.id, "network-interface", &row.tags));
    region
        .vpcs
        .values()
        .for_each(|row| add(&row.id, "vpc", &row.tags));
    region
        .subnets
        .values()
        .for_each(|row| add(&row.id, "subnet", &row.tags));
    region
        .prefix_lists
        .values()
        .for_each(|row| add(&row.id, "prefix-list", &row.tags));
    region
        .peerings
        .values()
        .for_each(|row| add(&row.id, "vpc-peering-connection", &row.tags));
    region
        .addresses
        .values()
        .for_each(|row| add(&row.id, "elastic-ip", &row.tags));
    for group in region.groups.values() {
        add(&group.id, "security-group", &group.tags);
        for rule in &group.rules {
            add(&rule.id, "security-group-rule", &rule.tags);
        }
    }
    found.sort();
    found
}

pub(crate) fn describe_tags(ctx: &mut Context<'_>) -> Result<String> {
    let root = ctx.root();
    let filters = root.filters()?;
    filters.known(&["key", "value", "resource-id", "resource-type"])?;
    let page = root.page(None)?;
    root.finish()?;
    let mut found = all(ctx.region);
    found.retain(|(id, kind, key, value)| {
        let own = Tags::from([(key.clone(), value.clone())]);
        filters.pass(&own, |name| match name {
            "key" => vec![key.clone()],
            "value" => vec![value.clone()],
            "resource-id" => vec![id.clone()],
            _ => vec![(*kind).to_owned()],
        })
    });
    let (found, next) = page.cut(found, |(id, _, key, _)| format!("{id} {key}"));
    Ok(Xml::of(|xml| {
        xml.list("tagSet", found, |xml, (id, kind, key, value)| {
            xml.leaf("resourceId", id);
            xml.leaf("resourceType", kind);
            xml.leaf("key", key);
            xml.leaf("value", value);
        });
        xml.opt("nextToken", next);
    }))
}
