//! Firewalls in others' hands: what they change while grants open, are open and close.

use postern_azure::AzureEnforcer;
use postern_core::{
    enforcer::{Bindings, Desired, Enforcer as _, Guard, Member, Obstacle, WantedGrant},
    machine::MachineId,
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, ports},
};
use postern_sim::{Protocol, When, arm::inbound};
use serde_json::{Value, json};

use crate::{
    firewall::{ADA, BOB, Gate, OFFICE, strip, want},
    scene::{config, enforcer, fault, status},
};

/// What lies before the gate's machine, as discovered, and what its points have to open.
pub(crate) struct Way {
    pub(crate) enforcer: AzureEnforcer,
    pub(crate) points: Vec<Desired>,
}

impl Way {
    pub(crate) async fn of(gate: &Gate, grants: &[WantedGrant]) -> Self {
        Self::under(Lockdown::Strict, gate, grants).await
    }

    pub(crate) async fn under(lockdown: Lockdown, gate: &Gate, grants: &[WantedGrant]) -> Self {
        let machine: MachineId = gate.machine.parse().unwrap();
        let enforcer = enforcer(config(&gate.sim));
        let page = enforcer.discover(&machine.account(), None).await.unwrap();
        let found = page.machines.iter().find(|one| one.id == machine).unwrap();
        let interface = &found.interfaces[0];
        let approach = interface.approach().unwrap();
        let of_point = |point: &PointRef| {
            let grants = grants.iter().cloned().map(|grant| WantedGrant {
                sources: approach.wanted_at(point, &grant, Some(lockdown)),
                ..grant
            });
            Desired {
                installation: "test".parse().unwrap(),
                point: point.clone(),
                members: vec![Member {
                    machine: machine.clone(),
                    addresses: interface.addresses.clone(),
                    interfaces: vec![interface.id.clone()],
                    guard: (!postern_core::approach::is_firewall(point)).then(|| Guard {
                        policy: an_id(9),
                        ports: vec![ports("22"), ports("5985")],
                        lockdown,
                        shared_groups: SharedGroups::Refuse,
                    }),
                    approach: Some(approach.clone()),
                    grants: grants.collect(),
                }],
                displaced: Vec::new(),
                unsettled: true,
            }
        };
        let (firewalls, behind): (Vec<PointRef>, Vec<PointRef>) = found
            .grant_points()
            .into_iter()
            .partition(postern_core::approach::is_firewall);
        let points = firewalls.iter().chain(&behind).map(of_point).collect();
        Self { enforcer, points }
    }

    /// The firewall's part.
    pub(crate) fn edge(&self) -> &Desired {
        &self.points[0]
    }

    /// As the loop does: every change of a plan in order, until nothing is left to change, three rounds at most.
    pub(crate) async fn pass(&self, wanted: &Desired) -> Vec<Obstacle> {
        for _ in 0..3 {
            let plan = self.enforcer.observe(wanted).await.unwrap().plan(wanted);
            if plan.changes.is_empty() {
                return plan.obstacles;
            }
            let mut bindings = Bindings::new();
            for change in &plan.changes {
                let done = self.enforcer.apply(&wanted.point, change, &mut bindings).await;
                if done.is_err() {
                    break;
                }
            }
        }
        self.enforcer
            .observe(wanted)
            .await
            .unwrap()
            .plan(wanted)
            .obstacles
    }

    pub(crate) async fn converge(&self) {
        for wanted in &self.points {
            assert_eq!(self.pass(wanted).await, []);
        }
    }

    pub(crate) async fn mapped(&self, grant: u128) -> u16 {
        let observed = self.enforcer.observe(self.edge()).await.unwrap();
        let evidence = observed.evidence(self.edge());
        let told = postern_core::approach::entrances(&evidence[&an_id(grant)].rules);
        assert_eq!(told.len(), 1, "{evidence:?}");
        told[0].port
    }
}

/// Locked down, at an NSG without other rules.
pub(crate) async fn shut(with_policy: bool) -> Gate {
    let gate = Gate::new(with_policy).await;
    gate.fleet.security_group("inner", &[]).unwrap();
    Way::of(&gate, &[]).await.converge().await;
    gate
}

