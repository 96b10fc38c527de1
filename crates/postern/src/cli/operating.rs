//! What operators say: configuration, demo, sweep, checks.

use std::{path::PathBuf, time::Duration};

use clap::{
    ArgGroup, Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use postern_core::{
    machine::Cloud,
    mark::Installation,
    scope::{InvalidScope, Scope},
};

use crate::permissions::Bearer;

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", hide_env_values = true, env = "POSTERN_CONFIG")]
    pub config: PathBuf,
}

/// `postern migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where the configuration is
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Says that the database was restored from a backup: at its next look at each enforcement point the server ends
    /// the grants of which nothing stands there, instead of opening them again. Only a data directory that was put
    /// back file by file needs this; every other restore is noticed
    #[arg(long)]
    pub restored: bool,
}

/// `postern demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Plays the whole story on both clouds, checks every step and ends; the last line is one JSON object
    #[arg(long, conflicts_with_all = ["port", "keep", "webhook"])]
    pub check: bool,
    /// Port of the API on loopback; 0 takes any that is free
    #[arg(long, default_value_t = 8090)]
    pub port: u16,
    /// Where the database and the demo's state are kept
    #[arg(long, value_name = "DIR", hide_env_values = true, env = "POSTERN_DEMO_DIR")]
    pub data_dir: Option<PathBuf>,
    /// A webhook to tell.
    #[arg(
        long,
        value_name = "URL",
        help = "Tells a webhook of what happens, such as http://127.0.0.1:9000/; its secret is printed"
    )]
    pub webhook: Option<url::Url>,
    /// Keeps the data directory at the end, to look at
    #[arg(long)]
    pub keep: bool,
}

/// `postern token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// ada (engineer), sam (approver), olga (owner), eve (nobody), or ci (a workload)
    #[arg(long)]
    pub user: String,
    /// How long the token is good for, at most a day
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = super::duration::duration)]
    pub duration: Duration,
    /// The demo's data directory, if it is not the usual one
    #[arg(long, value_name = "DIR", hide_env_values = true, env = "POSTERN_DEMO_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `postern sweep`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["config", "installation"]).required(true).multiple(true))]
pub struct SweepArgs {
    /// The configuration file; only its installation and its clouds are read
    #[arg(long, value_name = "FILE", hide_env_values = true, env = "POSTERN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Without a configuration file: whose marks, with the credentials that are at hand
    #[arg(long, value_name = "NAME", requires = "cloud")]
    pub installation: Option<Installation>,
    /// Only this cloud
    #[arg(long, value_parser = PossibleValuesParser::new(["azure", "aws"]).try_map(|name| name.parse::<Cloud>()))]
    pub cloud: Option<Cloud>,
    /// Only this Azure subscription or AWS account; repeatable
    #[arg(long = "account", visible_alias = "subscription", value_name = "ID")]
    pub accounts: Vec<String>,
    /// Shows every mark of the installation, also what is not overdue
    #[arg(long)]
    pub all: bool,
    /// Removes what is overdue; without it nothing is changed
    #[arg(long)]
    pub apply: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `postern permissions`.
#[derive(Debug, Args)]
pub struct PermissionsArgs {
    /// Of which cloud.
    #[command(subcommand)]
    pub cloud: PermissionsCommand,
}

/// What `postern permissions` prints.
#[derive(Debug, Subcommand)]
pub enum PermissionsCommand {
    /// Prints the IAM policies of a role in a guarded AWS account
    ///
    /// With --principal also the role's trust policy and what the principal needs to assume it.
    Aws(AwsPermissionsArgs),
    /// Prints a custom role for Azure subscriptions
    Azure(AzurePermissionsArgs),
}

/// `postern permissions aws`.
#[derive(Debug, Args)]
pub struct AwsPermissionsArgs {
    /// Who is given the permissions
    #[arg(long = "for", value_enum, default_value = "server")]
    pub bearer: Bearer,
    /// The account that is guarded; without it the policies fit every account
    #[arg(long, value_name = "ID", value_parser = account_id)]
    pub account: Option<String>,
    /// Whose temporary groups may be touched; without it those of any installation
    #[arg(long, value_name = "NAME")]
    pub installation: Option<Installation>,
    /// Who assumes the role: the ARN of Postern's own role or user
    #[arg(long, value_name = "ARN")]
    pub principal: Option<String>,
    /// What the principal has to name, as `external_id` in the configuration does
    #[arg(long, value_name = "TEXT", requires = "principal")]
    pub external_id: Option<String>,
    /// The role's name.
    #[arg(
        long,
        value_name = "NAME",
        help = "The role's name [default: postern, or postern-sweeper]"
    )]
    pub role: Option<String>,
    /// Which of AWS' partitions
    #[arg(long, default_value = "aws", value_parser = ["aws", "aws-cn", "aws-us-gov"])]
    pub partition: String,
    /// Print one JSON object with all documents
    #[arg(long)]
    pub json: bool,
}

/// `postern permissions azure`.
#[derive(Debug, Args)]
pub struct AzurePermissionsArgs {
    /// Who is given the permissions
    #[arg(long = "for", value_enum, default_value = "server")]
    pub bearer: Bearer,
    /// A subscription that is guarded; repeatable
    #[arg(
        long = "account",
        visible_alias = "subscription",
        value_name = "ID",
        required = true,
        value_parser = subscription_id
    )]
    pub accounts: Vec<String>,
    /// Also what it takes where Azure Firewalls stand before machines
    #[arg(long)]
    pub firewalls: bool,
    /// Also what it takes to read requesters' own role assignments, for `azure.rbac`
    #[arg(long)]
    pub rbac: bool,
    /// Print one JSON object with all documents
    #[arg(long)]
    pub json: bool,
}

fn account_id(text: &str) -> Result<String, String> {
    if text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("an AWS account is twelve digits".to_owned())
    }
}

fn subscription_id(text: &str) -> Result<String, String> {
    let scope: Scope = format!("/azure/{text}")
        .parse()
        .map_err(|error: InvalidScope| error.to_string())?;
    if scope.depth() == 2 {
        Ok(text.to_lowercase())
    } else {
        Err("expected a subscription id (a UUID)".to_owned())
    }
}

/// `postern doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `postern completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `postern health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Address of the server
    #[arg(long, value_name = "URL", hide_env_values = true, env = "POSTERN_SERVER")]
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
