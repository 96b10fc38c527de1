//! A world with a server that is set up as by default, its ports locked down, and the calls that the measurements
//! make.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use postern::demo::{
    fleet::{ACCOUNT, Fleet, SUBSCRIPTION},
    people::ISSUER_NAME,
};
use postern_api::{
    access_request::AccessRequestCreateQuery,
    audit_event::AuditEventQuery,
    client::Client,
    grant::{Grant, GrantQuery, GrantRevoke},
    jit_policy::JitPolicy,
    machine::MachineQuery,
    role::RoleAssignmentCreate,
};
use postern_core::time::{Clock as _, SystemClock};
use postern_tests::{
    Person, ServerProcess, World, WorldOptions,
    world::{a_policy, a_request},
};

/// What the tests' configuration sets for speed, back at Postern's defaults.
const DEFAULTS: [(&str, &str); 3] = [
    ("POSTERN__ENGINE__LEASE_SECONDS", "30"),
    ("POSTERN__ENGINE__DISCOVERY_INTERVAL_SECONDS", "300"),
    ("POSTERN__LOGGING__FILTER", "info"),
];

/// [`DEFAULTS`] and what is added to them, except for what this process' own environment sets.
///
/// Call budgets stay off as in the tests' configuration, unless they are added: the simulators refuse nothing for its
/// rate by default, and what is measured is what Postern itself takes.
fn environment(more: Vec<(String, String)>) -> Vec<(String, String)> {
    DEFAULTS
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .chain(more)
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .collect()
}

fn borrowed(environment: &[(String, String)]) -> Vec<(&str, &str)> {
    environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// The pause between two looks at something that is waited for. Each look costs the server work.
const LOOK: Duration = Duration::from_millis(3);

/// A world and the server in it.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) server: ServerProcess,
    environment: Vec<(String, String)>,
    /// Asks.
    pub(crate) ada: Client,
    /// Owns.
    pub(crate) olga: Client,
}

/// One opening, seen from the client.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) grant: Grant,
    /// When the request was sent.
    pub(crate) sent: DateTime<Utc>,
    /// From then to the answer that says `open`.
    pub(crate) told: Duration,
}

/// One closing, seen from the client.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) grant: Grant,
    pub(crate) sent: DateTime<Utc>,
    pub(crate) told: Duration,
}

/// The instant, by the clock that the simulators and the server read too.
pub(crate) fn now() -> DateTime<Utc> {
    SystemClock.now()
}

