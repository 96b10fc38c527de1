//! The machines of a request, as a decision on it needs them: held still together.

use std::collections::BTreeMap;

use postern_core::{id::PolicyId, machine::MachineId};

use crate::{StoreError, StoredMachine, Tx, decode};

impl Tx {
    /// Those of the machines that there ever were, kept as they are until the transaction ends. They are locked in
    /// the order of their ids, as discovery and changes of policies lock them, so that nobody waits in a circle.
    pub async fn machines(
        &mut self,
        ids: &[MachineId],
    ) -> Result<BTreeMap<MachineId, StoredMachine>, StoreError> {
        let names: Vec<String> = ids.iter().map(MachineId::to_string).collect();
        sqlx::query!(
            "SELECT document, policy_id, posture_detail, first_seen_at, seen_at, gone_at FROM machines
             WHERE id = ANY ($1) ORDER BY id FOR SHARE",
            &names,
        )
        .fetch_all(&mut *self.inner)
        .await?
        .into_iter()
        .map(|row| {
            let stored = StoredMachine {
                machine: decode::json("machines", "document", row.document)?,
                posture: decode::json("machines", "posture_detail", row.posture_detail)?,
                policy: row.policy_id.map(PolicyId::from_uuid),
                first_seen_at: row.first_seen_at,
                seen_at: row.seen_at,
                gone_at: row.gone_at,
            };
            Ok((stored.machine.id.clone(), stored))
        })
        .collect()
    }
}
