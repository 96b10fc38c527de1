//! Freezes: what they end, what they refuse, and what races with them.

use postern_api::{
    ErrorCode,
    access_request::{AccessRequestCreateQuery, AccessRequestQuery},
    freeze::{FreezeCreate, FreezeLift, FreezeQuery},
    grant::GrantQuery,
};
use postern_core::{
    freeze::Freeze,
    grant::{EndCause, Grant, GrantState},
    time::{Clock, IdSource},
};
use postern_store::{Conflict, StoreError};

use crate::rig::{INSTANCE_POINT, MACHINE, Rig, ask, asks, code, now, policy};

mod heeded;

const ELSEWHERE: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";

fn everything_in(scope: &str) -> FreezeCreate {
    FreezeCreate {
        scope: scope.into(),
        reason: "keys leaked".into(),
    }
}

fn in_force() -> FreezeQuery {
    FreezeQuery {
        status: Some("in_force".into()),
        ..FreezeQuery::default()
    }
}

fn a_freeze(rig: &Rig, scope: &str) -> Freeze {
    let ids: &dyn IdSource = &rig.ids;
    Freeze {
        id: ids.next(rig.clock.now()),
        scope: scope.parse().unwrap(),
        reason: "keys leaked".into(),
        created_by: "user:corp/sam".parse().unwrap(),
        created_at: rig.clock.now(),
        lifted: None,
    }
}

/// A freeze that nobody was told of: not by the operation, which would end and turn down what it covers.
pub(crate) async fn freeze_unheard(rig: &Rig, scope: &str) {
    let mut tx = rig.store.begin().await.unwrap();
    tx.insert_freeze(&a_freeze(rig, scope)).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_freeze_ends_what_is_open_and_refuses_until_it_is_lifted() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    rig.discover(ELSEWHERE).await;
    rig.owner()
        .create_jit_policy(None, &policy("more", "/aws/123456789012", "policy"))
        .await
        .unwrap();
    rig.assign("sam", "operator", "/aws/123456789012/eu-west-1").await;
    rig.pass().await;
    let (ada, sam) = (rig.client("ada"), rig.client("sam"));
    for machine in [MACHINE, ELSEWHERE] {
        asks(&ada, machine).await;
    }
    rig.pass().await;
    let made = sam
        .create_freeze(None, &everything_in("/aws/123456789012/eu-west-1"))
        .await
        .unwrap();
    assert_eq!((made.grants_ended, made.requests_denied), (1, 0));
    let grants = ada.grants(&GrantQuery::default()).await.unwrap().items;
    let status = |machine: &str| {
        let grant = grants.iter().find(|grant| grant.machine == machine).unwrap();
        (grant.status.clone(), grant.cause.clone())
    };
    let (frozen, cause) = status(MACHINE);
    let cause = cause.unwrap();
    assert_eq!((frozen.as_str(), cause.kind.as_str()), ("closing", "frozen"));
    assert_eq!(cause.by.as_deref(), Some("user:corp/sam"));
    assert_eq!(cause.reason.as_deref(), Some("keys leaked"));
    assert_eq!(status(ELSEWHERE).0, "opening", "outside the scope");
    assert!(rig.is_due(INSTANCE_POINT).await);
    let ended = rig.audit("grant.end").await;
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].event.reason.as_deref(), Some("keys leaked"));
    assert_eq!(
        ended[0].event.decision.as_ref().unwrap()["freeze"],
        made.freeze.id.as_str()
    );

    let refused = ada
        .create_access_request(None, &now(), &ask(MACHINE))
        .await
        .unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!((problem.status, problem.code), (409, ErrorCode::Frozen));
    assert!(problem.detail.contains("keys leaked"), "{}", problem.detail);
    let denied = rig.audit("access_request.create").await.pop().unwrap();
    assert_eq!(denied.event.outcome.as_str(), "denied");
    let mut both = ask(ELSEWHERE);
    both.targets.extend(ask(MACHINE).targets);
    assert_eq!(
        code(ada.create_access_request(None, &now(), &both).await),
        ErrorCode::Frozen,
        "one frozen machine is enough"
    );
    let dry = AccessRequestCreateQuery {
        dry_run: Some(true),
        ..now()
    };
    assert_eq!(
        code(ada.create_access_request(None, &dry, &ask(MACHINE)).await),
        ErrorCode::Frozen
    );
    asks(&ada, ELSEWHERE).await;

    let seen = ada.freezes(&in_force()).await.unwrap().items;
    assert_eq!(
        seen,
        std::slice::from_ref(&made.freeze),
        "who is refused may see why"
    );
    let lift = FreezeLift {
        reason: "keys rotated".into(),
    };
    let lifted = sam.lift_freeze(&made.freeze.id, None, &lift).await.unwrap();
    assert_eq!(lifted.lifted.unwrap().reason, "keys rotated");
    assert_eq!(
        code(sam.lift_freeze(&made.freeze.id, None, &lift).await),
        ErrorCode::Conflict
    );
    assert!(ada.freezes(&in_force()).await.unwrap().items.is_empty());
    assert_eq!(rig.audit("freeze.lift").await.len(), 1);
    asks(&ada, MACHINE).await;
}

