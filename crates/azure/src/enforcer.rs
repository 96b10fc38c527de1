//! [`AzureEnforcer`]: the `Enforcer` of Azure, which puts the parts of this crate together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use postern_core::{
    approach::is_firewall,
    budget::{Level, Purpose},
    enforcer::{
        Accounts, Bindings, Change, Desired, DiscoveryPage, EnforceError, Enforcer, Marked, Observed,
        Unlisted,
    },
    machine::{Account, Cloud},
    mark::Installation,
    point::PointRef,
    time::Clock,
};
use serde_json::Value;

use crate::{
    apply,
    arm::{Arm, Budget, Tokens, http_client, is_subscription, spending},
    config::{AzureConfig, is_loopback},
    discover, effective, firewall, observe,
    operation::Operation,
    rbac::{AzureRoles, RbacConfig},
    sweep,
};

/// Guards machines in Azure subscriptions.
#[derive(Debug)]
pub struct AzureEnforcer {
    pub(crate) arm: Arc<Arm>,
    clock: Arc<dyn Clock>,
    config: AzureConfig,
    /// Where effective rules may not be read.
    refused: effective::Refused,
    /// What was read of subscriptions whose discovery failed.
    readings: discover::Readings,
}

impl AzureEnforcer {
    /// Prepares the client. Calls nobody; workload identity reads its environment and token file.
    ///
    /// # Errors
    /// [`EnforceError::Malformed`] when the endpoint or the authority is neither HTTPS nor on loopback, the
    /// credential lacks a part, or the band is not one.
    pub fn new(config: AzureConfig, clock: Arc<dyn Clock>) -> Result<Self, EnforceError> {
        for url in [&config.endpoint, &config.authority] {
            if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url)) {
                return Err(EnforceError::Malformed(format!(
                    "`{url}` is neither HTTPS nor on loopback"
                )));
            }
        }
        let band = config.band;
        if band.first < 100 || band.last > 4096 || band.first >= band.last {
            return Err(EnforceError::Malformed(format!(
                "{} to {} is no band of priorities between 100 and 4096",
                band.first, band.last
            )));
        }
        for subscription in &config.subscriptions {
            if !is_subscription(&subscription.to_lowercase()) {
                return Err(EnforceError::Malformed(format!(
                    "`{subscription}` is no subscription id"
                )));
            }
        }
        let http = http_client(config.connect_timeout, config.call_timeout)?;
        let tokens = Tokens::new(&config, &http, Arc::clone(&clock))?;
        let arm = Arm::new(
            http,
            config.endpoint.clone(),
            tokens,
            Budget::new(config.budget_percent),
        );
        Ok(Self {
            arm: Arc::new(arm),
            clock,
            config,
            refused: effective::Refused::default(),
            readings: discover::Readings::default(),
        })
    }

    /// What asks for the requester's own Azure roles, over the same connections and out of the same budget.
    pub fn roles(&self, config: RbacConfig) -> AzureRoles {
        AzureRoles::new(Arc::clone(&self.arm), config, Arc::clone(&self.clock))
    }
}

fn subscription(account: &Account) -> Result<&str, EnforceError> {
    match account {
        Account::Azure { subscription } => Ok(subscription),
        Account::Aws { .. } => Err(EnforceError::Malformed(format!("{account} is not in Azure"))),
    }
}

#[async_trait]
impl Enforcer for AzureEnforcer {
    fn cloud(&self) -> Cloud {
        Cloud::Azure
    }

    async fn accounts(&self) -> Accounts {
        let listed = spending(Purpose::Look, discover::accounts(&self.arm, &self.config)).await;
        listed.unwrap_or_else(|error| Accounts {
            found: Vec::new(),
            failed: vec![Unlisted {
                scope: "/azure".to_owned(),
                error,
            }],
        })
    }

    /// All machines stand on the first page: what surrounds them has to be read as a whole anyway.
    async fn discover(&self, account: &Account, cursor: Option<&str>) -> Result<DiscoveryPage, EnforceError> {
        if let Some(cursor) = cursor {
            return Err(EnforceError::Malformed(format!(
                "`{cursor}` is no page of {account}"
            )));
        }
        spending(
            Purpose::Look,
            Box::pin(discover::machines(
                &self.arm,
                subscription(account)?,
                &self.readings,
                &*self.clock,
            )),
        )
        .await
    }

    async fn observe(&self, desired: &Desired) -> Result<Box<dyn Observed>, EnforceError> {
        if is_firewall(&desired.point) {
            let look = Box::pin(self.observe_firewall(desired, self.config.settle_timeout));
            return Ok(Box::new(spending(desired.purpose(), look).await?));
        }
        let look = effective::observe(&self.arm, &self.config, desired, &self.refused);
        spending(desired.purpose(), look).await
    }

    async fn apply(
        &self,
        point: &PointRef,
        change: &Change,
        _bindings: &mut Bindings,
    ) -> Result<Value, EnforceError> {
        if is_firewall(point) {
            // It may take minutes, and goes on whether we wait or not: who looks next sees how it ended.
            let work = Box::pin(self.write_firewall(change, self.config.change_timeout));
            return spending(change.verb.purpose(), work).await;
        }
        let nsg = observe::nsg_id(point)?;
        let operation: Operation = serde_json::from_value(change.operation.clone()).map_err(|error| {
            EnforceError::Malformed(format!("the change at {point} cannot be read: {error}"))
        })?;
        let timeout = self.config.change_timeout;
        let work = apply::operation(&self.arm, &nsg, &operation, change, timeout);
        spending(change.verb.purpose(), work).await
    }

    async fn marked(
        &self,
        account: &Account,
        installation: &Installation,
    ) -> Result<Vec<Marked>, EnforceError> {
        let work = async {
            let subscription = subscription(account)?;
            let mut found = sweep::marked(&self.arm, account, subscription, installation).await?;
            found.extend(firewall::marked(&self.arm, account, subscription, installation).await?);
            Ok(found)
        };
        spending(Purpose::Close, Box::pin(work)).await
    }

    async fn remove(&self, marked: &Marked) -> Result<(), EnforceError> {
        let within = self.config.change_timeout;
        if let Some(place) = firewall::place_of(&marked.resource) {
            return spending(Purpose::Close, Box::pin(self.remove_place(place, within))).await;
        }
        let work = sweep::remove(&self.arm, marked, within);
        spending(Purpose::Close, work).await
    }

    fn request_timeout(&self) -> Duration {
        self.config.change_timeout
    }

    fn share_budgets(&self, servers: u32, left: f64) {
        self.arm.budget.share(servers, left);
    }

    fn budgets(&self) -> Vec<Level> {
        self.arm.budget.levels()
    }

    fn stopped_accounts(&self) -> BTreeMap<Account, Duration> {
        self.arm.budget.stopped()
    }
}
