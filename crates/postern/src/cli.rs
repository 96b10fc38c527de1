//! The command line: what can be said, with its help.

mod access_reviewing;
mod asking;
mod assigning;
mod deciding;
mod duration;
mod emergency;
mod governing;
mod leasing;
mod operating;
mod remote;
mod telling;

use clap::{Parser, Subcommand};

use crate::exit::EXIT_CODES;

pub use access_reviewing::*;
pub use asking::*;
pub use assigning::*;
pub use deciding::*;
pub use emergency::*;
pub use governing::*;
pub use leasing::*;
pub use operating::*;
pub use remote::*;
pub use telling::*;

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
    /// Applies outstanding migrations first, where its login owns the schema. Any number of servers may share one database.
    Serve(ConfigArgs),
    /// Runs everything on this machine: Postgres, both clouds simulated, an identity provider, the server
    Demo(DemoArgs),
    /// Applies outstanding migrations and ends
    Migrate(MigrateArgs),
    /// Asks for ports on machines
    #[command(after_help = REQUEST_EXAMPLES)]
    Request(RequestArgs),
    /// Lists access requests, or shows one (`get`)
    #[command(
        after_help = "Examples:\n  postern requests --status pending\n  postern requests get req_0199…"
    )]
    Requests(RequestsArgs),
    /// Approves somebody else's access request
    Approve(ApproveArgs),
    /// Turns an access request down
    Deny(DenyArgs),
    /// Takes back one's own access request
    Withdraw(DecideArgs),
    /// Lists grants, or shows one with the truth of each hop (`get`)
    #[command(
        after_help = "Examples:\n  postern grants --status opening,open\n  postern grants get grt_0199… --json"
    )]
    Grants(GrantsArgs),
    /// Asks for an open grant of one's own to last longer
    #[command(after_help = "Example:\n  postern extend grt_0199… --for 2h --reason \"restore takes longer\"")]
    Extend(ExtendArgs),
    /// Ends a grant now
    #[command(after_help = "Example:\n  postern revoke grt_0199… --reason \"job done\" --wait")]
    Revoke(RevokeArgs),
    /// Runs a command while ports are open for it, and closes them when it ends
    ///
    /// Asks for the ports, waits until they are open, runs the command, tells the server that it still runs, and
    /// gives the ports back when it ends or is told to. When this machine dies, the missed heartbeat closes them.
    #[command(after_help = LEASE_HELP)]
    Lease(LeaseArgs),
    /// Opens SSH on a machine, runs ssh to it, and closes it again
    #[command(after_help = SSH_HELP)]
    Ssh(SshArgs),
    /// Opens a port and passes standard input and output to it: for `ProxyCommand` in `ssh_config`
    #[command(
        after_help = "Example, in ~/.ssh/config:\n  Host web-1\n    ProxyCommand postern connect %n --port %p --source 203.0.113.7"
    )]
    Connect(ConnectArgs),
    /// Prints sections for `ssh_config`, so that `ssh <machine>` opens the port by itself
    #[command(after_help = "Example:\n  postern ssh-config web-1 --source 203.0.113.7 >> ~/.ssh/config")]
    SshConfig(SshConfigArgs),
    /// Closes everything at a scope, and keeps it closed until that is lifted
    ///
    /// Ends every grant there, turns down every pending request, and refuses new ones. What it closes is closed
    /// before everything else. Connections that are already established are not cut.
    #[command(
        after_help = "Examples:\n  postern freeze /aws/123456789012 --reason \"credentials leaked\"\n  postern freeze / --reason \"intruder in production\""
    )]
    Freeze(FreezeArgs),
    /// Lists freezes, or lifts one
    #[command(
        after_help = "Examples:\n  postern freezes --in-force\n  postern freezes lift frz_0199… --reason \"keys rotated\""
    )]
    Freezes(FreezesArgs),
    /// Lists what was opened by breaking the glass, or closes the review of one
    #[command(
        after_help = "Examples:\n  postern reviews --open\n  postern reviews close rev_0199… --note \"needed: the pager and the log agree\""
    )]
    Reviews(ReviewsArgs),
    /// Lists machines with their posture, or shows one (`get`)
    #[command(
        after_help = "Examples:\n  postern machines --posture recommended\n  postern machines get web-1\n  \
                      postern machines --scope /aws/123456789012 --tag env=prod"
    )]
    Machines(MachinesArgs),
    /// Lists JIT policies, shows, makes, changes or removes one
    #[command(after_help = POLICY_EXAMPLES)]
    Policies(PoliciesArgs),
    /// Lists roles and what they allow, makes or removes a custom one
    #[command(
        after_help = "Examples:\n  postern roles\n  postern roles create on-call --action read --action break_glass"
    )]
    Roles(RolesArgs),
    /// Lists role assignments, makes or removes one
    #[command(after_help = ASSIGNMENT_EXAMPLES)]
    Assignments(AssignmentsArgs),
    /// Lists access reviews, shows one (`get`), starts, decides or cancels one
    ///
    /// An access review has people look at who has which role at a scope, and take away what is not needed. What they
    /// do not decide by its deadline is removed or kept, as it says.
    #[command(after_help = ACCESS_REVIEW_EXAMPLES)]
    AccessReviews(AccessReviewsArgs),
    /// Reads the audit log
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit(AuditArgs),
    /// Lists whom Postern told of what, and replays what nobody took
    ///
    /// Subscribers stand in the configuration, under `[notify]`. What one of them did not take is given up after a
    /// while, and stays listed as dead until it is replayed.
    #[command(
        after_help = "Examples:\n  postern deliveries --status dead\n  postern deliveries replay 4711\n  \
                      postern deliveries replay --all --subscriber siem"
    )]
    Deliveries(DeliveriesArgs),
    /// Tests guardrails, and explains who may do what
    #[command(after_help = AUTHZ_EXAMPLES)]
    Authz(AuthzArgs),
    /// Prints a token of the demo's identity provider
    ///
    /// The identity provider runs while `postern demo` does.
    #[command(after_help = "Example:\n  export POSTERN_TOKEN=$(postern token --user ada)")]
    Token(TokenArgs),
    /// Closes what is past its end, from the clouds' own marks: no server, no database
    ///
    /// Every rule that Postern writes says whose it is and when it ends at the latest. This finds the rules of
    /// the installation that are past that and, with --apply, removes them. Without --apply it only shows them.
    /// An account that cannot be read, or a rule that cannot be removed, does not keep the others from being
    /// swept; the exit code is then 1.
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep(SweepArgs),
    /// Prints what the clouds have to allow: IAM policies, an Azure custom role
    #[command(after_help = PERMISSIONS_EXAMPLES)]
    Permissions(PermissionsArgs),
    /// Looks whether a server could run here: database, issuers, clouds, clock
    ///
    /// Changes nothing. The exit code is 1 when a check fails.
    #[command(after_help = "Example:\n  postern doctor --config /etc/postern/postern.toml")]
    Doctor(DoctorArgs),
    /// Says whether a server is ready: exit code 0 if it is
    Health(HealthArgs),
    /// Prints the description of the API, as docs/openapi.json has it
    Openapi,
    /// Checks a configuration file
    Config(ConfigCommandArgs),
    /// Prints completions for a shell
    #[command(after_help = "Example:\n  postern completions bash > /etc/bash_completion.d/postern")]
    Completions(CompletionsArgs),
}

