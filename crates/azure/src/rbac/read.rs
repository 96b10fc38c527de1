//! Role assignments, role definitions and deny assignments, as ARM tells of them.
//!
//! Source of the calls and documents: Azure REST reference, Microsoft.Authorization 2022-04-01
//! (`RoleAssignments_ListForScope`, `RoleDefinitions_Get`, `DenyAssignments_ListForScope`); of the filters: Azure
//! RBAC documentation, "List Azure role assignments using the REST API" and "List Azure deny assignments":
//! `atScope()` has what is at the scope and above, `assignedTo('<object id>')` what is assigned to a user or service
//! principal, through groups of any depth too. Earlier versions of the API leave conditions out of assignments.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use postern_core::{enforcer::EnforceError, machine::AzureVm};
use serde::{Deserialize, Deserializer};

use super::{
    evaluate::{DenyAssignment, Facts, Permission, RoleAssignment, RoleDefinition},
    pattern::Pattern,
};
use crate::arm::{Arm, is_subscription};

/// The first version that has conditions.
const API_VERSION: &str = "2022-04-01";
/// How many role definitions are read at once.
const AT_ONCE: usize = 4;

const READ_ASSIGNMENTS: &str = "Microsoft.Authorization/roleAssignments/read";
const READ_DEFINITIONS: &str = "Microsoft.Authorization/roleDefinitions/read";
const READ_DENIES: &str = "Microsoft.Authorization/denyAssignments/read";

const EVERYBODY_TYPE: &str = "SystemDefined";
const EVERYBODY: &str = "00000000-0000-0000-0000-000000000000";

