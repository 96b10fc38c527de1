//! Enforcers that are broken on purpose, so that a test can see that the campaign notices.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use postern_core::{
    enforcer::{
        Accounts, Bindings, Change, Desired, DiscoveryPage, EnforceError, Enforcer, Marked, Observed,
        Recalled, Verb,
    },
    machine::{Account, Cloud},
    mark::Installation,
    point::PointRef,
};
use serde_json::{Value, json};

/// The variable that names the kind.
pub const SABOTAGE: &str = "POSTERN_SABOTAGE";

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A grant's rule lets everybody in. Breaks invariant 1.
    OpensToAll,
    /// Restoring is said to be done and is not. Breaks invariant 2.
    NeverRestores,
    /// A lockdown's write is said to be done and happens later. Breaks invariant 3.
    WritesLate,
    /// Closing always fails. Breaks invariants 1 and 5.
    NeverCloses,
}

impl Sabotage {
    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "opens-to-all" => Self::OpensToAll,
            "never-restores" => Self::NeverRestores,
            "writes-late" => Self::WritesLate,
            "never-closes" => Self::NeverCloses,
            _ => return None,
        })
    }
}

/// The enforcers, broken as the environment says; as they are where it says nothing.
pub fn wrap(enforcers: Vec<Arc<dyn Enforcer>>) -> anyhow::Result<Vec<Arc<dyn Enforcer>>> {
    let Ok(name) = std::env::var(SABOTAGE) else {
        return Ok(enforcers);
    };
    let kind = Sabotage::named(&name)
        .ok_or_else(|| anyhow::Error::msg(format!("`{name}` is no kind of sabotage")))?;
    Ok(enforcers
        .into_iter()
        .map(|inner| Arc::new(Sabotaged { inner, kind }) as Arc<dyn Enforcer>)
        .collect())
}

#[derive(Debug)]
struct Sabotaged {
    inner: Arc<dyn Enforcer>,
    kind: Sabotage,
}

#[async_trait]
impl Enforcer for Sabotaged {
    fn cloud(&self) -> Cloud {
        self.inner.cloud()
    }

    async fn accounts(&self) -> Accounts {
        self.inner.accounts().await
    }

    async fn discover(&self, account: &Account, cursor: Option<&str>) -> Result<DiscoveryPage, EnforceError> {
        self.inner.discover(account, cursor).await
    }

    async fn observe(&self, desired: &Desired) -> Result<Box<dyn Observed>, EnforceError> {
        self.inner.observe(desired).await
    }

    async fn apply(
        &self,
        point: &PointRef,
        change: &Change,
        bindings: &mut Bindings,
    ) -> Result<Value, EnforceError> {
        match (self.kind, change.verb) {
            (Sabotage::OpensToAll, Verb::Open) => {
                let text = change.operation.to_string();
                let wide = text
                    .replace("203.0.113.7/32", "0.0.0.0/0")
                    .replace("203.0.113.0/28", "0.0.0.0/0")
                    .replace("203.0.113.7", "0.0.0.0/0");
                let operation = serde_json::from_str(&wide)
                    .map_err(|error| EnforceError::Malformed(error.to_string()))?;
                let change = Change {
                    operation,
                    ..change.clone()
                };
                self.inner.apply(point, &change, bindings).await
            }
            (Sabotage::NeverRestores, Verb::Restore) => Ok(json!({ "sabotage": "not done" })),
            (Sabotage::NeverCloses, Verb::Close) => Err(EnforceError::Refused {
                operation: "Close".to_owned(),
                code: "Sabotage".to_owned(),
                message: "not done".to_owned(),
            }),
            (Sabotage::WritesLate, Verb::LockDown) => {
                let (inner, point, change) = (Arc::clone(&self.inner), point.clone(), change.clone());
                let mut bindings = bindings.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(700)).await;
                    // Where this fails, the wrong that was meant is not done, and the test that wants it says so.
                    let _ = inner.apply(&point, &change, &mut bindings).await;
                });
                Ok(json!({ "sabotage": "later" }))
            }
            _ => self.inner.apply(point, change, bindings).await,
        }
    }

    async fn marked(
        &self,
        account: &Account,
        installation: &Installation,
    ) -> Result<Vec<Marked>, EnforceError> {
        self.inner.marked(account, installation).await
    }

    async fn remove(&self, marked: &Marked) -> Result<(), EnforceError> {
        self.inner.remove(marked).await
    }

    fn request_timeout(&self) -> Duration {
        self.inner.request_timeout()
    }

    fn describe_lag(&self) -> Duration {
        self.inner.describe_lag()
    }

    fn recall(&self, point: &PointRef, written: &[Recalled]) {
        self.inner.recall(point, written);
    }
}
