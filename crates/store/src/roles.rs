//! Custom roles and role assignments.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    id::AssignmentId,
    role::{Action, Role, RoleAssignment},
    scope::Scope,
    time::Instant,
};
use uuid::Uuid;

use crate::{
    Conflict, Store, StoreError, Tx,
    batch::{clean, document},
    decode,
    error::unique,
    page::scope_text,
    pool::snapshot,
};

/// Everything that decides who may do what, as of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authz {
    /// Rises with every change.
    pub version: i64,
    /// The custom roles, by name.
    pub roles: Vec<Role>,
    /// The role assignments, by id.
    pub assignments: Vec<RoleAssignment>,
}

/// What became of role assignments that were to be removed. Those in neither were not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// As they were.
    pub removed: Vec<RoleAssignment>,
    /// The one that stays, because an installation keeps an owner.
    pub last_owner: Option<RoleAssignment>,
}

pub(crate) struct RoleRow {
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

impl TryFrom<RoleRow> for Role {
    type Error = StoreError;

    fn try_from(row: RoleRow) -> Result<Self, StoreError> {
        let actions = row
            .actions
            .iter()
            .map(|action| decode::text("roles", "actions", action));
        Ok(Self {
            name: row.name,
            actions: actions.collect::<Result<_, _>>()?,
            built_in: false,
        })
    }
}

pub(crate) struct AssignmentRow {
    pub(crate) id: Uuid,
    pub(crate) role: String,
    pub(crate) principal: String,
    pub(crate) scope: String,
    pub(crate) created_by: String,
    pub(crate) created_at: Instant,
    pub(crate) tags: serde_json::Value,
    pub(crate) ends_at: Option<Instant>,
}

impl TryFrom<AssignmentRow> for RoleAssignment {
    type Error = StoreError;

    fn try_from(row: AssignmentRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: AssignmentId::from_uuid(row.id),
            role: row.role,
            principal: decode::text("role_assignments", "principal", &row.principal)?,
            scope: decode::text("role_assignments", "scope", &row.scope)?,
            created_by: row.created_by,
            created_at: row.created_at,
            tags: decode::json("role_assignments", "tags", row.tags)?,
            ends_at: row.ends_at,
        })
    }
}

fn actions(role: &Role) -> Vec<String> {
    role.actions.iter().map(Action::to_string).collect()
}

