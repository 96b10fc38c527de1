//! The requester's own Azure roles, as a second yes: `Microsoft.Authorization`, read and weighed.
//!
//! [`evaluate`](evaluate::evaluate) makes every choice and talks to nobody; [`AzureRoles`] reads from ARM, out of the
//! same budget as everything else, and keeps what it found for a short while.

mod cache;
pub mod evaluate;
pub mod pattern;
mod probe;
mod read;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use postern_core::{
    budget::Purpose,
    cloud_roles::{CloudDecision, CloudRoles},
    machine::{AzureVm, MachineId},
    principal::Principal,
    time::{Clock, Instant},
};

use crate::arm::{Arm, spending};
use cache::Cache;
use evaluate::{Findings, Who, evaluate};
pub use pattern::{InvalidAction, Pattern};
pub use probe::{GroupsRead, Readable};
use read::Of;

/// What Defender for Cloud demands of whoever asks for just-in-time access.
///
/// Source: Microsoft Defender for Cloud documentation, "Understanding just-in-time (JIT) VM access", "What permissions
/// are needed to configure and use JIT?".
pub const DEFENDER_ACTIONS: [&str; 5] = [
    "Microsoft.Security/locations/jitNetworkAccessPolicies/initiate/action",
    "Microsoft.Security/locations/jitNetworkAccessPolicies/*/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Network/networkInterfaces/*/read",
    "Microsoft.Network/publicIPAddresses/read",
];

/// Where the object id of whoever asks is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectId {
    /// It is the subject.
    Subject,
    /// It is this claim of those that are passed on.
    Claim(String),
}

/// How the groups of whoever asks are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Azure looks them up, at each check, however deep.
    Azure,
    /// They are in the token, by object id.
    Token,
}

/// What holds for principals of other issuers than the Entra tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They have no Azure role, and are refused.
    Refuse,
    /// Nothing is demanded of them.
    Exempt,
}

/// What is demanded, and of whom.
#[derive(Debug, Clone)]
pub struct RbacConfig {
    /// What must be held on the machine.
    pub actions: Vec<Pattern>,
    /// The configured name of the issuer that is the Entra tenant of the subscriptions.
    pub issuer: String,
    /// Where its tokens have the object id.
    pub object_id: ObjectId,
    /// How groups are known.
    pub groups: Groups,
    /// What holds for others.
    pub others: Others,
    /// How long what was found serves; zero for never.
    pub lifetime: Duration,
    /// How many answers are kept at most.
    pub entries: usize,
    /// The longest that a decision waits.
    pub timeout: Duration,
}

/// What a look is for: who, in which groups of the token, where.
type Key = (String, BTreeSet<String>, AzureVm);

/// Asks Azure for the requester's own roles.
#[derive(Debug)]
pub struct AzureRoles {
    arm: Arc<Arm>,
    config: Arc<RbacConfig>,
    clock: Arc<dyn Clock>,
    cache: Cache<Key, (Findings, Instant)>,
}

impl AzureRoles {
    pub(crate) fn new(arm: Arc<Arm>, config: RbacConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            arm,
            cache: Cache::new(config.lifetime, config.entries),
            config: Arc::new(config),
            clock,
        }
    }

    /// Who it is in Entra ID, or why nobody can say.
    fn who(&self, principal: &Principal) -> Result<Who, String> {
        let claim = match &self.config.object_id {
            ObjectId::Subject => Some(principal.subject.as_str()),
            ObjectId::Claim(name) => principal.claims.get(name).and_then(|value| value.as_str()),
        };
        let object_id = claim.map(str::to_lowercase).ok_or("it has no Entra object id")?;
        if !read::is_uuid(&object_id) {
            return Err("what should be the Entra object id is none".to_owned());
        }
        let chosen_by_azure = self.config.groups == Groups::Azure;
        let groups: BTreeSet<String> = if chosen_by_azure {
            BTreeSet::new()
        } else {
            principal
                .groups
                .iter()
                .map(|group| group.to_lowercase())
                .collect()
        };
        if !chosen_by_azure {
            if groups.is_empty() {
                return Err(
                    "it names no groups, and nobody can tell whether that is because there are none"
                        .to_owned(),
                );
            }
            if !groups.iter().all(|group| read::is_uuid(group)) {
                return Err("it names groups otherwise than by object id".to_owned());
            }
        }
        Ok(Who {
            object_id,
            groups,
            chosen_by_azure,
        })
    }

    async fn ask(&self, who: Who, machine: &AzureVm) -> CloudDecision {
        let now = self.clock.now();
        let object_id = who.object_id.clone();
        let key = (object_id.clone(), who.groups.clone(), machine.clone());
        let look = look(
            Arc::clone(&self.arm),
            Arc::clone(&self.config),
            who,
            machine.clone(),
            now,
        );
        let timeout = self.config.timeout;
        let Ok(found) = tokio::time::timeout(timeout, self.cache.get(key, now, look)).await else {
            let reason = format!("Azure did not answer within {} s", timeout.as_secs_f64());
            return CloudDecision::Unknown { reason };
        };
        match &*found {
            Err(reason) => CloudDecision::Unknown {
                reason: reason.clone(),
            },
            Ok((findings, as_of)) if findings.lacks.is_empty() => CloudDecision::Allowed {
                principal: object_id,
                by: findings.held.clone(),
                as_of: *as_of,
            },
            Ok((findings, as_of)) => CloudDecision::Refused {
                principal: object_id,
                lacks: findings.lacks.clone(),
                notes: findings.notes.clone(),
                as_of: *as_of,
            },
        }
    }
}

async fn look(
    arm: Arc<Arm>,
    config: Arc<RbacConfig>,
    who: Who,
    machine: AzureVm,
    now: Instant,
) -> Result<(Findings, Instant), String> {
    let named;
    let of = if who.chosen_by_azure {
        Of::Assigned(&who.object_id)
    } else {
        let mut principals = who.groups.clone();
        principals.insert(who.object_id.clone());
        named = principals;
        Of::Named(&named)
    };
    // Whoever waits longer than a decision may has stopped waiting.
    let work = tokio::time::timeout(config.timeout, arm.facts(&machine, of));
    let facts = spending(Purpose::Open, work)
        .await
        .map_err(|_| format!("Azure did not answer within {} s", config.timeout.as_secs_f64()))?
        .map_err(|error| error.to_string())?;
    let findings = evaluate(&config.actions, &facts, &who, &read::resource(&machine));
    Ok((findings, now))
}

#[async_trait]
impl CloudRoles for AzureRoles {
    fn covers(&self, machine: &MachineId) -> bool {
        matches!(machine, MachineId::Azure(_))
    }

    async fn decide(&self, principal: &Principal, machine: &MachineId) -> CloudDecision {
        let MachineId::Azure(vm) = machine else {
            return CloudDecision::Exempt {
                reason: format!("`{machine}` is not in Azure"),
            };
        };
        if principal.issuer != self.config.issuer {
            let reason = format!(
                "it is not of the issuer `{}`, which is the Entra tenant",
                self.config.issuer
            );
            return match self.config.others {
                Others::Refuse => CloudDecision::Unidentified { reason },
                Others::Exempt => CloudDecision::Exempt { reason },
            };
        }
        match self.who(principal) {
            Ok(who) => Box::pin(self.ask(who, vm)).await,
            Err(reason) => CloudDecision::Unidentified { reason },
        }
    }
}