const REQUEST_EXAMPLES: &str = "\
A machine is an ARM resource id, an EC2 instance ARN, or a name that only one machine has.

Examples:
  postern request web-1 --port 22 --source 203.0.113.7 --for 30m --reason \"disk full\" --wait
  postern request web-1 db-1 --port 22 --port 5432 --source 203.0.113.0/28 --for 1h --reason \"migration 42\"
  postern request web-1 --port 22 --source 203.0.113.7 --for 30m --reason \"would this do?\" --dry-run";

const ASSIGNMENT_EXAMPLES: &str = "\
Examples:
  postern assignments --scope /aws/123456789012
  postern assignments create requester group:corp/sre --on /aws/123456789012 --tag env=dev --until 2026-12-31T18:00:00Z
  postern assignments delete ra_0199… --dry-run";

const ACCESS_REVIEW_EXAMPLES: &str = "\
Examples:
  postern access-reviews create production --on /aws/123456789012 --reviewer group:corp/leads \\
    --for 14days --undecided remove --every-days 90 --round-days 14
  postern access-reviews --mine --status open
  postern access-reviews get arv_0199… --status open
  postern access-reviews decide ari_0199… remove --reason \"moved to another team\"";

const LEASE_HELP: &str = "\
The token is in --token-file (read again before it ends) or POSTERN_TOKEN; in a GitHub Actions job with
`permissions: id-token: write` it is asked of GitHub, again before it ends.

The command finds POSTERN_HOST, POSTERN_PORT, POSTERN_HOSTS (all machines), POSTERN_MACHINE and POSTERN_LEASE in its
environment. SIGINT, SIGTERM and SIGHUP are passed on to it.

Exit codes:
  the command's own; 128 and the signal's number when one ended it
  110 + what other commands end with when the ports did not open:
  111  failure
  112  wrong usage, or a request that is wrong in itself
  113  denied: not signed in, not allowed, or turned down
  114  not found
  115  conflict: too many grants, or the key is used for something else
  116  timed out waiting; nothing stays open
  117  the lease was lost while the command ran, and the command was ended
  126  the command cannot be executed
  127  the command is not found

Examples:
  postern lease web-1 --port 22 --source 203.0.113.7 -- ./deploy.sh
  postern lease web-1 web-2 --port 5432 --duration 30m --reason \"migration 42\" -- sh -c 'psql -h \"$POSTERN_HOST\"'";

const SSH_HELP: &str = "\
The host key is known by the machine, not by its address. Exit codes are ssh's, and those of `postern lease`.

Examples:
  postern ssh ubuntu@web-1 --source 203.0.113.7
  postern ssh web-1 --source 203.0.113.7 -- -i key.pem uptime";