pub(crate) fn opening(grant: u128, source: &str) -> WantedGrant {
    WantedGrant {
        opening: true,
        ..want(grant, source)
    }
}

pub(crate) fn theirs(gate: &Gate) -> String {
    gate.policy.as_ref().map_or_else(
        || gate.firewall.clone(),
        |policy| format!("{policy}/ruleCollectionGroups/theirs"),
    )
}

/// Somebody translates a port of the firewall for everybody.
pub(crate) fn translate(gate: &Gate, port: &str, to: (&str, &str)) {
    let id = theirs(gate);
    let mut document = gate.fleet.get(&id).unwrap();
    let pointer = if gate.policy.is_some() {
        "/properties/ruleCollections/0/rules"
    } else {
        let all = document["properties"]["natRuleCollections"].as_array().unwrap();
        let at = all.iter().position(|one| one["name"] == "theirs").unwrap();
        &format!("/properties/natRuleCollections/{at}/properties/rules")
    };
    let rules = document.pointer_mut(pointer).unwrap().as_array_mut().unwrap();
    let mut rule = rules[0].clone();
    rule["name"] = json!(format!("to-{}", rules.len()));
    rule["destinationPorts"] = json!([port]);
    rule["translatedAddress"] = json!(to.0);
    rule["translatedPort"] = json!(to.1);
    rules.push(rule);
    gate.fleet.put(&id, document).unwrap();
}

pub(crate) fn lands(gate: &Gate, source: &str, port: u16) -> bool {
    let source = source.parse().unwrap();
    gate.sim.lands(source, gate.public, port, Protocol::Tcp).is_some()
}

#[tokio::test]
async fn a_rule_of_others_to_another_address_of_the_machine_lets_nobody_in_by_a_grant() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let id = gate.fleet.id("Microsoft.Network/networkInterfaces/nic");
        let mut interface = gate.fleet.get(&id).unwrap();
        let all = interface["properties"]["ipConfigurations"]
            .as_array_mut()
            .unwrap();
        let subnet = all[0]["properties"]["subnet"]["id"].clone();
        all.push(json!({ "name": "second", "properties": {
            "subnet": { "id": subnet }, "privateIPAddress": "10.0.1.44", "privateIPAllocationMethod": "Static",
        } }));
        gate.fleet.put(&id, interface).unwrap();
        translate(&gate, "50044", ("10.0.1.44", "22"));
        Way::of(&gate, &[]).await.converge().await;
        assert!(!lands(&gate, BOB, 50044));
        let way = Way::of(&gate, &[want(1, ADA)]).await;
        assert_eq!(way.edge().members[0].addresses.len(), 2);
        way.converge().await;
        let port = way.mapped(1).await;
        assert!(lands(&gate, ADA, port));
        assert!(!lands(&gate, BOB, port));
        assert!(!lands(&gate, BOB, 50044), "somebody else's rule, by our grant");
    }
}

#[tokio::test]
async fn a_rule_of_others_to_another_interface_of_the_machine_is_in_a_grants_way() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let group = gate.fleet.id("Microsoft.Network/networkSecurityGroups/inner");
        let front = gate
            .fleet
            .id("Microsoft.Network/virtualNetworks/net/subnets/front");
        let second = gate
            .fleet
            .interface("second", &front, Some(&group), None)
            .unwrap();
        let first = gate.fleet.id("Microsoft.Network/networkInterfaces/nic");
        gate.fleet
            .virtual_machine("vm", &[&first, &second], &json!({}))
            .unwrap();
        let address = gate.fleet.get(&second).unwrap();
        let address = &address["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"];
        translate(&gate, "50044", (address.as_str().unwrap(), "22"));
        let mut way = Way::of(&gate, &[opening(1, ADA)]).await;
        // As the store has them, with all of the machine's interfaces at the point.
        let member = &mut way.points[0].members[0];
        member.addresses.push(address.as_str().unwrap().parse().unwrap());
        member.interfaces.push(second);
        let obstacles = way.pass(way.edge()).await;
        assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{obstacles:?}");
    }
}

