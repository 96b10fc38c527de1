//! What ARM lets us ask: a budget per subscription, for reads, writes and deletes each.
//!
//! Source: "Understand how Azure Resource Manager throttles requests" (Azure Resource Manager documentation), "New
//! throttling experience", limits per service principal and subscription: reads 250 at once and 25 a second, writes
//! and deletes 200 at once and 10 a second each. A refusal is 429 with `Retry-After`.

use std::{collections::BTreeMap, time::Duration};

use postern_core::{
    budget::{BucketSize, Budgets, Level, Purpose},
    enforcer::EnforceError,
    machine::Account,
};
use reqwest::Method;
use tokio::time::{Instant, sleep};
use url::Url;

use super::client::Call;

const READS: BucketSize = BucketSize::new(250.0, 25.0);
const CHANGES: BucketSize = BucketSize::new(200.0, 10.0);

tokio::task_local! {
    static PURPOSE: Purpose;
}

/// Does `work` with its calls paid for as for `purpose`. What is done outside of this pays as an opening does.
pub(crate) async fn spending<T>(purpose: Purpose, work: impl Future<Output = T>) -> T {
    PURPOSE.scope(purpose, work).await
}

/// How long a call waits for its turn. Openings wait less: they hold a worker that a closing may need. A discovery holds
/// none, and reads a subscription as a whole: what it gave up for want of one call it would have to ask for again.
const fn patience(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Close => Duration::from_secs(5),
        Purpose::Open => Duration::from_secs(2),
        Purpose::Look => Duration::from_mins(1),
    }
}

/// The budgets of all subscriptions.
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

    /// Waits until the call may be made.
    pub(super) async fn pay(&self, call: &Call<'_>) -> Result<(), EnforceError> {
        let Some(account) = account(&call.url) else {
            return Ok(());
        };
        let purpose = PURPOSE.try_with(|purpose| *purpose).unwrap_or(Purpose::Open);
        let (class, size) = class(&call.method);
        self.budgets
            .pay(
                &account,
                (class.into(), size),
                purpose,
                patience(purpose),
                || self.now(),
                sleep,
            )
            .await
            .map_err(|wait| EnforceError::Throttled {
                operation: call.action.to_owned(),
                retry_after: Some(wait),
            })
    }

    /// ARM refused the call for its rate.
    pub(super) fn refused(&self, call: &Call<'_>, retry_after: Option<Duration>) {
        if let Some(account) = account(&call.url) {
            let (refused, _) = class(&call.method);
            self.budgets
                .refused(&account, |class| class == refused, retry_after, self.now());
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

fn class(method: &Method) -> (&'static str, BucketSize) {
    match *method {
        Method::GET | Method::HEAD => ("reads", READS),
        Method::DELETE => ("deletes", CHANGES),
        _ => ("writes", CHANGES),
    }
}

/// The subscription that a call is in. What is in none is of the tenant, and asked for rarely.
fn account(url: &Url) -> Option<Account> {
    let mut segments = url.path_segments()?;
    segments.find(|segment| segment.eq_ignore_ascii_case("subscriptions"))?;
    let subscription = segments.next().filter(|id| !id.is_empty())?.to_lowercase();
    Some(Account::Azure { subscription })
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    async fn reads(budget: &Budget, purpose: Purpose, count: usize) -> usize {
        let call = Call {
            method: Method::GET,
            url: "https://management.azure.com/subscriptions/00000000-0000-0000-0000-000000000001/x"
                .parse()
                .unwrap(),
            action: "Microsoft.Network/networkInterfaces/read",
            resource: String::new(),
        };
        let paid = join_all((0..count).map(|_| spending(purpose, budget.pay(&call))));
        paid.await.into_iter().flatten().count()
    }

    /// 125 at once and 25 a second: those that come last wait for more than two seconds.
    #[tokio::test]
    async fn a_discovery_waits_for_all_of_a_subscription_and_an_opening_does_not() {
        assert_eq!(reads(&Budget::new(100), Purpose::Look, 185).await, 185);

        let budget = Budget::new(100);
        assert!(reads(&budget, Purpose::Open, 350).await < 350);
    }
}
