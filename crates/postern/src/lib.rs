//! Postern's binary as a library: configuration, command line, demo, and how the crates are put together.

pub mod cli;
pub mod commands;
pub mod config;
pub mod connect;
pub mod demo;
pub mod doctor;
pub mod enforcers;
pub mod exit;
pub mod guardrails;
pub mod identity;
pub mod lease;
pub mod logging;
pub mod output;
pub mod permissions;
pub mod service;
pub mod sweep;

use std::process::ExitCode;

use cli::{Cli, Command};
use exit::{Exit, Failure};

/// Does what the command line says, tells what went wrong, and gives the exit code: the whole of the binary.
pub fn main(cli: Cli) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("the runtime cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(code) => code,
        // Whoever read the output has read enough: `postern audit | head`.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when standard error is closed.
            let _closed = output::note(&format!("error: {failure}"));
            ExitCode::from(failure.exit() as u8)
        }
    }
}

/// Does what the command line says; gives the exit code where it is not a failure's.
pub async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        // These end as what they run does.
        Command::Lease(args) => return Ok(commands::lease::run(args).await),
        Command::Ssh(args) => return Ok(commands::ssh::run(args).await),
        Command::Connect(args) => return Ok(commands::ssh::connect(args).await),
        Command::SshConfig(args) => commands::ssh::config(args).await,
        Command::Serve(args) => commands::serve::run(args).await,
        // On the heap: it is by far the largest of these.
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Migrate(args) => commands::migrate::run(args).await,
        Command::Request(args) => commands::request::run(args).await,
        Command::Requests(args) => commands::requests::run(args).await,
        Command::Approve(args) => commands::requests::approve(args).await,
        Command::Deny(args) => commands::requests::deny(args).await,
        Command::Withdraw(args) => commands::requests::withdraw(args).await,
        Command::Grants(args) => commands::grants::run(args).await,
        Command::Extend(args) => commands::grants::extend(args).await,
        Command::Revoke(args) => commands::grants::revoke(args).await,
        Command::Freeze(args) => commands::freezes::freeze(args).await,
        Command::Freezes(args) => commands::freezes::run(args).await,
        Command::AccessReviews(args) => commands::access_reviews::run(args).await,
        Command::Reviews(args) => commands::reviews::run(args).await,
        Command::Machines(args) => commands::machines::run(args).await,
        Command::Policies(args) => commands::policies::run(args).await,
        Command::Authz(args) => commands::authz::run(args).await,
        Command::Roles(args) => commands::roles::run(args).await,
        Command::Assignments(args) => commands::assignments::run(args).await,
        Command::Audit(args) => commands::audit::run(args).await,
        Command::Deliveries(args) => commands::deliveries::run(args).await,
        Command::Token(args) => commands::token::run(args).await,
        Command::Sweep(args) => commands::sweep::run(args).await,
        Command::Permissions(args) => commands::permissions::run(args),
        Command::Doctor(args) => commands::doctor::run(args).await,
        Command::Health(args) => commands::health::run(args).await,
        Command::Openapi => Ok(output::json(&postern_server::openapi())?),
        Command::Config(args) => commands::config::run(args),
        Command::Completions(args) => commands::completions::run(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}
