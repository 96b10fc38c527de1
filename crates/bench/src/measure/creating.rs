//! How many access requests a second the server takes, beside pgbench running the same SQL transaction.
//!
//! Requests under a policy that wants an approval, so that what is measured is the call and its transaction, and no
//! cloud. The two take turns on the same database, with as many connections as the server's pool has.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use postern::demo::people::ISSUER_NAME;
use postern_api::{
    access_request::{AccessRequestCreate, AccessRequestCreateQuery},
    client::Client,
    jit_policy::{Approval, GuardedPorts, JitPolicyWrite, Lockdown, SharedGroups},
    role::RoleAssignmentCreate,
};
use postern_tests::world::a_request;
use serde::Serialize;

use crate::{
    database,
    measure::progress,
    pgbench, recording,
    rig::Rig,
    sample::{Sample, Summary},
};

/// Clients that ask at the same time, and connections of pgbench: as many as the server's pool has by default.
pub(crate) const CONNECTIONS: u32 = 16;
/// Turns of each.
const TURNS: usize = 3;
/// Who asks, in turn: people enough that none has as many requests waiting as one may.
const REQUESTERS: u32 = 1000;
/// How long a turn takes.
const TURN: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Creating {
    /// Connections of pgbench, of the server to its database, and clients of the server.
    pub(crate) connections: u32,
    /// Statements between `BEGIN` and `COMMIT`.
    pub(crate) statements: usize,
    /// Requests a second, by turn.
    pub(crate) ours: Vec<f64>,
    /// Transactions a second of pgbench, by turn.
    pub(crate) pgbench: Vec<f64>,
    /// How long a call took, in milliseconds, of all turns.
    pub(crate) call: Summary,
    /// Requests in the database at the end.
    pub(crate) requests: u64,
    /// The server's resident memory at the end, in bytes.
    pub(crate) memory_after: u64,
}

impl Creating {
    /// Ours through pgbench's, at the median turns.
    pub(crate) fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.pgbench)
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sample = Sample::default();
    sample.extend(values.iter().copied());
    sample.summary().map_or(f64::NAN, |summary| summary.p50)
}

/// Puts `machine` under a policy that wants an approval, and lets every engineer ask.
pub(crate) async fn guard(rig: &Rig, machine: &str) -> anyhow::Result<()> {
    rig.discovered(&[machine]).await?;
    let engineers = RoleAssignmentCreate {
        role: "requester".to_owned(),
        principal: format!("group:{ISSUER_NAME}/engineers"),
        scope: "/".to_owned(),
        ..RoleAssignmentCreate::default()
    };
    rig.olga.create_role_assignment(None, &engineers).await?;
    let policy = JitPolicyWrite {
        name: "asked for".to_owned(),
        scope: "/".to_owned(),
        tags: std::collections::BTreeMap::new(),
        guards: vec![GuardedPorts {
            ports: "22/tcp".to_owned(),
            allowed_sources: vec!["203.0.112.0/22".to_owned()],
            max_duration_seconds: 3 * 3600,
        }],
        lockdown: Lockdown::default(),
        shared_groups: SharedGroups::default(),
        approval: Approval::One,
        pending_for_seconds: None,
        authentication: postern_api::jit_policy::Authentication::default(),
        justification: None,
    };
    rig.olga.create_jit_policy(None, &policy).await?;
    rig.shut(&[machine]).await
}

