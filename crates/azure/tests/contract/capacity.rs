//! Firewalls that are nearly full: a grant too many is refused by itself, and the others open.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::{Bindings, Enforcer as _, Obstacle, WantedGrant},
    id::GrantId,
    machine::MachineId,
    testing::{an_id, ports},
};
use serde_json::{Value, json};

use crate::{
    firewall::{ADA, BOB, Gate, want},
    others::{Way, lands, opening, shut, theirs},
    scene::{config, enforcer},
};

/// Fills the firewall up, until so many public addresses and mapped ports are taken.
fn fill(gate: &Gate, taken: usize) {
    let rules: Vec<Value> = (2..taken)
        .map(|at| {
            json!({
                "name": format!("site-{at}"), "ruleType": "NatRule", "sourceAddresses": ["*"],
                "destinationAddresses": [gate.public], "destinationPorts": [(20_000 + at).to_string()],
                "translatedAddress": "10.0.1.9", "translatedPort": "443", "protocols": ["TCP"],
                "ipProtocols": ["TCP"],
            })
        })
        .collect();
    let id = theirs(gate);
    let mut document = gate.fleet.get(&id).unwrap();
    let all = if gate.policy.is_some() {
        &mut document["properties"]["ruleCollections"]
    } else {
        &mut document["properties"]["natRuleCollections"]
    };
    all.as_array_mut().unwrap().push(if gate.policy.is_some() {
        json!({ "name": "many", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 3000,
            "action": { "type": "DNAT" }, "rules": rules })
    } else {
        json!({ "name": "many", "properties": { "priority": 3000, "action": { "type": "Dnat" }, "rules": rules } })
    });
    gate.fleet.put(&id, document).unwrap();
}

fn at_port(port: &str, grant: WantedGrant) -> WantedGrant {
    WantedGrant {
        ports: vec![ports(port)],
        ..grant
    }
}

fn refused(obstacles: &[Obstacle]) -> BTreeSet<(&str, GrantId)> {
    obstacles
        .iter()
        .flat_map(|one| one.grants.iter().map(|grant| (one.code.as_str(), *grant)))
        .collect()
}

#[tokio::test]
async fn of_more_doors_than_a_firewall_holds_only_those_too_many_are_refused() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        fill(&gate, 248);
        let many = [
            opening(1, ADA),
            at_port("5985", opening(2, ADA)),
            at_port("5985", opening(3, BOB)),
            at_port("3389", opening(4, ADA)),
            opening(5, BOB),
            // Two more destinations where one would fit, were there one left.
            at_port("2000-2001", opening(6, ADA)),
        ];
        let way = Way::of(&gate, &many).await;
        let obstacles = way.pass(way.edge()).await;
        let too_many = [4, 6].map(|grant| ("destinations_per_firewall", an_id(grant)));
        assert_eq!(refused(&obstacles), BTreeSet::from(too_many));
        let named = if with_policy { "`rules`" } else { "`edge`" };
        assert!(obstacles[0].message.contains(named), "{obstacles:?}");
        let observed = way.enforcer.observe(way.edge()).await.unwrap();
        let evidence = observed.evidence(way.edge());
        for open in [1, 2, 3, 5] {
            assert!(evidence[&an_id(open)].complete, "{evidence:?}");
        }
        assert_eq!(evidence.len(), 4, "nothing stands of the others");

        // Who is open stays so; who comes gets what they leave, in the write that closes.
        let next = [
            at_port("3389", opening(1, ADA)),
            at_port("5985", want(3, BOB)),
            want(5, BOB),
        ];
        let way = Way::of(&gate, &next).await;
        let obstacles = way.pass(way.edge()).await;
        assert_eq!(
            refused(&obstacles),
            BTreeSet::from([("destinations_per_firewall", an_id(1))])
        );
        let last = [at_port("3389", opening(1, ADA)), want(5, BOB)];
        let way = Way::of(&gate, &last).await;
        assert_eq!(way.pass(way.edge()).await, []);
        let observed = way.enforcer.observe(way.edge()).await.unwrap();
        assert!(observed.evidence(way.edge())[&an_id(1)].complete);
    }
}

