//! `postern demo --check`: the whole story on both clouds, every step checked against what the clouds themselves
//! say.

mod firewall;

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use postern_api::{
    access_request::{AccessRequest, AccessRequestCreate, AccessRequestCreateQuery, AskedTarget},
    client::{Client, ClientError},
    grant::{Grant, GrantRevoke, Hop},
    jit_policy::{Approval, GuardedPorts, JitPolicy, JitPolicyWrite, Lockdown, SharedGroups},
    machine::{Machine, MachineQuery},
    problem::ErrorCode,
};
use postern_core::time::{Clock, IdSource};
use postern_notify::NotifyConfig;

use super::{
    check::Findings,
    stage::{Keeping, Stage},
    trail,
    witness::{Rules, Witness, difference},
};
use crate::{
    exit::{Exit, Failure},
    output,
};

/// The engineer's address.
const ADA: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));
/// Somebody on the internet.
const ANYBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 99));
/// Somebody in the office, whom rules of others let in before the lockdown.
const OFFICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 4));

/// How long the short grants last, in seconds; the shortest that there is.
const SHORT: i64 = 10;
/// How long the long ones last: longer than the story.
const LONG: i64 = 120;
/// The longest that any step may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked while waiting.
const LOOK: Duration = Duration::from_millis(25);

/// Plays the story. The last line of standard output is one JSON object; an invariant that does not hold, or a
/// step that does not come to an end, is a failure.
pub async fn play(clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let stage = Stage::start(Keeping::Nothing, 0, clock, ids, NotifyConfig::default()).await?;
    findings.step(&format!(
        "Postgres, both clouds, the identity provider and the server run; the API is at {}",
        stage.url()
    ))?;
    let told = tell(&stage, &mut findings).await;
    let stopped = stage.stop().await.context("the demo did not stop well");
    for error in [told, stopped].into_iter().filter_map(Result::err) {
        findings.holds(format!("{error:#}"), false)?;
    }
    output::json_line(&findings.document())?;
    match findings.broken().len() {
        0 => Ok(()),
        count => Err(Failure::new(
            Exit::Failure,
            format!("{count} invariants do not hold"),
        )),
    }
}

/// Plays the story on a stage that runs. What does not hold is in the findings; what cannot go on is an error.
pub async fn tell(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    let witness = Witness::new(&stage.fleet);
    let untouched = witness.rules()?;
    let mut story = Story {
        stage,
        findings,
        witness,
        olga: stage.client("olga")?,
        ada: stage.client("ada")?,
    };
    story.discovery().await?;
    let policy = story.lockdown().await?;
    let locked = story.witness.foreign_rules()?;
    story.decision().await?;
    story.grants(&locked).await?;
    story.firewall(&locked).await?;
    story.restoration(&policy, &untouched).await?;
    story.trail().await
}

struct Story<'a> {
    stage: &'a Stage,
    findings: &'a mut Findings,
    witness: Witness<'a>,
    olga: Client,
    ada: Client,
}