#[tokio::test]
async fn a_rule_of_others_that_comes_before_a_grant_is_open_is_in_its_way_and_afterwards_it_is_told() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let way = Way::of(&gate, &[opening(1, ADA)]).await;
        assert_eq!(way.pass(way.edge()).await, []);
        translate(&gate, "50001", ("10.0.1.4", "22"));
        let obstacles = way.pass(way.edge()).await;
        assert_eq!(obstacles[0].code, "foreign_rule_in_the_way", "{obstacles:?}");
        assert_eq!(obstacles[0].grants, [an_id(1)]);
        let observed = way.enforcer.observe(way.edge()).await.unwrap();
        assert!(
            observed.evidence(way.edge()).is_empty(),
            "no rule of ours is left"
        );

        let gate = shut(with_policy).await;
        let way = Way::of(&gate, &[want(1, ADA)]).await;
        assert_eq!(way.pass(way.edge()).await, []);
        translate(&gate, "50001", ("10.0.1.4", "22"));
        let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
        assert_eq!((plan.changes.len(), plan.obstacles.len()), (0, 0), "{plan:?}");
        assert_eq!(plan.findings[0].code, "foreign_rule_opens");
    }
}

#[tokio::test]
async fn what_azure_refuses_to_open_does_not_keep_the_rest_from_closing() {
    for with_policy in [false, true] {
        let gate = shut(with_policy).await;
        let way = Way::of(&gate, &[want(1, ADA)]).await;
        way.converge().await;
        let port = way.mapped(1).await;
        let way = Way::of(&gate, &[opening(2, BOB)]).await;
        // Whatever it is that Azure does not take in a write that opens.
        let operation = if with_policy {
            "FirewallPolicyRuleCollectionGroups.CreateOrUpdate"
        } else {
            "AzureFirewalls.CreateOrUpdate"
        };
        gate.sim
            .faults()
            .add(fault(operation, When::Next(1), status(400, "TooMany", None)));
        let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
        let mut bindings = Bindings::new();
        let [change] = plan.changes.as_slice() else {
            panic!("{plan:?}");
        };
        let refused = way
            .enforcer
            .apply(&way.edge().point, change, &mut bindings)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("TooMany"), "{refused}");
        assert!(!lands(&gate, ADA, port), "the grant is over");
        let observed = way.enforcer.observe(way.edge()).await.unwrap();
        assert!(observed.evidence(way.edge()).is_empty());
        assert!(
            !way.enforcer
                .observe(way.edge())
                .await
                .unwrap()
                .plan(way.edge())
                .changes
                .is_empty()
        );
    }
}

/// What the firewall's policy, or the firewall itself, says about whom machines see.
fn mask(gate: &Gate) {
    let id = gate.policy.clone().unwrap_or_else(|| gate.firewall.clone());
    let mut document = gate.fleet.get(&id).unwrap();
    if gate.policy.is_some() {
        document["properties"]["snat"] = json!({ "privateRanges": ["255.255.255.255/32"] });
    } else {
        document["properties"]["additionalProperties"] =
            json!({ "Network.SNAT.PrivateRanges": "255.255.255.255/32" });
    }
    gate.fleet.put(&id, document).unwrap();
}

/// Somebody lets the office pass to everything behind the firewall, on one port.
fn let_pass(gate: &Gate, kind: &str, port: u16) {
    let id = theirs(gate);
    let mut document = gate.fleet.get(&id).unwrap();
    let network = kind == "NetworkRule";
    let mut rule = json!({ "name": "office", "ruleType": kind, "sourceAddresses": ["192.168.0.0/16"] });
    if network {
        rule["destinationAddresses"] = json!(["10.0.0.0/16"]);
        rule["destinationPorts"] = json!([port.to_string()]);
        rule["protocols"] = json!(["TCP"]);
        rule["ipProtocols"] = json!(["TCP"]);
    } else {
        rule["targetFqdns"] = json!(["*"]);
        rule["protocols"] = json!([{ "protocolType": "Http", "port": port }]);
    }
    if gate.policy.is_some() {
        let all = document["properties"]["ruleCollections"].as_array_mut().unwrap();
        all.push(
            json!({ "name": "site", "priority": 3000, "action": { "type": "Allow" }, "rules": [rule],
            "ruleCollectionType": "FirewallPolicyFilterRuleCollection" }),
        );
    } else {
        let member = if network {
            "networkRuleCollections"
        } else {
            "applicationRuleCollections"
        };
        document["properties"][member] = json!([{ "name": "site",
            "properties": { "priority": 3000, "action": { "type": "Allow" }, "rules": [rule] } }]);
    }
    gate.fleet.put(&id, document).unwrap();
}

