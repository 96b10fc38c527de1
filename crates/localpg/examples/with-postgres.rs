//! Runs a command with `DATABASE_URL` set to a private Postgres, and `PG_BIN` to its binaries.
//!
//! `cargo run -p postern-localpg --example with-postgres -- <command> [arguments]`

use std::process::{Command, ExitCode};

use postern_localpg::{LocalPostgres, Options};

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-postgres <command> [arguments]");
        return ExitCode::from(2);
    };
    let server = match LocalPostgres::start(Options {
        fsync: false,
        ..Options::default()
    }) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let status = Command::new(&program)
        .args(arguments)
        .env("DATABASE_URL", server.url())
        .env("PG_BIN", server.bin_dir())
        .status();
    server.stop();
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("`{}` could not be run: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}
