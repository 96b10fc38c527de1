//! What can be said about access reviews.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};

use super::{Many, Remote, assigning::instant, duration::duration};

/// `postern access-reviews`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AccessReviewsArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<AccessReviewsCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: AccessReviewsListArgs,
}

/// What `postern access-reviews` lists.
#[derive(Debug, Args)]
pub struct AccessReviewsListArgs {
    /// Only those that name you, or a group of yours, as a reviewer
    #[arg(long)]
    pub mine: bool,
    /// Only those that are open, completed or cancelled
    #[arg(long)]
    pub status: Option<String>,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern access-reviews` does.
#[derive(Debug, Subcommand)]
pub enum AccessReviewsCommand {
    /// Shows one with its items: the role assignments, their last use, what is recommended and what was decided
    #[command(visible_alias = "show")]
    Get(AccessReviewGetArgs),
    /// Starts one
    Create(AccessReviewCreateArgs),
    /// Keeps or removes the role assignment of an item
    Decide(AccessReviewDecideArgs),
    /// Ends one early: what is undecided stays, and no further round starts
    Cancel(AccessReviewCancelArgs),
}

/// `postern access-reviews get`.
#[derive(Debug, Args)]
pub struct AccessReviewGetArgs {
    /// Which: its name, for its latest round, its id, or the beginning of its id
    #[arg(value_name = "ACCESS REVIEW")]
    pub id: String,
    /// Only items that are open, kept, removed, `not_removed` or gone
    #[arg(long)]
    pub status: Option<String>,
    /// Only items whose role assignment is at or below this scope
    #[arg(long)]
    pub scope: Option<String>,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What to do with a role assignment, or with those that nobody decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// It stays
    Keep,
    /// It is removed
    Remove,
}

/// `postern access-reviews create`.
#[derive(Debug, Args)]
pub struct AccessReviewCreateArgs {
    /// A name for people
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Of the role assignments at this scope and below
    #[arg(long = "on", value_name = "SCOPE")]
    pub scope: String,
    /// Who decides: user:ISSUER/SUBJECT or group:ISSUER/GROUP; may be given several times
    #[arg(long = "reviewer", value_name = "PRINCIPAL", required = true)]
    pub reviewers: Vec<String>,
    /// How long the first round lasts, such as 14days
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, required_unless_present = "until")]
    pub lasts: Option<Duration>,
    /// Until when the first round lasts, as an RFC 3339 instant
    #[arg(long, value_name = "WHEN", value_parser = instant, conflicts_with = "lasts")]
    pub until: Option<DateTime<Utc>>,
    /// What becomes of what nobody decides
    #[arg(long, value_enum)]
    pub undecided: Verdict,
    /// Recommend to remove what was not used for so many days
    #[arg(long, value_name = "DAYS", default_value_t = postern_api::access_review::DEFAULT_UNUSED_AFTER_DAYS)]
    pub unused_after_days: u32,
    /// Start a round every so many days
    #[arg(long, value_name = "DAYS", requires = "round_days")]
    pub every_days: Option<u32>,
    /// How many days a later round lasts
    #[arg(long, value_name = "DAYS", requires = "every_days")]
    pub round_days: Option<u32>,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern access-reviews decide`.
#[derive(Debug, Args)]
pub struct AccessReviewDecideArgs {
    /// Which item
    #[arg(value_name = "ITEM")]
    pub id: String,
    /// What
    #[arg(value_enum)]
    pub decision: Verdict,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern access-reviews cancel`.
#[derive(Debug, Args)]
pub struct AccessReviewCancelArgs {
    /// Which: its name, for its latest round, its id, or the beginning of its id
    #[arg(value_name = "ACCESS REVIEW")]
    pub id: String,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}
