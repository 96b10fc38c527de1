//! Carries out one operation. Makes no choice but what "already in effect" means for each call.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{ResourceType, TagSpecification};
use postern_core::{
    enforcer::{Bindings, EnforceError},
    sg::SgRule,
};
use serde_json::{Value, json};

use crate::{
    client::Ec2,
    error::Failure,
    operation::{GroupRef, Operation},
    plan::{instance::default_egress, rule::Content, written::Written},
    regroup::Regrouping,
    wire,
};

/// Carries out an operation. `before` is what the plan found of its target, and `written` what was written at the
/// point lately.
pub(crate) async fn operation(
    ec2: &Ec2,
    operation: &Operation,
    before: Option<&Value>,
    written: &[Written],
    bindings: &mut Bindings,
) -> Result<Value, EnforceError> {
    match operation {
        Operation::CreateHolder {
            vpc,
            name,
            description,
            tags,
        } => {
            let group = create(ec2, vpc, name, description, tags).await?;
            bindings.insert(GroupRef::binding(vpc), group.clone());
            Ok(json!({ "group": group }))
        }
        Operation::CreateCopy {
            of,
            vpc,
            name,
            description,
            tags,
        } => {
            let group = create(ec2, vpc, name, description, tags).await?;
            bindings.insert(GroupRef::copy_binding(of), group.clone());
            Ok(json!({ "group": group }))
        }
        Operation::TrimEgress { group, rules } => {
            let group = resolve(group, bindings)?;
            revoke_egress(ec2, &group, rules).await?;
            Ok(json!({ "group": group }))
        }
        Operation::AuthorizeEgress { group, rules } => {
            let group = resolve(group, bindings)?;
            authorize_egress(ec2, &group, rules).await?;
            Ok(json!({ "group": group }))
        }
        Operation::RevokeEgress { group, rules } => {
            let group = resolve(group, bindings)?;
            revoke_egress(ec2, &group, rules).await?;
            bindings.insert(GroupRef::emptied(&group), String::new());
            Ok(json!({ "group": group }))
        }
        Operation::Authorize { group, rules } => {
            let group = resolve(group, bindings)?;
            authorize(ec2, &group, rules).await?;
            Ok(json!({ "group": group }))
        }
        Operation::Revoke { group, rules } => {
            let group = resolve(group, bindings)?;
            revoke(ec2, &group, rules).await?;
            Ok(json!({ "group": group }))
        }
        Operation::Describe { group, rules } => {
            let group = resolve(group, bindings)?;
            describe(ec2, &group, rules).await?;
            Ok(json!({ "group": group }))
        }
        Operation::TagRule { rule, tags } => {
            ec2.client
                .create_tags()
                .resources(rule)
                .set_tags(Some(wire::sdk_tags(tags)))
                .send()
                .await
                .map_err(|error| Failure::new("CreateTags", &error).about(rule))?;
            Ok(json!({ "rule": rule }))
        }
        Operation::SetGroups {
            interface,
            groups,
            emptied,
        } => {
            let groups = groups
                .iter()
                .map(|group| resolve(group, bindings))
                .collect::<Result<Vec<_>, _>>()?;
            if let Some(emptied) = emptied {
                let emptied = resolve(emptied, bindings)?;
                if !bindings.contains_key(&GroupRef::emptied(&emptied)) {
                    return Err(EnforceError::Conflict {
                        resource: emptied,
                        code: "egress not emptied".to_owned(),
                    });
                }
            }
            let set = Regrouping::new(before, &groups)
                .now(ec2, interface, written)
                .await?;
            set_groups(ec2, interface, &set).await?;
            Ok(json!({ "interface": interface, "groups": groups, "set": set }))
        }
        Operation::DeleteHolder { group } => {
            delete(ec2, group).await?;
            Ok(json!({ "group": group }))
        }
    }
}

/// The id of a group.
pub(crate) fn resolve(group: &GroupRef, bindings: &Bindings) -> Result<String, EnforceError> {
    let (binding, resource) = match group {
        GroupRef::Id(id) => return Ok(id.clone()),
        GroupRef::Made { vpc } => (GroupRef::binding(vpc), format!("the holder in {vpc}")),
        GroupRef::Copied { of } => (GroupRef::copy_binding(of), format!("the copy of {of}")),
    };
    bindings
        .get(&binding)
        .cloned()
        .ok_or_else(|| EnforceError::Conflict {
            resource,
            code: "not made in this pass".to_owned(),
        })
}

