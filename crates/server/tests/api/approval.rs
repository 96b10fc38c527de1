//! Approval by stages: who counts, how often, for how much, and for how long it is waited.

use postern_api::{
    ErrorCode,
    access_request::{AccessRequest, AccessRequestApprove, Target},
    jit_policy::{Approval, JitPolicyQuery, JitPolicyWrite},
    role::RoleCreate,
};
use serde_json::{Value, json};

use crate::rig::{MACHINE, Rig, ask, asks, code, now, policy};

const OTHER: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";

fn staged(stages: &Value) -> JitPolicyWrite {
    let mut document = policy("ssh", "/aws", "policy");
    document.approval = serde_json::from_value(json!({ "stages": stages })).unwrap();
    document
}

/// A machine under a policy with these stages; ada asks, and the others may approve.
async fn ready(stages: &Value, approvers: &[&str]) -> (Rig, AccessRequest) {
    let rig = Rig::start().await;
    let request = ready_in(&rig, stages, approvers).await;
    (rig, request)
}

/// The same, in a rig that stands already.
async fn ready_in(rig: &Rig, stages: &Value, approvers: &[&str]) -> AccessRequest {
    rig.discover(MACHINE).await;
    rig.owner()
        .create_jit_policy(None, &staged(stages))
        .await
        .unwrap();
    rig.assign("ada", "requester", "/aws").await;
    for approver in approvers {
        rig.assign(approver, "approver", "/aws").await;
    }
    let request = asks(&rig.client("ada"), MACHINE).await;
    assert_eq!(request.status, "pending");
    request
}

/// A client of somebody in these groups.
fn member(rig: &Rig, subject: &str, groups: &[&str]) -> postern_api::Client {
    let mut claims = rig.claims(subject);
    claims["groups"] = json!(groups);
    rig.client(subject).with_token(rig.key.sign(&claims))
}

#[tokio::test]
async fn stages_follow_each_other_and_the_last_word_makes_the_grant() {
    let stages = json!([
        { "needs": 2 },
        { "needs": 1, "approvers": ["group:corp/security"], "role": "owner" },
    ]);
    let (rig, request) = ready(&stages, &["bob", "eve", "liz", "joe"]).await;
    assert_eq!(
        (
            request.awaits[0].stage,
            request.awaits[0].of,
            request.awaits[0].needs
        ),
        (1, 2, 2)
    );
    let created = rig.audit("access_request.create").await;
    assert_eq!(created[0].event.details["awaits"][0]["policy_name"], "ssh");
    let liz = member(&rig, "liz", &["security"]);

    let first = rig
        .client("bob")
        .approve_access_request(&request.id, None)
        .await
        .unwrap();
    assert_eq!((first.status.as_str(), first.awaits[0].have), ("pending", 1));
    assert_eq!(
        code(rig.client("bob").approve_access_request(&request.id, None).await),
        ErrorCode::AlreadyAgreed
    );
    let second = rig
        .client("eve")
        .approve_access_request(&request.id, None)
        .await
        .unwrap();
    assert_eq!(second.awaits[0].stage, 2);
    assert_eq!(second.awaits[0].approvers, ["group:corp/security"]);
    assert!(second.grants.is_empty());

    let refused = rig.client("joe").approve_access_request(&request.id, None).await;
    let problem = refused.unwrap_err().problem().unwrap().clone();
    assert_eq!(problem.code, ErrorCode::NotAnApprover);
    assert!(
        problem.detail.contains("group:corp/security") && problem.detail.contains("`owner`"),
        "{}",
        problem.detail
    );
    let last = liz.approve_access_request(&request.id, None).await.unwrap();
    assert_eq!((last.status.as_str(), last.grants.len()), ("approved", 1));
    assert_eq!(last.decision.unwrap().by, "user:corp/liz");
    let said: Vec<&str> = last.agreements.iter().map(|one| one.by.as_str()).collect();
    assert_eq!(said, ["user:corp/bob", "user:corp/eve", "user:corp/liz"]);

    let agreed = rig.audit("access_request.agree").await;
    assert_eq!(agreed.len(), 2);
    assert_eq!(agreed[0].event.details["awaits"][0]["have"], 1);
    assert_eq!(
        agreed[0].event.decision.as_ref().unwrap()["allowed_by"][0]["role"],
        "approver"
    );
    let outcomes: Vec<_> = rig
        .audit("access_request.approve")
        .await
        .iter()
        .map(|stored| stored.event.outcome.as_str())
        .collect();
    assert_eq!(outcomes, ["denied", "succeeded"]);
}

