//! The `postern` binary.

use std::process::ExitCode;

use clap::Parser as _;
use postern::cli::Cli;

/// Cedar, JSON and SQL rows are many small allocations: the system's allocator took a third of the server's time, this one
/// takes less. `docs/decisions/0020-allocator.md` says how much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    postern::main(Cli::parse())
}
