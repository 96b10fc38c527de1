//! The `postern` binary.

use std::process::ExitCode;

use clap::Parser as _;
use postern::cli::Cli;

fn main() -> ExitCode {
    postern::main(Cli::parse())
}
