//! The command line: what can be said, with its help.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::exit::EXIT_CODES;

/// Just-in-time network access to machines in Azure and AWS.
#[derive(Debug, Parser)]
#[command(name = "postern", version, propagate_version = true, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that `postern` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the server: API and reconcile loop
    ///
    /// Applies outstanding migrations first. Any number of servers may share one database.
    Serve(ConfigArgs),
    /// Runs everything on this machine: Postgres, both clouds simulated, an identity provider, the server
    Demo(DemoArgs),
    /// Applies outstanding migrations and ends
    Migrate(ConfigArgs),
    /// Asks for ports on machines
    #[command(after_help = REQUEST_EXAMPLES)]
    Request(RequestArgs),
    /// Lists access requests, or shows one
    #[command(
        after_help = "Examples:\n  postern requests --status pending\n  postern requests get req_0199…"
    )]
    Requests(RequestsArgs),
    /// Approves somebody else's access request
    Approve(DecideArgs),
    /// Turns an access request down
    Deny(DenyArgs),
    /// Takes back one's own access request
    Withdraw(DecideArgs),
    /// Lists grants, or shows one with the truth of each hop
    #[command(
        after_help = "Examples:\n  postern grants --status opening,open\n  postern grants get grt_0199… --json"
    )]
    Grants(GrantsArgs),
    /// Ends a grant now
    #[command(after_help = "Example:\n  postern revoke grt_0199… --reason \"job done\" --wait")]
    Revoke(RevokeArgs),
    /// Lists machines with their posture, or shows one
    #[command(
        after_help = "Examples:\n  postern machines --posture recommended\n  postern machines get web-1\n  \
                      postern machines --scope /aws/123456789012 --tag env=prod"
    )]
    Machines(MachinesArgs),
    /// Lists JIT policies, shows, makes, changes or removes one
    #[command(after_help = POLICY_EXAMPLES)]
    Policies(PoliciesArgs),
    /// Reads the audit log
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit(AuditArgs),
    /// Prints a token of the demo's identity provider
    ///
    /// The identity provider runs while `postern demo` does.
    #[command(after_help = "Example:\n  export POSTERN_TOKEN=$(postern token --user ada)")]
    Token(TokenArgs),
    /// Closes what is past its end, from the clouds' own marks: no server, no database
    ///
    /// Every rule that Postern writes says whose it is and when it ends at the latest. This finds the rules of
    /// the configured installation that are past that and, with --apply, removes them. Without --apply it only
    /// shows them.
    #[command(
        after_help = "Examples:\n  postern sweep --config config/postern.toml\n  postern sweep --config config/postern.toml --apply"
    )]
    Sweep(SweepArgs),
    /// Says whether a server is ready: exit code 0 if it is
    Health(HealthArgs),
    /// Prints the description of the API, as docs/openapi.json has it
    Openapi,
    /// Checks a configuration file
    Config(ConfigCommandArgs),
}

const REQUEST_EXAMPLES: &str = "\
A machine is an ARM resource id, an EC2 instance ARN, or a name that only one machine has.

Examples:
  postern request web-1 --port 22 --source 203.0.113.7 --for 30m --reason \"disk full\" --wait
  postern request web-1 db-1 --port 22 --port 5432 --source 203.0.113.0/28 --for 1h --reason \"migration 42\"
  postern request web-1 --port 22 --source 203.0.113.7 --for 30m --reason \"would this do?\" --dry-run";

const POLICY_EXAMPLES: &str = "\
Examples:
  postern policies
  postern policies create --file policy.json
  postern policies delete pol_0199…

policy.json:
  {\"name\": \"ssh\", \"scope\": \"/aws/123456789012\",
   \"guards\": [{\"ports\": \"22/tcp\", \"allowed_sources\": [\"203.0.113.0/24\"], \"max_duration_seconds\": 10800}]}";

const AUDIT_EXAMPLES: &str = "\
Examples:
  postern audit --since 1h
  postern audit --grant grt_0199… --json
  postern audit --action access_request. --outcome denied --since 2026-01-01T00:00:00Z";

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "POSTERN_CONFIG")]
    pub config: PathBuf,
}

/// How to reach the server, and how to print.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    /// Address of the server
    #[arg(long, value_name = "URL", env = "POSTERN_SERVER", help_heading = "Server")]
    pub server: Option<String>,
    /// File that holds the token.
    #[arg(help = "File that holds the token; the token itself may be in POSTERN_TOKEN")]
    #[arg(
        long,
        value_name = "FILE",
        env = "POSTERN_TOKEN_FILE",
        help_heading = "Server"
    )]
    pub token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `postern demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Plays the whole story on both clouds, checks every step and ends; the last line is one JSON object
    #[arg(long, conflicts_with_all = ["port", "keep"])]
    pub check: bool,
    /// Port of the API on loopback; 0 takes any that is free
    #[arg(long, default_value_t = 8090)]
    pub port: u16,
    /// Where the database and the demo's state are kept
    #[arg(long, value_name = "DIR", env = "POSTERN_DEMO_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keeps the data directory at the end, to look at
    #[arg(long)]
    pub keep: bool,
}

/// `postern request`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// Machines to reach
    #[arg(required = true, value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Port or range, such as 22, 22/tcp or 5000-5010/udp
    #[arg(long = "port", required = true, value_name = "PORT")]
    pub ports: Vec<String>,
    /// Address or CIDR block that the packets come from
    #[arg(long = "source", required = true, value_name = "CIDR")]
    pub sources: Vec<String>,
    /// How long, from the confirmed opening
    #[arg(long = "for", required = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// Decide and answer, but change nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub waiting: Waiting,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// Whether to wait, and for how long.
#[derive(Debug, Clone, Args)]
pub struct Waiting {
    /// Waits until it is so, as read back from the clouds
    #[arg(long)]
    pub wait: bool,
    /// The longest to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
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
    /// Which
    #[arg(value_name = "ID")]
    pub id: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern approve` and `postern withdraw`.
