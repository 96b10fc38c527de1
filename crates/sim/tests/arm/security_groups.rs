//! NSGs and their rules on the ARM simulator: how they are written, what is refused, and what an etag says.

use postern_sim::arm::inbound;
use serde_json::{Value, json};

use crate::client::rule;
use crate::started::{NSG, furnished};

#[tokio::test]
async fn a_put_is_asynchronous_and_its_etag_ages_when_it_completes() {
    let (sim, client) = furnished().await;
    let id = sim.fleet().id("Microsoft.Network/networkSecurityGroups/Fresh");
    let body =
        json!({"location": "West Europe", "tags": {"a": "b"}, "properties": {"flushConnection": true}});
    let made = client.put(&id, body.clone()).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["properties"]["provisioningState"], "Updating");
    assert_eq!(made.body["location"], "westeurope");
    assert!(
        made.header("retry-after").is_none(),
        "Azure's network provider sends none"
    );
    assert_eq!(client.progress(&made).await.body, json!({"status": "Succeeded"}));
    let read = client.get(&id).await;
    assert_eq!(read.body["properties"]["provisioningState"], "Succeeded");
    assert_ne!(read.body["etag"], made.body["etag"]);
    assert_eq!(read.header("etag").unwrap(), read.body["etag"].as_str().unwrap());
    assert_eq!(read.body["properties"]["flushConnection"], true);
    assert_eq!(
        read.body["properties"]["defaultSecurityRules"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(client.put(&id, body).await.status, 200);
    let lost = client.put(&id, json!({"location": "westeurope"})).await;
    assert_eq!(
        lost.body["properties"].get("flushConnection"),
        None,
        "a put replaces"
    );
    assert_eq!(lost.body.get("tags"), None);
    client
        .put(&id, json!({"location": "eastus"}))
        .await
        .refused(409, "InvalidResourceLocation");
    client.put(&id, json!({})).await.refused(400, "LocationRequired");
    client
        .put(&format!("{id}-"), json!({"location": "x"}))
        .await
        .refused(400, "InvalidResourceName");
}

#[tokio::test]
async fn ids_compare_without_case_and_keep_the_case_of_their_making() {
    let (sim, client) = furnished().await;
    let nsg = sim.fleet().id(NSG);
    let made = client
        .put(&format!("{nsg}/securityRules/Ssh"), rule(100, "22"))
        .await;
    let loud = nsg.to_uppercase().replace("/SUBSCRIPTIONS", "/subscriptions");
    let read = client.get(&format!("{loud}/SECURITYRULES/SSH")).await;
    assert_eq!((read.status, &read.body["id"]), (200, &made.body["id"]));
    assert_eq!(read.body["name"], "Ssh");
    assert_eq!(
        client
            .put(&format!("{loud}/securityrules/ssh"), rule(101, "22"))
            .await
            .status,
        200
    );
    assert_eq!(
        client.get(&format!("{nsg}/securityRules")).await.body["value"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_write_with_a_stale_etag_changes_nothing() {
    let (sim, client) = furnished().await;
    let nsg = sim.fleet().id(NSG);
    let ssh = format!("{nsg}/securityRules/ssh");
    let stale = client.get(&nsg).await.body["etag"].as_str().unwrap().to_owned();
    client.put(&ssh, rule(100, "22")).await;
    let seq = sim.truth().last();
    let body = json!({"location": "westeurope"});
    client
        .put_with(&nsg, body.clone(), &[("if-match", &stale)])
        .await
        .refused(412, "PreconditionFailed");
    client
        .put_with(&ssh, rule(100, "23"), &[("if-match", &stale)])
        .await
        .refused(412, "PreconditionFailed");
    client
        .put_with(&ssh, rule(100, "23"), &[("if-none-match", "*")])
        .await
        .refused(412, "PreconditionFailed");
    client
        .delete_with(&ssh, &[("if-match", &stale)])
        .await
        .refused(412, "PreconditionFailed");
    let absent = format!("{nsg}/securityRules/none");
    client
        .put_with(&absent, rule(101, "22"), &[("if-match", "*")])
        .await
        .refused(412, "PreconditionFailed");
    assert_eq!(sim.truth().last(), seq);
    let fresh = client.get(&nsg).await.body["etag"].as_str().unwrap().to_owned();
    assert_eq!(
        client.get(&ssh).await.body["etag"].as_str().unwrap(),
        fresh,
        "a rule carries its NSG's etag"
    );
    assert_eq!(
        client.put_with(&nsg, body, &[("if-match", &fresh)]).await.status,
        200
    );
    assert_eq!(
        client.get(&ssh).await.status,
        404,
        "the whole write left the rule out"
    );
    assert_eq!(
        client
            .put_with(&ssh, rule(100, "22"), &[("if-none-match", "*")])
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn rules_are_checked_on_both_ways_in() {
    let (sim, client) = furnished().await;
    let nsg = sim.fleet().id(NSG);
    client
        .put(&format!("{nsg}/securityRules/first"), rule(100, "22"))
        .await;
    let seq = sim.truth().last();
    let conflict = client
        .put(&format!("{nsg}/securityRules/second"), rule(100, "23"))
        .await;
    conflict.refused(400, "SecurityRuleConflict");
    assert_eq!(
        conflict.message(),
        "Security rule second conflicts with rule first. Rules cannot have the same Priority and Direction."
    );
    let whole = |rules: Value| json!({"location": "westeurope", "properties": {"securityRules": rules}});
    let twice = whole(json!([
        inbound("a", 100, "Allow", "*", "22"),
        inbound("b", 100, "Deny", "*", "23")
    ]));
    client.put(&nsg, twice).await.refused(400, "SecurityRuleConflict");
    let same_name = whole(json!([
        inbound("a", 100, "Allow", "*", "22"),
        inbound("A", 101, "Deny", "*", "23")
    ]));
    client
        .put(&nsg, same_name)
        .await
        .refused(400, "DuplicateResourceName");
    let low = whole(json!([inbound("a", 99, "Allow", "*", "22")]));
    client
        .put(&nsg, low)
        .await
        .refused(400, "SecurityRuleInvalidPriority");
    client
        .put(&format!("{nsg}/securityRules/-x"), rule(101, "22"))
        .await
        .refused(400, "InvalidResourceName");
    let long = format!("{nsg}/securityRules/{}", "x".repeat(81));
    client
        .put(&long, rule(101, "22"))
        .await
        .refused(400, "InvalidResourceName");
    client
        .put_raw(&nsg, "{")
        .await
        .refused(400, "InvalidRequestContent");
    client
        .put(
            &format!("{nsg}/defaultSecurityRules/DenyAllInBound"),
            rule(101, "22"),
        )
        .await
        .refused(405, "HttpMethodNotSupported");
    assert_eq!(
        sim.truth().last(),
        seq,
        "nothing that is refused changes anything"
    );
    let thousand: Vec<Value> = (0..1001_u16)
        .map(|n| inbound(&format!("r{n}"), 100 + n, "Allow", "*", "22"))
        .collect();
    client
        .put(&nsg, whole(json!(thousand)))
        .await
        .refused(400, "SecurityRuleCountLimitReached");
    assert_eq!(client.put(&nsg, whole(json!(thousand[..1000]))).await.status, 200);
    client
        .put(&format!("{nsg}/securityRules/one-more"), rule(4000, "22"))
        .await
        .refused(400, "SecurityRuleCountLimitReached");
}

#[tokio::test]
async fn deleting_a_rule_is_accepted_once_and_then_there_is_none() {
    let (sim, client) = furnished().await;
    let ssh = sim.fleet().id(&format!("{NSG}/securityRules/ssh"));
    client.put(&ssh, rule(100, "22")).await;
    let gone = client.delete(&ssh).await;
    assert_eq!(gone.status, 202);
    let location = gone.header("location").unwrap();
    assert!(gone.header("azure-asyncoperation").is_some());
    assert_eq!(
        client
            .get(location.strip_prefix(&sim.url()).unwrap())
            .await
            .status,
        204
    );
    assert_eq!(client.delete(&ssh).await.status, 204);
    client.get(&ssh).await.refused(404, "NotFound");
}
