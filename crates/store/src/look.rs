//! A point as a pass begins with it: what is wanted there, which grants have a part in it, what was left unsettled.
//!
//! One statement reads all of it, as of one moment: each round trip more is time in which a port is not open, or not
//! closed, yet.

use std::{collections::BTreeMap, net::IpAddr};

use postern_core::{
    approach::Approach,
    enforcer::{Desired, Displaced, Guard, Member, WantedGrant},
    grant::{Grant, GrantState},
    id::{DisplacedId, PointId, PolicyId},
    machine::MachineId,
    mark::Installation,
    point::PointRef,
    policy::JitPolicy,
};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{JournalEntry, StoreError, Tx, decode, grants, journal};

/// What a pass begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The whole of what is wanted of the point: the machines behind it that are there, by id; their guards, where
    /// the point locks them down or is an instance, which may have private copies of groups; their wanted grants by id, where it opens for them; what lockdowns displaced here,
    /// oldest first.
    pub desired: Desired,
    /// The grants with a part in it that are not closed, by id; not locked.
    pub grants: Vec<GrantHere>,
    /// The changes that were intended and have no outcome, in the order of their ids.
    pub left_over: Vec<JournalEntry>,
    /// What the last look reported; see [`Tx::replace_report`].
    pub report: Option<Value>,
    /// Whether findings of an earlier look stand.
    pub found: bool,
    /// Whether the database was restored and nobody looked at the point since; see [`Tx::notice_restore`].
    pub doubted: bool,
}

/// A grant with a part in a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantHere {
    /// The grant.
    pub grant: Grant,
    /// All the points at which it has hops.
    pub points: Vec<PointId>,
    /// Whether it was read as present at this one.
    pub present: bool,
}

#[derive(Deserialize)]
struct DisplacedRow {
    id: Uuid,
    rule: Value,
    residuals: Vec<Value>,
}

#[derive(Deserialize)]
struct MemberRow {
    machine: String,
    addresses: Vec<IpAddr>,
    interfaces: Vec<String>,
    approach: Option<Approach>,
    guard: Option<Uuid>,
}

#[derive(Deserialize)]
struct GrantRow {
    /// Whether the point opens for the grant's machine.
    opens: bool,
    /// Whether the firewall before the machine has to let the grant in first.
    waits: bool,
    points: Vec<Uuid>,
    present: bool,
    #[serde(flatten)]
    grant: grants::Row,
}

