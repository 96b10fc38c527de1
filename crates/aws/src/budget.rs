//! What EC2 lets us ask: a budget per account, region and action, paid at the connection, so that no call gets by.
//!
//! Source: "Request throttling for the Amazon EC2 API" (EC2 developer guide): each action has a bucket of its own, of
//! the size of its category. A refusal is 503 `RequestLimitExceeded` and names no time. Some descriptions draw on a
//! smaller bucket when they are asked for with neither pagination nor a filter; a list of ids is neither.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use postern_core::{
    budget::{BucketSize, Budgets, Level, Purpose},
    enforcer::EnforceError,
    machine::Account,
};
use tokio::time::{Instant, sleep};

use crate::error::Failure;

const NON_MUTATING: BucketSize = BucketSize::new(100.0, 20.0);
const UNFILTERED: BucketSize = BucketSize::new(50.0, 10.0);
const MUTATING: BucketSize = BucketSize::new(50.0, 5.0);
const TAGS: BucketSize = BucketSize::new(100.0, 10.0);
const INTERFACES: BucketSize = BucketSize::new(100.0, 5.0);

tokio::task_local! {
    static PURPOSE: Purpose;
}

/// Does `work` with its calls paid for as for `purpose`. What is done outside of this pays as an opening does.
pub(crate) async fn spending<T>(purpose: Purpose, work: impl Future<Output = T>) -> T {
    PURPOSE.scope(purpose, work).await
}

/// What calls pay as, where this is asked.
pub(crate) fn purpose() -> Purpose {
    PURPOSE.try_with(|purpose| *purpose).unwrap_or(Purpose::Open)
}

/// How long a call waits for its turn: well within what one call may take. Openings wait less: they hold a worker that
/// a closing may need.
const fn patience(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Close => Duration::from_secs(5),
        Purpose::Open | Purpose::Look => Duration::from_secs(2),
    }
}

/// The call was not made: it is not its turn for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call budget is spent for {} ms", .0.as_millis())]
pub(crate) struct Spent(pub(crate) Duration);

/// The budgets of all accounts and regions.
#[derive(Debug)]
pub(crate) struct Budget {
    budgets: Budgets,
    since: Instant,
}