#[tokio::test]
async fn a_role_counts_where_the_stage_names_it() {
    let rig = Rig::start().await;
    let role: RoleCreate = serde_json::from_value(json!({ "name": "duty", "actions": ["approve"] })).unwrap();
    rig.owner().create_role(None, &role).await.unwrap();
    let request = ready_in(&rig, &json!([{ "needs": 1, "role": "duty" }]), &["bob"]).await;
    rig.assign("eve", "duty", "/aws").await;
    let approve = async |who: &str| rig.client(who).approve_access_request(&request.id, None).await;
    assert_eq!(code(approve("bob").await), ErrorCode::NotAnApprover);
    assert_eq!(approve("eve").await.unwrap().status, "approved");
}

#[tokio::test]
async fn a_person_counts_in_a_second_stage_only_where_it_says_so() {
    for again in [false, true] {
        let stages = json!([{ "needs": 1 }, { "needs": 1, "again": again }]);
        let (rig, request) = ready(&stages, &["bob"]).await;
        let bob = rig.client("bob");
        bob.approve_access_request(&request.id, None).await.unwrap();
        let second = bob.approve_access_request(&request.id, None).await;
        if again {
            assert_eq!(second.unwrap().status, "approved");
        } else {
            assert_eq!(code(second), ErrorCode::AlreadyAgreed);
        }
    }
}

#[tokio::test]
async fn two_last_words_at_the_same_instant_make_one_grant() {
    let (rig, request) = ready(&json!([{ "needs": 2 }]), &["bob", "eve", "joe"]).await;
    let approve = async |who: &str| rig.client(who).approve_access_request(&request.id, None).await;
    approve("bob").await.unwrap();
    let (eve, joe) = tokio::join!(approve("eve"), approve("joe"));
    let (won, lost): (Vec<_>, Vec<_>) = [eve, joe].into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_eq!(code(lost.into_iter().next().unwrap()), ErrorCode::AlreadyDecided);
    let shown = rig.client("ada").access_request(&request.id).await.unwrap();
    assert_eq!((shown.grants.len(), shown.agreements.len()), (1, 2));
}

#[tokio::test]
async fn an_agreement_of_somebody_whose_role_was_taken_counts_no_more() {
    let (rig, request) = ready(&json!([{ "needs": 2 }]), &["bob", "eve", "joe"]).await;
    let approve = async |who: &str| rig.client(who).approve_access_request(&request.id, None).await;
    approve("bob").await.unwrap();
    rig.take_away("bob", "approver").await;
    let shown = approve("eve").await.unwrap();
    assert_eq!((shown.status.as_str(), shown.awaits[0].have), ("pending", 1));
    assert_eq!(approve("joe").await.unwrap().status, "approved");
}

#[tokio::test]
async fn an_approver_narrows_a_request_and_never_widens_it() {
    let rig = Rig::start().await;
    for machine in [MACHINE, OTHER] {
        rig.discover(machine).await;
    }
    rig.owner()
        .create_jit_policy(None, &staged(&json!([{ "needs": 1 }])))
        .await
        .unwrap();
    rig.assign("ada", "requester", "/aws").await;
    rig.assign("bob", "approver", "/aws").await;
    rig.assign("eve", "approver", "/aws/123456789012/eu-west-1").await;
    let mut both = ask(MACHINE);
    both.targets[0].sources = Some(vec!["203.0.113.0/28".into()]);
    both.targets.extend(ask(OTHER).targets);
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &both)
        .await
        .unwrap();
    let target = |source: &str| Target {
        machine: MACHINE.into(),
        ports: vec!["22".into()],
        sources: vec![source.into()],
    };
    let to = |seconds: i64, targets: Vec<Target>| AccessRequestApprove {
        duration_seconds: Some(seconds),
        targets: Some(targets),
        comment: Some("one host is enough".into()),
    };
    let approve = async |who: &str, approve: AccessRequestApprove| {
        rig.client(who)
            .approve_access_request_for(&request.id, None, &approve)
            .await
    };
    for wider in [
        to(601, vec![target("203.0.113.7")]),
        to(60, vec![target("203.0.113.0/24")]),
        to(
            60,
            vec![Target {
                ports: vec!["22-23".into()],
                ..target("203.0.113.7")
            }],
        ),
    ] {
        assert_eq!(code(approve("bob", wider).await), ErrorCode::WiderThanAsked);
    }
    assert_eq!(
        code(approve("bob", to(60, vec![])).await),
        ErrorCode::InvalidTargets
    );
    assert_eq!(
        code(approve("eve", to(60, vec![target("203.0.113.7")])).await),
        ErrorCode::NotFound,
        "leaving the other machine out is a decision on it"
    );
    let shown = approve("bob", to(60, vec![target("203.0.113.7")])).await.unwrap();
    assert_eq!((shown.grants.len(), shown.duration_seconds), (1, 60));
    assert_eq!(shown.grants[0].sources, ["203.0.113.7/32"]);
    assert!(shown.agreements[0].narrowed);
    assert_eq!(shown.agreements[0].comment.as_deref(), Some("one host is enough"));
}

