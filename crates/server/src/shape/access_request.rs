//! Access requests between the API and the domain.

use std::{net::IpAddr, time::Duration};

use chrono::SubsecRound;
use postern_api::{ErrorCode, access_request as api, grant};
use postern_core::{
    approval::Awaited,
    id::RequestId,
    justification::NotJustified,
    machine::MachineId,
    net::{Ports, Source},
    policy::Refusal,
    principal::Principal,
    request::{
        AccessRequest, Decider, InvalidRequest, InvalidTransition, MAX_REASON, Mode, Narrowing, Pending,
        RequestState, Target, Wider,
    },
    text::is_plain,
    time::Instant,
};

use crate::{failure::Failure, flow::client_address::Unclear, my_address};

const fn read_mode(mode: api::Mode) -> Mode {
    match mode {
        api::Mode::AllOrNothing => Mode::AllOrNothing,
        api::Mode::BestEffort => Mode::BestEffort,
    }
}

/// The request that a body describes, checked against the bounds that hold whatever the policy.
///
/// Targets without sources get `from`, the address that the request comes from. `mode` is that of a body that says none.
pub(crate) fn read(
    body: &api::AccessRequestCreate,
    from: Result<IpAddr, Unclear>,
    mode: Mode,
    id: RequestId,
    principal: Principal,
    now: Instant,
    lapses_at: Instant,
) -> Result<AccessRequest<Pending>, Failure> {
    let targets = body
        .targets
        .iter()
        .enumerate()
        .map(|(at, target)| read_asked(target, from, at))
        .collect::<Result<Vec<_>, Failure>>()?;
    let request = AccessRequest {
        id,
        requester: principal.reference(),
        principal,
        targets,
        // Negative and zero are out of bounds alike, which `validate` says with the bounds.
        duration: Duration::from_secs(u64::try_from(body.duration_seconds).unwrap_or(0)),
        reason: body.reason.clone(),
        ticket: body.ticket.clone(),
        starts_at: body.starts_at.map(|at| at.trunc_subsecs(6)),
        mode: body.mode.map_or(mode, read_mode),
        extends: None,
        created_at: now,
        agreements: Vec::new(),
        state: Pending {
            lapses_at,
            awaits: Vec::new(),
        },
    };
    check(&request)?;
    Ok(request)
}

/// The failure that a start which cannot be had is.
pub(crate) fn invalid_start(detail: impl Into<String>) -> Failure {
    Failure::field(ErrorCode::InvalidStart, "/starts_at", detail)
}

/// What an approver makes of a request.
pub(crate) fn read_narrowing(body: &api::AccessRequestApprove) -> Result<Narrowing, Failure> {
    if let Some(comment) = &body.comment {
        check_text(comment, "comment")?;
    }
    let targets = body.targets.as_ref().map(|targets| {
        let targets = targets.iter().enumerate();
        targets
            .map(|(at, target)| read_target(target, at))
            .collect::<Result<Vec<_>, Failure>>()
    });
    Ok(Narrowing {
        duration: body
            .duration_seconds
            .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        targets: targets.transpose()?,
    })
}

/// The failure that an approval for more than was asked for is.
pub(crate) fn wider(error: &Wider) -> Failure {
    let pointer = match error {
        Wider::Duration(_) => "/duration_seconds",
        Wider::Machine(_) | Wider::Ports(..) | Wider::Source(..) => "/targets",
    };
    Failure::field(ErrorCode::WiderThanAsked, pointer, error.to_string())
}

/// Checks the bounds that hold whatever the policy.
pub(crate) fn check(request: &AccessRequest<Pending>) -> Result<(), Failure> {
    request.validate().map_err(|error| {
        let (code, pointer) = match &error {
            InvalidRequest::Targets | InvalidRequest::Pairs => {
                (ErrorCode::InvalidTargets, "/targets".to_owned())
            }
            InvalidRequest::Twice(machine) => (
                ErrorCode::InvalidTargets,
                request
                    .targets
                    .iter()
                    .rposition(|target| target.machine == *machine)
                    .map_or_else(|| "/targets".to_owned(), |at| format!("/targets/{at}/machine")),
            ),
            InvalidRequest::Ports => (
                ErrorCode::InvalidPorts,
                request
                    .targets
                    .iter()
                    .position(|target| !(1..=postern_core::policy::MAX_PORTS).contains(&target.ports.len()))
                    .map_or_else(|| "/targets".to_owned(), |at| format!("/targets/{at}/ports")),
            ),
            InvalidRequest::Sources => (
                ErrorCode::InvalidSource,
                request
                    .targets
                    .iter()
                    .position(|target| {
                        !(1..=postern_core::policy::MAX_SOURCES).contains(&target.sources.len())
                    })
                    .map_or_else(|| "/targets".to_owned(), |at| format!("/targets/{at}/sources")),
            ),
            InvalidRequest::Duration => (ErrorCode::InvalidDuration, "/duration_seconds".to_owned()),
            InvalidRequest::Ticket => (ErrorCode::InvalidReason, "/ticket".to_owned()),
            InvalidRequest::Reason => (ErrorCode::InvalidReason, "/reason".to_owned()),
        };
        Failure::field(code, pointer, error.to_string())
    })
}

