//! The story: lock down, ask, decide, see, end; and who may not.

use postern_api::{
    ErrorCode,
    access_request::{AccessRequestCreateQuery, AccessRequestDeny, AccessRequestQuery},
    audit_event::AuditEventQuery,
    grant::{GrantQuery, GrantRevoke},
};
use postern_core::grant::Live;
use serde_json::json;

use crate::rig::{GROUP_POINT, INSTANCE_POINT, MACHINE, Rig, ask, asks, code, now, policy};

#[tokio::test]
async fn a_policy_covers_its_machines_and_wakes_the_loop() {
    let rig = Rig::start().await;
    rig.discover(MACHINE).await;
    let owner = rig.owner();
    assert!(!rig.is_due(GROUP_POINT).await);
    let made = owner
        .create_jit_policy(None, &policy("ssh", "/aws", "policy"))
        .await
        .unwrap();
    assert!(rig.is_due(GROUP_POINT).await);
    let machine = owner.machine(MACHINE).await.unwrap();
    assert_eq!(machine.machine.posture.state, "configured");
    assert_eq!(machine.policy.unwrap().id, made.id);
    let points: Vec<_> = machine
        .points
        .iter()
        .map(|p| (p.point.as_str(), p.opens, p.locks))
        .collect();
    assert_eq!(
        points,
        [(INSTANCE_POINT, true, false), (GROUP_POINT, false, true)]
    );
    let events = rig.audit("jit_policy.create").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.details["after"]["name"], "ssh");
    assert_eq!(
        events[0].event.decision.as_ref().unwrap()["allowed_by"][0]["role"],
        "owner"
    );
}

#[tokio::test]
async fn a_request_within_the_policy_is_granted_and_says_what_decided_it() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let request = asks(&ada, &machine).await;
    assert_eq!(request.status, "approved");
    assert_eq!(request.decision.unwrap().by, "policy");
    let grant = &request.grants[0];
    assert_eq!((grant.status.as_str(), grant.hops.len()), ("opening", 1));
    assert_eq!(
        (grant.hops[0].point.as_str(), grant.hops[0].state.as_str()),
        (INSTANCE_POINT, "absent")
    );
    assert!(grant.truth.starts_with("not open yet"), "{}", grant.truth);
    let deadline = grant.open_deadline.unwrap();
    assert_eq!((deadline - grant.created_at).num_seconds(), 300);
    assert_eq!((grant.not_after - deadline).num_seconds(), 600);
    assert!(rig.is_due(INSTANCE_POINT).await);

    let asked = rig.audit("access_request.create").await;
    assert_eq!(asked[0].event.reason.as_deref(), Some("disk full"));
    assert_eq!(
        asked[0].event.decision.as_ref().unwrap()["allowed_by"][0]["role"],
        "requester"
    );
    let approved = rig.audit("access_request.approve").await;
    assert_eq!(
        approved[0].event.decision.as_ref().unwrap()["by"]["kind"],
        "policy"
    );
    assert_eq!(approved[0].event.subject.grant.unwrap().to_string(), grant.id);
}

#[tokio::test]
async fn a_denial_names_what_is_missing_and_stands_in_the_log() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let eve = rig.client("eve");
    let error = eve
        .create_access_request(None, &now(), &ask(&machine))
        .await
        .unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.code, problem.status), (ErrorCode::Forbidden, 403));
    assert!(
        problem.detail.contains("`request`") && problem.detail.contains("requester"),
        "{}",
        problem.detail
    );
    let events = rig.audit("access_request.create").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.outcome.as_str(), "denied");
    assert_eq!(
        events[0].event.decision.as_ref().unwrap()["missing"]["action"],
        "request"
    );
    assert!(
        rig.owner()
            .access_requests(&AccessRequestQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(
        code(eve.create_jit_policy(None, &policy("p", "/", "policy")).await),
        ErrorCode::Forbidden
    );
    assert_eq!(
        code(eve.audit_events(&AuditEventQuery::default()).await),
        ErrorCode::Forbidden
    );
}

#[tokio::test]
async fn a_dry_run_answers_and_makes_nothing() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery {
        dry_run: Some(true),
        wait: None,
    };
    let dry = ada
        .create_access_request(Some("k"), &query, &ask(&machine))
        .await
        .unwrap();
    assert!(dry.dry_run && dry.status == "pending" && dry.grants.is_empty());
    assert_eq!(dry.awaits.len(), 1);
    assert_eq!(
        (dry.awaits[0].policy_name.as_str(), dry.awaits[0].needs),
        ("ssh", 1)
    );
    assert_eq!(code(ada.access_request(&dry.id).await), ErrorCode::NotFound);
    assert_eq!(rig.audit("access_request.dry_run").await.len(), 1);
    let real = ada
        .create_access_request(Some("k"), &now(), &ask(&machine))
        .await
        .unwrap();
    assert_eq!(real.status, "pending", "the key was not used up");
}

