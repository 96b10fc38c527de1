//! What can be said about leases, and about connecting through them.

use std::time::Duration;

use clap::Args;

use super::Remote;

/// What is leased, for how long, and how it is waited for.
#[derive(Debug, Clone, Args)]
pub struct LeaseOptions {
    /// Address or CIDR block that the packets come from; your own address, as the server sees it, when absent
    #[arg(long = "source", value_name = "CIDR")]
    pub sources: Vec<String>,
    /// The longest that the ports stay open, from the confirmed opening
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = super::duration::duration)]
    pub duration: Duration,
    /// Why; in a pipeline its run is named when absent
    #[arg(long)]
    pub reason: Option<String>,
    /// The ticket that it is for
    #[arg(long)]
    pub ticket: Option<String>,
    /// What the lease is called: the same key finds a lease that still lasts
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// How often the server is told that the job still runs
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration::duration)]
    pub heartbeat: Duration,
    /// The longest to wait until the ports are open, approvals included
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = super::duration::duration)]
    pub timeout: Duration,
    /// Address to connect to instead of the machine's, with the port where it is mapped to another
    #[arg(long, value_name = "HOST[:PORT]")]
    pub host: Option<String>,
    /// Connects to the machine's private address although it has a public one
    #[arg(long, conflicts_with = "host")]
    pub private: bool,
    /// Whom the token of a pipeline is for, where the pipeline's service is asked for it
    #[arg(
        long,
        value_name = "AUDIENCE",
        default_value = "postern",
        hide_env_values = true,
        env = "POSTERN_AUDIENCE",
        help_heading = "Server"
    )]
    pub audience: String,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}

/// `postern lease`.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// Machines to reach
    #[arg(required = true, value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Port or range, such as 22, 22/tcp or 5000-5010/udp
    #[arg(long = "port", required = true, value_name = "PORT")]
    pub ports: Vec<String>,
    /// Lets the command run on when the lease ends before it
    #[arg(long)]
    pub keep_running: bool,
    /// How.
    #[command(flatten)]
    pub options: LeaseOptions,
    /// What to run while the ports are open
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `postern ssh`.
#[derive(Debug, Args)]
pub struct SshArgs {
    /// The machine, after `user@` if need be
    #[arg(value_name = "[USER@]MACHINE")]
    pub machine: String,
    /// The port that sshd listens on
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    pub port: u16,
    /// How.
    #[command(flatten)]
    pub options: LeaseOptions,
    /// Further arguments for ssh: options, then the command to run there
    #[arg(last = true, value_name = "SSH ARGUMENTS")]
    pub arguments: Vec<String>,
}

/// `postern connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The machine
    #[arg(value_name = "MACHINE")]
    pub machine: String,
    /// The port
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    pub port: u16,
    /// How.
    #[command(flatten)]
    pub options: LeaseOptions,
}

/// `postern ssh-config`.
#[derive(Debug, Args)]
pub struct SshConfigArgs {
    /// Machines to write a section for
    #[arg(required = true, value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Address or CIDR block that you come from; your own address, as the server sees it, when absent
    #[arg(long = "source", value_name = "CIDR")]
    pub sources: Vec<String>,
    /// The server.
    #[command(flatten)]
    pub remote: Remote,
}
