//! Requests that begin later, grants that are extended, and requests of all or nothing.

use chrono::TimeDelta;
use postern_api::{
    ErrorCode,
    access_request::{AccessRequest, AccessRequestCreate, Mode},
    freeze::{FreezeCreate, FreezeLift},
    grant::{GrantExtend, GrantRevoke},
    review::BreakGlassQuery,
};
use postern_core::{
    grant::{Grant, Live},
    id::GrantId,
    time::Clock,
};

use crate::{
    freezes::freeze_unheard,
    rig::{INSTANCE_POINT, MACHINE, Rig, ask, asks, code, now, policy},
};

fn in_an_hour(rig: &Rig) -> AccessRequestCreate {
    AccessRequestCreate {
        starts_at: Some(rig.clock.now() + TimeDelta::hours(1)),
        ..ask(MACHINE)
    }
}

fn longer(seconds: i64) -> GrantExtend {
    GrantExtend {
        duration_seconds: seconds,
        reason: "restore takes longer".into(),
    }
}

/// The loop reads every hop of the grant back as open.
async fn opened(rig: &Rig, grant: &str) {
    let id: GrantId = grant.parse().unwrap();
    let mut tx = rig.store.begin().await.unwrap();
    let Ok(Live::Opening(opening)) = tx.grant(id).await.unwrap().unwrap().live() else {
        panic!("it is opening")
    };
    let open: Grant = opening.confirm_open(rig.clock.now()).into();
    tx.save_grants(&[open]).await.unwrap();
    tx.commit().await.unwrap();
}

async fn scheduled(rig: &Rig) -> AccessRequest {
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &in_an_hour(rig))
        .await
        .unwrap();
    assert_eq!(request.grants[0].status, "scheduled");
    request
}

#[tokio::test]
async fn a_request_for_later_opens_nothing_until_its_time_and_then_begins_to() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let request = scheduled(&rig).await;
    let grant = &request.grants[0];
    assert_eq!(grant.starts_at, request.starts_at);
    assert!(!rig.is_due(INSTANCE_POINT).await, "nothing is to be done yet");
    let ada = rig.client("ada");
    rig.advance(3599);
    rig.running.start_due().await;
    assert_eq!(ada.grant(&grant.id).await.unwrap().status, "scheduled");
    rig.advance(1);
    rig.running.start_due().await;
    let started = ada.grant(&grant.id).await.unwrap();
    assert_eq!(started.status, "opening");
    assert_eq!(
        started.open_deadline.unwrap() - request.starts_at.unwrap(),
        TimeDelta::seconds(300)
    );
    assert!(rig.is_due(INSTANCE_POINT).await);
    let events = rig.audit("grant.start").await;
    assert_eq!(events.len(), 1);
    let decision = events[0].event.decision.as_ref().unwrap();
    assert_eq!(decision["requester"]["allowed"], true);
}

#[tokio::test]
async fn a_start_is_ahead_and_not_too_far() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    for seconds in [-1, 0, 14 * 24 * 3600 + 1] {
        let asked = AccessRequestCreate {
            starts_at: Some(rig.clock.now() + TimeDelta::seconds(seconds)),
            ..ask(MACHINE)
        };
        assert_eq!(
            code(ada.create_access_request(None, &now(), &asked).await),
            ErrorCode::InvalidStart
        );
    }
    let asked = in_an_hour(&rig);
    assert_eq!(
        code(
            rig.owner()
                .break_glass(None, &BreakGlassQuery::default(), &asked)
                .await
        ),
        ErrorCode::InvalidStart
    );
}

#[tokio::test]
async fn what_was_granted_for_later_is_decided_again_when_its_time_comes() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let request = scheduled(&rig).await;
    rig.take_away("ada", "requester").await;
    rig.advance(3600);
    rig.running.start_due().await;
    let ended = rig.owner().grant(&request.grants[0].id).await.unwrap();
    let cause = ended.cause.unwrap();
    assert_eq!(
        (ended.status.as_str(), cause.kind.as_str()),
        ("closing", "not_allowed")
    );
    let shown = rig.owner().access_request(&request.id).await.unwrap();
    assert_eq!(shown.not_opened[0].machine, MACHINE);
}

