//! What can be said about machines, JIT policies and the audit log.

use std::{path::PathBuf, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};

use super::{GetCommand, Many, OneArgs, Remote};

/// `postern machines`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MachinesArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<GetCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: MachinesListArgs,
}

/// What `postern machines` lists.
#[derive(Debug, Args)]
pub struct MachinesListArgs {
    /// Only machines with this posture.
    #[arg(
        long,
        help = "Only machines with this posture: configured, recommended, healthy or not_applicable"
    )]
    pub posture: Option<String>,
    /// Only machines below this scope
    #[arg(long)]
    pub scope: Option<String>,
    /// Only machines with this tag: key=value, or key for any value
    #[arg(long)]
    pub tag: Option<String>,
    /// Only machines where somebody changed our rules, or what we keep closed, within a day or still
    #[arg(long)]
    pub drift: bool,
    /// Only machines of this cloud: azure or aws
    #[arg(long)]
    pub cloud: Option<String>,
    /// Only machines whose name or id contains this
    #[arg(long)]
    pub text: Option<String>,
    /// Shows the reason of each posture whole
    #[arg(long)]
    pub wide: bool,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern policies`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct PoliciesArgs {
    /// What to do; lists when absent.
    #[command(subcommand)]
    pub command: Option<PoliciesCommand>,
    /// What to list.
    #[command(flatten)]
    pub list: PoliciesListArgs,
}

/// What `postern policies` lists.
#[derive(Debug, Args)]
pub struct PoliciesListArgs {
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// What `postern policies` does.
#[derive(Debug, Subcommand)]
pub enum PoliciesCommand {
    /// Shows one
    Get(OneArgs),
    /// Makes one from a JSON file; its ports are locked down at once
    Create(PolicyFileArgs),
    /// Replaces one by what a JSON file says
    Update(PolicyUpdateArgs),
    /// Removes one: its grants end, and what its lockdown displaced is put back
    Delete(PolicyDeleteArgs),
}

/// A policy document.
#[derive(Debug, Args)]
pub struct PolicyFileArgs {
    /// The policy as JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Say which machines it would cover, which grants would end, who would gain or lose reach and what would be written,
    /// but change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// Which policy to remove.
#[derive(Debug, Args)]
pub struct PolicyDeleteArgs {
    /// Which: its name, its id, or the beginning of its id
    #[arg(value_name = "POLICY")]
    pub id: String,
    /// Say which machines it would release, which grants would end, who would gain or lose reach and what would be
    /// written, but change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// A policy and its new document.
#[derive(Debug, Args)]
pub struct PolicyUpdateArgs {
    /// Which: its name, its id, or the beginning of its id
    #[arg(value_name = "POLICY")]
    pub id: String,
    /// The document.
    #[command(flatten)]
    pub document: PolicyFileArgs,
}

/// `postern audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only events since then: 1h, 2d, or an RFC 3339 instant
    #[arg(long, value_name = "WHEN")]
    pub since: Option<When>,
    /// Only events before then
    #[arg(long, value_name = "WHEN")]
    pub until: Option<When>,
    /// Only actions that begin with this, such as grant.
    #[arg(long)]
    pub action: Option<String>,
    /// Only this outcome: intended, succeeded, failed, unknown or denied
    #[arg(long)]
    pub outcome: Option<String>,
    /// Only events of this principal, such as user:corp/ada
    #[arg(long)]
    pub actor: Option<String>,
    /// Only events at or below this scope
    #[arg(long)]
    pub scope: Option<String>,
    /// Only events about this machine
    #[arg(long)]
    pub machine: Option<String>,
    /// Only events about this grant: its id or the beginning of it, or the machine that has no other now
    #[arg(long)]
    pub grant: Option<String>,
    /// Only events about this access request: its id or the beginning of it
    #[arg(long)]
    pub request: Option<String>,
    /// Only events about this JIT policy: its name, or its id, also of one that was removed
    #[arg(long)]
    pub policy: Option<String>,
    /// Shows the reason of each event whole
    #[arg(long)]
    pub wide: bool,
    /// How much.
    #[command(flatten)]
    pub many: Many,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// A point in time: so long ago, or an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(DateTime<Utc>),
}

impl When {
    /// The instant that is meant; nothing where it was before all time.
    pub fn instant(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::At(at) => Some(at),
            Self::Ago(ago) => now.checked_sub_signed(TimeDelta::from_std(ago).ok()?),
        }
    }
}

impl std::str::FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        DateTime::parse_from_rfc3339(text)
            .map(|at| Self::At(at.to_utc()))
            .map_err(|_| "expected a duration such as `1h` or an RFC 3339 instant".to_owned())
    }
}
