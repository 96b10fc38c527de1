//! EC2 clients: one per account and region, with our own connections, timeouts and no retries of their own.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use aws_config::BehaviorVersion;
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_ec2::config::{Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use postern_core::{enforcer::EnforceError, machine::Account};
use secrecy::ExposeSecret;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    budget::{Budget, Paying},
    config::{AwsAccount, AwsConfig, BaseCredentials},
    credentials::{AssumedRole, Checked},
    gather::{Asking, Gatherings},
};

/// For how long it is believed that a VPC has no IPv6 block.
const VPC_MEMORY: Duration = Duration::from_mins(15);

/// An EC2 client with where it speaks to.
#[derive(Clone)]
pub(crate) struct Ec2 {
    pub(crate) client: aws_sdk_ec2::Client,
    pub(crate) account: String,
    pub(crate) region: String,
    /// What may be asked together with others.
    pub(crate) gathered: Arc<Gatherings>,
}

/// Account, region and VPC.
type VpcKey = (String, String, String);

/// The clients.
pub(crate) struct Clients {
    config: AwsConfig,
    http: SharedHttpClient,
    budget: Arc<Budget>,
    base: SharedCredentialsProvider,
    made: Mutex<BTreeMap<(String, String), Ec2>>,
    vpcs: Mutex<BTreeMap<VpcKey, (bool, Instant)>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("endpoint", &self.config.endpoint)
            .finish_non_exhaustive()
    }
}

impl Clients {
    pub(crate) async fn connect(config: AwsConfig) -> Result<Self, EnforceError> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let base = match &config.credentials {
            BaseCredentials::Static {
                access_key_id,
                secret_access_key,
            } => SharedCredentialsProvider::new(Credentials::from_keys(
                access_key_id,
                secret_access_key.expose_secret(),
                None,
            )),
            BaseCredentials::Default => aws_config::defaults(BehaviorVersion::latest())
                .http_client(http.clone())
                .load()
                .await
                .credentials_provider()
                .ok_or_else(|| EnforceError::Malformed("no AWS credential provider".to_owned()))?,
        };
        Ok(Self {
            budget: Arc::new(Budget::new(config.budget_percent)),
            config,
            http,
            base,
            made: Mutex::default(),
            vpcs: Mutex::default(),
        })
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn config(&self) -> &AwsConfig {
        &self.config
    }

    /// The client for a configured account.
    pub(crate) async fn ec2(&self, account: &str, region: &str) -> Result<Ec2, EnforceError> {
        let key = (account.to_owned(), region.to_owned());
        let mut made = self.made.lock().await;
        if let Some(ec2) = made.get(&key) {
            return Ok(ec2.clone());
        }
        let configured = self
            .config
            .accounts
            .iter()
            .find(|configured| configured.id == account)
            .ok_or_else(|| EnforceError::Malformed(format!("account `{account}` is not configured")))?;
        let client = self.build(configured, region);
        let gathered = Arc::new(Gatherings::new(&Asking {
            client: client.clone(),
            account: Account::Aws {
                account: account.to_owned(),
                region: region.to_owned(),
            },
            budget: Arc::clone(&self.budget),
            patience: self.config.change_timeout,
        }));
        let ec2 = Ec2 {
            client,
            gathered,
            account: account.to_owned(),
            region: region.to_owned(),
        };
        made.insert(key, ec2.clone());
        Ok(ec2)
    }

    fn build(&self, account: &AwsAccount, region: &str) -> aws_sdk_ec2::Client {
        let sts = self.sts(region);
        let credentials = match &account.role {
            None => self.base.clone(),
            Some(role) => {
                SharedCredentialsProvider::new(AssumedRole::new(role.clone(), &sts, self.base.clone()))
            }
        };
        let credentials = SharedCredentialsProvider::new(Checked::new(&account.id, credentials, sts));
        let paying = Paying {
            inner: self.http.clone(),
            budget: Arc::clone(&self.budget),
            account: Account::Aws {
                account: account.id.clone(),
                region: region.to_owned(),
            },
        };
        let mut config = aws_sdk_ec2::Config::builder()
            .behavior_version(aws_sdk_ec2::config::BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .credentials_provider(credentials)
            .http_client(SharedHttpClient::new(paying))
            // The loop retries, with a fresh look at the point.
            .retry_config(RetryConfig::disabled())
            .timeout_config(self.timeouts());
        config.set_endpoint_url(self.endpoint());
        aws_sdk_ec2::Client::from_conf(config.build())
    }

    /// How to speak to STS; whoever asks brings the credentials.
    fn sts(&self, region: &str) -> aws_sdk_sts::config::Builder {
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .http_client(self.http.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(self.timeouts());
        config.set_endpoint_url(self.endpoint());
        config
    }

    fn endpoint(&self) -> Option<String> {
        self.config
            .endpoint
            .as_ref()
            .map(|url| url.as_str().trim_end_matches('/').to_owned())
    }

    fn timeouts(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.config.connect_timeout)
            .operation_attempt_timeout(self.config.call_timeout)
            .operation_timeout(self.config.call_timeout)
            .build()
    }

    /// Whether a VPC has an IPv6 block, as far as is remembered.
    pub(crate) async fn remembered_ipv6(&self, ec2: &Ec2, vpc: &str) -> Option<bool> {
        let key = (ec2.account.clone(), ec2.region.clone(), vpc.to_owned());
        let vpcs = self.vpcs.lock().await;
        let (ipv6, learned) = vpcs.get(&key)?;
        (*ipv6 || learned.elapsed() < VPC_MEMORY).then_some(*ipv6)
    }

    /// Remembers it.
    pub(crate) async fn remember_ipv6(&self, ec2: &Ec2, vpc: &str, ipv6: bool) {
        let key = (ec2.account.clone(), ec2.region.clone(), vpc.to_owned());
        self.vpcs.lock().await.insert(key, (ipv6, Instant::now()));
    }
}