/// Measures. The world and its many requests are left for who measures next.
pub(crate) async fn measure(rig: &mut Rig, machine: &str) -> anyhow::Result<Creating> {
    let url = rig.database_url()?;
    let log = rig
        .world
        .postgres()
        .context("the world has a Postgres of its own")?
        .log_path();
    let request = a_request(&[machine], 3600);
    // Named so that a replay makes up people as it makes up requests.
    let engineers: Vec<Client> = (0..REQUESTERS)
        .map(|number| {
            let name = format!("00000000-0000-7000-9000-{number:012x}");
            rig.ada.clone().with_token(rig.world.engineer(&name))
        })
        .collect();
    // The first calls prepare statements and fill caches.
    for engineer in engineers.iter().take(20) {
        create(engineer, &request).await?;
    }
    let mut recorded = Vec::new();
    for engineer in engineers.iter().take(2) {
        let once = async || create(engineer, &request).await;
        recorded.push(one(recording::record(&url, &log, once).await?)?);
    }
    let [earlier, transaction] = recorded.as_slice() else {
        bail!("two calls were recorded")
    };
    ensure!(
        earlier.len() == transaction.len(),
        "the same call executes the same statements"
    );
    let directory = log.parent().context("the log is in a directory")?;
    let script = directory.join("create.sql");
    std::fs::write(&script, pgbench::script(transaction, earlier)?)?;

    let bar = progress("creating requests", u64::try_from(TURNS)?);
    let (mut ours, mut theirs, mut calls) = (Vec::new(), Vec::new(), Sample::default());
    // Plans that were made for empty tables are forgotten once these are not, and are analysed.
    turn_of_ours(&engineers, &request, &mut Sample::default()).await?;
    for turn in 0..TURNS {
        database::come_to_rest(&url).await?;
        ours.push(turn_of_ours(&engineers, &request, &mut calls).await?);
        let (script, url) = (script.clone(), url.clone());
        let run = u64::try_from(turn)?;
        database::come_to_rest(&url).await?;
        theirs.push(
            tokio::task::spawn_blocking(move || {
                pgbench::run(&script, &url, CONNECTIONS, TURN.as_secs(), run)
            })
            .await??,
        );
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Creating {
        connections: CONNECTIONS,
        statements: transaction.len(),
        ours,
        pgbench: theirs,
        call: calls.summary().context("calls were timed")?,
        requests: requests(&url).await?,
        memory_after: rig.memory()?,
    })
}

/// The one transaction that made a request.
fn one(transactions: Vec<Vec<recording::Statement>>) -> anyhow::Result<Vec<recording::Statement>> {
    let mut creations = transactions.into_iter().filter(|transaction| {
        transaction
            .iter()
            .any(|statement| statement.sql.contains("INSERT INTO access_requests"))
    });
    let found = creations.next().context("a call has a transaction")?;
    ensure!(creations.next().is_none(), "a call has one transaction");
    Ok(found)
}

async fn create(client: &Client, request: &AccessRequestCreate) -> anyhow::Result<()> {
    let answer = client
        .create_access_request(None, &AccessRequestCreateQuery::default(), request)
        .await?;
    ensure!(answer.status == "pending", "the request is {}", answer.status);
    Ok(())
}

/// Requests a second, while so many clients ask as soon as they are answered.
async fn turn_of_ours(
    engineers: &[Client],
    request: &AccessRequestCreate,
    calls: &mut Sample,
) -> anyhow::Result<f64> {
    let (made, start) = (AtomicU64::new(0), Instant::now());
    let clients = (0..CONNECTIONS).map(|_| async {
        let mut took = Vec::new();
        while start.elapsed() < TURN {
            let next = usize::try_from(made.fetch_add(1, Ordering::Relaxed))?;
            let engineer = engineers
                .get(next % engineers.len())
                .context("there are engineers")?;
            let sent = Instant::now();
            create(engineer, request).await?;
            took.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        anyhow::Ok(took)
    });
    let took = try_join_all(clients).await?;
    let elapsed = start.elapsed().as_secs_f64();
    calls.extend(took.into_iter().flatten());
    Ok(f64::from(u32::try_from(made.load(Ordering::Relaxed))?) / elapsed)
}

async fn requests(url: &str) -> anyhow::Result<u64> {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(url).await?;
    let requests: i64 = sqlx::query_scalar("SELECT count(*) FROM access_requests")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(u64::try_from(requests)?)
}
