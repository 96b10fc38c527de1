//! Policies that a firewall's policy inherits: what somebody put there of ours.

use postern_core::{enforcer::Enforcer as _, testing::an_id};
use postern_sim::{Protocol, arm::inbound};
use serde_json::{Value, json};

use crate::{
    firewall::{ADA, Gate, OFFICE, strip, want},
    others::{Way, lands, opening, shut, translate},
};

/// Gives the gate's policy a parent; its id.
fn parent(gate: &Gate) -> String {
    let parent = gate.fleet.firewall_policy("parent").unwrap();
    let policy = gate.policy.clone().unwrap();
    let mut document = gate.fleet.get(&policy).unwrap();
    document["properties"]["basePolicy"] = json!({ "id": parent });
    gate.fleet.put(&policy, document).unwrap();
    parent
}

/// The collections of our group of the gate's policy.
fn ours(gate: &Gate) -> Vec<Value> {
    let policy = gate.policy.as_ref().unwrap();
    let group = gate
        .fleet
        .get(&format!("{policy}/ruleCollectionGroups/postern-test"))
        .unwrap();
    group["properties"]["ruleCollections"].as_array().unwrap().clone()
}

fn theirs() -> Value {
    json!({ "name": "site", "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "priority": 3000,
        "action": { "type": "Allow" }, "rules": [{
            "name": "web", "ruleType": "NetworkRule", "sourceAddresses": ["10.9.0.0/16"],
            "destinationAddresses": ["10.0.1.9"], "destinationPorts": ["443"], "ipProtocols": ["TCP"],
        }] })
}

/// Whether the firewall lets a routed packet pass, whatever stands behind it.
fn passes(gate: &Gate, source: &str) -> bool {
    gate.fleet
        .security_group("inner", &[inbound("all", 100, "Allow", "*", "*")])
        .unwrap();
    let source = source.parse().unwrap();
    let there = gate.sim.reachable(&gate.machine, source, 22, Protocol::Tcp, None);
    gate.fleet.security_group("inner", &[]).unwrap();
    there
}

#[tokio::test]
async fn a_rule_of_ours_that_somebody_copied_into_a_parent_is_closed_at_the_next_look() {
    // Into a group of theirs, or our group as it is.
    for name in ["site", "postern-test"] {
        let gate = shut(true).await;
        let parent = parent(&gate);
        let way = Way::of(&gate, &[want(1, ADA), want(2, OFFICE)]).await;
        way.converge().await;
        let id = format!("{parent}/ruleCollectionGroups/{name}");
        let put = |collections: Vec<Value>| {
            let body = json!({ "properties": { "priority": 300, "ruleCollections": collections } });
            gate.fleet.put(&id, body).unwrap()
        };
        let mut before = put(vec![theirs()]);
        let mut all = ours(&gate);
        all.push(theirs());
        put(all);
        // While they stand, nothing at the firewall counts as confirmed.
        let observed = way.enforcer.observe(way.edge()).await.unwrap();
        assert!(observed.evidence(way.edge()).values().all(|one| !one.complete));

        let over = Way::of(&gate, &[want(1, ADA)]).await;
        assert_eq!(over.pass(over.edge()).await, []);
        assert!(!passes(&gate, OFFICE), "its grant is over");
        let mut after = gate.fleet.get(&id).unwrap();
        for document in [&mut before, &mut after] {
            strip(document);
            document["properties"]
                .as_object_mut()
                .unwrap()
                .remove("provisioningState");
        }
        assert_eq!(after, before, "theirs stays");
        let observed = over.enforcer.observe(over.edge()).await.unwrap();
        assert!(observed.evidence(over.edge())[&an_id(1)].complete);
    }
}

#[tokio::test]
async fn a_grant_is_not_closed_at_a_firewall_while_a_parent_has_a_copy_of_its_rule() {
    let gate = shut(true).await;
    let parent = parent(&gate);
    let way = Way::of(&gate, &[want(2, OFFICE)]).await;
    way.converge().await;
    let body = json!({ "properties": { "priority": 300, "ruleCollections": ours(&gate) } });
    let id = format!("{parent}/ruleCollectionGroups/copied");
    gate.fleet.put(&id, body).unwrap();
    // Somebody took ours out meanwhile.
    let policy = gate.policy.clone().unwrap();
    gate.fleet
        .delete(&format!("{policy}/ruleCollectionGroups/postern-test"))
        .unwrap();
    let over = Way::of(&gate, &[]).await;
    assert!(passes(&gate, OFFICE), "by the copy");
    let observed = over.enforcer.observe(over.edge()).await.unwrap();
    assert!(observed.evidence(over.edge()).contains_key(&an_id(2)));
    assert_eq!(over.pass(over.edge()).await, []);
    assert!(!passes(&gate, OFFICE));
    let observed = over.enforcer.observe(over.edge()).await.unwrap();
    assert!(observed.evidence(over.edge()).is_empty());
}

