//! Pending requests that whoever may decide is to be reminded of.

use postern_core::{
    id::RequestId,
    request::{AccessRequest, Reminder},
    time::Instant,
};

use crate::{StoreError, Tx, requests};

impl Tx {
    /// Up to `limit` pending requests of which somebody is to be reminded at `now`, and how, locked; those that another
    /// transaction holds are left out. Each is found once for each way: half of the time from its making to its lapse
    /// for [`Reminder::Again`], three quarters for [`Reminder::Escalated`].
    pub async fn due_reminders(
        &mut self,
        now: Instant,
        limit: u32,
    ) -> Result<Vec<(AccessRequest, Reminder)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, document, created_at + (lapses_at - created_at) * 0.75 <= $1 AS "escalated!"
               FROM access_requests
               WHERE status = 'pending' AND lapses_at > $1
                 AND ((reminded = 0 AND created_at + (lapses_at - created_at) * 0.5 <= $1)
                      OR (reminded = 1 AND created_at + (lapses_at - created_at) * 0.75 <= $1))
               ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED"#,
            now,
            i64::from(limit),
        )
        .fetch_all(&mut *self.inner)
        .await?;
        rows.into_iter()
            .map(|row| {
                let how = if row.escalated {
                    Reminder::Escalated
                } else {
                    Reminder::Again
                };
                Ok((requests::read(row.document)?, how))
            })
            .collect()
    }

    /// Notes that a reminder of the request went out.
    pub async fn save_reminder(&mut self, request: RequestId, how: Reminder) -> Result<(), StoreError> {
        let reminded: i16 = match how {
            Reminder::Again => 1,
            Reminder::Escalated => 2,
        };
        let saved = sqlx::query!(
            "UPDATE access_requests SET reminded = $2 WHERE id = $1 AND status = 'pending' AND reminded < $2",
            request.uuid(),
            reminded,
        )
        .execute(&mut *self.inner)
        .await?;
        if saved.rows_affected() == 1 {
            Ok(())
        } else {
            Err(crate::Conflict::Decided.into())
        }
    }
}
