//! A hundred thousand open grants at rest: what they cost while nothing changes, a restart, and one more grant.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    database,
    rig::Rig,
    sample::{Sample, Summary},
    wide::{POINTS, Wide},
};

/// One more grant is opened and closed so often at each level.
const ONE_MORE: u32 = 20;
/// How long nobody does anything, twice: the drift interval, so that each point is looked at once, and once more.
const IDLE: Duration = Duration::from_mins(5);

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Rest {
    pub(crate) points: usize,
    pub(crate) levels: Vec<Level>,
    /// After the start, when each point is looked at for the first time.
    pub(crate) first: Idle,
    /// From then on.
    pub(crate) then: Idle,
    /// Milliseconds from the start of the process to ready.
    pub(crate) restart: f64,
    /// The server's resident memory at the end of the idle time, and its largest, in bytes.
    pub(crate) memory: u64,
    pub(crate) peak_memory: u64,
}

/// The parts of one core that were used while nobody did anything, in percent.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) server: f64,
    pub(crate) database: f64,
}

/// One more grant, in milliseconds from sending to the answer that says `open`.
#[derive(Debug, Serialize)]
pub(crate) struct Level {
    pub(crate) open: i64,
    pub(crate) one_more: Summary,
}

/// Measures.
pub(crate) async fn measure() -> anyhow::Result<Rest> {
    let mut wide = Wide::start().await?;
    let mut levels = Vec::new();
    wide.open(0..1).await?;
    levels.push(one_more(&mut wide).await?);
    wide.open(1..10).await?;
    levels.push(one_more(&mut wide).await?);
    multiply(&mut wide).await?;
    levels.push(one_more(&mut wide).await?);

    wide.respawn_on_budgets().await?;
    wide.rig.server.kill();
    let start = Instant::now();
    wide.rig.respawn();
    wide.rig.ready().await;
    let restart = start.elapsed().as_secs_f64() * 1e3;
    // The first discovery, and what was under way.
    tokio::time::sleep(Duration::from_secs(10)).await;
    wide.settled().await?;

    let first = idle(&mut wide).await?;
    let then = idle(&mut wide).await?;
    Ok(Rest {
        points: POINTS,
        levels,
        first,
        then,
        restart,
        memory: wide.rig.memory()?,
        peak_memory: wide.rig.peak_memory()?,
    })
}

async fn idle(wide: &mut Wide) -> anyhow::Result<Idle> {
    let database = database_processes(wide).await?;
    let begun = (wide.rig.processor_seconds()?, processor_of(&database));
    let start = Instant::now();
    tokio::time::sleep(IDLE).await;
    let elapsed = start.elapsed().as_secs_f64();
    let ended = (wide.rig.processor_seconds()?, processor_of(&database));
    Ok(Idle {
        server: (ended.0 - begun.0) / elapsed * 100.0,
        database: (ended.1 - begun.1) / elapsed * 100.0,
    })
}

/// Nine copies of every grant, which share its rules; their points are looked at once, and then at rest.
async fn multiply(wide: &mut Wide) -> anyhow::Result<()> {
    let copy = "overlay(id::text placing lpad(to_hex(n), 2, '0') from 35 for 2)::uuid";
    let statements = [
        format!(
            "INSERT INTO grants (id, request_id, policy_id, requester, machine_id, scope, ports, sources,
                                 duration_seconds, created_at, not_after, status, opened_at, ends_at)
             SELECT {copy}, request_id, policy_id, requester, machine_id, scope, ports, sources, duration_seconds,
                    created_at, not_after, status, opened_at, ends_at
             FROM grants CROSS JOIN generate_series(1, 9) n WHERE status = 'open'
             ON CONFLICT DO NOTHING"
        ),
        "INSERT INTO grant_hops (grant_id, point_id, state, rules, blocked_by, obstacle, read_at)
         SELECT g.id, h.point_id, 'unknown', NULL, NULL, NULL, NULL
         FROM grants g
         JOIN grants o ON o.request_id = g.request_id AND o.machine_id = g.machine_id
         JOIN grant_hops h ON h.grant_id = o.id
         WHERE g.status = 'open' AND NOT EXISTS (SELECT FROM grant_hops x WHERE x.grant_id = g.id)
         ON CONFLICT DO NOTHING"
            .to_owned(),
        "UPDATE points SET due_at = clock_timestamp(), wanted = wanted + 1
         WHERE id IN (SELECT point_id FROM grant_hops)"
            .to_owned(),
    ];
    for statement in statements {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut wide.connection)
            .await?;
    }
    wide.settled().await
}

async fn one_more(wide: &mut Wide) -> anyhow::Result<Level> {
    let open = "SELECT count(*) FROM grants WHERE status = 'open' AND $1 = 0";
    let open: i64 = wide.ask(open, 0).await?;
    let machine = wide.rig.world.fleet.db.clone();
    database::come_to_rest(&wide.rig.database_url()?).await?;
    let mut sample = Sample::default();
    for _ in 0..ONE_MORE {
        let opened = wide.rig.open(&machine).await?;
        sample.push(opened.told.as_secs_f64() * 1e3);
        wide.rig.close(&opened.grant.id).await?;
    }
    Ok(Level {
        open,
        one_more: sample.summary().context("grants were opened")?,
    })
}

/// The server's own connections; other processes of Postgres belong to no client.
async fn database_processes(wide: &mut Wide) -> anyhow::Result<Vec<u32>> {
    let pids: Vec<i32> = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        .fetch_all(&mut wide.connection)
        .await?;
    Ok(pids.into_iter().filter_map(|pid| pid.try_into().ok()).collect())
}

/// Of those that still are.
fn processor_of(processes: &[u32]) -> f64 {
    processes
        .iter()
        .filter_map(|id| Rig::processor_of(*id).ok())
        .sum()
}
