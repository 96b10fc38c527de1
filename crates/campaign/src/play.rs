//! Plays a script: both clouds and their twins, two servers, one database, and whatever befalls them.

mod asking;
mod config;
mod rest;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use asking::call;
use config::config;
use postern::demo::{issuer::Issuer, people::ISSUER_NAME};
use postern_api::{
    access_request::AccessRequestDeny,
    grant::{GrantExtend, GrantRevoke},
    machine::MachineQuery,
    role::RoleAssignmentCreate,
};
use postern_core::time::{Clock as _, Instant, RandomIds, SystemClock};
use postern_localpg::LocalPostgres;
use postern_sim::{Effect, FaultId, FaultRule, When};
use secrecy::SecretString;

use crate::{
    clouds::{self, Clouds},
    edit,
    lag::Disturbances,
    script::{Cloud, Document, Edit, Script, Step, Strikes, Trouble},
    server::Server,
    shapes, template,
};

/// How long everything may take to come to rest at the end: attempts are at most a minute apart, says the closing lag
/// that is published.
const PATIENCE: Duration = Duration::from_secs(80);
/// The same, where the servers are broken on purpose and never will.
const SHORT_PATIENCE: Duration = Duration::from_secs(15);

/// Everything of one run.
#[derive(Debug)]
pub struct Stage {
    script: Script,
    /// What Postern guards.
    pub real: Clouds,
    /// What foreign edits alone make of it.
    pub twin: Clouds,
    issuer: Issuer,
    postgres: Option<LocalPostgres>,
    database: SecretString,
    servers: [Server; 2],
    /// What was broken when.
    pub disturbances: Disturbances,
    faults: Vec<Fault>,
    contested: Vec<edit::Contested>,
    papers: edit::Papers,
    patience: Duration,
    policies: u32,
    turn: usize,
    begun: Instant,
    /// What happened, line by line.
    pub history: Vec<String>,
    /// The shapes of the steps that were not refused.
    pub shapes: BTreeSet<&'static str>,
}

#[derive(Debug)]
struct Fault {
    name: String,
    cloud: Cloud,
    completions: bool,
    id: FaultId,
    steps: u32,
}

fn now() -> Instant {
    SystemClock.now()
}

impl Stage {
    /// Starts everything and waits until both servers serve and the fleet is discovered.
    pub async fn set(
        script: &Script,
        template: &Path,
        directory: &Path,
        sabotage: Option<String>,
    ) -> anyhow::Result<Self> {
        let (real, twin) = (Clouds::start(script).await?, Clouds::start(script).await?);
        anyhow::ensure!(real.built == twin.built, "the twin has other ids");
        // Instances begin to run a moment after they were launched.
        tokio::time::sleep(Duration::from_millis(script.transition_ms + 20)).await;
        let apart = clouds::difference(&twin.rules(), &real.rules());
        anyhow::ensure!(
            apart.is_empty(),
            "the twin stands differently:\n{}",
            apart.join("\n")
        );
        let issuer = Issuer::start(Arc::new(SystemClock), &RandomIds).await?;
        let postgres = template::copy(template, &directory.join("database")).await?;
        let url = postgres.url();
        let config = config(&url, &issuer, &real);
        let [first, second] = script.skew_ms;
        let server = |name, ahead| Server::new(name, directory, config.clone(), ahead, sabotage.clone());
        let mut stage = Self {
            script: script.clone(),
            servers: [server("a", first), server("b", second)],
            real,
            twin,
            issuer,
            postgres: Some(postgres),
            database: SecretString::from(url),
            disturbances: Disturbances::default(),
            faults: Vec::new(),
            contested: Vec::new(),
            papers: edit::Papers::default(),
            patience: if sabotage.is_some() {
                SHORT_PATIENCE
            } else {
                PATIENCE
            },
            policies: 0,
            turn: 0,
            begun: now(),
            history: Vec::new(),
            shapes: BTreeSet::new(),
        };
        for server in &mut stage.servers {
            server.start(None)?;
        }
        for server in &mut stage.servers {
            if !server.ready(Duration::from_secs(40)).await {
                // Its port was taken between the choice and the start.
                server.start(None)?;
                anyhow::ensure!(
                    server.ready(Duration::from_secs(40)).await,
                    "a server does not start"
                );
            }
        }
        stage.people().await?;
        stage.discovered().await?;
        stage.say("the fleet is discovered");
        Ok(stage)
    }

