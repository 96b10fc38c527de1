//! Load balancers between a firewall and a machine: others' rules that translate to a frontend lead on to the machine.

use std::net::IpAddr;

use postern_core::{
    enforcer::{Enforcer as _, Finding},
    testing::an_id,
};
use postern_sim::{Protocol, When, arm::inbound};
use serde_json::{Value, json};

use crate::{
    firewall::{ADA, BOB, Gate, want},
    others::{Way, lands, opening, shut, translate},
    scene::{fault, status},
};

const BALANCER: &str = "Microsoft.Network/loadBalancers/ilb";

/// How a balancer knows its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the interface, with a rule from one port to another.
    Rule,
    /// By the interface, with all ports.
    EveryPort,
    /// By its address.
    Address,
    /// By a NAT rule for it alone.
    Translation,
}

/// A balancer inside the network that leads from a port to one of the machine's; its address there.
pub(crate) fn balance(gate: &Gate, kind: Kind, from: u16, to: u16) -> IpAddr {
    let fleet = &gate.fleet;
    let id = fleet.id(BALANCER);
    let interface = fleet.id("Microsoft.Network/networkInterfaces/nic");
    let mut nic = fleet.get(&interface).unwrap();
    let own = nic["properties"]["ipConfigurations"][0]["properties"].clone();
    let (frontend, pool) = (
        format!("{id}/frontendIPConfigurations/inside"),
        format!("{id}/backendAddressPools/all"),
    );
    let members = if kind == Kind::Address {
        let network = fleet.id("Microsoft.Network/virtualNetworks/net");
        json!([{ "name": "one", "properties": {
            "ipAddress": own["privateIPAddress"], "virtualNetwork": { "id": network },
        } }])
    } else {
        json!([])
    };
    let all = kind == Kind::EveryPort;
    let mut rule = json!({
        "frontendIPConfiguration": { "id": frontend }, "protocol": if all { "All" } else { "Tcp" },
        "frontendPort": if all { 0 } else { from }, "backendPort": if all { 0 } else { to },
    });
    let list = if kind == Kind::Translation {
        "inboundNatRules"
    } else {
        rule["backendAddressPool"] = json!({ "id": pool });
        "loadBalancingRules"
    };
    let mut properties = json!({
        "frontendIPConfigurations": [{ "name": "inside", "properties": { "subnet": own["subnet"] } }],
        "backendAddressPools": [{ "name": "all", "properties": { "loadBalancerBackendAddresses": members } }],
    });
    properties[list] = json!([{ "name": "in", "properties": rule }]);
    let made = fleet
        .put(&id, json!({ "location": "westeurope", "properties": properties }))
        .unwrap();
    let configuration = &mut nic["properties"]["ipConfigurations"][0]["properties"];
    match kind {
        Kind::Rule | Kind::EveryPort => {
            configuration["loadBalancerBackendAddressPools"] = json!([{ "id": pool }]);
        }
        Kind::Translation => {
            configuration["loadBalancerInboundNatRules"] =
                json!([{ "id": format!("{id}/inboundNatRules/in") }]);
        }
        Kind::Address => {}
    }
    fleet.put(&interface, nic).unwrap();
    let shown = &made["properties"]["frontendIPConfigurations"][0]["properties"]["privateIPAddress"];
    shown.as_str().unwrap().parse().unwrap()
}

pub(crate) fn translate_to(gate: &Gate, port: &str, address: IpAddr, to: u16) {
    translate(gate, port, (&address.to_string(), &to.to_string()));
}

/// Whether a client of the firewall's port would get to the machine, were its NSG open to the firewall.
fn leads(gate: &Gate, source: &str, port: u16) -> bool {
    let firewall = inbound("firewall", 100, "Allow", "10.0.9.0/26", "22");
    let before = gate
        .fleet
        .get(&gate.fleet.id("Microsoft.Network/networkSecurityGroups/inner"));
    gate.fleet.security_group("inner", &[firewall]).unwrap();
    let there = lands(gate, source, port);
    let before = before.unwrap()["properties"]["securityRules"].clone();
    let before: Vec<Value> = before.as_array().unwrap().clone();
    gate.fleet.security_group("inner", &before).unwrap();
    there
}

/// That the grant does not open, because a rule of others leads to its port by the load balancer.
async fn refused_by_the_balancer(gate: &Gate, way: &Way, case: &str) {
    let obstacles = way.pass(way.edge()).await;
    assert_eq!(
        obstacles[0].code, "foreign_rule_in_the_way",
        "{case} {obstacles:?}"
    );
    assert!(
        obstacles[0].message.contains("by load balancer `ilb`"),
        "{obstacles:?}"
    );
    assert!(!lands(gate, BOB, 50022), "{case}");
}

#[tokio::test]
async fn a_rule_of_others_that_leads_to_the_port_by_a_load_balancer_is_in_a_grants_way() {
    for with_policy in [false, true] {
        for kind in [Kind::Rule, Kind::EveryPort, Kind::Address, Kind::Translation] {
            let case = format!("{with_policy} {kind:?}");
            let gate = shut(with_policy).await;
            let front = balance(&gate, kind, 2222, 22);
            translate_to(
                &gate,
                "50022",
                front,
                if kind == Kind::EveryPort { 22 } else { 2222 },
            );
            assert!(leads(&gate, BOB, 50022), "{case}");
            let way = Way::of(&gate, &[opening(1, ADA)]).await;
            refused_by_the_balancer(&gate, &way, &case).await;
        }
    }
}

