//! What ARM's refusals mean for the loop.
//!
//! Sources: "Troubleshoot common Azure deployment errors" and the shape of errors in "Azure REST API reference"
//! (`error.code`, `error.message`, `error.details`). Codes of the network provider as they stand in public
//! reports: `AnotherOperationInProgress`, `SecurityRuleConflict`, `RetryableError`,
//! `CanceledAndSupersededDueToAnotherOperation`, `PreconditionFailed`.

use std::time::Duration;

use postern_core::enforcer::EnforceError;
use serde_json::Value;

/// Code and message of an ARM error document, the details' messages behind the message.
pub(super) fn code_and_message(body: &Value) -> (String, String) {
    let error = body.get("error").unwrap_or(body);
    let text = |value: &Value, member: &str| {
        value
            .get(member)
            .and_then(Value::as_str)
            .map(|text| text.chars().take(500).collect::<String>())
    };
    let mut message = text(error, "message").unwrap_or_default();
    for detail in error
        .get("details")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .take(5)
    {
        let (code, said) = (text(detail, "code"), text(detail, "message"));
        if let Some(said) = said {
            message.push_str("; ");
            if let Some(code) = code {
                message.push_str(&code);
                message.push_str(": ");
            }
            message.push_str(&said);
        }
    }
    (text(error, "code").unwrap_or_default(), message)
}

/// Whether the body of a 404 is ARM's word that the resource, or the group that it was in, does not exist.
///
/// Source: "Troubleshoot common Azure deployment errors", `ResourceNotFound` and `ResourceGroupNotFound`; both are
/// what a read of an NSG answers. `SubscriptionNotFound` is what a caller without access gets, too.
fn is_gone(body: &Value) -> bool {
    matches!(
        body.pointer("/error/code").and_then(Value::as_str),
        Some("ResourceNotFound" | "ResourceGroupNotFound")
    )
}

/// The error of an answer with this status.
pub(super) fn of_status(
    operation: &str,
    resource: &str,
    status: u16,
    retry_after: Option<Duration>,
    body: &Value,
) -> EnforceError {
    let (code, message) = code_and_message(body);
    let code = if code.is_empty() { status.to_string() } else { code };
    let operation = operation.to_owned();
    match status {
        429 => EnforceError::Throttled {
            operation,
            retry_after,
        },
        // Azure Policy says no with a 403, and no role assignment would help.
        403 if code == "RequestDisallowedByPolicy" => EnforceError::Refused {
            operation,
            code,
            message,
        },
        401 | 403 => EnforceError::Forbidden {
            operation,
            code,
            message,
        },
        404 if is_gone(body) => EnforceError::Gone {
            resource: resource.to_owned(),
            code,
        },
        // A lock on the resource stands until somebody lifts it.
        409 if code == "ScopeLocked" => EnforceError::Refused {
            operation,
            code,
            message,
        },
        409 | 412 => EnforceError::Conflict {
            resource: resource.to_owned(),
            code,
        },
        // Somebody took the priority between our look and our write.
        400 if code == "SecurityRuleConflict" => EnforceError::Conflict {
            resource: resource.to_owned(),
            code,
        },
        // A proxy's page, a subscription that the tenant does not know, a provider that is not registered: nothing
        // is said of the resource, which may well stand.
        404 | 408 | 500.. => EnforceError::Unavailable {
            operation,
            message: format!("{status} {code}: {message}"),
        },
        _ => EnforceError::Refused {
            operation,
            code,
            message,
        },
    }
}

/// The error of an operation that was accepted and then ended otherwise than well.
pub(super) fn of_operation(operation: &str, resource: &str, status: &str, body: &Value) -> EnforceError {
    let (code, message) = code_and_message(body);
    let code = if code.is_empty() { status.to_owned() } else { code };
    if code.starts_with("Canceled")
        || matches!(
            code.as_str(),
            "AnotherOperationInProgress" | "SecurityRuleConflict" | "PreconditionFailed"
        )
    {
        return EnforceError::Conflict {
            resource: resource.to_owned(),
            code,
        };
    }
    if matches!(
        code.as_str(),
        "RetryableError" | "InternalServerError" | "ServiceUnavailable" | "OperationTimedOut"
    ) {
        return EnforceError::Unavailable {
            operation: operation.to_owned(),
            message: format!("{code}: {message}"),
        };
    }
    EnforceError::Refused {
        operation: operation.to_owned(),
        code,
        message,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: u16, code: &str) -> EnforceError {
        let body = json!({ "error": { "code": code, "message": "m", "details": [{ "code": "D", "message": "d" }] } });
        of_status("op", "res", status, Some(Duration::from_secs(7)), &body)
    }

    #[test]
    fn every_refusal_has_its_meaning() {
        assert!(
            matches!(of(429, "x"), EnforceError::Throttled { retry_after: Some(after), .. } if after.as_secs() == 7)
        );
        assert!(matches!(
            of(409, "AnotherOperationInProgress"),
            EnforceError::Conflict { .. }
        ));
        assert!(matches!(
            of(412, "PreconditionFailed"),
            EnforceError::Conflict { .. }
        ));
        assert!(matches!(
            of(400, "SecurityRuleConflict"),
            EnforceError::Conflict { .. }
        ));
        assert!(
            matches!(of(403, "AuthorizationFailed"), EnforceError::Forbidden { operation, .. } if operation == "op")
        );
        assert!(matches!(
            of(403, "RequestDisallowedByPolicy"),
            EnforceError::Refused { .. }
        ));
        assert!(matches!(of(409, "ScopeLocked"), EnforceError::Refused { .. }));
        assert!(matches!(of(503, "x"), EnforceError::Unavailable { .. }));
        assert!(
            matches!(of(400, "Bad"), EnforceError::Refused { code, message, .. } if code == "Bad" && message == "m; D: d")
        );
    }

    #[test]
    fn only_arm_can_say_that_a_resource_is_gone() {
        for code in ["ResourceNotFound", "ResourceGroupNotFound"] {
            assert!(matches!(of(404, code), EnforceError::Gone { .. }), "{code}");
        }
        for code in [
            "SubscriptionNotFound",
            "InvalidResourceNamespace",
            "NotFound",
            "ParentResourceNotFound",
            "",
        ] {
            assert!(
                matches!(of(404, code), EnforceError::Unavailable { .. }),
                "{code}"
            );
        }
        for body in [
            Value::Null,
            json!({ "code": "ResourceNotFound" }),
            json!("ResourceNotFound"),
            json!({ "error": "ResourceNotFound" }),
        ] {
            let error = of_status("op", "res", 404, None, &body);
            assert!(matches!(error, EnforceError::Unavailable { .. }), "{body}");
        }
    }
}
