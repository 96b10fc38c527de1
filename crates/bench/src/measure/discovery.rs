//! Ten thousand machines, discovered from nothing, again with nothing changed, and again with a few changed, while the
//! clouds enforce their documented request limits.
//!
//! Each discovery is the first of a server of its own: its memory and processor time are those of that process from the
//! start on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use postern::demo::fleet::{ACCOUNT, Fleet, REGION, SUBSCRIPTION};
use postern_core::machine::MachineId;
use postern_sim::{
    arm::{self, RequestLimits},
    ec2::{Ingress, MachinePlan, Throttling},
};
use serde::Serialize;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::{
    database,
    measure::progress,
    rig::{self, Rig},
};

/// Machines in one Azure subscription, and in one region of an AWS account.
const EACH: usize = 5000;
/// Of each cloud, how many have another tag when the third discovery begins.
const CHANGED: usize = 50;
/// Instances that share a security group: a VPC has 2,500 by default ("Amazon VPC quotas").
const TO_A_GROUP: usize = 10;
/// The tables that hold the inventory.
const TABLES: [&str; 3] = ["machines", "machine_points", "points"];

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Discoveries {
    pub(crate) machines: i64,
    pub(crate) rounds: Vec<Round>,
    /// Milliseconds until a client that asked right after the first was told that its port is open, of Azure and of
    /// AWS.
    pub(crate) asked: [f64; 2],
}

/// One discovery of everything.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    /// What it finds.
    pub(crate) what: String,
    /// From the start of the process to the end of the discovery.
    pub(crate) seconds: f64,
    /// The server's processor time until then.
    pub(crate) processor_seconds: f64,
    /// The server's largest resident memory, in bytes.
    pub(crate) peak_memory: u64,
    pub(crate) calls: BTreeMap<String, u64>,
    /// Calls that the clouds refused for their rate, by the server's own count.
    pub(crate) refusals: f64,
    /// By table.
    pub(crate) rows: BTreeMap<&'static str, Rows>,
    /// Bytes of Postgres' write-ahead log.
    pub(crate) log: i64,
}

/// What was written in a table.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Rows {
    pub(crate) inserted: i64,
    pub(crate) updated: i64,
    /// Of the updated, those that no index took notice of.
    pub(crate) heap_only: i64,
}

/// Measures.
pub(crate) async fn measure() -> anyhow::Result<Discoveries> {
    let (mut rig, ()) = Rig::start(async |_| Ok(())).await?;
    let guarded = [rig.world.fleet.web.clone(), rig.world.fleet.db.clone()];
    rig.discovered(&rig.world.machines()).await?;
    for machine in &guarded {
        let id: MachineId = machine.parse()?;
        rig.lock(&id.scope().to_string()).await?;
    }
    rig.shut(&[&guarded[0], &guarded[1]]).await?;
    rig.server.kill();
    let mut connection = PgConnection::connect(&rig.database_url()?)
        .await
        .context("the database does not answer")?;

    let instances = build(&rig.world.fleet)?;
    let fleet = &rig.world.fleet;
    fleet.arm.set_limits(Some(RequestLimits::default()));
    fleet.ec2.set_throttling(Some(Throttling::documented()));
    rig.set_environment(budgets());
    let mut rounds = vec![round(&mut rig, &mut connection, "all are new").await?];
    let mut asked = [0.0; 2];
    for (machine, asked) in guarded.iter().zip(&mut asked) {
        *asked = rig.open(machine).await?.told.as_secs_f64() * 1e3;
    }
    rounds.push(round(&mut rig, &mut connection, "nothing changed").await?);
    change(&rig.world.fleet, &instances)?;
    let few = format!("{} have another tag", 2 * CHANGED);
    rounds.push(round(&mut rig, &mut connection, &few).await?);

    let machines = sqlx::query_scalar("SELECT count(*) FROM machines WHERE gone_at IS NULL")
        .fetch_one(&mut connection)
        .await?;
    ensure!(
        machines >= i64::try_from(2 * EACH)?,
        "only {machines} machines are known"
    );
    Ok(Discoveries {
        machines,
        rounds,
        asked,
    })
}

/// The ones that are the default.
fn budgets() -> Vec<(String, String)> {
    ["AZURE", "AWS"]
        .map(|cloud| (format!("POSTERN__{cloud}__BUDGET_PERCENT"), "95".to_owned()))
        .into()
}