impl Rig {
    /// The sum of all that the server's metrics have under a name.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()?;
        let text = http
            .get(format!("{}/metrics", self.world.server_url))
            .send()
            .await?
            .text()
            .await?;
        Ok(text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// A world whose fleet `prepare` adds to before the server starts. The server has discovered nothing yet.
    pub(crate) async fn start<T>(
        prepare: impl AsyncFnOnce(&Fleet) -> anyhow::Result<T>,
    ) -> anyhow::Result<(Self, T)> {
        Self::start_with(prepare, Vec::new()).await
    }

    /// The same with more in the server's environment.
    pub(crate) async fn start_with<T>(
        prepare: impl AsyncFnOnce(&Fleet) -> anyhow::Result<T>,
        more: Vec<(String, String)>,
    ) -> anyhow::Result<(Self, T)> {
        let binary = std::env::current_exe().context("this binary cannot be found")?;
        let world = World::new(WorldOptions {
            binary,
            more: String::new(),
            fsync: true,
        })
        .await;
        let prepared = prepare(&world.fleet).await?;
        let environment = environment(more);
        crate::database::write_long_between_checkpoints(&Self::database_of(&world)?).await?;
        let server = world.serve(&borrowed(&environment)).await;
        let (ada, olga) = (world.client(Person::Ada), world.client(Person::Olga));
        Ok((
            Self {
                world,
                server,
                environment,
                ada,
                olga,
            },
            prepared,
        ))
    }

    /// Another server over the same database, in place of the present one, without waiting for it.
    pub(crate) fn respawn(&mut self) {
        self.server.kill();
        self.server = self.world.spawn(&borrowed(&self.environment));
    }

    /// What the next server has in its environment beside the defaults.
    pub(crate) fn set_environment(&mut self, more: Vec<(String, String)>) {
        self.environment = environment(more);
    }

    /// Waits until the server says that it is ready.
    pub(crate) async fn ready(&mut self) {
        self.world.ready(&mut self.server).await;
    }

    /// Waits until `machines` are known, lets Ada ask everywhere, and locks SSH and RDP of the fleet's Azure group
    /// and AWS account down.
    pub(crate) async fn guard(&self, machines: &[&str]) -> anyhow::Result<()> {
        self.discovered(machines).await?;
        for scope in [format!("/azure/{SUBSCRIPTION}/shop"), format!("/aws/{ACCOUNT}")] {
            self.lock(&scope).await?;
        }
        self.shut(machines).await
    }

    /// Waits until `machines` are known, and lets Ada ask everywhere.
    pub(crate) async fn discovered(&self, machines: &[&str]) -> anyhow::Result<()> {
        self.until("the machines are discovered", || async {
            let query = MachineQuery {
                limit: Some(200),
                ..MachineQuery::default()
            };
            let known = self.olga.machines(&query).await?.items;
            Ok(machines
                .iter()
                .all(|id| known.iter().any(|machine| machine.id.eq_ignore_ascii_case(id)))
                .then_some(()))
        })
        .await?;
        let assignment = RoleAssignmentCreate {
            role: "requester".to_owned(),
            principal: format!("user:{ISSUER_NAME}/ada"),
            scope: "/".to_owned(),
            ..RoleAssignmentCreate::default()
        };
        self.olga.create_role_assignment(None, &assignment).await?;
        Ok(())
    }

    /// Locks SSH and RDP of a scope down, for requests from 203.0.112.0/22.
    pub(crate) async fn lock(&self, scope: &str) -> anyhow::Result<JitPolicy> {
        let mut policy = a_policy(scope, scope);
        for guard in &mut policy.guards {
            guard.allowed_sources = vec!["203.0.112.0/22".to_owned()];
        }
        Ok(self.olga.create_jit_policy(None, &policy).await?)
    }

    /// Waits until SSH of these machines is shut for everybody.
    pub(crate) async fn shut(&self, machines: &[&str]) -> anyhow::Result<()> {
        self.until("SSH is shut", || async {
            // An address of the fleet's own rules, and anybody's.
            let open = machines.iter().any(|machine| {
                [[198, 51, 100, 1], [192, 0, 2, 1]]
                    .iter()
                    .any(|source| self.world.reachable(machine, *source, 22))
            });
            Ok((!open).then_some(()))
        })
        .await?;
        // What the lockdown still has to write down.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    /// Asks for SSH from 203.0.113.7 and waits until the server says that it is open.
    pub(crate) async fn open(&self, machine: &str) -> anyhow::Result<Opened> {
        let request = a_request(&[machine], 3600);
        let query = AccessRequestCreateQuery {
            wait: Some(30),
            ..Default::default()
        };
        let (sent, start) = (now(), Instant::now());
        let answer = self.ada.create_access_request(None, &query, &request).await?;
        let told = start.elapsed();
        let grant = answer
            .grants
            .into_iter()
            .next()
            .context("an approved request has a grant")?;
        ensure!(
            grant.status == "open",
            "the grant is {}: {}",
            grant.status,
            grant.truth
        );
        Ok(Opened { grant, sent, told })
    }

    /// Revokes a grant and looks until the server says that it is closed.
    pub(crate) async fn close(&self, grant: &str) -> anyhow::Result<Closed> {
        let (sent, start) = (now(), Instant::now());
        self.ada
            .revoke_grant(grant, None, &GrantRevoke::default())
            .await?;
        let grant = self
            .until("the grant is closed", || async {
                Ok(Some(self.ada.grant(grant).await?).filter(|grant| grant.status == "closed"))
            })
            .await?;
        Ok(Closed {
            grant,
            sent,
            told: start.elapsed(),
        })
    }

    /// Every grant with one of these statuses, separated by commas.
    pub(crate) async fn grants(&self, status: &str) -> anyhow::Result<Vec<Grant>> {
        let mut query = GrantQuery {
            status: Some(status.to_owned()),
            limit: Some(200),
            ..GrantQuery::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self.olga.grants(&query).await?;
            all.extend(page.items);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(all),
            }
        }
    }

    /// When the loop began to write its intents, from `since` on, oldest first.
    pub(crate) async fn intents(&self, since: DateTime<Utc>) -> anyhow::Result<Vec<DateTime<Utc>>> {
        let mut query = AuditEventQuery {
            action: Some("change.apply".to_owned()),
            outcome: Some("intended".to_owned()),
            since: Some(since.to_rfc3339()),
            order: Some("asc".to_owned()),
            limit: Some(200),
            ..AuditEventQuery::default()
        };
        let mut intents = Vec::new();
        loop {
            let page = self.olga.audit_events(&query).await?;
            intents.extend(page.items.into_iter().map(|event| event.at));
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(intents),
            }
        }
    }

