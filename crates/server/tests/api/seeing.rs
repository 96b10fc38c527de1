//! What everybody sees: machines, grants, the log and their own rights; of what they may read, and all of it.

use postern_api::{
    ErrorCode, access_check::AccessCheckQuery, access_request::AccessRequestCreateQuery,
    audit_event::AuditEventQuery, grant::GrantQuery, machine::MachineQuery, role::RoleAssignmentQuery,
};

use crate::rig::{Rig, ask, code};

fn now() -> AccessRequestCreateQuery {
    AccessRequestCreateQuery::default()
}

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
    let grant = ada
        .create_access_request(None, &now(), &ask(&machine))
        .await
        .unwrap()
        .grants[0]
        .id
        .clone();

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
        made.push(
            ada.create_access_request(None, &now(), &ask(&machine))
                .await
                .unwrap()
                .grants[0]
                .id
                .clone(),
        );
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
