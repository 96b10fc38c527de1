//! JIT policies between the API and the domain.

use std::time::Duration;

use postern_api::{ErrorCode, jit_policy as api};
use postern_core::{
    approval::{Approval, InvalidApproval, Stage},
    id::PolicyId,
    justification::{Justification, WhenUnanswered},
    policy::{Authentication, GuardedPorts, InvalidPolicy, JitPolicy, Lockdown, SharedGroups},
    preview::ReachChange,
    text::is_plain_line,
    time::Instant,
};
use postern_store::CoverageChange;

use crate::failure::Failure;

/// The version of a policy that was just made.
pub(crate) const FIRST_VERSION: i64 = 1;

/// The policy that a document describes, checked. Version 1, made at `now`.
pub(crate) fn read(document: &api::JitPolicyWrite, id: PolicyId, now: Instant) -> Result<JitPolicy, Failure> {
    let scope = document
        .scope
        .parse()
        .map_err(|error: postern_core::scope::InvalidScope| {
            Failure::field(ErrorCode::InvalidScope, "/scope", error.to_string())
        })?;
    let guards = document
        .guards
        .iter()
        .enumerate()
        .map(|(at, guard)| read_guard(guard, at))
        .collect::<Result<Vec<_>, Failure>>()?;
    let policy = JitPolicy {
        id,
        name: document.name.clone(),
        scope,
        tags: document.tags.clone(),
        guards,
        lockdown: match document.lockdown {
            api::Lockdown::Strict => Lockdown::Strict,
            api::Lockdown::Defer => Lockdown::Defer,
        },
        shared_groups: match document.shared_groups {
            api::SharedGroups::Refuse => SharedGroups::Refuse,
            api::SharedGroups::Revoke => SharedGroups::Revoke,
            api::SharedGroups::Isolate => SharedGroups::Isolate,
        },
        approval: read_approval(&document.approval)?,
        // Negative is out of bounds, as zero is, which `validate` says with the bounds.
        authentication: Authentication {
            mfa: document.authentication.mfa,
            max_age_seconds: document
                .authentication
                .max_age_seconds
                .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
        },
        // Zero is out of bounds, which `validate` says with the bounds.
        pending_for: document
            .pending_for_seconds
            .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        justification: document.justification.as_ref().map(read_justification),
        version: FIRST_VERSION,
        created_at: now,
        updated_at: now,
    };
    if !is_plain_line(&policy.name) {
        return Err(Failure::field(
            ErrorCode::InvalidPolicy,
            "/name",
            "`name` has no control or invisible characters",
        ));
    }
    policy.validate().map_err(|error| {
        let place =
            |ports: &postern_core::net::Ports| policy.guards.iter().position(|guard| guard.ports == *ports);
        let (code, pointer) = match &error {
            InvalidPolicy::Name => (ErrorCode::InvalidPolicy, "/name".to_owned()),
            InvalidPolicy::Tags => (ErrorCode::InvalidPolicy, "/tags".to_owned()),
            InvalidPolicy::Guards => (ErrorCode::InvalidPolicy, "/guards".to_owned()),
            InvalidPolicy::Sources(ports) => (
                ErrorCode::InvalidSource,
                place(ports).map_or_else(
                    || "/guards".to_owned(),
                    |at| format!("/guards/{at}/allowed_sources"),
                ),
            ),
            InvalidPolicy::Duration(ports) => (
                ErrorCode::InvalidDuration,
                place(ports).map_or_else(
                    || "/guards".to_owned(),
                    |at| format!("/guards/{at}/max_duration_seconds"),
                ),
            ),
            InvalidPolicy::Approval(error) => (
                ErrorCode::InvalidPolicy,
                match error {
                    InvalidApproval::Stages => "/approval/stages".to_owned(),
                    InvalidApproval::Needs(number) | InvalidApproval::Unreachable(number) => {
                        format!("/approval/stages/{}/needs", number - 1)
                    }
                    InvalidApproval::Approvers(number) => {
                        format!("/approval/stages/{}/approvers", number - 1)
                    }
                    InvalidApproval::Role(number) => format!("/approval/stages/{}/role", number - 1),
                },
            ),
            InvalidPolicy::MaxAge => (
                ErrorCode::InvalidDuration,
                "/authentication/max_age_seconds".to_owned(),
            ),
            InvalidPolicy::Pattern(error) => (
                ErrorCode::InvalidPolicy,
                format!("/justification/{}", error.field),
            ),
            InvalidPolicy::Pending => (ErrorCode::InvalidDuration, "/pending_for_seconds".to_owned()),
            InvalidPolicy::Overlap(_, other) => (
                ErrorCode::InvalidPolicy,
                place(other).map_or_else(|| "/guards".to_owned(), |at| format!("/guards/{at}/ports")),
            ),
        };
        Failure::field(code, pointer, error.to_string())
    })?;
    Ok(policy)
}

fn read_justification(one: &api::Justification) -> Justification {
    Justification {
        reason_pattern: one.reason_pattern.clone(),
        ticket_required: one.ticket_required,
        ticket_pattern: one.ticket_pattern.clone(),
        ticket_check: one.ticket_check.map(|when| match when {
            api::WhenUnanswered::Refuse => WhenUnanswered::Refuse,
            api::WhenUnanswered::Allow => WhenUnanswered::Allow,
        }),
    }
}

