//! What the enforcer is told: accounts, credentials, timeouts, limits.

use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

/// The configuration of [`crate::AwsEnforcer`].
#[derive(Debug, Clone)]
pub struct AwsConfig {
    /// The accounts to guard.
    pub accounts: Vec<AwsAccount>,
    /// Whose credentials the enforcer starts from.
    pub credentials: BaseCredentials,
    /// Where EC2 and STS answer, for simulators; `None` for AWS itself.
    pub endpoint: Option<Url>,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest that one EC2 call may take, connecting included.
    pub call_timeout: Duration,
    /// The longest that one change may take, all its calls together: what
    /// [`postern_core::enforcer::Enforcer::request_timeout`] answers.
    pub change_timeout: Duration,
    /// For how long a describe may leave out what was written: until then a reading that contradicts a write is
    /// taken for old, and confirms nothing. EC2 names no bound (Amazon EC2 Developer Guide, "Eventual consistency").
    pub describe_lag: Duration,
    /// The accounts' quotas.
    pub limits: AwsLimits,
    /// How much of EC2's documented request limits may be used, in percent; 0 keeps no budget.
    pub budget_percent: u32,
    /// Instances per page of a discovery, 5 to 1000 (EC2 API reference, `DescribeInstances`, `MaxResults`).
    pub page_size: u16,
}

impl AwsConfig {
    /// AWS itself with the default credential chain, 3 s to connect, 10 s a call, 20 s a change, 10 s until a write
    /// shows, EC2's default quotas, 95 % of its request limits, 100 instances a page.
    pub fn new(accounts: Vec<AwsAccount>) -> Self {
        Self {
            accounts,
            credentials: BaseCredentials::Default,
            endpoint: None,
            connect_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(10),
            change_timeout: Duration::from_secs(20),
            describe_lag: Duration::from_secs(10),
            limits: AwsLimits::default(),
            budget_percent: 95,
            page_size: 100,
        }
    }
}

/// One account.
#[derive(Debug, Clone)]
pub struct AwsAccount {
    /// Twelve digits.
    pub id: String,
    /// The regions to guard; empty for every region that is enabled for the account.
    pub regions: Vec<String>,
    /// The role to work as; `None` to use the base credentials.
    pub role: Option<AssumeRole>,
}

/// A role to assume.
#[derive(Debug, Clone)]
pub struct AssumeRole {
    /// `arn:aws:iam::<account>:role/<name>`.
    pub arn: String,
    /// The secret that both sides know, against a confused deputy. Not a credential: it stands in the role's
    /// trust policy.
    pub external_id: Option<String>,
    /// The name under which `CloudTrail` shows the calls.
    pub session_name: String,
}

/// Where the first credentials come from.
#[derive(Debug, Clone)]
pub enum BaseCredentials {
    /// Environment, shared profile, web identity, container, instance metadata; in the SDK's order.
    Default,
    /// Given, for simulators and tests.
    Static {
        /// The access key's id.
        access_key_id: String,
        /// The access key's secret.
        secret_access_key: SecretString,
    },
}

/// EC2's quotas as they stand for the accounts.
///
/// Source of the defaults: "Amazon VPC quotas", "Security groups".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwsLimits {
    /// Groups on one interface.
    pub groups_per_interface: usize,
    /// Ingress rules in one group, of each address family.
    pub rules_per_group: usize,
}

impl Default for AwsLimits {
    fn default() -> Self {
        Self {
            groups_per_interface: 5,
            rules_per_group: 60,
        }
    }
}