    async fn people(&mut self) -> anyhow::Result<()> {
        for (who, role) in [("ada", "requester"), ("sam", "approver")] {
            let assignment = RoleAssignmentCreate {
                role: role.to_owned(),
                principal: format!("user:{ISSUER_NAME}/{who}"),
                scope: "/".to_owned(),
                ..RoleAssignmentCreate::default()
            };
            self.client("olga")?
                .create_role_assignment(None, &assignment)
                .await?;
        }
        Ok(())
    }

    async fn discovered(&mut self) -> anyhow::Result<()> {
        let machines = self.real.built.machines().count();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let page = self.client("olga")?.machines(&MachineQuery::default()).await;
            if page.is_ok_and(|page| page.items.len() >= machines) {
                return Ok(());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "the fleet is not discovered"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn say(&mut self, what: impl AsRef<str>) {
        let at = now();
        let since = at - self.begun;
        self.history.push(format!(
            "{} +{:>6} ms  {}",
            at.format("%H:%M:%S%.3f"),
            since.num_milliseconds(),
            what.as_ref()
        ));
    }

    /// Plays every step.
    pub async fn play(&mut self) {
        for (number, (after, step)) in self.script.steps.clone().into_iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(after)).await;
            self.age_faults();
            let result = self.step(number, &step).await;
            let outcome = match result {
                Ok(said) => {
                    self.shapes.extend(shapes::of_step(&step));
                    said
                }
                Err(error) => format!("no: {error:#}"),
            };
            self.say(format!("{number}. {step:?} -> {outcome}"));
        }
    }

