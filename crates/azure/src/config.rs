//! What the enforcer is told: subscriptions, credentials, timeouts, the band of priorities.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The configuration of [`crate::AzureEnforcer`].
#[derive(Debug, Clone)]
pub struct AzureConfig {
    /// The subscriptions to guard; empty for every subscription that the credential may read.
    pub subscriptions: Vec<String>,
    /// Azure Resource Manager. Plain HTTP on loopback only.
    pub endpoint: Url,
    /// Microsoft Entra ID. Plain HTTP on loopback only, with a client secret only.
    pub authority: Url,
    /// Who we are there.
    pub credential: AzureCredential,
    /// The priorities that our rules may have.
    pub band: PriorityBand,
    /// From how many changed rules in one plan the whole NSG is written at once; at least 2.
    pub bulk_threshold: usize,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest that one call may take, connecting included.
    pub call_timeout: Duration,
    /// The longest that one change may take, with the operation that it starts: what
    /// [`postern_core::enforcer::Enforcer::request_timeout`] answers.
    pub change_timeout: Duration,
    /// The longest that a look at an NSG waits for somebody's change of it to end.
    pub settle_timeout: Duration,
    /// Whether readings ask the interfaces for their effective rules before anything is confirmed. Takes Azure
    /// seconds, and a permission of its own; without it the NSG's document has to do.
    pub effective_rules: bool,
    /// How much of ARM's documented request limits may be used, in percent; 0 keeps no budget.
    pub budget_percent: u32,
}

impl AzureConfig {
    /// Azure's public cloud with the machine's managed identity, the whole band, whole-NSG writes from 4 rules on,
    /// 3 s to connect, 15 s a call, 30 s a change, 10 s for others' changes,
    /// 95 % of its request limits.
    ///
    /// # Errors
    /// Never: the two addresses are constants.
    pub fn new(subscriptions: Vec<String>) -> Result<Self, url::ParseError> {
        Ok(Self {
            subscriptions,
            endpoint: Url::parse("https://management.azure.com/")?,
            authority: Url::parse("https://login.microsoftonline.com/")?,
            credential: AzureCredential::ManagedIdentity { client_id: None },
            band: PriorityBand::default(),
            bulk_threshold: 4,
            connect_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(15),
            change_timeout: Duration::from_secs(30),
            settle_timeout: Duration::from_secs(10),
            effective_rules: false,
            budget_percent: 95,
        })
    }
}

/// How we prove to Azure who we are.
#[derive(Debug, Clone)]
pub enum AzureCredential {
    /// The identity of the virtual machine or app that we run on.
    ManagedIdentity {
        /// The client id of a user-assigned identity; `None` for the system-assigned one.
        client_id: Option<String>,
    },
    /// A federated token that Kubernetes mounts. What is `None` comes from the environment that the webhook sets.
    WorkloadIdentity {
        /// The tenant.
        tenant_id: Option<String>,
        /// The app registration or user-assigned identity.
        client_id: Option<String>,
    },
    /// An app registration's secret.
    ClientSecret {
        /// The tenant.
        tenant_id: String,
        /// The app registration.
        client_id: String,
        /// Its secret.
        client_secret: SecretString,
    },
    /// Whoever is signed in with `az`.
    Cli {
        /// The tenant; `None` for the one that `az` defaults to.
        tenant_id: Option<String>,
    },
}

/// The priorities that our rules may have, both ends included.
///
/// Source of the bounds: Azure REST reference, Security Rules, `priority`: 100 to 4096, unique per direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorityBand {
    /// The lowest number, looked at first; at least 100.
    pub first: u16,
    /// The highest number; at most 4096.
    pub last: u16,
}

impl Default for PriorityBand {
    fn default() -> Self {
        Self {
            first: 100,
            last: 4096,
        }
    }
}

/// Whether the address is one of this machine's own, where nobody listens in.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
