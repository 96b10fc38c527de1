//! The world that a black-box test plays in.

use std::{path::PathBuf, sync::Arc, time::Duration};

use postern::demo::{
    fleet::{
        ACCESS_KEY_ID, ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, Fleet, REGION, ROLE_ARN,
        SECRET_ACCESS_KEY, SUBSCRIPTION,
    },
    issuer::Issuer,
    people::{AUDIENCE, ISSUER_NAME},
};
use postern_api::{
    access_request::{AccessRequest, AccessRequestCreate, AccessRequestCreateQuery, AskedTarget},
    client::Client,
    grant::Grant,
    jit_policy::{Approval, GuardedPorts, JitPolicy, JitPolicyWrite, Lockdown, SharedGroups},
    machine::MachineQuery,
    role::RoleAssignmentCreate,
};
use postern_core::time::{Clock as _, Instant, RandomIds, SystemClock};
use postern_localpg::LocalPostgres;
use postern_sim::clock::SystemClock as SimSystemClock;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ServerProcess;

/// The address that tests ask from.
pub const CLIENT: [u8; 4] = [203, 0, 113, 7];

/// Somebody who may or may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Person {
    /// Owner of everything.
    Olga,
    /// May ask.
    Ada,
    /// May approve.
    Sam,
    /// May do nothing.
    Eve,
}

impl Person {
    const fn user(self) -> &'static str {
        match self {
            Self::Olga => "olga",
            Self::Ada => "ada",
            Self::Sam => "sam",
            Self::Eve => "eve",
        }
    }
}

/// How a world is set up.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// The server's binary.
    pub binary: PathBuf,
    /// Further lines of the configuration: of its `engine` section first, then whole sections.
    pub more: String,
    /// Postgres that writes to disk before it answers, as in production; tests of logic do without.
    pub fsync: bool,
}

impl WorldOptions {
    /// A world of this server as it comes, over a Postgres that does not wait for the disk.
    pub fn of(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            more: String::new(),
            fsync: false,
        }
    }

    /// With further lines of the configuration.
    #[must_use]
    pub fn with(self, more: impl Into<String>) -> Self {
        Self {
            more: more.into(),
            ..self
        }
    }
}

/// Both clouds, an identity provider, a database and the configuration of a server over them.
#[derive(Debug)]
pub struct World {
    /// The clouds.
    pub fleet: Fleet,
    /// Makes tokens.
    pub issuer: Issuer,
    /// The configuration file.
    pub config: PathBuf,
    /// `http://127.0.0.1:<port>`.
    pub server_url: String,
    options: WorldOptions,
    database: SecretString,
    postgres: Option<LocalPostgres>,
    directory: TempDir,
}

