//! Cloud calls for one opening and one closing, by operation, from the simulators' counters.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{measure::progress, rig::Rig};

/// How often each is counted.
const REPEATS: u32 = 5;
/// After that nothing more comes of an opening or a closing.
const QUIET: Duration = Duration::from_millis(400);

/// The calls of one direction for one kind of machine.
#[derive(Debug, Serialize)]
pub(crate) struct Calls {
    /// The kind of machine, for people.
    pub(crate) machine: &'static str,
    /// `open` or `close`.
    pub(crate) what: &'static str,
    /// What was counted each time; one entry where all repeats agree.
    pub(crate) counted: Vec<Counted>,
}

/// Calls by operation, and how often exactly these were counted.
#[derive(Debug, Serialize)]
pub(crate) struct Counted {
    pub(crate) times: u32,
    pub(crate) total: u64,
    pub(crate) by_operation: BTreeMap<String, u64>,
}

/// Counts.
pub(crate) async fn measure(rig: &Rig) -> anyhow::Result<Vec<Calls>> {
    let fleet = &rig.world.fleet;
    let machines = [
        ("Azure, one NSG", &fleet.db),
        ("Azure, NSGs at NIC and subnet", &fleet.web),
        ("EC2, one interface", &fleet.app),
    ];
    let bar = progress("cloud calls", u64::from(REPEATS) * 3);
    let mut all = Vec::new();
    for (name, machine) in machines {
        // Tokens are fetched, and what is remembered of the network is learnt.
        let first = rig.open(machine).await?;
        rig.close(&first.grant.id).await?;
        let (mut open, mut close) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..REPEATS {
            tokio::time::sleep(QUIET).await;
            reset(rig);
            let opened = rig.open(machine).await?;
            *open.entry(counted(rig).await).or_insert(0) += 1;
            reset(rig);
            rig.close(&opened.grant.id).await?;
            *close.entry(counted(rig).await).or_insert(0) += 1;
            bar.inc(1);
        }
        all.push(Calls {
            machine: name,
            what: "open",
            counted: told(open),
        });
        all.push(Calls {
            machine: name,
            what: "close",
            counted: told(close),
        });
    }
    bar.finish_and_clear();
    Ok(all)
}

fn reset(rig: &Rig) {
    rig.world.fleet.arm.calls().reset();
    rig.world.fleet.ec2.calls().reset();
}

async fn counted(rig: &Rig) -> BTreeMap<String, u64> {
    tokio::time::sleep(QUIET).await;
    let mut calls = rig.world.fleet.arm.calls().all();
    calls.extend(rig.world.fleet.ec2.calls().all());
    calls
}

fn told(counts: BTreeMap<BTreeMap<String, u64>, u32>) -> Vec<Counted> {
    let mut counted: Vec<_> = counts
        .into_iter()
        .map(|(by_operation, times)| Counted {
            times,
            total: by_operation.values().sum(),
            by_operation,
        })
        .collect();
    counted.sort_by_key(|counted| std::cmp::Reverse(counted.times));
    counted
}