async fn create(
    ec2: &Ec2,
    vpc: &str,
    name: &str,
    description: &str,
    tags: &std::collections::BTreeMap<String, String>,
) -> Result<String, EnforceError> {
    let answer = ec2
        .client
        .create_security_group()
        .vpc_id(vpc)
        .group_name(name)
        .description(description)
        .tag_specifications(
            TagSpecification::builder()
                .resource_type(ResourceType::SecurityGroup)
                .set_tags(Some(wire::sdk_tags(tags)))
                .build(),
        )
        .send()
        .await
        .map_err(|error| Failure::new("CreateSecurityGroup", &error));
    match answer {
        Ok(answer) => answer.group_id().map(str::to_owned).ok_or_else(|| {
            EnforceError::Malformed("CreateSecurityGroup answered without a group id".to_owned())
        }),
        Err(failure) if failure.is("InvalidGroup.Duplicate") => adopt(ec2, vpc, name, tags).await,
        Err(failure) => Err(failure.about(name)),
    }
}

/// A group of that name is there: ours from a call whose answer was lost, or somebody's. It is used where it
/// carries our tags and is as it was made; otherwise the point has to be looked at again.
async fn adopt(
    ec2: &Ec2,
    vpc: &str,
    name: &str,
    tags: &std::collections::BTreeMap<String, String>,
) -> Result<String, EnforceError> {
    let groups = ec2
        .groups(wire::filter("group-name", [name]))
        .await
        .map_err(|failure| failure.about(name))?;
    let as_made: BTreeSet<Content> = default_egress(true).iter().map(Content::of).collect();
    groups
        .into_iter()
        .find(|group| {
            group.vpc == vpc
                && group.tags == *tags
                && group.ingress.is_empty()
                && group
                    .egress
                    .iter()
                    .all(|rule| as_made.contains(&Content::of(rule)))
        })
        .map(|group| group.id)
        .ok_or_else(|| EnforceError::Conflict {
            resource: name.to_owned(),
            code: "InvalidGroup.Duplicate".to_owned(),
        })
}

async fn revoke_egress(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), EnforceError> {
    // All at once is refused as a whole where one is missing, outside default VPCs.
    for part in std::iter::once(rules).chain(rules.chunks(1)) {
        let answer = ec2
            .client
            .revoke_security_group_egress()
            .group_id(group)
            .set_ip_permissions(Some(wire::permissions(part, false)))
            .send()
            .await
            .map_err(|error| Failure::new("RevokeSecurityGroupEgress", &error));
        match answer {
            Ok(_) if part.len() == rules.len() => return Ok(()),
            Ok(_) => {}
            Err(failure) if failure.is("InvalidPermission.NotFound") => {}
            Err(failure) => return Err(failure.about(group)),
        }
    }
    Ok(())
}

async fn authorize_egress(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), EnforceError> {
    let Err(failure) = authorize_egress_once(ec2, group, rules).await else {
        return Ok(());
    };
    if !failure.is("InvalidPermission.Duplicate") {
        return Err(failure.about(group));
    }
    let standing = ec2.egress(group).await.map_err(|failure| failure.about(group))?;
    let missing = missing_of(group, rules, &standing)?;
    if missing.is_empty() {
        return Ok(());
    }
    authorize_egress_once(ec2, group, &missing)
        .await
        .map_err(|failure| failure.about(group))
}

async fn authorize_egress_once(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), Failure> {
    ec2.client
        .authorize_security_group_egress()
        .group_id(group)
        .set_ip_permissions(Some(wire::permissions(rules, true)))
        .send()
        .await
        .map(|_| ())
        .map_err(|error| Failure::new("AuthorizeSecurityGroupEgress", &error))
}

/// The rules that do not stand in `group`. One that stands with another description is somebody's.
fn missing_of(group: &str, rules: &[SgRule], standing: &[SgRule]) -> Result<Vec<SgRule>, EnforceError> {
    let mut missing = Vec::new();
    for rule in rules {
        let content = Content::of(rule);
        match standing.iter().find(|standing| Content::of(standing) == content) {
            None => missing.push(rule.clone()),
            Some(standing) if standing.description == rule.description => {}
            Some(_) => {
                return Err(EnforceError::Conflict {
                    resource: group.to_owned(),
                    code: "InvalidPermission.Duplicate".to_owned(),
                });
            }
        }
    }
    Ok(missing)
}

