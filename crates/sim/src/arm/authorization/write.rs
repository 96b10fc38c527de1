//! Changes: on the wire, with what Azure refuses, and by a trusted hand.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::refusal::ArmError;
use super::show::{show_assignment, show_definition};
use super::{
    Authorization, AuthorizationKind, CONDITIONS_SINCE, Definition, Denial, DenyAssignment, RoleAssignment,
    RoleGrant, id_of, scope_text,
};

fn text_of<'a>(properties: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    properties
        .iter()
        .find(|(member, _)| member.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| value.as_str())
}

impl Authorization {
    /// Writes a role assignment from a body. The answer, and whether it is new.
    pub(in super::super) fn put_assignment(
        &mut self,
        scope: &str,
        name: &str,
        properties: &Map<String, Value>,
        version: &str,
        now: DateTime<Utc>,
    ) -> Result<(Value, bool), ArmError> {
        let bad = |code: &str, text: String| ArmError::new(400, code, text);
        if Uuid::parse_str(name).is_err() {
            let text = format!(
                "The role assignment ID '{name}' is not valid. The role assignment ID must be a GUID."
            );
            return Err(bad("InvalidRoleAssignmentId", text));
        }
        let principal = text_of(properties, "principalId").unwrap_or_default();
        if Uuid::parse_str(principal).is_err() {
            let text = format!("The Principal ID '{principal}' is not valid. Principal ID must be a GUID.");
            return Err(bad("InvalidPrincipalId", text));
        }
        let role_id = text_of(properties, "roleDefinitionId").unwrap_or_default();
        let role = role_id
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        if Uuid::parse_str(&role).is_err() {
            let text = format!("The role definition ID '{role_id}' is not valid.");
            return Err(bad("InvalidRoleDefinitionId", text));
        }
        self.get(AuthorizationKind::RoleDefinition, scope, &role, version)?;
        let key = id_of(scope, AuthorizationKind::RoleAssignment, name).to_ascii_lowercase();
        let same = |one: &RoleAssignment| {
            one.role == role
                && one.principal.eq_ignore_ascii_case(principal)
                && one.scope.eq_ignore_ascii_case(scope)
        };
        if self
            .assignments
            .iter()
            .any(|(other, one)| *other != key && same(one))
        {
            return Err(ArmError::new(
                409,
                "RoleAssignmentExists",
                "The role assignment already exists.",
            ));
        }
        let before = self.assignments.get(&key);
        if before.is_some_and(|one| !same(one)) {
            let text = "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.";
            return Err(ArmError::new(403, "RoleAssignmentUpdateNotPermitted", text));
        }
        let created = before.is_none();
        let principal_type =
            text_of(properties, "principalType").map_or_else(|| self.type_of(principal), str::to_owned);
        let one = RoleAssignment {
            name: name.to_owned(),
            scope: scope.to_owned(),
            role,
            principal: principal.to_owned(),
            principal_type,
            condition: text_of(properties, "condition").map(str::to_owned),
            description: text_of(properties, "description").map(str::to_owned),
            at: now,
        };
        let shown = show_assignment(&one, version);
        self.assignments.insert(key, one);
        Ok((shown, created))
    }

    /// Takes a role assignment away. What it was; none where there was none.
    pub(in super::super) fn delete_assignment(&mut self, id: &str, version: &str) -> Option<Value> {
        let one = self.assignments.remove(&id.to_ascii_lowercase())?;
        Some(show_assignment(&one, version))
    }

    /// Writes a custom role from a body.
    pub(in super::super) fn put_definition(
        &mut self,
        scope: &str,
        name: &str,
        properties: &Map<String, Value>,
        now: DateTime<Utc>,
    ) -> Result<Value, ArmError> {
        let bad = |code: &str, text: String| ArmError::new(400, code, text);
        if Uuid::parse_str(name).is_err() {
            let text = format!("The role definition ID '{name}' is not valid. It must be a GUID.");
            return Err(bad("InvalidRoleDefinitionId", text));
        }
        let key = name.to_ascii_lowercase();
        if self.definitions.get(&key).is_some_and(|one| one.built_in) {
            let text = "Built-in roles cannot be changed.".to_owned();
            return Err(bad("RoleDefinitionUpdateNotPermitted", text));
        }
        let role_name = text_of(properties, "roleName").unwrap_or_default();
        if role_name.is_empty() {
            return Err(bad(
                "RoleDefinitionNameNullOrEmpty",
                "The role name is missing.".to_owned(),
            ));
        }
        let same = |one: &Definition| one.role_name.eq_ignore_ascii_case(role_name);
        if self
            .definitions
            .iter()
            .any(|(other, one)| *other != key && same(one))
        {
            let text =
                format!("A custom role with the same name '{role_name}' already exists in this directory.");
            return Err(ArmError::new(409, "RoleDefinitionWithSameNameExists", text));
        }
        let list = |member: &str| properties.get(member).and_then(Value::as_array).cloned();
        let assignable: Vec<String> = list("assignableScopes")
            .into_iter()
            .flatten()
            .filter_map(|at| at.as_str().map(str::to_owned))
            .collect();
        if assignable.is_empty() {
            let text = "A role definition needs at least one assignable scope.".to_owned();
            return Err(bad("RoleDefinitionAssignableScopesMissing", text));
        }
        let one = Definition {
            name: key.clone(),
            role_name: role_name.to_owned(),
            description: text_of(properties, "description").unwrap_or_default().to_owned(),
            built_in: false,
            permissions: json!(list("permissions").unwrap_or_default()),
            assignable,
            at: now,
        };
        let shown = show_definition(&one, scope);
        self.definitions.insert(key, one);
        Ok(shown)
    }

