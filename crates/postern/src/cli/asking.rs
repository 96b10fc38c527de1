//! What can be said about access requests and grants.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{GetCommand, Many, OneArgs, Remote, Waiting};

/// `postern request`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// Machines to reach
    #[arg(required = true, value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Port or range, such as 22, 22/tcp or 5000-5010/udp
    #[arg(long = "port", required = true, value_name = "PORT")]
    pub ports: Vec<String>,
    /// Address or CIDR block that the packets come from; your own address, as the server sees it, when absent
    #[arg(long = "source", value_name = "CIDR")]
    pub sources: Vec<String>,
    /// How long, from the confirmed opening
    #[arg(long = "for", required = true, value_name = "DURATION", value_parser = super::duration::duration)]
    pub duration: Duration,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// The ticket that it is for
    #[arg(long)]
    pub ticket: Option<String>,
    /// When to begin, such as 2026-03-01T22:00:00Z; it is decided again then
    #[arg(long = "at", value_name = "TIME", conflicts_with_all = ["wait", "break_glass"])]
    pub starts_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Open what can be opened; without it, where one machine cannot be opened the others are closed again
    #[arg(long)]
    pub best_effort: bool,
    /// Decide and answer, but change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// In an emergency: open at once, without approval; everybody is told, and somebody else looks at it afterwards
    #[arg(long, conflicts_with = "dry_run")]
    pub break_glass: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern requests`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RequestsArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<GetCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: RequestsListArgs,
}

/// What `postern requests` lists.
#[derive(Debug, Args)]
pub struct RequestsListArgs {
    /// Only requests that stand there: pending, approved, denied, withdrawn or lapsed
    #[arg(long)]
    pub status: Option<String>,
    /// Only your own
    #[arg(long)]
    pub mine: bool,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The access request: its id or the beginning of it
    #[arg(value_name = "REQUEST")]
    pub id: String,
    /// For a shorter time than asked for
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration::duration)]
    pub duration: Option<Duration>,
    /// Only these of the machines
    #[arg(long = "machine", value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Only these ports, on each of the machines
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<String>,
    /// Only from these sources
    #[arg(long = "source", value_name = "CIDR")]
    pub sources: Vec<String>,
    /// What to say to it
    #[arg(long)]
    pub comment: Option<String>,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern withdraw`.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The access request: its id or the beginning of it
    #[arg(value_name = "REQUEST")]
    pub id: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern deny`.
#[derive(Debug, Args)]
pub struct DenyArgs {
    /// The access request: its id or the beginning of it
    #[arg(value_name = "REQUEST")]
    pub id: String,
    /// What the requester is told
    #[arg(long)]
    pub reason: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern grants`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct GrantsArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<GrantsCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: GrantsListArgs,
}

/// What `postern grants` does.
#[derive(Debug, Subcommand)]
pub enum GrantsCommand {
    /// Lists grants
    List(GrantsListArgs),
    /// Shows one, with the truth of each hop
    Get(OneArgs),
}

/// What `postern grants` lists.
#[derive(Debug, Args)]
pub struct GrantsListArgs {
    /// Only grants that stand there: scheduled, opening, open, closing or closed; several with commas
    #[arg(long)]
    pub status: Option<String>,
    /// Only your own
    #[arg(long)]
    pub mine: bool,
    /// Only grants on this machine
    #[arg(long)]
    pub machine: Option<String>,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern extend`.
#[derive(Debug, Args)]
pub struct ExtendArgs {
    /// The grant: its id or the beginning of it, or its machine where it has no other
    #[arg(value_name = "GRANT")]
    pub id: String,
    /// How long it shall last in all, from its confirmed opening
    #[arg(long = "for", required = true, value_name = "DURATION", value_parser = super::duration::duration)]
    pub duration: Duration,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The grant: its id or the beginning of it, or its machine where it has no other
    #[arg(value_name = "GRANT")]
    pub id: String,
    /// Why, if there is more to say
    #[arg(long)]
    pub reason: Option<String>,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}
