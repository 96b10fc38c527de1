//! Who may decide on a request, and who may see what.

use postern_api::{
    ErrorCode, access_request::AccessRequestQuery, audit_event::AuditEventQuery, grant::GrantQuery,
    jit_policy::JitPolicyQuery,
};
use serde_json::{Value, json};

use crate::rig::{MACHINE, Plan, Rig, ask, asks, code, now, policy};

const OTHER: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";

/// A client of a program's.
fn program(rig: &Rig, subject: &str) -> postern_api::Client {
    let mut claims = rig.claims(subject);
    claims["idtyp"] = json!("app");
    rig.client(subject).with_token(rig.key.sign(&claims))
}

#[tokio::test]
async fn a_program_approves_nothing_and_nobody_approves_their_own_in_another_guise() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    for (principal, role) in [
        ("workload:corp/ada", "requester"),
        ("workload:corp/bot", "approver"),
        ("user:corp/ada", "approver"),
        ("user:corp/bob", "approver"),
    ] {
        rig.assign_to(principal, role, "/aws").await;
    }
    let request = program(&rig, "ada")
        .create_access_request(None, &now(), &ask(&machine))
        .await
        .unwrap();
    assert_eq!(request.requester, "workload:corp/ada");
    let approve = async |client: postern_api::Client| client.approve_access_request(&request.id, None).await;
    assert_eq!(code(approve(rig.client("ada")).await), ErrorCode::OwnRequest);
    assert_eq!(code(approve(program(&rig, "bot")).await), ErrorCode::NotAPerson);
    let refused = rig.audit("access_request.approve").await;
    let rules: Vec<_> = refused
        .iter()
        .map(|stored| stored.event.decision.clone().unwrap()["rule"].clone())
        .collect();
    assert_eq!(
        rules,
        [
            json!("a request is not approved by who made it"),
            json!("a request is approved by a person, and `workload:corp/bot` is none"),
        ]
    );
    assert_eq!(approve(rig.client("bob")).await.unwrap().status, "approved");
}

#[tokio::test]
async fn a_request_is_not_approved_after_its_requester_lost_the_role() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let bob = rig.client("bob");
    let request = asks(&rig.client("ada"), &machine).await;
    rig.take_away("ada", "requester").await;

    let refused = bob.approve_access_request(&request.id, None).await.unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!(
        (problem.status, problem.code),
        (422, ErrorCode::RequesterNotAllowed)
    );
    assert!(problem.detail.contains("user:corp/ada"), "{}", problem.detail);
    let events = rig.audit("access_request.approve").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.outcome.as_str(), "denied");
    assert_eq!(
        events[0].event.decision.as_ref().unwrap()["missing"]["action"],
        "request"
    );
    assert_eq!(bob.access_request(&request.id).await.unwrap().status, "pending");

    rig.assign("ada", "requester", "/aws").await;
    bob.approve_access_request(&request.id, None).await.unwrap();
    let events = rig.audit("access_request.approve").await;
    let decision = events[1].event.decision.as_ref().unwrap();
    assert_eq!(decision["authorization"]["allowed_by"][0]["role"], "approver");
    assert_eq!(decision["requester"]["allowed_by"][0]["role"], "requester");
}

#[tokio::test]
async fn a_request_is_not_approved_where_a_guardrail_forbids_it_by_then() {
    let rig = Rig::with(Plan {
        guardrails: r#"@id("office-hours") forbid (principal, action == Action::"request", resource)
                       when { context.hour >= 20 };"#,
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "approver", "/aws").await;
    let request = asks(&rig.client("ada"), &machine).await;
    rig.advance(20 * 3600);
    let refused = rig
        .client("bob")
        .approve_access_request(&request.id, None)
        .await
        .unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!(problem.code, ErrorCode::RequesterNotAllowed);
    assert!(problem.detail.contains("office-hours"), "{}", problem.detail);
}

#[tokio::test]
async fn who_may_read_one_machine_of_a_request_learns_nothing_of_the_others() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    rig.discover(OTHER).await;
    rig.owner()
        .create_jit_policy(None, &policy("more", "/aws/123456789012", "policy"))
        .await
        .unwrap();
    let mut both = ask(MACHINE);
    both.targets.extend(ask(OTHER).targets);
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &both)
        .await
        .unwrap();
    rig.assign("eve", "reader", "/aws/123456789012/eu-west-1").await;
    let eve = rig.client("eve");
    assert_eq!(code(eve.access_request(&request.id).await), ErrorCode::NotFound);
    let query = AccessRequestQuery::default();
    assert!(eve.access_requests(&query).await.unwrap().items.is_empty());
    assert_eq!(
        eve.grants(&GrantQuery::default()).await.unwrap().items.len(),
        1,
        "hers to read"
    );
    rig.assign("eve", "reader", "/aws/123456789012/eu-central-1")
        .await;
    assert_eq!(eve.access_request(&request.id).await.unwrap().targets.len(), 2);
    assert_eq!(eve.access_requests(&query).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn lists_leave_out_what_a_guardrail_forbids_and_keep_ones_own() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("no-prod") forbid (principal, action == Action::"read", resource)
            when { resource.hasTag("env") && resource.getTag("env") == "prod" }
            unless { principal.subject == "root" };
            @id("no-policies") forbid (principal, action == Action::"read", resource)
            when { resource.kind == "jit_policy" } unless { principal.subject == "root" };
            @id("no-aws-log") forbid (principal, action == Action::"audit", resource)
            when { resource.path like "/aws/*" } unless { principal.subject == "root" };
        "#,
        ..Plan::default()
    })
    .await;
    rig.discover_with(MACHINE, true, &[("env", "prod")]).await;
    rig.discover_with(OTHER, true, &[("env", "test")]).await;
    rig.owner()
        .create_jit_policy(None, &policy("ssh", "/aws", "policy"))
        .await
        .unwrap();
    for (subject, role) in [("ada", "requester"), ("eve", "reader"), ("eve", "auditor")] {
        rig.assign(subject, role, "/").await;
    }
    let ada = rig.client("ada");
    for machine in [MACHINE, OTHER] {
        asks(&ada, machine).await;
    }
    let count = async |who: &str| {
        let client = rig.client(who);
        let requests = client
            .access_requests(&AccessRequestQuery::default())
            .await
            .unwrap();
        let grants = client.grants(&GrantQuery::default()).await.unwrap();
        let policies = client.jit_policies(&JitPolicyQuery::default()).await.unwrap();
        (requests.items.len(), grants.items.len(), policies.items.len())
    };
    assert_eq!(count("root").await, (2, 2, 1));
    assert_eq!(count("ada").await, (2, 2, 0), "her own");
    assert_eq!(count("eve").await, (1, 1, 0), "not those of production");
    let log = rig
        .client("eve")
        .audit_events(&AuditEventQuery::default())
        .await
        .unwrap();
    let scopes: Vec<Value> = log
        .items
        .iter()
        .map(|event| json!(event)["scope"].clone())
        .collect();
    assert!(!scopes.is_empty());
    assert!(
        scopes
            .iter()
            .all(|scope| !scope.as_str().unwrap().starts_with("/aws/")),
        "{scopes:?}"
    );
}
