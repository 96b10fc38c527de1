//! Which shapes a run had: how its fleet was drawn, which steps were not refused, and what came of them. A campaign counts its runs by them, so that its
//! result says what was covered.

use std::collections::BTreeSet;

use postern_api::grant::Grant;
use postern_sim::truth::Change;

use crate::{
    clouds::is_foreign,
    isolation,
    script::{Cloud, Edit, FirewallEdit, Script, Step, Trouble},
};

/// What the fleet has, and how the run is.
pub fn drawn(script: &Script) -> BTreeSet<&'static str> {
    let mut shapes = BTreeSet::from(["two servers"]);
    let mut has = |is: bool, shape| {
        if is {
            shapes.insert(shape);
        }
    };
    has(!script.azure.machines.is_empty(), "azure");
    has(!script.aws.machines.is_empty(), "aws");
    has(
        script.azure.machines.iter().any(|machine| machine.ipv6),
        "azure: ipv6",
    );
    // Every instance has an IPv6 address.
    has(!script.aws.machines.is_empty(), "aws: ipv6");
    has(
        script.firewall.as_ref().is_some_and(|plan| !plan.policy),
        "firewall: classic",
    );
    has(
        script.firewall.as_ref().is_some_and(|plan| plan.policy),
        "firewall: policy",
    );
    has(
        script.firewall.as_ref().is_some_and(|plan| plan.write_ms > 0),
        "firewall: slow writes",
    );
    has(script.second.is_some(), "firewall: two of them");
    has(
        (script.firewall.iter().chain(&script.second)).any(|plan| !plan.applications.is_empty()),
        "firewall: rules for names",
    );
    has(
        script.firewall.as_ref().is_some_and(|plan| plan.parent.is_some()),
        "firewall: inherited policy",
    );
    has(script.isolates, "isolate: others share the group");
    has(script.skew_ms != [0, 0], "clocks apart");
    has(script.describe_lag_ms > 0, "aws: describes lag");
    has(script.operation_ms > 0, "azure: slow writes");
    has(script.run_out, "grants run out");
    shapes
}

/// What a step that was not refused adds.
pub fn of_step(step: &Step) -> Vec<&'static str> {
    match step {
        Step::CreatePolicy(policy) | Step::UpdatePolicy(_, policy) => vec![match policy.shared_groups {
            "isolate" => "policy: isolate",
            "refuse" => "policy: refuse",
            _ => "policy: revoke",
        }],
        Step::Request {
            sources,
            starts_in_ms,
            ..
        } => {
            let mut shapes = Vec::new();
            if starts_in_ms.is_some() {
                shapes.push("asked: start later");
            }
            if sources.iter().any(|source| source.contains(':')) {
                shapes.push("asked: ipv6 source");
            }
            shapes
        }
        Step::Approve(_) | Step::Deny(_) => vec!["asked: second person"],
        Step::Extend(..) => vec!["asked: extend"],
        Step::Revoke(_) => vec!["asked: revoke"],
        Step::DeletePolicy(_) => vec!["asked: policy deleted"],
        Step::Edit(edit) => vec![edit_shape(edit)],
        Step::Fault {
            cloud,
            operation,
            trouble,
            ..
        } => {
            let mut shapes = vec![
                match trouble {
                    Trouble::Latency(_) => "fault: latency",
                    Trouble::Throttled(_) => "fault: throttled",
                    Trouble::Broken => "fault: internal error",
                    Trouble::ResetBefore => "fault: cut before the call",
                    Trouble::ResetAfter => "fault: cut after the call",
                },
                match cloud {
                    Cloud::Azure => "fault: at azure",
                    Cloud::Aws => "fault: at aws",
                },
            ];
            if operation.contains("Firewall") {
                shapes.push("fault: at a firewall's operations");
            }
            shapes
        }
        Step::FailCompletions(..) => vec!["fault: write fails after it was taken"],
        Step::Kill(_) => vec!["fault: server killed"],
        Step::Start(_, Some(_)) => vec!["fault: server dies at a point of a pass"],
        Step::Start(_, None) => vec!["fault: server killed and started"],
        Step::Restart(_) => vec!["server restarted"],
        Step::KillPostgres(_) => vec!["fault: database killed"],
        Step::Pause(_) => Vec::new(),
    }
}

