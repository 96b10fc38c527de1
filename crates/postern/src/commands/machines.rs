//! `postern machines`, and which machine a name means.

use postern_api::{
    client::Client,
    machine::{Finding, Machine, MachineDetail, MachineQuery},
};

use crate::{
    cli::{GetCommand, MachinesArgs, MachinesListArgs},
    connect,
    exit::{Exit, Failure},
    output,
};

/// Lists machines, or shows one.
pub async fn run(args: MachinesArgs) -> Result<(), Failure> {
    match args.command {
        None => list(args.list).await,
        Some(GetCommand::Get(one)) => {
            let client = connect::client(&one.remote)?;
            let id = resolve(&client, &one.id).await?;
            let machine = client.machine(&id).await?;
            if one.remote.json {
                output::json(&machine)?;
            } else {
                show(&machine)?;
            }
            Ok(())
        }
    }
}

async fn list(args: MachinesListArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let machines = connect::all(args.many.limit, |cursor, limit| {
        let query = MachineQuery {
            posture: args.posture.clone(),
            scope: args.scope.clone(),
            tag: args.tag.clone(),
            text: args.text.clone(),
            cloud: args.cloud.clone(),
            drift: args.drift.then_some(true),
            cursor,
            limit: Some(limit),
        };
        let client = &client;
        async move { client.machines(&query).await }
    })
    .await?;
    if args.remote.json {
        output::json(&machines)?;
        return Ok(());
    }
    if machines.is_empty() {
        output::note("no machine that you may see fits")?;
    }
    let rows = machines.into_iter().map(|machine| {
        [
            machine.name,
            machine.cloud,
            machine.power,
            machine.posture.state,
            output::reason(&machine.posture.reason, args.wide),
            machine.scope,
        ]
    });
    output::line(&output::table(
        ["NAME", "CLOUD", "POWER", "POSTURE", "WHY", "SCOPE"],
        rows,
    ))?;
    Ok(())
}

/// What was noticed, as a table.
pub(crate) fn findings(found: &[Finding]) -> String {
    let rows = found.iter().map(|finding| {
        [
            finding.code.clone(),
            output::instant(finding.found_at),
            output::instant_or_dash(finding.resolved_at),
            finding.message.clone(),
            finding.point.clone(),
        ]
    });
    output::table(["FINDING", "FOUND", "RESOLVED", "WHAT", "AT"], rows)
}

fn show(detail: &MachineDetail) -> Result<(), Failure> {
    let machine = &detail.machine;
    let tags: Vec<String> = machine
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let policy = detail.policy.as_ref().map_or_else(
        || "-".to_owned(),
        |policy| format!("{} ({})", policy.name, policy.id),
    );
    output::line(&output::fields([
        ("Name", machine.name.clone()),
        ("Id", machine.id.clone()),
        ("Scope", machine.scope.clone()),
        ("Power", machine.power.clone()),
        ("Tags", tags.join(" ")),
        (
            "Posture",
            format!("{}: {}", machine.posture.state, machine.posture.reason),
        ),
        ("Policy", policy),
        ("Seen", output::instant(machine.seen_at)),
    ]))?;
    output::line("")?;
    let interfaces = detail.interfaces.iter().map(|interface| {
        [
            interface.id.clone(),
            interface.addresses.join(" "),
            interface.public_addresses.join(" "),
        ]
    });
    output::line(&output::table(["INTERFACE", "PRIVATE", "PUBLIC"], interfaces))?;
    output::line("")?;
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let points = detail
        .points
        .iter()
        .map(|point| [point.point.clone(), yes(point.opens), yes(point.locks)]);
    output::line(&output::table(["ENFORCEMENT POINT", "OPENS", "LOCKS"], points))?;
    output::line("")?;
    if !detail.findings.is_empty() {
        output::line(&findings(&detail.findings))?;
        output::line("")?;
    }
    let may = detail
        .may_request
        .iter()
        .map(|may| [may.principal.clone(), may.role.clone(), may.scope.clone()]);
    output::line(&output::table(["MAY REQUEST", "ROLE", "AT"], may))?;
    Ok(())
}

/// The id of the machine that `text` means: an id as it stands, or the name of exactly one machine.
pub async fn resolve(client: &Client, text: &str) -> Result<String, Failure> {
    if text.starts_with('/') || text.starts_with("arn:") {
        return Ok(text.to_owned());
    }
    let found = connect::all(u32::MAX, |cursor, limit| {
        let query = MachineQuery {
            text: Some(text.to_owned()),
            cursor,
            limit: Some(limit),
            ..MachineQuery::default()
        };
        async move { client.machines(&query).await }
    })
    .await?;
    one_named(text, &found)
}

fn one_named(text: &str, found: &[Machine]) -> Result<String, Failure> {
    let named: Vec<&Machine> = found
        .iter()
        .filter(|machine| {
            let short = machine.scope.rsplit('/').next();
            machine.name.eq_ignore_ascii_case(text)
                || short.is_some_and(|short| short.eq_ignore_ascii_case(text))
        })
        .collect();
    match named.as_slice() {
        [machine] => Ok(machine.id.clone()),
        [] => Err(Failure::new(
            Exit::NotFound,
            format!("no machine that you may see is named `{text}`"),
        )),
        several => {
            let ids: Vec<&str> = several.iter().map(|machine| machine.id.as_str()).collect();
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "{} machines are named `{text}`; say which: {}",
                    ids.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use postern_api::machine::Posture;

    use super::*;

    fn machine(name: &str, scope: &str) -> Machine {
        Machine {
            id: format!("id-of-{scope}"),
            cloud: "aws".to_owned(),
            scope: scope.to_owned(),
            name: name.to_owned(),
            tags: std::collections::BTreeMap::new(),
            power: "running".to_owned(),
            posture: Posture {
                state: "healthy".to_owned(),
                reason: String::new(),
            },
            policy_id: None,
            seen_at: DateTime::UNIX_EPOCH,
            gone_at: None,
        }
    }

    #[test]
    fn a_name_means_a_machine_only_when_one_machine_has_it() {
        let fleet = [
            machine("web", "/a/1"),
            machine("Web", "/a/2"),
            machine("web-2", "/a/3"),
            machine("db", "/a/i-9"),
        ];
        assert_eq!(one_named("web", &fleet).unwrap_err().exit(), Exit::Usage);
        assert_eq!(one_named("WEB-2", &fleet).unwrap(), "id-of-/a/3");
        assert_eq!(one_named("i-9", &fleet).unwrap(), "id-of-/a/i-9");
        assert_eq!(one_named("we", &fleet).unwrap_err().exit(), Exit::NotFound);
    }
}
