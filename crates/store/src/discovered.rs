//! The inventory as it is written: machines as discovered, with the points before them.
//!
//! Several servers may discover the same account at the same time, and any of them may be slow. What each says of a
//! machine is as old as its question, so a machine is never overwritten with something older.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use postern_core::{
    approach::Approach,
    id::{PointId, PolicyId},
    inventory::{Interface, Layer, Machine, copied_from},
    machine::{Account, MachineId},
    point::PointRef,
    posture::Posture,
    time::{IdSource, Instant},
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{StoreError, Tx, batch::document, decode};

/// A machine as discovered, with what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineRow {
    /// The machine.
    pub machine: Machine,
    /// How it stands.
    pub posture: Posture,
    /// The most specific policy that covers it.
    pub policy: Option<PolicyId>,
    /// The points that a grant on it writes.
    pub opens: BTreeSet<PointRef>,
    /// The points that a lockdown of it writes.
    pub locks: BTreeSet<PointRef>,
}

/// What saving machines changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedMachines {
    /// Those that were not known as of a later moment.
    pub written: BTreeSet<MachineId>,
    /// Machines that were not there before, or that are back.
    pub new: Vec<MachineId>,
    /// How many were new or differ from what was known.
    pub changed: usize,
    /// Points at which something else may be wanted now, by id.
    pub touched_points: Vec<PointId>,
}

/// Machines that are not there any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone {
    /// Which.
    pub machines: Vec<MachineId>,
    /// The points before them, by id.
    pub touched_points: Vec<PointId>,
}

/// What is known of a machine.
struct Known {
    document: Value,
    posture: Value,
    policy: Option<Uuid>,
    gone: bool,
}

#[derive(Serialize)]
struct NewMachine<'a> {
    id: String,
    cloud: &'a str,
    account: String,
    scope: String,
    name: &'a str,
    tags: &'a BTreeMap<String, String>,
    power: postern_core::inventory::Power,
    document: &'a Machine,
    policy_id: Option<Uuid>,
    posture: &'a str,
    posture_detail: &'a Posture,
}

/// A row of `machine_points`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Membership {
    machine_id: String,
    point_id: Uuid,
    opens: bool,
    locks: bool,
    addresses: Vec<std::net::IpAddr>,
    interfaces: Vec<String>,
    /// How packets get there, where a firewall stands before the machine.
    approach: Option<Value>,
}

/// When the cloud was asked for machines.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// For the last of what is told of them.
    pub at: Instant,
    /// For the first of it; earlier where lists were read in two goes.
    pub since: Instant,
}

/// Lists that were read further apart than this take nothing from a point that locks: what moved between them may be in
/// none. It is what a large account takes in one go.
const APART: Duration = Duration::from_mins(2);

impl Asked {
    fn may_unlock(self) -> bool {
        (self.at - self.since)
            .to_std()
            .map_or(true, |apart| apart <= APART)
    }
}

impl From<Instant> for Asked {
    fn from(at: Instant) -> Self {
        Self { at, since: at }
    }
}

