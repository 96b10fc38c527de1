//! `postern request`: asks for ports, and waits for them where told to.

use std::time::Duration;

use postern_api::{
    access_request::{AccessRequest, AccessRequestCreate, AccessRequestCreateQuery, AskedTarget, Mode},
    client::Client,
    preflight::{AccessRequestDryRun, PreflightNote},
    review::BreakGlassQuery,
};

use super::machines;
use crate::{
    cli::RequestArgs,
    connect,
    exit::{Exit, Failure},
    output,
};

/// How often a request is looked at while waiting.
const LOOK: Duration = Duration::from_millis(300);

/// Asks for ports.
pub async fn run(args: RequestArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let mut targets = Vec::with_capacity(args.machines.len());
    for machine in &args.machines {
        targets.push(AskedTarget {
            machine: machines::resolve(&client, machine).await?,
            ports: args.ports.clone(),
            // The server sees where the request comes from.
            sources: (!args.sources.is_empty()).then(|| args.sources.clone()),
        });
    }
    let request = AccessRequestCreate {
        targets,
        duration_seconds: whole_seconds(args.duration)?,
        reason: args.reason,
        ticket: args.ticket,
        starts_at: args.starts_at,
        mode: args.best_effort.then_some(Mode::BestEffort),
    };
    if args.dry_run {
        return show_dry_run(&client.dry_run_access_request(&request).await?, args.remote.json);
    }
    let query = AccessRequestCreateQuery::default();
    let made = connect::keyed(|key| {
        let (client, query, request) = (&client, &query, &request);
        let break_glass = args.break_glass;
        async move {
            if break_glass {
                let query = BreakGlassQuery::default();
                client.break_glass(Some(&key), &query, request).await
            } else {
                client.create_access_request(Some(&key), query, request).await
            }
        }
    })
    .await?;
    if args.waiting.wait {
        let waited = wait(&client, made, args.waiting.timeout).await?;
        show(&waited.request, args.remote.json)?;
        waited.verdict()
    } else {
        show(&made, args.remote.json)
    }
}

pub(super) fn whole_seconds(duration: Duration) -> Result<i64, Failure> {
    if duration.subsec_nanos() != 0 {
        return Err(Failure::new(Exit::Usage, "--for is a whole number of seconds"));
    }
    i64::try_from(duration.as_secs()).map_err(|_| Failure::new(Exit::Usage, "--for is absurdly long"))
}

struct Waited {
    request: AccessRequest,
    in_time: bool,
}

/// Waits until every grant is open, or one cannot become so, or the time is over.
async fn wait(client: &Client, made: AccessRequest, timeout: Duration) -> Result<Waited, Failure> {
    let progress = output::Progress::start(said(&made));
    let deadline = tokio::time::Instant::now() + timeout;
    let mut request = made;
    loop {
        if settled(&request) {
            return Ok(Waited {
                request,
                in_time: true,
            });
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(Waited {
                request,
                in_time: false,
            });
        }
        tokio::time::sleep(LOOK).await;
        request = client.access_request(&request.id).await?;
        progress.say(said(&request));
    }
}

fn said(request: &AccessRequest) -> String {
    if request.status == "pending" {
        return format!("{} waits for an approval", request.id);
    }
    let open = request
        .grants
        .iter()
        .filter(|grant| grant.status == "open")
        .count();
    let mut said = format!("{open} of {} grants open", request.grants.len());
    let mut opening = request.grants.iter().filter(|grant| grant.status == "opening");
    if let Some(why) = opening.find_map(super::grants::held_up) {
        said = format!("{said}; {why}");
    }
    said
}

/// Nothing is left to wait for.
fn settled(request: &AccessRequest) -> bool {
    match request.status.as_str() {
        "pending" => false,
        "approved" => request.grants.iter().all(|grant| grant.status != "opening"),
        _ => true,
    }
}

impl Waited {
    fn verdict(&self) -> Result<(), Failure> {
        let request = &self.request;
        if !self.in_time {
            return Err(Failure::new(
                Exit::TimedOut,
                format!("not open yet: {}; it may still become so", said(request)),
            ));
        }
        match request.status.as_str() {
            "approved" => {}
            "denied" => {
                let why = request
                    .decision
                    .as_ref()
                    .and_then(|decision| decision.reason.clone());
                return Err(Failure::new(
                    Exit::Denied,
                    format!(
                        "turned down: {}",
                        why.unwrap_or_else(|| "no reason given".to_owned())
                    ),
                ));
            }
            other => return Err(Failure::new(Exit::Conflict, format!("the request is {other}"))),
        }
        let failed: Vec<String> = request
            .grants
            .iter()
            .filter(|grant| grant.status != "open")
            .map(|grant| format!("{}: {}", grant.machine, grant.truth))
            .collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(Exit::Failure, failed.join("; ")))
        }
    }
}

