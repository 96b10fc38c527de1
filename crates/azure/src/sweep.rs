//! Finds and removes our rules by their marks alone, for the sweeper.

use std::time::Duration;

use postern_core::{
    enforcer::{EnforceError, Marked},
    machine::Account,
    mark::Installation,
};
use serde_json::Value;

use crate::{
    apply,
    arm::{Arm, ArmId},
    observe::{NETWORK_VERSION, READ_NSG},
    plan::ReadRule,
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
            let Some(mark) = rule.mark.filter(|mark| mark.installation == *installation) else {
                continue;
            };
            // A name that cannot stand in an address is none that we gave.
            let Ok(resource) = id.rule(&rule.rule.name) else {
                continue;
            };
            found.push(Marked {
                mark,
                resource: resource.to_string(),
                account: account.clone(),
                detail: rule.raw,
            });
        }
    }
    Ok(found)
}

/// Deletes the rule, and nothing else.
pub(crate) async fn remove(arm: &Arm, marked: &Marked, within: Duration) -> Result<(), EnforceError> {
    let rule = ArmId::parse(&marked.resource).map_err(|error| EnforceError::Malformed(error.to_string()))?;
    if !rule.is("microsoft.network/networksecuritygroups/securityrules") {
        return Err(EnforceError::Malformed(format!(
            "`{}` is no security rule",
            marked.resource
        )));
    }
    apply::delete_rule(arm, &rule, within).await.map(|_| ())
}