impl Budget {
    pub(crate) fn new(percent: u32) -> Self {
        Self {
            budgets: Budgets::new(percent),
            since: Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    /// Remembers it when EC2 refused the call for its rate. Which of the action's buckets it was is not said.
    pub(crate) fn heed<T>(&self, account: &Account, answer: &Result<T, EnforceError>) {
        if let Err(EnforceError::Throttled {
            operation,
            retry_after: None,
        }) = answer
            && let Some(action) = operation.strip_prefix("ec2:")
        {
            let concerned = |class: &str| class.strip_suffix(UNNARROWED).unwrap_or(class) == action;
            self.budgets.refused(account, concerned, None, self.now());
        }
    }

    /// Remembers it when EC2 refused a call of several for its rate. What is made of the failure tells each of them how
    /// long to wait, and that it is remembered.
    pub(crate) fn heed_once(&self, account: &Account, failure: Failure) -> Failure {
        let told = failure.clone().about("");
        let by_ec2 = matches!(
            &told,
            EnforceError::Throttled { operation, retry_after: None } if operation.starts_with("ec2:")
        );
        if !by_ec2 {
            return failure;
        }
        self.heed(account, &Err::<(), _>(told));
        // Without budgets there is no stop, and nothing to count twice.
        match self.stopped().remove(account) {
            Some(stop) => failure.spent(Spent(stop)),
            None => failure,
        }
    }

    /// One part of so many, of which the others have this part left.
    pub(crate) fn share(&self, servers: u32, left: f64) {
        self.budgets.share(servers, left, self.now());
    }

    pub(crate) fn levels(&self) -> Vec<Level> {
        self.budgets.levels(self.now())
    }

    pub(crate) fn stopped(&self) -> BTreeMap<Account, Duration> {
        self.budgets.stopped_accounts(self.now())
    }
}

/// What marks the bucket of calls without filter and page.
const UNNARROWED: &str = " (unfiltered)";

/// The bucket that a call draws from, given its form-encoded body.
fn class(body: &str) -> Option<(Cow<'static, str>, BucketSize)> {
    let mut action = None;
    let mut narrowed = false;
    for (name, value) in body.split('&').filter_map(|pair| pair.split_once('=')) {
        if name == "Action" {
            action = Some(value);
        }
        narrowed |= name.starts_with("Filter.") || name == "MaxResults";
    }
    let action = action?;
    let size = match action {
        "DescribeInstances" | "DescribeNetworkInterfaces" | "DescribeSecurityGroups" if !narrowed => {
            return Some((format!("{action}{UNNARROWED}").into(), UNFILTERED));
        }
        "CreateTags" | "DeleteTags" => TAGS,
        "ModifyNetworkInterfaceAttribute" => INTERFACES,
        _ if action.starts_with("Describe") => NON_MUTATING,
        // Among them the resource-intensive ones, whose category has the same size.
        _ => MUTATING,
    };
    Some((action.to_owned().into(), size))
}

/// A client whose calls are paid for from the budgets of one account and region.
#[derive(Debug)]
pub(crate) struct Paying {
    pub(crate) inner: SharedHttpClient,
    pub(crate) budget: Arc<Budget>,
    pub(crate) account: Account,
}

impl HttpClient for Paying {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(PayingConnector {
            inner: self.inner.http_connector(settings, components),
            budget: Arc::clone(&self.budget),
            account: self.account.clone(),
        })
    }
}

#[derive(Debug)]
struct PayingConnector {
    inner: SharedHttpConnector,
    budget: Arc<Budget>,
    account: Account,
}

impl HttpConnector for PayingConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let purpose = purpose();
        let class = request
            .body()
            .bytes()
            .and_then(|body| std::str::from_utf8(body).ok())
            .and_then(class);
        let Some(class) = class else {
            return self.inner.call(request);
        };
        let (inner, budget, account) = (self.inner.clone(), Arc::clone(&self.budget), self.account.clone());
        HttpConnectorFuture::new(async move {
            budget
                .budgets
                .pay(
                    &account,
                    class,
                    purpose,
                    patience(purpose),
                    || budget.now(),
                    sleep,
                )
                .await
                .map_err(|wait| ConnectorError::other(Box::new(Spent(wait)), None))?;
            inner.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_draws_from_the_bucket_of_its_action_and_of_whether_it_is_narrowed() {
        for (body, name, size) in [
            (
                "Action=DescribeInstances&Version=2016-11-15&InstanceId.1=i-1",
                "DescribeInstances (unfiltered)",
                UNFILTERED,
            ),
            (
                "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=instance-id",
                "DescribeInstances",
                NON_MUTATING,
            ),
            (
                "Action=DescribeInstances&Version=2016-11-15&MaxResults=100",
                "DescribeInstances",
                NON_MUTATING,
            ),
            (
                "Action=DescribeVpcs&Version=2016-11-15",
                "DescribeVpcs",
                NON_MUTATING,
            ),
            ("Action=CreateTags&Version=2016-11-15", "CreateTags", TAGS),
            (
                "Action=ModifyNetworkInterfaceAttribute",
                "ModifyNetworkInterfaceAttribute",
                INTERFACES,
            ),
            (
                "Action=RevokeSecurityGroupIngress",
                "RevokeSecurityGroupIngress",
                MUTATING,
            ),
            ("Action=DeleteSecurityGroup", "DeleteSecurityGroup", MUTATING),
        ] {
            assert_eq!(class(body), Some((name.into(), size)), "{body}");
        }
        assert_eq!(class("Version=2016-11-15"), None);
    }

    #[tokio::test]
    async fn a_refusal_stops_every_bucket_of_its_action_in_its_account_and_no_other() {
        let budget = Budget::new(100);
        let account = |id: &str| Account::Aws {
            account: id.to_owned(),
            region: "eu-west-1".to_owned(),
        };
        for id in ["1", "2"] {
            for body in [
                "Action=DescribeInstances",
                "Action=DescribeInstances&MaxResults=5",
                "Action=CreateTags",
            ] {
                let drawn = budget.budgets.draw(
                    &account(id),
                    class(body).unwrap(),
                    Purpose::Close,
                    Duration::ZERO,
                    budget.now(),
                );
                assert_eq!(drawn, postern_core::budget::Drawn::Paid(Duration::ZERO));
            }
        }
        let refusal: Result<(), _> = Err(EnforceError::Throttled {
            operation: "ec2:DescribeInstances".to_owned(),
            retry_after: None,
        });
        budget.heed(&account("2"), &refusal);
        let refused: Vec<(Account, String)> = budget
            .levels()
            .into_iter()
            .filter(|level| level.refused == 1)
            .map(|level| (level.account, level.class.into_owned()))
            .collect();
        assert_eq!(
            refused,
            [
                (account("2"), "DescribeInstances".to_owned()),
                (account("2"), "DescribeInstances (unfiltered)".to_owned())
            ]
        );
        assert_eq!(budget.stopped().into_keys().collect::<Vec<_>>(), [account("2")]);
        // Our own waiting is no refusal.
        budget.heed(
            &account("1"),
            &Err::<(), _>(EnforceError::Throttled {
                operation: "ec2:CreateTags".to_owned(),
                retry_after: Some(Duration::from_secs(1)),
            }),
        );
        assert_eq!(budget.stopped().len(), 1);
    }
}