impl Story<'_> {
    fn machines(&self) -> Vec<String> {
        let fleet = &self.stage.fleet;
        let open = [&fleet.web, &fleet.db, &fleet.app, &fleet.build];
        let behind = fleet.gate.as_ref().map(|gate| &gate.machine);
        open.into_iter().chain(behind).cloned().collect()
    }

    /// 1. The machines of both clouds are found, each with its posture and the reason.
    async fn discovery(&mut self) -> anyhow::Result<()> {
        let olga = self.olga.clone();
        let count = self.machines().len();
        let found = until("all machines to be discovered", async || {
            let machines = fleet(&olga).await?;
            Ok((machines.len() == count).then_some(machines))
        })
        .await?;
        for machine in &found {
            let name = &machine.name;
            self.findings.holds(
                format!(
                    "{name} is recommended for JIT, with a reason; it is {:?}",
                    machine.posture
                ),
                machine.posture.state == "recommended" && !machine.posture.reason.is_empty(),
            )?;
        }
        let shown: Vec<String> = found
            .iter()
            .map(|machine| {
                format!(
                    "{} {}: {}",
                    machine.name, machine.posture.state, machine.posture.reason
                )
            })
            .collect();
        self.findings.step(&format!("discovered: {}", shown.join("; ")))?;
        Ok(())
    }

    /// 2. A policy on everything closes ports 22 and 3389, and nothing else.
    async fn lockdown(&mut self) -> anyhow::Result<JitPolicy> {
        let guard = |ports: &str| GuardedPorts {
            ports: ports.to_owned(),
            allowed_sources: vec!["203.0.113.0/24".to_owned()],
            max_duration_seconds: 3 * 60 * 60,
        };
        let document = JitPolicyWrite {
            name: "management ports".to_owned(),
            scope: "/".to_owned(),
            tags: std::collections::BTreeMap::new(),
            guards: vec![guard("22"), guard("3389")],
            lockdown: Lockdown::Strict,
            shared_groups: SharedGroups::Refuse,
            approval: Approval::Policy,
            authentication: postern_api::jit_policy::Authentication::default(),
            pending_for_seconds: None,
            justification: None,
        };
        let policy = self.olga.create_jit_policy(None, &document).await?;
        let (witness, machines) = (self.witness, self.machines());
        until("the guarded ports to be closed", async || {
            let open = machines.iter().any(|machine| {
                [ADA, ANYBODY, OFFICE, IpAddr::from([10, 9, 9, 9])]
                    .iter()
                    .any(|source| {
                        [22, 3389]
                            .iter()
                            .any(|port| witness.reaches(machine, *source, *port))
                    })
            });
            Ok((!open).then_some(()))
        })
        .await?;
        let fleet_of = &self.stage.fleet;
        for (machine, source, port) in [
            (&fleet_of.web, ANYBODY, 443),
            (&fleet_of.app, ANYBODY, 443),
            (&fleet_of.build, OFFICE, 21),
            (&fleet_of.build, OFFICE, 23),
            (&fleet_of.build, IpAddr::from([10, 9, 9, 9]), 5432),
        ] {
            self.findings.holds(
                format!("the lockdown leaves port {port} of {machine} open for {source}"),
                self.witness.reaches(machine, source, port),
            )?;
        }
        let olga = self.olga.clone();
        until("every posture to be `configured`", async || {
            let machines = fleet(&olga).await?;
            Ok(machines
                .iter()
                .all(|machine| machine.posture.state == "configured")
                .then_some(()))
        })
        .await?;
        self.findings.step(&format!(
            "policy {} locked ports 22 and 3389 down on all {} machines; other ports are as they were",
            policy.id,
            machines.len()
        ))?;
        Ok(policy)
    }

    /// 3. Without a role the answer is 403 and names what is missing; with one the request is approved.
    async fn decision(&mut self) -> anyhow::Result<()> {
        let fleet = &self.stage.fleet;
        let refused = ask(&self.ada, &[&fleet.web], 60, "no role yet").await;
        let problem = refused.as_ref().err().and_then(ClientError::problem).cloned();
        self.findings.holds(
            format!("a request without a role is refused with what is missing; the answer was {refused:?}"),
            problem.as_ref().is_some_and(|problem| {
                problem.status == 403
                    && problem.code == ErrorCode::Forbidden
                    && problem.detail.contains("request")
            }),
        )?;
        self.stage.give_roles().await?;
        let detail = problem.map(|problem| problem.detail).unwrap_or_default();
        self.findings.step(&format!("without a role: 403, {detail}"))?;
        Ok(())
    }

    /// 4. Ports open for whom they were asked, are closed by the end of time and by revocation, and stay open while
    ///    any grant wants them.
    async fn grants(&mut self, locked: &Rules) -> anyhow::Result<()> {
        let fleet = &self.stage.fleet;
        let short = ask(
            &self.ada,
            &[&fleet.web, &fleet.db, &fleet.app, &fleet.build],
            SHORT,
            "story: disk full",
        )
        .await?;
        let short = self.opened(short).await?;
        for grant in &short.grants {
            self.open_as_asked(grant, locked)?;
        }
        self.findings.step(
            "port 22 is open from 203.0.113.7 on four machines, for ten seconds, and from nowhere else",
        )?;

        let long = ask(&self.ada, &[&fleet.web, &fleet.app], LONG, "story: still at it").await?;
        let long = self.opened(long).await?;
        self.findings
            .step("a second, overlapping grant is open on web-1 and app-1")?;

        for grant in &short.grants {
            let closed = closed(&self.ada, &grant.id).await?;
            let cause = closed
                .cause
                .as_ref()
                .map(|cause| cause.kind.clone())
                .unwrap_or_default();
            self.findings.holds(
                format!("{} expired; its cause is {cause}", grant.id),
                cause == "expired",
            )?;
            let overlapped = long.grants.iter().any(|other| other.machine == grant.machine);
            let reaches = self.witness.reaches(&grant.machine, ADA, 22);
            if overlapped {
                let spans = self.witness.spans(&grant.machine, ADA, 22);
                self.findings.holds(
                    format!(
                        "the overlapping grant on {} survives without a gap",
                        grant.machine
                    ),
                    reaches
                        && spans
                            .iter()
                            .filter(|span| Some(span.from) >= grant.created_at.into())
                            .count()
                            == 1,
                )?;
            } else {
                self.findings
                    .holds(format!("{} is closed after its time", grant.machine), !reaches)?;
                self.lag(&closed)?;
            }
        }
        self.findings.step("the ten seconds are over: db-1 and build-1 are closed, web-1 and app-1 stay open for the other grant")?;

        for grant in &long.grants {
            let why = GrantRevoke {
                reason: Some("story: done".to_owned()),
            };
            self.ada.revoke_grant(&grant.id, None, &why).await?;
        }
        for grant in &long.grants {
            let closed = closed(&self.ada, &grant.id).await?;
            self.lag(&closed)?;
            self.findings.holds(
                format!("{} is closed after the revocation", grant.machine),
                !self.witness.reaches(&grant.machine, ADA, 22),
            )?;
        }
        let left = difference(locked, &self.witness.foreign_rules()?);
        self.findings.holds(
            format!("others' rules are as the lockdown left them: {left:?}"),
            left.is_empty(),
        )?;
        self.findings
            .step("the revoked grants are closed; nothing of anybody else's was touched")?;
        Ok(())
    }

    /// Waits for the grants of a request to be open and notes how long that took.
    async fn opened(&mut self, request: AccessRequest) -> anyhow::Result<AccessRequest> {
        let ada = self.ada.clone();
        let id = request.id;
        let request = until("the grants to be open", async || {
            let request = ada.access_request(&id).await?;
            if let Some(failed) = request
                .grants
                .iter()
                .find(|grant| !matches!(grant.status.as_str(), "opening" | "open"))
            {
                bail!("{} is {}: {}", failed.id, failed.status, failed.truth);
            }
            let open =
                !request.grants.is_empty() && request.grants.iter().all(|grant| grant.status == "open");
            Ok(open.then_some(request))
        })
        .await?;
        for grant in &request.grants {
            let took = grant
                .opened_at
                .map(|at| at - request.created_at)
                .and_then(|took| took.to_std().ok());
            self.findings.took(
                way(grant),
                "open_ms",
                took.context("an open grant says since when")?,
            );
        }
        Ok(request)
    }

    fn open_as_asked(&mut self, grant: &Grant, locked: &Rules) -> anyhow::Result<()> {
        let machine = &grant.machine;
        let hops = grant
            .hops
            .iter()
            .filter(|hop| hop.state == "present" && hop.read_at.is_some())
            .count();
        self.findings.holds(
            format!("every hop of {machine} was read back as open: {:?}", grant.hops),
            !grant.hops.is_empty() && hops == grant.hops.len(),
        )?;
        self.findings.holds(
            format!("{machine} lets 203.0.113.7 in"),
            self.witness.reaches(machine, ADA, 22),
        )?;
        for (source, port) in [
            (ADA, 3389),
            (IpAddr::from([203, 0, 113, 8]), 22),
            (ANYBODY, 22),
            (OFFICE, 22),
        ] {
            self.findings.holds(
                format!("{machine} keeps port {port} closed for {source}"),
                !self.witness.reaches(machine, source, port),
            )?;
        }
        let touched = difference(locked, &self.witness.foreign_rules()?);
        self.findings.holds(
            format!("others' rules are untouched: {touched:?}"),
            touched.is_empty(),
        )?;
        Ok(())
    }

    /// How long after its end a grant was read back as closed.
    fn lag(&mut self, grant: &Grant) -> anyhow::Result<()> {
        let (ended, closed) = grant
            .ended_at
            .zip(grant.closed_at)
            .context("a closed grant says when it ended")?;
        let lag = (closed - ended)
            .to_std()
            .context("a grant is closed after its end")?;
        self.findings.took(way(grant), "close_ms", lag);
        // What the cloud itself saw, which is the moment that counts.
        let last = self
            .witness
            .spans(&grant.machine, ADA, 22)
            .last()
            .and_then(|span| span.to);
        self.findings.holds(
            format!(
                "{} was reachable until {last:?}, within a second of the grant's end at {ended}",
                grant.machine
            ),
            last.is_some_and(|last| last - ended <= chrono::TimeDelta::seconds(1)),
        )?;
        Ok(())
    }

    /// 6. Without the policy everything is as it was before.
    async fn restoration(&mut self, policy: &JitPolicy, untouched: &Rules) -> anyhow::Result<()> {
        self.olga.delete_jit_policy(&policy.id, policy.version).await?;
        let witness = self.witness;
        let restored = until("the prior rules to be back", async || {
            Ok(difference(untouched, &witness.rules()?).is_empty().then_some(()))
        })
        .await;
        if restored.is_err() {
            let left = difference(untouched, &self.witness.rules()?);
            self.findings
                .holds(format!("the prior rules are back: {left:?}"), false)?;
        }
        let fleet = &self.stage.fleet;
        for (machine, source) in [
            (&fleet.web, ANYBODY),
            (&fleet.db, OFFICE),
            (&fleet.app, ANYBODY),
            (&fleet.build, OFFICE),
        ] {
            self.findings.holds(
                format!("{machine} lets {source} in as before"),
                self.witness.reaches(machine, source, 22),
            )?;
        }
        self.findings
            .step("without the policy every rule and every interface is as it was before")?;
        Ok(())
    }

    /// 7. The audit log tells all of it.
    async fn trail(&mut self) -> anyhow::Result<()> {
        let (olga, witness) = (self.olga.clone(), self.witness);
        // The outcome of the last change may be on its way.
        let told = until("every intent to have an outcome", async || {
            let events = trail::all(&olga).await?;
            Ok(trail::unsettled(&events).is_empty().then_some(events))
        })
        .await?;
        let writes = witness.writes();
        for problem in trail::problems(&told, &writes) {
            self.findings.holds(problem, false)?;
        }
        self.findings.step(&format!(
            "{} audit events: each of the {} cloud writes has its intent and its outcome, each decision says what decided it",
            told.len(),
            writes.len()
        ))?;
        Ok(())
    }
}

