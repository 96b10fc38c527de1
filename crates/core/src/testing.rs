//! Builders with good defaults, for tests of this crate and of those above it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use chrono::{DateTime, TimeDelta};
use serde_json::json;
use uuid::Uuid;

use crate::{
    enforcer::{Change, Verb},
    grant::{Grant, GrantState, Opening},
    id::{GrantId, Id},
    net::{Ports, Source},
    nsg::{Access, AddressPrefix, Direction, NsgPorts, NsgProtocol, NsgRule, Side},
    point::PointRef,
    policy::{Approval, GuardedPorts, JitPolicy, Lockdown, SharedGroups},
    principal::{Principal, PrincipalKind},
    request::{AccessRequest, Mode, Pending, RequestState, Target},
    scope::Scope,
    time::Instant,
};

/// `seconds` after the start of 2026.
pub fn at(seconds: i64) -> Instant {
    DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default() + TimeDelta::seconds(seconds)
}

/// An id made from a small number.
pub fn an_id<K>(number: u128) -> Id<K> {
    Id::from_uuid(Uuid::from_u128(
        0x019b_0000_0000_7000_8000_0000_0000_0000 + number,
    ))
}

/// What a fake cloud does about one grant at a point.
pub fn a_change(verb: Verb, point: &PointRef, grant: GrantId) -> Change {
    Change {
        verb,
        target: point.to_string(),
        summary: format!("{} {grant}", verb.as_str()),
        grants: vec![grant],
        policies: Vec::new(),
        before: None,
        after: None,
        operation: json!({ "verb": verb.as_str(), "grant": grant }),
        displaces: Vec::new(),
    }
}

/// SSH and RDP from 203.0.113.0/24 for at most three hours. Each call gives another id.
///
/// # Panics
/// If `scope` is not one.
#[expect(clippy::expect_used, reason = "a test may fail by panicking")]
pub fn a_policy(scope: &str) -> JitPolicy {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let scope: Scope = scope.parse().expect("the scope of a test policy");
    let guard = |ports: &str| GuardedPorts {
        ports: ports.parse().expect("the ports of a test policy"),
        allowed_sources: vec!["203.0.113.0/24".parse().expect("the source of a test policy")],
        max_duration: Duration::from_hours(3),
    };
    JitPolicy {
        id: an_id(number.into()),
        name: format!("policy-{number}"),
        scope,
        tags: BTreeMap::new(),
        guards: vec![guard("22/tcp"), guard("3389/tcp")],
        lockdown: Lockdown::Strict,
        shared_groups: SharedGroups::Refuse,
        approval: Approval::Policy,
        authentication: crate::policy::Authentication::default(),
        pending_for: None,
        justification: None,
        version: 1,
        created_at: at(0),
        updated_at: at(0),
    }
}

/// `user:corp/ada`, with a second factor and in no group.
pub fn a_principal() -> Principal {
    Principal {
        kind: PrincipalKind::Human,
        issuer: "corp".to_owned(),
        subject: "ada".to_owned(),
        name: None,
        groups: BTreeSet::new(),
        mfa: true,
        authenticated_at: None,
        claims: BTreeMap::new(),
    }
}

/// Ten minutes of SSH on one instance from 203.0.113.7, pending, made at [`at`]`(0)`, lapsing a day later.
///
/// # Panics
/// Never.
#[expect(clippy::expect_used, reason = "constant texts")]
pub fn a_request() -> AccessRequest {
    AccessRequest {
        id: an_id(1),
        requester: a_principal().reference(),
        principal: a_principal(),
        targets: vec![Target {
            machine: "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0"
                .parse()
                .expect("a constant"),
            ports: vec!["22".parse().expect("a constant")],
            sources: vec![Source::from(IpAddr::from([203, 0, 113, 7]))],
        }],
        duration: Duration::from_mins(10),
        reason: "disk full".to_owned(),
        ticket: None,
        starts_at: None,
        mode: Mode::default(),
        extends: None,
        created_at: at(0),
        agreements: Vec::new(),
        state: RequestState::Pending(Pending {
            lapses_at: at(86_400),
            awaits: Vec::new(),
        }),
    }
}

/// The grant of [`a_request`], opening, with five minutes to be open.
///
/// # Panics
/// Never.
#[expect(clippy::expect_used, reason = "constant texts")]
pub fn a_grant() -> Grant {
    let request = a_request();
    let target = request.targets.first().expect("one target");
    Grant {
        id: an_id(2),
        request: request.id,
        policy: an_id(3),
        requester: request.requester.clone(),
        machine: target.machine.clone(),
        ports: target.ports.clone(),
        sources: target.sources.clone(),
        duration: request.duration,
        created_at: at(0),
        not_after: at(300 + 600),
        together: false,
        state: GrantState::Opening(Opening { deadline: at(300) }),
    }
}

/// `22/tcp` and the like.
///
/// # Panics
/// If the text is not a port.
#[expect(clippy::expect_used, reason = "a test may fail by panicking")]
pub fn ports(text: &str) -> Ports {
    text.parse().expect("ports of a test")
}

/// An inbound rule of an NSG, for every protocol and destination; `from` and `ports` as ARM holds them, several sources
/// with commas between them.
///
/// # Panics
/// If `ports` are none.
#[expect(clippy::expect_used, reason = "a test may fail by panicking")]
pub fn an_nsg_rule(name: &str, priority: u16, access: Access, from: &str, ports: &str) -> NsgRule {
    let side = |text: &str| Side {
        prefixes: text.split(',').map(AddressPrefix::parse).collect(),
        groups: vec![],
    };
    NsgRule {
        name: name.to_owned(),
        description: None,
        priority,
        direction: Direction::Inbound,
        access,
        protocol: NsgProtocol::Any,
        source: side(from),
        destination: side("*"),
        ports: vec![NsgPorts::parse(ports).expect("the ports of a test rule")],
        source_ports: vec![NsgPorts::ALL],
    }
}
