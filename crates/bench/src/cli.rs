//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures Postern against the simulators.
#[derive(Debug, Parser)]
#[command(name = "postern-bench")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures, and prints a table.
    ///
    /// `postern-bench serve` is not listed: it is Postern's own `serve`, which the harness starts as the server
    /// under test.
    Bench(BenchArgs),
}

/// What to measure, how often, and where to write it.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Openings and closings per cloud in the latency part.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) runs: u32,
    /// Measure only this part; may be given more than once.
    #[arg(long, value_enum)]
    pub(crate) only: Vec<Part>,
    /// Write every figure as JSON to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Keep the log that the server wrote during the latency part in this file. `POSTERN__LOGGING__FILTER` says what
    /// it logs.
    #[arg(long)]
    pub(crate) server_log: Option<PathBuf>,
    /// Replace what is between two markers in this Markdown file: `figures` for all parts that are measured by default,
    /// `discovery`, `storm` or `rest` for one of the large ones by itself.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
}

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Request to open, revoke to closed, beside the bare sequence of cloud calls.
    Latency,
    /// Cloud calls per opening and closing.
    Calls,
    /// How long after its due instant a grant is closed.
    Lag,
    /// Five hundred grants that end at once on one NSG.
    Mass,
    /// Start-up to ready.
    Startup,
    /// Requests created a second, beside pgbench with the same SQL; then reads over a million audit events.
    Load,
    /// Ten thousand machines discovered: new, unchanged, a few changed. Only when named.
    Discovery,
    /// Ten thousand grants that end in the same second, on clouds that keep their request limits. Only when named.
    Storm,
    /// A hundred thousand open grants at rest: a quarter of an hour. Only when named.
    Rest,
}

impl BenchArgs {
    /// Between which markers of a page the figures belong.
    pub(crate) fn markers(&self) -> anyhow::Result<&'static str> {
        match self.only.as_slice() {
            [] => Ok("figures"),
            [Part::Discovery] => Ok("discovery"),
            [Part::Storm] => Ok("storm"),
            [Part::Rest] => Ok("rest"),
            _ => anyhow::bail!(
                "a page takes all the parts that are measured by default, or one of the large ones by itself"
            ),
        }
    }

    pub(crate) fn wants(&self, part: Part) -> bool {
        // The large ones take longer than all others together.
        let large = matches!(part, Part::Discovery | Part::Storm | Part::Rest);
        (self.only.is_empty() && !large) || self.only.contains(&part)
    }
}