/// Adds rules. Where EC2 does not know a group that one of them names, or does not let it be named from here any more,
/// it adds none: then each is added by itself, so that one whose source is gone keeps no other out.
async fn authorize(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), EnforceError> {
    let answer = authorize_all(ec2, group, rules).await;
    let source_is_gone = matches!(
        &answer,
        Err(EnforceError::Conflict { code, .. }) if code == "InvalidGroup.NotFound"
    );
    if !source_is_gone || rules.len() < 2 {
        return answer;
    }
    let mut refused = Ok(());
    for rule in rules {
        if let Err(error) = authorize_all(ec2, group, std::slice::from_ref(rule)).await {
            refused = Err(error);
        }
    }
    refused
}

async fn authorize_all(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), EnforceError> {
    let Err(failure) = authorize_once(ec2, group, rules).await else {
        return Ok(());
    };
    if !failure.is("InvalidPermission.Duplicate") {
        return Err(failure.about(group));
    }
    // Nothing was authorized: one of the rules is there, be it from a call whose answer was lost.
    let standing = ec2.ingress(group).await.map_err(|failure| failure.about(group))?;
    let missing = missing_of(group, rules, &standing)?;
    if missing.is_empty() {
        return Ok(());
    }
    authorize_once(ec2, group, &missing)
        .await
        .map_err(|failure| failure.about(group))
}

async fn authorize_once(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), Failure> {
    let tags = rules.first().map(|rule| wire::sdk_tags(&rule.tags));
    let specification = tags.filter(|tags| !tags.is_empty()).map(|tags| {
        TagSpecification::builder()
            .resource_type(ResourceType::SecurityGroupRule)
            .set_tags(Some(tags))
            .build()
    });
    ec2.client
        .authorize_security_group_ingress()
        .group_id(group)
        .set_ip_permissions(Some(wire::permissions(rules, true)))
        .set_tag_specifications(specification.map(|specification| vec![specification]))
        .send()
        .await
        .map(|_| ())
        .map_err(|error| Failure::new("AuthorizeSecurityGroupIngress", &error))
}

/// Takes rules away; those that are not there, and all of a group that is not there, are away.
pub(crate) async fn revoke(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), EnforceError> {
    for part in std::iter::once(rules).chain(rules.chunks(1)) {
        let answer = ec2
            .client
            .revoke_security_group_ingress()
            .group_id(group)
            .set_ip_permissions(Some(wire::permissions(part, false)))
            .send()
            .await
            .map_err(|error| Failure::new("RevokeSecurityGroupIngress", &error));
        match answer {
            Ok(_) if part.len() == rules.len() => return Ok(()),
            Ok(_) => {}
            Err(failure) if failure.is("InvalidPermission.NotFound") => {
                if rules.len() == 1 {
                    return Ok(());
                }
            }
            Err(failure) if failure.is("InvalidGroup.NotFound") => return Ok(()),
            Err(failure) => return Err(failure.about(group)),
        }
    }
    Ok(())
}

async fn describe(ec2: &Ec2, group: &str, rules: &[SgRule]) -> Result<(), EnforceError> {
    ec2.client
        .update_security_group_rule_descriptions_ingress()
        .group_id(group)
        .set_ip_permissions(Some(wire::permissions(rules, true)))
        .send()
        .await
        .map(|_| ())
        .map_err(|error| Failure::new("UpdateSecurityGroupRuleDescriptionsIngress", &error).about(group))
}

/// Sets an interface's groups.
pub(crate) async fn set_groups(ec2: &Ec2, interface: &str, groups: &[String]) -> Result<(), EnforceError> {
    ec2.client
        .modify_network_interface_attribute()
        .network_interface_id(interface)
        .set_groups(Some(groups.to_vec()))
        .send()
        .await
        .map(|_| ())
        .map_err(|error| Failure::new("ModifyNetworkInterfaceAttribute", &error).about(interface))
}

/// Deletes a group; one that is not there is deleted.
pub(crate) async fn delete(ec2: &Ec2, group: &str) -> Result<(), EnforceError> {
    let answer = ec2.client.delete_security_group().group_id(group).send().await;
    match answer.map_err(|error| Failure::new("DeleteSecurityGroup", &error)) {
        Ok(_) => Ok(()),
        Err(failure) if failure.is("InvalidGroup.NotFound") => Ok(()),
        Err(failure) => Err(failure.about(group)),
    }
}
