//! What everybody sees: machines, grants, the log and their own rights; of what they may read, and all of it.

use postern_api::{
    ErrorCode,
    access_check::{AccessCheckQuery, Assumed},
    audit_event::AuditEventQuery,
    grant::GrantQuery,
    machine::MachineQuery,
    role::RoleAssignmentQuery,
};

use postern_core::time::Clock as _;
use serde_json::json;

use crate::rig::{Plan, Rig, asks, code};

#[tokio::test]
async fn everybody_sees_what_they_may_and_no_more() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let azure = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/web";
    rig.discover_with(azure, false, &[("env", "prod")]).await;
    rig.assign("bob", "reader", "/azure").await;
    rig.assign("carol", "auditor", "/aws").await;
    let (ada, bob, carol, owner) = (
        rig.client("ada"),
        rig.client("bob"),
        rig.client("carol"),
        rig.owner(),
    );
    let grant = asks(&ada, &machine).await.grants[0].id.clone();

    let names = async |client: &postern_api::Client, query: MachineQuery| {
        let page = client.machines(&query).await.unwrap();
        page.items
            .into_iter()
            .map(|machine| machine.cloud)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&owner, MachineQuery::default()).await, ["azure", "aws"]);
    assert_eq!(names(&ada, MachineQuery::default()).await, ["aws"]);
    assert_eq!(names(&bob, MachineQuery::default()).await, ["azure"]);
    assert!(
        names(&rig.client("eve"), MachineQuery::default())
            .await
            .is_empty()
    );
    let tagged = MachineQuery {
        tag: Some("env=prod".into()),
        ..Default::default()
    };
    assert_eq!(names(&owner, tagged).await, ["azure"]);
    let cloud = MachineQuery {
        cloud: Some("aws".into()),
        ..Default::default()
    };
    assert_eq!(names(&owner, cloud).await, ["aws"]);
    let posture = MachineQuery {
        posture: Some("not_applicable".into()),
        ..Default::default()
    };
    assert_eq!(names(&owner, posture).await, ["azure"]);
    assert_eq!(owner.machine(azure).await.unwrap().machine.tags["env"], "prod");

    assert!(bob.grants(&GrantQuery::default()).await.unwrap().items.is_empty());
    assert_eq!(code(bob.grant(&grant).await), ErrorCode::NotFound);
    assert_eq!(code(bob.machine(&machine).await), ErrorCode::Forbidden);
    assert_eq!(carol.grants(&GrantQuery::default()).await.unwrap().items.len(), 1);
    let own = RoleAssignmentQuery {
        principal: Some("me".into()),
        ..Default::default()
    };
    assert_eq!(bob.role_assignments(&own).await.unwrap().items.len(), 1);

    let page = carol.audit_events(&AuditEventQuery::default()).await.unwrap();
    assert!(!page.items.is_empty());
    assert!(
        page.items.iter().all(|event| event.scope.starts_with("/aws")),
        "{page:?}"
    );
    let of_grant = AuditEventQuery {
        grant: Some(grant),
        order: Some("asc".into()),
        ..Default::default()
    };
    let actions: Vec<String> = owner
        .audit_events(&of_grant)
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|event| event.action)
        .collect();
    assert_eq!(
        actions,
        ["access_request.approve", "grant.read"],
        "the denied look stands there too"
    );
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(asks(&ada, &machine).await.grants[0].id.clone());
    }
    let mut seen = Vec::new();
    let mut query = GrantQuery {
        limit: Some(2),
        ..Default::default()
    };
    loop {
        let page = ada.grants(&query).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|grant| grant.id));
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, made);
}

#[tokio::test]
async fn the_access_check_explains_and_is_not_for_the_curious() {
    let rig = Rig::start().await;
    rig.ready_for_requests("policy").await;
    let query = |principal: Option<&str>, action: &str| AccessCheckQuery {
        principal: principal.map(str::to_owned),
        action: Some(action.into()),
        scope: Some("/aws/123456789012".into()),
        ..AccessCheckQuery::default()
    };
    let ada = rig.client("ada");
    let own = ada.access_check(&query(None, "request")).await.unwrap();
    assert!(
        own.allowed && own.explanation.contains("requester"),
        "{}",
        own.explanation
    );
    let missing = ada.access_check(&query(None, "revoke")).await.unwrap();
    assert!(
        !missing.allowed && missing.explanation.contains("operator"),
        "{}",
        missing.explanation
    );
    let curious = ada.access_check(&query(Some("user:corp/root"), "assign")).await;
    assert_eq!(code(curious), ErrorCode::Forbidden);
    let other = rig
        .owner()
        .access_check(&query(Some("user:corp/ada"), "request"))
        .await
        .unwrap();
    assert!(other.allowed && other.principal == "user:corp/ada");
}

