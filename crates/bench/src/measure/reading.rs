//! How long reads take at a steady hundred a second, over an audit log of a million events.
//!
//! Reads are sent at their times whether the earlier ones are answered or not, and timed from when they were to be
//! sent: a slow answer also counts against those that it holds up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use postern_api::{
    access_request::AccessRequestQuery, audit_event::AuditEventQuery, client::Client, grant::GrantQuery,
    machine::MachineQuery,
};
use serde::Serialize;
use sqlx::Connection as _;

use crate::{
    database,
    measure::progress,
    rig::Rig,
    sample::{Sample, Summary},
};

/// Audit events in the database.
pub(crate) const EVENTS: i64 = 1_000_000;
/// Reads a second, of all kinds together.
const RATE: u32 = 100;
/// How many reads.
const READS: u32 = 3_000;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Reading {
    /// Audit events in the database.
    pub(crate) events: i64,
    /// Reads a second.
    pub(crate) rate: u32,
    /// By kind, in milliseconds.
    pub(crate) reads: Vec<(&'static str, Summary)>,
    /// Reads that were refused or failed; their times are not among the others.
    pub(crate) refused: u32,
    /// Of all kinds, in milliseconds.
    pub(crate) all: Summary,
}

/// What is read, in turn.
const KINDS: [&str; 10] = [
    "GET /v1/machines",
    "GET /v1/machines/{id}",
    "GET /v1/access-requests",
    "GET /v1/access-requests/{id}",
    "GET /v1/grants",
    "GET /v1/audit-events",
    "GET /v1/audit-events?action=&since=&until=",
    "GET /v1/audit-events?actor=&outcome=",
    "GET /v1/audit-events?machine=&action=",
    "GET /v1/audit-events?scope=",
];

/// Measures, in a world with one machine and its requests.
pub(crate) async fn measure(rig: &Rig, machine: &str) -> anyhow::Result<Reading> {
    fill(&rig.database_url()?, machine).await?;
    let request = rig
        .olga
        .access_requests(&AccessRequestQuery::default())
        .await?
        .items
        .into_iter()
        .next()
        .context("there is a request")?
        .id;
    let what = Arc::new((rig.olga.clone(), machine.to_owned(), request));
    // Prepares the statements.
    for kind in 0..KINDS.len() {
        read(&what, kind, 0).await?;
    }
    let bar = progress("reading", u64::from(READS));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut reads = tokio::task::JoinSet::new();
    for number in 0..READS {
        let due: Instant = ticks.tick().await.into();
        let kind = usize::try_from(number)? % KINDS.len();
        let what = Arc::clone(&what);
        reads.spawn(async move {
            let answer = read(&what, kind, number).await;
            (kind, answer.map(|()| due.elapsed().as_secs_f64() * 1e3))
        });
        bar.inc(1);
    }
    let (mut by_kind, mut all, mut refused) = (vec![Sample::default(); KINDS.len()], Sample::default(), 0);
    let mut why = None;
    while let Some(read) = reads.join_next().await {
        let (kind, answer) = read?;
        let took = match answer {
            Ok(took) => took,
            Err(error) => {
                refused += 1;
                why = Some(error);
                continue;
            }
        };
        all.push(took);
        if let Some(sample) = by_kind.get_mut(kind) {
            sample.push(took);
        }
    }
    bar.finish_and_clear();
    let reads = KINDS
        .into_iter()
        .zip(by_kind)
        .map(|(kind, sample)| Some((kind, sample.summary()?)))
        .collect::<Option<_>>()
        .with_context(|| format!("of each kind something is answered: {why:?}"))?;
    Ok(Reading {
        events: EVENTS,
        rate: RATE,
        reads,
        refused,
        all: all.summary().context("something was read")?,
    })
}

/// One read; `number` makes the filters differ.
async fn read(
    (client, machine, request): &(Client, String, String),
    kind: usize,
    number: u32,
) -> anyhow::Result<()> {
    let events = |query: AuditEventQuery| async move { client.audit_events(&query).await.map(|_| ()) };
    let hour = number % 240;
    match kind {
        0 => client.machines(&MachineQuery::default()).await.map(|_| ())?,
        1 => client.machine(machine).await.map(|_| ())?,
        2 => client
            .access_requests(&AccessRequestQuery::default())
            .await
            .map(|_| ())?,
        3 => client.access_request(request).await.map(|_| ())?,
        4 => client.grants(&GrantQuery::default()).await.map(|_| ())?,
        5 => events(AuditEventQuery::default()).await?,
        6 => {
            events(AuditEventQuery {
                action: Some("grant.".to_owned()),
                since: Some(format!("2026-01-{:02}T{:02}:00:00Z", hour / 24 + 1, hour % 24)),
                until: Some(format!("2026-01-{:02}T{:02}:00:00Z", hour / 24 + 2, hour % 24)),
                ..AuditEventQuery::default()
            })
            .await?;
        }
        7 => {
            events(AuditEventQuery {
                actor: Some(format!("user:corp/person{}", number % 1000)),
                outcome: Some("denied".to_owned()),
                ..AuditEventQuery::default()
            })
            .await?;
        }
        8 => {
            events(AuditEventQuery {
                machine: Some(format!(
                    "arn:aws:ec2:eu-west-1:{:012}:instance/i-{:017}",
                    number % 100,
                    number % 5000
                )),
                action: Some("grant.".to_owned()),
                ..AuditEventQuery::default()
            })
            .await?;
        }
        _ => {
            events(AuditEventQuery {
                scope: Some(format!("/aws/{:012}", number % 100)),
                ..AuditEventQuery::default()
            })
            .await?;
        }
    }
    Ok(())
}

/// Fills the log: a year's events of 1,000 people on 5,000 machines in 100 accounts, one every half a minute.
async fn fill(url: &str, machine: &str) -> anyhow::Result<()> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    sqlx::query(
        "INSERT INTO audit_events (id, at, action, outcome, actor, actor_ref, scope, reason, details, machine_id)
         SELECT gen_random_uuid(),
                timestamptz '2026-01-01Z' + number * interval '25 seconds',
                (ARRAY['access_request.create', 'access_request.approve', 'grant.open', 'grant.close', 'grant.revoke',
                       'change.apply', 'change.apply', 'machine.discover'])[number % 8 + 1],
                CASE WHEN number % 50 = 0 THEN 'denied' ELSE 'succeeded' END,
                jsonb_build_object('kind', 'principal', 'principal', 'user:corp/person' || number % 1000),
                'user:corp/person' || number % 1000,
                '/aws/' || lpad((number % 100)::text, 12, '0') || '/eu-west-1',
                'the disk is full',
                jsonb_build_object('machine', $2::text, 'number', number),
                'arn:aws:ec2:eu-west-1:' || lpad((number % 100)::text, 12, '0') || ':instance/i-'
                    || lpad((number % 5000)::text, 17, '0')
         FROM generate_series(1, $1 - (SELECT count(*) FROM audit_events)) AS number",
    )
    .bind(EVENTS)
    .bind(machine)
    .execute(&mut connection)
    .await?;
    connection.close().await?;
    // What autovacuum and the checkpointer do by themselves after a while.
    database::come_to_rest(url).await
}
