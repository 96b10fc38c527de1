//! Others' NAT rules to a port that is locked down: what `strict` and `defer` make of them.

use postern_core::{
    enforcer::Enforcer as _,
    policy::Lockdown,
    testing::{an_id, ports},
};
use postern_sim::{Protocol, arm::inbound};
use serde_json::json;

use crate::{
    balancer::{Kind, balance, translate_to},
    firewall::{ADA, BOB, Gate, OFFICE, want},
    others::{Way, lands, opening, shut, theirs, translate},
};

/// Takes the rules of others away that [`translate`] added.
fn translate_no_more(gate: &Gate) {
    let id = theirs(gate);
    let mut document = gate.fleet.get(&id).unwrap();
    let all = if gate.policy.is_some() {
        document["properties"]["ruleCollections"].as_array_mut().unwrap()
    } else {
        document["properties"]["natRuleCollections"]
            .as_array_mut()
            .unwrap()
    };
    for collection in all {
        let collection = if gate.policy.is_some() {
            collection
        } else {
            &mut collection["properties"]
        };
        let rules = collection["rules"].as_array_mut().unwrap();
        rules.retain(|rule| !rule["name"].as_str().unwrap().starts_with("to-"));
    }
    gate.fleet.put(&id, document).unwrap();
}

#[tokio::test]
async fn while_no_grant_is_open_a_lockdown_shuts_out_whom_others_rules_translate() {
    for (lockdown, is_shut) in [(Lockdown::Strict, true), (Lockdown::Defer, false)] {
        let gate = Gate::new(true).await;
        let firewall = inbound("firewall", 200, "Allow", "10.0.9.0/26", "22");
        gate.fleet.security_group("inner", &[firewall]).unwrap();
        translate(&gate, "50022", ("10.0.1.4", "22"));
        assert!(lands(&gate, BOB, 50022));
        Way::under(lockdown, &gate, &[]).await.converge().await;
        assert_eq!(lands(&gate, BOB, 50022), !is_shut, "{lockdown:?}");
    }
}

#[tokio::test]
async fn under_strict_a_rule_that_comes_while_a_grant_is_open_shuts_the_nsg_until_it_is_gone() {
    for with_policy in [false, true] {
        for by_balancer in [false, true] {
            let case = format!("{with_policy} {by_balancer}");
            let gate = shut(with_policy).await;
            let grants = [want(1, ADA), want(2, OFFICE)];
            let way = Way::of(&gate, &grants).await;
            way.converge().await;
            let port = way.mapped(1).await;
            assert!(lands(&gate, ADA, port));
            if by_balancer {
                let front = balance(&gate, Kind::Rule, 2222, 22);
                translate_to(&gate, "50022", front, 2222);
            } else {
                translate(&gate, "50022", ("10.0.1.4", "22"));
            }
            assert!(
                lands(&gate, BOB, 50022),
                "{case}: by our rule, until the next look"
            );
            let way = Way::of(&gate, &grants).await;
            let mut obstacles = Vec::new();
            for point in &way.points {
                obstacles.extend(way.pass(point).await);
            }
            assert_eq!(obstacles.len(), 1, "{case} {obstacles:?}");
            assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{case}");
            assert!(obstacles[0].message.contains("theirs/to-1`"), "{obstacles:?}");
            assert_eq!(obstacles[0].grants, [an_id(1)]);
            assert!(!lands(&gate, BOB, 50022), "{case}");
            assert!(
                !lands(&gate, ADA, port),
                "{case}: the NSG cannot tell the two apart"
            );
            let reaches = |source: &str| {
                let source = source.parse().unwrap();
                gate.sim.reachable(&gate.machine, source, 22, Protocol::Tcp, None)
            };
            assert!(reaches(OFFICE), "{case}: who is routed is seen");
            let told = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
            assert_eq!(told.findings[0].code, "foreign_rule_opens", "{told:?}");
            assert_eq!(told.findings[0].grants, [an_id(1)]);

            translate_no_more(&gate);
            Way::of(&gate, &grants).await.converge().await;
            assert!(lands(&gate, ADA, port), "{case}");
            assert!(!lands(&gate, BOB, 50022), "{case}");
        }
    }
}