#[tokio::test]
async fn our_group_of_a_parent_that_has_firewalls_of_its_own_is_left_to_its_own_look() {
    let gate = shut(true).await;
    let way = Way::of(&gate, &[want(2, OFFICE)]).await;
    way.converge().await;
    let parent = parent(&gate);
    let far = gate.fleet.in_group("zone");
    far.group().unwrap();
    let network = far.network("far", "10.7.0.0/16").unwrap();
    let subnet = far
        .subnet(&network, "AzureFirewallSubnet", "10.7.9.0/26", None)
        .unwrap();
    far.firewall("Far", &subnet, json!({ "firewallPolicy": { "id": parent } }))
        .unwrap();
    let body = json!({ "properties": { "priority": 300, "ruleCollections": ours(&gate) } });
    gate.fleet
        .put(&format!("{parent}/ruleCollectionGroups/postern-test"), body)
        .unwrap();
    let observed = way.enforcer.observe(way.edge()).await.unwrap();
    assert_eq!(observed.plan(way.edge()).changes, []);
    assert!(observed.evidence(way.edge())[&an_id(2)].complete);
    // What is in no collection of ours is no grant's there either.
    let mut collections = ours(&gate);
    collections[0]["name"] = json!("moved");
    let body = json!({ "properties": { "priority": 300, "ruleCollections": collections } });
    gate.fleet
        .put(&format!("{parent}/ruleCollectionGroups/postern-test"), body)
        .unwrap();
    let observed = way.enforcer.observe(way.edge()).await.unwrap();
    assert_eq!(observed.plan(way.edge()).changes.len(), 1);
}

/// A NAT collection of a parent that sends everybody's packets for a port on.
fn parents_nat(gate: &Gate, parent: &str, port: &str, to: &str) {
    let rule = json!({
        "name": "out", "ruleType": "NatRule", "ipProtocols": ["TCP"], "sourceAddresses": ["*"],
        "destinationAddresses": [gate.public], "destinationPorts": [port], "translatedAddress": "10.0.1.4",
        "translatedPort": to,
    });
    let collection = json!({
        "name": "in", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 100,
        "action": { "type": "DNAT" }, "rules": [rule],
    });
    let body = json!({ "properties": { "priority": 300, "ruleCollections": [collection] } });
    gate.fleet
        .put(&format!("{parent}/ruleCollectionGroups/nat"), body)
        .unwrap();
}

/// Microsoft's pages do not agree on whether a parent's NAT rules are in force (see the core's firewall).
#[tokio::test]
async fn a_parents_nat_rule_hides_no_rule_of_others_and_may_lead_others_to_a_port() {
    // Others' rule of the policy itself leads to the grant's port, unless the parent's comes first.
    let gate = shut(true).await;
    let above = parent(&gate);
    translate(&gate, "50022", ("10.0.1.4", "22"));
    parents_nat(&gate, &above, "50022", "5985");
    let way = Way::of(&gate, &[opening(1, ADA)]).await;
    let obstacles = way.pass(way.edge()).await;
    assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{obstacles:?}");
    assert!(obstacles[0].message.contains("theirs/to-1`"), "{obstacles:?}");

    // The parent's leads there itself, if it is in force.
    let gate = shut(true).await;
    let above = parent(&gate);
    parents_nat(&gate, &above, "50022", "22");
    let way = Way::of(&gate, &[opening(1, ADA)]).await;
    let obstacles = way.pass(way.edge()).await;
    assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{obstacles:?}");
    assert!(obstacles[0].message.contains("nat/in/out`"), "{obstacles:?}");

    // One that leads elsewhere is in nobody's way, and the port that it takes is not used.
    let gate = shut(true).await;
    let above = parent(&gate);
    parents_nat(&gate, &above, "50000", "5985");
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    way.converge().await;
    let port = way.mapped(1).await;
    assert_ne!(port, 50000);
    assert!(lands(&gate, ADA, port));
}
