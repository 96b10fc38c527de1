//! What can be said about deliveries: whom Postern told of what.

use clap::{Args, Subcommand};

use super::{Many, Remote};

/// `postern deliveries`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DeliveriesArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<DeliveriesCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: DeliveriesListArgs,
}

/// What `postern deliveries` lists.
#[derive(Debug, Args)]
pub struct DeliveriesListArgs {
    /// Only those that stand there: waiting, delivered or dead
    #[arg(long)]
    pub status: Option<String>,
    /// Only those to this subscriber, by the name that the configuration has
    #[arg(long, value_name = "NAME")]
    pub subscriber: Option<String>,
    /// Shows the last error of each whole
    #[arg(long)]
    pub wide: bool,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern deliveries` does.
#[derive(Debug, Subcommand)]
pub enum DeliveriesCommand {
    /// Tries once more what was given up
    Replay(ReplayArgs),
}

/// `postern deliveries replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Which, by their numbers
    #[arg(value_name = "DELIVERY", required_unless_present = "all")]
    pub ids: Vec<i64>,
    /// All that were given up, the oldest first
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Of those only the ones to this subscriber
    #[arg(long, value_name = "NAME", requires = "all")]
    pub subscriber: Option<String>,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}
