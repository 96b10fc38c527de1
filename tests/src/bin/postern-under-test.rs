//! The `postern` binary as it is, except that it can be told to die at a named point of a pass:
//! `POSTERN_CRASH_AT=after-intent=1` kills it the first time it passes there.

use std::process::ExitCode;

use clap::Parser as _;
use postern::cli::Cli;

fn main() -> ExitCode {
    postern_tests::crash::arm();
    postern::main(Cli::parse())
}