#[tokio::test]
async fn an_approval_by_somebody_who_may_no_more_does_not_start_anything() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &in_an_hour(&rig))
        .await
        .unwrap();
    let approved = rig
        .client("bob")
        .approve_access_request(&request.id, None)
        .await
        .unwrap();
    assert_eq!(approved.grants[0].status, "scheduled");
    rig.take_away("bob", "approver").await;
    rig.advance(3600);
    rig.running.start_due().await;
    let ended = rig.client("ada").grant(&approved.grants[0].id).await.unwrap();
    let cause = ended.cause.unwrap();
    assert_eq!(cause.kind, "not_allowed");
    assert!(cause.reason.unwrap().contains("did not agree"));
}

#[tokio::test]
async fn an_approval_after_the_start_opens_at_once() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &in_an_hour(&rig))
        .await
        .unwrap();
    rig.advance(3601);
    let approved = rig
        .client("bob")
        .approve_access_request(&request.id, None)
        .await
        .unwrap();
    assert_eq!(approved.grants[0].status, "opening");
}

#[tokio::test]
async fn a_freeze_ends_what_was_scheduled_and_its_owner_may_revoke_it_before() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    rig.assign("sam", "operator", "/aws").await;
    let first = scheduled(&rig).await;
    let second = scheduled(&rig).await;
    let ada = rig.client("ada");
    let revoked = ada
        .revoke_grant(&first.grants[0].id, None, &GrantRevoke::default())
        .await
        .unwrap();
    assert_eq!(revoked.status, "closing");
    let freeze = FreezeCreate {
        scope: "/aws".into(),
        reason: "keys leaked".into(),
    };
    let frozen = rig.client("sam").create_freeze(None, &freeze).await.unwrap();
    assert_eq!(frozen.grants_ended, 1);
    let lift = FreezeLift {
        reason: "rotated".into(),
    };
    rig.client("sam")
        .lift_freeze(&frozen.freeze.id, None, &lift)
        .await
        .unwrap();
    rig.advance(3600);
    rig.running.start_due().await;
    let ended = ada.grant(&second.grants[0].id).await.unwrap();
    assert_eq!(ended.cause.unwrap().kind, "frozen");
}

#[tokio::test]
async fn an_open_grant_is_extended_within_the_policys_longest_and_only_forward() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let request = asks(&ada, MACHINE).await;
    let grant = request.grants[0].id.clone();
    assert_eq!(
        code(ada.extend_grant(&grant, None, &longer(1200)).await),
        ErrorCode::GrantNotOpen
    );
    rig.pass().await;
    opened(&rig, &grant).await;
    let before = ada.grant(&grant).await.unwrap();
    rig.advance(60);
    assert_eq!(
        code(ada.extend_grant(&grant, None, &longer(600)).await),
        ErrorCode::NotLonger
    );
    assert_eq!(
        code(ada.extend_grant(&grant, None, &longer(3601)).await),
        ErrorCode::DurationTooLong
    );
    rig.assign("dan", "requester", "/aws").await;
    assert_eq!(
        code(rig.client("dan").extend_grant(&grant, None, &longer(1200)).await),
        ErrorCode::NotTheRequester
    );
    let extended = ada
        .extend_grant(&grant, Some("once"), &longer(3600))
        .await
        .unwrap();
    assert_eq!(
        (extended.status.as_str(), extended.extends.as_deref()),
        ("approved", Some(grant.as_str()))
    );
    assert_eq!(
        extended.grants[0].ends_at,
        before.opened_at.map(|at| at + TimeDelta::seconds(3600))
    );
    assert!(extended.grants[0].not_after >= extended.grants[0].ends_at.unwrap());
    assert!(
        rig.is_due(INSTANCE_POINT).await,
        "the end stands in the rules' marks"
    );
    let events = rig.audit("grant.extend").await;
    let outcomes: Vec<_> = events.iter().map(|one| one.event.outcome.as_str()).collect();
    assert_eq!(outcomes, ["denied", "succeeded"]);
    rig.advance(3600);
    // The token of before is over, too.
    let ada = rig.client("ada");
    let again = ada
        .extend_grant(&grant, Some("once"), &longer(3600))
        .await
        .unwrap();
    assert_eq!(again.id, extended.id, "asked once, also when the grant is over");
    assert_eq!(
        code(ada.extend_grant(&grant, None, &longer(3600)).await),
        ErrorCode::GrantNotOpen
    );
}

