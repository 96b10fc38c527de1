//! The enforcers that a configuration asks for.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use postern_aws::{AssumeRole, AwsAccount, AwsConfig, AwsEnforcer};
use postern_azure::{AzureConfig, AzureCredential, AzureEnforcer};
use postern_core::{cloud_roles::CloudRoles, enforcer::Enforcer, time::Clock};

use crate::config::{Aws, Azure, AzureCredentialKind, Clouds, Config};

/// The name under which the clouds' own logs show our calls.
const SESSION: &str = "postern";

/// What a configuration makes of the clouds.
#[derive(Debug, Clone)]
pub struct Reach {
    /// One enforcer per configured cloud.
    pub enforcers: Vec<Arc<dyn Enforcer>>,
    /// What asks for requesters' own roles in the cloud, where the configuration demands them.
    pub roles: Option<Arc<dyn CloudRoles>>,
}

/// Everything that the configuration asks for.
pub async fn all(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Reach> {
    let mut enforcers: Vec<Arc<dyn Enforcer>> = Vec::new();
    let mut roles: Option<Arc<dyn CloudRoles>> = None;
    if let Some(section) = &config.azure {
        let enforcer = AzureEnforcer::new(azure(section)?, Arc::clone(clock))
            .context("the Azure enforcer cannot be made")?;
        if let Some(rbac) = &section.rbac {
            roles = Some(Arc::new(enforcer.roles(rbac.settings(&config.issuers)?)));
        }
        enforcers.push(Arc::new(enforcer));
    }
    if let Some(section) = &config.aws {
        let enforcer = AwsEnforcer::connect(aws(section))
            .await
            .context("the AWS enforcer cannot be made")?;
        enforcers.push(Arc::new(enforcer));
    }
    Ok(Reach { enforcers, roles })
}

/// An enforcer of as little as can fail by itself.
#[derive(Debug, Clone)]
pub struct Part {
    /// The scope that it is for: `/azure/<subscription>` or `/aws/<account>`, or `/azure` for every subscription that
    /// the credential may read.
    pub scope: String,
    /// The enforcer, or why there is none.
    pub enforcer: Result<Arc<dyn Enforcer>, String>,
}

/// One enforcer per configured account, so that one that fails leaves the others alone.
pub async fn by_account(clouds: &Clouds, clock: &Arc<dyn Clock>) -> Vec<Part> {
    let mut parts = Vec::new();
    if let Some(section) = &clouds.azure {
        let each: Vec<(String, Vec<String>)> = if section.subscriptions.is_empty() {
            vec![("/azure".to_owned(), Vec::new())]
        } else {
            let one = |id: &String| (format!("/azure/{}", id.to_lowercase()), vec![id.clone()]);
            section.subscriptions.iter().map(one).collect()
        };
        for (scope, subscriptions) in each {
            let only = Azure {
                subscriptions,
                ..section.clone()
            };
            let enforcer = azure(&only).and_then(|config| {
                let enforcer = AzureEnforcer::new(config, Arc::clone(clock))?;
                Ok(Arc::new(enforcer) as Arc<dyn Enforcer>)
            });
            parts.push(Part {
                scope,
                enforcer: enforcer.map_err(|error| format!("{error:#}")),
            });
        }
    }
    if let Some(section) = &clouds.aws {
        for account in &section.accounts {
            let only = Aws {
                accounts: vec![account.clone()],
                ..section.clone()
            };
            let enforcer = AwsEnforcer::connect(aws(&only)).await;
            parts.push(Part {
                scope: format!("/aws/{}", account.id),
                enforcer: enforcer
                    .map(|enforcer| Arc::new(enforcer) as Arc<dyn Enforcer>)
                    .map_err(|error| error.to_string()),
            });
        }
    }
    parts
}

/// What the AWS enforcer is told.
pub fn aws(section: &Aws) -> AwsConfig {
    let accounts = section.accounts.iter().map(|account| AwsAccount {
        id: account.id.clone(),
        regions: if account.regions.is_empty() {
            section.regions.clone()
        } else {
            account.regions.clone()
        },
        role: account.role_arn.as_ref().map(|arn| AssumeRole {
            arn: arn.clone(),
            external_id: account.external_id.clone(),
            session_name: SESSION.to_owned(),
        }),
    });
    let mut config = AwsConfig::new(accounts.collect());
    config.endpoint.clone_from(&section.endpoint);
    config.limits = section.limits;
    if let Some(seconds) = section.change_timeout_seconds {
        config.change_timeout = Duration::from_secs(seconds.into());
        config.call_timeout = config.call_timeout.min(config.change_timeout);
        config.connect_timeout = config.connect_timeout.min(config.change_timeout);
    }
    if let Some(seconds) = section.describe_lag_seconds {
        config.describe_lag = Duration::from_secs(seconds.into());
    }
    if let Some(percent) = section.budget_percent {
        config.budget_percent = percent;
    }
    config
}

/// What the Azure enforcer is told.
pub fn azure(section: &Azure) -> anyhow::Result<AzureConfig> {
    let mut config = AzureConfig::new(section.subscriptions.clone())?;
    if let Some(endpoint) = &section.endpoint {
        config.endpoint = endpoint.clone();
    }
    if let Some(authority) = &section.authority {
        config.authority = authority.clone();
    }
    config.credential = credential(section)?;
    config.band = section.priority_band;
    if let Some(threshold) = section.bulk_threshold {
        config.bulk_threshold = threshold;
    }
    if let Some(seconds) = section.change_timeout_seconds {
        config.change_timeout = Duration::from_secs(seconds.into());
        config.call_timeout = config.call_timeout.min(config.change_timeout);
        config.connect_timeout = config.connect_timeout.min(config.change_timeout);
        config.settle_timeout = config.settle_timeout.min(config.change_timeout);
    }
    if let Some(asked) = section.effective_rules {
        config.effective_rules = asked;
    }
    if let Some(percent) = section.budget_percent {
        config.budget_percent = percent;
    }
    Ok(config)
}

fn credential(section: &Azure) -> anyhow::Result<AzureCredential> {
    let credential = &section.credential;
    let (tenant_id, client_id) = (credential.tenant_id.clone(), credential.client_id.clone());
    Ok(match credential.kind {
        AzureCredentialKind::ManagedIdentity => AzureCredential::ManagedIdentity { client_id },
        AzureCredentialKind::WorkloadIdentity => AzureCredential::WorkloadIdentity { tenant_id, client_id },
        AzureCredentialKind::Cli => AzureCredential::Cli { tenant_id },
        AzureCredentialKind::ClientSecret => AzureCredential::ClientSecret {
            tenant_id: tenant_id.context("`azure.credential.tenant_id` is missing")?,
            client_id: client_id.context("`azure.credential.client_id` is missing")?,
            client_secret: credential
                .secret()?
                .context("`azure.credential.client_secret_file` is missing")?,
        },
    })
}
