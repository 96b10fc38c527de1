//! Runs the fault campaign; told to `serve`, it is the server that the campaign torments.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use postern_campaign::{
    additions::{Shape, With},
    report::{self, Report, line},
    run::{Verdict, run},
    server, template,
};

/// Torments whole installations of Postern with what a seed says, and judges them by the clouds' truth logs.
///
/// Exit code 0: no invariant was broken; 1: one was; 2: the campaign itself could not be run.
#[derive(Debug, Parser)]
#[command(name = "postern-campaign")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make runs; run k has the seed N + k.
    Campaign(CampaignArgs),
    /// Be a server under test.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct CampaignArgs {
    /// The first run's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many runs.
    #[arg(long, default_value_t = 20)]
    runs: u64,
    /// Runs of exactly these seeds, instead.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["seed", "runs"])]
    seeds: Vec<u64>,
    /// Only these shapes, and in every run; otherwise each seed says which it has.
    #[arg(long, value_delimiter = ',', conflicts_with = "plain")]
    with: Vec<Shape>,
    /// No shapes beside what seeds drew before there were any: a seed that was kept then means the same.
    #[arg(long)]
    plain: bool,
    /// No shapes but the first four: a seed that was kept when there were no more means the same.
    #[arg(long, conflicts_with_all = ["plain", "with"])]
    first_shapes: bool,
    /// How many at the same time; most of a run is waiting.
    #[arg(long, default_value_t = 6)]
    parallel: usize,
    /// Print JSON only: one line a run, the totals last.
    #[arg(long)]
    json: bool,
    /// Where the runs' files go; those of a run that found something stay there. A memory file system is quickest.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Keep every run's files.
    #[arg(long)]
    keep: bool,
    /// Break the servers on purpose, to see that it is noticed.
    #[arg(long, hide = true)]
    sabotage: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")
        .and_then(|runtime| {
            runtime.block_on(async {
                match cli.command {
                    Command::Serve { config } => server::serve(&config).await.map(|()| true),
                    Command::Campaign(args) => campaign(args).await,
                }
            })
        });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Makes the runs; whether all were sound.
async fn campaign(args: CampaignArgs) -> anyhow::Result<bool> {
    let scratch = scratch(args.scratch.clone())?;
    let home = scratch.join("template");
    template::make(&home).await?;
    let seeds: Vec<u64> = if args.seeds.is_empty() {
        (0..args.runs)
            .map(|number| args.seed.saturating_add(number))
            .collect()
    } else {
        args.seeds.clone()
    };
    let bar = if args.json || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(u64::try_from(seeds.len()).unwrap_or_default())
    };
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} runs, {eta} left, {msg}",
    )?);
    let with = match (args.plain, args.with.as_slice()) {
        (true, _) => With::Nothing,
        (false, []) if args.first_shapes => With::First,
        (false, []) => With::Drawn,
        (false, shapes) => With::These(shapes.iter().copied().collect()),
    };
    let mut report = Report {
        seed: seeds.first().copied().unwrap_or_default(),
        ..Report::default()
    };
    let mut verdicts = futures::stream::iter(seeds)
        .map(|seed| {
            let (home, scratch) = (home.clone(), scratch.clone());
            let (keep, sabotage, with) = (args.keep, args.sabotage.clone(), with.clone());
            // A task of its own: a run that panics is a finding, and must not end the campaign.
            let task = tokio::spawn(async move { run(seed, &with, &home, &scratch, keep, sabotage).await });
            async move { (seed, task.await) }
        })
        .buffer_unordered(args.parallel.max(1));
    while let Some((seed, verdict)) = verdicts.next().await {
        let verdict = verdict.unwrap_or_else(|error| Verdict::broke_off(seed, &error.to_string()));
        report.add(&verdict);
        bar.inc(1);
        bar.set_message(format!("{} broken", report.runs - report.sound));
        let text = if args.json {
            serde_json::to_string(&verdict)?
        } else {
            say(&verdict, &scratch)
        };
        bar.suspend(|| writeln!(std::io::stdout(), "{text}"))?;
    }
    bar.finish_and_clear();
    std::fs::remove_dir_all(&home)?;
    if report.seeds.is_empty() && !args.keep {
        std::fs::remove_dir_all(&scratch)?;
    }
    if !args.json {
        writeln!(std::io::stdout(), "{}", report::shapes(&report))?;
    }
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(report.seeds.is_empty())
}

fn say(verdict: &Verdict, scratch: &std::path::Path) -> String {
    let mut lines = vec![line(verdict)];
    for violation in &verdict.violations {
        let what: String = violation.what.chars().take(900).collect();
        lines.push(format!("  invariant {}: {what}", violation.invariant));
    }
    if !verdict.violations.is_empty() {
        let directory = postern_campaign::play::directory(scratch, verdict.seed);
        let directory = directory.display();
        lines.push(format!(
            "  script, history, evidence and server logs: {directory}"
        ));
    }
    lines.join("\n")
}

/// The directory for the runs' files, which Postgres' own user must be able to enter.
fn scratch(wanted: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;

    let path = match wanted {
        Some(path) => {
            std::fs::create_dir_all(&path)?;
            path
        }
        None => tempfile::Builder::new()
            .prefix("postern-campaign-")
            .tempdir()?
            .keep(),
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