async fn round(rig: &mut Rig, connection: &mut PgConnection, what: &str) -> anyhow::Result<Round> {
    rig.server.kill();
    // Nobody's turn, and due.
    sqlx::query("DELETE FROM discovery_turn")
        .execute(&mut *connection)
        .await?;
    database::come_to_rest(&rig.database_url()?).await?;
    let (rows, log) = written(connection).await?;
    let fleet = &rig.world.fleet;
    fleet.arm.calls().reset();
    fleet.ec2.calls().reset();
    let (start, begun) = (Instant::now(), rig::now());
    rig.respawn();
    rig.ready().await;
    // A complete discovery of an account is written down at its end.
    let done = "SELECT bool_and(started_at >= $1) FROM discoveries";
    while !sqlx::query_scalar::<_, bool>(done)
        .bind(begun)
        .fetch_one(&mut *connection)
        .await?
    {
        ensure!(
            start.elapsed() < Duration::from_mins(5),
            "not discovered within five minutes; the end of the server's log:\n{}",
            rig.server.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let processor_seconds = rig.processor_seconds()?;
    let peak_memory = rig.peak_memory()?;
    let refusals = rig.metric("postern_budget_refusals_total").await?;
    let fleet = &rig.world.fleet;
    let mut calls = fleet.arm.calls().all();
    calls.extend(fleet.ec2.calls().all());
    let (rows_after, log_after) = written(connection).await?;
    Ok(Round {
        what: what.to_owned(),
        seconds,
        processor_seconds,
        peak_memory,
        calls: calls.into_iter().collect(),
        refusals,
        rows: rows_after
            .into_iter()
            .map(|(table, after)| {
                let before = rows.get(table).copied().unwrap_or_default();
                let since = Rows {
                    inserted: after.inserted - before.inserted,
                    updated: after.updated - before.updated,
                    heap_only: after.heap_only - before.heap_only,
                };
                (table, since)
            })
            .collect(),
        log: log_after - log,
    })
}

/// Rows by table, and bytes of the log, since the database began.
async fn written(connection: &mut PgConnection) -> anyhow::Result<(BTreeMap<&'static str, Rows>, i64)> {
    // A backend that is idle publishes the rest of its counters after ten seconds (`PGSTAT_IDLE_INTERVAL` of Postgres 15).
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut rows = BTreeMap::new();
    for table in TABLES {
        let (inserted, updated, heap_only) = sqlx::query_as(
            "SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1",
        )
        .bind(table)
        .fetch_one(&mut *connection)
        .await?;
        let counted = Rows {
            inserted,
            updated,
            heap_only,
        };
        rows.insert(table, counted);
    }
    let log = sqlx::query_scalar("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
        .fetch_one(&mut *connection)
        .await?;
    Ok((rows, log))
}

/// Each Azure machine with an NSG of its own, as many as a subscription has by default ("Azure subscription and service
/// limits": 5,000).
///
/// Gives the EC2 instances' ids.
fn build(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let bar = progress("machines", u64::try_from(2 * EACH)?);
    let azure = fleet.arm.fleet().in_subscription(SUBSCRIPTION).in_group("many");
    azure.group()?;
    let network = azure.network("many", "10.80.0.0/16")?;
    let subnet = azure.subnet(&network, "only", "10.80.0.0/18", None)?;
    let office = arm::inbound("office", 1000, "Allow", "198.51.100.0/24", "22");
    for number in 0..EACH {
        let rules = std::slice::from_ref(&office);
        azure.machine(&name(number), &subnet, rules, &json!({ "team": "a" }))?;
        bar.inc(1);
    }
    let ec2 = fleet.ec2.fleet(ACCOUNT, REGION);
    let vpc = ec2.vpc("10.90.0.0/16", false)?;
    let subnet = ec2.subnet(&vpc, "10.90.0.0/18", 0)?;
    let mut group = String::new();
    let mut instances = Vec::with_capacity(EACH);
    for number in 0..EACH {
        if number % TO_A_GROUP == 0 {
            group = ec2.group(&vpc, &name(number), &[Ingress::tcp(22, "198.51.100.0/24")])?;
        }
        let machine = ec2.machine(&MachinePlan {
            name: name(number),
            subnet_id: subnet.clone(),
            interfaces: vec![vec![group.clone()]],
            ..MachinePlan::default()
        })?;
        instances.push(machine.instance_id);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(instances)
}

fn name(number: usize) -> String {
    format!("many-{number}")
}

fn change(fleet: &Fleet, instances: &[String]) -> anyhow::Result<()> {
    let azure = fleet.arm.fleet().in_subscription(SUBSCRIPTION).in_group("many");
    for number in 0..CHANGED {
        let interface = format!("Microsoft.Network/networkInterfaces/{}-nic", name(number));
        azure.virtual_machine(&name(number), &[&azure.id(&interface)], &json!({ "team": "b" }))?;
    }
    let ec2 = fleet.ec2.fleet(ACCOUNT, REGION);
    for instance in instances.iter().take(CHANGED) {
        let tag = [
            ("ResourceId.1", instance.as_str()),
            ("Tag.1.Key", "team"),
            ("Tag.1.Value", "b"),
        ];
        ec2.call("CreateTags", &tag)?;
    }
    Ok(())
}