#[tokio::test]
async fn one_other_person_approves_and_two_at_once_make_one_set_of_grants() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    rig.assign("eve", "approver", "/aws").await;
    rig.assign("ada", "approver", "/aws").await;
    let (ada, bob, eve) = (rig.client("ada"), rig.client("bob"), rig.client("eve"));
    let request = asks(&ada, &machine).await;
    assert_eq!(request.status, "pending");
    assert!(!rig.is_due(INSTANCE_POINT).await);
    assert_eq!(
        code(ada.approve_access_request(&request.id, None).await),
        ErrorCode::OwnRequest
    );
    let denied = rig.audit("access_request.approve").await;
    assert_eq!(denied[0].event.outcome.as_str(), "denied");
    let (one, two) = tokio::join!(
        bob.approve_access_request(&request.id, None),
        eve.approve_access_request(&request.id, None)
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    assert_eq!(won.unwrap().grants.len(), 1);
    assert_eq!(code(lost), ErrorCode::AlreadyDecided);
    assert_eq!(ada.grants(&GrantQuery::default()).await.unwrap().items.len(), 1);
    let shown = ada.access_request(&request.id).await.unwrap();
    assert!(shown.decision.unwrap().by.starts_with("user:corp/"));
}

#[tokio::test]
async fn requests_are_denied_withdrawn_and_lapse() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    let create = async || asks(&ada, &machine).await.id;

    let denied = create().await;
    let no = AccessRequestDeny {
        reason: "not today".into(),
    };
    assert_eq!(
        code(ada.deny_access_request(&denied, None, &no).await),
        ErrorCode::Forbidden
    );
    let shown = bob.deny_access_request(&denied, None, &no).await.unwrap();
    assert_eq!(shown.decision.unwrap().reason.as_deref(), Some("not today"));
    let seen = ada.access_request(&denied).await.unwrap();
    assert_eq!((seen.status.as_str(), seen.grants.len()), ("denied", 0));
    assert_eq!(
        seen.decision.unwrap().reason.as_deref(),
        Some("not today"),
        "whoever asked learns why"
    );
    let told = rig.audit("access_request.deny").await.pop().unwrap().event;
    assert_eq!(
        told.reason.as_deref(),
        Some("not today"),
        "and whoever subscribed"
    );
    assert_eq!(
        code(bob.approve_access_request(&denied, None).await),
        ErrorCode::AlreadyDecided
    );
    let empty = AccessRequestDeny { reason: " ".into() };
    assert_eq!(
        code(bob.deny_access_request(&denied, None, &empty).await),
        ErrorCode::InvalidReason
    );

    let withdrawn = create().await;
    assert_eq!(
        code(bob.withdraw_access_request(&withdrawn, None).await),
        ErrorCode::NotTheRequester
    );
    assert_eq!(
        ada.withdraw_access_request(&withdrawn, None)
            .await
            .unwrap()
            .status,
        "withdrawn"
    );

    let lapsed = create().await;
    rig.advance(24 * 3600);
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    assert_eq!(
        code(bob.approve_access_request(&lapsed, None).await),
        ErrorCode::RequestLapsed
    );
    assert_eq!(ada.access_request(&lapsed).await.unwrap().status, "lapsed");
    assert!(ada.grants(&GrantQuery::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn approval_holds_the_request_against_the_policies_as_they_are_then() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let request = asks(&rig.client("ada"), &machine).await;
    let owner = rig.owner();
    let covering = rig.only_policy().await.id;
    let mut narrower = policy("ssh", "/aws", "one");
    narrower.guards[0].allowed_sources = vec!["198.51.100.0/24".into()];
    owner.update_jit_policy(&covering, 1, &narrower).await.unwrap();
    let refused = rig.client("bob").approve_access_request(&request.id, None).await;
    assert_eq!(code(refused), ErrorCode::SourceNotAllowed);
}

#[tokio::test]
async fn a_grant_is_ended_by_whose_it_is_or_by_who_may_revoke() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    rig.assign("bob", "operator", "/aws").await;
    let (ada, bob, eve) = (rig.client("ada"), rig.client("bob"), rig.client("eve"));
    let mut grants = Vec::new();
    for _ in 0..2 {
        let request = asks(&ada, &machine).await;
        grants.push(request.grants[0].id.clone());
    }
    rig.pass().await;
    assert!(!rig.is_due(INSTANCE_POINT).await);
    let because = GrantRevoke {
        reason: Some("done".into()),
    };
    assert_eq!(
        code(eve.revoke_grant(&grants[0], None, &because).await),
        ErrorCode::NotFound
    );
    let mine = ada.revoke_grant(&grants[0], None, &because).await.unwrap();
    assert_eq!(mine.status, "closing");
    assert!(rig.is_due(INSTANCE_POINT).await, "the loop is woken");
    let cause = mine.cause.unwrap();
    assert_eq!(
        (cause.kind.as_str(), cause.by.as_deref()),
        ("revoked", Some("user:corp/ada"))
    );
    let again = ada.revoke_grant(&grants[0], None, &because).await.unwrap();
    assert_eq!(again.ended_at, mine.ended_at, "ending twice is ending once");
    bob.revoke_grant(&grants[1], None, &GrantRevoke::default())
        .await
        .unwrap();
    let events = rig.audit("grant.revoke").await;
    let outcomes: Vec<&str> = events.iter().map(|event| event.event.outcome.as_str()).collect();
    assert_eq!(outcomes, ["denied", "succeeded", "succeeded"]);
    assert_eq!(
        events[2].event.decision.as_ref().unwrap()["allowed_by"][0]["role"],
        "operator"
    );
}