#[tokio::test]
async fn about_somebody_elses_groups_and_claims_the_access_check_takes_an_assumption_and_repeats_it() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| config["issuers"][0]["claims"]["extra"] = json!(["risk"])),
        guardrails: r#"
            @id("careful") forbid (principal is User, action == Action::"request", resource)
            unless { principal.mfa && principal has authenticated_at && principal.hasTag("risk") &&
                     principal.getTag("risk") == "low" };
        "#,
        ..Plan::default()
    })
    .await;
    rig.assign_to("group:corp/db", "requester", "/aws").await;
    rig.assign("eve", "auditor", "/aws").await;
    let named = AccessCheckQuery {
        principal: Some("user:corp/ada".into()),
        action: Some("request".into()),
        scope: Some("/aws/123456789012".into()),
        ..AccessCheckQuery::default()
    };
    let eve = rig.client("eve");
    let by_name = eve.access_check(&named).await.unwrap();
    assert!(
        !by_name.allowed
            && by_name
                .explanation
                .contains("no role assignment of user:corp/ada ")
    );
    assert_eq!(
        by_name.assumed,
        Some(Assumed::default()),
        "nothing is known of a group"
    );

    let token = AccessCheckQuery {
        groups: vec!["team/a, b&c".into(), "group:corp/db".into()],
        mfa: Some(true),
        authenticated_at: Some(rig.clock.now()),
        claims: vec!["risk=low".into()],
        ..named.clone()
    };
    let assumed = eve.access_check(&token).await.unwrap();
    assert!(assumed.allowed, "{}", assumed.explanation);
    let repeated = assumed.assumed.unwrap();
    assert_eq!(repeated.groups, ["db", "team/a, b&c"].map(str::to_owned).into());
    assert_eq!(
        (repeated.mfa, repeated.authenticated_at),
        (true, Some(rig.clock.now()))
    );
    assert_eq!(repeated.claims["risk"], "low");
    let risky = AccessCheckQuery {
        claims: vec!["risk=high".into()],
        ..token.clone()
    };
    assert!(!eve.access_check(&risky).await.unwrap().allowed);
    let written = rig.audit("access.check").await;
    assert_eq!(
        written.last().unwrap().event.details["assumed"]["groups"][0],
        "db"
    );

    // Of oneself it is a question about a token that is not there, and not for everybody.
    let ada = rig.client("ada");
    for principal in [None, Some("user:corp/ada".to_owned())] {
        let mine = AccessCheckQuery {
            principal,
            ..token.clone()
        };
        assert_eq!(code(ada.access_check(&mine).await), ErrorCode::Forbidden);
    }
    let mine = AccessCheckQuery {
        principal: None,
        ..named.clone()
    };
    assert_eq!(
        ada.access_check(&mine).await.unwrap().assumed,
        None,
        "her token says who she is"
    );
    assert_eq!(
        eve.access_check(&AccessCheckQuery {
            principal: None,
            ..token.clone()
        })
        .await
        .unwrap()
        .principal,
        "user:corp/eve"
    );
    for wrong in [
        AccessCheckQuery {
            groups: vec!["group:partner/db".into()],
            ..named.clone()
        },
        AccessCheckQuery {
            claims: vec!["email=ada@example.com".into()],
            ..named.clone()
        },
        AccessCheckQuery {
            groups: vec!["x".repeat(256)],
            ..named.clone()
        },
    ] {
        assert_eq!(code(eve.access_check(&wrong).await), ErrorCode::InvalidQuery);
        // Who may not ask is not told which claims there are.
        assert_eq!(code(ada.access_check(&wrong).await), ErrorCode::Forbidden);
    }
}