#[tokio::test]
async fn a_load_balancer_that_leads_elsewhere_is_in_nobodys_way() {
    for kind in [Kind::Rule, Kind::Address, Kind::Translation] {
        let gate = shut(true).await;
        // To another port of the machine; and from a port that nobody translates to.
        let front = balance(&gate, kind, 2222, 8022);
        translate_to(&gate, "50022", front, 2222);
        let way = Way::of(&gate, &[opening(1, ADA)]).await;
        way.converge().await;
        assert!(lands(&gate, ADA, way.mapped(1).await), "{kind:?}");
        let there = gate
            .sim
            .lands(BOB.parse().unwrap(), gate.public, 50022, Protocol::Tcp);
        assert_eq!(there.unwrap().1, 8022, "{kind:?}: a port that is not guarded");

        let gate = shut(true).await;
        let front = balance(&gate, kind, 2222, 22);
        translate_to(&gate, "50022", front, 2223);
        let way = Way::of(&gate, &[opening(1, ADA)]).await;
        way.converge().await;
        assert!(!lands(&gate, BOB, 50022), "{kind:?}");
    }
}

#[tokio::test]
async fn a_load_balancer_that_comes_after_discovery_is_seen_when_a_grant_is_to_open() {
    for with_policy in [false, true] {
        for kind in [Kind::Rule, Kind::EveryPort, Kind::Address, Kind::Translation] {
            let case = format!("{with_policy} {kind:?}");
            let gate = shut(with_policy).await;
            let way = Way::of(&gate, &[opening(1, ADA)]).await;
            let front = balance(&gate, kind, 2222, 22);
            let to = if kind == Kind::EveryPort { 22 } else { 2222 };
            translate_to(&gate, "50022", front, to);
            refused_by_the_balancer(&gate, &way, &case).await;
        }
    }
}

#[tokio::test]
async fn a_load_balancer_that_went_after_discovery_keeps_no_grant_from_opening() {
    let gate = shut(true).await;
    let front = balance(&gate, Kind::Address, 2222, 22);
    translate_to(&gate, "50022", front, 2222);
    let way = Way::of(&gate, &[opening(1, ADA)]).await;
    gate.fleet.delete(&gate.fleet.id(BALANCER)).unwrap();
    way.converge().await;
    assert!(lands(&gate, ADA, way.mapped(1).await));
    assert!(!lands(&gate, BOB, 50022));
}

#[tokio::test]
async fn load_balancers_are_read_anew_for_what_is_to_open_and_at_no_other_look() {
    let gate = shut(false).await;
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    let opens = Way::of(&gate, &[opening(1, ADA)]).await;
    let reads = || {
        let all = gate.sim.calls().all();
        all.get("LoadBalancers.ListAll").copied().unwrap_or_default()
    };
    let before = reads();
    way.enforcer.observe(way.edge()).await.unwrap();
    assert_eq!(reads(), before);
    opens.enforcer.observe(opens.edge()).await.unwrap();
    assert_eq!(reads(), before + 1);
}

async fn findings(way: &Way) -> Vec<Finding> {
    let observed = way.enforcer.observe(way.edge()).await.unwrap();
    let plan = observed.plan(way.edge());
    assert_eq!(plan.obstacles, []);
    plan.findings
}

#[tokio::test]
async fn a_load_balancer_that_comes_while_a_grant_is_open_is_told() {
    let gate = shut(false).await;
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    way.converge().await;
    let front = balance(&gate, Kind::Rule, 2222, 22);
    translate_to(&gate, "50022", front, 2222);
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    let told = findings(&way).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].code, "foreign_rule_opens");
    assert_eq!(told[0].grants, [an_id(1)]);
}

#[tokio::test]
async fn a_load_balancer_that_may_not_be_read_is_told_as_not_known() {
    for kind in [Kind::Rule, Kind::Translation] {
        let gate = shut(false).await;
        let front = balance(&gate, kind, 2222, 22);
        translate_to(&gate, "50022", front, 2222);
        let refused = status(403, "AuthorizationFailed", None);
        gate.sim
            .faults()
            .add(fault("LoadBalancers.ListAll", When::EveryNth(1), refused));
        let way = Way::of(&gate, &[opening(1, ADA)]).await;
        let told = findings(&way).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].code, "foreign_rule_may_open");
        assert_eq!(told[0].grants, [an_id(1)]);
        assert!(told[0].message.contains("load balancer `ilb`"), "{told:?}");
        assert!(told[0].message.contains("`theirs/"), "{told:?}");
        way.converge().await;
    }
    // Where nobody translates to anything unknown, there is nothing to tell.
    let gate = shut(false).await;
    balance(&gate, Kind::Rule, 2222, 22);
    let mut document = gate.fleet.get(&gate.firewall).unwrap();
    document["properties"]["natRuleCollections"] = json!([]);
    gate.fleet.put(&gate.firewall, document).unwrap();
    let refused = status(403, "AuthorizationFailed", None);
    gate.sim
        .faults()
        .add(fault("LoadBalancers.ListAll", When::EveryNth(1), refused));
    let way = Way::of(&gate, &[opening(1, ADA)]).await;
    assert_eq!(findings(&way).await, []);
}