impl World {
    /// Starts everything but the server.
    ///
    /// # Panics
    /// If a part does not start; the message says which, and what to install.
    pub async fn new(options: WorldOptions) -> Self {
        let fleet = Fleet::start(Arc::new(SimSystemClock))
            .await
            .expect("the simulators start");
        let issuer = Issuer::start(Arc::new(SystemClock), &RandomIds)
            .await
            .expect("the identity provider starts");
        let directory = TempDir::with_prefix("postern-world-").expect("a directory for the world");
        let (postgres, database) = if options.fsync {
            let server = LocalPostgres::start(postern_localpg::Options::default()).expect("Postgres starts");
            let url = SecretString::from(server.url());
            (Some(server), url)
        } else {
            (None, postern_store::testing::fresh_database().await)
        };
        let port = free_port();
        let config = directory.path().join("postern.toml");
        // No call budgets: these simulators refuse nothing for its rate, and suites make in seconds the calls of hours.
        let text = format!(
            r#"
[installation]
name = "test"
[listen]
address = "127.0.0.1:{port}"
[database]
url = "{url}"
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
budget_percent = 0
[azure.credential]
kind = "client_secret"
tenant_id = "{tenant}"
client_id = "{CLIENT_ID}"
client_secret = "{CLIENT_SECRET}"
[aws]
regions = ["{REGION}"]
endpoint = "{ec2}"
change_timeout_seconds = 2
budget_percent = 0
[[aws.accounts]]
id = "{ACCOUNT}"
role_arn = "{ROLE_ARN}"
external_id = "{EXTERNAL_ID}"
[limits]
requests_per_second = 10000
request_burst = 10000
grants_per_machine = 1000
[engine]
lease_seconds = 1
{more}
[bootstrap]
owners = ["user:{ISSUER_NAME}/olga"]
[logging]
filter = "info,postern_engine=debug"
"#,
            url = database.expose_secret(),
            issuer = issuer.url(),
            arm = fleet.arm.url(),
            tenant = fleet.arm.tenant(),
            ec2 = fleet.ec2.url(),
            more = options.more,
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let server_url = format!("http://127.0.0.1:{port}");
        Self {
            fleet,
            issuer,
            config,
            server_url,
            options,
            database,
            postgres,
            directory,
        }
    }

    /// Starts everything and a server, and locks everything down.
    ///
    /// # Panics
    /// If a part does not start, or the ports are not shut in time.
    pub async fn locked_down(options: WorldOptions) -> (Self, ServerProcess) {
        let world = Self::new(options).await;
        let server = world.serve(&[]).await;
        world.lock_down().await;
        (world, server)
    }

    /// Starts a server and waits until it is ready.
    pub async fn serve(&self, environment: &[(&str, &str)]) -> ServerProcess {
        let mut server = self.spawn(environment);
        self.ready(&mut server).await;
        server
    }

    /// Starts a server without waiting.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> ServerProcess {
        let mut all = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ];
        all.extend_from_slice(environment);
        ServerProcess::start(
            &self.options.binary,
            &self.config,
            &self.directory.path().join("server.log"),
            &all,
        )
    }

    /// Waits until the server says that it is ready.
    ///
    /// # Panics
    /// If it ends or is not ready within 30 s; the message has the end of its log.
    pub async fn ready(&self, server: &mut ServerProcess) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while !self.is_ready().await {
            assert!(
                server.is_running(),
                "the server ended; its log:\n{}",
                server.log_tail()
            );
            assert!(
                tokio::time::Instant::now() < deadline,
                "the server is not ready:\n{}",
                server.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether `/readyz` answers 200; asked by hand, so that nothing is kept between two questions.
    async fn is_ready(&self) -> bool {
        let ask = async {
            let address = self.server_url.trim_start_matches("http://");
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            let question = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(question.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200 "))
        };
        ask.await.unwrap_or(false)
    }

    /// A client that acts for somebody.
    pub fn client(&self, person: Person) -> Client {
        let token = self.token(person);
        Client::new(&self.server_url).expect("a client").with_token(token)
    }

    /// A token of somebody's, good for an hour.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn token(&self, person: Person) -> String {
        self.issuer.token(person.user(), 3600).expect("a token")
    }

    /// A token of an engineer who is none of the [`Person`]s, good for an hour.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn engineer(&self, subject: &str) -> String {
        let ada = postern::demo::people::Person::named(Person::Ada.user()).expect("Ada is an engineer");
        let mut claims = ada.claims(self.issuer.url(), self.now().timestamp(), 3600);
        if let Some(claim) = claims.get_mut("sub") {
            *claim = subject.into();
        }
        self.issuer.sign(&claims).expect("a token")
    }

    /// The URL of the database, for Postgres's own programs too.
    pub fn database_url(&self) -> &str {
        self.database.expose_secret()
    }

    /// A directory that goes with the world.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The private Postgres of this world, where it has one of its own.
    pub const fn postgres(&mut self) -> Option<&mut LocalPostgres> {
        self.postgres.as_mut()
    }

    /// Waits for something that is polled every 20 ms.
    ///
    /// # Panics
    /// If it does not come within `within`.
    pub async fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut poll: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            if let Some(found) = poll().await {
                return found;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "not within {within:?}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the fleet is discovered; gives Ada `requester` and Sam `approver` everywhere; puts SSH
    /// and RDP of everything under a policy that is approved without anybody, and waits until the ports are shut.
    pub async fn lock_down(&self) -> JitPolicy {
        let olga = self.client(Person::Olga);
        self.eventually("the fleet is discovered", Duration::from_secs(20), async || {
            let page = olga.machines(&MachineQuery::default()).await.ok()?;
            (page.items.len() >= 4).then_some(())
        })
        .await;
        for (who, role) in [(Person::Ada, "requester"), (Person::Sam, "approver")] {
            let assignment = RoleAssignmentCreate {
                role: role.to_owned(),
                principal: format!("user:{ISSUER_NAME}/{}", who.user()),
                scope: "/".to_owned(),
                ..RoleAssignmentCreate::default()
            };
            olga.create_role_assignment(None, &assignment)
                .await
                .expect("a role assignment");
        }
        let policy = olga
            .create_jit_policy(None, &a_policy("everything", "/"))
            .await
            .expect("a policy");
        self.eventually("SSH is shut everywhere", Duration::from_secs(20), async || {
            (!self
                .machines()
                .iter()
                .any(|machine| self.reachable(machine, [192, 0, 2, 1], 22)))
            .then_some(())
        })
        .await;
        self.quiet().await;
        policy
    }

    /// The time.
    pub fn now(&self) -> Instant {
        SystemClock.now()
    }

    /// Waits until no pass is under way and none is due.
    pub async fn quiet(&self) {
        self.eventually("all is quiet", Duration::from_secs(30), async || {
            postern_store::testing::is_quiet(&self.database)
                .await
                .then_some(())
        })
        .await;
    }

    /// The fleet's machines.
    pub fn machines(&self) -> [&str; 4] {
        [
            &self.fleet.web,
            &self.fleet.db,
            &self.fleet.app,
            &self.fleet.build,
        ]
    }

    /// Whether a TCP packet from `source` would reach `port` now, as the simulators see it.
    pub fn reachable(&self, machine: &str, source: [u8; 4], port: u16) -> bool {
        let protocol = postern_sim::truth::Protocol::Tcp;
        if machine.starts_with("arn:") {
            let probe = postern_sim::truth::Probe {
                machine: machine.to_owned(),
                source: source.into(),
                port,
                protocol,
            };
            self.fleet.ec2.reachable(&probe, None)
        } else {
            self.fleet
                .arm
                .reachable(machine, source.into(), port, protocol, None)
        }
    }

    /// Asks as Ada for SSH from [`CLIENT`] on `machines`.
    pub async fn request(&self, machines: &[&str], seconds: i64, wait: u32) -> AccessRequest {
        self.client(Person::Ada)
            .create_access_request(
                None,
                &AccessRequestCreateQuery {
                    wait: Some(wait),
                    ..Default::default()
                },
                &a_request(machines, seconds),
            )
            .await
            .expect("the request is granted")
    }

    /// Waits until a grant has a status.
    pub async fn until(&self, grant: &str, status: &str, within: Duration) -> Grant {
        let olga = self.client(Person::Olga);
        self.eventually(&format!("{grant} is {status}"), within, async || {
            olga.grant(grant)
                .await
                .ok()
                .filter(|grant| grant.status == status)
        })
        .await
    }
}

/// SSH and RDP from 203.0.113.0/24 for at most three hours.
pub fn a_policy(name: &str, scope: &str) -> JitPolicyWrite {
    let guard = |ports: &str| GuardedPorts {
        ports: ports.to_owned(),
        allowed_sources: vec!["203.0.113.0/24".to_owned()],
        max_duration_seconds: 3 * 3600,
    };
    JitPolicyWrite {
        name: name.to_owned(),
        scope: scope.to_owned(),
        tags: std::collections::BTreeMap::new(),
        guards: vec![guard("22/tcp"), guard("3389/tcp")],
        lockdown: Lockdown::default(),
        shared_groups: SharedGroups::default(),
        approval: Approval::default(),
        authentication: postern_api::jit_policy::Authentication::default(),
        pending_for_seconds: None,
        justification: None,
    }
}

/// SSH from [`CLIENT`] on `machines`.
pub fn a_request(machines: &[&str], seconds: i64) -> AccessRequestCreate {
    AccessRequestCreate {
        targets: machines
            .iter()
            .map(|machine| AskedTarget {
                machine: (*machine).to_owned(),
                ports: vec!["22/tcp".to_owned()],
                sources: Some(vec!["203.0.113.7/32".to_owned()]),
            })
            .collect(),
        duration_seconds: seconds,
        reason: "the disk is full".to_owned(),
        ticket: None,
        starts_at: None,
        mode: None,
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}