    /// Whether there is a grant with one of these statuses.
    pub(crate) async fn any_grant(&self, status: &str) -> anyhow::Result<bool> {
        let query = GrantQuery {
            status: Some(status.to_owned()),
            limit: Some(1),
            ..GrantQuery::default()
        };
        Ok(!self.olga.grants(&query).await?.items.is_empty())
    }

    /// Looks until something is there, for two minutes at most.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if start.elapsed() > Duration::from_mins(2) {
                bail!(
                    "not within two minutes: {what}; the end of the server's log:\n{}",
                    self.server.log_tail()
                );
            }
            // Long waits need no close look.
            let pause = if start.elapsed() > Duration::from_secs(1) {
                LOOK * 20
            } else {
                LOOK
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The database's URL, as the configuration has it.
    pub(crate) fn database_url(&self) -> anyhow::Result<String> {
        Self::database_of(&self.world)
    }

    fn database_of(world: &World) -> anyhow::Result<String> {
        let text = fs::read_to_string(&world.config)?;
        text.lines()
            .skip_while(|line| *line != "[database]")
            .find_map(|line| {
                line.strip_prefix("url = \"")?
                    .strip_suffix('"')
                    .map(str::to_owned)
            })
            .context("the configuration names a database")
    }

    /// Keeps the server's log.
    pub(crate) fn keep_log(&self, path: &Path) -> anyhow::Result<()> {
        let directory = self
            .world
            .config
            .parent()
            .context("the configuration is in a directory")?;
        fs::copy(directory.join("server.log"), path)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(())
    }

    /// The server's resident memory, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that it ever was.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.server.id()))?;
        let kibibytes: u64 = text
            .lines()
            .find_map(|line| {
                line.strip_prefix(key)?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse()
                    .ok()
            })
            .context("a process has resident memory")?;
        Ok(kibibytes * 1024)
    }

    /// The processor time of the server, in seconds.
    pub(crate) fn processor_seconds(&self) -> anyhow::Result<f64> {
        Self::processor_of(self.server.id())
    }

    /// The processor time of a process, in seconds.
    pub(crate) fn processor_of(process: u32) -> anyhow::Result<f64> {
        /// `USER_HZ`, which is 100 on every Linux of ours.
        const TICKS: f64 = 100.0;
        let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name may have spaces and ends with the last bracket; the 14th and 15th field are user and system time.
        let (_, fields) = text.rsplit_once(')').context("a process has a name")?;
        let ticks: Vec<u32> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(ticks.into_iter().map(f64::from).sum::<f64>() / TICKS)
    }
}
