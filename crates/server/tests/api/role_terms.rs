//! Role assignments that end, that are only for machines with certain tags, and what a dry run says of them.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use postern_api::{
    ErrorCode,
    access_request::AccessRequestCreateQuery,
    machine::MachineQuery,
    role::{GuardrailForbids, ReachOfAction, RoleAssignmentCreate, RoleAssignmentQuery},
};
use postern_core::time::Clock as _;
use serde_json::json;

use crate::rig::{Answer, MACHINE, Plan, Rig, ask, code, http, policy};

const DEV: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0aaaaaaaaaaaaaaaa";

fn assignment(principal: &str, role: &str, tags: &[(&str, &str)]) -> RoleAssignmentCreate {
    RoleAssignmentCreate {
        role: role.into(),
        principal: principal.into(),
        scope: "/aws".into(),
        tags: tags
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ends_at: None,
    }
}

/// One machine without tags, one of development.
async fn rig() -> Rig {
    let rig = Rig::start().await;
    rig.discover(MACHINE).await;
    rig.discover_with(DEV, true, &[("env", "dev")]).await;
    rig.owner()
        .create_jit_policy(None, &policy("ssh", "/aws", "policy"))
        .await
        .unwrap();
    rig.pass().await;
    rig
}

fn reach(found: &[ReachOfAction]) -> BTreeMap<&str, (usize, bool)> {
    found
        .iter()
        .map(|one| (one.action.as_str(), (one.machines, one.at_scope)))
        .collect()
}

#[tokio::test]
async fn an_assignment_counts_for_nothing_from_the_instant_of_its_end() {
    let rig = rig().await;
    let ends_at = rig.clock.now() + TimeDelta::seconds(600);
    let ending = RoleAssignmentCreate {
        ends_at: Some(ends_at),
        ..assignment("user:corp/ada", "requester", &[])
    };
    let made = rig.owner().create_role_assignment(None, &ending).await.unwrap();
    assert_eq!(made.ends_at, Some(ends_at));
    let asks = async || {
        let query = AccessRequestCreateQuery::default();
        rig.client("ada")
            .create_access_request(None, &query, &ask(MACHINE))
            .await
    };
    rig.advance(599);
    asks().await.unwrap();
    rig.advance(1);
    assert_eq!(code(asks().await), ErrorCode::Forbidden);
    let seen = rig
        .client("ada")
        .machines(&MachineQuery::default())
        .await
        .unwrap();
    assert!(seen.items.is_empty(), "nor does it show anything");
}

