//! What a hostile requester, approver, reader or job tries, and what two servers and a leaping clock could be used for.

use std::collections::BTreeSet;

use postern_api::{
    ErrorCode,
    access_request::AccessRequestDeny,
    freeze::FreezeCreate,
    grant::GrantRevoke,
    jit_policy::JitPolicyWrite,
    lease::LeaseWaitQuery,
    review::{BreakGlassQuery, ReviewClose, ReviewQuery},
    role::{RoleAssignmentCreate, RoleCreate},
};
use serde_json::{Value, json};

use crate::{
    leases::{a_lease, lease},
    rig::{Answer, MACHINE, Plan, Rig, ask, asks, code, http, now, policy},
};

const OTHER: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";

fn note() -> ReviewClose {
    ReviewClose {
        note: "looked at".into(),
    }
}

/// What somebody is told, without what differs with every answer.
async fn told(rig: &Rig, subject: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let is_get = method == reqwest::Method::GET;
    let mut request = http()
        .request(method, rig.url(path))
        .bearer_auth(rig.token(subject));
    if !is_get {
        request = request.json(body);
    }
    let answer = Answer::of(request.send().await.unwrap()).await;
    let mut problem: Value = serde_json::from_str(&answer.body).unwrap();
    for field in ["instance", "request_id"] {
        problem.as_object_mut().unwrap().remove(field);
    }
    (answer.status, problem)
}

/// The id with its last digit changed.
fn another(id: &str) -> String {
    let (rest, last) = id.split_at(id.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

#[tokio::test]
async fn nobody_closes_the_review_of_their_own_use_under_another_name_of_theirs() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["issuers"][0]["claims"]["extra"] = json!(["email"])),
        ..Plan::default()
    })
    .await;
    rig.ready_for_requests("one").await;
    rig.on_call("/").await;
    rig.assign("ada-admin", "approver", "/").await;
    rig.assign("ADA", "approver", "/").await;
    rig.assign("bob", "approver", "/").await;
    let client = |subject: &str, email: &str| {
        let mut claims = rig.claims(subject);
        claims["email"] = json!(email);
        rig.client(subject).with_token(rig.key.sign(&claims))
    };
    let ada = client("ada", "ada@example.com");
    ada.break_glass(None, &BreakGlassQuery::default(), &ask(MACHINE))
        .await
        .unwrap();
    let review = ada
        .reviews(&ReviewQuery::default())
        .await
        .unwrap()
        .items
        .remove(0);
    for (subject, email) in [("ada-admin", "Ada@example.com"), ("ADA", "a@example.com")] {
        let closed = client(subject, email)
            .close_review(&review.id, None, &note())
            .await;
        assert_eq!(code(closed), ErrorCode::OwnRequest, "{subject}");
    }
    let bob = client("bob", "bob@example.com");
    bob.close_review(&review.id, None, &note()).await.unwrap();
}

#[tokio::test]
async fn guardrails_see_the_tags_of_the_machines_of_a_review() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("no-prod-reading") forbid (principal, action == Action::"read", resource)
            when { resource.hasTag("env") && resource.getTag("env") == "prod" }
            unless { principal.subject == "root" || principal.subject == "ada" };
            @id("no-prod-approving") forbid (principal, action == Action::"approve", resource)
            when { resource.hasTag("env") && resource.getTag("env") == "prod" && principal.subject == "bob" };
        "#,
        ..Plan::default()
    })
    .await;
    rig.discover_with(MACHINE, true, &[("env", "prod")]).await;
    rig.owner()
        .create_jit_policy(None, &policy("ssh", "/aws", "one"))
        .await
        .unwrap();
    rig.pass().await;
    rig.on_call("/").await;
    rig.assign("bob", "approver", "/").await;
    rig.assign("eve", "reader", "/").await;
    let ada = rig.client("ada");
    ada.break_glass(None, &BreakGlassQuery::default(), &ask(MACHINE))
        .await
        .unwrap();
    let seen = async |who: &str| {
        let reviews = rig.client(who).reviews(&ReviewQuery::default()).await.unwrap();
        reviews.items
    };
    assert_eq!(seen("root").await.len(), 1);
    assert_eq!(seen("eve").await.len(), 0, "she may read nothing of production");
    let review = seen("ada").await.remove(0);
    let closed = rig.client("bob").close_review(&review.id, None, &note()).await;
    assert!(closed.is_err(), "he may approve nothing of production");
    rig.owner().close_review(&review.id, None, &note()).await.unwrap();
}

