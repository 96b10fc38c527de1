//! Foreign rules that lockdowns took out of the way, until they are put back.

use postern_core::{
    enforcer::Displaced,
    id::{DisplacedId, PointId},
    time::Instant,
};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{StoreError, Tx, batch::document};

#[derive(Serialize)]
struct NewDisplaced<'a> {
    id: Uuid,
    rule: &'a Value,
    residuals: &'a [Value],
}

impl Tx {
    /// Saves rules that are about to be displaced. One that is saved and not settled stays as it was first saved;
    /// one that was settled is displaced again.
    pub async fn save_displaced(
        &mut self,
        point: PointId,
        displaced: &[Displaced],
        at: Instant,
    ) -> Result<(), StoreError> {
        let new: Vec<NewDisplaced<'_>> = displaced
            .iter()
            .map(|d| NewDisplaced {
                id: d.id.uuid(),
                rule: &d.rule,
                residuals: &d.residuals,
            })
            .collect();
        sqlx::query!(
            "INSERT INTO displaced AS d (id, point_id, rule, residuals, saved_at)
             SELECT DISTINCT ON (id) id, $2, rule, residuals, $3
             FROM jsonb_to_recordset($1) AS n (id uuid, rule jsonb, residuals jsonb)
             ORDER BY id
             ON CONFLICT (id) DO UPDATE
             SET point_id = excluded.point_id, rule = excluded.rule, residuals = excluded.residuals,
                 saved_at = excluded.saved_at, settled_at = NULL
             WHERE d.settled_at IS NOT NULL",
            document(&new)?,
            point.uuid(),
            at,
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The rules are back as they were, or their place is gone. Those that were settled before stay so.
    pub async fn settle_displaced(&mut self, ids: &[DisplacedId], at: Instant) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        sqlx::query!(
            "UPDATE displaced SET settled_at = $2 WHERE id = ANY ($1) AND settled_at IS NULL",
            &ids,
            at
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
