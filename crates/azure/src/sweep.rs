//! Finds and removes our rules by their marks alone, for the sweeper.

use std::time::Duration;

use postern_core::{
    enforcer::{EnforceError, Marked},
    machine::Account,
    mark::{Installation, Mark, Purpose},
};
use serde_json::Value;

use crate::{
    apply,
    arm::{Arm, ArmId},
    observe::{NETWORK_VERSION, READ_NSG},
    plan::{Label, ReadRule, Rest, without},
};

/// Every rule of the subscription that carries a mark of the installation.
pub(crate) async fn marked(
    arm: &Arm,
    account: &Account,
    subscription: &str,
    installation: &Installation,
) -> Result<Vec<Marked>, EnforceError> {
    let url = arm.address(
        [
            "subscriptions",
            subscription,
            "providers",
            "Microsoft.Network",
            "networkSecurityGroups",
        ],
        NETWORK_VERSION,
        &[],
    )?;
    let nsgs: Vec<Value> = arm.list(url, READ_NSG).await?;
    let mut found = Vec::new();
    for nsg in nsgs {
        let Some(id) = nsg.get("id").and_then(Value::as_str) else {
            continue;
        };
        let id = ArmId::parse(id).map_err(|error| EnforceError::Malformed(error.to_string()))?;
        let rules = nsg
            .get("properties")
            .and_then(|properties| properties.get("securityRules"))
            .and_then(Value::as_array);
        for raw in rules.into_iter().flatten() {
            let Some(rule) = ReadRule::read(raw) else {
                tracing::warn!(nsg = %id, "a rule cannot be read");
                continue;
            };
            let Some(label) = rule.label.filter(|label| label.installation() == installation) else {
                continue;
            };
            // A name that cannot stand in an address is none that we gave.
            let Ok(resource) = id.rule(&rule.rule.name) else {
                continue;
            };
            // A rule that several grants share is listed for each: each has its own end.
            let marks = match &label {
                Label::One(mark) => vec![mark.clone()],
                Label::Shared(shared) => {
                    let all = shared.shares.iter();
                    all.filter_map(|share| shared.of_grant(share.grant)).collect()
                }
            };
            found.extend(marks.into_iter().map(|mark| Marked {
                mark,
                resource: resource.to_string(),
                account: account.clone(),
                detail: rule.raw.clone(),
            }));
        }
    }
    Ok(found)
}

/// Deletes the rule, and nothing else. Where other grants share it, takes the marked one out and leaves theirs.
pub(crate) async fn remove(arm: &Arm, marked: &Marked, within: Duration) -> Result<(), EnforceError> {
    let rule = ArmId::parse(&marked.resource).map_err(|error| EnforceError::Malformed(error.to_string()))?;
    if !rule.is("microsoft.network/networksecuritygroups/securityrules") {
        return Err(EnforceError::Malformed(format!(
            "`{}` is no security rule",
            marked.resource
        )));
    }
    let shared = ReadRule::read(&marked.detail)
        .is_some_and(|rule| matches!(rule.label, Some(Label::Shared(_))) || is_guest(&rule, &marked.mark));
    if !shared {
        return apply::delete_rule(arm, &rule, within).await.map(|_| ());
    }
    let Some(nsg) = rule.parent() else {
        return Err(EnforceError::Malformed(format!("`{rule}` is in no NSG")));
    };
    let raw = match arm.get(&nsg, NETWORK_VERSION, READ_NSG).await {
        Ok(raw) => raw,
        Err(EnforceError::Gone { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let standing = raw
        .pointer("/properties/securityRules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(ReadRule::read)
        .find(|standing| standing.rule.name.eq_ignore_ascii_case(rule.name()));
    match standing.map_or(Rest::Same, |standing| without(&standing, &marked.mark)) {
        Rest::Nothing => apply::delete_rule(arm, &rule, within).await.map(|_| ()),
        Rest::Same => Ok(()),
        Rest::Others { properties, etag } => {
            apply::put_rule(arm, &rule, &properties, etag.as_deref(), within)
                .await
                .map(|_| ())
        }
    }
}

/// Whether the rule has the name of another grant, which shared it with this one.
fn is_guest(rule: &ReadRule, mark: &Mark) -> bool {
    match mark.purpose {
        Purpose::Grant { grant, .. } => !rule.rule.name.to_ascii_lowercase().contains(&grant.hex()),
        _ => false,
    }
}
