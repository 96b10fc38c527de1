//! Ten thousand grants that end in the same second, while the clouds enforce their documented request limits.
//!
//! Limits: "Understand how Azure Resource Manager throttles requests" and "Request throttling for the Amazon EC2 API",
//! as the simulators have them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::ensure;
use chrono::{DateTime, TimeDelta, Utc};
use postern_api::{access_request::AccessRequestCreateQuery, grant::GrantQuery};
use postern_sim::{arm::RequestLimits, ec2::Throttling};
use postern_tests::world::a_request;
use serde::Serialize;

use crate::{
    rig::{self, Rig},
    sample::{Sample, Summary},
    truth::seconds,
    wide::{EACH, Wide},
};

/// Grants on each point.
const GRANTS_EACH: u8 = 10;
/// Between the preparation and the end of all grants.
const AHEAD: TimeDelta = TimeDelta::seconds(20);
/// Between two looks at how many are closed. Each reads every grant, on the cores that close them; when the last one was
/// closed is in the database.
const LOOKS: Duration = Duration::from_secs(1);
/// Between two calls of the client that keeps asking.
const ASKS: Duration = Duration::from_millis(40);

/// The calls that one closing needs at least, however many grants end with it, and the documented budget of their
/// class in one account: the class, calls, at once, back each second.
type Need = (&'static str, u32, f64, f64);
/// Read, write, ask for the operation, read back.
const AZURE: [Need; 2] = [("reads", 3, 250.0, 25.0), ("writes", 1, 200.0, 10.0)];
/// Read, detach, delete the group, read back; and a look at the interface right before.
const AWS: [Need; 5] = [
    ("DescribeInstances", 2, 100.0, 20.0),
    ("DescribeSecurityGroups", 2, 100.0, 20.0),
    ("DescribeNetworkInterfaces", 1, 100.0, 20.0),
    ("ModifyNetworkInterfaceAttribute", 1, 100.0, 5.0),
    ("DeleteSecurityGroup", 1, 50.0, 5.0),
];

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    pub(crate) grants: usize,
    pub(crate) points: usize,
    pub(crate) azure: Cloud,
    pub(crate) aws: Cloud,
    /// Azure's part again, when nothing ends in AWS.
    pub(crate) azure_alone: Option<Cloud>,
    /// The server's largest resident memory, in bytes.
    pub(crate) peak_memory: u64,
    /// Calls that the clouds refused for their rate, by the server's own count.
    pub(crate) refusals: f64,
    /// What a client did meanwhile.
    pub(crate) asked: usize,
    pub(crate) answered_with_an_error: usize,
    /// Milliseconds.
    pub(crate) answer: Option<Summary>,
}

/// One cloud's part.
#[derive(Debug, Serialize)]
pub(crate) struct Cloud {
    /// Seconds that the documented budgets alone take, and the class of calls that sets them.
    pub(crate) bound: f64,
    pub(crate) bound_by: &'static str,
    /// Seconds from the due instant to the last change that this cloud's truth log has.
    pub(crate) last_change: f64,
    /// Seconds from the due instant to the last grant that is confirmed as closed.
    pub(crate) last_closed: f64,
    /// Calls of every kind.
    pub(crate) calls: u64,
    pub(crate) by_operation: BTreeMap<String, u64>,
}

fn bound(needs: &[Need]) -> (f64, &'static str) {
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let each = EACH as f64;
    needs
        .iter()
        .map(|(class, calls, capacity, refill)| ((f64::from(*calls) * each - capacity) / refill, *class))
        .fold(
            (0.0, "none"),
            |most, next| if next.0 > most.0 { next } else { most },
        )
}

/// Measures: both clouds at once, then Azure alone, on a fleet that was just started.
pub(crate) async fn measure() -> anyhow::Result<Storm> {
    let storm = end(|_| true).await?;
    let alone = end(|machine| machine.starts_with("/subscriptions/")).await?;
    Ok(Storm {
        azure_alone: Some(alone.azure),
        ..storm
    })
}

