//! What can be said in an emergency.

use clap::{Args, Subcommand};

use super::{Many, Remote};

/// `postern freeze`.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// Where: / is everywhere, /aws one cloud, /aws/123456789012 one account
    #[arg(value_name = "SCOPE")]
    pub scope: String,
    /// Why; whoever is refused is told
    #[arg(long)]
    pub reason: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern freezes`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct FreezesArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<FreezesCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: FreezesListArgs,
}

/// What `postern freezes` lists.
#[derive(Debug, Args)]
pub struct FreezesListArgs {
    /// Only those that are not lifted
    #[arg(long)]
    pub in_force: bool,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern freezes` does.
#[derive(Debug, Subcommand)]
pub enum FreezesCommand {
    /// Lifts one; what it closed stays closed until somebody asks again
    Lift(FreezeLiftArgs),
}

/// `postern freezes lift`.
#[derive(Debug, Args)]
pub struct FreezeLiftArgs {
    /// Which: its id, the beginning of its id, or the scope at which it is
    #[arg(value_name = "FREEZE")]
    pub id: String,
    /// Why it may be
    #[arg(long)]
    pub reason: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern reviews`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ReviewsArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<ReviewsCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: ReviewsListArgs,
}

/// What `postern reviews` lists.
#[derive(Debug, Args)]
pub struct ReviewsListArgs {
    /// Only those that wait for somebody
    #[arg(long)]
    pub open: bool,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern reviews` does.
#[derive(Debug, Subcommand)]
pub enum ReviewsCommand {
    /// Closes one of somebody else's
    Close(ReviewCloseArgs),
}

/// `postern reviews close`.
#[derive(Debug, Args)]
pub struct ReviewCloseArgs {
    /// Which: its id, the beginning of its id, or the access request that it is about
    #[arg(value_name = "REVIEW")]
    pub id: String,
    /// What was found
    #[arg(long)]
    pub note: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}
