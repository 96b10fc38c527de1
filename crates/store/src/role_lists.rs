//! Custom roles and role assignments, listed. Nothing here reads them all: everybody may list.

use postern_core::{
    id::AssignmentId,
    principal::PrincipalRef,
    role::{Role, RoleAssignment},
    scope::Scope,
};

use crate::{
    Page, Store, StoreError, Visible,
    batch::clean,
    page::scope_text,
    roles::{AssignmentRow, RoleRow},
};

/// Which role assignments to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssignmentFilter {
    /// Who asks: role assignments at and below these scopes.
    pub visible: Visible,
    /// And those of any of these.
    pub own: Vec<PrincipalRef>,
    /// Whose.
    pub principal: Option<PrincipalRef>,
    /// Of this role.
    pub role: Option<String>,
    /// At or below this scope.
    pub scope: Option<Scope>,
}

impl Store {
    /// The custom roles, by name.
    pub async fn roles(&self) -> Result<Vec<Role>, StoreError> {
        sqlx::query_as!(RoleRow, "SELECT name, actions FROM roles ORDER BY name")
            .fetch_all(&self.lists)
            .await?
            .into_iter()
            .map(Role::try_from)
            .collect()
    }

    /// Role assignments, by id; `after` is the cursor of the page before.
    pub async fn assignments(
        &self,
        filter: &AssignmentFilter,
        after: Option<AssignmentId>,
        limit: u32,
    ) -> Result<Page<RoleAssignment, AssignmentId>, StoreError> {
        let visible = filter.visible.scope_texts();
        let own: Vec<String> = filter.own.iter().map(|one| clean(&one.to_string())).collect();
        let only_own = visible.as_ref().is_some_and(Vec::is_empty);
        let rows = sqlx::query_as!(
            AssignmentRow,
            // With $3, what may be seen is nobody's at any scope, and an index serves.
            "SELECT id, role, principal, scope, created_by, created_at, tags, ends_at FROM role_assignments a
             WHERE ((a.principal = ANY ($2)) OR (NOT $3 AND ($1::text[] IS NULL OR EXISTS (
                     SELECT FROM unnest($1::text[]) AS v (scope)
                     WHERE a.scope = v.scope OR starts_with(a.scope, v.scope || '/')))))
               AND ($4::text IS NULL OR a.principal = $4)
               AND ($5::text IS NULL OR a.role = $5)
               AND ($6::text IS NULL OR a.scope = $6 OR starts_with(a.scope, $6 || '/'))
               AND ($7::uuid IS NULL OR a.id > $7)
             ORDER BY a.id
             LIMIT $8",
            visible.as_deref(),
            &own,
            only_own,
            filter.principal.as_ref().map(|one| clean(&one.to_string())),
            filter.role.as_deref().map(clean),
            scope_text(filter.scope.as_ref()),
            after.map(AssignmentId::uuid),
            Page::<(), ()>::fetch(limit),
        )
        .fetch_all(&self.lists)
        .await?
        .into_iter()
        .map(RoleAssignment::try_from)
        .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(rows, limit, |one| one.id))
    }
}
