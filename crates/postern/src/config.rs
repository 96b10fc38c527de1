//! The configuration: one TOML file, overridden by the environment, refused with the place of what is wrong.
//!
//! `POSTERN__<SECTION>__<KEY>` overrides `<section>.<key>`. Every wrong key or value is a [`Problem`] with the
//! file, the line and the key path, or the variable that it came from.

mod check;
mod clouds;
mod place;
mod rbac;
mod value;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use postern_authz::GuardrailSet;
use postern_aws::AwsLimits;
use postern_azure::PriorityBand;
use postern_core::{mark::Installation, net::Source, principal::PrincipalRef};
use postern_engine::EngineConfig;
use postern_notify::NotifyConfig;
use postern_server::config::{
    ForwardedHeader, IssuerConfig, Limits, Preflight, Proxies, Quotas, ServerConfig, TicketConfig, TlsConfig,
};
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::guardrails::Texts;

pub use clouds::Clouds;
pub use place::{Invalid, Problem};
pub use rbac::{AzureGroups, AzureRbac, OtherIssuers};

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which installation this is.
    pub installation: InstallationSection,
    /// Where the API is served.
    #[serde(default)]
    pub listen: Listen,
    /// Where the state is kept.
    pub database: Database,
    /// Whose tokens are accepted.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// Sizes and times of the API.
    #[serde(default)]
    pub limits: Limits,
    /// The Azure subscriptions to guard, if any.
    pub azure: Option<Azure>,
    /// The AWS accounts to guard, if any.
    pub aws: Option<Aws>,
    /// The reconcile loop.
    #[serde(default)]
    pub engine: EngineSection,
    /// What the organisation forbids whatever a role allows.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Whom to tell of what.
    #[serde(default)]
    pub notify: NotifyConfig,
    /// Which ticket system is asked for the tickets of requests, if one is.
    pub tickets: Option<TicketConfig>,
    /// What holds until somebody has a role.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// What is logged, and how.
    #[serde(default)]
    pub logging: Logging,
}

/// Section `installation`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallationSection {
    /// The name in every mark that we write; installations that guard the same account have different ones.
    pub name: Installation,
}

/// Section `listen`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Address and port of the API.
    pub address: SocketAddr,
    /// The certificate to serve with. Without it the API is plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Allows plain HTTP on an address that is not loopback, for a proxy in front that ends TLS.
    pub insecure_http: bool,
    /// Where the proxies in front connect from, whose word on the client's address is taken.
    pub trusted_proxies: Vec<Source>,
    /// The header in which they say it.
    pub forwarded_header: ForwardedHeader,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8090)),
            tls: None,
            insecure_http: false,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
        }
    }
}

/// Section `database`. Exactly one of `url` and `url_file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/name`.
    pub url: Option<SecretString>,
    /// A file whose only line is the URL, as secret stores mount them.
    pub url_file: Option<PathBuf>,
    /// The most connections of this process, 2 to 500.
    #[serde(default = "default_connections")]
    pub max_connections: u32,
}

const fn default_connections() -> u32 {
    16
}

/// Section `azure`. What is not set is as in [`postern_azure::AzureConfig::new`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Azure {
    /// The subscriptions to guard; none for every subscription that the credential may read.
    #[serde(default)]
    pub subscriptions: Vec<String>,
    /// Azure Resource Manager.
    #[serde(default, deserialize_with = "value::parsed_option")]
    pub endpoint: Option<Url>,
    /// Microsoft Entra ID, where tokens come from.
    #[serde(default, deserialize_with = "value::parsed_option")]
    pub authority: Option<Url>,
    /// Who we are there.
    #[serde(default)]
    pub credential: AzureCredential,
    /// The first and the last priority that our rules may have, 100 to 4096.
    #[serde(default)]
    pub priority_band: PriorityBand,
    /// From how many changed rules in one pass the whole NSG is written at once, at least 2.
    pub bulk_threshold: Option<usize>,
    /// The longest that one change may take, 1 to 600.
    pub change_timeout_seconds: Option<u32>,
    /// Whether a machine's interfaces are asked for their effective rules before a grant is called open or closed.
    pub effective_rules: Option<bool>,
    /// How much of ARM's documented request limits may be used, in percent, 0 to 10 000; 0 keeps no budget.
    pub budget_percent: Option<u32>,
    /// What requesters must hold in Azure itself, if anything.
    pub rbac: Option<AzureRbac>,
}