/// A list that may be null or not there.
fn listed<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
struct Document<T> {
    id: String,
    properties: T,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssignmentProperties {
    role_definition_id: String,
    principal_id: String,
    principal_type: Option<String>,
    scope: String,
    condition: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DefinitionProperties {
    role_name: Option<String>,
    #[serde(default, deserialize_with = "listed")]
    permissions: Vec<PermissionDocument>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PermissionDocument {
    #[serde(default, deserialize_with = "listed")]
    actions: Vec<String>,
    #[serde(default, deserialize_with = "listed")]
    not_actions: Vec<String>,
    condition: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DenyProperties {
    deny_assignment_name: Option<String>,
    scope: String,
    #[serde(default, deserialize_with = "listed")]
    permissions: Vec<PermissionDocument>,
    #[serde(default, deserialize_with = "listed")]
    principals: Vec<PrincipalDocument>,
    #[serde(default, deserialize_with = "listed")]
    exclude_principals: Vec<PrincipalDocument>,
    do_not_apply_to_child_scopes: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct PrincipalDocument {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl From<PermissionDocument> for Permission {
    fn from(document: PermissionDocument) -> Self {
        let patterns = |texts: Vec<String>| texts.iter().map(|text| Pattern::of(text)).collect();
        Self {
            actions: patterns(document.actions),
            not_actions: patterns(document.not_actions),
            conditional: is_conditional(document.condition.as_deref()),
        }
    }
}

fn is_conditional(condition: Option<&str>) -> bool {
    condition.is_some_and(|condition| !condition.trim().is_empty())
}

fn principals(documents: Vec<PrincipalDocument>) -> BTreeSet<String> {
    documents
        .into_iter()
        .filter_map(|document| match (document.id, document.kind.as_deref()) {
            (_, Some(kind)) if kind.eq_ignore_ascii_case(EVERYBODY_TYPE) => Some(EVERYBODY.to_owned()),
            (id, _) => id.map(|id| id.to_lowercase()),
        })
        .collect()
}

/// The last segment of a role definition's id, which names it wherever it is seen from.
fn role_key(id: &str) -> Result<String, EnforceError> {
    let key = id.rsplit('/').next().unwrap_or_default().to_lowercase();
    if is_uuid(&key) {
        Ok(key)
    } else {
        Err(EnforceError::Malformed(format!(
            "`{}` is no id of a role definition",
            id.chars().take(200).collect::<String>()
        )))
    }
}

/// A UUID in lower case with hyphens, as object ids and names of role definitions are.
pub(super) fn is_uuid(text: &str) -> bool {
    is_subscription(text)
}

/// The machine's ARM id, as scopes have it.
pub(super) fn resource(machine: &AzureVm) -> String {
    let mut id = String::new();
    for segment in segments(machine) {
        id.push('/');
        id.push_str(segment);
    }
    id
}

fn segments(machine: &AzureVm) -> [&str; 8] {
    [
        "subscriptions",
        machine.subscription(),
        "resourceGroups",
        machine.resource_group(),
        "providers",
        "Microsoft.Compute",
        "virtualMachines",
        machine.name(),
    ]
}

/// Whose assignments are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// Those of one user or service principal and of their groups, as Azure knows them.
    Assigned(&'a str),
    /// Those of these principals, by object id.
    Named(&'a BTreeSet<String>),
    /// Everybody's.
    Everybody,
}

impl Arm {
    async fn at_machine<T: serde::de::DeserializeOwned>(
        &self,
        machine: &AzureVm,
        kind: &str,
        filter: &str,
        action: &str,
    ) -> Result<Vec<T>, EnforceError> {
        let path = segments(machine)
            .into_iter()
            .chain(["providers", "Microsoft.Authorization", kind]);
        let url = self.address(path, API_VERSION, &[("$filter", filter)])?;
        self.list(url, action).await
    }

    pub(super) async fn role_assignments(
        &self,
        machine: &AzureVm,
        of: Of<'_>,
    ) -> Result<Vec<RoleAssignment>, EnforceError> {
        let filter = match of {
            Of::Assigned(object_id) => format!("atScope() and assignedTo('{object_id}')"),
            Of::Named(_) | Of::Everybody => "atScope()".to_owned(),
        };
        let documents: Vec<Document<AssignmentProperties>> = self
            .at_machine(machine, "roleAssignments", &filter, READ_ASSIGNMENTS)
            .await?;
        let mut assignments = Vec::new();
        for Document { id, properties } in documents {
            let principal = properties.principal_id.to_lowercase();
            // `ForeignGroup` is a group of another tenant.
            let is_group = properties.principal_type.is_some_and(|kind| {
                ["Group", "ForeignGroup"]
                    .iter()
                    .any(|one| kind.eq_ignore_ascii_case(one))
            });
            // Whatever the filter did: an assignment to another person is none of theirs.
            let theirs = match of {
                Of::Assigned(object_id) => is_group || principal == object_id,
                Of::Named(principals) => principals.contains(&principal),
                Of::Everybody => true,
            };
            if theirs {
                assignments.push(RoleAssignment {
                    id,
                    scope: properties.scope,
                    role: role_key(&properties.role_definition_id)?,
                    principal,
                    is_group,
                    conditional: is_conditional(properties.condition.as_deref()),
                });
            }
        }
        Ok(assignments)
    }

    pub(super) async fn deny_assignments(
        &self,
        machine: &AzureVm,
        of: Of<'_>,
    ) -> Result<Vec<DenyAssignment>, EnforceError> {
        // All of them: those of everybody name nobody.
        let documents: Vec<Document<DenyProperties>> = self
            .at_machine(machine, "denyAssignments", "atScope()", READ_DENIES)
            .await?;
        let mut assigned = BTreeSet::new();
        if let Of::Assigned(object_id) = of
            && !documents.is_empty()
        {
            let filter = format!("atScope() and assignedTo('{object_id}')");
            let theirs: Vec<Document<serde::de::IgnoredAny>> = self
                .at_machine(machine, "denyAssignments", &filter, READ_DENIES)
                .await?;
            assigned.extend(theirs.into_iter().map(|document| document.id.to_lowercase()));
        }
        Ok(documents
            .into_iter()
            .map(|Document { id, properties }| DenyAssignment {
                name: properties.deny_assignment_name.unwrap_or_else(|| id.clone()),
                assigned: assigned.contains(&id.to_lowercase()),
                id,
                scope: properties.scope,
                permissions: properties.permissions.into_iter().map(Permission::from).collect(),
                principals: principals(properties.principals),
                excluded: principals(properties.exclude_principals),
                only_there: properties.do_not_apply_to_child_scopes.unwrap_or(false),
            })
            .collect())
    }

    /// The role, or nothing where there is none.
    pub(super) async fn role_definition(
        &self,
        subscription: &str,
        key: &str,
    ) -> Result<Option<RoleDefinition>, EnforceError> {
        let path = [
            "subscriptions",
            subscription,
            "providers",
            "Microsoft.Authorization",
            "roleDefinitions",
            key,
        ];
        let url = self.address(path, API_VERSION, &[])?;
        let Some(body) = self
            .find(url, READ_DEFINITIONS, "RoleDefinitionDoesNotExist")
            .await?
        else {
            return Ok(None);
        };
        let Document { id, properties }: Document<DefinitionProperties> = serde_json::from_value(body)
            .map_err(|error| {
                EnforceError::Malformed(format!("the role definition `{key}` cannot be read: {error}"))
            })?;
        Ok(Some(RoleDefinition {
            name: properties.role_name.unwrap_or_else(|| key.to_owned()),
            id,
            permissions: properties.permissions.into_iter().map(Permission::from).collect(),
        }))
    }

    /// Everything about a principal's roles at a machine.
    pub(super) async fn facts(&self, machine: &AzureVm, of: Of<'_>) -> Result<Facts, EnforceError> {
        let (assignments, denies) = futures::try_join!(
            self.role_assignments(machine, of),
            self.deny_assignments(machine, of)
        )?;
        let keys: BTreeSet<String> = assignments
            .iter()
            .map(|assignment| assignment.role.clone())
            .collect();
        let found: Vec<(String, Option<RoleDefinition>)> = stream::iter(keys)
            .map(|key| async move {
                let role = self.role_definition(machine.subscription(), &key).await?;
                Ok::<_, EnforceError>((key, role))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let definitions: BTreeMap<String, RoleDefinition> = found
            .into_iter()
            .filter_map(|(key, role)| Some((key, role?)))
            .collect();
        Ok(Facts {
            assignments,
            definitions,
            denies,
        })
    }
}
