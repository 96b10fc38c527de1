//! What Postgres says of itself and how long a commit takes on this disk.

use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use crate::sample::{Sample, Summary};

/// How many commits are timed.
const COMMITS: u32 = 200;

/// The database under the server.
#[derive(Debug, Serialize)]
pub(crate) struct Database {
    /// `15.18 (…)`.
    pub(crate) version: String,
    /// `on`.
    pub(crate) fsync: String,
    /// `on`.
    pub(crate) synchronous_commit: String,
    /// How much may be written between two checkpoints, such as `8GB`.
    pub(crate) max_wal_size: String,
    /// One row inserted and committed by one idle client, in milliseconds.
    pub(crate) commit: Summary,
}

/// Asks for it. Nobody else should be using the database.
pub(crate) async fn describe(url: &str) -> anyhow::Result<Database> {
    let mut connection = connect(url).await?;
    let version = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut connection)
        .await?;
    let fsync = sqlx::query_scalar("SHOW fsync")
        .fetch_one(&mut connection)
        .await?;
    let synchronous_commit = sqlx::query_scalar("SHOW synchronous_commit")
        .fetch_one(&mut connection)
        .await?;
    let max_wal_size = sqlx::query_scalar("SHOW max_wal_size")
        .fetch_one(&mut connection)
        .await?;
    sqlx::query("CREATE SCHEMA bench")
        .execute(&mut connection)
        .await?;
    sqlx::query("CREATE TABLE bench.commits (number bigint NOT NULL)")
        .execute(&mut connection)
        .await?;
    let mut commit = Sample::default();
    for number in 0..COMMITS {
        let start = Instant::now();
        sqlx::query("INSERT INTO bench.commits VALUES ($1)")
            .bind(i64::from(number))
            .execute(&mut connection)
            .await?;
        commit.push(start.elapsed().as_secs_f64() * 1e3);
    }
    sqlx::query("DROP SCHEMA bench CASCADE")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    let commit = commit.summary().context("commits were timed")?;
    Ok(Database {
        version,
        fsync,
        synchronous_commit,
        max_wal_size,
        commit,
    })
}

/// Lets as much be written between two checkpoints as a busy database should: with the default, one begins every ten
/// seconds here, and what is measured is the disk.
pub(crate) async fn write_long_between_checkpoints(url: &str) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    for statement in [
        "ALTER SYSTEM SET max_wal_size = '8GB'",
        "ALTER SYSTEM SET checkpoint_timeout = '30min'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// Puts on disk and cleans up what was written so far, so that it does not disturb what is measured next.
pub(crate) async fn come_to_rest(url: &str) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// How often the write-ahead log was synced to disk since the server started.
pub(crate) async fn syncs(url: &str) -> anyhow::Result<i64> {
    // A backend publishes its counters about once a second, when it is idle.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let mut connection = connect(url).await?;
    let syncs = sqlx::query_scalar("SELECT wal_sync FROM pg_stat_wal")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(syncs)
}

async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    PgConnection::connect(url)
        .await
        .context("the database does not answer")
}
