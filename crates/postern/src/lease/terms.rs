//! What is asked for, from the command line and from the pipeline that it runs in; and where to connect then.

use std::time::Duration;

use postern_api::{
    Client,
    access_request::AskedTarget,
    lease::{Lease, LeaseCreate, LeasedMachine},
};

use crate::{
    cli::LeaseOptions,
    commands::machines,
    connect,
    exit::{Exit, Failure},
};

/// The longest reason that the server takes, in characters.
const MAX_REASON: usize = 1000;

/// The body of the request for a lease.
pub async fn create(
    client: &Client,
    named: &[String],
    ports: &[String],
    options: &LeaseOptions,
    purpose: &str,
) -> Result<LeaseCreate, Failure> {
    let mut targets = Vec::with_capacity(named.len());
    for machine in named {
        targets.push(AskedTarget {
            machine: machines::resolve(client, machine).await?,
            ports: ports.to_vec(),
            // The server sees where the request comes from.
            sources: (!options.sources.is_empty()).then(|| options.sources.clone()),
        });
    }
    let reason = match &options.reason {
        Some(reason) => reason.clone(),
        None => reason(purpose, |name| std::env::var(name).ok()),
    };
    Ok(LeaseCreate {
        key: Some(options.key.clone().unwrap_or_else(connect::idempotency_key)),
        targets,
        duration_seconds: whole_seconds("--duration", options.duration)?,
        reason,
        ticket: options.ticket.clone(),
        heartbeat_every_seconds: Some(whole_seconds("--heartbeat", options.heartbeat)?),
    })
}

fn whole_seconds(option: &str, duration: Duration) -> Result<i64, Failure> {
    i64::try_from(duration.as_secs())
        .ok()
        .filter(|_| duration.subsec_nanos() == 0)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("{option} is a whole number of seconds")))
}

/// Why, where nobody said: the run of the pipeline. Sources: GitHub, "Variables reference", default environment
/// variables; GitLab, "Predefined CI/CD variables reference".
fn reason(purpose: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let all = |label: &str, names: &[&str]| {
        let values: Vec<String> = names.iter().filter_map(|name| variable(name)).collect();
        format!("{label}: {} ({purpose})", values.join(" "))
    };
    let text = if variable("GITHUB_ACTIONS").is_some() {
        let names = [
            "GITHUB_REPOSITORY",
            "GITHUB_WORKFLOW",
            "GITHUB_JOB",
            "GITHUB_RUN_ID",
            "GITHUB_RUN_ATTEMPT",
        ];
        all("GitHub Actions", &names)
    } else if variable("GITLAB_CI").is_some() {
        all("GitLab CI", &["CI_PROJECT_PATH", "CI_JOB_NAME", "CI_JOB_URL"])
    } else {
        purpose.to_owned()
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_REASON)
        .collect()
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// A name or an address.
    pub host: String,
    /// The port there, which is another one where it is mapped.
    pub port: u16,
}

/// Where the port of a leased machine is reached: where a firewall maps it, by the firewall's address and port.
pub fn reach(
    lease: &Lease,
    machine: &LeasedMachine,
    port: u16,
    options: &LeaseOptions,
) -> Result<Reach, Failure> {
    if let Some(text) = &options.host {
        let (host, mapped) = host_and_port(text)?;
        return Ok(Reach {
            host,
            port: mapped.unwrap_or(port),
        });
    }
    let leads_to = format!("{port}/tcp");
    let mut grants = lease.request.grants.iter();
    let entrance = grants
        .find(|grant| grant.machine == machine.machine)
        .and_then(|grant| grant.entrances.iter().find(|one| one.leads_to == leads_to))
        .filter(|_| !options.private);
    if let Some(entrance) = entrance {
        return Ok(Reach {
            host: entrance.host.clone(),
            port: entrance.port,
        });
    }
    let host = if options.private {
        machine.addresses.first()
    } else {
        machine.host.as_ref()
    };
    let host = host.cloned().ok_or_else(|| {
        Failure::new(
            Exit::Failure,
            format!(
                "no address of machine `{}` is known; say one with --host",
                machine.machine
            ),
        )
    })?;
    Ok(Reach { host, port })
}

/// The only machine of a lease.
pub fn only(lease: &Lease) -> Result<&LeasedMachine, Failure> {
    lease
        .machines
        .first()
        .ok_or_else(|| Failure::new(Exit::Failure, "the lease names no machine"))
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), Failure> {
    let wrong = || {
        Failure::new(
            Exit::Usage,
            format!("`{text}` is no host, or host and port, to connect to"),
        )
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(wrong()),
        };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        }
    };
    // It becomes an argument of ssh, where it must not be taken for an option.
    if host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    let port = port
        .map(|port| port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong))
        .transpose()?;
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port_and_may_be_an_ipv6_address() {
        for (text, host, port) in [
            ("bastion.example.com", "bastion.example.com", None),
            ("198.51.100.7:2222", "198.51.100.7", Some(2222)),
            ("2001:db8::7", "2001:db8::7", None),
            ("[2001:db8::7]:2222", "2001:db8::7", Some(2222)),
            ("[2001:db8::7]", "2001:db8::7", None),
        ] {
            assert_eq!(host_and_port(text).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in [
            "",
            ":22",
            "x:",
            "x:0",
            "x:70000",
            "[::1",
            "[::1]22",
            "-oProxyCommand=x",
            "a b",
        ] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pipeline_that_gives_no_reason_is_named_itself() {
        let github = |name: &str| match name {
            "GITHUB_ACTIONS" => Some("true".to_owned()),
            "GITHUB_REPOSITORY" => Some("acme/shop".to_owned()),
            "GITHUB_RUN_ID" => Some("77\n".to_owned()),
            _ => None,
        };
        assert_eq!(
            reason("deploy.sh", github),
            "GitHub Actions: acme/shop 77  (deploy.sh)"
        );
        let gitlab = |name: &str| (name == "GITLAB_CI" || name == "CI_JOB_NAME").then(|| "x".to_owned());
        assert_eq!(reason("deploy.sh", gitlab), "GitLab CI: x (deploy.sh)");
        assert_eq!(reason("deploy.sh", |_| None), "deploy.sh");
        assert_eq!(reason(&"x".repeat(2000), |_| None).len(), MAX_REASON);
    }
}
