//! Requesters' own roles in Azure: whether what decides on them can be read, where the configuration demands them.

use std::sync::Arc;

use postern_azure::{
    AzureEnforcer,
    rbac::{AzureRoles, GroupsRead},
};
use postern_core::{
    enforcer::{EnforceError, Enforcer as _},
    machine::{Account, AzureVm, MachineId},
    time::Clock,
};

use super::Check;
use crate::{
    config::{Azure, Config},
    enforcers,
};

/// One check for each subscription, at a machine in it; none where no role in Azure is demanded.
pub(super) async fn examine(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Check> {
    let Some(section) = config.azure.as_ref().filter(|section| section.rbac.is_some()) else {
        return Vec::new();
    };
    let (enforcer, roles) = match made(section, config, clock) {
        Ok(made) => made,
        // What is wrong with the credential is said of the subscriptions.
        Err(error) => return vec![Check::failed("azure.rbac", format!("not tried: {error:#}"))],
    };
    let accounts = enforcer.accounts().await;
    let unlisted = accounts.failed.into_iter();
    let mut checks: Vec<Check> = unlisted
        .map(|unlisted| Check::failed("azure.rbac", format!("not tried: {}", unlisted.error)))
        .collect();
    for account in accounts.found {
        checks.push(look(&enforcer, &roles, &account).await);
    }
    checks
}

fn made(
    section: &Azure,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(AzureEnforcer, AzureRoles)> {
    let enforcer = AzureEnforcer::new(enforcers::azure(section)?, Arc::clone(clock))?;
    let rbac = section
        .rbac
        .as_ref()
        .ok_or_else(|| anyhow::Error::msg("`azure.rbac` is missing"))?;
    let roles = enforcer.roles(rbac.settings(&config.issuers)?);
    Ok((enforcer, roles))
}

async fn look(enforcer: &AzureEnforcer, roles: &AzureRoles, account: &Account) -> Check {
    let name = format!("azure.rbac {account}");
    let machine = match some_machine(enforcer, account).await {
        Ok(Some(machine)) => machine,
        Ok(None) => return Check::warning(name, "not tried: there is no machine to read roles at"),
        Err(error) => return Check::failed(name, format!("not tried: {error}")),
    };
    match roles.examine(&machine).await {
        Ok(readable) => {
            let groups = match readable.groups {
                GroupsRead::LookedUp => "and Azure looks up groups",
                GroupsRead::NobodyToLookUp => {
                    "but whether Azure looks up groups was not tried: nobody has a role there but through a group"
                }
                GroupsRead::InTokens => "and groups are in the tokens",
            };
            Check::ok(
                name,
                format!(
                    "requesters' own roles can be read: {} role assignments at `{}`, {groups}",
                    readable.assignments,
                    machine.name()
                ),
            )
        }
        Err(error @ EnforceError::Forbidden { .. }) => Check::failed(
            name,
            format!("{error}; `postern permissions azure --rbac` prints what has to be allowed"),
        ),
        Err(error) => Check::failed(name, error.to_string()),
    }
}

async fn some_machine(enforcer: &AzureEnforcer, account: &Account) -> Result<Option<AzureVm>, EnforceError> {
    let mut after = None;
    loop {
        let page = enforcer.discover(account, after.as_deref()).await?;
        for machine in page.machines {
            if let MachineId::Azure(vm) = machine.id {
                return Ok(Some(vm));
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(None),
        }
    }
}