#[tokio::test]
async fn a_door_that_others_lead_to_the_port_already_takes_no_more_room() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let id = theirs(&gate);
        let mut document = gate.fleet.get(&id).unwrap();
        let rule = document
            .pointer_mut(if with_policy {
                "/properties/ruleCollections/0/rules/0"
            } else {
                "/properties/natRuleCollections/0/properties/rules/0"
            })
            .unwrap();
        // For the grant's own client, so that it is in nobody's way.
        rule["sourceAddresses"] = json!([ADA]);
        rule["translatedAddress"] = json!("10.0.1.4");
        rule["translatedPort"] = json!("22");
        gate.fleet.put(&id, document).unwrap();
        fill(&gate, 250);
        let way = Way::of(&gate, &[opening(1, ADA)]).await;
        way.converge().await;
        assert_eq!(way.mapped(1).await, 50000);
        assert!(lands(&gate, ADA, 50000));
    }
}

#[tokio::test]
async fn discovery_says_what_a_nearly_full_firewall_has_left() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let room = async || {
            let machine: MachineId = gate.machine.parse().unwrap();
            let found = enforcer(config(&gate.sim))
                .discover(&machine.account(), None)
                .await
                .unwrap();
            let machine = found.machines.into_iter().find(|one| one.id == machine).unwrap();
            machine.interfaces[0].approach().unwrap().room.clone()
        };
        assert_eq!(room().await, None);
        fill(&gate, 248);
        assert_eq!(room().await.unwrap().left, 2);
        let way = Way::of(&gate, &[opening(1, ADA)]).await;
        way.converge().await;
        let left = room().await.unwrap();
        assert_eq!((left.left, left.mapped), (1, vec![ports("22")]));
    }
}

/// Names of the rules of our group.
fn written(gate: &Gate) -> usize {
    let policy = gate.policy.as_ref().unwrap();
    let group = gate
        .fleet
        .get(&format!("{policy}/ruleCollectionGroups/postern-test"))
        .unwrap();
    let all = group["properties"]["ruleCollections"].as_array().unwrap();
    all.iter().map(|one| one["rules"].as_array().unwrap().len()).sum()
}

#[tokio::test]
async fn of_more_rules_than_a_group_holds_only_those_too_many_are_refused() {
    let gate = shut(true).await;
    let wide = |grant: u128| WantedGrant {
        sources: (0..=99_u8)
            .flat_map(|third| (0..=249_u8).map(move |last| (third, last)))
            .map(|(third, last)| format!("192.168.1{third:02}.{last}").parse().unwrap())
            .collect(),
        ..opening(grant, ADA)
    };
    // Some 430,000 bytes each.
    let many: Vec<WantedGrant> = (1..=6).map(wide).collect();
    let way = Way::of(&gate, &many).await;
    let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
    let too_many = [3, 4, 5, 6].map(|grant| ("bytes_per_group", an_id(grant)));
    assert_eq!(refused(&plan.obstacles), BTreeSet::from(too_many));
    let mut bindings = Bindings::new();
    let point = &way.edge().point;
    way.enforcer
        .apply(point, &plan.changes[0], &mut bindings)
        .await
        .unwrap();
    assert_eq!(written(&gate), 2);
    let observed = way.enforcer.observe(way.edge()).await.unwrap();
    let again = observed.plan(way.edge());
    assert_eq!(again.changes, []);
    assert_eq!(refused(&again.obstacles), BTreeSet::from(too_many));
}

#[tokio::test]
async fn a_policy_without_room_for_another_group_is_not_written() {
    let gate = shut(true).await;
    let policy = gate.policy.clone().unwrap();
    // With the one that is there, 89.
    for at in 1..=88 {
        let body = json!({ "properties": { "priority": 1000 + at, "ruleCollections": [] } });
        gate.fleet
            .put(&format!("{policy}/ruleCollectionGroups/site-{at}"), body)
            .unwrap();
    }
    let way = Way::of(&gate, &[opening(1, ADA)]).await;
    way.converge().await;
    Way::of(&gate, &[]).await.converge().await;
    let body = json!({ "properties": { "priority": 2000, "ruleCollections": [] } });
    gate.fleet
        .put(&format!("{policy}/ruleCollectionGroups/last"), body)
        .unwrap();
    let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
    assert_eq!(plan.changes, []);
    assert_eq!(
        refused(&plan.obstacles),
        BTreeSet::from([("groups_per_policy", an_id(1))])
    );
}