/// How we prove to Azure who we are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AzureCredentialKind {
    /// The identity of the virtual machine or app that we run on.
    #[default]
    ManagedIdentity,
    /// A federated token that Kubernetes mounts.
    WorkloadIdentity,
    /// An app registration's secret.
    ClientSecret,
    /// Whoever is signed in with `az`; for trying things out.
    Cli,
}

/// Section `azure.credential`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzureCredential {
    /// Which kind.
    pub kind: AzureCredentialKind,
    /// The tenant, for `client_secret` and `workload_identity`.
    pub tenant_id: Option<String>,
    /// The app registration, or the user-assigned identity.
    pub client_id: Option<String>,
    /// The secret, for `client_secret`.
    pub client_secret: Option<SecretString>,
    /// A file that holds it.
    pub client_secret_file: Option<PathBuf>,
}

/// Section `aws`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aws {
    /// The regions to guard in every account that does not name its own; none for every region that is enabled
    /// for the account.
    #[serde(default)]
    pub regions: Vec<String>,
    /// The accounts to guard.
    pub accounts: Vec<AwsAccount>,
    /// Another EC2 and STS, for simulators. Not set: the public endpoints.
    #[serde(default, deserialize_with = "value::parsed_option")]
    pub endpoint: Option<Url>,
    /// The longest that one change may take, 1 to 600.
    pub change_timeout_seconds: Option<u32>,
    /// For how long a describe may not show what was written, 0 to 300. EC2 is eventually consistent and names no
    /// bound; its guide advises to begin with a couple of seconds
    /// (<https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>).
    pub describe_lag_seconds: Option<u32>,
    /// How much of EC2's documented request limits may be used, in percent, 0 to 10 000; 0 keeps no budget.
    pub budget_percent: Option<u32>,
    /// EC2's quotas as they stand for the accounts.
    #[serde(default)]
    pub limits: AwsLimits,
}

/// One entry of `aws.accounts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsAccount {
    /// Twelve digits.
    pub id: String,
    /// Its regions, where they differ from `aws.regions`.
    #[serde(default)]
    pub regions: Vec<String>,
    /// The role to assume. Not set: the ambient credentials are the account's own.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy asks for.
    pub external_id: Option<String>,
}

/// Section `engine`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    /// Passes at the same time, 1 to 512.
    pub workers: u32,
    /// Passes at the same time in one account, 1 to 512.
    pub account_workers: u32,
    /// How long a point is leased at a time, 1 to 600.
    pub lease_seconds: u32,
    /// How often the accounts are discovered, 1 to 86 400.
    pub discovery_interval_seconds: u32,
    /// How often a point with rules of ours is looked at although nothing changed, 1 to 86 400.
    pub drift_interval_seconds: u32,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            workers: 64,
            account_workers: 16,
            lease_seconds: 30,
            discovery_interval_seconds: 300,
            drift_interval_seconds: 300,
        }
    }
}

/// Section `guardrails`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guardrails {
    /// A Cedar file, or a directory of `.cedar` files.
    pub path: Option<PathBuf>,
    /// A TOML file of networks that guardrails may name: `office = ["203.0.113.0/24"]`.
    pub networks: Option<PathBuf>,
    /// How often the files are looked at for changes, 1 to 3600.
    pub reload_seconds: u32,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            path: None,
            networks: None,
            reload_seconds: 10,
        }
    }
}

/// Section `bootstrap`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// Who becomes `owner` at `/` when nobody is.
    pub owners: Vec<PrincipalRef>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Section `logging`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// Directives such as `info,postern_engine=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// The variables that override the file begin with this.
pub const ENVIRONMENT_PREFIX: &str = "POSTERN__";

impl Database {
    /// The database's URL, from wherever it is.
    pub fn url(&self) -> anyhow::Result<SecretString> {
        match (&self.url, &self.url_file) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(path)) => secret(path),
            (None, None) => Err(anyhow::Error::msg(
                "neither `database.url` nor `database.url_file` is set",
            )),
        }
    }
}

