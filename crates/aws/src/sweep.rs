//! For the sweeper: everything that carries our mark, found and removed with nothing but cloud credentials.

use postern_core::{
    enforcer::{EnforceError, Marked},
    inventory::{MARK_TAG, is_holder, purpose_of},
    machine::Account,
    mark::{Installation, Mark, Purpose},
    sg::SgRule,
};
use serde_json::{Value, json};

use crate::{
    apply,
    client::Ec2,
    error::Failure,
    plan::{
        instance::{copy_mark, holder_mark, holder_name},
        rule,
    },
    wire,
};

/// Holders and private copies by their tag, and rules by their description. The native id of a rule is
/// `<group>/<rule>`.
pub(crate) async fn marked(
    ec2: &Ec2,
    account: &Account,
    installation: &Installation,
) -> Result<Vec<Marked>, EnforceError> {
    let tag = format!("tag:{MARK_TAG}");
    // EC2 takes wildcards in the values of filters.
    let marks = [
        holder_mark(installation).to_string(),
        copy_mark(installation, "*").to_string(),
    ];
    let (groups, rules) = tokio::join!(
        ec2.groups(wire::filter(&tag, marks)),
        marked_rules(ec2, installation)
    );
    let groups = groups.map_err(|failure| failure.about(&ec2.account))?;
    let rules = rules.map_err(|failure| failure.about(&ec2.account))?;
    let rules = rules.into_iter().map(|(mark, group, rule)| Marked {
        mark,
        resource: resource(&group, &rule),
        account: account.clone(),
        detail: json!({ "group": group, "rule": rule }),
    });
    let groups = groups.into_iter().filter_map(|group| {
        let purpose = purpose_of(&group, installation)?;
        Some(Marked {
            mark: Mark {
                installation: installation.clone(),
                purpose,
            },
            resource: group.id.clone(),
            account: account.clone(),
            detail: json!({ "group": group }),
        })
    });
    Ok(rules.chain(groups).collect())
}

fn resource(group: &str, rule: &SgRule) -> String {
    format!("{group}/{}", rule.id.as_deref().unwrap_or_default())
}

async fn marked_rules(
    ec2: &Ec2,
    installation: &Installation,
) -> Result<Vec<(Mark, String, SgRule)>, Failure> {
    let rules = ec2
        .client
        .describe_security_group_rules()
        .into_paginator()
        .page_size(1000)
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .map_err(|error| Failure::new("DescribeSecurityGroupRules", &error))?;
    Ok(rules
        .iter()
        .filter_map(|shown| {
            let (rule, egress) = wire::group_rule(shown)?;
            let mark = rule::mark_of(&rule, installation).filter(|_| !egress)?;
            Some((mark, shown.group_id()?.to_owned(), rule))
        })
        .collect())
}

/// Removes a grant's rule, or a holder with whatever is in it. A residual is what others are left with of a rule
/// that only the database can put back, and a private copy keeps closed what the group that it stands for opens: they
/// are refused.
pub(crate) async fn remove(ec2: &Ec2, marked: &Marked) -> Result<(), EnforceError> {
    match &marked.mark.purpose {
        Purpose::Holder => remove_holder(ec2, &marked.resource, &marked.mark.installation).await,
        Purpose::Grant { .. } => remove_rule(ec2, marked).await,
        Purpose::Copy { of } => Err(EnforceError::Refused {
            operation: "remove".to_owned(),
            code: "copy".to_owned(),
            message: format!(
                "`{}` stands in the place of `{of}`, which opens what it keeps closed",
                marked.resource
            ),
        }),
        Purpose::Residual { .. } | Purpose::Lockdown { .. } => Err(EnforceError::Refused {
            operation: "remove".to_owned(),
            code: "residual".to_owned(),
            message: format!(
                "`{}` is what is left of a displaced rule; only its restoring may remove it",
                marked.resource
            ),
        }),
    }
}

/// Looks again before it removes: a rule that meanwhile serves another grant carries another mark.
async fn remove_rule(ec2: &Ec2, marked: &Marked) -> Result<(), EnforceError> {
    let malformed = || EnforceError::Malformed(format!("`{}` names no marked rule", marked.resource));
    let (group, _) = marked.resource.split_once('/').ok_or_else(malformed)?;
    let rule = marked.detail.get("rule").cloned().unwrap_or(Value::Null);
    let rule: SgRule = serde_json::from_value(rule).map_err(|_| malformed())?;
    let standing = ec2.ingress(group).await.map_err(|failure| failure.about(group))?;
    let same = standing.iter().any(|standing| {
        rule::Content::of(standing) == rule::Content::of(&rule)
            && rule::mark_of(standing, &marked.mark.installation).as_ref() == Some(&marked.mark)
    });
    if same {
        apply::revoke(ec2, group, &[rule]).await?;
    }
    Ok(())
}

async fn remove_holder(ec2: &Ec2, group: &str, installation: &Installation) -> Result<(), EnforceError> {
    let found = ec2.group(group).await.map_err(|failure| failure.about(group))?;
    let Some(found) = found else {
        return Ok(());
    };
    // Whoever may write tags must not have us delete a group of others.
    let is_named = found.name.starts_with(&holder_name(installation, "i-"));
    if !is_holder(&found, installation) || !is_named {
        return Err(EnforceError::Malformed(format!(
            "`{group}` does not carry our mark"
        )));
    }
    // Closed first, whatever keeps it from being detached.
    if !found.ingress.is_empty() {
        apply::revoke(ec2, group, &found.ingress).await?;
    }
    let attached = ec2
        .attached(group)
        .await
        .map_err(|failure| failure.about(group))?;
    for interface in attached.iter().filter_map(wire::interface) {
        let left: Vec<String> = interface.groups.into_iter().filter(|g| g != group).collect();
        apply::set_groups(ec2, &interface.id, &left).await?;
    }
    apply::delete(ec2, group).await
}
