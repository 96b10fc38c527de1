//! The inventory as it is read: machines, the points before them, the policies that cover them.

use std::collections::BTreeMap;

use postern_core::{
    id::{PointId, PolicyId},
    inventory::Machine,
    machine::MachineId,
    point::PointRef,
    posture::{Posture, PostureKind},
    scope::Scope,
    time::Instant,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Page, Store, StoreError, Visible,
    batch::{clean, document},
    decode,
    page::scope_text,
};

/// A machine as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMachine {
    /// The machine as last discovered.
    pub machine: Machine,
    /// How it stands.
    pub posture: Posture,
    /// The most specific policy that covers it.
    pub policy: Option<PolicyId>,
    /// When it was first discovered.
    pub first_seen_at: Instant,
    /// When it was last discovered.
    pub seen_at: Instant,
    /// When it was found to be gone, if it was.
    pub gone_at: Option<Instant>,
}

/// A point before a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointOfMachine {
    /// The point.
    pub point: PointId,
    /// Its native name.
    pub point_ref: PointRef,
    /// Whether a grant on the machine writes there.
    pub opens: bool,
    /// Whether a lockdown of the machine writes there.
    pub locks: bool,
}

/// Which machines to list; what is not set does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineFilter {
    /// Who asks; see [`Visible`].
    pub visible: Visible,
    /// And those at or below these scopes that carry all of the tags that go with each.
    pub visible_by_tags: Vec<(Scope, BTreeMap<String, String>)>,
    /// At or below this.
    pub scope: Option<Scope>,
    /// With this posture.
    pub posture: Option<PostureKind>,
    /// With all of these tags.
    pub tags: BTreeMap<String, String>,
    /// With this in the name or the id, whatever its case.
    pub text: Option<String>,
    /// Covered by this policy.
    pub policy: Option<PolicyId>,
    /// With drift that stands, or that was found at or after this.
    pub drift_since: Option<Instant>,
    /// Machines that are gone, too.
    pub with_gone: bool,
}

impl Store {
    /// The machine, unless there never was one by that id.
    pub async fn machine(&self, id: &MachineId) -> Result<Option<StoredMachine>, StoreError> {
        sqlx::query_as!(
            Row,
            "SELECT document, policy_id, posture_detail, first_seen_at, seen_at, gone_at FROM machines
             WHERE id = $1",
            id.to_string(),
        )
        .fetch_optional(&self.pool)
        .await?
        .map(StoredMachine::try_from)
        .transpose()
    }

    /// Machines, by id; `after` is the cursor of the page before.
    pub async fn machines(
        &self,
        filter: &MachineFilter,
        after: Option<&MachineId>,
        limit: u32,
    ) -> Result<Page<StoredMachine, MachineId>, StoreError> {
        let visible = filter.visible.scope_texts();
        let tags = if filter.tags.is_empty() {
            None
        } else {
            Some(document(&filter.tags)?)
        };
        let by_tags: Vec<Value> = filter
            .visible_by_tags
            .iter()
            .map(|(scope, tags)| json!({ "scope": scope_text(Some(scope)), "tags": tags }))
            .collect();
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT document, policy_id, posture_detail, first_seen_at, seen_at, gone_at
               FROM machines m
               WHERE ($1::text[] IS NULL OR EXISTS (
                       SELECT FROM unnest($1::text[]) AS v (scope)
                       WHERE m.scope = v.scope OR (m.scope > v.scope || '/' AND m.scope < v.scope || '0'))
                   OR EXISTS (
                       SELECT FROM unnest($11::jsonb[]) AS v (part)
                       WHERE m.tags @> (v.part -> 'tags')
                         AND (v.part ->> 'scope' IS NULL OR m.scope = v.part ->> 'scope'
                              OR (m.scope > (v.part ->> 'scope') || '/'
                                  AND m.scope < (v.part ->> 'scope') || '0'))))
                 AND ($2::text IS NULL OR m.scope = $2 OR (m.scope > $2 || '/' AND m.scope < $2 || '0'))
                 AND ($3::text IS NULL OR m.posture = $3)
                 AND ($4::jsonb IS NULL OR m.tags @> $4)
                 AND ($5::text IS NULL OR position(lower($5) IN lower(m.name)) > 0
                      OR position(lower($5) IN lower(m.id)) > 0)
                 AND ($6::uuid IS NULL OR m.policy_id = $6)
                 AND ($7 OR m.gone_at IS NULL)
                 AND ($10::timestamptz IS NULL OR EXISTS (
                       SELECT FROM findings f
                       WHERE f.machines @> ARRAY[m.id] AND f.drift
                         AND (f.resolved_at IS NULL OR f.found_at >= $10)))
                 AND ($8::text IS NULL OR m.id > $8)
               ORDER BY m.id
               LIMIT $9"#,
            visible.as_deref(),
            scope_text(filter.scope.as_ref()),
            filter.posture.map(PostureKind::as_str),
            tags,
            filter.text.as_deref().map(clean),
            filter.policy.map(PolicyId::uuid),
            filter.with_gone,
            after.map(MachineId::to_string),
            Page::<(), ()>::fetch(limit),
            filter.drift_since,
            &by_tags,
        )
        .fetch_all(&self.lists)
        .await?;
        let machines = rows
            .into_iter()
            .map(StoredMachine::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(machines, limit, |stored| stored.machine.id.clone()))
    }

    /// The points before a machine, by name.
    pub async fn points_of_machine(&self, id: &MachineId) -> Result<Vec<PointOfMachine>, StoreError> {
        sqlx::query!(
            "SELECT p.id, p.ref, mp.opens, mp.locks FROM machine_points mp JOIN points p ON p.id = mp.point_id
             WHERE mp.machine_id = $1 ORDER BY p.ref",
            id.to_string(),
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| {
            Ok(PointOfMachine {
                point: PointId::from_uuid(row.id),
                point_ref: decode::text("points", "ref", &row.r#ref)?,
                opens: row.opens,
                locks: row.locks,
            })
        })
        .collect()
    }
}

/// What is read of a machine.
pub(crate) struct Row {
    pub(crate) document: Value,
    pub(crate) policy_id: Option<Uuid>,
    pub(crate) posture_detail: Value,
    pub(crate) first_seen_at: Instant,
    pub(crate) seen_at: Instant,
    pub(crate) gone_at: Option<Instant>,
}

impl TryFrom<Row> for StoredMachine {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            machine: decode::json("machines", "document", row.document)?,
            posture: decode::json("machines", "posture_detail", row.posture_detail)?,
            policy: row.policy_id.map(PolicyId::from_uuid),
            first_seen_at: row.first_seen_at,
            seen_at: row.seen_at,
            gone_at: row.gone_at,
        })
    }
}
