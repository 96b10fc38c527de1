//! Firewall policies: groups of rule collections, written apart, and what is refused of them.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{ADMIN, Scene, collection, from_the_firewall, passage, translation, with};

/// A rule collection group of a policy.
fn group(priority: u32, collections: &[Value]) -> Value {
    json!({ "properties": { "priority": priority, "ruleCollections": collections } })
}

fn filter(name: &str, priority: u32, action: &str, rule: &Value) -> Value {
    let mut rule = with(rule, [("ruleType", json!("NetworkRule"))]);
    rule["ipProtocols"] = rule["protocols"].take();
    json!({
        "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "name": name, "priority": priority,
        "action": { "type": action }, "rules": [rule],
    })
}

fn nat(name: &str, priority: u32, rule: &Value) -> Value {
    let mut rule = with(rule, [("ruleType", json!("NatRule"))]);
    rule["ipProtocols"] = rule["protocols"].take();
    json!({
        "ruleCollectionType": "FirewallPolicyNatRuleCollection", "name": name, "priority": priority,
        "action": { "type": "DNAT" }, "rules": [rule],
    })
}

#[tokio::test]
async fn a_policys_groups_are_written_apart_and_lock_it_while_they_change() {
    let scene = Scene::with(&from_the_firewall()).await;
    let policy = scene.fleet.firewall_policy("policy").unwrap();
    let address = scene.reserve();
    let (id, _) = scene.firewall(json!({"firewallPolicy": {"id": policy}}));
    scene.sim.set_firewall_duration(Duration::from_mins(3));
    let (ours, theirs) = (
        format!("{policy}/ruleCollectionGroups/ours"),
        format!("{policy}/ruleCollectionGroups/theirs"),
    );
    let made = scene
        .client
        .put(&ours, group(500, &[nat("nat", 100, &translation(&address))]))
        .await;
    assert_eq!(
        (made.status, &made.body["properties"]["provisioningState"]),
        (201, &json!("Updating"))
    );
    let stop = filter("stop", 100, "Deny", &passage("*", "10.0.1.4", "22"));
    let locked = "FirewallPolicyRuleCollectionGroupUpdateNotAllowedWhenUpdatingOrDeleting";
    scene
        .client
        .put(&theirs, group(600, std::slice::from_ref(&stop)))
        .await
        .refused(400, locked);
    scene
        .client
        .put(&policy, json!({"location": "westeurope"}))
        .await
        .refused(400, "FirewallPolicyUpdateNotAllowedWhenUpdatingOrDeleting");
    assert!(!scene.from(ADMIN, 22));
    scene.clock.advance(TimeDelta::seconds(180));
    assert!(scene.from(ADMIN, 22));

    scene
        .client
        .put(&theirs, group(500, &[]))
        .await
        .refused(400, "FirewallPolicyRuleCollectionGroupPriorityConflict");
    assert_eq!(scene.client.put(&theirs, group(600, &[stop])).await.status, 201);
    scene.clock.advance(TimeDelta::seconds(180));
    assert!(
        !scene.from(ADMIN, 22),
        "their network rule denies the translated packet"
    );
    let yes = filter("yes", 200, "Allow", &passage(ADMIN, "10.0.1.4", "22"));
    let body = group(500, &[nat("nat", 100, &translation(&address)), yes]);
    assert_eq!(scene.client.put(&ours, body).await.status, 200);
    scene.clock.advance(TimeDelta::seconds(180));
    assert!(
        scene.from(ADMIN, 22),
        "the group's number counts before the collection's"
    );

    let shown = scene.client.get(&policy).await;
    let groups = shown.body["properties"]["ruleCollectionGroups"]
        .as_array()
        .unwrap();
    assert_eq!(groups, &[json!({"id": ours}), json!({"id": theirs})]);
    assert_eq!(shown.body["properties"]["firewalls"], json!([{"id": id}]));
    scene
        .client
        .delete(&policy)
        .await
        .refused(400, "FirewallPolicyInUse");
    let own = json!({"firewallPolicy": {"id": policy}, "networkRuleCollections": [collection("n", 100, "Allow", &[])]});
    scene
        .client
        .put(&id, scene.body(own))
        .await
        .refused(400, "AzureFirewallPolicyAndRuleCollectionsConflict");
    let update = scene.body(json!({"firewallPolicy": {"id": policy}}));
    assert_eq!(scene.client.put(&id, update).await.status, 200);
    scene
        .client
        .put(&ours, group(500, &[]))
        .await
        .refused(409, "AnotherOperationInProgress");
    scene.clock.advance(TimeDelta::seconds(180));
    assert_eq!(scene.client.delete(&ours).await.status, 202);
    scene.clock.advance(TimeDelta::seconds(180));
    assert!(!scene.from(ADMIN, 22));
    scene.client.get(&ours).await.refused(404, "NotFound");
}

#[tokio::test]
async fn a_collection_of_a_policy_holds_rules_of_one_type() {
    let scene = Scene::with(&[]).await;
    let policy = scene.fleet.firewall_policy("policy").unwrap();
    let ours = format!("{policy}/ruleCollectionGroups/ours");
    let mut mixed = filter("mixed", 100, "Allow", &passage("*", "*", "22"));
    mixed["rules"][0]["ruleType"] = json!("NatRule");
    scene
        .client
        .put(&ours, group(100, &[mixed]))
        .await
        .refused(400, "InvalidRequestFormat");
    let twice = [
        filter("a", 100, "Allow", &passage("*", "*", "22")),
        filter("b", 100, "Deny", &passage("*", "*", "22")),
    ];
    scene
        .client
        .put(&ours, group(100, &twice))
        .await
        .refused(400, "FirewallPolicyRuleCollectionPriorityConflict");
    scene
        .client
        .put(&ours, group(99, &[]))
        .await
        .refused(400, "AzureFirewallRuleCollectionInvalidPriority");
}
