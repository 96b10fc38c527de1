//! Whether what a decision needs to read can be read, for `postern doctor`: the same calls, about nobody in particular.

use postern_core::{budget::Purpose, enforcer::EnforceError, machine::AzureVm};

use super::{AzureRoles, Groups, read::Of};
use crate::arm::spending;

/// The name of the built-in role `Reader`, which is defined everywhere. Source: Azure RBAC documentation, "Azure built-in
/// roles".
const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";

/// What of requesters' own roles can be read at a machine: all of it, or it is an error that names the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readable {
    /// How many role assignments there are at the machine and above.
    pub assignments: usize,
    /// How the groups of requesters are known, and whether that was tried.
    pub groups: GroupsRead,
}

/// Whether Azure looks up groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupsRead {
    /// It did, for somebody with a role assignment of their own.
    LookedUp,
    /// It was not tried: nobody has a role assignment of their own there.
    NobodyToLookUp,
    /// It need not: they are in the tokens.
    InTokens,
}

impl AzureRoles {
    /// Reads at the machine what a decision about a requester would.
    ///
    /// # Errors
    /// What the first of the calls that failed answered, or that they took longer than a decision may.
    pub async fn examine(&self, machine: &AzureVm) -> Result<Readable, EnforceError> {
        let work = async {
            let assigned = self.arm.role_assignments(machine, Of::Everybody).await?;
            self.arm.deny_assignments(machine, Of::Everybody).await?;
            let role = assigned.first().map_or(READER, |one| one.role.as_str());
            self.arm.role_definition(machine.subscription(), role).await?;
            let somebody = assigned.iter().find(|one| !one.is_group);
            let groups = match (self.config.groups, somebody) {
                (Groups::Token, _) => GroupsRead::InTokens,
                (Groups::Azure, None) => GroupsRead::NobodyToLookUp,
                (Groups::Azure, Some(one)) => {
                    self.arm.facts(machine, Of::Assigned(&one.principal)).await?;
                    GroupsRead::LookedUp
                }
            };
            Ok(Readable {
                assignments: assigned.len(),
                groups,
            })
        };
        let timeout = self.config.timeout;
        spending(Purpose::Open, tokio::time::timeout(timeout, work))
            .await
            .unwrap_or_else(|_| {
                Err(EnforceError::Unavailable {
                    operation: "Microsoft.Authorization".to_owned(),
                    message: format!(
                        "not within {} s, the longest that a decision waits (`azure.rbac.timeout_seconds`)",
                        timeout.as_secs_f64()
                    ),
                })
            })
    }
}