/// Whether a packet that is routed gets to the machine.
fn reaches(gate: &Gate, source: &str, port: u16) -> bool {
    let source = source.parse().unwrap();
    gate.sim
        .reachable(&gate.machine, source, port, Protocol::Tcp, None)
}

#[tokio::test]
async fn whom_the_firewall_hides_behind_itself_does_not_come_in_by_a_grant_to_its_subnet() {
    for with_policy in [false, true] {
        for (kind, masks, port) in [
            ("NetworkRule", true, 5985),
            ("NetworkRule", false, 5985),
            ("ApplicationRule", false, 5985),
            ("ApplicationRule", false, 443),
        ] {
            let case = format!("{with_policy} {kind} {masks} {port}");
            let gate = shut(with_policy).await;
            if masks {
                mask(&gate);
            }
            let_pass(&gate, kind, port);
            let wish = WantedGrant {
                ports: vec![ports("5985")],
                ..opening(1, ADA)
            };
            let way = Way::of(&gate, &[wish]).await;
            assert!(!reaches(&gate, OFFICE, 5985), "{case}");
            let obstacles = way.pass(way.edge()).await;
            let hides = masks || (kind == "ApplicationRule" && port == 5985);
            let codes: Vec<&str> = obstacles.iter().map(|one| one.code.as_str()).collect();
            let expected: &[&str] = if hides { &["foreign_rule_in_the_way"] } else { &[] };
            assert_eq!(codes, expected, "{case}");
            if !hides {
                way.converge().await;
            }
            assert!(!reaches(&gate, OFFICE, 5985), "{case}");
        }
    }
}

#[tokio::test]
async fn a_rule_of_ours_that_somebody_copied_into_a_group_of_their_own_is_closed_with_its_grant() {
    let gate = shut(true).await;
    let way = Way::of(&gate, &[want(1, ADA), want(2, OFFICE)]).await;
    way.converge().await;
    let policy = gate.policy.clone().unwrap();
    let before = gate.fleet.get(&theirs(&gate)).unwrap();
    let ours = gate
        .fleet
        .get(&format!("{policy}/ruleCollectionGroups/postern-test"))
        .unwrap();
    let mut copied = before.clone();
    let all = copied["properties"]["ruleCollections"].as_array_mut().unwrap();
    for (at, collection) in ours["properties"]["ruleCollections"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let mut collection = collection.clone();
        collection["name"] = json!(format!("moved-{at}"));
        collection["priority"] = json!(500 + at);
        all.push(collection);
    }
    all[0]["rules"].as_array_mut().unwrap().push({
        let mut rule = ours["properties"]["ruleCollections"][0]["rules"][0].clone();
        rule["name"] = json!("kept-for-later");
        rule
    });
    gate.fleet.put(&theirs(&gate), copied).unwrap();
    let port = way.mapped(1).await;
    let way = Way::of(&gate, &[want(2, OFFICE)]).await;
    assert_eq!(way.pass(way.edge()).await, []);
    assert!(!lands_at_the_edge(&gate, ADA, port), "its grant is over");
    let way = Way::of(&gate, &[]).await;
    assert_eq!(way.pass(way.edge()).await, []);
    let mut after = gate.fleet.get(&theirs(&gate)).unwrap();
    let left = after["properties"]["ruleCollections"].as_array().unwrap();
    assert!(
        left.iter()
            .all(|one| one["rules"].as_array().unwrap().iter().all(unmarked)),
        "{left:?}"
    );
    let mut before = before;
    for document in [&mut before, &mut after] {
        strip(document);
    }
    assert_eq!(after, before);
}

fn unmarked(rule: &Value) -> bool {
    rule.get("description").is_none()
}

/// Gives the gate's policy to one more firewall.
pub(crate) fn second_firewall(gate: &Gate) {
    let other = gate.fleet.in_group("zone");
    other.group().unwrap();
    let network = other.network("far", "10.7.0.0/16").unwrap();
    let subnet = other
        .subnet(&network, "AzureFirewallSubnet", "10.7.9.0/26", None)
        .unwrap();
    let policy = gate.policy.clone().unwrap();
    other
        .firewall("Far", &subnet, json!({ "firewallPolicy": { "id": policy } }))
        .unwrap();
}

