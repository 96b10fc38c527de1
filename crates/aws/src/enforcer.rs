//! [`AwsEnforcer`]: the `Enforcer` of EC2, which puts the parts of this crate together.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use postern_core::{
    budget::{Level, Purpose},
    enforcer::{
        Accounts, Bindings, Change, Desired, DiscoveryPage, EnforceError, Enforcer, Marked, Observed,
        Recalled,
    },
    machine::{Account, Cloud},
    mark::Installation,
    point::PointRef,
};
use serde_json::Value;

use crate::{
    apply,
    budget::spending,
    client::{Clients, Ec2},
    config::AwsConfig,
    discover, observe,
    operation::Operation,
    plan::written::{Carry, Reading, Written},
    recent::Recent,
    sweep,
};

/// Guards instances in AWS accounts.
#[derive(Debug)]
pub struct AwsEnforcer {
    clients: Clients,
    recent: Recent,
}

impl AwsEnforcer {
    /// Prepares the clients. Calls nobody, except that the default credential chain may read files.
    pub async fn connect(config: AwsConfig) -> Result<Self, EnforceError> {
        Ok(Self {
            recent: Recent::new(config.describe_lag),
            clients: Clients::connect(config).await?,
        })
    }

    /// Does `work` in the account, its calls paid for as for `purpose`, and heeds it when it is refused for its rate.
    async fn paid<T>(
        &self,
        account: &Account,
        purpose: Purpose,
        work: impl Future<Output = Result<T, EnforceError>>,
    ) -> Result<T, EnforceError> {
        let answer = spending(purpose, work).await;
        self.clients.budget().heed(account, &answer);
        answer
    }

    async fn account(&self, account: &Account) -> Result<Ec2, EnforceError> {
        match account {
            Account::Aws { account, region } => self.clients.ec2(account, region).await,
            Account::Azure { .. } => Err(not_ours(account)),
        }
    }

    /// What was read, beside what was written and does not show in it yet.
    fn reading<T: Carry + 'static>(
        &self,
        point: &PointRef,
        read: T,
        written: &[Written],
    ) -> Box<dyn Observed> {
        let reading = Reading::new(read, written);
        if reading.settled() {
            self.recent.shown(point);
        }
        Box::new(reading)
    }

    /// Bounds what may take several calls by the time that a new owner of a point waits.
    async fn bounded<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, EnforceError>>,
    ) -> Result<T, EnforceError> {
        tokio::time::timeout(self.clients.config().change_timeout, work)
            .await
            .unwrap_or_else(|_| {
                Err(EnforceError::Unavailable {
                    operation: what.to_owned(),
                    message: "not done in time".to_owned(),
                })
            })
    }
}

fn not_ours(what: &impl std::fmt::Debug) -> EnforceError {
    EnforceError::Malformed(format!("{what:?} is not in AWS"))
}

#[async_trait]
impl Enforcer for AwsEnforcer {
    fn cloud(&self) -> Cloud {
        Cloud::Aws
    }

    async fn accounts(&self) -> Accounts {
        spending(Purpose::Look, discover::accounts(&self.clients)).await
    }

    async fn discover(&self, account: &Account, cursor: Option<&str>) -> Result<DiscoveryPage, EnforceError> {
        let ec2 = self.account(account).await?;
        let page = Box::pin(discover::page(&self.clients, &ec2, cursor));
        self.paid(account, Purpose::Look, page).await
    }

    async fn observe(&self, desired: &Desired) -> Result<Box<dyn Observed>, EnforceError> {
        let account = desired.point.account();
        let ec2 = self.account(&account).await?;
        let written = self.recent.at(&desired.point);
        match &desired.point {
            PointRef::AwsInstance(instance) => {
                let look = Box::pin(observe::instance(
                    &self.clients,
                    &ec2,
                    instance,
                    desired,
                    &written,
                ));
                let read = self.paid(&account, desired.purpose(), look).await?;
                Ok(self.reading(&desired.point, read, &written))
            }
            PointRef::AwsSecurityGroup { group, .. } => {
                let look = Box::pin(observe::group(&self.clients, &ec2, group, desired, &written));
                let read = self.paid(&account, desired.purpose(), look).await?;
                Ok(self.reading(&desired.point, read, &written))
            }
            PointRef::AzureNsg { .. }
            | PointRef::AzureFirewall { .. }
            | PointRef::AzureFirewallPolicy { .. } => Err(not_ours(&desired.point)),
        }
    }

    async fn apply(
        &self,
        point: &PointRef,
        change: &Change,
        bindings: &mut Bindings,
    ) -> Result<Value, EnforceError> {
        let account = point.account();
        let ec2 = self.account(&account).await?;
        let operation: Operation = serde_json::from_value(change.operation.clone()).map_err(|error| {
            EnforceError::Malformed(format!("the change at {point} cannot be read: {error}"))
        })?;
        let written = self.recent.at(point);
        let work = Box::pin(self.bounded(
            &change.summary,
            apply::operation(&ec2, &operation, change.before.as_ref(), &written, bindings),
        ));
        let answer = self.paid(&account, change.verb.purpose(), work).await?;
        self.recent
            .remember(point, change.before.as_ref(), &operation, bindings);
        Ok(answer)
    }

    async fn marked(
        &self,
        account: &Account,
        installation: &Installation,
    ) -> Result<Vec<Marked>, EnforceError> {
        let ec2 = self.account(account).await?;
        let look = Box::pin(sweep::marked(&ec2, account, installation));
        self.paid(account, Purpose::Close, look).await
    }

    async fn remove(&self, marked: &Marked) -> Result<(), EnforceError> {
        let ec2 = self.account(&marked.account).await?;
        let work = Box::pin(self.bounded(&marked.resource, sweep::remove(&ec2, marked)));
        self.paid(&marked.account, Purpose::Close, work).await?;
        self.recent.removed(marked);
        Ok(())
    }

    fn request_timeout(&self) -> Duration {
        self.clients.config().change_timeout
    }

    fn describe_lag(&self) -> Duration {
        self.clients.config().describe_lag
    }

    fn recall(&self, point: &PointRef, written: &[Recalled]) {
        self.recent.recall(point, written);
    }

    fn share_budgets(&self, servers: u32, left: f64) {
        self.clients.budget().share(servers, left);
    }

    fn budgets(&self) -> Vec<Level> {
        self.clients.budget().levels()
    }

    fn stopped_accounts(&self) -> BTreeMap<Account, Duration> {
        self.clients.budget().stopped()
    }
}