fn show_justification(one: &Justification) -> api::Justification {
    api::Justification {
        reason_pattern: one.reason_pattern.clone(),
        ticket_required: one.ticket_required,
        ticket_pattern: one.ticket_pattern.clone(),
        ticket_check: one.ticket_check.map(|when| match when {
            WhenUnanswered::Refuse => api::WhenUnanswered::Refuse,
            WhenUnanswered::Allow => api::WhenUnanswered::Allow,
        }),
    }
}

fn read_approval(approval: &api::Approval) -> Result<Approval, Failure> {
    let stages = match approval {
        api::Approval::Policy => return Ok(Approval::Policy),
        api::Approval::One => return Ok(Approval::One),
        api::Approval::Stages(stages) => stages,
    };
    let stages = stages.iter().enumerate().map(|(at, stage)| {
        let approvers = stage.approvers.iter().enumerate().map(|(one_at, one)| {
            one.parse()
                .map_err(|error: postern_core::principal::InvalidPrincipalRef| {
                    let pointer = format!("/approval/stages/{at}/approvers/{one_at}");
                    Failure::field(ErrorCode::InvalidPrincipal, pointer, error.to_string())
                })
        });
        Ok(Stage {
            needs: stage.needs,
            approvers: approvers.collect::<Result<_, Failure>>()?,
            role: stage.role.clone(),
            again: stage.again,
        })
    });
    Ok(Approval::Stages(stages.collect::<Result<_, Failure>>()?))
}

fn show_approval(approval: &Approval) -> api::Approval {
    match approval {
        Approval::Policy => api::Approval::Policy,
        Approval::One => api::Approval::One,
        Approval::Stages(stages) => api::Approval::Stages(
            stages
                .iter()
                .map(|stage| api::ApprovalStage {
                    needs: stage.needs,
                    approvers: stage.approvers.iter().map(ToString::to_string).collect(),
                    role: stage.role.clone(),
                    again: stage.again,
                })
                .collect(),
        ),
    }
}

fn read_guard(guard: &api::GuardedPorts, at: usize) -> Result<GuardedPorts, Failure> {
    Ok(GuardedPorts {
        ports: guard
            .ports
            .parse()
            .map_err(|error: postern_core::net::InvalidPorts| {
                Failure::field(
                    ErrorCode::InvalidPorts,
                    format!("/guards/{at}/ports"),
                    error.to_string(),
                )
            })?,
        allowed_sources: guard
            .allowed_sources
            .iter()
            .enumerate()
            .map(|(source_at, source)| {
                source.parse().map_err(|error: postern_core::net::InvalidSource| {
                    Failure::field(
                        ErrorCode::InvalidSource,
                        format!("/guards/{at}/allowed_sources/{source_at}"),
                        error.to_string(),
                    )
                })
            })
            .collect::<Result<_, _>>()?,
        // Zero is out of bounds, which `validate` says with the bounds.
        max_duration: Duration::from_secs(u64::try_from(guard.max_duration_seconds).unwrap_or(0)),
    })
}

/// The policy as the API shows it.
pub(crate) fn show(policy: &JitPolicy) -> api::JitPolicy {
    api::JitPolicy {
        id: policy.id.to_string(),
        name: policy.name.clone(),
        scope: policy.scope.to_string(),
        tags: policy.tags.clone(),
        guards: policy
            .guards
            .iter()
            .map(|guard| api::GuardedPorts {
                ports: guard.ports.to_string(),
                allowed_sources: guard.allowed_sources.iter().map(ToString::to_string).collect(),
                max_duration_seconds: i64::try_from(guard.max_duration.as_secs()).unwrap_or(i64::MAX),
            })
            .collect(),
        lockdown: match policy.lockdown {
            Lockdown::Strict => api::Lockdown::Strict,
            Lockdown::Defer => api::Lockdown::Defer,
        },
        shared_groups: match policy.shared_groups {
            SharedGroups::Refuse => api::SharedGroups::Refuse,
            SharedGroups::Revoke => api::SharedGroups::Revoke,
            SharedGroups::Isolate => api::SharedGroups::Isolate,
        },
        approval: show_approval(&policy.approval),
        authentication: api::Authentication {
            mfa: policy.authentication.mfa,
            max_age_seconds: policy
                .authentication
                .max_age_seconds
                .and_then(|seconds| i64::try_from(seconds).ok()),
        },
        pending_for_seconds: policy
            .pending_for
            .and_then(|pending_for| i64::try_from(pending_for.as_secs()).ok()),
        justification: policy.justification.as_ref().map(show_justification),
        version: policy.version,
        created_at: policy.created_at,
        updated_at: policy.updated_at,
    }
}

/// A machine that another policy would cover.
pub(crate) fn coverage(change: &CoverageChange) -> api::CoverageChange {
    api::CoverageChange {
        machine: change.machine.to_string(),
        before: change.before.map(|id| id.to_string()),
        after: change.after.map(|id| id.to_string()),
    }
}

/// Somebody who would gain or lose reach.
pub(crate) fn reach(change: &ReachChange) -> api::ReachChange {
    api::ReachChange {
        machine: change.machine.to_string(),
        address: change.destination.to_string(),
        ports: change.ports.to_string(),
        sources: change.sources.iter().map(ToString::to_string).collect(),
        resource: change.rule.as_ref().map(|rule| rule.resource.clone()),
        rule: change.rule.as_ref().map(|rule| rule.rule.clone()),
        firewall: change.nat.as_ref().map(|nat| nat.resource.clone()),
        nat_rule: change.nat.as_ref().map(|nat| nat.rule.clone()),
        certain: change.certain,
    }
}
