//! Five hundred grants on one NSG that end at the same instant.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use postern::demo::fleet::{Fleet, SUBSCRIPTION};
use postern_api::access_request::AccessRequestCreateQuery;
use postern_sim::arm;
use postern_tests::world::a_request;
use serde::Serialize;
use serde_json::json;

use crate::{
    measure::progress,
    rig::{self, Rig},
    truth::milliseconds,
};

/// How many.
pub(crate) const GRANTS: u32 = 500;
/// Requests that are under way at the same time.
const AT_ONCE: usize = 8;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Mass {
    /// How many grants.
    pub(crate) grants: u32,
    /// Milliseconds from the first request to the last grant open.
    pub(crate) opened_within: f64,
    /// ARM writes for the openings.
    pub(crate) open_writes: u64,
    /// ARM writes from the ending on.
    pub(crate) writes: u64,
    /// ARM calls of every kind from the ending on.
    pub(crate) calls: u64,
    /// Milliseconds from sending what ends them to its answer.
    pub(crate) answered_within: f64,
    /// Milliseconds to the instant that the last grant names as confirmed.
    pub(crate) last_confirmed: f64,
    /// The server's resident memory afterwards, in bytes.
    pub(crate) memory_after: u64,
}

/// Measures.
pub(crate) async fn measure() -> anyhow::Result<Mass> {
    let (rig, machine) = Rig::start(async |fleet| build(fleet)).await?;
    rig.discovered(&[&machine]).await?;
    let scope = format!("/azure/{SUBSCRIPTION}/shop/mass");
    let policy = rig.lock(&scope).await?;
    rig.shut(&[&machine]).await?;

    let bar = progress("five hundred grants", u64::from(GRANTS));
    rig.world.fleet.arm.calls().reset();
    let start = Instant::now();
    // 203.0.112.1 to 203.0.113.244: no two grants share a rule.
    stream::iter(1..=GRANTS)
        .map(|number| {
            let mut request = a_request(&[&machine], 3600);
            for target in &mut request.targets {
                target.sources = Some(vec![format!("203.0.{}.{}/32", 112 + number / 256, number % 256)]);
            }
            let (ada, bar) = (&rig.ada, &bar);
            async move {
                ada.create_access_request(None, &AccessRequestCreateQuery::default(), &request)
                    .await?;
                bar.inc(1);
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    rig.until("every grant is open", async || {
        Ok((!rig.any_grant("opening").await?).then_some(()))
    })
    .await?;
    let opened_within = start.elapsed().as_secs_f64() * 1e3;
    let ended = rig.grants("closing,closed").await?;
    let open = rig.grants("open").await?.len();
    anyhow::ensure!(
        open == GRANTS as usize,
        "{open} of {GRANTS} grants are open, {} ended, such as {:?}",
        ended.len(),
        ended.first()
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (open_writes, _) = written(&rig);

    rig.world.fleet.arm.calls().reset();
    let (sent, start) = (rig::now(), Instant::now());
    rig.olga.delete_jit_policy(&policy.id, policy.version).await?;
    let answered_within = start.elapsed().as_secs_f64() * 1e3;
    rig.until("every grant is closed", async || {
        Ok((!rig.any_grant("open,closing").await?).then_some(()))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (writes, calls) = written(&rig);
    bar.finish_and_clear();
    let closed = rig.grants("closed").await?;
    anyhow::ensure!(closed.len() == GRANTS as usize, "not every grant was closed");
    let last = closed
        .iter()
        .filter_map(|grant| grant.closed_at)
        .max()
        .context("grants were closed")?;
    Ok(Mass {
        grants: GRANTS,
        opened_within,
        open_writes,
        writes,
        calls,
        answered_within,
        last_confirmed: milliseconds(sent, last),
        memory_after: rig.memory()?,
    })
}

/// A machine whose NSG has room for them: the lockdown's deny goes above the rule at 1000, the grants' allows above
/// the deny.
fn build(fleet: &Fleet) -> anyhow::Result<String> {
    let azure = fleet.arm.fleet().in_group("shop");
    let network = azure.network("mass", "10.70.0.0/16")?;
    let subnet = azure.subnet(&network, "only", "10.70.1.0/24", None)?;
    let office = arm::inbound("office", 1000, "Allow", "198.51.100.0/24", "22");
    Ok(azure.machine("mass", &subnet, &[office], &json!({}))?.machine)
}

/// ARM writes and ARM calls of every kind since the last reset.
fn written(rig: &Rig) -> (u64, u64) {
    let calls = rig.world.fleet.arm.calls();
    let is_write = |operation: &str| operation.ends_with(".CreateOrUpdate") || operation.ends_with(".Delete");
    let writes = calls
        .all()
        .into_iter()
        .filter(|(operation, _)| is_write(operation))
        .map(|(_, count)| count)
        .sum();
    (writes, calls.total())
}