#[tokio::test]
async fn an_extension_waits_for_whom_the_policy_asks_and_no_longer_than_the_grant() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    for who in ["ada", "bob"] {
        rig.assign(who, "approver", "/aws").await;
    }
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    let request = asks(&ada, MACHINE).await;
    let approved = bob.approve_access_request(&request.id, None).await.unwrap();
    let grant = approved.grants[0].id.clone();
    opened(&rig, &grant).await;
    let ends_at = ada.grant(&grant).await.unwrap().ends_at;
    let asked = ada.extend_grant(&grant, None, &longer(1800)).await.unwrap();
    assert_eq!((asked.status.as_str(), asked.lapses_at), ("pending", ends_at));
    assert_eq!(
        ada.grant(&grant).await.unwrap().ends_at,
        ends_at,
        "nothing moved yet"
    );
    assert_eq!(
        code(ada.approve_access_request(&asked.id, None).await),
        ErrorCode::OwnRequest
    );
    let agreed = bob.approve_access_request(&asked.id, None).await.unwrap();
    assert_eq!(agreed.grants[0].id, grant);
    assert_eq!(
        agreed.grants[0].ends_at,
        ends_at.map(|at| at + TimeDelta::seconds(1200))
    );
    let late = ada.extend_grant(&grant, None, &longer(2400)).await.unwrap();
    ada.revoke_grant(&grant, None, &GrantRevoke::default())
        .await
        .unwrap();
    assert_eq!(
        code(bob.approve_access_request(&late.id, None).await),
        ErrorCode::GrantNotOpen
    );
}

#[tokio::test]
async fn an_open_grant_is_not_extended_while_its_scope_is_frozen() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let request = asks(&ada, MACHINE).await;
    opened(&rig, &request.grants[0].id).await;
    // Not by the operation, which would end the grant: the extension itself has to look.
    freeze_unheard(&rig, "/aws").await;
    let refused = ada.extend_grant(&request.grants[0].id, None, &longer(1200)).await;
    assert_eq!(code(refused), ErrorCode::Frozen);
}

#[tokio::test]
async fn a_request_of_several_machines_wants_all_or_nothing_unless_it_says_otherwise() {
    const OTHER: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";
    let rig = Rig::start().await;
    for machine in [MACHINE, OTHER] {
        rig.discover(machine).await;
    }
    rig.owner()
        .create_jit_policy(None, &policy("ssh", "/aws", "policy"))
        .await
        .unwrap();
    rig.assign("ada", "requester", "/aws").await;
    let ada = rig.client("ada");
    for mode in [None, Some(Mode::BestEffort)] {
        let mut both = ask(MACHINE);
        both.targets.extend(ask(OTHER).targets);
        both.mode = mode;
        let made = ada.create_access_request(None, &now(), &both).await.unwrap();
        assert_eq!(made.mode, mode.unwrap_or_default());
        let grants = rig
            .store
            .grants_of_request(made.id.parse().unwrap())
            .await
            .unwrap();
        assert!(grants.iter().all(|grant| grant.together == mode.is_none()));
    }
}

#[tokio::test]
async fn whoever_approved_a_grant_ends_it_as_long_as_they_may_approve() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    for who in ["bob", "eve"] {
        rig.assign(who, "approver", "/aws").await;
    }
    let revoke = async |who: &str, grant: &str| {
        let revoke = GrantRevoke::default();
        rig.client(who).revoke_grant(grant, None, &revoke).await
    };
    let mut grants = Vec::new();
    for _ in 0..2 {
        let made = asks(&rig.client("ada"), MACHINE).await;
        let approved = rig.client("bob").approve_access_request(&made.id, None).await;
        grants.push(approved.unwrap().grants[0].id.clone());
    }
    assert_eq!(code(revoke("eve", &grants[0]).await), ErrorCode::Forbidden);
    assert_eq!(revoke("bob", &grants[0]).await.unwrap().status, "closing");
    let events = rig.audit("grant.revoke").await;
    let decision = events.last().unwrap().event.decision.clone().unwrap();
    assert!(decision["rule"].as_str().unwrap().contains("who approved it"));
    rig.take_away("bob", "approver").await;
    rig.assign("bob", "reader", "/aws").await;
    assert_eq!(code(revoke("bob", &grants[1]).await), ErrorCode::Forbidden);
}
