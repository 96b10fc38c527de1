//! `postern grants`, `extend` and `revoke`.

use std::{net::IpAddr, time::Duration};

use postern_api::{
    client::Client,
    grant::{Entrance, Grant, GrantExtend, GrantQuery, GrantRevoke},
};

use super::{machines, naming, request};
use crate::{
    cli::{ExtendArgs, GrantsArgs, GrantsCommand, GrantsListArgs, RevokeArgs},
    connect,
    exit::{Exit, Failure},
    output,
};

/// What the names of firewalls, and of the policies that have their rules, begin with.
const FIREWALL: &str = "azure:firewall";

/// How often a grant is looked at while waiting.
const LOOK: Duration = Duration::from_millis(300);

/// Lists grants, or shows one.
pub async fn run(args: GrantsArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(GrantsCommand::List(args)) => list(args).await,
        Some(GrantsCommand::Get(one)) => {
            let client = connect::client(&one.remote)?;
            let id = naming::grant(&client, &one.id).await?;
            let grant = client.grant(&id).await?;
            show(&grant, one.remote.json)
        }
    }
}

async fn list(args: GrantsListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let machine = match &args.machine {
        Some(text) => Some(machines::resolve(&client, text).await?),
        None => None,
    };
    let grants = connect::all(args.many.limit, |cursor, limit| {
        let query = GrantQuery {
            status: args.status.clone(),
            requester: args.mine.then(|| "me".to_owned()),
            machine: machine.clone(),
            request: None,
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.grants(&query).await }
    })
    .await?;
    Ok(output::shown(args.remote.json, grants.as_slice(), listed)?)
}

/// A table of grants; where to connect to stands in it where it is not the machine's own address, and that a firewall is
/// waited for.
pub fn listed(grants: &[Grant]) -> String {
    let cells = |grant: &Grant| {
        [
            grant.id.clone(),
            grant.status.clone(),
            grant.ports.join(" "),
            grant.sources.join(" "),
            output::instant_or_dash(grant.ends_at.or(grant.ended_at)),
        ]
    };
    let is_straight = |grant: &Grant| grant.entrances.is_empty() && held_up(grant).is_none();
    if grants.iter().all(is_straight) {
        let rows = grants.iter().map(|grant| {
            let [id, status, ports, sources, ends] = cells(grant);
            [id, status, ports, sources, ends, grant.machine.clone()]
        });
        return output::table(["GRANT", "STATUS", "PORTS", "SOURCES", "ENDS", "MACHINE"], rows);
    }
    let rows = grants.iter().map(|grant| {
        let [id, status, ports, sources, ends] = cells(grant);
        let told = entrances(grant);
        let connect = match held_up(grant) {
            Some(_) => format!("(the firewall is {})", doing(grant)),
            None if told.is_empty() => "-".to_owned(),
            None => told.join(" "),
        };
        [id, status, ports, sources, ends, connect, grant.machine.clone()]
    });
    output::table(
        [
            "GRANT",
            "STATUS",
            "PORTS",
            "SOURCES",
            "ENDS",
            "CONNECT TO",
            "MACHINE",
        ],
        rows,
    )
}

/// Where to connect to for each port that a firewall maps: `198.51.100.10:50000`, with the machine's port where there
/// are several.
pub fn entrances(grant: &Grant) -> Vec<String> {
    let several = grant.entrances.len() > 1;
    let told = |one: &Entrance| {
        let leads_to = if several {
            format!(" (to {})", one.leads_to)
        } else {
            String::new()
        };
        match one.host.parse() {
            Ok(IpAddr::V6(host)) => format!("[{host}]:{}{leads_to}", one.port),
            _ => format!("{}:{}{leads_to}", one.host, one.port),
        }
    };
    grant.entrances.iter().map(told).collect()
}

/// What is done at the firewall that a grant waits for.
fn doing(grant: &Grant) -> &'static str {
    if grant.status == "closing" {
        "closing"
    } else {
        "opening"
    }
}

/// The firewall that a grant waits for, with why that takes long.
pub fn held_up(grant: &Grant) -> Option<String> {
    let firewall = grant
        .waits_for
        .as_ref()
        .filter(|point| point.starts_with(FIREWALL))?;
    Some(format!(
        "waits for {firewall}, a firewall, whose writes take minutes"
    ))
}

