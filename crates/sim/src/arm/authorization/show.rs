//! Role assignments and definitions as `GET` shows them.

use serde_json::{Value, json};

use super::{AuthorizationKind, CONDITIONS_SINCE, Definition, RoleAssignment, id_of, subscription_of};

pub(super) fn show_assignment(one: &RoleAssignment, version: &str) -> Value {
    let subscription = subscription_of(&one.scope).map(|id| format!("/subscriptions/{id}"));
    let role = id_of(
        &subscription.unwrap_or_default(),
        AuthorizationKind::RoleDefinition,
        &one.role,
    );
    let mut shown = json!({
        "id": id_of(&one.scope, AuthorizationKind::RoleAssignment, &one.name),
        "name": one.name,
        "type": "Microsoft.Authorization/roleAssignments",
        "properties": {
            "roleDefinitionId": role,
            "principalId": one.principal,
            "principalType": one.principal_type,
            "scope": one.scope,
            "createdOn": one.at, "updatedOn": one.at, "createdBy": null, "updatedBy": null,
            "delegatedManagedIdentityResourceId": null,
            "description": one.description,
        },
    });
    if version >= CONDITIONS_SINCE
        && let Some(properties) = shown.get_mut("properties").and_then(Value::as_object_mut)
    {
        properties.insert("condition".to_owned(), json!(one.condition));
        let version = one.condition.as_ref().map(|_| "2.0");
        properties.insert("conditionVersion".to_owned(), json!(version));
    }
    shown
}

pub(super) fn show_definition(one: &Definition, scope: &str) -> Value {
    let subscription = subscription_of(scope).map(|id| format!("/subscriptions/{id}"));
    json!({
        "id": id_of(&subscription.unwrap_or_default(), AuthorizationKind::RoleDefinition, &one.name),
        "name": one.name,
        "type": "Microsoft.Authorization/roleDefinitions",
        "properties": {
            "roleName": one.role_name,
            "type": if one.built_in { "BuiltInRole" } else { "CustomRole" },
            "description": one.description,
            "assignableScopes": one.assignable,
            "permissions": one.permissions,
            "createdOn": one.at, "updatedOn": one.at, "createdBy": null, "updatedBy": null,
        },
    })
}