    async fn step(&mut self, number: usize, step: &Step) -> anyhow::Result<String> {
        match step {
            Step::CreatePolicy(spec) => {
                let policy = self.policy(spec)?;
                let made = call(self.client("olga")?.create_jit_policy(None, &policy)).await?;
                Ok(made.id)
            }
            Step::UpdatePolicy(nth, spec) => {
                let standing = self.list_policies().await?;
                let old = pick(&standing, *nth)?;
                let mut policy = self.policy(spec)?;
                policy.name.clone_from(&old.name);
                let client = self.client("olga")?;
                call(client.update_jit_policy(&old.id, old.version, &policy)).await?;
                Ok(old.id.clone())
            }
            Step::DeletePolicy(nth) => {
                let standing = self.list_policies().await?;
                let policy = pick(&standing, *nth)?;
                let client = self.client("olga")?;
                call(client.delete_jit_policy(&policy.id, policy.version)).await?;
                Ok(policy.id.clone())
            }
            Step::Request {
                machines,
                ports,
                sources,
                seconds,
                starts_in_ms,
            } => {
                let request = self.request(machines, ports, sources, *seconds, *starts_in_ms)?;
                let made = self.ask(number, &request).await?;
                Ok(format!(
                    "{} {} {:?}",
                    made.id,
                    made.status,
                    made.grants.iter().map(|grant| &grant.id).collect::<Vec<_>>()
                ))
            }
            Step::Approve(nth) => {
                let pending = self.pending().await?;
                let request = pick(&pending, *nth)?;
                call(self.client("sam")?.approve_access_request(&request.id, None)).await?;
                Ok(request.id.clone())
            }
            Step::Deny(nth) => {
                let pending = self.pending().await?;
                let request = pick(&pending, *nth)?;
                let deny = AccessRequestDeny {
                    reason: "not now".to_owned(),
                };
                call(self.client("sam")?.deny_access_request(&request.id, None, &deny)).await?;
                Ok(request.id.clone())
            }
            Step::Revoke(nth) => {
                let mut grants = self.grants().await?;
                grants.retain(|grant| matches!(grant.status.as_str(), "opening" | "open"));
                let grant = pick(&grants, *nth)?;
                let client = self.client("olga")?;
                call(client.revoke_grant(&grant.id, None, &GrantRevoke::default())).await?;
                Ok(grant.id.clone())
            }
            Step::Extend(nth, seconds) => {
                let mut grants = self.grants().await?;
                grants.retain(|grant| grant.status == "open");
                let grant = pick(&grants, *nth)?;
                let extend = GrantExtend {
                    duration_seconds: *seconds,
                    reason: "it takes longer".to_owned(),
                };
                let made = call(self.client("ada")?.extend_grant(&grant.id, None, &extend)).await?;
                Ok(format!("{} {} {}", grant.id, made.id, made.status))
            }
            Step::Edit(
                edit @ (Edit::Firewall(_)
                | Edit::SecondFirewall(_)
                | Edit::Replay(Document::Firewall | Document::OurGroup)),
            ) => self.edit_firewall(edit).await,
            Step::Edit(edit) => self.edit(edit),
            Step::Fault {
                cloud,
                operation,
                strikes,
                trouble,
                steps,
            } => {
                let rule = FaultRule {
                    operation: (*operation).to_owned(),
                    when: when(*strikes),
                    effect: effect(*cloud, *trouble),
                };
                self.break_calls(number, *cloud, false, rule, *steps);
                Ok("on".to_owned())
            }
            Step::FailCompletions(operation, count) => {
                let rule = FaultRule {
                    operation: (*operation).to_owned(),
                    when: When::Next(*count),
                    effect: Effect::Status {
                        status: 500,
                        code: "InternalServerError".to_owned(),
                        message: "An error occurred.".to_owned(),
                        retry_after: None,
                    },
                };
                self.break_calls(number, Cloud::Azure, true, rule, 3);
                Ok("on".to_owned())
            }
            other => self.misfortune(other).await,
        }
    }

    fn edit(&mut self, edit: &Edit) -> anyhow::Result<String> {
        let remembered = (&mut self.contested, &mut self.papers);
        edit::make(edit, &self.script, &self.real, &self.twin, remembered)
    }