#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The access request
    #[arg(value_name = "REQUEST")]
    pub id: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern deny`.
#[derive(Debug, Args)]
pub struct DenyArgs {
    /// The access request
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
    /// Only grants that stand there: opening, open, closing or closed; several with commas
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

/// `postern revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The grant
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
    /// Only machines of this cloud: azure or aws
    #[arg(long)]
    pub cloud: Option<String>,
    /// Only machines whose name or id contains this
    #[arg(long)]
    pub text: Option<String>,
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
    Delete(OneArgs),
}

/// A policy document.
#[derive(Debug, Args)]
pub struct PolicyFileArgs {
    /// The policy as JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// A policy and its new document.
#[derive(Debug, Args)]
pub struct PolicyUpdateArgs {
    /// Which
    #[arg(value_name = "ID")]
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
    /// Only events about this grant
    #[arg(long)]
    pub grant: Option<String>,
    /// Only events about this access request
    #[arg(long)]
    pub request: Option<String>,
    /// Only events about this JIT policy
    #[arg(long)]
    pub policy: Option<String>,
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
    At(chrono::DateTime<chrono::Utc>),
}

impl std::str::FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        chrono::DateTime::parse_from_rfc3339(text)
            .map(|at| Self::At(at.to_utc()))
            .map_err(|_| "expected a duration such as `1h` or an RFC 3339 instant".to_owned())
    }
}

/// `postern token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// ada (engineer), sam (approver), olga (owner), eve (nobody), or ci (a workload)
    #[arg(long)]
    pub user: String,
    /// How long the token is good for, at most a day
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// The demo's data directory, if it is not the usual one
    #[arg(long, value_name = "DIR", env = "POSTERN_DEMO_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `postern sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Removes what was found; without it nothing is changed
    #[arg(long)]
    pub apply: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `postern health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Address of the server
    #[arg(long, value_name = "URL", env = "POSTERN_SERVER")]
    pub server: String,
}

/// `postern config`.
#[derive(Debug, Args)]
pub struct ConfigCommandArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `postern config` does.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Says whether a configuration file holds, and where it does not
    Check(ConfigCheckArgs),
}

/// `postern config check`.
#[derive(Debug, Args)]
pub struct ConfigCheckArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Leaves out whether the files that it names can be read here
    #[arg(long)]
    pub no_files: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    /// The help of a command and of everything below it.
    fn help(command: &mut clap::Command, path: &str, into: &mut String) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        // The width of whatever terminal the test runs in does not matter.
        *command = std::mem::take(command).term_width(110);
        for part in ["# ", &path, "\n", &command.render_help().to_string(), "\n"] {
            into.push_str(part);
        }
        for below in command
            .get_subcommands_mut()
            .filter(|below| below.get_name() != "help")
        {
            help(below, &path, into);
        }
    }

    #[test]
    fn the_help_is_as_it_was_agreed_on() {
        let mut text = String::new();
        let mut command = Cli::command();
        command.build();
        help(&mut command, "", &mut text);
        insta::assert_snapshot!(text);
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn lists_and_single_things_are_told_apart() {
        let cli = parse("postern grants --server http://x --mine").unwrap();
        assert!(matches!(cli.command, Command::Grants(GrantsArgs { command: None, list }) if list.mine));
        let cli = parse("postern grants get grt_1 --server http://x").unwrap();
        assert!(matches!(
            cli.command,
            Command::Grants(GrantsArgs { command: Some(GrantsCommand::Get(one)), .. }) if one.id == "grt_1"
        ));
    }

    #[test]
    fn a_request_without_a_reason_or_source_is_wrong_usage() {
        let full =
            "postern request web-1 --server http://x --port 22 --source 203.0.113.7 --for 30m --reason x";
        assert!(parse(full).is_ok());
        for part in [
            "--source 203.0.113.7",
            "--reason x",
            "--port 22",
            "--for 30m",
            "web-1 ",
        ] {
            let error = parse(&full.replace(part, "")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{part}");
        }
        assert!(parse(&full.replace("30m", "-30m")).is_err());
        assert!(parse(&full.replace("30m", "30")).is_err());
    }

    #[test]
    fn since_is_so_long_ago_or_an_instant() {
        assert_eq!("90m".parse(), Ok(When::Ago(Duration::from_mins(90))));
        assert!(matches!("2026-01-01T00:00:00+01:00".parse(), Ok(When::At(_))));
        assert!("yesterday".parse::<When>().is_err());
    }
}
