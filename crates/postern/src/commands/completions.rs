//! `postern completions`.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, CompletionsArgs},
    exit::Failure,
};

/// Prints the completions for a shell.
pub fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "postern", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
