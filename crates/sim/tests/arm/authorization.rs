//! Microsoft.Authorization on the ARM simulator: what lists have, and what is refused.

use postern_sim::arm::{ArmHandle, ArmOptions, Denial, RoleGrant};
use serde_json::{Value, json};

use crate::client::{Answer, Client, SUBSCRIPTION};
use crate::started::start;

const ADA: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const SRE: &str = "bbbbbbbb-0000-4000-8000-000000000001";
const PLATFORM: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const READER: &str = "acdd72a7-3385-48ef-bd42-f606fba81ae7";
const NAME: &str = "11111111-2222-4333-8444-555555555555";

async fn with_a_group() -> (ArmHandle, Client) {
    let (sim, client) = start(ArmOptions::default()).await;
    sim.fleet().group().unwrap();
    (sim, client)
}

fn subscription() -> String {
    format!("/subscriptions/{SUBSCRIPTION}")
}

fn path(scope: &str, kind: &str, rest: &str) -> String {
    format!("{scope}/providers/Microsoft.Authorization/{kind}{rest}")
}

fn give(sim: &ArmHandle, scope: &str, principal: &str) -> String {
    let grant = RoleGrant {
        scope: scope.to_owned(),
        role: "Reader".to_owned(),
        principal: principal.to_owned(),
        condition: None,
    };
    sim.assign(&grant).unwrap()
}