impl AzureCredential {
    /// The client secret, from wherever it is.
    pub fn secret(&self) -> anyhow::Result<Option<SecretString>> {
        match (&self.client_secret, &self.client_secret_file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(path)) => secret(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// A file with a secret, which the configuration names, cannot be read.
#[derive(Debug)]
pub struct NoSecret {
    path: PathBuf,
    source: std::io::Error,
}

impl std::fmt::Display for NoSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cannot be read", self.path.display())
    }
}

impl std::error::Error for NoSecret {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The one line of a secret's file.
fn secret(path: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path).map_err(|source| NoSecret {
        path: path.to_owned(),
        source,
    })?;
    Ok(SecretString::from(text.trim().to_owned()))
}

impl Guardrails {
    /// The guardrails of the file, or of every `.cedar` file of the directory, by name.
    pub fn read(&self) -> anyhow::Result<GuardrailSet> {
        Texts::read(self)?.parse()
    }
}

fn read(path: &Path) -> Result<String, Invalid> {
    std::fs::read_to_string(path)
        .map_err(|error| Invalid::one(Problem::file(path, format!("cannot be read: {error}"))))
}

/// The variables of this process that override the file.
fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
        .collect()
}

/// What the file's text and the variables say, if `check` finds nothing wrong with it.
fn extract<T: DeserializeOwned>(
    path: &Path,
    text: &str,
    variables: &BTreeMap<String, String>,
    check: impl Fn(&T) -> check::Problems,
) -> Result<T, Invalid> {
    let source = place::Source::parse(path, text, variables).map_err(Invalid::one)?;
    let environment = variables.iter().filter_map(|(name, value)| {
        let key = name
            .strip_prefix(ENVIRONMENT_PREFIX)?
            .to_lowercase()
            .replace("__", ".");
        Some((key, value.as_str()))
    });
    let mut figment = Figment::from(Toml::string(text));
    for (key, value) in environment {
        figment = figment.merge(value::overriding(&key, value));
    }
    let extracted: T = figment
        .extract()
        .map_err(|errors| Invalid::new(errors.into_iter().map(|error| source.problem(&error)).collect()))?;
    let problems = check(&extracted);
    if problems.is_empty() {
        Ok(extracted)
    } else {
        Err(Invalid::new(
            problems
                .into_iter()
                .map(|(key, message)| source.at(&key, message))
                .collect(),
        ))
    }
}

impl Config {
    /// The loop's settings; `owner` is the name of this process in leases.
    pub fn engine(&self, owner: String) -> EngineConfig {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        EngineConfig {
            workers: self.engine.workers,
            account_workers: self.engine.account_workers,
            lease: seconds(self.engine.lease_seconds),
            discovery_interval: seconds(self.engine.discovery_interval_seconds),
            drift_interval: seconds(self.engine.drift_interval_seconds),
            review_within: Duration::from_secs(self.limits.review_seconds),
            ..EngineConfig::new(self.installation.name.clone(), owner)
        }
    }

    /// Reads the file and this process' environment.
    pub fn load(path: &Path) -> Result<Self, Invalid> {
        Self::from_text(path, &read(path)?, &variables())
    }

    /// Reads `text` as the file at `path` would be, with these variables.
    pub fn from_text(path: &Path, text: &str, variables: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        extract(path, text, variables, check::problems)
    }

    /// The part that reaches the clouds.
    pub fn clouds(&self) -> Clouds {
        Clouds::new(
            self.installation.clone(),
            self.azure.clone(),
            self.aws.clone(),
            self.logging.clone(),
        )
    }

    /// What the server is told.
    pub fn server(&self) -> ServerConfig {
        ServerConfig {
            listen: self.listen.address,
            tls: self.listen.tls.clone(),
            insecure_http: self.listen.insecure_http,
            proxies: Proxies {
                trusted: self.listen.trusted_proxies.clone(),
                header: self.listen.forwarded_header,
            },
            installation: self.installation.name.clone(),
            issuers: self.issuers.clone(),
            first_owners: self.bootstrap.owners.clone(),
            tickets: self.tickets.clone(),
            limits: Limits {
                preflight: Preflight {
                    trust: Duration::from_secs(self.engine.discovery_interval_seconds.into()),
                    quotas: self.aws.as_ref().map(|aws| Quotas {
                        groups_per_interface: aws.limits.groups_per_interface,
                        rules_per_group: aws.limits.rules_per_group,
                    }),
                },
                ..self.limits.clone()
            },
        }
    }

    /// Checks that every file that the configuration names can be read, and that the guardrails hold. Apart from
    /// [`Config::load`], because a file is often checked on another machine than the one that serves.
    pub fn check_files(&self) -> Vec<String> {
        check::unreadable(self)
    }
}
