//! How commands reach the server, what they print, and what they name.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

/// How to reach the server, and how to print.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    /// Address of the server
    #[arg(
        long,
        value_name = "URL",
        hide_env_values = true,
        env = "POSTERN_SERVER",
        help_heading = "Server"
    )]
    pub server: Option<String>,
    /// File that holds the token.
    #[arg(help = "File that holds the token; the token itself may be in POSTERN_TOKEN")]
    #[arg(
        long,
        value_name = "FILE",
        hide_env_values = true,
        env = "POSTERN_TOKEN_FILE",
        help_heading = "Server"
    )]
    pub token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Whether to wait, and for how long.
#[derive(Debug, Clone, Args)]
pub struct Waiting {
    /// Waits until it is so, as read back from the clouds
    #[arg(long)]
    pub wait: bool,
    /// The longest to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait", value_parser = super::duration::duration)]
    pub timeout: Duration,
}

/// How much to list.
#[derive(Debug, Clone, Args)]
pub struct Many {
    /// The most items to list
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Output")]
    pub limit: u32,
}

/// Shows one thing.
#[derive(Debug, Subcommand)]
pub enum GetCommand {
    /// Shows one
    Get(OneArgs),
}

/// Names one thing.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Which: its id, the beginning of its id, or its name where it has one; a grant also by its machine
    #[arg(value_name = "WHICH")]
    pub id: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}
