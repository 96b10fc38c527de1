//! Everything that the demo runs, started and stopped in order.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use postern_api::{client::Client, role::RoleAssignmentCreate};
use postern_authz::GuardrailSet;
use postern_aws::{AssumeRole, AwsAccount, AwsConfig, AwsEnforcer, BaseCredentials};
use postern_azure::{AzureConfig, AzureCredential, AzureEnforcer};
use postern_core::{
    mark::Installation,
    principal::PrincipalRef,
    time::{Clock, IdSource},
};
use postern_engine::EngineConfig;
use postern_localpg::{LocalPostgres, Options};
use postern_notify::NotifyConfig;
use postern_server::config::ServerConfig;
use secrecy::SecretString;
use serde_json::json;

use super::{
    fleet::{self, Fleet},
    issuer::Issuer,
    people::{AUDIENCE, ISSUER_NAME},
};
use crate::service::{self, Parts, Service};

/// The demo's installation.
const INSTALLATION: &str = "demo";

/// How often the demo looks for machines and for drift: often enough to be watched.
const LOOK: Duration = Duration::from_secs(20);

/// Where the database lives.
#[derive(Debug, Clone)]
pub enum Keeping {
    /// In a directory, which is kept.
    In(PathBuf),
    /// In a temporary one.
    Nothing,
}

/// The running demo.
pub struct Stage {
    postgres: LocalPostgres,
    /// Both clouds.
    pub fleet: Fleet,
    /// The identity provider.
    pub issuer: Issuer,
    /// The real server and loop.
    pub service: Service,
}

impl Stage {
    /// Starts everything. Whom `notify` names is told of what happens. The API listens on 127.0.0.1 at `port`; 0 takes any that is free.
    pub async fn start(
        keeping: Keeping,
        port: u16,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        notify: NotifyConfig,
    ) -> anyhow::Result<Self> {
        let fleet = Fleet::with_gate(Arc::new(postern_sim::SystemClock)).await?;
        Self::over(fleet, keeping, port, clock, ids, notify).await
    }

    /// As [`Stage::start`], over clouds that run already.
    pub async fn over(
        fleet: Fleet,
        keeping: Keeping,
        port: u16,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        notify: NotifyConfig,
    ) -> anyhow::Result<Self> {
        let postgres = tokio::task::spawn_blocking(move || {
            let options = match keeping {
                Keeping::In(dir) => Options {
                    data_dir: Some(dir),
                    ..Options::default()
                },
                Keeping::Nothing => Options {
                    fsync: false,
                    ..Options::default()
                },
            };
            LocalPostgres::start(options)
        })
        .await?
        .context("the private Postgres cannot be started")?;
        let served = Self::serve(&postgres, &fleet, port, clock, ids, notify).await;
        match served {
            Ok((issuer, service)) => Ok(Self {
                postgres,
                fleet,
                issuer,
                service,
            }),
            Err(error) => {
                fleet.arm.stop().await;
                fleet.ec2.stop().await;
                tokio::task::spawn_blocking(move || postgres.stop()).await?;
                Err(error)
            }
        }
    }

    async fn serve(
        postgres: &LocalPostgres,
        fleet: &Fleet,
        port: u16,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        notify: NotifyConfig,
    ) -> anyhow::Result<(Issuer, Service)> {
        let issuer = Issuer::start(Arc::clone(&clock), &*ids).await?;
        let installation: Installation = INSTALLATION.parse()?;
        let url = SecretString::from(postgres.url());
        let store = service::connect(&url, 16).await?;
        service::prepare(&store, &installation).await?;
        let service = Service::start(Parts {
            store,
            enforcers: vec![Arc::new(azure(fleet, &clock)?), Arc::new(aws(fleet).await?)],
            cloud_roles: None,
            engine: EngineConfig {
                discovery_interval: LOOK,
                drift_interval: LOOK,
                ..EngineConfig::new(installation.clone(), service::owner(&*clock, &*ids))
            },
            server: server(&installation, port, issuer.url())?,
            guardrails: GuardrailSet::default(),
            watch: None,
            notify,
            clock,
            ids,
        })
        .await?;
        Ok((issuer, service))
    }

