//! What can be said about access decisions: testing guardrails, and explaining.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use postern_core::{
    net::{Ports, Source},
    role::Action,
};

use super::{Remote, assigning::tag};

/// Examples of `postern authz`.
pub const AUTHZ_EXAMPLES: &str = "\
Examples:
  postern authz test cases.toml --guardrails /etc/postern/guardrails --networks /etc/postern/networks.toml
  postern authz explain --on /aws/123456789012 --port 22 --source 203.0.113.7 --for 1h --reason
  postern authz explain --on web-1 --port 22 --principal user:corp/ada --group sre --mfa --claim risk=low
  postern authz explain --cases cases.toml --who ada --on /azure --guardrails config/cedar/guardrails.example.cedar

cases.toml:
  [people.ada]
  principal = \"user:corp/ada\"
  groups = [\"sre\"]

  [[case]]
  name = \"nobody asks without a second factor\"
  who = \"ada\"
  on = \"/aws/123456789012\"
  expect = \"deny\"
  forbidden_by = [\"mfa\"]";

/// `postern authz`.
#[derive(Debug, Args)]
pub struct AuthzArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuthzCommand,
}

/// What `postern authz` does.
#[derive(Debug, Subcommand)]
pub enum AuthzCommand {
    /// Holds guardrails to the cases of a file
    ///
    /// Needs no server. The exit code is 1 when a case comes out otherwise than it says, and 2 when the guardrails or
    /// the file are wrong.
    Test(AuthzTestArgs),
    /// Says whether somebody may do something somewhere, why, and what would make it so
    ///
    /// Asks the server, about oneself or, with --principal, about somebody else. With --cases it needs no server and
    /// goes by the people and role assignments of the file. The exit code is 3 when it is denied.
    Explain(Box<AuthzExplainArgs>),
}

/// Which guardrails.
#[derive(Debug, Args)]
pub struct GuardrailArgs {
    /// A Cedar file, or a directory of .cedar files
    #[arg(long, value_name = "PATH")]
    pub guardrails: Option<PathBuf>,
    /// The file of named networks
    #[arg(long, value_name = "FILE")]
    pub networks: Option<PathBuf>,
}

/// `postern authz test`.
#[derive(Debug, Args)]
pub struct AuthzTestArgs {
    /// The cases
    #[arg(value_name = "FILE")]
    pub cases: PathBuf,
    /// The guardrails.
    #[command(flatten)]
    pub guardrails: GuardrailArgs,
    /// Fails also when no case shows a guardrail forbid anything
    #[arg(long)]
    pub strict: bool,
}

/// `postern authz explain`.
#[derive(Debug, Args)]
pub struct AuthzExplainArgs {
    /// To do what.
    #[arg(
        long,
        default_value = "request",
        value_parser = action,
        help = ACTIONS
    )]
    pub action: Action,
    /// To what: a scope, or a machine by its id or, where a server is asked, by its name
    #[arg(long, value_name = "WHERE")]
    pub on: String,
    /// Ports that would be asked for
    #[arg(long)]
    pub port: Option<Ports>,
    /// From where
    #[arg(long)]
    pub source: Option<Source>,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration::duration)]
    pub duration: Option<Duration>,
    /// A reason would be given
    #[arg(long)]
    pub reason: bool,
    /// About whom, where the server is asked about somebody else
    #[arg(long, conflicts_with = "cases")]
    pub principal: Option<String>,
    /// A group that they are taken to be in, as their token would name it; the server knows of others no groups
    #[arg(long, conflicts_with = "cases")]
    pub group: Vec<String>,
    /// They are taken to have proved a second factor
    #[arg(long, conflicts_with = "cases")]
    pub mfa: bool,
    /// When they are taken to have signed in: so long ago, such as 5m, or an RFC 3339 instant
    #[arg(long, value_name = "WHEN", conflicts_with = "cases")]
    pub signed_in: Option<super::When>,
    /// A claim that their token is taken to have: name=value; a value that is JSON is meant as JSON
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "cases")]
    pub claim: Vec<String>,
    /// Asks no server: the file has the people and their role assignments
    #[arg(long, value_name = "FILE", requires = "who")]
    pub cases: Option<PathBuf>,
    /// About whom of the file
    #[arg(long, requires = "cases")]
    pub who: Option<String>,
    /// A tag of the machine, where no server is asked: key=value
    #[arg(long, value_parser = tag, requires = "cases")]
    pub tag: Vec<(String, String)>,
    /// The guardrails, where no server is asked.
    #[command(flatten)]
    pub guardrails: GuardrailArgs,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

impl AuthzExplainArgs {
    /// The tags by their keys.
    pub fn tags(&self) -> BTreeMap<String, String> {
        self.tag.iter().cloned().collect()
    }
}

/// Every action, for whoever has to name one.
pub(super) const ACTIONS: &str =
    "To do what: read, request, approve, revoke, configure, audit, assign, break_glass or freeze";

pub(super) fn action(text: &str) -> Result<Action, postern_core::role::UnknownAction> {
    text.parse()
}