#[tokio::test]
async fn an_assignment_with_tags_is_for_those_machines_and_shows_those_alone() {
    let rig = rig().await;
    let dev = assignment("user:corp/ada", "requester", &[("env", "dev")]);
    rig.owner().create_role_assignment(None, &dev).await.unwrap();
    let ada = rig.client("ada");
    let query = AccessRequestCreateQuery::default();
    ada.create_access_request(None, &query, &ask(DEV)).await.unwrap();
    assert_eq!(
        code(ada.create_access_request(None, &query, &ask(MACHINE)).await),
        ErrorCode::Forbidden
    );
    let seen: Vec<String> = ada
        .machines(&MachineQuery::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|machine| machine.id)
        .collect();
    assert_eq!(seen, [DEV]);
    assert_eq!(code(ada.machine(MACHINE).await), ErrorCode::Forbidden);
    assert_eq!(
        ada.machine(DEV).await.unwrap().may_request.len(),
        1 + 1,
        "ada and the owner"
    );
    // Another account's scope does not contain the tagged one's.
    let elsewhere = RoleAssignmentCreate {
        scope: "/aws/999999999999".into(),
        ..assignment("user:corp/eve", "requester", &[("env", "dev")])
    };
    rig.owner()
        .create_role_assignment(None, &elsewhere)
        .await
        .unwrap();
    assert!(
        rig.client("eve")
            .machines(&MachineQuery::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn an_owner_for_a_while_or_of_some_machines_is_not_the_owner_who_has_to_stay() {
    let rig = Rig::start().await;
    for (who, tags, ends) in [("ada", &[][..], Some(3600)), ("bob", &[("env", "dev")][..], None)] {
        let owner = RoleAssignmentCreate {
            scope: "/".into(),
            ends_at: ends.map(|seconds| rig.clock.now() + TimeDelta::seconds(seconds)),
            ..assignment(&format!("user:corp/{who}"), "owner", tags)
        };
        rig.owner().create_role_assignment(None, &owner).await.unwrap();
    }
    let query = RoleAssignmentQuery {
        principal: Some("me".into()),
        ..RoleAssignmentQuery::default()
    };
    let own = rig.owner().role_assignments(&query).await.unwrap().items;
    assert_eq!(
        code(rig.owner().delete_role_assignment(&own[0].id).await),
        ErrorCode::LastOwner
    );
}

#[tokio::test]
async fn terms_that_could_never_hold_are_refused_with_their_place() {
    let rig = Rig::start().await;
    for (change, pointer) in [
        (json!({ "ends_at": rig.clock.now() }), "/ends_at"),
        (json!({ "tags": { "": "x" } }), "/tags"),
        (json!({ "tags": { "env": "x".repeat(257) } }), "/tags"),
    ] {
        let mut body = json!({ "role": "reader", "principal": "user:corp/ada", "scope": "/" });
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let answer = http()
            .post(rig.url("/v1/role-assignments"))
            .bearer_auth(rig.token(crate::rig::OWNER))
            .json(&body)
            .send()
            .await
            .unwrap();
        let problem = Answer::of(answer).await.problem();
        assert_eq!(
            (problem.code, problem.errors[0].pointer.as_str()),
            (ErrorCode::InvalidAssignment, pointer)
        );
    }
}

#[tokio::test]
async fn a_dry_run_says_what_is_gained_and_makes_nothing() {
    let rig = rig().await;
    let reader = assignment("user:corp/ada", "reader", &[]);
    rig.owner().create_role_assignment(None, &reader).await.unwrap();
    let all = assignment("user:corp/ada", "requester", &[]);
    let plan = rig.owner().plan_create_role_assignment(&all).await.unwrap();
    assert!(plan.dry_run && plan.loses.is_empty());
    assert_eq!(
        reach(&plan.gains),
        [("request", (2, true))].into(),
        "reading ada does already"
    );
    let dev = assignment("user:corp/ada", "requester", &[("env", "dev")]);
    let plan = rig.owner().plan_create_role_assignment(&dev).await.unwrap();
    assert_eq!(reach(&plan.gains), [("request", (1, false))].into());
    assert_eq!(plan.gains[0].examples, [DEV]);
    let query = RoleAssignmentQuery {
        principal: Some("user:corp/ada".into()),
        ..RoleAssignmentQuery::default()
    };
    assert_eq!(rig.owner().role_assignments(&query).await.unwrap().items.len(), 1);
    assert_eq!(rig.audit("role_assignment.dry_run").await.len(), 2);
}

#[tokio::test]
async fn a_dry_run_of_a_removal_says_what_is_lost_and_removes_nothing() {
    let rig = rig().await;
    let dev = assignment("user:corp/ada", "reader", &[("env", "dev")]);
    rig.owner().create_role_assignment(None, &dev).await.unwrap();
    let all = assignment("user:corp/ada", "requester", &[]);
    let made = rig.owner().create_role_assignment(None, &all).await.unwrap();
    let plan = rig.owner().plan_delete_role_assignment(&made.id).await.unwrap();
    assert!(plan.gains.is_empty());
    assert_eq!(
        reach(&plan.loses),
        [("read", (1, true)), ("request", (2, true))].into(),
        "the machine of development stays readable"
    );
    rig.owner().plan_delete_role_assignment(&made.id).await.unwrap();
}

#[tokio::test]
async fn whoever_may_not_assign_is_told_nothing_by_a_dry_run() {
    let rig = rig().await;
    rig.assign("ada", "operator", "/").await;
    let asked = assignment("user:corp/ada", "owner", &[]);
    assert_eq!(
        code(rig.client("ada").plan_create_role_assignment(&asked).await),
        ErrorCode::Forbidden
    );
}

#[tokio::test]
async fn a_dry_run_tells_what_guardrails_forbid_whatever_is_asked_and_what_they_may() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("frozen") @message("Machines of development are not for asking.")
            forbid (principal, action == Action::"request", resource)
            when { resource.hasTag("env") && resource.getTag("env") == "dev" };
            @id("mfa") forbid (principal, action in [Action::"request", Action::"approve"], resource)
            unless { principal.mfa };
            @id("bob") forbid (principal == User::"corp/bob", action, resource);
            @id("sre") forbid (principal in Group::"corp/sre", action == Action::"request", resource);
        "#,
        ..Plan::default()
    })
    .await;
    rig.discover(MACHINE).await;
    rig.discover_with(DEV, true, &[("env", "dev")]).await;
    let said = async |principal: &str| {
        let asked = assignment(principal, "requester", &[]);
        let plan = rig.owner().plan_create_role_assignment(&asked).await.unwrap();
        plan.gains
            .into_iter()
            .map(|reach| {
                let guardrails = reach
                    .guardrails
                    .iter()
                    .map(|one| format!("{} {} {}", one.id, one.always, one.at_times));
                (
                    reach.action.clone(),
                    (
                        reach.at_scope,
                        reach.machines,
                        reach.forbidden,
                        guardrails.collect::<Vec<_>>().join(", "),
                    ),
                )
            })
            .collect::<BTreeMap<_, _>>()
    };
    let ada = said("user:corp/ada").await;
    assert_eq!(ada["read"], (true, 2, 0, String::new()));
    // Which groups she is in her token says.
    assert_eq!(
        ada["request"],
        (true, 1, 1, "frozen 1 0, mfa 0 1, sre 0 1".to_owned())
    );
    let bob = said("user:corp/bob").await;
    assert_eq!(bob["read"], (false, 0, 2, "bob 2 0".to_owned()));
    let sre = said("group:corp/sre").await;
    assert_eq!(sre["request"].2, 2);
    assert!(sre["request"].3.contains("sre 2 0"), "{sre:?}");
    let reach = rig
        .owner()
        .plan_create_role_assignment(&assignment("user:corp/ada", "requester", &[]))
        .await
        .unwrap();
    let request = reach.gains.iter().find(|one| one.action == "request").unwrap();
    assert_eq!(request.examples, [MACHINE]);
    assert_eq!(
        request.guardrails[0].message.as_deref(),
        Some("Machines of development are not for asking.")
    );
}

