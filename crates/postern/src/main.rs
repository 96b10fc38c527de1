//! The `postern` binary.

use std::process::ExitCode;

use clap::Parser as _;
use postern::{
    cli::Cli,
    exit::{Exit, Failure},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("the runtime cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(postern::run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when standard error is closed.
            let _closed = postern::output::note(&format!("error: {failure}"));
            ExitCode::from(failure.exit() as u8)
        }
    }
}
