//! Which servers are at work over this database.
//!
//! A server says so again and again, each time for a while in the database's own time; one that died is counted no
//! more when its while is over.

use std::{collections::BTreeMap, time::Duration};

use postern_core::machine::Cloud;

use crate::{Store, StoreError};

/// How a cloud's budgets are shared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sharing {
    /// How many servers are at work on the cloud, the one that asks included.
    pub servers: u32,
    /// The part of its budgets that the one of the others has left that has least, 0 to 1; 1 where there is none.
    pub left: f64,
}

impl Store {
    /// Says that `owner` is at work for another `lease` on these clouds, with what it has left of its budgets there (0
    /// to 1), and how many are.
    ///
    /// Two statements, so that of two servers that come at the same time at least one sees the other at once.
    pub async fn at_work(
        &self,
        owner: &str,
        clouds: &BTreeMap<Cloud, f64>,
        lease: Duration,
    ) -> Result<BTreeMap<Cloud, Sharing>, StoreError> {
        let left: serde_json::Map<String, serde_json::Value> = clouds
            .iter()
            .map(|(cloud, left)| (cloud.as_str().to_owned(), (*left).into()))
            .collect();
        sqlx::query!(
            "INSERT INTO servers (owner, clouds, until)
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
             ON CONFLICT (owner) DO UPDATE SET clouds = excluded.clouds, until = excluded.until",
            owner,
            serde_json::Value::Object(left),
            lease.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        let mut sharing = BTreeMap::new();
        for cloud in clouds.keys() {
            let others = sqlx::query!(
                r#"SELECT count(*) AS "count!", coalesce(min((clouds ->> $2)::float8), 1) AS "left!" FROM servers
                   WHERE owner <> $1 AND clouds ->> $2 IS NOT NULL AND until >= clock_timestamp()"#,
                owner,
                cloud.as_str(),
            )
            .fetch_one(&self.pool)
            .await?;
            let shared = Sharing {
                servers: u32::try_from(others.count).unwrap_or(u32::MAX).saturating_add(1),
                left: others.left,
            };
            sharing.insert(*cloud, shared);
        }
        sqlx::query!(
            "DELETE FROM servers WHERE owner IN
                (SELECT owner FROM servers WHERE until < clock_timestamp() FOR UPDATE SKIP LOCKED)"
        )
        .execute(&self.pool)
        .await?;
        Ok(sharing)
    }

    /// Says that `owner` is at work no more.
    pub async fn not_at_work(&self, owner: &str) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM servers WHERE owner = $1", owner)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