/// Prints what a request would come to, run into and write.
fn show_dry_run(dry: &AccessRequestDryRun, json: bool) -> Result<(), Failure> {
    if json {
        output::json(dry)?;
        return Ok(());
    }
    show(&dry.request, false)?;
    let mut rows = Vec::new();
    for decision in &dry.decisions {
        rows.push((
            "Allowed",
            format!("{}: {}", decision.machine, decision.explanation),
        ));
        rows.push(("Policy", decision.policy_name.clone()));
    }
    for way in &dry.preflight {
        let notes = |kind, notes: &[PreflightNote]| {
            let told = notes.iter().map(move |note| (kind, note.detail.clone()));
            told.collect::<Vec<_>>()
        };
        rows.extend(notes("In the way", &way.obstacles));
        rows.extend(notes("Worth knowing", &way.warnings));
    }
    for point in &dry.writes {
        let at = &point.point;
        let changes = point.changes.iter().map(|change| &change.summary);
        rows.extend(changes.map(|summary| ("Would write", format!("{at}: {summary}"))));
        let obstacles = point.obstacles.iter().map(|one| &one.detail);
        rows.extend(obstacles.map(|detail| ("In the way", format!("{at}: {detail}"))));
        if let Some(reason) = &point.unread {
            rows.push(("Not read", format!("{at}: {reason}")));
        }
    }
    output::line("")?;
    output::line(&output::fields(rows))?;
    Ok(())
}

/// Prints a request with its grants.
pub fn show(request: &AccessRequest, json: bool) -> Result<(), Failure> {
    if json {
        output::json(request)?;
        return Ok(());
    }
    let mut rows = vec![
        ("Request", request.id.clone()),
        ("Status", request.status.clone()),
        ("Requester", request.requester.clone()),
        ("For", output::seconds(request.duration_seconds)),
        ("Reason", request.reason.clone()),
        ("Made", output::instant(request.created_at)),
    ];
    if let Some(ticket) = &request.ticket {
        rows.push(("Ticket", ticket.clone()));
    }
    if let Some(starts_at) = request.starts_at {
        rows.push(("Starts", output::instant(starts_at)));
    }
    if let Some(grant) = &request.extends {
        rows.push(("Extends", grant.clone()));
    }
    if request.targets.len() > 1 {
        let mode = match request.mode {
            Mode::AllOrNothing => "all or nothing",
            Mode::BestEffort => "best effort",
        };
        rows.push(("Machines", mode.to_owned()));
    }
    for one in &request.not_opened {
        rows.push(("Not opened", format!("{}: {}", one.machine, one.reason)));
    }
    if request.dry_run {
        rows.insert(1, ("Dry run", "nothing of this exists".to_owned()));
    }
    if let Some(lapses) = request.lapses_at {
        rows.push(("Lapses", output::instant(lapses)));
    }
    for agreement in &request.agreements {
        let narrowed = if agreement.narrowed { ", for less" } else { "" };
        let comment = agreement.comment.as_ref().map(|comment| format!(": {comment}"));
        rows.push((
            "Agreed",
            format!(
                "{} by {}{narrowed}{}",
                output::instant(agreement.at),
                agreement.by,
                comment.unwrap_or_default()
            ),
        ));
    }
    for awaited in &request.awaits {
        let mut who = awaited.approvers.clone();
        who.extend(awaited.role.as_ref().map(|role| format!("the role {role}")));
        if who.is_empty() {
            who.push("anybody who may approve".to_owned());
        }
        rows.push((
            "Waits for",
            format!(
                "{} of {} (stage {} of {}, policy {}; {} agreed)",
                awaited.needs,
                who.join(", "),
                awaited.stage,
                awaited.of,
                awaited.policy_name,
                awaited.have
            ),
        ));
    }
    if let Some(decision) = &request.decision {
        let reason = decision
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        rows.push((
            "Decided",
            format!("{} by {}{reason}", output::instant(decision.at), decision.by),
        ));
    }
    for exposure in &request.exposures {
        let name = if exposure.code == "stopped" {
            "Led there"
        } else {
            "Open anyway"
        };
        let machine = exposure.machine.rsplit('/').next().unwrap_or_default();
        rows.push((name, format!("{machine}: {}", exposure.detail)));
    }
    output::line(&output::fields(rows))?;
    if request.grants.is_empty() {
        output::line("")?;
        let targets = request.targets.iter().map(|target| {
            [
                target.machine.clone(),
                target.ports.join(" "),
                target.sources.join(" "),
            ]
        });
        output::line(&output::table(["MACHINE", "PORTS", "SOURCES"], targets))?;
    } else {
        output::line("")?;
        output::line(&super::grants::listed(&request.grants))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn request(status: &str) -> AccessRequest {
        AccessRequest {
            id: "req_1".to_owned(),
            requester: "user:demo/ada".to_owned(),
            targets: Vec::new(),
            duration_seconds: 60,
            reason: "x".to_owned(),
            ticket: None,
            starts_at: None,
            mode: Mode::default(),
            extends: None,
            not_opened: Vec::new(),
            status: status.to_owned(),
            created_at: DateTime::UNIX_EPOCH,
            lapses_at: None,
            awaits: Vec::new(),
            agreements: Vec::new(),
            decision: None,
            grants: Vec::new(),
            exposures: Vec::new(),
            dry_run: false,
        }
    }

    #[test]
    fn the_exit_code_tells_turned_down_from_late() {
        let verdict = |status: &str, in_time| {
            let waited = Waited {
                request: request(status),
                in_time,
            };
            waited.verdict().map_err(|failure| failure.exit())
        };
        assert_eq!(verdict("approved", true), Ok(()));
        assert_eq!(verdict("denied", true), Err(Exit::Denied));
        assert_eq!(verdict("pending", false), Err(Exit::TimedOut));
        assert_eq!(verdict("lapsed", true), Err(Exit::Conflict));
    }

    #[test]
    fn a_duration_is_whole_seconds() {
        assert_eq!(whole_seconds(Duration::from_secs(90)).unwrap(), 90);
        assert!(whole_seconds(Duration::from_millis(1500)).is_err());
    }
}