impl Tx {
    /// Saves discovered machines with the points before them (which are made where needed). Grants that are
    /// wanted on them get a hop at every point that is new on the way. A machine that was seen, or found to be gone, since
    /// the cloud was first asked stays as it is. One that nobody knew was first seen when the cloud was last asked: a
    /// discovery before that could not see it, and is no reason to take it for gone. What is told of it in two goes that
    /// are far apart takes no lockdown from it: a filter that was moved between them, such as from an interface to its
    /// subnet, is on neither list. The next discovery in one go says.
    pub async fn save_machines(
        &mut self,
        rows: &[MachineRow],
        ids: &dyn IdSource,
        asked: impl Into<Asked>,
    ) -> Result<SavedMachines, StoreError> {
        let asked = asked.into();
        let asked_at = asked.since;
        if rows.is_empty() {
            return Ok(SavedMachines::default());
        }
        let names: Vec<String> = rows.iter().map(|row| row.machine.id.to_string()).collect();
        // Locked: nobody saves them meanwhile.
        let known: BTreeMap<String, Known> = sqlx::query!(
            r#"SELECT id, document, policy_id, posture_detail, gone_at IS NOT NULL AS "gone!" FROM machines
               WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE"#,
            &names,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| {
            let known = Known {
                document: row.document,
                posture: row.posture_detail,
                policy: row.policy_id,
                gone: row.gone,
            };
            (row.id, known)
        })
        .collect();

        let (mut first_seen, mut new) = (Vec::new(), Vec::new());
        let mut same: Vec<&str> = Vec::new();
        let mut changed: BTreeSet<&str> = BTreeSet::new();
        for (row, name) in rows.iter().zip(&names) {
            if let Some(known) = known.get(name).filter(|known| !known.gone)
                && known.policy == row.policy.map(PolicyId::uuid)
                && known.posture == document(&row.posture)?
                && known.document == document(&row.machine)?
            {
                same.push(name);
            } else {
                if known.contains_key(name) {
                    new.push(NewMachine::of(row));
                } else {
                    first_seen.push(NewMachine::of(row));
                }
                changed.insert(name);
            }
        }
        let mut written = self.save_whole(&first_seen, asked.at).await?;
        written.extend(self.save_whole(&new, asked_at).await?);
        written.extend(self.save_seen(&same, asked_at).await?);

        let (rows, names): (Vec<&MachineRow>, Vec<String>) = rows
            .iter()
            .zip(names.iter().cloned())
            .filter(|(_, name)| written.contains(name))
            .unzip();
        let mut saved = SavedMachines::default();
        let mut whole: BTreeSet<&str> = BTreeSet::new();
        for (row, name) in rows.iter().zip(&names) {
            saved.changed += usize::from(changed.contains(name.as_str()));
            if let Some(known) = known.get(name).filter(|known| !known.gone) {
                if known.policy != row.policy.map(PolicyId::uuid) {
                    whole.insert(name);
                }
            } else {
                saved.new.push(row.machine.id.clone());
                whole.insert(name);
            }
        }
        saved.touched_points = self.save_memberships(&rows, &names, &whole, ids, asked).await?;
        saved.written = rows.iter().map(|row| row.machine.id.clone()).collect();
        Ok(saved)
    }

