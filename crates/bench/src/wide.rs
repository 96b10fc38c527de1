//! A wide fleet: a thousand enforcement points in five Azure subscriptions and five AWS accounts, and ten thousand
//! grants on them, opened while nobody keeps a budget.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use postern::demo::fleet::{
    ACCOUNT, EXTERNAL_ID, Fleet, REGION, SPARE_ACCOUNTS, SPARE_SUBSCRIPTIONS, SUBSCRIPTION, role_arn,
};
use postern_api::{access_request::AccessRequestCreateQuery, role::RoleAssignmentCreate};
use postern_sim::{
    arm,
    ec2::{Ingress, MachinePlan},
};
use postern_tests::world::a_request;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::{measure::progress, rig::Rig};

/// NSGs in each subscription, and instances in each account.
pub(crate) const EACH: usize = 100;
/// Subscriptions, and accounts.
pub(crate) const ACCOUNTS: usize = 5;
/// All points that grants are opened on.
pub(crate) const POINTS: usize = 2 * EACH * ACCOUNTS;
/// Each with one server: what `postern_servers` adds up to.
const CLOUDS: f64 = 2.0;
/// Targets of one request (`MAX_TARGETS` in the core).
const TARGETS: usize = 20;
/// Requests that are under way at the same time.
const AT_ONCE: usize = 8;

/// The fleet with its server.
pub(crate) struct Wide {
    pub(crate) rig: Rig,
    pub(crate) machines: Vec<String>,
    pub(crate) connection: PgConnection,
}

pub(crate) fn subscriptions() -> impl Iterator<Item = &'static str> {
    std::iter::once(SUBSCRIPTION).chain(SPARE_SUBSCRIPTIONS)
}

pub(crate) fn accounts() -> impl Iterator<Item = &'static str> {
    std::iter::once(ACCOUNT).chain(SPARE_ACCOUNTS)
}

/// What the server's configuration says of the clouds, with that budget.
fn environment(percent: u32) -> Vec<(String, String)> {
    let roles: Vec<String> = accounts()
        .map(|id| {
            format!(
                "{{id=\"{id}\",role_arn=\"{}\",external_id=\"{EXTERNAL_ID}\"}}",
                role_arn(id)
            )
        })
        .collect();
    let quoted: Vec<String> = subscriptions().map(|id| format!("\"{id}\"")).collect();
    [
        ("AZURE__SUBSCRIPTIONS", format!("[{}]", quoted.join(","))),
        ("AWS__ACCOUNTS", format!("[{}]", roles.join(","))),
        ("AZURE__CHANGE_TIMEOUT_SECONDS", "30".to_owned()),
        ("AWS__CHANGE_TIMEOUT_SECONDS", "20".to_owned()),
        ("AZURE__BUDGET_PERCENT", percent.to_string()),
        ("AWS__BUDGET_PERCENT", percent.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("POSTERN__{key}"), value))
    .collect()
}

fn build(fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let mut machines = Vec::with_capacity(POINTS);
    for subscription in subscriptions() {
        let azure = fleet.arm.fleet().in_subscription(subscription).in_group("wide");
        azure.group()?;
        let network = azure.network("wide", "10.80.0.0/16")?;
        let subnet = azure.subnet(&network, "only", "10.80.1.0/24", None)?;
        // Room for the lockdown's deny above it, and for the grants above that.
        let office = arm::inbound("office", 1000, "Allow", "198.51.100.0/24", "22");
        for number in 0..EACH {
            let machine = azure.machine(
                &format!("wide-{number}"),
                &subnet,
                std::slice::from_ref(&office),
                &json!({}),
            )?;
            machines.push(machine.machine);
        }
    }
    for account in accounts() {
        let ec2 = fleet.ec2.fleet(account, REGION);
        let vpc = ec2.vpc("10.90.0.0/16", false)?;
        let subnet = ec2.subnet(&vpc, "10.90.1.0/24", 0)?;
        for number in 0..EACH {
            let name = format!("wide-{number}");
            let group = ec2.group(&vpc, &name, &[Ingress::tcp(22, "198.51.100.0/24")])?;
            let machine = ec2.machine(&MachinePlan {
                name,
                subnet_id: subnet.clone(),
                interfaces: vec![vec![group]],
                ..MachinePlan::default()
            })?;
            machines.push(machine.arn);
        }
    }
    Ok(machines)
}

