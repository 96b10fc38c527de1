//! The checks of `postern doctor`: whether a server could run here, found out without changing anything.

mod cloud;
mod database;
mod issuer;
mod roles;

use std::sync::Arc;

use postern_core::time::Clock;
use serde::Serialize;

use crate::config::Config;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// A server runs with it; somebody should know.
    Warning,
    /// A server would not run, or not do all of its work.
    Failed,
}

impl Verdict {
    /// The verdict's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was checked: `files`, `database`, `clock`, `issuer <name>`, the scope of an account, or `azure.rbac` and the
    /// scope of a subscription.
    pub check: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
}

impl Check {
    fn new(check: impl Into<String>, verdict: Verdict, message: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict,
            message: message.into(),
        }
    }

    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, message)
    }

    fn warning(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, message)
    }

    fn failed(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(check, Verdict::Failed, message)
    }
}

/// Makes every check, whatever the ones before found. `tell` hears of each when it is done.
pub async fn examine(
    config: &Config,
    clock: &Arc<dyn Clock>,
    mut tell: impl FnMut(&Check) -> std::io::Result<()>,
) -> std::io::Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut keep = |found: Vec<Check>| {
        for check in found {
            tell(&check)?;
            checks.push(check);
        }
        std::io::Result::Ok(())
    };
    keep(vec![files(config)])?;
    keep(database::examine(config, &**clock).await)?;
    for issuer in &config.issuers {
        keep(vec![issuer::examine(issuer).await])?;
    }
    keep(cloud::examine(config, clock).await)?;
    keep(roles::examine(config, clock).await)?;
    Ok(checks)
}

fn files(config: &Config) -> Check {
    const NAME: &str = "files";
    let unreadable = config.check_files();
    if unreadable.is_empty() {
        Check::ok(NAME, "every file that the configuration names can be read")
    } else {
        Check::failed(NAME, unreadable.join("; "))
    }
}