impl Tx {
    /// Adds a custom role. [`Conflict::RoleName`] when there is one by that name.
    pub async fn insert_role(&mut self, role: &Role) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO roles (name, actions) VALUES ($1, $2)",
            clean(&role.name),
            &actions(role)
        )
        .execute(&mut *self.inner)
        .await
        .map_err(|error| unique(error, || Conflict::RoleName(role.name.clone())))?;
        Ok(())
    }

    /// Replaces the actions of a custom role.
    pub async fn update_role(&mut self, role: &Role) -> Result<(), StoreError> {
        let updated = sqlx::query!(
            "UPDATE roles SET actions = $2 WHERE name = $1",
            clean(&role.name),
            &actions(role)
        )
        .execute(&mut *self.inner)
        .await?;
        if updated.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::not_found("role", &role.name))
        }
    }

    /// Those of these custom roles that there are, which stay as they are until the transaction ends.
    pub async fn roles_named(&mut self, names: &[String]) -> Result<Vec<Role>, StoreError> {
        let names: Vec<String> = names.iter().map(|name| clean(name)).collect();
        sqlx::query_as!(
            RoleRow,
            "SELECT name, actions FROM roles WHERE name = ANY ($1) ORDER BY name FOR SHARE",
            &names,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(Role::try_from)
        .collect()
    }

    /// Removes a custom role. [`Conflict::RoleInUse`] while it is assigned to somebody, [`Conflict::RoleAwaited`] while
    /// a stage of a JIT policy asks for it.
    pub async fn delete_role(&mut self, name: &str) -> Result<(), StoreError> {
        let name = clean(name);
        // Assigning shares this row's lock, so that no assignment can slip in between.
        let found = sqlx::query_scalar!("SELECT name FROM roles WHERE name = $1 FOR UPDATE", name)
            .fetch_optional(&mut *self.inner)
            .await?;
        if found.is_none() {
            return Err(StoreError::not_found("role", name));
        }
        let used = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM role_assignments WHERE role = $1) AS "used!""#,
            name,
        )
        .fetch_one(&mut *self.inner)
        .await?;
        if used {
            return Err(Conflict::RoleInUse(name).into());
        }
        // Policies share this row's lock, too.
        let awaited_by = sqlx::query_scalar!(
            "SELECT name FROM jit_policies
             WHERE jsonb_path_exists(document, '$.approval.stages[*] ? (@.role == $role)',
                                     jsonb_build_object('role', $1::text))
             ORDER BY name LIMIT 1",
            name,
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        if let Some(policy) = awaited_by {
            return Err(Conflict::RoleAwaited { role: name, policy }.into());
        }
        sqlx::query!("DELETE FROM roles WHERE name = $1", name)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Adds a role assignment. [`StoreError::NotFound`] when the role is neither built in nor a custom one,
    /// [`Conflict::Assignment`] when the same one is there.
    pub async fn insert_assignment(&mut self, assignment: &RoleAssignment) -> Result<(), StoreError> {
        if !Role::built_in().iter().any(|role| role.name == assignment.role) {
            sqlx::query_scalar!(
                "SELECT name FROM roles WHERE name = $1 FOR SHARE",
                clean(&assignment.role)
            )
            .fetch_optional(&mut *self.inner)
            .await?
            .ok_or_else(|| StoreError::not_found("role", &assignment.role))?;
        }
        sqlx::query!(
            "INSERT INTO role_assignments (id, role, principal, scope, created_by, created_at, tags, ends_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            assignment.id.uuid(),
            assignment.role,
            clean(&assignment.principal.to_string()),
            assignment.scope.to_string(),
            clean(&assignment.created_by),
            assignment.created_at,
            document(&assignment.tags)?,
            assignment.ends_at,
        )
        .execute(&mut *self.inner)
        .await
        .map_err(|error| unique(error, || Conflict::Assignment))?;
        Ok(())
    }

    /// Removes these role assignments, in this order, but never the last owner of the installation. Nobody else changes
    /// role assignments until the transaction ends.
    pub async fn remove_assignments(&mut self, ids: &[AssignmentId]) -> Result<Removal, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        // Rows before the version: every other change of assignments locks them in that order, too.
        let found: BTreeMap<AssignmentId, RoleAssignment> = sqlx::query_as!(
            AssignmentRow,
            "SELECT id, role, principal, scope, created_by, created_at, tags, ends_at
             FROM role_assignments WHERE id = ANY ($1) ORDER BY id FOR UPDATE",
            &wanted,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| RoleAssignment::try_from(row).map(|found| (found.id, found)))
        .collect::<Result<_, _>>()?;
        if found.is_empty() {
            return Ok(Removal::default());
        }
        // From here on no other change of assignments commits before this one does.
        sqlx::query_scalar!("SELECT version FROM authz_version FOR NO KEY UPDATE")
            .fetch_one(&mut *self.inner)
            .await?;
        let mut owners: usize = 0;
        if found.values().any(RoleAssignment::is_lasting_owner) {
            let all = self.authz().await?.assignments;
            owners = all.iter().filter(|one| one.is_lasting_owner()).count();
        }
        let mut removal = Removal::default();
        for assignment in ids.iter().filter_map(|id| found.get(id)) {
            if assignment.is_lasting_owner() {
                if owners <= 1 {
                    removal.last_owner = Some(assignment.clone());
                    continue;
                }
                owners -= 1;
            }
            removal.removed.push(assignment.clone());
        }
        let goes: Vec<Uuid> = removal.removed.iter().map(|one| one.id.uuid()).collect();
        // Nothing is deleted where nothing goes, so that the version does not rise for nothing.
        if !goes.is_empty() {
            sqlx::query!("DELETE FROM role_assignments WHERE id = ANY ($1)", &goes)
                .execute(&mut *self.inner)
                .await?;
        }
        Ok(removal)
    }

    /// The role assignments at a scope and below, by id.
    pub async fn assignments_below(&mut self, scope: &Scope) -> Result<Vec<RoleAssignment>, StoreError> {
        sqlx::query_as!(
            AssignmentRow,
            "SELECT id, role, principal, scope, created_by, created_at, tags, ends_at FROM role_assignments
             WHERE $1::text IS NULL OR scope = $1 OR starts_with(scope, $1 || '/') ORDER BY id",
            scope_text(Some(scope)),
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(RoleAssignment::try_from)
        .collect()
    }

    /// Which of these role assignments there are.
    pub async fn standing_assignments(
        &mut self,
        ids: &[AssignmentId],
    ) -> Result<BTreeSet<AssignmentId>, StoreError> {
        let wanted: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        Ok(
            sqlx::query_scalar!("SELECT id FROM role_assignments WHERE id = ANY ($1)", &wanted)
                .fetch_all(&mut *self.inner)
                .await?
                .into_iter()
                .map(AssignmentId::from_uuid)
                .collect(),
        )
    }

    /// Removes at most `at_once` of the role assignments that ended by `now`, the longest ago first, and returns them.
    /// Those that another transaction removes at this moment are left to it.
    pub async fn lapse_assignments(
        &mut self,
        now: Instant,
        at_once: u32,
    ) -> Result<Vec<RoleAssignment>, StoreError> {
        // Nothing is deleted where nothing ended, so that the version does not rise for nothing.
        let ended = sqlx::query_scalar!(
            "SELECT id FROM role_assignments WHERE ends_at <= $1 ORDER BY ends_at LIMIT $2
             FOR UPDATE SKIP LOCKED",
            now,
            i64::from(at_once),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        sqlx::query_as!(
            AssignmentRow,
            "DELETE FROM role_assignments WHERE id = ANY ($1)
             RETURNING id, role, principal, scope, created_by, created_at, tags, ends_at",
            &ended,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(RoleAssignment::try_from)
        .collect()
    }

    /// Every custom role and role assignment as of now, and the version that they are of.
    pub async fn authz(&mut self) -> Result<Authz, StoreError> {
        let version = sqlx::query_scalar!("SELECT version FROM authz_version")
            .fetch_one(&mut *self.inner)
            .await?;
        let roles = sqlx::query_as!(RoleRow, "SELECT name, actions FROM roles ORDER BY name")
            .fetch_all(&mut *self.inner)
            .await?;
        let assignments = sqlx::query_as!(
            AssignmentRow,
            "SELECT id, role, principal, scope, created_by, created_at, tags, ends_at FROM role_assignments ORDER BY id",
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(Authz {
            version,
            roles: roles.into_iter().map(Role::try_from).collect::<Result<_, _>>()?,
            assignments: assignments
                .into_iter()
                .map(RoleAssignment::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Store {
    /// The version of what [`Store::authz`] returns; it rises with every change to roles and assignments.
    pub async fn authz_version(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar!("SELECT version FROM authz_version")
            .fetch_one(&self.pool)
            .await?)
    }

    /// Every custom role and role assignment, and the version that they are of.
    pub async fn authz(&self) -> Result<Authz, StoreError> {
        let mut tx = snapshot(self).await?;
        let authz = tx.authz().await?;
        tx.commit().await?;
        Ok(authz)
    }

    /// The role assignment.
    pub async fn assignment(&self, id: AssignmentId) -> Result<Option<RoleAssignment>, StoreError> {
        sqlx::query_as!(
            AssignmentRow,
            "SELECT id, role, principal, scope, created_by, created_at, tags, ends_at FROM role_assignments WHERE id = $1",
            id.uuid(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(RoleAssignment::try_from)
        .transpose()
    }
}
