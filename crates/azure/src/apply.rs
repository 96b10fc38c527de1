//! Carries out one operation on an NSG, and waits until it is in force.

use std::{collections::BTreeSet, time::Duration};

use postern_core::{
    enforcer::{Change, EnforceError},
    id::GrantId,
    nsg::Access,
};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    arm::{Arm, ArmId, NotWritten},
    observe::{NETWORK_VERSION, READ_NSG},
    operation::Operation,
    plan::{self, Label, ReadRule},
};

const WRITE_NSG: &str = "Microsoft.Network/networkSecurityGroups/write";
const WRITE_RULE: &str = "Microsoft.Network/networkSecurityGroups/securityRules/write";
const DELETE_RULE: &str = "Microsoft.Network/networkSecurityGroups/securityRules/delete";

/// Carries out the operation within the time.
pub(crate) async fn operation(
    arm: &Arm,
    nsg: &ArmId,
    operation: &Operation,
    change: &Change,
    within: Duration,
) -> Result<Value, EnforceError> {
    match operation {
        Operation::PutRule { name, properties } => {
            put_rule(arm, &rule(nsg, name)?, properties, None, within).await
        }
        Operation::DeleteRule { name } => delete_rule(arm, &rule(nsg, name)?, within).await,
        Operation::PutNsg { .. } => {
            let planned = change.before.as_ref().and_then(|before| before.get("etag"));
            whole(arm, nsg, operation, planned, within).await
        }
    }
}

/// Writes a rule, where an etag is given only if it still has that.
pub(crate) async fn put_rule(
    arm: &Arm,
    rule: &ArmId,
    properties: &Map<String, Value>,
    etag: Option<&str>,
    within: Duration,
) -> Result<Value, EnforceError> {
    let call = arm.call(Method::PUT, rule, NETWORK_VERSION, WRITE_RULE)?;
    let body = json!({ "properties": properties });
    let answer = arm.write(&call, Some(&body), etag, within).await?;
    Ok(json!({ "status": answer.status }))
}

/// Deletes a rule. One that is not there is deleted.
pub(crate) async fn delete_rule(arm: &Arm, rule: &ArmId, within: Duration) -> Result<Value, EnforceError> {
    let call = arm.call(Method::DELETE, rule, NETWORK_VERSION, DELETE_RULE)?;
    match arm.write(&call, None, None, within).await {
        Ok(answer) => Ok(json!({ "status": answer.status })),
        Err(NotWritten {
            error: EnforceError::Gone { code, .. },
            ..
        }) => Ok(json!({ "status": 404, "code": code })),
        Err(not) => Err(not.error),
    }
}

/// Writes the whole NSG as it stands, edited, unless it is not the one any more that was planned for.
async fn whole(
    arm: &Arm,
    nsg: &ArmId,
    operation: &Operation,
    planned: Option<&Value>,
    within: Duration,
) -> Result<Value, EnforceError> {
    let start = Instant::now();
    let raw = arm.get(nsg, NETWORK_VERSION, READ_NSG).await?;
    let etag = raw
        .get("etag")
        .and_then(Value::as_str)
        .ok_or_else(|| EnforceError::Malformed(format!("`{nsg}` was answered without an etag")))?
        .to_owned();
    if planned.and_then(Value::as_str) != Some(etag.as_str()) {
        if in_effect(&raw, operation) {
            return Ok(json!({ "status": 200, "note": "it was so already", "etag": etag }));
        }
        return Err(EnforceError::Conflict {
            resource: nsg.to_string(),
            code: "EtagChanged".to_owned(),
        });
    }
    let standing = raw.clone();
    let body = operation
        .edit(raw)
        .ok_or_else(|| EnforceError::Malformed(format!("`{nsg}` was answered without `securityRules`")))?;
    let call = arm.call(Method::PUT, nsg, NETWORK_VERSION, WRITE_NSG)?;
    let left = within.saturating_sub(start.elapsed());
    match arm.write(&call, Some(&body), Some(&etag), left).await {
        Ok(answer) => Ok(json!({ "status": answer.status, "etag": etag })),
        // The NSG shows what was written and may filter by what was there before. That is no answer to rest on:
        // look again, and write again.
        Err(NotWritten {
            accepted: true,
            error: EnforceError::Refused { code, message, .. },
        }) => {
            tracing::warn!(nsg = %nsg, code, message, "an accepted write failed");
            Err(EnforceError::Conflict {
                resource: nsg.to_string(),
                code,
            })
        }
        // What it does not let us write must not keep open what is over.
        Err(NotWritten {
            accepted: false,
            error: mut error @ (EnforceError::Refused { .. } | EnforceError::Forbidden { .. }),
        }) => {
            let over = over(&standing, operation);
            for name in &over {
                let left = within.saturating_sub(start.elapsed());
                delete_rule(arm, &rule(nsg, name)?, left).await?;
            }
            if let EnforceError::Refused { message, .. } | EnforceError::Forbidden { message, .. } =
                &mut error
                && !over.is_empty()
            {
                message.push_str("; what closes was deleted rule by rule");
            }
            Err(error)
        }
        Err(not) => Err(not.error),
    }
}

/// The rules that let in for grants alone which are over: they may go by themselves, and nothing opens by that.
fn over(nsg: &Value, operation: &Operation) -> Vec<String> {
    let Operation::PutNsg { remove, put } = operation else {
        return Vec::new();
    };
    let goes_on: BTreeSet<GrantId> = put
        .iter()
        .filter_map(|rule| Label::parse(rule.properties.get("description")?.as_str()?))
        .flat_map(|label| label.grants())
        .collect();
    standing(nsg)
        .into_iter()
        .filter(|found| {
            remove
                .iter()
                .any(|name| name.eq_ignore_ascii_case(&found.rule.name))
        })
        .filter(|found| found.rule.access == Access::Allow)
        .filter(|found| {
            let grants = found.label.as_ref().map(Label::grants).unwrap_or_default();
            !grants.iter().any(|grant| goes_on.contains(grant))
        })
        .map(|found| found.rule.name)
        .collect()
}

fn standing(nsg: &Value) -> Vec<ReadRule> {
    nsg.pointer("/properties/securityRules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(ReadRule::read)
        .collect()
}

/// Whether the NSG is as the operation leaves it, as far as our rules go.
fn in_effect(nsg: &Value, operation: &Operation) -> bool {
    matches!(operation, Operation::PutNsg { .. }) && plan::shows(&standing(nsg), operation)
}

fn rule(nsg: &ArmId, name: &str) -> Result<ArmId, EnforceError> {
    nsg.rule(name)
        .map_err(|error| EnforceError::Malformed(format!("no rule has such a name: {error}")))
}