const POLICY_EXAMPLES: &str = "\
Examples:
  postern policies
  postern policies create --file policy.json
  postern policies delete ssh

policy.json:
  {\"name\": \"ssh\", \"scope\": \"/aws/123456789012\",
   \"guards\": [{\"ports\": \"22/tcp\", \"allowed_sources\": [\"203.0.113.0/24\"], \"max_duration_seconds\": 10800}]}";

const SWEEP_EXAMPLES: &str = "\
Examples:
  postern sweep --config config/postern.toml
  postern sweep --config config/postern.toml --cloud aws --account 123456789012 --apply
  postern sweep --installation prod --cloud azure --all --json";

const PERMISSIONS_EXAMPLES: &str = "\
Examples:
  postern permissions aws --account 123456789012 --installation prod
  postern permissions aws --for sweeper --json | jq .permissions_policy
  postern permissions azure --account 00000000-0000-0000-0000-000000000001 --json";

const AUDIT_EXAMPLES: &str = "\
Examples:
  postern audit --since 1h
  postern audit --grant grt_0199… --json
  postern audit --action access_request. --outcome denied --since 2026-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[test]
    fn the_help_is_the_same_in_every_environment() {
        fn look(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_env().is_none() || argument.is_hide_env_values_set(),
                    "{} of {} shows what a variable holds",
                    argument.get_id(),
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn a_sweep_knows_its_installation_from_a_file_or_from_the_command_line() {
        assert!(parse("postern sweep --config x.toml").is_ok());
        assert!(parse("postern sweep --installation prod --cloud aws --account 123456789012").is_ok());
        for wrong in [
            "postern sweep --installation prod",
            "postern sweep --installation Prod! --cloud aws",
            "postern sweep --cloud gcp --config x.toml",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
        if std::env::var_os("POSTERN_CONFIG").is_none() {
            let said = parse("postern sweep").unwrap_err().to_string();
            assert!(said.contains("<--config <FILE>|--installation <NAME>>"), "{said}");
        }
    }

    #[test]
    fn permissions_are_asked_for_accounts_that_can_be() {
        assert!(parse("postern permissions aws --account 123456789012").is_ok());
        for wrong in [
            "postern permissions aws --account 12345",
            "postern permissions aws --external-id x",
            "postern permissions aws --partition gcp",
            "postern permissions azure",
            "postern permissions azure --account x/y",
            "postern permissions azure --account prod",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
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
    fn a_request_may_leave_out_its_source_and_nothing_else_that_it_needs() {
        let full =
            "postern request web-1 --server http://x --port 22 --source 203.0.113.7 --for 30m --reason x";
        assert!(parse(full).is_ok());
        assert!(parse(&full.replace("--source 203.0.113.7", "")).is_ok());
        for part in ["--reason x", "--port 22", "--for 30m", "web-1 "] {
            let error = parse(&full.replace(part, "")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{part}");
        }
        assert!(parse(&full.replace("30m", "-30m")).is_err());
        assert!(parse(&full.replace("30m", "30")).is_err());
    }

    /// The words of a command, up to where the shell passes on what it prints, or a comment begins.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = line.trim();
        while !rest.is_empty() && !rest.starts_with(['|', '>', '#']) {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap(),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            words.push(word.to_owned());
            rest = after.trim_start();
        }
        words
    }

    #[test]
    fn every_command_that_a_document_shows_can_be_said() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let documents = std::fs::read_dir(root.join("docs")).unwrap();
        let mut documents: Vec<_> = documents.map(|entry| entry.unwrap().path()).collect();
        documents.push(root.join("README.md"));
        let mut shown = 0;
        for path in documents
            .iter()
            .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        {
            let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
            for line in text.lines() {
                let line = line.trim_start().trim_start_matches("$ ");
                if line.starts_with("postern ") {
                    shown += 1;
                    let said = Cli::try_parse_from(words(line));
                    assert!(said.is_ok(), "{}: {line}\n{}", path.display(), said.unwrap_err());
                }
            }
        }
        assert!(shown > 30, "only {shown} were found");
    }

    #[test]
    fn a_tag_has_a_key_wherever_it_is_named() {
        for line in [
            "postern authz explain --cases c.toml --who ada --on /aws --tag ",
            "postern assignments create requester user:corp/ada --on / --server http://x --tag ",
        ] {
            for right in ["env=dev", "env="] {
                assert!(parse(&format!("{line}{right}")).is_ok(), "{line}{right}");
            }
            for wrong in ["env", "=dev", "="] {
                let error = parse(&format!("{line}{wrong}")).unwrap_err();
                assert!(error.to_string().contains("expected key=value"), "{error}");
            }
        }
    }

    #[test]
    fn since_is_so_long_ago_or_an_instant() {
        assert_eq!("90m".parse(), Ok(When::Ago(Duration::from_mins(90))));
        assert!(matches!("2026-01-01T00:00:00+01:00".parse(), Ok(When::At(_))));
        assert!("yesterday".parse::<When>().is_err());
    }
}