    /// While the firewall is written nobody else may, and there may be nothing of ours yet: whoever wants to edit
    /// there tries again for a while.
    async fn edit_firewall(&mut self, edit: &Edit) -> anyhow::Result<String> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(2500);
        loop {
            let made = self.edit(edit);
            if made.is_ok() || tokio::time::Instant::now() >= deadline {
                return made;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    async fn misfortune(&mut self, step: &Step) -> anyhow::Result<String> {
        match step {
            Step::Kill(which) => {
                self.disturbances.begin(&down(*which), now());
                self.server(*which)?.kill().await?;
                Ok("dead".to_owned())
            }
            Step::Start(which, crash) => {
                // One that is to die is down from the start, as far as promises go.
                self.disturbances.begin(&down(*which), now());
                let server = self.server(*which)?;
                server.kill().await?;
                server.start(*crash)?;
                let ready = self.server(*which)?.ready(Duration::from_secs(20)).await;
                if ready && crash.is_none() {
                    self.disturbances.end(&down(*which), now());
                }
                Ok(format!("ready: {ready}"))
            }
            Step::Restart(which) => {
                self.disturbances.begin(&down(*which), now());
                let server = self.server(*which)?;
                server.stop().await?;
                server.start(None)?;
                let ready = server.ready(Duration::from_secs(20)).await;
                if ready {
                    self.disturbances.end(&down(*which), now());
                }
                Ok(format!("ready: {ready}"))
            }
            Step::KillPostgres(millis) => {
                self.disturbances.begin("database", now());
                let mut postgres = self.postgres.take().context("no database")?;
                let pause = Duration::from_millis(*millis);
                let (postgres, result) = tokio::task::spawn_blocking(move || {
                    let result = postgres.kill().and_then(|()| {
                        std::thread::sleep(pause);
                        postgres.restart()
                    });
                    (postgres, result)
                })
                .await?;
                self.postgres = Some(postgres);
                self.disturbances.end("database", now());
                result?;
                Ok("back".to_owned())
            }
            Step::Pause(millis) => {
                tokio::time::sleep(Duration::from_millis(*millis)).await;
                Ok("over".to_owned())
            }
            other => anyhow::bail!("{other:?} is no misfortune"),
        }
    }

    fn server(&mut self, which: usize) -> anyhow::Result<&mut Server> {
        self.servers.get_mut(which).context("there are two servers")
    }

    fn break_calls(&mut self, number: usize, cloud: Cloud, completions: bool, rule: FaultRule, steps: u32) {
        let faults = match (cloud, completions) {
            (Cloud::Azure, true) => self.real.arm.completions(),
            (Cloud::Azure, false) => self.real.arm.faults(),
            (Cloud::Aws, _) => self.real.ec2.faults(),
        };
        let name = format!("fault of step {number}");
        self.disturbances.begin(&name, now());
        self.faults.push(Fault {
            name,
            cloud,
            completions,
            id: faults.add(rule),
            steps,
        });
    }

    fn age_faults(&mut self) {
        for fault in &mut self.faults {
            fault.steps = fault.steps.saturating_sub(1);
        }
        self.lift(|fault| fault.steps == 0);
    }

    fn lift(&mut self, over: impl Fn(&Fault) -> bool) {
        let (gone, kept) = std::mem::take(&mut self.faults).into_iter().partition(over);
        self.faults = kept;
        let gone: Vec<Fault> = gone;
        for fault in gone {
            let faults = match (fault.cloud, fault.completions) {
                (Cloud::Azure, true) => self.real.arm.completions(),
                (Cloud::Azure, false) => self.real.arm.faults(),
                (Cloud::Aws, _) => self.real.ec2.faults(),
            };
            faults.remove(fault.id);
            self.disturbances.end(&fault.name, now());
        }
    }

    /// Stops the servers; the clouds stay as they are.
    pub async fn strike(&mut self) {
        for server in &mut self.servers {
            // Nothing depends on how it ends.
            let _ = server.kill().await;
        }
    }
}

fn down(which: usize) -> String {
    format!("server {which}")
}

fn pick<T>(items: &[T], number: usize) -> anyhow::Result<&T> {
    number
        .checked_rem(items.len())
        .and_then(|number| items.get(number))
        .context("there is none")
}

const fn when(strikes: Strikes) -> When {
    match strikes {
        Strikes::Next(count) => When::Next(count),
        Strikes::Every(n) => When::EveryNth(n),
        Strikes::Sometimes => When::Probability(0.3),
        Strikes::Always => When::Always,
        Strikes::After(skip) => When::After { skip, count: 1 },
    }
}

fn effect(cloud: Cloud, trouble: Trouble) -> Effect {
    let status = |status, code: &str, retry_after| Effect::Status {
        status,
        code: code.to_owned(),
        message: "Try again later.".to_owned(),
        retry_after,
    };
    match (trouble, cloud) {
        (Trouble::Latency(millis), _) => Effect::Latency(Duration::from_millis(millis)),
        (Trouble::Throttled(told), Cloud::Azure) => status(429, "TooManyRequests", told.then_some(1)),
        (Trouble::Throttled(told), Cloud::Aws) => status(503, "RequestLimitExceeded", told.then_some(1)),
        (Trouble::Broken, Cloud::Azure) => status(500, "InternalServerError", None),
        (Trouble::Broken, Cloud::Aws) => status(500, "InternalError", None),
        (Trouble::ResetBefore, _) => Effect::ResetBefore,
        (Trouble::ResetAfter, _) => Effect::ResetAfter,
    }
}

/// Where a run's files are.
pub fn directory(scratch: &Path, seed: u64) -> PathBuf {
    scratch.join(format!("seed-{seed}"))
}