/// Opens grants on these machines and measures how soon they are closed that end in one second.
async fn end(which: fn(&str) -> bool) -> anyhow::Result<Storm> {
    let mut wide = Wide::start().await?;
    wide.machines.retain(|machine| which(machine));
    wide.open(0..GRANTS_EACH).await?;
    wide.respawn_on_budgets().await?;

    let due = rig::now() + AHEAD;
    wide.end_all_at(due).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Whatever was under way when the ends were moved has written its own by now.
    wide.settled().await?;
    wide.end_all_at(due).await?;
    ensure!(rig::now() < due, "it took too long to move the ends");

    let fleet = &wide.rig.world.fleet;
    fleet.arm.set_limits(Some(RequestLimits::default()));
    fleet.ec2.set_throttling(Some(Throttling::documented()));
    tokio::time::sleep((due - rig::now()).to_std().unwrap_or_default()).await;
    fleet.arm.calls().reset();
    fleet.ec2.calls().reset();
    let seen = (fleet.arm.truth().last(), fleet.ec2.truth().last());

    let stop = AtomicBool::new(false);
    let grants = wide.machines.len() * usize::from(GRANTS_EACH);
    let (asked, last) = {
        let Wide { rig, connection, .. } = &mut wide;
        tokio::join!(keep_asking(rig, &stop), async {
            let last = closed(connection, due, grants).await;
            stop.store(true, Ordering::Relaxed);
            last
        })
    };
    let (azure_closed, aws_closed) = last?;
    let fleet = &wide.rig.world.fleet;
    let counted = (fleet.arm.calls().all(), fleet.ec2.calls().all());
    let last_of = |changes: Vec<postern_sim::truth::Change>| {
        changes
            .iter()
            .filter(|change| change.resource.contains("wide") || change.cloud == "aws")
            .map(|change| seconds(change.at - due))
            .fold(0.0, f64::max)
    };
    let (azure_changed, aws_changed) = (
        last_of(fleet.arm.truth().since(seen.0)),
        last_of(fleet.ec2.truth().since(seen.1)),
    );
    let open = wide
        .machines
        .iter()
        .filter(|machine| {
            (1..=GRANTS_EACH).any(|number| wide.rig.world.reachable(machine, [203, 0, 113, number], 22))
        })
        .count();
    ensure!(open == 0, "{open} machines are still reachable");
    // The metrics show budgets at the next turn of the backstop.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let cloud = |needs: &[Need], calls: BTreeMap<String, u64>, changed, closed| {
        let (bound, bound_by) = bound(needs);
        Cloud {
            bound,
            bound_by,
            last_change: changed,
            last_closed: closed,
            calls: calls.values().sum(),
            by_operation: calls,
        }
    };
    Ok(Storm {
        grants,
        points: wide.machines.len(),
        azure: cloud(&AZURE, counted.0, azure_changed, azure_closed),
        aws: cloud(&AWS, counted.1, aws_changed, aws_closed),
        azure_alone: None,
        peak_memory: wide.rig.peak_memory()?,
        refusals: wide.rig.metric("postern_budget_refusals_total").await?,
        asked: asked.0,
        answered_with_an_error: asked.1,
        answer: asked.2.summary(),
    })
}

/// Waits until so many grants are closed that were due then, and gives the seconds to the last of each cloud.
async fn closed(
    connection: &mut sqlx::PgConnection,
    due: DateTime<Utc>,
    grants: usize,
) -> anyhow::Result<(f64, f64)> {
    let start = Instant::now();
    loop {
        let (count, azure, aws): (i64, Option<DateTime<Utc>>, Option<DateTime<Utc>>) = sqlx::query_as(
            "SELECT count(*), max(closed_at) FILTER (WHERE scope LIKE '/azure/%'),
                    max(closed_at) FILTER (WHERE scope LIKE '/aws/%')
             FROM grants WHERE status = 'closed'",
        )
        .fetch_one(&mut *connection)
        .await?;
        if count >= i64::try_from(grants)? {
            let after = |at: Option<DateTime<Utc>>| at.map_or(0.0, |at| seconds(at - due));
            return Ok((after(azure), after(aws)));
        }
        ensure!(
            start.elapsed() < Duration::from_mins(5),
            "{count} of {grants} grants are closed after five minutes"
        );
        tokio::time::sleep(LOOKS).await;
    }
}

/// A client that reads and asks without a pause until `stop`: how often, how many answers were errors, how long they
/// took.
async fn keep_asking(rig: &Rig, stop: &AtomicBool) -> (usize, usize, Sample) {
    let (mut asked, mut failed, mut took) = (0_usize, 0, Sample::default());
    let list = GrantQuery {
        limit: Some(50),
        ..GrantQuery::default()
    };
    let request = a_request(&[&rig.world.fleet.db], 3600);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = if asked % 10 == 9 {
            rig.ada
                .create_access_request(None, &AccessRequestCreateQuery::default(), &request)
                .await
                .map(drop)
        } else {
            rig.olga.grants(&list).await.map(drop)
        };
        took.push(start.elapsed().as_secs_f64() * 1e3);
        asked += 1;
        failed += usize::from(answer.is_err());
        tokio::time::sleep(ASKS).await;
    }
    (asked, failed, took)
}
