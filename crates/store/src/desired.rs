//! What is wanted of one enforcement point, read in a fixed number of statements.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use postern_core::{
    enforcer::{Desired, Displaced, Guard, Member, WantedGrant},
    id::{DisplacedId, GrantId, PointId, PolicyId},
    mark::Installation,
    point::PointRef,
    policy::JitPolicy,
};
use uuid::Uuid;

use crate::{StoreError, Tx, decode};

impl Tx {
    /// The whole of what is wanted of the point: the machines behind it that are there, by id; their guards,
    /// where the point locks them down; their wanted grants by id, where it opens for them; what lockdowns
    /// displaced here, oldest first. [`StoreError::NotFound`] when there is no such point.
    pub async fn desired(
        &mut self,
        installation: &Installation,
        point: PointId,
    ) -> Result<Desired, StoreError> {
        let (point_ref, displaced) = self.point_and_displaced(point).await?;
        let members = sqlx::query!(
            r#"SELECT m.id, mp.addresses AS "addresses: Vec<IpAddr>", mp.interfaces,
                      CASE WHEN mp.locks THEN m.policy_id END AS guard
               FROM machine_points mp JOIN machines m ON m.id = mp.machine_id
               WHERE mp.point_id = $1 AND m.gone_at IS NULL
               ORDER BY m.id"#,
            point.uuid(),
        )
        .fetch_all(&mut *self.inner)
        .await?;

        let mut policies: Vec<Uuid> = members.iter().filter_map(|row| row.guard).collect();
        policies.sort_unstable();
        policies.dedup();
        let guards = self.guards(&policies).await?;
        let mut grants = self.wanted_at(point).await?;

        let mut all = Vec::with_capacity(members.len());
        for row in members {
            let mut addresses = row.addresses;
            addresses.sort_unstable();
            let mut interfaces = row.interfaces;
            interfaces.sort_unstable();
            all.push(Member {
                grants: grants.remove(&row.id).unwrap_or_default(),
                machine: decode::text("machines", "id", &row.id)?,
                addresses,
                interfaces,
                guard: row.guard.and_then(|policy| guards.get(&policy).cloned()),
            });
        }
        // The order of the ids is that of the type, which is not that of the texts.
        all.sort_by(|a, b| a.machine.cmp(&b.machine));
        Ok(Desired {
            installation: installation.clone(),
            point: point_ref,
            members: all,
            displaced,
            unsettled: false,
        })
    }

    async fn point_and_displaced(
        &mut self,
        point: PointId,
    ) -> Result<(PointRef, Vec<Displaced>), StoreError> {
        let rows = sqlx::query!(
            r#"SELECT p.ref, d.id AS "id?", d.rule AS "rule?", d.residuals AS "residuals?"
               FROM points p LEFT JOIN displaced d ON d.point_id = p.id AND d.settled_at IS NULL
               WHERE p.id = $1
               ORDER BY d.saved_at, d.id"#,
            point.uuid(),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let first = rows
            .first()
            .ok_or_else(|| StoreError::not_found("enforcement point", point))?;
        let point_ref = decode::text("points", "ref", &first.r#ref)?;
        let displaced = rows
            .into_iter()
            .filter_map(|row| Some((row.id?, row.rule?, row.residuals?)))
            .map(|(id, rule, residuals)| {
                Ok(Displaced {
                    id: DisplacedId::from_uuid(id),
                    rule,
                    residuals: decode::json("displaced", "residuals", residuals)?,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok((point_ref, displaced))
    }

    async fn guards(&mut self, policies: &[Uuid]) -> Result<BTreeMap<Uuid, Guard>, StoreError> {
        if policies.is_empty() {
            return Ok(BTreeMap::new());
        }
        sqlx::query!(
            "SELECT id, document FROM jit_policies WHERE id = ANY ($1)",
            policies
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| {
            let policy: JitPolicy = decode::json("jit_policies", "document", row.document)?;
            let mut ports: Vec<_> = policy.guards.iter().map(|guard| guard.ports).collect();
            ports.sort_unstable();
            let guard = Guard {
                policy: PolicyId::from_uuid(row.id),
                ports,
                lockdown: policy.lockdown,
                shared_groups: policy.shared_groups,
            };
            Ok((row.id, guard))
        })
        .collect()
    }

    async fn wanted_at(&mut self, point: PointId) -> Result<BTreeMap<String, Vec<WantedGrant>>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT g.id, g.machine_id, g.ports, g.sources AS "sources: Vec<IpNet>", g.not_after
               FROM machine_points mp JOIN grants g ON g.machine_id = mp.machine_id
               WHERE mp.point_id = $1 AND mp.opens AND g.status IN ('opening', 'open')
               ORDER BY g.id"#,
            point.uuid(),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut wanted: BTreeMap<String, Vec<WantedGrant>> = BTreeMap::new();
        for row in rows {
            let mut ports = row
                .ports
                .iter()
                .map(|ports| decode::text("grants", "ports", ports))
                .collect::<Result<Vec<_>, _>>()?;
            ports.sort_unstable();
            let mut sources = row
                .sources
                .into_iter()
                .map(|net| decode::convert("grants", "sources", net))
                .collect::<Result<Vec<_>, _>>()?;
            sources.sort_unstable();
            wanted.entry(row.machine_id).or_default().push(WantedGrant {
                grant: GrantId::from_uuid(row.id),
                ports,
                sources,
                not_after: row.not_after,
            });
        }
        Ok(wanted)
    }
}