fn read_target(target: &api::Target, at: usize) -> Result<Target, Failure> {
    Ok(Target {
        machine: read_machine(&target.machine, at)?,
        ports: read_ports(&target.ports, at)?,
        sources: read_sources(&target.sources, at)?,
    })
}

fn read_asked(
    target: &api::AskedTarget,
    from: Result<IpAddr, Unclear>,
    at: usize,
) -> Result<Target, Failure> {
    Ok(Target {
        machine: read_machine(&target.machine, at)?,
        ports: read_ports(&target.ports, at)?,
        sources: match &target.sources {
            Some(sources) => read_sources(sources, at)?,
            None => vec![my_address::source(from, at)?],
        },
    })
}

fn read_machine(text: &str, at: usize) -> Result<MachineId, Failure> {
    text.parse()
        .map_err(|error: postern_core::machine::InvalidMachineId| {
            Failure::field(
                ErrorCode::InvalidMachineId,
                format!("/targets/{at}/machine"),
                error.to_string(),
            )
        })
}

fn read_ports(texts: &[String], at: usize) -> Result<Vec<Ports>, Failure> {
    texts
        .iter()
        .enumerate()
        .map(|(port_at, ports)| {
            ports.parse().map_err(|error: postern_core::net::InvalidPorts| {
                Failure::field(
                    ErrorCode::InvalidPorts,
                    format!("/targets/{at}/ports/{port_at}"),
                    error.to_string(),
                )
            })
        })
        .collect()
}

fn read_sources(texts: &[String], at: usize) -> Result<Vec<Source>, Failure> {
    texts
        .iter()
        .enumerate()
        .map(|(source_at, source)| {
            source.parse().map_err(|error: postern_core::net::InvalidSource| {
                Failure::field(
                    ErrorCode::InvalidSource,
                    format!("/targets/{at}/sources/{source_at}"),
                    error.to_string(),
                )
            })
        })
        .collect()
}

/// A reason that somebody gives for a decision.
pub(crate) fn check_reason(reason: &str) -> Result<(), Failure> {
    check_text(reason, "reason")
}

/// A text of a field that is bounded as a reason is.
pub(crate) fn check_text(reason: &str, field: &str) -> Result<(), Failure> {
    let fits = !reason.trim().is_empty() && reason.chars().count() <= MAX_REASON && is_plain(reason);
    if fits {
        Ok(())
    } else {
        Err(Failure::field(
            ErrorCode::InvalidReason,
            format!("/{field}"),
            format!("`{field}` has 1 to {MAX_REASON} characters and no control or invisible characters"),
        ))
    }
}

/// The failure that a policy's refusal of the target at `at` is.
pub(crate) fn refused(refusal: &Refusal, at: usize) -> Failure {
    let (code, pointer) = match refusal {
        Refusal::PortNotGuarded { .. } => (ErrorCode::PortNotGuarded, format!("/targets/{at}/ports")),
        Refusal::SourceNotAllowed { .. } => (ErrorCode::SourceNotAllowed, format!("/targets/{at}/sources")),
        Refusal::TooLong { .. } => (ErrorCode::DurationTooLong, "/duration_seconds".to_owned()),
    };
    Failure::field(code, pointer, refusal.to_string())
}

/// The failure that a reason or ticket is which does not do.
pub(crate) fn not_justified(error: &NotJustified) -> Failure {
    let (code, pointer) = match error {
        NotJustified::Reason { .. } => (ErrorCode::NotJustified, "/reason"),
        NotJustified::NoTicket { .. } | NotJustified::Ticket { .. } | NotJustified::Refused { .. } => {
            (ErrorCode::NotJustified, "/ticket")
        }
        NotJustified::Unanswered { .. } => (ErrorCode::TicketUnanswered, "/ticket"),
    };
    Failure::field(code, pointer, error.to_string())
}