#[tokio::test]
async fn under_defer_a_rule_that_comes_while_a_grant_is_open_is_told_and_the_grant_goes_on() {
    let gate = shut(false).await;
    let grants = [want(1, ADA)];
    Way::under(Lockdown::Defer, &gate, &grants).await.converge().await;
    translate(&gate, "50022", ("10.0.1.4", "22"));
    let way = Way::under(Lockdown::Defer, &gate, &grants).await;
    way.converge().await;
    assert!(lands(&gate, ADA, way.mapped(1).await));
    let told = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
    assert_eq!(told.findings[0].code, "foreign_rule_opens", "{told:?}");
}

#[tokio::test]
async fn a_new_grant_is_refused_where_others_are_led_to_its_port_whatever_the_lockdown() {
    for lockdown in [Lockdown::Strict, Lockdown::Defer] {
        let gate = shut(true).await;
        translate(&gate, "50022", ("10.0.1.4", "22"));
        let way = Way::under(lockdown, &gate, &[opening(1, ADA)]).await;
        let obstacles = way.pass(way.edge()).await;
        assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{lockdown:?}");
    }
}

/// "Deploy Azure Firewall private IP DNAT": who is on a connected network calls the firewall's address inside.
fn translate_inside(gate: &Gate) {
    translate(gate, "50022", ("10.0.1.4", "22"));
    let id = theirs(gate);
    let mut document = gate.fleet.get(&id).unwrap();
    let collections = if gate.policy.is_some() {
        "/properties/ruleCollections"
    } else {
        "/properties/natRuleCollections"
    };
    for collection in document.pointer_mut(collections).unwrap().as_array_mut().unwrap() {
        let rules = if gate.policy.is_some() {
            "/rules"
        } else {
            "/properties/rules"
        };
        for rule in collection.pointer_mut(rules).unwrap().as_array_mut().unwrap() {
            if rule["destinationPorts"] == json!(["50022"]) {
                rule["destinationAddresses"] = json!([INSIDE]);
            }
        }
    }
    gate.fleet.put(&id, document).unwrap();
}

/// The address that routes name.
const INSIDE: &str = "10.0.9.4";

#[tokio::test]
async fn a_rule_of_others_at_the_firewalls_private_address_counts_like_one_at_a_public_one() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let grants = [want(1, ADA)];
        let way = Way::of(&gate, &grants).await;
        way.converge().await;
        let port = way.mapped(1).await;
        translate_inside(&gate);
        let calls = |source: &str| {
            let address = INSIDE.parse().unwrap();
            let landed = gate
                .sim
                .lands(source.parse().unwrap(), address, 50022, Protocol::Tcp);
            landed.is_some()
        };
        assert!(calls(OFFICE), "by our rule, until the next look");
        let way = Way::of(&gate, &grants).await;
        for point in &way.points {
            way.pass(point).await;
        }
        assert!(!calls(OFFICE) && !lands(&gate, ADA, port), "{with_policy}");
        let told = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
        assert_eq!(told.findings[0].code, "foreign_rule_opens", "{told:?}");
        let asked = Way::of(&gate, &[opening(2, BOB)]).await;
        let obstacles = asked.pass(asked.edge()).await;
        assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{with_policy}");

        translate_no_more(&gate);
        Way::of(&gate, &grants).await.converge().await;
        assert!(lands(&gate, ADA, port) && !calls(OFFICE), "{with_policy}");
    }
}

#[tokio::test]
async fn rules_of_others_for_other_ports_or_for_the_grants_clients_alone_shut_nothing() {
    let gate = shut(false).await;
    let grants = [want(1, ADA)];
    let way = Way::of(&gate, &grants).await;
    way.converge().await;
    let port = way.mapped(1).await;
    translate(&gate, "55985", ("10.0.1.4", "5985"));
    translate(&gate, "50022", ("10.0.1.4", "22"));
    let mut document = gate.fleet.get(&gate.firewall).unwrap();
    for collection in document["properties"]["natRuleCollections"]
        .as_array_mut()
        .unwrap()
    {
        for rule in collection["properties"]["rules"].as_array_mut().unwrap() {
            if rule["destinationPorts"] == json!(["50022"]) {
                rule["sourceAddresses"] = json!([ADA]);
            }
        }
    }
    gate.fleet.put(&gate.firewall, document).unwrap();
    let way = Way::of(&gate, &grants).await;
    let approach = way.edge().members[0].approach.as_ref().unwrap();
    assert_eq!(approach.exposures.len(), 2, "{approach:?}");
    assert!(approach.exposure(&[ports("22")], &[]).is_some());
    way.converge().await;
    assert!(lands(&gate, ADA, port));
    assert!(!lands(&gate, BOB, 55985));
}