    /// The API's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.service.addr())
    }

    /// A client that is signed in as a user.
    pub fn client(&self, user: &str) -> anyhow::Result<Client> {
        let token = self.issuer.token(user, 3600).map_err(anyhow::Error::msg)?;
        Ok(Client::new(&self.url())?.with_token(token))
    }

    /// Lets the engineers ask, the leads approve and the pipeline ask in its own account; once.
    pub async fn give_roles(&self) -> anyhow::Result<()> {
        let olga = self.client("olga")?;
        for (role, principal, scope) in [
            ("requester", "group:demo/engineers", "/".to_owned()),
            ("approver", "group:demo/leads", "/".to_owned()),
            (
                "requester",
                "workload:demo/repo:shop/app:ref:refs/heads/main",
                format!("/aws/{}", fleet::ACCOUNT),
            ),
        ] {
            let assignment = RoleAssignmentCreate {
                role: role.to_owned(),
                principal: principal.to_owned(),
                scope,
                ..RoleAssignmentCreate::default()
            };
            match olga.create_role_assignment(None, &assignment).await {
                Ok(_) => {}
                // A kept database has them from the last time.
                Err(error) if error.problem().is_some_and(|problem| problem.status == 409) => {}
                Err(error) => return Err(error).context("the demo's roles cannot be assigned"),
            }
        }
        Ok(())
    }

    /// Stops everything, the server first.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self {
            postgres,
            fleet,
            issuer,
            service,
        } = self;
        let stopped = service.stop().await;
        drop(issuer);
        fleet.arm.stop().await;
        fleet.ec2.stop().await;
        tokio::task::spawn_blocking(move || postgres.stop()).await?;
        stopped
    }
}

fn server(installation: &Installation, port: u16, issuer: &str) -> anyhow::Result<ServerConfig> {
    let owner: PrincipalRef = "user:demo/olga".parse()?;
    let config = json!({
        "listen": format!("127.0.0.1:{port}"),
        "installation": installation,
        "first_owners": [owner],
        "issuers": [{
            "name": ISSUER_NAME,
            "issuer": issuer,
            "audiences": [AUDIENCE],
            "algorithms": ["EdDSA"],
            "loopback_http": true,
            "claims": {
                "workload_when": [{ "claim": "token_use", "values": ["workload"] }],
                "extra": ["repository", "ref"],
            },
        }],
        "limits": { "drain_seconds": 3 },
    });
    serde_json::from_value(config).context("the demo's configuration is refused")
}

fn azure(fleet: &Fleet, clock: &Arc<dyn Clock>) -> anyhow::Result<AzureEnforcer> {
    let mut config = AzureConfig::new(vec![fleet::SUBSCRIPTION.to_owned()])?;
    config.endpoint = fleet.arm.url().parse()?;
    config.authority = fleet.arm.url().parse()?;
    config.credential = AzureCredential::ClientSecret {
        tenant_id: fleet.arm.tenant().to_owned(),
        client_id: fleet::CLIENT_ID.to_owned(),
        client_secret: SecretString::from(fleet::CLIENT_SECRET),
    };
    Ok(AzureEnforcer::new(config, Arc::clone(clock))?)
}

async fn aws(fleet: &Fleet) -> anyhow::Result<AwsEnforcer> {
    let account = AwsAccount {
        id: fleet::ACCOUNT.to_owned(),
        regions: vec![fleet::REGION.to_owned()],
        role: Some(AssumeRole {
            arn: fleet::ROLE_ARN.to_owned(),
            external_id: Some(fleet::EXTERNAL_ID.to_owned()),
            session_name: "postern-demo".to_owned(),
        }),
    };
    let config = AwsConfig {
        credentials: BaseCredentials::Static {
            access_key_id: fleet::ACCESS_KEY_ID.to_owned(),
            secret_access_key: SecretString::from(fleet::SECRET_ACCESS_KEY),
        },
        endpoint: Some(fleet.ec2.url().parse()?),
        ..AwsConfig::new(vec![account])
    };
    Ok(AwsEnforcer::connect(config).await?)
}