impl Wide {
    /// The fleet, discovered and locked down.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (rig, machines) = Rig::start_with(async |fleet| build(fleet), environment(0)).await?;
        let connection = PgConnection::connect(&rig.database_url()?)
            .await
            .context("the database does not answer")?;
        let mut wide = Self {
            rig,
            machines,
            connection,
        };
        let known = "SELECT count(*) >= $1 FROM machines";
        wide.until("the machines are discovered", known, POINTS).await?;
        let assignment = RoleAssignmentCreate {
            role: "requester".to_owned(),
            principal: format!("user:{}/ada", postern::demo::people::ISSUER_NAME),
            scope: "/".to_owned(),
            ..Default::default()
        };
        wide.rig.olga.create_role_assignment(None, &assignment).await?;
        for subscription in subscriptions() {
            wide.rig.lock(&format!("/azure/{subscription}")).await?;
        }
        for account in accounts() {
            wide.rig.lock(&format!("/aws/{account}")).await?;
        }
        wide.settled().await?;
        Ok(wide)
    }

    /// Opens SSH on every machine of this fleet, from one address for each number.
    pub(crate) async fn open(&mut self, numbers: std::ops::Range<u8>) -> anyhow::Result<()> {
        let wanted = self.machines.len() * usize::from(numbers.end);
        let bar = progress("grants", u64::try_from(self.machines.len() * numbers.len())?);
        let requests = numbers.flat_map(|number| {
            self.machines.chunks(TARGETS).map(move |machines| {
                let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
                let mut request = a_request(&machines, 3 * 3600);
                for target in &mut request.targets {
                    target.sources = Some(vec![format!("203.0.113.{}/32", number + 1)]);
                }
                request
            })
        });
        let (ada, bar_ref) = (&self.rig.ada, &bar);
        stream::iter(requests)
            .map(|request| async move {
                ada.create_access_request(None, &AccessRequestCreateQuery::default(), &request)
                    .await?;
                bar_ref.inc(request.targets.len() as u64);
                anyhow::Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        bar.finish_and_clear();
        let open = "SELECT count(*) >= $1 FROM grants WHERE status = 'open'";
        self.until("every grant is open", open, wanted).await?;
        self.settled().await
    }

    /// Another server over the same database, which keeps the budgets that are the default.
    pub(crate) async fn respawn_on_budgets(&mut self) -> anyhow::Result<()> {
        self.rig.set_environment(environment(95));
        self.rig.respawn();
        self.rig.ready().await;
        // Leases of the one before run out, and the first discovery is over.
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.settled().await?;
        // The one before was killed: until its time runs out, the budgets are shared with it.
        let killed = Instant::now();
        while self.rig.metric("postern_servers").await? > CLOUDS {
            ensure!(
                killed.elapsed() < Duration::from_mins(2),
                "a dead server keeps its part"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// Puts the end of every open grant of the wide fleet to one instant, as if all had been opened for so long.
    pub(crate) async fn end_all_at(&mut self, at: DateTime<Utc>) -> anyhow::Result<()> {
        let mut tx = self.connection.begin().await?;
        sqlx::query("UPDATE grants SET ends_at = $1 WHERE status = 'open'")
            .bind(at)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE points SET due_at = $1, urgency = 0, wanted = wanted + 1
             WHERE id IN (SELECT h.point_id FROM grant_hops h JOIN grants g ON g.id = h.grant_id
                          WHERE g.status = 'open')",
        )
        .bind(at)
        .execute(&mut *tx)
        .await?;
        sqlx::query("NOTIFY postern_due").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Waits until nothing is due and nothing leased.
    pub(crate) async fn settled(&mut self) -> anyhow::Result<()> {
        let settled = "SELECT NOT EXISTS (SELECT FROM points WHERE lease_owner IS NOT NULL
                                          OR due_at <= clock_timestamp()) AND $1 >= 0";
        self.until("nothing is due", settled, 0).await
    }

    /// Waits, for fifteen minutes at most.
    pub(crate) async fn until(&mut self, what: &str, sql: &'static str, number: usize) -> anyhow::Result<()> {
        let start = std::time::Instant::now();
        let number = i64::try_from(number)?;
        while !self.ask::<bool>(sql, number).await? {
            ensure!(
                start.elapsed() < Duration::from_mins(15),
                "not within 15 minutes: {what}; the end of the server's log:\n{}",
                self.rig.server.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// One value, with a number as the parameter.
    pub(crate) async fn ask<T>(&mut self, sql: &'static str, number: i64) -> anyhow::Result<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        Ok(sqlx::query_scalar(sql)
            .bind(number)
            .fetch_one(&mut self.connection)
            .await?)
    }
}
