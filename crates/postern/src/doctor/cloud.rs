//! The clouds: whether every account can be read as discovery and the sweep read it. The enforcers themselves find out
//! whether the credentials are the configured account's.
//!
//! What may be written is not tried: there is no write that changes nothing. `postern permissions` prints what has to
//! be allowed.

use std::sync::Arc;

use postern_core::{
    enforcer::{Accounts, EnforceError, Enforcer},
    machine::Account,
    mark::Installation,
    time::Clock,
};

use super::Check;
use crate::{config::Config, enforcers};

/// One check for each account (in AWS, of each region).
pub(super) async fn examine(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Check> {
    let clouds = config.clouds();
    let no_secret = config
        .azure
        .as_ref()
        .is_some_and(|azure| azure.credential.secret().is_err());
    let mut checks = Vec::new();
    for part in enforcers::by_account(&clouds, clock).await {
        let enforcer = match part.enforcer {
            Ok(enforcer) => enforcer,
            // Which file it is and why is said under `files`.
            Err(_) if no_secret && part.scope.starts_with("/azure") => {
                checks.push(Check::failed(
                    part.scope,
                    "not tried: the client secret cannot be read",
                ));
                continue;
            }
            Err(error) => {
                checks.push(Check::failed(part.scope, error));
                continue;
            }
        };
        let accounts = enforcer.accounts().await;
        if accounts == Accounts::default() {
            checks.push(Check::warning(part.scope, "there is no account that may be read"));
        }
        for unlisted in accounts.failed {
            checks.push(Check::failed(unlisted.scope, unlisted.error.to_string()));
        }
        for account in accounts.found {
            checks.push(look(&*enforcer, &account, &config.installation.name).await);
        }
    }
    checks
}

async fn look(enforcer: &dyn Enforcer, account: &Account, installation: &Installation) -> Check {
    let name = account.to_string();
    match counted(enforcer, account, installation).await {
        Ok((machines, more, marks)) => {
            let least = if more { "at least " } else { "" };
            Check::ok(
                name,
                format!("can be read: {least}{machines} machines, {marks} marks of `{installation}`"),
            )
        }
        Err(error) => Check::failed(name, error.to_string()),
    }
}

async fn counted(
    enforcer: &dyn Enforcer,
    account: &Account,
    installation: &Installation,
) -> Result<(usize, bool, usize), EnforceError> {
    let page = enforcer.discover(account, None).await?;
    let marks = enforcer.marked(account, installation).await?;
    Ok((page.machines.len(), page.next.is_some(), marks.len()))
}