#[tokio::test]
async fn a_request_under_two_policies_waits_for_both() {
    let rig = Rig::start().await;
    for machine in [MACHINE, OTHER] {
        rig.discover(machine).await;
    }
    let owner = rig.owner();
    let bobs = json!([{ "needs": 1, "approvers": ["user:corp/bob"] }]);
    owner.create_jit_policy(None, &staged(&bobs)).await.unwrap();
    let mut eves = policy("central", "/aws/123456789012/eu-central-1", "policy");
    eves.approval =
        serde_json::from_value(json!({ "stages": [{ "needs": 1, "approvers": ["user:corp/eve"] }] }))
            .unwrap();
    owner.create_jit_policy(None, &eves).await.unwrap();
    rig.assign("ada", "requester", "/aws").await;
    for approver in ["bob", "eve"] {
        rig.assign(approver, "approver", "/aws").await;
    }
    let mut both = ask(MACHINE);
    both.targets.extend(ask(OTHER).targets);
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &both)
        .await
        .unwrap();
    assert_eq!(request.awaits.len(), 2);
    let approve = async |who: &str| rig.client(who).approve_access_request(&request.id, None).await;
    let first = approve("eve").await.unwrap();
    assert_eq!(first.awaits.len(), 1);
    assert_eq!(first.awaits[0].policy_name, "ssh");
    assert_eq!(approve("bob").await.unwrap().grants.len(), 2);
}

#[tokio::test]
async fn a_request_waits_as_long_as_its_policy_says() {
    let rig = Rig::start().await;
    rig.discover(MACHINE).await;
    let mut document = staged(&json!([{ "needs": 1 }]));
    document.pending_for_seconds = Some(120);
    let made = rig.owner().create_jit_policy(None, &document).await.unwrap();
    assert_eq!(made.pending_for_seconds, Some(120));
    rig.assign("ada", "requester", "/aws").await;
    rig.assign("bob", "approver", "/aws").await;
    let ada = rig.client("ada");
    let request = asks(&ada, MACHINE).await;
    assert_eq!(
        (request.lapses_at.unwrap() - request.created_at).num_seconds(),
        120
    );
    rig.advance(120);
    assert_eq!(
        code(rig.client("bob").approve_access_request(&request.id, None).await),
        ErrorCode::RequestLapsed
    );
    let shown = ada.access_request(&request.id).await.unwrap();
    assert_eq!((shown.status.as_str(), shown.awaits.len()), ("lapsed", 0));
}

#[tokio::test]
async fn the_requester_does_not_count_for_a_group_they_are_in_nor_under_another_name() {
    let stages = json!([{ "needs": 1, "approvers": ["group:corp/security"] }]);
    let (rig, _) = ready(&stages, &["ada", "ada2"]).await;
    let ada = member(&rig, "ada", &["security"]);
    let request = asks(&ada, MACHINE).await;
    assert_eq!(
        code(ada.approve_access_request(&request.id, None).await),
        ErrorCode::OwnRequest
    );
    let capital = member(&rig, "ADA", &["security"]);
    rig.assign("ADA", "approver", "/aws").await;
    assert_eq!(
        code(capital.approve_access_request(&request.id, None).await),
        ErrorCode::OwnRequest
    );
}

#[tokio::test]
async fn an_approval_that_nobody_could_give_is_refused_and_the_words_stay() {
    let rig = Rig::start().await;
    let owner = rig.owner();
    for (stages, at) in [
        (json!([]), "/approval/stages"),
        (json!([{ "needs": 0 }]), "/approval/stages/0/needs"),
        (
            json!([{ "needs": 1, "approvers": ["workload:ci/bot"] }]),
            "/approval/stages/0/approvers",
        ),
    ] {
        let refused = owner.create_jit_policy(None, &staged(&stages)).await.unwrap_err();
        let problem = refused.problem().unwrap();
        assert_eq!(problem.code, ErrorCode::InvalidPolicy);
        assert!(json!(problem).to_string().contains(at), "{problem:?}");
    }
    owner
        .create_jit_policy(None, &policy("ssh", "/aws", "one"))
        .await
        .unwrap();
    let all = owner.jit_policies(&JitPolicyQuery::default()).await.unwrap();
    assert_eq!(all.items[0].approval, Approval::One);
}
