//! Machines as the API shows them.

use postern_api::machine as api;
use postern_core::inventory::Power;
use postern_store::{PointOfMachine, StoredFinding, StoredMachine};

/// The machine, as lists show it.
pub(crate) fn show(stored: &StoredMachine) -> api::Machine {
    let machine = &stored.machine;
    api::Machine {
        id: machine.id.to_string(),
        cloud: machine.id.cloud().to_string(),
        scope: machine.id.scope().to_string(),
        name: machine.name.clone(),
        tags: machine.tags.clone(),
        power: match machine.power {
            Power::Running => "running",
            Power::Changing => "changing",
            Power::Stopped => "stopped",
            Power::Unknown => "unknown",
        }
        .to_owned(),
        posture: api::Posture {
            state: stored.posture.kind.to_string(),
            reason: stored.posture.reason.clone(),
        },
        policy_id: stored.policy.map(|id| id.to_string()),
        seen_at: stored.seen_at,
        gone_at: stored.gone_at,
    }
}

/// The machine's interfaces.
pub(crate) fn interfaces(stored: &StoredMachine) -> Vec<api::Interface> {
    stored
        .machine
        .interfaces
        .iter()
        .map(|interface| api::Interface {
            id: interface.id.clone(),
            addresses: interface.addresses.iter().map(ToString::to_string).collect(),
            public_addresses: interface
                .public_addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
        .collect()
}

/// A point before a machine.
pub(crate) fn point(point: &PointOfMachine) -> api::MachinePoint {
    api::MachinePoint {
        id: point.point.to_string(),
        point: point.point_ref.to_string(),
        opens: point.opens,
        locks: point.locks,
    }
}

/// Something that was noticed.
pub(crate) fn finding(stored: StoredFinding) -> api::Finding {
    api::Finding {
        point: stored.point.to_string(),
        drift: stored.finding.is_drift(),
        code: stored.finding.code,
        message: stored.finding.message,
        before: stored.finding.before,
        after: stored.finding.after,
        found_at: stored.found_at,
        resolved_at: stored.resolved_at,
    }
}
