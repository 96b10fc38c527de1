//! Carries out one operation on an NSG, and waits until it is in force.

use std::time::Duration;

use postern_core::enforcer::{Change, EnforceError};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    arm::{Arm, ArmId, NotWritten},
    observe::{NETWORK_VERSION, READ_NSG},
    operation::Operation,
    plan::{ReadRule, State},
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
        Err(not) => Err(not.error),
    }
}

/// Whether the NSG is as the operation leaves it, as far as our rules go.
fn in_effect(nsg: &Value, operation: &Operation) -> bool {
    let Operation::PutNsg { remove, put } = operation else {
        return false;
    };
    let standing: Vec<ReadRule> = nsg
        .get("properties")
        .and_then(|properties| properties.get("securityRules"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(ReadRule::read)
        .collect();
    let named = |name: &str| {
        standing
            .iter()
            .find(|rule| rule.rule.name.eq_ignore_ascii_case(name))
    };
    remove.iter().all(|name| named(name).is_none())
        && put.iter().all(|wanted| {
            let document = json!({ "name": wanted.name, "properties": wanted.properties });
            named(&wanted.name).is_some_and(|rule| {
                rule.state == State::Settled
                    && ReadRule::read(&document).is_some_and(|wanted| wanted.rule == rule.rule)
            })
        })
}

fn rule(nsg: &ArmId, name: &str) -> Result<ArmId, EnforceError> {
    nsg.rule(name)
        .map_err(|error| EnforceError::Malformed(format!("no rule has such a name: {error}")))
}
