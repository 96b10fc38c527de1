//! Grants as the API shows them, with the truth of each hop.

use postern_api::grant as api;
use postern_core::{
    approach::{self, is_firewall},
    grant::{EndCause, Grant, GrantState, HopState},
    time::written,
};
use postern_store::Hop;
use serde_json::Value;

/// The grant with its hops as last read back.
pub(crate) fn show(grant: &Grant, hops: Vec<api::Hop>) -> api::Grant {
    let mut shown = api::Grant {
        id: grant.id.to_string(),
        request_id: grant.request.to_string(),
        policy_id: grant.policy.to_string(),
        requester: grant.requester.to_string(),
        machine: grant.machine.to_string(),
        ports: grant.ports.iter().map(ToString::to_string).collect(),
        sources: grant.sources.iter().map(ToString::to_string).collect(),
        duration_seconds: grant.duration.as_secs(),
        status: grant.state.status().to_owned(),
        truth: truth(&grant.state, &hops),
        created_at: grant.created_at,
        not_after: grant.not_after,
        starts_at: None,
        open_deadline: None,
        opened_at: None,
        ends_at: None,
        ended_at: None,
        closed_at: None,
        cause: None,
        entrances: entrances(&grant.state, &hops),
        waits_for: waits_for(&grant.state, &hops),
        hops,
        findings: Vec::new(),
    };
    match &grant.state {
        GrantState::Scheduled(scheduled) => {
            shown.starts_at = Some(scheduled.starts_at);
            shown.open_deadline = Some(scheduled.deadline);
        }
        GrantState::Opening(opening) => shown.open_deadline = Some(opening.deadline),
        GrantState::Open(open) => {
            shown.opened_at = Some(open.opened_at);
            shown.ends_at = Some(open.ends_at);
        }
        GrantState::Closing(closing) => {
            shown.opened_at = closing.opened_at;
            shown.ended_at = Some(closing.since);
            shown.cause = Some(cause(&closing.cause));
        }
        GrantState::Closed(closed) => {
            shown.opened_at = closed.opened_at;
            shown.ended_at = Some(closed.ended_at);
            shown.closed_at = Some(closed.closed_at);
            shown.cause = Some(cause(&closed.cause));
        }
    }
    shown
}

/// Where the firewalls on the way map the ports to.
fn entrances(state: &GrantState, hops: &[api::Hop]) -> Vec<api::Entrance> {
    let read = hops
        .iter()
        .filter(|_| state.is_wanted())
        .filter(|hop| hop.point.parse().is_ok_and(|point| is_firewall(&point)))
        .flat_map(|hop| approach::entrances(&hop.rules));
    read.map(|one| api::Entrance {
        leads_to: one.leads_to.to_string(),
        host: one.host.to_string(),
        port: one.port,
    })
    .collect()
}

/// The hop that is not yet as it shall be; by their names, firewalls stand before what is behind them.
fn waits_for(state: &GrantState, hops: &[api::Hop]) -> Option<String> {
    let wanted = match state {
        GrantState::Opening(_) => "present",
        GrantState::Closing(_) => "absent",
        GrantState::Scheduled(_) | GrantState::Open(_) | GrantState::Closed(_) => return None,
    };
    let late = hops.iter().find(|hop| hop.state != wanted)?;
    Some(late.point.clone())
}

/// A hop as it was last read back.
pub(crate) fn hop(hop: Hop) -> api::Hop {
    api::Hop {
        point: hop.point_ref.to_string(),
        state: match hop.state {
            HopState::Absent => "absent",
            HopState::Unknown => "unknown",
            HopState::Present => "present",
        }
        .to_owned(),
        rules: hop.rules.unwrap_or(Value::Null),
        blocked_by: hop.blocked_by,
        obstacle: hop.obstacle,
        read_at: hop.read_at,
    }
}