impl Tx {
    /// Reads the point. [`StoreError::NotFound`] when there is none.
    pub async fn look(&mut self, installation: &Installation, point: PointId) -> Result<Look, StoreError> {
        let row = sqlx::query!(
            r#"SELECT p.ref, r.report AS "report?", p.doubted_since IS NOT NULL AS "doubted!",
                   EXISTS (SELECT FROM findings f WHERE f.point_id = p.id AND f.resolved_at IS NULL) AS "found!",
                   (SELECT coalesce(jsonb_agg(jsonb_build_object(
                               'id', d.id, 'rule', d.rule, 'residuals', d.residuals) ORDER BY d.saved_at, d.id), '[]')
                    FROM displaced d WHERE d.point_id = p.id AND d.settled_at IS NULL) AS "displaced!",
                   (SELECT coalesce(jsonb_agg(jsonb_build_object(
                               'machine', m.id, 'addresses', mp.addresses, 'interfaces', mp.interfaces,
                               'approach', mp.approach,
                               'guard', CASE WHEN mp.locks OR p.kind = 'aws_instance' THEN m.policy_id END)), '[]')
                    FROM machine_points mp JOIN machines m ON m.id = mp.machine_id
                    WHERE mp.point_id = p.id AND m.gone_at IS NULL) AS "members!",
                   (SELECT coalesce(jsonb_agg(y.document), '[]')
                    FROM jit_policies y
                    WHERE y.id IN (SELECT m.policy_id
                                   FROM machine_points mp JOIN machines m ON m.id = mp.machine_id
                                   WHERE mp.point_id = p.id AND (mp.locks OR p.kind = 'aws_instance')
                                     AND m.gone_at IS NULL)) AS "policies!",
                   (SELECT coalesce(jsonb_agg(to_jsonb(g) || jsonb_build_object(
                               'opens', EXISTS (SELECT FROM machine_points mp
                                                WHERE mp.point_id = p.id AND mp.machine_id = g.machine_id AND mp.opens),
                               'present', EXISTS (SELECT FROM grant_hops h
                                                  WHERE h.grant_id = g.id AND h.point_id = p.id
                                                    AND h.state = 'present'),
                               'waits', g.status = 'opening' AND p.kind NOT LIKE 'azure_firewall%' AND EXISTS (
                                   SELECT FROM grant_hops h JOIN points before ON before.id = h.point_id
                                   WHERE h.grant_id = g.id AND before.kind LIKE 'azure_firewall%'
                                     AND h.state <> 'present'),
                               'points', (SELECT coalesce(jsonb_agg(h.point_id), '[]')
                                          FROM grant_hops h WHERE h.grant_id = g.id)) ORDER BY g.id), '[]')
                    FROM (SELECT h.grant_id AS id FROM grant_hops h WHERE h.point_id = p.id AND NOT h.done
                          UNION
                          SELECT w.id FROM machine_points mp JOIN grants w ON w.machine_id = mp.machine_id
                          WHERE mp.point_id = p.id AND mp.opens AND w.status IN ('opening', 'open')) AS near
                    JOIN grants g ON g.id = near.id AND g.status <> 'closed') AS "grants!",
                   (SELECT coalesce(jsonb_agg(to_jsonb(j) || jsonb_build_object('doubted_for',
                               extract(epoch FROM j.doubted_until - clock_timestamp())) ORDER BY j.id), '[]')
                    FROM journal j WHERE j.point_id = p.id AND j.outcome IS NULL) AS "left_over!"
               FROM points p LEFT JOIN point_reports r ON r.point_id = p.id
               WHERE p.id = $1"#,
            point.uuid(),
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .ok_or_else(|| StoreError::not_found("enforcement point", point))?;

        let rows: Vec<GrantRow> = decode::json("grants", "row", row.grants)?;
        let mut here = Vec::with_capacity(rows.len());
        let mut wanted: BTreeMap<MachineId, Vec<WantedGrant>> = BTreeMap::new();
        for GrantRow {
            opens,
            waits,
            points,
            present,
            grant,
        } in rows
        {
            let grant = Grant::try_from(grant)?;
            if opens && !waits && grant.state.is_wanted() {
                wanted
                    .entry(grant.machine.clone())
                    .or_default()
                    .push(as_wanted(&grant));
            }
            here.push(GrantHere {
                grant,
                points: points.into_iter().map(PointId::from_uuid).collect(),
                present,
            });
        }
        let guards = guards(row.policies)?;
        let at: PointRef = decode::text("points", "ref", &row.r#ref)?;
        let members: Vec<MemberRow> = decode::json("machine_points", "row", row.members)?;
        let mut members = members
            .into_iter()
            .map(|member| read_member(member, &at, &guards, &mut wanted))
            .collect::<Result<Vec<_>, _>>()?;
        // The order of the ids is that of the type, which is not that of the texts.
        members.sort_by(|a, b| a.machine.cmp(&b.machine));
        let displaced: Vec<DisplacedRow> = decode::json("displaced", "residuals", row.displaced)?;
        let left_over: Vec<journal::Row> = decode::json("journal", "row", row.left_over)?;
        Ok(Look {
            desired: Desired {
                installation: installation.clone(),
                point: at,
                members,
                displaced: displaced
                    .into_iter()
                    .map(|row| Displaced {
                        id: DisplacedId::from_uuid(row.id),
                        rule: row.rule,
                        residuals: row.residuals,
                    })
                    .collect(),
                unsettled: false,
            },
            grants: here,
            left_over: left_over
                .into_iter()
                .map(JournalEntry::try_from)
                .collect::<Result<_, _>>()?,
            report: row.report,
            found: row.found,
            doubted: row.doubted,
        })
    }
}

fn as_wanted(grant: &Grant) -> WantedGrant {
    let mut ports = grant.ports.clone();
    ports.sort_unstable();
    let mut sources = grant.sources.clone();
    sources.sort_unstable();
    WantedGrant {
        grant: grant.id,
        ports,
        sources,
        not_after: grant.not_after,
        opening: matches!(grant.state, GrantState::Opening(_)),
    }
}

fn guards(policies: Value) -> Result<BTreeMap<Uuid, Guard>, StoreError> {
    let policies: Vec<JitPolicy> = decode::json("jit_policies", "document", policies)?;
    Ok(policies
        .into_iter()
        .map(|policy| {
            let mut ports: Vec<_> = policy.guards.iter().map(|guard| guard.ports).collect();
            ports.sort_unstable();
            let guard = Guard {
                policy: policy.id,
                ports,
                lockdown: policy.lockdown,
                shared_groups: policy.shared_groups,
            };
            (PolicyId::uuid(policy.id), guard)
        })
        .collect())
}

fn read_member(
    row: MemberRow,
    at: &PointRef,
    guards: &BTreeMap<Uuid, Guard>,
    wanted: &mut BTreeMap<MachineId, Vec<WantedGrant>>,
) -> Result<Member, StoreError> {
    let mut addresses = row.addresses;
    addresses.sort_unstable();
    let mut interfaces = row.interfaces;
    interfaces.sort_unstable();
    let machine = decode::text("machines", "id", &row.machine)?;
    let mut grants = wanted.remove(&machine).unwrap_or_default();
    let guard = row.guard.and_then(|policy| guards.get(&policy).cloned());
    if let Some(approach) = &row.approach {
        let lockdown = guard.as_ref().map(|guard| guard.lockdown);
        for grant in &mut grants {
            grant.sources = approach.wanted_at(at, grant, lockdown);
        }
    }
    Ok(Member {
        grants,
        machine,
        addresses,
        interfaces,
        approach: row.approach,
        guard,
    })
}