    /// The object id of a group or of one of its members, put into the group.
    pub(in super::super) fn put_in_group(&mut self, group: &str, member: &str) {
        self.groups
            .entry(group.to_ascii_lowercase())
            .or_default()
            .insert(member.to_ascii_lowercase());
    }

    pub(in super::super) fn take_from_group(&mut self, group: &str, member: &str) {
        if let Some(members) = self.groups.get_mut(&group.to_ascii_lowercase()) {
            members.remove(&member.to_ascii_lowercase());
        }
    }

    pub(in super::super) fn place_under(&mut self, subscription: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self.above.insert(subscription.to_ascii_lowercase(), groups);
    }

    /// The name of the definition of a role that is named by either.
    fn role(&self, role: &str) -> Option<String> {
        self.definitions
            .values()
            .find(|one| one.name.eq_ignore_ascii_case(role) || one.role_name.eq_ignore_ascii_case(role))
            .map(|one| one.name.clone())
    }

    /// Writes a role assignment as a trusted hand does. Its id; an error where there is no such role.
    pub(in super::super) fn assign(
        &mut self,
        grant: &RoleGrant,
        name: Uuid,
        now: DateTime<Utc>,
    ) -> Result<String, ArmError> {
        let role = self.role(&grant.role).ok_or_else(|| {
            let text = format!(
                "The specified role definition with ID '{}' does not exist.",
                grant.role
            );
            ArmError::new(404, "RoleDefinitionDoesNotExist", text)
        })?;
        let scope = scope_text(&grant.scope);
        let mut properties = Map::new();
        properties.insert(
            "roleDefinitionId".to_owned(),
            json!(id_of(&scope, AuthorizationKind::RoleDefinition, &role)),
        );
        properties.insert("principalId".to_owned(), json!(grant.principal));
        properties.insert("condition".to_owned(), json!(grant.condition));
        self.put_assignment(&scope, &name.to_string(), &properties, CONDITIONS_SINCE, now)?;
        Ok(id_of(
            &scope,
            AuthorizationKind::RoleAssignment,
            &name.to_string(),
        ))
    }

    /// Makes a custom role for every scope as a trusted hand does.
    pub(in super::super) fn define(
        &mut self,
        role_name: &str,
        name: &str,
        (actions, not_actions): (&[&str], &[&str]),
        now: DateTime<Utc>,
    ) -> Result<Value, ArmError> {
        let mut properties = Map::new();
        properties.insert("roleName".to_owned(), json!(role_name));
        properties.insert("assignableScopes".to_owned(), json!(["/"]));
        properties.insert(
            "permissions".to_owned(),
            json!([{ "actions": actions, "notActions": not_actions, "dataActions": [], "notDataActions": [] }]),
        );
        self.put_definition("/", name, &properties, now)
    }

    /// Writes a deny assignment, which in Azure only Azure does. Its id.
    pub(in super::super) fn deny(&mut self, denial: Denial, name: Uuid, now: DateTime<Utc>) -> String {
        let denial = Denial {
            scope: scope_text(&denial.scope),
            ..denial
        };
        let id = id_of(
            &denial.scope,
            AuthorizationKind::DenyAssignment,
            &name.to_string(),
        );
        let one = DenyAssignment {
            id: id.clone(),
            denial,
            at: now,
        };
        self.denies.insert(id.to_ascii_lowercase(), one);
        id
    }

    pub(in super::super) fn undeny(&mut self, id: &str) -> bool {
        self.denies.remove(&id.to_ascii_lowercase()).is_some()
    }
}
