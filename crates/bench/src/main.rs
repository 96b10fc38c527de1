//! Measures a running Postern against the simulators. Not a test: nothing here asserts on how long things take.
//!
//! The server under test is a process of its own: this binary, told to `serve`, which is Postern's own command
//! line in a release build without failpoints.

mod bare;
mod cli;
mod database;
mod host;
mod markdown;
mod measure;
mod pgbench;
mod recording;
mod report;
mod rig;
mod sample;
mod truth;
mod wide;

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use cli::{BenchArgs, Cli, Command};

/// The server under test allocates with what Postern's own binary allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "serve")
    {
        return postern::main(postern::cli::Cli::parse());
    }
    let Command::Bench(args) = Cli::parse().command;
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")
        .and_then(|runtime| runtime.block_on(bench(&args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let markers = args
        .markdown
        .as_ref()
        .map(|path| anyhow::Ok((path, args.markers()?)))
        .transpose()?;
    let report = measure::all(args).await?;
    writeln!(std::io::stdout(), "{}", report.text()).context("the table cannot be printed")?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if let Some((path, markers)) = markers {
        markdown::write(path, markers, &report)?;
    }
    Ok(())
}