#[tokio::test]
async fn a_request_lapses_at_the_earliest_time_of_its_policies_also_where_one_says_none() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["limits"]["pending_seconds"] = json!(600)),
        ..Plan::default()
    })
    .await;
    for machine in [MACHINE, OTHER] {
        rig.discover(machine).await;
    }
    let usual = policy("usual", "/aws/123456789012/eu-west-1", "one");
    let patient = JitPolicyWrite {
        pending_for_seconds: Some(86_400),
        ..policy("patient", "/aws/123456789012/eu-central-1", "one")
    };
    for policy in [usual, patient] {
        rig.owner().create_jit_policy(None, &policy).await.unwrap();
    }
    rig.assign("ada", "requester", "/aws").await;
    rig.assign("bob", "approver", "/aws").await;
    let mut both = ask(MACHINE);
    both.targets.extend(ask(OTHER).targets);
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &both)
        .await
        .unwrap();
    rig.advance(601);
    assert_eq!(
        code(rig.client("bob").approve_access_request(&request.id, None).await),
        ErrorCode::RequestLapsed
    );
}

#[tokio::test]
async fn an_id_tells_a_stranger_nothing() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.on_call("/").await;
    rig.assign("bob", "approver", "/aws").await;
    rig.assign("mal", "requester", "/azure").await;
    let ada = rig.client("ada");
    let pending = asks(&ada, MACHINE).await.id;
    let decided = asks(&ada, MACHINE).await.id;
    let no = AccessRequestDeny { reason: "no".into() };
    rig.client("bob")
        .deny_access_request(&decided, None, &no)
        .await
        .unwrap();
    let broken = ada
        .break_glass(None, &BreakGlassQuery::default(), &ask(MACHINE))
        .await
        .unwrap();
    let grant = broken.grants[0].id.clone();
    let review = ada.reviews(&ReviewQuery::default()).await.unwrap().items[0]
        .id
        .clone();
    let held = lease(&ada, MACHINE, "run-1").await.id;
    let everything = FreezeCreate {
        scope: "/aws/123456789012/eu-west-1".into(),
        reason: "drill".into(),
    };
    let freeze = rig
        .owner()
        .create_freeze(None, &everything)
        .await
        .unwrap()
        .freeze
        .id;

    let mut calls = Vec::new();
    for id in [&pending, &decided] {
        calls.push(("GET", "/v1/access-requests/{}", id, json!({})));
        calls.push(("POST", "/v1/access-requests/{}/approve", id, json!({})));
        calls.push((
            "POST",
            "/v1/access-requests/{}/deny",
            id,
            json!({ "reason": "no" }),
        ));
        calls.push(("POST", "/v1/access-requests/{}/withdraw", id, json!({})));
    }
    calls.push(("GET", "/v1/grants/{}", &grant, json!({})));
    calls.push(("POST", "/v1/grants/{}/revoke", &grant, json!({ "reason": "no" })));
    calls.push(("GET", "/v1/leases/{}", &held, json!({})));
    calls.push(("POST", "/v1/leases/{}/heartbeat", &held, json!({})));
    calls.push(("POST", "/v1/leases/{}/release", &held, json!({})));
    calls.push(("POST", "/v1/reviews/{}/close", &review, json!({ "note": "ok" })));
    calls.push(("POST", "/v1/freezes/{}/lift", &freeze, json!({ "reason": "ok" })));
    let mut talkative = Vec::new();
    for (method, path, id, body) in calls {
        let there = told(&rig, "mal", method, &path.replace("{}", id), &body).await;
        let nowhere = told(&rig, "mal", method, &path.replace("{}", &another(id)), &body).await;
        if there != nowhere {
            talkative.push(format!("{method} {path}: {there:?}, and without it {nowhere:?}"));
        }
    }
    assert_eq!(talkative, Vec::<String>::new());
    let denied = rig.audit("access_request.approve").await;
    let by_mal = denied
        .iter()
        .filter(|stored| json!(stored.event.actor).to_string().contains("user:corp/mal"));
    assert!(by_mal.count() > 0, "the log has the attempts all the same");
}

#[tokio::test]
async fn a_stage_asks_for_a_role_that_there_is_and_that_may_approve() {
    let rig = Rig::start().await;
    let owner = rig.owner();
    for (name, action) in [("duty", "approve"), ("onlooker", "read")] {
        let role = RoleCreate {
            name: name.into(),
            actions: [action.to_owned()].into(),
        };
        owner.create_role(None, &role).await.unwrap();
    }
    let staged = |role: &str| {
        let mut document = policy("ssh", "/aws", "policy");
        document.approval =
            serde_json::from_value(json!({ "stages": [{ "needs": 1 }, { "needs": 1, "role": role }] }))
                .unwrap();
        document
    };
    for role in ["aprover", "onlooker", "reader"] {
        let refused = owner.create_jit_policy(None, &staged(role)).await.unwrap_err();
        let problem = refused.problem().unwrap();
        assert_eq!(problem.code, ErrorCode::InvalidPolicy, "{role}");
        assert!(problem.detail.contains(role), "{}", problem.detail);
    }
    let made = owner.create_jit_policy(None, &staged("duty")).await.unwrap();
    let worse = owner
        .update_jit_policy(&made.id, made.version, &staged("aprover"))
        .await;
    assert_eq!(code(worse), ErrorCode::InvalidPolicy);
    assert_eq!(
        code(owner.delete_role("duty").await),
        ErrorCode::Conflict,
        "a policy waits for somebody who has it"
    );
    owner
        .update_jit_policy(&made.id, made.version, &staged("approver"))
        .await
        .unwrap();
    owner.delete_role("duty").await.unwrap();
}