/// Whether the firewall would send a packet on, whatever stands behind it.
fn lands_at_the_edge(gate: &Gate, source: &str, port: u16) -> bool {
    gate.fleet
        .security_group("inner", &[inbound("all", 100, "Allow", "*", "*")])
        .unwrap();
    let there = lands(gate, source, port);
    gate.fleet.security_group("inner", &[]).unwrap();
    there
}

#[tokio::test]
async fn a_firewall_that_may_not_be_read_and_has_the_policy_too_keeps_nothing_open() {
    let gate = shut(true).await;
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    way.converge().await;
    let port = way.mapped(1).await;
    second_firewall(&gate);
    // The second of the two that have the policy, each time.
    let refused = status(403, "AuthorizationFailed", None);
    gate.sim
        .faults()
        .add(fault("AzureFirewalls.Get", When::EveryNth(2), refused));
    let open = way.enforcer.observe(way.edge()).await.unwrap();
    assert_eq!(open.plan(way.edge()).changes, []);
    assert!(open.evidence(way.edge())[&an_id(1)].complete);
    let mut over = way.edge().clone();
    over.members[0].grants.clear();
    assert_eq!(way.pass(&over).await, []);
    assert!(!lands_at_the_edge(&gate, ADA, port));
}

#[tokio::test]
async fn a_closing_that_azure_took_and_then_failed_is_made_again() {
    for with_policy in [false, true] {
        // Of all that is ours, and of one grant of two.
        for left in [vec![], vec![want(2, OFFICE)]] {
            let gate = shut(with_policy).await;
            let mut open = left.clone();
            open.push(want(1, ADA));
            let way = Way::of(&gate, &open).await;
            way.converge().await;
            let port = way.mapped(1).await;
            gate.sim
                .completions()
                .add(fault("*Firewall*", When::Next(1), status(400, "OutOfLuck", None)));
            let way = Way::of(&gate, &left).await;
            let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
            let mut bindings = Bindings::new();
            let failed = way
                .enforcer
                .apply(&way.edge().point, &plan.changes[0], &mut bindings)
                .await;
            assert!(failed.is_err());
            assert!(lands_at_the_edge(&gate, ADA, port), "it is in force still");
            assert!(!way.enforcer.observe(way.edge()).await.unwrap().settled());
            assert_eq!(way.pass(way.edge()).await, []);
            let observed = way.enforcer.observe(way.edge()).await.unwrap();
            assert!(observed.settled(), "{with_policy} {left:?}");
            assert!(!lands_at_the_edge(&gate, ADA, port));
        }
    }
}

#[tokio::test]
async fn a_parent_that_may_not_be_read_keeps_nothing_open_and_lets_nothing_new_in() {
    let gate = shut(true).await;
    let way = Way::of(&gate, &[want(1, ADA)]).await;
    way.converge().await;
    let port = way.mapped(1).await;
    let parent = gate.fleet.firewall_policy("parent").unwrap();
    let policy = gate.policy.clone().unwrap();
    let mut document = gate.fleet.get(&policy).unwrap();
    document["properties"]["basePolicy"] = json!({ "id": parent });
    gate.fleet.put(&policy, document).unwrap();
    // The second of the two policies, each time.
    let refused = status(403, "AuthorizationFailed", None);
    gate.sim
        .faults()
        .add(fault("FirewallPolicies.Get", When::EveryNth(2), refused));
    let plan = way.enforcer.observe(way.edge()).await.unwrap().plan(way.edge());
    assert_eq!((plan.changes.len(), plan.obstacles.len()), (0, 0), "{plan:?}");
    let mut more = way.edge().clone();
    more.members[0].grants.push(opening(2, BOB));
    let plan = way.enforcer.observe(&more).await.unwrap().plan(&more);
    assert_eq!(plan.obstacles[0].code, "foreign_rule_in_the_way", "{plan:?}");
    assert_eq!(plan.obstacles[0].grants, [an_id(2)]);
    let mut over = way.edge().clone();
    over.members[0].grants.clear();
    assert_eq!(way.pass(&over).await, []);
    assert!(!lands_at_the_edge(&gate, ADA, port));
}
