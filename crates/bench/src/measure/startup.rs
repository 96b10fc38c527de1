//! From the start of the process to the first answer that says ready, with the database in place.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::{
    measure::progress,
    rig::Rig,
    sample::{Sample, Summary},
};

/// How often.
const STARTS: u32 = 15;
/// Between two questions whether it is ready.
const LOOK: Duration = Duration::from_millis(2);

/// Measures, in milliseconds.
pub(crate) async fn measure() -> anyhow::Result<Summary> {
    let (mut rig, ()) = Rig::start(async |_| Ok(())).await?;
    rig.guard(&rig.world.machines()).await?;
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(1))
        .build()?;
    let url = format!("{}/readyz", rig.world.server_url);
    let bar = progress("start-up", u64::from(STARTS));
    let mut sample = Sample::default();
    for _ in 0..STARTS {
        // What the server does after a start is over by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        rig.server.kill();
        let start = Instant::now();
        rig.respawn();
        while !http
            .get(&url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "the server is not ready:\n{}",
                rig.server.log_tail()
            );
            tokio::time::sleep(LOOK).await;
        }
        sample.push(start.elapsed().as_secs_f64() * 1e3);
        bar.inc(1);
    }
    bar.finish_and_clear();
    sample.summary().context("there were starts")
}
