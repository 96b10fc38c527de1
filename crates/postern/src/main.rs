//! The `postern` binary.

use std::process::ExitCode;

use clap::Parser as _;
use postern::cli::Cli;

/// Cedar, JSON and SQL rows are many small allocations; `docs/decisions/0020-allocator.md` says what this one spares.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postern::main(Cli::parse())
}
