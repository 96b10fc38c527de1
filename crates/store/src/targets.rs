//! The machines of a request, as a decision on it needs them: held still together.

use std::collections::BTreeMap;

use postern_core::{machine::MachineId, principal::PrincipalRef, scope::Scope};

use crate::{Store, StoreError, StoredMachine, Tx, batch::clean, decode, machines};

impl Tx {
    /// Those of the machines that there ever were, kept as they are until the transaction ends. They are locked in
    /// the order of their ids, as discovery and changes of policies lock them, so that nobody waits in a circle.
    pub async fn machines(
        &mut self,
        ids: &[MachineId],
    ) -> Result<BTreeMap<MachineId, StoredMachine>, StoreError> {
        let names: Vec<String> = ids.iter().map(MachineId::to_string).collect();
        sqlx::query_as!(
            machines::Row,
            "SELECT document, policy_id, posture_detail, first_seen_at, seen_at, gone_at FROM machines
             WHERE id = ANY ($1) ORDER BY id FOR SHARE",
            &names,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| {
            let stored = StoredMachine::try_from(row)?;
            Ok((stored.machine.id.clone(), stored))
        })
        .collect()
    }

    /// Waits until nobody else counts what these requesters have, and keeps others from it until the transaction ends.
    pub(crate) async fn count_alone(&mut self, requesters: &[String]) -> Result<(), StoreError> {
        // 2: other advisory locks are on hashes with other seeds. In one order, so that nobody waits in a circle.
        sqlx::query!(
            "SELECT pg_advisory_xact_lock(r.hash)
             FROM (SELECT DISTINCT hashtextextended(t.name, 2) AS hash FROM unnest($1::text[]) AS t (name)
                   ORDER BY 1) AS r",
            requesters,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// How many grants this requester has on each of the machines that are not closed yet. Machines without any
    /// are left out. Nobody else counts this requester's until the transaction ends, so that two requests at once do
    /// not both take the last place.
    pub async fn count_live_grants(
        &mut self,
        requester: &PrincipalRef,
        machines: &[MachineId],
    ) -> Result<BTreeMap<MachineId, u64>, StoreError> {
        let requester = clean(&requester.to_string());
        self.count_alone(std::slice::from_ref(&requester)).await?;
        let names: Vec<String> = machines.iter().map(MachineId::to_string).collect();
        sqlx::query!(
            r#"SELECT machine_id, count(*) AS "live!" FROM grants
               WHERE machine_id = ANY ($1) AND requester = $2 AND status <> 'closed' GROUP BY machine_id"#,
            &names,
            requester,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| {
            let machine = decode::text("grants", "machine_id", &row.machine_id)?;
            Ok((machine, u64::try_from(row.live).unwrap_or(0)))
        })
        .collect()
    }
}

impl Store {
    /// The tags of those of the machines that there ever were.
    pub async fn tags_of(
        &self,
        ids: &[MachineId],
    ) -> Result<BTreeMap<MachineId, BTreeMap<String, String>>, StoreError> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<String> = ids.iter().map(MachineId::to_string).collect();
        sqlx::query!("SELECT id, tags FROM machines WHERE id = ANY ($1)", &names)
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|row| {
                Ok((
                    decode::text("machines", "id", &row.id)?,
                    decode::json("machines", "tags", row.tags)?,
                ))
            })
            .collect()
    }

    /// The tags of the machines at these scopes, by scope. Those that were never discovered are left out.
    pub async fn tags_at(
        &self,
        scopes: &[Scope],
    ) -> Result<BTreeMap<Scope, BTreeMap<String, String>>, StoreError> {
        if scopes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<String> = scopes.iter().map(Scope::to_string).collect();
        sqlx::query!("SELECT scope, tags FROM machines WHERE scope = ANY ($1)", &names)
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(|row| {
                Ok((
                    decode::text("machines", "scope", &row.scope)?,
                    decode::json("machines", "tags", row.tags)?,
                ))
            })
            .collect()
    }
}