const fn edit_shape(edit: &Edit) -> &'static str {
    match edit {
        Edit::NsgAdd(..) | Edit::NsgDelete(..) => "edit: others' rules of an nsg",
        Edit::NsgWidenOurs(..) | Edit::NsgTurnOurs(..) | Edit::NsgDeleteOurs(..) => {
            "edit: our rules of an nsg"
        }
        Edit::Retag(..) => "edit: tags",
        Edit::Delete(_) => "edit: machine deleted",
        Edit::Stop(_) | Edit::Start(_) => "edit: instance stopped or started",
        Edit::SgAdd(..) | Edit::SgRevoke(..) | Edit::SgReAdd(..) => "edit: others' rules of a group",
        Edit::SgRevokeOurs(_) | Edit::SgWidenOurs(_) => "edit: our rules of a group",
        Edit::SgDetachOurs(_) | Edit::SgToggle(..) => "edit: groups of an interface",
        Edit::Read(_) => "edit: whole document read",
        Edit::Replay(_) => "edit: whole document written as it was",
        Edit::CopyOurs(_) => "edit: our rules copied into an inherited policy",
        Edit::Parent(_) => "edit: others' rules of an inherited policy",
        Edit::Firewall(edit) | Edit::SecondFirewall(edit) => match edit {
            FirewallEdit::WidenOurs(_)
            | FirewallEdit::TurnOurs(_)
            | FirewallEdit::DeleteOurs(_)
            | FirewallEdit::DropOurs => "edit: our rules of a firewall",
            FirewallEdit::ToggleRoute(_) => "edit: route to a firewall",
            FirewallEdit::AddCollection(_)
            | FirewallEdit::Add(..)
            | FirewallEdit::Delete(..)
            | FirewallEdit::DeleteCollection(_)
            | FirewallEdit::Reprioritize(..)
            | FirewallEdit::Touch(_) => "edit: others' rules of a firewall",
            FirewallEdit::AddApplications(_) | FirewallEdit::DeleteApplications(_) => {
                "edit: rules for names at a firewall"
            }
        },
    }
}

/// What came of it.
pub fn happened(grants: &[Grant], changes: &[Change]) -> BTreeSet<&'static str> {
    let mut shapes = BTreeSet::new();
    let mut has = |is: bool, shape| {
        if is {
            shapes.insert(shape);
        }
    };
    let at_firewall = |grant: &&Grant| {
        grant
            .hops
            .iter()
            .any(|hop| hop.point.starts_with("azure:firewall"))
    };
    let opened = |grant: &&Grant| grant.opened_at.is_some();
    has(
        grants.iter().filter(at_firewall).any(|grant| opened(&grant)),
        "came about: a grant opened through a firewall",
    );
    has(
        grants.iter().filter(at_firewall).any(|grant| !opened(&grant)),
        "came about: a grant at a firewall that never opened",
    );
    has(
        changes
            .iter()
            .any(|change| !is_foreign(&change.caller) && is_at_firewall(change)),
        "came about: a write of ours at a firewall",
    );
    has(
        isolation::isolated(changes) > 0,
        "came about: an instance isolated",
    );
    for grant in grants {
        if let Some(cause) = &grant.cause {
            has(
                true,
                match cause.kind.as_str() {
                    "expired" => "ended: expired",
                    "revoked" => "ended: revoked",
                    "open_failed" => "ended: never opened",
                    "policy_removed" => "ended: policy removed",
                    "machine_gone" => "ended: machine gone",
                    _ => "ended: otherwise",
                },
            );
        }
    }
    shapes
}

fn is_at_firewall(change: &Change) -> bool {
    ["/azurefirewalls/", "/rulecollectiongroups/"]
        .iter()
        .any(|part| change.resource.contains(part))
}