async fn fleet(client: &Client) -> anyhow::Result<Vec<Machine>> {
    Ok(client.machines(&MachineQuery::default()).await?.items)
}

async fn ask(
    client: &Client,
    machines: &[&str],
    seconds: i64,
    reason: &str,
) -> Result<AccessRequest, ClientError> {
    let request = AccessRequestCreate {
        targets: machines
            .iter()
            .map(|machine| AskedTarget {
                machine: (*machine).to_owned(),
                ports: vec!["22".to_owned()],
                sources: Some(vec!["203.0.113.7/32".to_owned()]),
            })
            .collect(),
        duration_seconds: seconds,
        reason: reason.to_owned(),
        ticket: None,
        starts_at: None,
        mode: None,
    };
    client
        .create_access_request(None, &AccessRequestCreateQuery::default(), &request)
        .await
}

async fn closed(client: &Client, id: &str) -> anyhow::Result<Grant> {
    until("a grant to be closed", async || {
        let grant = client.grant(id).await?;
        Ok((grant.status == "closed").then_some(grant))
    })
    .await
}

/// What latencies are told by: a firewall takes its own time.
fn way(grant: &Grant) -> &'static str {
    let firewall = |hop: &Hop| hop.point.starts_with("azure:firewall");
    if grant.hops.iter().any(firewall) {
        "azure_firewall"
    } else if grant.machine.starts_with('/') {
        "azure"
    } else {
        "aws"
    }
}

/// Looks until there is something, for as long as there is patience.
async fn until<T>(what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let waiting = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| bail!("waited {PATIENCE:?} for {what}, in vain"))
}