#[tokio::test]
async fn a_freeze_turns_down_what_waits_and_stops_approvals() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    let request = asks(&ada, &machine).await;
    let made = rig
        .owner()
        .create_freeze(None, &everything_in("/"))
        .await
        .unwrap();
    assert_eq!((made.grants_ended, made.requests_denied), (0, 1));
    let denied = ada.access_request(&request.id).await.unwrap();
    assert_eq!(denied.status, "denied");
    assert_eq!(
        denied.decision.unwrap().reason.as_deref(),
        Some("frozen: keys leaked")
    );
    assert_eq!(
        code(bob.approve_access_request(&request.id, None).await),
        ErrorCode::AlreadyDecided
    );
    assert_eq!(rig.audit("access_request.deny").await.len(), 1);
    let all = ada.access_requests(&AccessRequestQuery::default()).await.unwrap();
    assert_eq!(all.items.len(), 1, "nothing else was made");
}

#[tokio::test]
async fn only_who_may_freeze_a_scope_freezes_it_and_lifts_that() {
    let rig = Rig::start().await;
    rig.assign("sam", "operator", "/aws/123456789012").await;
    for role in ["requester", "approver", "auditor", "reader"] {
        rig.assign("eve", role, "/").await;
    }
    let (sam, eve) = (rig.client("sam"), rig.client("eve"));
    let here = everything_in("/aws/123456789012");
    assert_eq!(code(eve.create_freeze(None, &here).await), ErrorCode::Forbidden);
    assert_eq!(
        code(sam.create_freeze(None, &everything_in("/aws")).await),
        ErrorCode::Forbidden
    );
    let everywhere = rig
        .owner()
        .create_freeze(None, &everything_in("/"))
        .await
        .unwrap();
    let lift = FreezeLift {
        reason: "done".into(),
    };
    for client in [&sam, &eve] {
        assert_eq!(
            code(client.lift_freeze(&everywhere.freeze.id, None, &lift).await),
            ErrorCode::Forbidden
        );
    }
    let own = sam.create_freeze(None, &here).await.unwrap();
    let seen = sam.freezes(&FreezeQuery::default()).await.unwrap().items;
    assert_eq!(seen, [own.freeze.clone(), everywhere.freeze], "also from above");
    assert!(
        rig.client("mal")
            .freezes(&FreezeQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    sam.lift_freeze(&own.freeze.id, None, &lift).await.unwrap();
    for wrong in [everything_in("aws"), everything_in("/gcp")] {
        assert_eq!(
            code(rig.owner().create_freeze(None, &wrong).await),
            ErrorCode::InvalidScope
        );
    }
    let silent = FreezeCreate {
        reason: " ".into(),
        ..here
    };
    assert_eq!(
        code(sam.create_freeze(None, &silent).await),
        ErrorCode::InvalidReason
    );
}

#[tokio::test]
async fn a_grant_that_commits_while_a_freeze_comes_ends_with_it() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let (ada, owner) = (rig.client("ada"), rig.owner());
    asks(&ada, &machine).await;
    let made = &ada.grants(&GrantQuery::default()).await.unwrap().items[0];
    let made: Grant = rig.store.grant(made.id.parse().unwrap()).await.unwrap().unwrap();
    let ids: &dyn IdSource = &rig.ids;
    let late = Grant {
        id: ids.next(rig.clock.now()),
        ..made.clone()
    };
    // Somebody grants without having asked whether anything is frozen…
    let mut granting = rig.store.begin().await.unwrap();
    granting.insert_grants(std::slice::from_ref(&late)).await.unwrap();
    let everything = everything_in("/aws");
    let freeze = owner.create_freeze(None, &everything);
    // …and commits once the freeze is on its way.
    let grant = async {
        while !postern_store::testing::somebody_waits(&rig.store).await {
            tokio::task::yield_now().await;
        }
        granting.commit().await.unwrap();
    };
    let (frozen, ()) = tokio::join!(freeze, grant);
    assert_eq!(frozen.unwrap().grants_ended, 2);
    let late = rig.store.grant(late.id).await.unwrap().unwrap();
    let GrantState::Closing(closing) = late.state else {
        panic!("{late:?}")
    };
    assert!(matches!(closing.cause, EndCause::Frozen { .. }));
}

#[tokio::test]
async fn a_request_that_comes_while_a_freeze_commits_waits_and_is_refused() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let mut freezing = rig.store.begin().await.unwrap();
    freezing.insert_freeze(&a_freeze(&rig, "/aws")).await.unwrap();
    let (when, what) = (now(), ask(&machine));
    let request = ada.create_access_request(None, &when, &what);
    let freeze = async {
        while !postern_store::testing::somebody_waits(&rig.store).await {
            tokio::task::yield_now().await;
        }
        freezing.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(request, freeze);
    assert_eq!(code(refused), ErrorCode::Frozen);
    assert!(ada.grants(&GrantQuery::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn nothing_is_open_after_a_freeze_among_many_requests_and_approvals() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let (ada, bob, owner) = (rig.client("ada"), rig.client("bob"), rig.owner());
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let request = ada.create_access_request(None, &now(), &ask(&machine)).await;
        waiting.push(request.unwrap().id);
    }
    let everything = everything_in("/");
    let (one, two) = waiting.split_at(3);
    let approve = async |ids: &[String]| {
        for id in ids {
            match bob.approve_access_request(id, None).await {
                Ok(_) => {}
                // The freeze turned it down, or came between.
                Err(error) => assert!(matches!(
                    error.problem().unwrap().code,
                    ErrorCode::AlreadyDecided | ErrorCode::Frozen
                )),
            }
        }
    };
    let more = async {
        for _ in 0..6 {
            match ada.create_access_request(None, &now(), &ask(&machine)).await {
                Ok(_) => {}
                Err(error) => assert_eq!(error.problem().unwrap().code, ErrorCode::Frozen),
            }
        }
    };
    let freeze = owner.create_freeze(None, &everything);
    let ((), (), (), frozen) = tokio::join!(approve(one), approve(two), more, freeze);
    frozen.unwrap();
    let grants = ada.grants(&GrantQuery::default()).await.unwrap().items;
    assert!(grants.iter().all(|grant| grant.status == "closing"), "{grants:?}");
    let requests = ada.access_requests(&AccessRequestQuery::default()).await.unwrap();
    assert!(requests.items.iter().all(|request| request.status != "pending"));
}

#[tokio::test]
async fn a_grant_in_a_frozen_scope_cannot_be_written_by_anybody() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    asks(&ada, &machine).await;
    let made = &ada.grants(&GrantQuery::default()).await.unwrap().items[0];
    let made: Grant = rig.store.grant(made.id.parse().unwrap()).await.unwrap().unwrap();
    rig.owner()
        .create_freeze(None, &everything_in("/aws"))
        .await
        .unwrap();
    let ids: &dyn IdSource = &rig.ids;
    let another = Grant {
        id: ids.next(rig.clock.now()),
        ..made
    };
    let mut tx = rig.store.begin().await.unwrap();
    let refused = tx.insert_grants(&[another]).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Conflict(Conflict::Frozen(reason)) if reason == "keys leaked"),
        "{refused:?}"
    );
}
