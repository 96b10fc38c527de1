//! How the machines of a request can be reached without it: who asks or approves decides otherwise about a port that is open
//! anyway. Told of machines that the caller may read, and of no other.

use std::collections::BTreeMap;

use postern_api::preflight as api;
use postern_authz::{Authorizer, Resource};
use postern_core::{
    machine::MachineId,
    posture::{WayInKind, ways_in},
    request::Target,
};
use postern_store::StoredMachine;

use crate::{failure::Failure, flow::authenticate::Caller, state::App};

/// The most that are told of one machine.
const MOST: usize = 10;

impl App {
    /// The ways in to the targets' ports at the machines that the caller may read.
    pub(crate) fn exposures(
        &self,
        authorizer: &Authorizer,
        caller: &Caller,
        targets: &[Target],
        machines: &BTreeMap<MachineId, StoredMachine>,
    ) -> Vec<api::Exposure> {
        let mut shown = Vec::new();
        for target in targets {
            let stored = machines.get(&target.machine);
            let Some(stored) = stored.filter(|stored| stored.gone_at.is_none()) else {
                continue;
            };
            let resource = Resource::machine(target.machine.scope(), stored.machine.tags.clone());
            if !self.may_read_all(authorizer, caller, [resource]) {
                continue;
            }
            let found = ways_in(&stored.machine, &target.ports);
            shown.extend(found.into_iter().take(MOST).map(|way| {
                api::Exposure {
                    machine: target.machine.to_string(),
                    code: match way.kind {
                        WayInKind::Open => "open",
                        WayInKind::Translated => "translated",
                        WayInKind::Stopped => "stopped",
                    }
                    .to_owned(),
                    detail: way.detail(),
                    rule: api::PreflightRule {
                        resource: way.rule.resource,
                        rule: way.rule.rule,
                        priority: way.rule.priority,
                    },
                    ports: way.ports.to_string(),
                    observed_at: stored.seen_at,
                }
            }));
        }
        shown
    }

    /// The same, of machines that were not read yet.
    pub(crate) async fn exposures_now(
        &self,
        caller: &Caller,
        targets: &[Target],
    ) -> Result<Vec<api::Exposure>, Failure> {
        let authorizer = self.authorizer().await?;
        let mut machines = BTreeMap::new();
        for target in targets {
            if let Some(stored) = self.store.machine(&target.machine).await? {
                machines.insert(target.machine.clone(), stored);
            }
        }
        Ok(self.exposures(&authorizer, caller, targets, &machines))
    }
}