fn show(grant: &Grant, json: bool) -> Result<(), Failure> {
    if json {
        output::json(grant)?;
        return Ok(());
    }
    let mut rows = vec![
        ("Grant", grant.id.clone()),
        ("Status", grant.status.clone()),
        ("Truth", grant.truth.clone()),
        ("Machine", grant.machine.clone()),
        ("Ports", grant.ports.join(" ")),
        ("Sources", grant.sources.join(" ")),
        ("For", output::seconds(grant.duration_seconds)),
        ("Requester", grant.requester.clone()),
        ("Request", grant.request_id.clone()),
        ("Policy", grant.policy_id.clone()),
        ("Made", output::instant(grant.created_at)),
    ];
    rows.extend(entrances(grant).into_iter().map(|one| ("Connect to", one)));
    if let Some(point) = &grant.waits_for {
        let why = if point.starts_with(FIREWALL) {
            ", a firewall, whose writes take minutes"
        } else {
            ""
        };
        rows.push(("Waits for", format!("{point}{why}")));
    }
    for (name, at) in [
        ("Starts", grant.starts_at),
        ("Opened", grant.opened_at),
        ("Ends", grant.ends_at),
        ("Ended", grant.ended_at),
        ("Closed", grant.closed_at),
    ] {
        if let Some(at) = at {
            rows.push((name, output::instant(at)));
        }
    }
    if let Some(cause) = &grant.cause {
        let by = cause
            .by
            .as_ref()
            .map(|by| format!(" by {by}"))
            .unwrap_or_default();
        let reason = cause
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        rows.push(("Cause", format!("{}{by}{reason}", cause.kind)));
    }
    output::line(&output::fields(rows))?;
    output::line("")?;
    let hops = grant.hops.iter().map(|hop| {
        [
            hop.point.clone(),
            hop.state.clone(),
            output::instant_or_dash(hop.read_at),
            hop.blocked_by
                .clone()
                .or_else(|| hop.obstacle.clone())
                .unwrap_or_else(|| "-".to_owned()),
        ]
    });
    output::line(&output::table(["HOP", "STATE", "READ", "IN THE WAY"], hops))?;
    if !grant.findings.is_empty() {
        output::line("")?;
        output::line(&super::machines::findings(&grant.findings))?;
    }
    Ok(())
}

/// Asks for a grant to last longer.
pub async fn extend(args: ExtendArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::grant(&client, &args.id).await?;
    let extend = GrantExtend {
        duration_seconds: request::whole_seconds(args.duration)?,
        reason: args.reason,
    };
    let made = connect::keyed(|key| {
        let (client, id, extend) = (&client, &id, &extend);
        async move { client.extend_grant(id, Some(&key), extend).await }
    })
    .await?;
    request::show(&made, args.remote.json)
}

/// Ends a grant, and waits until it is closed where told to.
pub async fn revoke(args: RevokeArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let id = naming::grant(&client, &args.id).await?;
    let revoke = GrantRevoke { reason: args.reason };
    let mut grant = connect::keyed(|key| {
        let (client, id, revoke) = (&client, &id, &revoke);
        async move { client.revoke_grant(id, Some(&key), revoke).await }
    })
    .await?;
    let mut in_time = true;
    if args.waiting.wait {
        (grant, in_time) = closed(&client, grant, args.waiting.timeout).await?;
    }
    show(&grant, args.remote.json)?;
    if in_time {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::TimedOut,
            format!("not closed yet: {}", grant.truth),
        ))
    }
}

async fn closed(client: &Client, mut grant: Grant, timeout: Duration) -> Result<(Grant, bool), Failure> {
    let said = |grant: &Grant| {
        held_up(grant).map_or_else(|| grant.truth.clone(), |why| format!("rule closing: {why}"))
    };
    let progress = output::Progress::start(said(&grant));
    let deadline = tokio::time::Instant::now() + timeout;
    while grant.status != "closed" {
        if tokio::time::Instant::now() >= deadline {
            return Ok((grant, false));
        }
        tokio::time::sleep(LOOK).await;
        grant = client.grant(&grant.id).await?;
        progress.say(said(&grant));
    }
    Ok((grant, true))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn grant(status: &str, waits_for: Option<&str>, ports: &[u16]) -> Grant {
        Grant {
            id: "grt_1".to_owned(),
            request_id: "req_1".to_owned(),
            policy_id: "pol_1".to_owned(),
            requester: "user:demo/ada".to_owned(),
            machine: "vault".to_owned(),
            ports: vec!["22/tcp".to_owned()],
            sources: vec!["203.0.113.7/32".to_owned()],
            duration_seconds: 60,
            status: status.to_owned(),
            truth: String::new(),
            created_at: DateTime::UNIX_EPOCH,
            not_after: DateTime::UNIX_EPOCH,
            starts_at: None,
            open_deadline: None,
            opened_at: None,
            ends_at: None,
            ended_at: None,
            closed_at: None,
            cause: None,
            entrances: ports
                .iter()
                .map(|port| Entrance {
                    leads_to: "22/tcp".to_owned(),
                    host: "198.51.100.10".to_owned(),
                    port: *port,
                })
                .collect(),
            waits_for: waits_for.map(str::to_owned),
            hops: Vec::new(),
            findings: Vec::new(),
        }
    }

    #[test]
    fn a_table_says_where_to_connect_to_and_that_a_firewall_is_waited_for_where_there_is_one() {
        let firewall = Some("azure:firewall:x/hub/edge");
        let nsg = Some("azure:nsg:x/hub/inner");
        let plain = listed(&[grant("open", None, &[]), grant("opening", nsg, &[])]);
        assert!(!plain.contains("CONNECT TO"), "{plain}");
        let shown = listed(&[grant("opening", firewall, &[]), grant("open", None, &[50000])]);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].contains("CONNECT TO"), "{shown}");
        assert!(lines[1].contains("(the firewall is opening)"), "{shown}");
        assert!(lines[2].contains("198.51.100.10:50000 "), "{shown}");
        assert_eq!(held_up(&grant("opening", nsg, &[])), None);
        let several = entrances(&grant("open", None, &[50000, 50001]));
        assert_eq!(several[1], "198.51.100.10:50001 (to 22/tcp)");
    }
}