#[tokio::test]
async fn removing_a_policy_ends_its_grants_and_uncovers_its_machines() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let (ada, owner) = (rig.client("ada"), rig.owner());
    let grant = asks(&ada, &machine).await.grants[0].id.clone();
    let covering = rig.only_policy().await.id;
    rig.pass().await;
    owner.delete_jit_policy(&covering, 1).await.unwrap();
    assert!(rig.is_due(INSTANCE_POINT).await && rig.is_due(GROUP_POINT).await);
    let ended = ada.grant(&grant).await.unwrap();
    assert_eq!(ended.status, "closing");
    assert_eq!(ended.cause.unwrap().kind, "policy_removed");
    let uncovered = owner.machine(&machine).await.unwrap();
    assert!(uncovered.policy.is_none() && uncovered.machine.posture.state != "configured");
    let deleted = rig.audit("jit_policy.delete").await;
    assert_eq!(deleted[0].event.details["effect"]["grants_ended"], json!([grant]));
    assert_eq!(rig.audit("grant.end").await.len(), 1);
}

#[tokio::test]
async fn narrowing_a_policy_ends_only_the_grants_that_it_no_longer_allows() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let (ada, owner) = (rig.client("ada"), rig.owner());
    let create = async |source: &str| {
        let mut request = ask(&machine);
        request.targets[0].sources = Some(vec![source.into()]);
        ada.create_access_request(None, &now(), &request)
            .await
            .unwrap()
            .grants[0]
            .id
            .clone()
    };
    let (kept, lost) = (create("203.0.113.7").await, create("203.0.113.200").await);
    let covering = rig.only_policy().await.id;
    let mut narrower = policy("ssh", "/aws", "policy");
    narrower.guards[0].allowed_sources = vec!["203.0.113.0/25".into()];
    narrower.guards[0].max_duration_seconds = 60;
    owner.update_jit_policy(&covering, 1, &narrower).await.unwrap();
    assert_eq!(ada.grant(&kept).await.unwrap().status, "opening");
    assert_eq!(ada.grant(&lost).await.unwrap().status, "closing");
}

#[tokio::test]
async fn a_waiting_request_is_answered_when_its_grants_are_open() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery {
        wait: Some(60),
        dry_run: None,
    };
    let opener = async {
        loop {
            let filter = postern_store::GrantFilter {
                visible: postern_store::Visible::everything(),
                ..Default::default()
            };
            let page = rig.store.grants(&filter, None, 1).await.unwrap();
            let Some(grant) = page.items.into_iter().next() else {
                tokio::task::yield_now().await;
                continue;
            };
            let Live::Opening(opening) = grant.live().unwrap() else {
                panic!("nobody else opens it")
            };
            let mut tx = rig.store.begin().await.unwrap();
            tx.save_grants(&[opening
                .confirm_open(postern_core::time::Clock::now(&rig.clock))
                .into()])
                .await
                .unwrap();
            tx.commit().await.unwrap();
            break;
        }
    };
    let request = ask(&machine);
    let (answer, ()) = tokio::join!(ada.create_access_request(Some("ci"), &query, &request), opener);
    let answer = answer.unwrap();
    assert_eq!(answer.grants[0].status, "open");
    let again = ada
        .create_access_request(Some("ci"), &query, &request)
        .await
        .unwrap();
    assert_eq!(
        (again.id, again.grants[0].status.as_str()),
        (answer.id, "open"),
        "a repetition tells how it stands now"
    );
}