#[tokio::test]
async fn what_a_released_lease_waited_for_is_never_granted_whatever_a_clock_says() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let ada = rig.client("ada");
    let held = lease(&ada, MACHINE, "run-1").await;
    // This server's clock is a day ahead, and the request lapsed by it.
    rig.advance(25 * 3600);
    rig.client("ada").release_lease(&held.id).await.unwrap();
    rig.advance(-25 * 3600);
    let approved = rig
        .client("bob")
        .approve_access_request(&held.request.id, None)
        .await;
    assert_eq!(code(approved), ErrorCode::AlreadyDecided);
}

#[tokio::test]
async fn a_release_that_takes_a_request_back_says_so_in_the_log() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    let ada = rig.client("ada");
    let held = lease(&ada, MACHINE, "run-1").await;
    ada.release_lease(&held.id).await.unwrap();
    assert_eq!(
        ada.access_request(&held.request.id).await.unwrap().status,
        "withdrawn"
    );
    let told = rig.audit("access_request.withdraw").await;
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].event.subject.request.unwrap().to_string(),
        held.request.id
    );
    assert_eq!(
        told[0].event.subject.machine.as_ref().unwrap().to_string(),
        MACHINE
    );
}

#[tokio::test]
async fn a_requester_cannot_fill_the_server_with_requests_that_wait() {
    let rig = Rig::start().await;
    rig.ready_for_requests("one").await;
    rig.assign("bob", "requester", "/aws").await;
    let ada = rig.client("ada");
    let mut made = Vec::new();
    let refused = loop {
        match ada.create_access_request(None, &now(), &ask(MACHINE)).await {
            Ok(request) => made.push(request.id),
            Err(refused) => break refused,
        }
        assert!(made.len() < 300, "more wait than anybody could decide on");
    };
    assert_eq!(refused.problem().unwrap().code, ErrorCode::TooManyPending);
    asks(&rig.client("bob"), MACHINE).await;
    ada.withdraw_access_request(&made[0], None).await.unwrap();
    asks(&ada, MACHINE).await;
}

#[tokio::test]
async fn a_key_of_one_principal_is_nothing_to_another() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    rig.assign("bob", "requester", "/aws").await;
    let program = RoleAssignmentCreate {
        role: "requester".into(),
        principal: "workload:corp/ada".into(),
        scope: "/aws".into(),
        ..RoleAssignmentCreate::default()
    };
    rig.owner().create_role_assignment(None, &program).await.unwrap();
    let mut claims = rig.claims("ada");
    claims["idtyp"] = json!("app");
    let bot = rig.client("ada").with_token(rig.key.sign(&claims));
    let mut seen = BTreeSet::new();
    for client in [rig.client("ada"), rig.client("bob"), bot] {
        let mine = client
            .create_lease(
                Some("run-1"),
                &LeaseWaitQuery::default(),
                &a_lease(MACHINE, Some("run-1")),
            )
            .await
            .unwrap();
        assert!(seen.insert(mine.request.id));
        let other = client
            .create_access_request(Some("run-1"), &now(), &ask(MACHINE))
            .await;
        assert_eq!(code(other), ErrorCode::IdempotencyKeyReused);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_release_and_a_revocation_at_the_same_instant_end_a_grant_once() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    for round in 0..8 {
        let held = lease(&ada, MACHINE, &format!("run-{round}")).await;
        let grant = held.request.grants[0].id.clone();
        let body = GrantRevoke { reason: None };
        let at_once = LeaseWaitQuery::default();
        let (released, revoked, heard) = tokio::join!(
            ada.release_lease(&held.id),
            ada.revoke_grant(&grant, None, &body),
            ada.heartbeat_lease(&held.id, &at_once),
        );
        assert!(released.is_ok() && revoked.is_ok(), "{released:?} {revoked:?}");
        if let Err(error) = heard {
            assert_eq!(error.problem().unwrap().code, ErrorCode::LeaseEnded);
        }
        let log = rig.audit("grant.").await;
        let ends = log.iter().filter(|stored| {
            stored
                .event
                .subject
                .grant
                .is_some_and(|id| id.to_string() == grant)
        });
        assert_eq!(ends.count(), 1, "one end, told once");
    }
}