fn cause(cause: &EndCause) -> api::EndCause {
    let (by, reason) = match cause {
        EndCause::Revoked { by, reason } => (Some(by.to_string()), reason.clone()),
        EndCause::Frozen { by, reason, .. } => (Some(by.to_string()), Some(reason.clone())),
        EndCause::OpenFailed { reason } | EndCause::NotAllowed { reason } => (None, Some(reason.clone())),
        EndCause::NotTogether { .. } => (None, Some(cause.words())),
        EndCause::Expired
        | EndCause::PolicyRemoved
        | EndCause::MachineGone
        | EndCause::Released
        | EndCause::HeartbeatMissed
        | EndCause::DatabaseRestored => (None, None),
    };
    api::EndCause {
        kind: cause.kind().to_owned(),
        by,
        reason,
    }
}

/// What the state means, in words that promise no more than was read back.
fn truth(state: &GrantState, hops: &[api::Hop]) -> String {
    let present = hops.iter().filter(|hop| hop.state == "present").count();
    let all = hops.len();
    let mut sentence = match state {
        GrantState::Scheduled(scheduled) => format!(
            "nothing is open: it is decided again and begins to open at {}",
            scheduled.starts_at.to_rfc3339()
        ),
        GrantState::Opening(opening) => format!(
            "not open yet: the cloud shows {present} of {all} hops open; unless it shows all of them open by {}, it fails",
            written(opening.deadline)
        ),
        GrantState::Open(open) => format!(
            "rule open: the cloud showed every hop open by {}; it ends at {}",
            written(open.opened_at),
            written(open.ends_at)
        ),
        GrantState::Closing(_) => format!(
            "rule closing: {} of {all} hops may still let packets through; the cloud has not shown them closed",
            hops.iter().filter(|hop| hop.state != "absent").count()
        ),
        GrantState::Closed(closed) => format!(
            "rule closed: the cloud showed every hop closed by {}; connections that were already established are not cut",
            written(closed.closed_at)
        ),
    };
    for hop in hops {
        if let Some(rule) = &hop.blocked_by
            && state.is_wanted()
        {
            sentence = format!(
                "{sentence}; `{rule}` at {} stops the packets all the same",
                hop.point
            );
        }
        if let Some(obstacle) = &hop.obstacle
            && state.is_wanted()
        {
            sentence = format!("{sentence}; at {}: {obstacle}", hop.point);
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::{
        grant::Live,
        testing::{a_grant, at},
    };

    fn a_hop(state: &str, blocked_by: Option<&str>) -> api::Hop {
        api::Hop {
            point: "azure:nsg:x".into(),
            state: state.into(),
            rules: Value::Null,
            blocked_by: blocked_by.map(str::to_owned),
            obstacle: None,
            read_at: Some(at(1)),
        }
    }

    #[test]
    fn a_grant_is_not_called_open_before_every_hop_is() {
        let shown = show(&a_grant(), vec![a_hop("present", None), a_hop("unknown", None)]);
        assert_eq!(shown.status, "opening");
        assert!(
            shown
                .truth
                .starts_with("not open yet: the cloud shows 1 of 2 hops open"),
            "{}",
            shown.truth
        );
    }

    #[test]
    fn a_closed_grant_speaks_of_the_rule_and_not_of_connections() {
        let Live::Opening(opening) = a_grant().live().unwrap() else {
            panic!("a new grant is opening")
        };
        let open = opening.confirm_open(at(10));
        let closed = Live::Open(open)
            .end(EndCause::Expired, at(20))
            .confirm_closed(at(21));
        let shown = show(&closed.into(), vec![a_hop("absent", Some("deny-all"))]);
        assert!(shown.truth.starts_with("rule closed:"), "{}", shown.truth);
        assert!(shown.truth.contains("not cut"));
        assert!(!shown.truth.contains("deny-all"));
        assert_eq!(shown.cause.unwrap().kind, "expired");
    }

    #[test]
    fn a_foreign_rule_in_the_way_is_named() {
        let shown = show(&a_grant(), vec![a_hop("present", Some("deny-all"))]);
        assert!(shown.truth.contains("`deny-all`"), "{}", shown.truth);
    }
}