    /// Writes all of these that nobody saw, or found to be gone, after `asked_at`; gives their ids.
    async fn save_whole(
        &mut self,
        machines: &[NewMachine<'_>],
        asked_at: Instant,
    ) -> Result<BTreeSet<String>, StoreError> {
        if machines.is_empty() {
            return Ok(BTreeSet::new());
        }
        let written = sqlx::query_scalar!(
            "INSERT INTO machines (id, cloud, account, scope, name, tags, power, document, policy_id, posture,
                 posture_detail, first_seen_at, seen_at)
             SELECT id, cloud, account, scope, name, tags, power, document, policy_id, posture, posture_detail, $2, $2
             FROM jsonb_to_recordset($1) AS n (id text, cloud text, account text, scope text, name text, tags jsonb,
                 power text, document jsonb, policy_id uuid, posture text, posture_detail jsonb)
             ORDER BY id
             ON CONFLICT (id) DO UPDATE
             SET name = excluded.name, tags = excluded.tags, power = excluded.power, document = excluded.document,
                 policy_id = excluded.policy_id, posture = excluded.posture,
                 posture_detail = excluded.posture_detail, seen_at = excluded.seen_at, gone_at = NULL
             WHERE GREATEST(machines.seen_at, machines.gone_at) <= excluded.seen_at
             RETURNING id",
            document(&machines)?,
            asked_at,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(written.into_iter().collect())
    }

    /// Writes of machines that are as they were, and are locked, only that they were seen, where nobody saw them after
    /// `asked_at`; gives the ids of those. No index has `seen_at`, so that the row is all that is written.
    async fn save_seen(&mut self, machines: &[&str], asked_at: Instant) -> Result<Vec<String>, StoreError> {
        if machines.is_empty() {
            return Ok(Vec::new());
        }
        let seen = sqlx::query_scalar!(
            "UPDATE machines SET seen_at = $2 WHERE id = ANY ($1) AND seen_at <= $2 RETURNING id",
            machines as &[&str],
            asked_at,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(seen)
    }

    /// Replaces the memberships of the machines; those that lock, only where the answer [`Asked::may_unlock`]. Says at
    /// which points something differs; for `whole` machines these are all of their points.
    async fn save_memberships(
        &mut self,
        rows: &[&MachineRow],
        names: &[String],
        whole: &BTreeSet<&str>,
        ids: &dyn IdSource,
        asked: Asked,
    ) -> Result<Vec<PointId>, StoreError> {
        let refs: BTreeSet<PointRef> = rows
            .iter()
            .flat_map(|row| row.opens.union(&row.locks))
            .cloned()
            .collect();
        let points = self.ensure_points(&refs, ids, asked.since).await?;
        let mut wanted: BTreeMap<(String, Uuid), Membership> = rows
            .iter()
            .flat_map(|row| row.opens.union(&row.locks).map(move |point| (*row, point)))
            .filter_map(|(row, point)| Some(Membership::of(row, point, points.get(point)?.uuid())))
            .map(|membership| {
                let membership = membership?;
                Ok(((membership.machine_id.clone(), membership.point_id), membership))
            })
            .collect::<Result<_, StoreError>>()?;
        let present: BTreeMap<(String, Uuid), Membership> = sqlx::query_as!(
            Membership,
            r#"SELECT machine_id, point_id, opens, locks, addresses AS "addresses: Vec<std::net::IpAddr>", interfaces,
                      approach
               FROM machine_points WHERE machine_id = ANY ($1)"#,
            names,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|membership| ((membership.machine_id.clone(), membership.point_id), membership))
        .collect();

        let stays = |old: &Membership| old.locks && !asked.may_unlock();
        for (key, new) in &mut wanted {
            new.locks |= present.get(key).is_some_and(stays);
        }
        let removed: Vec<&Membership> = present
            .iter()
            .filter(|(key, old)| !wanted.contains_key(*key) && !stays(old))
            .map(|(_, old)| old)
            .collect();
        let changed: Vec<&Membership> = wanted
            .iter()
            .filter(|(key, new)| present.get(*key) != Some(*new))
            .map(|(_, new)| new)
            .collect();
        if !removed.is_empty() {
            let (machines, points): (Vec<String>, Vec<Uuid>) = removed
                .iter()
                .map(|old| (old.machine_id.clone(), old.point_id))
                .unzip();
            sqlx::query!(
                "DELETE FROM machine_points
                 WHERE (machine_id, point_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))",
                &machines,
                &points,
            )
            .execute(&mut *self.inner)
            .await?;
        }
        if !changed.is_empty() {
            sqlx::query!(
                "INSERT INTO machine_points (machine_id, point_id, opens, locks, addresses, interfaces, approach)
                 SELECT machine_id, point_id, opens, locks, addresses, interfaces, approach
                 FROM jsonb_to_recordset($1) AS n (machine_id text, point_id uuid, opens boolean, locks boolean,
                     addresses inet[], interfaces text[], approach jsonb)
                 ORDER BY machine_id, point_id
                 ON CONFLICT (machine_id, point_id) DO UPDATE
                 SET opens = excluded.opens, locks = excluded.locks, addresses = excluded.addresses,
                     interfaces = excluded.interfaces, approach = excluded.approach",
                document(&changed)?,
            )
            .execute(&mut *self.inner)
            .await?;
            let machines: Vec<String> = changed.iter().map(|new| new.machine_id.clone()).collect();
            self.add_hops_on_the_way(&machines).await?;
        }
        let touched: BTreeSet<PointId> = removed
            .into_iter()
            .chain(changed)
            .chain(
                wanted
                    .values()
                    .filter(|membership| whole.contains(membership.machine_id.as_str())),
            )
            .map(|membership| PointId::from_uuid(membership.point_id))
            .collect();
        Ok(touched.into_iter().collect())
    }

    /// Ends a complete discovery of the account that began at `started`: machines that neither it nor the
    /// complete one before it saw, and nobody for at least `unseen_for`, are gone from now on.
    pub async fn discovery_done(
        &mut self,
        account: &Account,
        started: Instant,
        unseen_for: Duration,
        now: Instant,
    ) -> Result<Gone, StoreError> {
        // Whoever changes policies locks machines too, in another order.
        self.share_policies().await?;
        let account = account.to_string();
        let before = sqlx::query_scalar!(
            "SELECT started_at FROM discoveries WHERE account = $1 FOR UPDATE",
            account
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        sqlx::query!(
            "INSERT INTO discoveries (account, started_at) VALUES ($1, $2)
             ON CONFLICT (account) DO UPDATE SET started_at = excluded.started_at",
            account,
            started,
        )
        .execute(&mut *self.inner)
        .await?;
        let Some(before) = before else {
            return Ok(Gone::default());
        };
        let before = before.min(started - unseen_for);
        let gone = sqlx::query_scalar!(
            "UPDATE machines SET gone_at = $3 WHERE account = $1 AND seen_at < $2 AND gone_at IS NULL RETURNING id",
            account,
            before.min(started),
            now,
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut machines = gone
            .iter()
            .map(|id| decode::text("machines", "id", id))
            .collect::<Result<Vec<MachineId>, StoreError>>()?;
        machines.sort();
        let touched_points = self.points_before(&machines).await?;
        Ok(Gone {
            machines,
            touched_points,
        })
    }

    /// The points before the machines, by id.
    pub async fn points_before(&mut self, machines: &[MachineId]) -> Result<Vec<PointId>, StoreError> {
        let names: Vec<String> = machines.iter().map(MachineId::to_string).collect();
        Ok(sqlx::query_scalar!(
            "SELECT DISTINCT point_id FROM machine_points WHERE machine_id = ANY ($1) ORDER BY point_id",
            &names,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(PointId::from_uuid)
        .collect())
    }
}

impl<'a> NewMachine<'a> {
    fn of(row: &'a MachineRow) -> Self {
        let id = &row.machine.id;
        Self {
            id: id.to_string(),
            cloud: id.cloud().as_str(),
            account: id.account().to_string(),
            scope: id.scope().to_string(),
            name: &row.machine.name,
            tags: &row.machine.tags,
            power: row.machine.power,
            document: &row.machine,
            policy_id: row.policy.map(PolicyId::uuid),
            posture: row.posture.kind.as_str(),
            posture_detail: &row.posture,
        }
    }
}

impl Membership {
    fn of(row: &MachineRow, point: &PointRef, point_id: Uuid) -> Result<Self, StoreError> {
        let behind: Vec<&Interface> = row
            .machine
            .interfaces
            .iter()
            .filter(|interface| stands_before(point, interface))
            .collect();
        let addresses: BTreeSet<_> = behind
            .iter()
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect();
        let interfaces: BTreeSet<_> = behind.iter().map(|interface| interface.id.clone()).collect();
        // How many more it takes is of no interest here, and changes with every grant; nor is whom it lets through.
        let approach = behind.iter().find_map(|interface| interface.approach());
        let approach = approach.map(|approach| Approach {
            room: None,
            routed: None,
            ..approach.clone()
        });
        Ok(Self {
            machine_id: row.machine.id.to_string(),
            point_id,
            opens: row.opens.contains(point),
            locks: row.locks.contains(point),
            addresses: addresses.into_iter().collect(),
            interfaces: interfaces.into_iter().collect(),
            approach: approach.as_ref().map(document).transpose()?,
        })
    }
}

/// Whether packets to the interface pass the point.
fn stands_before(point: &PointRef, interface: &Interface) -> bool {
    interface.layers.iter().any(|layer| match (layer, point) {
        (Layer::Nsg { point: own, .. } | Layer::Firewall(Approach { point: own, .. }), _) => own == point,
        (Layer::SecurityGroups { .. }, PointRef::AwsInstance(_)) => true,
        (Layer::SecurityGroups { groups }, PointRef::AwsSecurityGroup { group, .. }) => {
            let stands_for = |attached| copied_from(attached).is_some_and(|of| of == *group);
            groups
                .iter()
                .any(|attached| attached.id == *group || stands_for(attached))
        }
        (
            Layer::SecurityGroups { .. },
            PointRef::AzureNsg { .. } | PointRef::AzureFirewall { .. } | PointRef::AzureFirewallPolicy { .. },
        ) => false,
    })
}
