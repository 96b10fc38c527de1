//! The parts of the measurements, in order, each in a world of its own so that none sees another's leftovers.

pub(crate) mod calls;
pub(crate) mod creating;
pub(crate) mod discovery;
pub(crate) mod lag;
pub(crate) mod latency;
pub(crate) mod mass;
pub(crate) mod reading;
pub(crate) mod rest;
pub(crate) mod startup;
pub(crate) mod storm;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cli::{BenchArgs, Part},
    host::Host,
    report::Report,
    rig::Rig,
};

/// Measures what is asked for.
pub(crate) async fn all(args: &BenchArgs) -> anyhow::Result<Report> {
    let mut report = Report::new(Host::describe());
    if args.wants(Part::Latency) || args.wants(Part::Calls) {
        let bench = latency::Bench::start().await?;
        report.database = Some(bench.database().await?);
        if args.wants(Part::Calls) {
            report.calls = calls::measure(bench.rig()).await?;
        }
        if args.wants(Part::Latency) {
            report.latency = Some(bench.measure(args.runs).await?);
        }
        if let Some(path) = &args.server_log {
            bench.rig().keep_log(path)?;
        }
    }
    if args.wants(Part::Lag) {
        report.lag = lag::measure().await?;
    }
    if args.wants(Part::Mass) {
        report.mass = Some(mass::measure().await?);
    }
    if args.wants(Part::Startup) {
        report.startup = Some(startup::measure().await?);
    }
    if args.wants(Part::Load) {
        let (mut rig, machine) = Rig::start(async |fleet| Ok(fleet.web.clone())).await?;
        creating::guard(&rig, &machine).await?;
        report.creating = Some(creating::measure(&mut rig, &machine).await?);
        report.reading = Some(
            reading::measure(&rig, &machine)
                .await
                .with_context(|| format!("the end of the server's log:\n{}", rig.server.log_tail()))?,
        );
    }
    if args.wants(Part::Discovery) {
        report.discovery = Some(discovery::measure().await?);
    }
    if args.wants(Part::Storm) {
        report.storm = Some(storm::measure().await?);
    }
    if args.wants(Part::Rest) {
        report.rest = Some(rest::measure().await?);
    }
    Ok(report)
}

/// A progress bar on a terminal; nothing elsewhere.
pub(crate) fn progress(what: &'static str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{msg:32} {bar:40} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
