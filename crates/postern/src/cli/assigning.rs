//! What can be said about roles and role assignments.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use postern_core::role::Action;

use super::{Many, Remote};

/// `postern assignments`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AssignmentsArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<AssignmentsCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: AssignmentsListArgs,
}

/// What `postern assignments` lists.
#[derive(Debug, Args)]
pub struct AssignmentsListArgs {
    /// Only those of this principal, such as user:corp/ada
    #[arg(long)]
    pub principal: Option<String>,
    /// Only those of this role
    #[arg(long)]
    pub role: Option<String>,
    /// Only those at or below this scope
    #[arg(long)]
    pub scope: Option<String>,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern assignments` does.
#[derive(Debug, Subcommand)]
pub enum AssignmentsCommand {
    /// Gives somebody a role at a scope and below
    Create(AssignArgs),
    /// Takes one away
    Delete(UnassignArgs),
}

/// `postern assignments create`.
#[derive(Debug, Args)]
pub struct AssignArgs {
    /// The role
    #[arg(value_name = "ROLE")]
    pub role: String,
    /// Whom: user:ISSUER/SUBJECT, group:ISSUER/GROUP or workload:ISSUER/SUBJECT
    #[arg(value_name = "PRINCIPAL")]
    pub principal: String,
    /// Where
    #[arg(long = "on", value_name = "SCOPE")]
    pub scope: String,
    /// Only for machines with this tag, key=value; several: with all of them
    #[arg(long = "tag", value_name = "TAG", value_parser = tag)]
    pub tags: Vec<(String, String)>,
    /// When it ends by itself, as an RFC 3339 instant
    #[arg(long, value_name = "WHEN", value_parser = instant)]
    pub until: Option<DateTime<Utc>>,
    /// Say who would gain what, but change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern assignments delete`.
#[derive(Debug, Args)]
pub struct UnassignArgs {
    /// Which: its id, the beginning of its id, or whom it names where they have no other
    #[arg(value_name = "ASSIGNMENT")]
    pub id: String,
    /// Say who would lose what, but change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern roles`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RolesArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<RolesCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: RolesListArgs,
}

/// What `postern roles` lists: all of them.
#[derive(Debug, Args)]
pub struct RolesListArgs {
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern roles` does.
#[derive(Debug, Subcommand)]
pub enum RolesCommand {
    /// Makes a custom role
    Create(RoleCreateArgs),
    /// Removes a custom role that nobody has
    Delete(RoleDeleteArgs),
}

/// `postern roles create`.
#[derive(Debug, Args)]
pub struct RoleCreateArgs {
    /// What it is called: lower-case letters, digits and hyphens
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it allows.
    #[arg(
        long = "action",
        required = true,
        value_parser = super::deciding::action,
        help = super::deciding::ACTIONS
    )]
    pub actions: Vec<Action>,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern roles delete`.
#[derive(Debug, Args)]
pub struct RoleDeleteArgs {
    /// Which
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected key=value, with a key".to_owned())
}

pub(super) fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|_| "expected an RFC 3339 instant, such as 2026-12-31T18:00:00Z".to_owned())
}
