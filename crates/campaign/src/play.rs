//! Plays a script: both clouds and their twins, two servers, one database, and whatever befalls them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use postern::demo::{
    fleet::{ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, REGION, ROLE_ARN, SUBSCRIPTION},
    issuer::Issuer,
    people::{AUDIENCE, ISSUER_NAME},
};
use postern_api::{
    access_request::{
        AccessRequest, AccessRequestCreate, AccessRequestCreateQuery, AccessRequestDeny, AccessRequestQuery,
        AskedTarget,
    },
    audit_event::{AuditEvent, AuditEventQuery},
    client::{Client, ClientError},
    grant::{Grant, GrantQuery, GrantRevoke},
    jit_policy::{JitPolicy, JitPolicyQuery, JitPolicyWrite},
    machine::MachineQuery,
    role::RoleAssignmentCreate,
};
use postern_core::time::{Clock as _, Instant, RandomIds, SystemClock};
use postern_localpg::LocalPostgres;
use postern_sim::{Effect, FaultId, FaultRule, When};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    clouds::{self, Clouds},
    edit,
    lag::Disturbances,
    script::{Cloud, PolicySpec, ScopeSpec, Script, Step, Strikes, Trouble},
    server::Server,
    template,
};

/// The longest that one call of the API may take; a server that hangs is left for the other.
const CALL: Duration = Duration::from_secs(4);
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
    patience: Duration,
    policies: u32,
    turn: usize,
    begun: Instant,
    /// What happened, line by line.
    pub history: Vec<String>,
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
            patience: if sabotage.is_some() {
                SHORT_PATIENCE
            } else {
                PATIENCE
            },
            policies: 0,
            turn: 0,
            begun: now(),
            history: Vec::new(),
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

    /// A client of one of the servers that run, in turn.
    fn client(&mut self, user: &str) -> anyhow::Result<Client> {
        self.turn += 1;
        let turn = self.turn;
        let mut running: Vec<&mut Server> = self.servers.iter_mut().filter_map(|s| s.runs_now()).collect();
        let number = turn.checked_rem(running.len()).context("no server runs")?;
        let server = running.get_mut(number).context("no server runs")?;
        server.client(&self.issuer, user)
    }

    /// Plays every step.
    pub async fn play(&mut self) {
        for (number, (after, step)) in self.script.steps.clone().into_iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(after)).await;
            self.age_faults();
            let result = self.step(number, &step).await;
            let outcome = match result {
                Ok(said) => said,
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
            } => {
                let request = self.request(machines, ports, sources, *seconds)?;
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
            Step::Edit(edit) => edit::make(edit, &self.script, &self.real, &self.twin, &mut self.contested),
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

    fn policy(&mut self, spec: &PolicySpec) -> anyhow::Result<JitPolicyWrite> {
        self.policies += 1;
        let built = &self.real.built;
        let scope = match spec.scope {
            ScopeSpec::All => "/".to_owned(),
            ScopeSpec::Azure => format!("/azure/{SUBSCRIPTION}"),
            ScopeSpec::Aws => format!("/aws/{ACCOUNT}/{REGION}"),
            ScopeSpec::Machine(number) => {
                let machine: postern_core::machine::MachineId =
                    built.machine(number).context("no machine")?.parse()?;
                machine.scope().to_string()
            }
        };
        let guards: Vec<Value> = spec
            .guards
            .iter()
            .map(|ports| {
                json!({
                    "ports": ports,
                    "allowed_sources": ["203.0.113.0/24", "2001:db8:1::/48"],
                    "max_duration_seconds": 3600,
                })
            })
            .collect();
        let tags = if spec.prod_only {
            json!({ "env": "prod" })
        } else {
            json!({})
        };
        let mut policy = json!({
            "name": format!("policy {}", self.policies),
            "scope": scope, "tags": tags, "guards": guards, "approval": spec.approval,
            "lockdown": spec.lockdown, "shared_groups": spec.shared_groups,
        });
        // Words that this build does not know yet give way to the nearest that it knows.
        if let Ok(policy) = serde_json::from_value(policy.clone()) {
            return Ok(policy);
        }
        for (member, word) in [("lockdown", "strict"), ("shared_groups", "revoke")] {
            if let Some(policy) = policy.as_object_mut() {
                policy.insert(member.to_owned(), json!(word));
            }
            if let Ok(policy) = serde_json::from_value(policy.clone()) {
                return Ok(policy);
            }
        }
        Ok(serde_json::from_value(policy)?)
    }

    fn request(
        &self,
        machines: &[usize],
        ports: &[&str],
        sources: &[&str],
        seconds: i64,
    ) -> anyhow::Result<AccessRequestCreate> {
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let target = |number: &usize| {
            Ok(AskedTarget {
                machine: self.real.built.machine(*number).context("no machine")?.to_owned(),
                ports: strings(ports),
                sources: Some(strings(sources)),
            })
        };
        Ok(AccessRequestCreate {
            targets: machines.iter().map(target).collect::<anyhow::Result<_>>()?,
            duration_seconds: seconds,
            reason: "the disk is full".to_owned(),
            ticket: None,
            starts_at: None,
            mode: Some(postern_api::access_request::Mode::BestEffort),
        })
    }

    /// Asks, and where no answer comes asks the same once more, of whoever is next.
    async fn ask(&mut self, number: usize, request: &AccessRequestCreate) -> anyhow::Result<AccessRequest> {
        let key = format!("step-{number}");
        let query = AccessRequestCreateQuery::default();
        let first = call(
            self.client("ada")?
                .create_access_request(Some(&key), &query, request),
        )
        .await;
        match first {
            Err(Failed::Client(ClientError::Problem(problem))) => Err(ClientError::Problem(problem).into()),
            Err(_) => Ok(call(
                self.client("ada")?
                    .create_access_request(Some(&key), &query, request),
            )
            .await?),
            Ok(made) => Ok(made),
        }
    }

    async fn list_policies(&mut self) -> anyhow::Result<Vec<JitPolicy>> {
        let client = self.client("olga")?;
        Ok(call(client.jit_policies(&JitPolicyQuery::default())).await?.items)
    }

    async fn pending(&mut self) -> anyhow::Result<Vec<AccessRequest>> {
        let query = AccessRequestQuery {
            status: Some("pending".to_owned()),
            ..AccessRequestQuery::default()
        };
        Ok(call(self.client("olga")?.access_requests(&query)).await?.items)
    }

    /// Every grant.
    pub async fn grants(&mut self) -> anyhow::Result<Vec<Grant>> {
        let client = self.client("olga")?;
        let mut grants = Vec::new();
        let mut query = GrantQuery {
            limit: Some(200),
            ..GrantQuery::default()
        };
        loop {
            let page = call(client.grants(&query)).await?;
            grants.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(grants),
            }
        }
    }

    /// Every audit event, oldest first.
    pub async fn audit_log(&mut self) -> anyhow::Result<Vec<AuditEvent>> {
        let client = self.client("olga")?;
        let mut events = Vec::new();
        let mut query = AuditEventQuery {
            order: Some("asc".to_owned()),
            limit: Some(200),
            ..AuditEventQuery::default()
        };
        loop {
            let page = call(client.audit_events(&query)).await?;
            events.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(events),
            }
        }
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

    /// Lifts the faults, brings both servers up, ends everything, and waits until nothing is left to do. What is
    /// still to do when patience ends is the answer.
    pub async fn come_to_rest(&mut self) -> Vec<String> {
        self.lift(|_| true);
        self.say("the faults are lifted");
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut run_out = self.script.run_out;
        let mut since_quiet: Option<tokio::time::Instant> = None;
        loop {
            let left = match self.what_is_left(&mut run_out).await {
                Ok(left) => left,
                Err(error) => vec![format!("no answer: {error:#}")],
            };
            if left.is_empty() {
                self.say("all is at rest");
                return left;
            }
            // Nothing due and nothing under way, and still not as it was: nobody will do anything about it.
            let idle = postern_store::testing::is_quiet(&self.database).await
                && left.iter().all(|left| left.starts_with("rules:"));
            if idle
                && edit::concede(&self.real, &self.twin, &mut self.contested).unwrap_or_else(|error| {
                    self.say(format!("the twin cannot be changed: {error:#}"));
                    false
                })
            {
                self.say("what Postern undid without knowing stays undone");
                continue;
            }
            let time = tokio::time::Instant::now();
            since_quiet = idle.then(|| since_quiet.unwrap_or(time));
            if time >= deadline || since_quiet.is_some_and(|since| time - since > Duration::from_secs(8)) {
                self.say(format!("not at rest: {left:?}"));
                return left;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    async fn what_is_left(&mut self, run_out: &mut bool) -> anyhow::Result<Vec<String>> {
        for which in 0..2 {
            let server = self.server(which)?;
            if !server.runs() || server.doomed {
                server.kill().await?;
                server.start(None)?;
                // The next look tries again.
                anyhow::ensure!(
                    server.ready(Duration::from_secs(20)).await,
                    "a server does not start"
                );
                self.disturbances.end(&down(which), now());
                self.say(format!("server {which} is up"));
            }
        }
        if std::mem::take(run_out) {
            // Those that would last for an hour are revoked, the others run out.
            for grant in self.grants().await? {
                if grant.duration_seconds > 60 && matches!(grant.status.as_str(), "opening" | "open") {
                    let client = self.client("olga")?;
                    call(client.revoke_grant(&grant.id, None, &GrantRevoke::default())).await?;
                }
            }
            self.say("grants run out");
            let deadline = tokio::time::Instant::now() + Duration::from_secs(14);
            while tokio::time::Instant::now() < deadline
                && self
                    .grants()
                    .await?
                    .iter()
                    .any(|grant| grant.status == "open" || grant.status == "closing")
            {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        for policy in self.list_policies().await? {
            let client = self.client("olga")?;
            call(client.delete_jit_policy(&policy.id, policy.version)).await?;
            self.say(format!("{} deleted", policy.id));
        }
        let mut left: Vec<String> = self
            .grants()
            .await?
            .into_iter()
            .filter(|grant| grant.status != "closed")
            .map(|grant| format!("grant: {} is {}", grant.id, grant.status))
            .collect();
        left.extend(
            clouds::difference(&self.twin.rules(), &self.real.rules())
                .into_iter()
                .map(|difference| format!("rules: {difference}")),
        );
        if left.is_empty() {
            let open = self.intents_without_outcome().await?;
            if open > 0 {
                left.push(format!("intents: {open} without outcome"));
            }
        }
        if left.is_empty() && !postern_store::testing::is_quiet(&self.database).await {
            left.push("points: due or leased".to_owned());
        }
        Ok(left)
    }

    async fn intents_without_outcome(&mut self) -> anyhow::Result<usize> {
        let events = self.audit_log().await?;
        let count = |intended: bool| {
            let of = |event: &&AuditEvent| {
                event.action == "change.apply" && (event.outcome == "intended") == intended
            };
            events.iter().filter(of).count()
        };
        Ok(count(true).saturating_sub(count(false)))
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

/// Why a call gave nothing.
#[derive(Debug)]
enum Failed {
    Client(ClientError),
    TooLate,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::TooLate => write!(f, "no answer within {CALL:?}"),
        }
    }
}

impl std::error::Error for Failed {}

async fn call<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failed> {
    tokio::time::timeout(CALL, asked)
        .await
        .map_err(|_| Failed::TooLate)?
        .map_err(Failed::Client)
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

fn config(database: &str, issuer: &Issuer, clouds: &Clouds) -> String {
    format!(
        r#"
[installation]
name = "test"
[listen]
address = "127.0.0.1:{{port}}"
[database]
url = "{database}"
max_connections = 8
[[issuers]]
name = "{ISSUER_NAME}"
issuer = "{issuer}"
loopback_http = true
audiences = ["{AUDIENCE}"]
algorithms = ["EdDSA"]
[azure]
subscriptions = ["{SUBSCRIPTION}"]
endpoint = "{arm}"
authority = "{arm}"
change_timeout_seconds = 2
[azure.credential]
kind = "client_secret"
tenant_id = "{tenant}"
client_id = "{CLIENT_ID}"
client_secret = "{CLIENT_SECRET}"
[aws]
regions = ["{REGION}"]
endpoint = "{ec2}"
change_timeout_seconds = 2
describe_lag_seconds = 1
[[aws.accounts]]
id = "{ACCOUNT}"
role_arn = "{ROLE_ARN}"
external_id = "{EXTERNAL_ID}"
[limits]
requests_per_second = 10000
request_burst = 10000
[engine]
lease_seconds = 1
discovery_interval_seconds = 1
drift_interval_seconds = 1
[bootstrap]
owners = ["user:{ISSUER_NAME}/olga"]
[logging]
filter = "info,postern_engine=debug"
"#,
        issuer = issuer.url(),
        arm = clouds.arm.url(),
        tenant = clouds.arm.tenant(),
        ec2 = clouds.ec2.url(),
    )
}

/// Where a run's files are.
pub fn directory(scratch: &Path, seed: u64) -> PathBuf {
    scratch.join(format!("seed-{seed}"))
}