#[tokio::test]
async fn a_dry_run_tells_what_is_forbidden_everywhere_and_names_machines_to_their_readers() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("nobody-asks") forbid (principal, action == Action::"request", resource);
            @id("dev-policies") forbid (principal, action == Action::"configure", resource)
            when { resource.hasTag("env") && resource.getTag("env") == "dev" };
        "#,
        ..Plan::default()
    })
    .await;
    let elsewhere = RoleAssignmentCreate {
        scope: "/azure".into(),
        ..assignment("user:corp/ada", "requester", &[])
    };
    let plan = rig.owner().plan_create_role_assignment(&elsewhere).await.unwrap();
    let request = plan.gains.iter().find(|one| one.action == "request").unwrap();
    assert_eq!(
        (request.at_scope, request.machines, request.forbidden),
        (false, 0, 0)
    );
    assert_eq!(request.guardrails[0].at_scope, Some(GuardrailForbids::Always));

    rig.discover_with(DEV, true, &[("env", "dev")]).await;
    let owner = assignment("user:corp/ada", "owner", &[]);
    let plan = rig.owner().plan_create_role_assignment(&owner).await.unwrap();
    let configure = plan.gains.iter().find(|one| one.action == "configure").unwrap();
    // What is about no machine has no tags, be it at a machine's scope.
    assert_eq!((configure.machines, configure.forbidden), (1, 0));
    assert_eq!(configure.examples, [DEV]);
    let [guardrail] = &configure.guardrails[..] else {
        panic!("{configure:?}")
    };
    assert_eq!(guardrail.at_scope, Some(GuardrailForbids::AtTimes));
    assert_eq!((guardrail.always, guardrail.at_times), (0, 0));

    let assigner = serde_json::from_value(json!({ "name": "assigner", "actions": ["assign"] })).unwrap();
    rig.owner().create_role(None, &assigner).await.unwrap();
    rig.assign("eve", "assigner", "/aws").await;
    let plan = rig
        .client("eve")
        .plan_create_role_assignment(&assignment("user:corp/ada", "reader", &[]))
        .await
        .unwrap();
    assert_eq!((plan.gains[0].machines, plan.gains[0].examples.len()), (1, 0));
}

#[tokio::test]
async fn a_dry_run_neither_replays_nor_takes_an_idempotency_key() {
    let rig = Rig::start().await;
    let send = async |path: &str, principal: &str| {
        let sent = http()
            .post(rig.url(path))
            .bearer_auth(rig.token(crate::rig::OWNER))
            .header("idempotency-key", "one")
            .json(&assignment(principal, "reader", &[]))
            .send()
            .await
            .unwrap();
        let status = sent.status().as_u16();
        let body: serde_json::Value = sent.json().await.unwrap();
        (status, body["dry_run"] == json!(true))
    };
    let (make, plan) = ("/v1/role-assignments", "/v1/role-assignments?dry_run=true");
    assert_eq!(send(plan, "user:corp/bob").await, (200, true));
    assert_eq!(send(make, "user:corp/ada").await, (201, false), "the key is free");
    assert_eq!(
        send(plan, "user:corp/ada").await,
        (409, false),
        "it is there already"
    );
    assert_eq!(send(plan, "user:corp/bob").await, (200, true), "of another");
    assert_eq!(send(make, "user:corp/ada").await, (201, false), "made once");
    assert_eq!(rig.audit("role_assignment.dry_run").await.len(), 2);
}