async fn list(client: &Client, scope: &str, kind: &str, filter: &str) -> Answer {
    let filter = filter.replace(' ', "%20").replace('\'', "%27");
    let filter = if filter.is_empty() {
        filter
    } else {
        format!("&$filter={filter}")
    };
    client
        .get(&path(scope, kind, &format!("?api-version=2022-04-01{filter}")))
        .await
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut ids: Vec<String> = answer.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

fn sorted(ids: &[&String]) -> Vec<String> {
    let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn filters_choose_by_scope_and_by_principal_through_groups() {
    let (sim, client) = with_a_group().await;
    sim.put_in_group(PLATFORM, SRE);
    sim.put_in_group(SRE, ADA);
    sim.place_under(SUBSCRIPTION, &["corp"]);
    let group = format!("{}/resourceGroups/fleet", subscription());
    let (root, above) = (
        give(&sim, "/", ADA),
        give(
            &sim,
            "/providers/Microsoft.Management/managementGroups/corp",
            PLATFORM,
        ),
    );
    give(
        &sim,
        "/providers/Microsoft.Management/managementGroups/other",
        ADA,
    );
    let (here, theirs, below) = (
        give(&sim, &subscription(), SRE),
        give(&sim, &subscription(), "cccccccc-0000-4000-8000-000000000001"),
        give(&sim, &group, ADA),
    );
    for (filter, expected) in [
        ("", sorted(&[&root, &above, &here, &theirs, &below])),
        ("atScope()", sorted(&[&root, &above, &here, &theirs])),
        (
            &format!("atScope() and assignedTo('{ADA}')"),
            sorted(&[&root, &above, &here]),
        ),
        (
            &format!("assignedTo('{}')", ADA.to_uppercase()),
            sorted(&[&root, &above, &here, &below]),
        ),
        (&format!("principalId eq '{ADA}'"), sorted(&[&root, &below])),
        (&format!("principalId eq '{SRE}'"), sorted(&[&here])),
        (&format!("assignedTo('{SRE}')"), Vec::new()),
    ] {
        let answer = list(&client, &subscription(), "roleAssignments", filter).await;
        assert_eq!(ids(&answer), expected, "{filter}");
    }
    let machine = format!("{group}/providers/Microsoft.Compute/virtualMachines/web");
    let answer = list(&client, &machine, "roleAssignments", "atScope()").await;
    assert_eq!(ids(&answer), sorted(&[&root, &above, &here, &theirs, &below]));
}

#[tokio::test]
async fn other_filters_are_refused_as_azure_refuses_them() {
    let (_sim, client) = with_a_group().await;
    for filter in [
        "principalId",
        "assignedTo()",
        "atScope() and principalId eq 'x'",
        "principalId eq 'x' and roleDefinitionId eq 'y'",
        "atScope() or assignedTo('x')",
    ] {
        let answer = list(&client, &subscription(), "roleAssignments", filter).await;
        answer.refused(400, "UnsupportedQuery");
    }
}

#[tokio::test]
async fn a_version_is_demanded_and_must_be_one_of_the_types() {
    let (sim, client) = with_a_group().await;
    client
        .get(&path(&subscription(), "roleAssignments", "?x=1"))
        .await
        .refused(400, "MissingApiVersionParameter");
    client
        .get(&path(
            &subscription(),
            "roleAssignments",
            "?api-version=2024-05-01",
        ))
        .await
        .refused(404, "InvalidResourceType");
    let grant = RoleGrant {
        scope: subscription(),
        role: READER.to_owned(),
        principal: ADA.to_owned(),
        condition: Some("true".to_owned()),
    };
    sim.assign(&grant).unwrap();
    for (version, shown) in [("2015-07-01", Value::Null), ("2022-04-01", json!("true"))] {
        let answer = client
            .get(&path(
                &subscription(),
                "roleAssignments",
                &format!("?api-version={version}"),
            ))
            .await;
        assert_eq!(
            answer.body["value"][0]["properties"]["condition"], shown,
            "{version}"
        );
    }
}

#[tokio::test]
async fn assignments_are_written_once_and_not_turned_into_others() {
    let (_sim, client) = with_a_group().await;
    let at = |name: &str| {
        path(
            &subscription(),
            "roleAssignments",
            &format!("/{name}?api-version=2022-04-01"),
        )
    };
    let body = |role: &str, principal: &str| {
        let role = path(&subscription(), "roleDefinitions", &format!("/{role}"));
        json!({ "properties": { "roleDefinitionId": role, "principalId": principal } })
    };
    client.get(&at(NAME)).await.refused(404, "RoleAssignmentNotFound");
    let made = client.put(&at(NAME), body(READER, ADA)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(client.put(&at(NAME), body(READER, ADA)).await.status, 200);
    let again = "11111111-2222-4333-8444-666666666666";
    client
        .put(&at(again), body(READER, ADA))
        .await
        .refused(409, "RoleAssignmentExists");
    client
        .put(&at(NAME), body(READER, SRE))
        .await
        .refused(403, "RoleAssignmentUpdateNotPermitted");
    client
        .put(&at(again), body(READER, "ada"))
        .await
        .refused(400, "InvalidPrincipalId");
    client
        .put(&at("again"), body(READER, SRE))
        .await
        .refused(400, "InvalidRoleAssignmentId");
    client
        .put(&at(again), body(NAME, SRE))
        .await
        .refused(404, "RoleDefinitionDoesNotExist");
    assert_eq!(client.delete(&at(NAME)).await.status, 200);
    assert_eq!(client.delete(&at(NAME)).await.status, 204);
}

#[tokio::test]
async fn definitions_are_seen_where_they_may_be_assigned() {
    let (_sim, client) = with_a_group().await;
    let at = |scope: &str, name: &str| {
        path(
            scope,
            "roleDefinitions",
            &format!("/{name}?api-version=2022-04-01"),
        )
    };
    let reader = client.get(&at(&subscription(), READER)).await;
    assert_eq!(
        reader.body["properties"]["permissions"][0]["actions"],
        json!(["*/read"])
    );
    assert_eq!(reader.body["properties"]["type"], "BuiltInRole");
    let custom = json!({ "properties": {
        "roleName": "JIT", "assignableScopes": ["/providers/Microsoft.Management/managementGroups/other"],
        "permissions": [{ "actions": ["Microsoft.Compute/*"], "notActions": [] }],
    } });
    assert_eq!(client.put(&at("", NAME), custom).await.status, 201);
    client
        .get(&at(&subscription(), NAME))
        .await
        .refused(404, "RoleDefinitionDoesNotExist");
}

#[tokio::test]
async fn deny_assignments_are_azures_own() {
    let (sim, client) = with_a_group().await;
    let denial = |principals: &[&str]| Denial {
        scope: subscription(),
        name: "stack".to_owned(),
        actions: vec!["*/delete".to_owned()],
        not_actions: Vec::new(),
        principals: principals.iter().map(|id| (*id).to_owned()).collect(),
        excluded: vec![SRE.to_owned()],
        only_there: false,
    };
    let (everybody, hers) = (sim.deny(denial(&[])), sim.deny(denial(&[ADA])));
    let all = list(&client, &subscription(), "denyAssignments", "atScope()").await;
    assert_eq!(ids(&all), sorted(&[&everybody, &hers]));
    let filter = format!("atScope() and assignedTo('{ADA}')");
    let assigned = list(&client, &subscription(), "denyAssignments", &filter).await;
    assert_eq!(ids(&assigned), sorted(&[&hers]));
    let one = client.get(&format!("{everybody}?api-version=2022-04-01")).await;
    assert_eq!(
        one.body["properties"]["principals"],
        json!([{ "id": "00000000-0000-0000-0000-000000000000", "type": "SystemDefined" }])
    );
    let put = client
        .put(
            &format!("{hers}?api-version=2022-04-01"),
            json!({ "properties": {} }),
        )
        .await;
    put.refused(405, "HttpMethodNotSupported");
    assert!(sim.undeny(&hers));
    client
        .get(&format!("{hers}?api-version=2022-04-01"))
        .await
        .refused(404, "DenyAssignmentNotFound");
}