/// The failure that an impossible decision is.
pub(crate) fn impossible(error: &InvalidTransition) -> Failure {
    let code = match error {
        InvalidTransition::AlreadyDecided(_) => ErrorCode::AlreadyDecided,
        InvalidTransition::OwnRequest => ErrorCode::OwnRequest,
        InvalidTransition::NotAPerson(_) => ErrorCode::NotAPerson,
        InvalidTransition::AgreedBefore(_) => ErrorCode::AlreadyAgreed,
        InvalidTransition::NotAnApprover { .. } => ErrorCode::NotAnApprover,
        InvalidTransition::NotTheRequester => ErrorCode::NotTheRequester,
        InvalidTransition::Lapsed(_) => ErrorCode::RequestLapsed,
    };
    Failure::new(code, error.to_string())
}

/// The request with its grants, as the API shows them at `now`. A pending request past its time is shown as
/// lapsed, whether or not anybody wrote that down yet.
pub(crate) fn show(request: &AccessRequest, grants: Vec<grant::Grant>, now: Instant) -> api::AccessRequest {
    let decided =
        |by: String, at: Instant, reason: Option<String>| Some(api::RequestDecision { by, at, reason });
    let mut status = request.state.status();
    let mut until = None;
    let mut awaits = Vec::new();
    let decision = match &request.state {
        RequestState::Pending(pending) => {
            until = Some(pending.lapses_at);
            if pending.lapses_at <= now {
                status = "lapsed";
            } else {
                awaits = pending.awaits.iter().map(show_awaited).collect();
            }
            None
        }
        RequestState::Approved(approved) => {
            let by = match &approved.by {
                Decider::Policy => "policy".to_owned(),
                Decider::BreakGlass => "break_glass".to_owned(),
                Decider::Principal { principal } => principal.to_string(),
            };
            decided(by, approved.at, None)
        }
        RequestState::Denied(denied) => {
            decided(denied.by.to_string(), denied.at, Some(denied.reason.clone()))
        }
        RequestState::Withdrawn(withdrawn) => decided(request.requester.to_string(), withdrawn.at, None),
        RequestState::Lapsed(lapsed) => {
            until = Some(lapsed.at);
            None
        }
    };
    api::AccessRequest {
        id: request.id.to_string(),
        requester: request.requester.to_string(),
        targets: request
            .targets
            .iter()
            .map(|target| api::Target {
                machine: target.machine.to_string(),
                ports: target.ports.iter().map(ToString::to_string).collect(),
                sources: target.sources.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        duration_seconds: request.duration.as_secs(),
        reason: request.reason.clone(),
        ticket: request.ticket.clone(),
        starts_at: request.starts_at,
        mode: match request.mode {
            Mode::AllOrNothing => api::Mode::AllOrNothing,
            Mode::BestEffort => api::Mode::BestEffort,
        },
        extends: request.extends.map(|grant| grant.to_string()),
        status: status.to_owned(),
        created_at: request.created_at,
        lapses_at: until,
        awaits,
        agreements: request
            .agreements
            .iter()
            .map(|agreement| api::RequestAgreement {
                by: agreement.by.reference().to_string(),
                at: agreement.at,
                comment: agreement.comment.clone(),
                narrowed: agreement.narrowed,
            })
            .collect(),
        decision,
        not_opened: grants.iter().filter_map(not_opened).collect(),
        grants,
        exposures: Vec::new(),
        dry_run: false,
    }
}

/// What the grant says, if it ended without ever having been open, and not only because another one did.
fn not_opened(grant: &grant::Grant) -> Option<api::NotOpened> {
    let cause = grant
        .cause
        .as_ref()
        .filter(|cause| cause.kind != "not_together")?;
    grant.opened_at.is_none().then(|| api::NotOpened {
        machine: grant.machine.clone(),
        grant: grant.id.clone(),
        reason: cause.reason.clone().unwrap_or_else(|| cause.kind.clone()),
    })
}

fn show_awaited(awaited: &Awaited) -> api::RequestAwaited {
    api::RequestAwaited {
        policy: awaited.policy.to_string(),
        policy_name: awaited.policy_name.clone(),
        stage: awaited.stage,
        of: awaited.of,
        needs: awaited.needs,
        have: awaited.have,
        approvers: awaited.approvers.iter().map(ToString::to_string).collect(),
        role: awaited.role.clone(),
    }
}
