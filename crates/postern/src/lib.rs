//! Postern's binary as a library: configuration, command line, demo, and how the crates are put together.

pub mod cli;
pub mod commands;
pub mod config;
pub mod connect;
pub mod demo;
pub mod enforcers;
pub mod exit;
pub mod logging;
pub mod output;
pub mod service;

use cli::{Cli, Command};
use exit::Failure;

/// Does what the command line says.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(args) => commands::serve::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Migrate(args) => commands::migrate::run(args).await,
        Command::Request(args) => commands::request::run(args).await,
        Command::Requests(args) => commands::requests::run(args).await,
        Command::Approve(args) => commands::requests::approve(args).await,
        Command::Deny(args) => commands::requests::deny(args).await,
        Command::Withdraw(args) => commands::requests::withdraw(args).await,
        Command::Grants(args) => commands::grants::run(args).await,
        Command::Revoke(args) => commands::grants::revoke(args).await,
        Command::Machines(args) => commands::machines::run(args).await,
        Command::Policies(args) => commands::policies::run(args).await,
        Command::Audit(args) => commands::audit::run(args).await,
        Command::Token(args) => commands::token::run(args).await,
        Command::Sweep(args) => commands::sweep::run(args).await,
        Command::Health(args) => commands::health::run(args).await,
        Command::Config(args) => commands::config::run(args),
    }
}
