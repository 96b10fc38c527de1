//! `postern permissions azure --firewalls`, at a classic firewall and at firewalls with a policy.

use postern::demo::gate::Gate;
use postern_api::{
    access_request::{AccessRequestCreate, AccessRequestCreateQuery, AskedTarget},
    grant::GrantRevoke,
    jit_policy::JitPolicyWrite,
    machine::MachineQuery,
    role::RoleAssignmentCreate,
};
use postern_sim::arm::{Fleet as ArmFleet, inbound};

use super::*;

/// What Azure asks for beside a call, for what the written resource names, and the simulator does not.
const LINKED: [&str; 3] = [
    "Microsoft.Network/ipGroups/join/action",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
];

async fn actions(bearer: &str) -> Vec<String> {
    let printed = printed(&["azure", "--firewalls", "--for", bearer, "--account", SUBSCRIPTION]).await;
    iam::texts(&printed["role_definition"]["Actions"])
}

/// The calls were allowed by what is printed, and of what is printed for firewalls each was needed, but what is linked.
async fn assert_besides(bearer: &str, role: &[String], fleet: &Fleet) {
    let needed: BTreeSet<String> = called(fleet)
        .into_iter()
        .filter(|action| action.starts_with("Microsoft."))
        .collect();
    let missing: Vec<&String> = needed.iter().filter(|action| !role.contains(action)).collect();
    assert!(missing.is_empty(), "needed and not printed: {missing:?}");
    let without = role_actions(bearer).await;
    let needless: Vec<&str> = role
        .iter()
        .filter(|action| !without.contains(action) && !needed.contains(*action))
        .map(String::as_str)
        .collect();
    assert_eq!(needless, LINKED, "printed for firewalls and not needed");
}

/// A machine behind a classic firewall, in whose NAT rules `rules` stand.
fn classic(fleet: &ArmFleet, rules: &Value) -> String {
    fleet.group().unwrap();
    let network = fleet.network("edge", "10.60.0.0/16").unwrap();
    let inside = fleet
        .subnet(&network, "AzureFirewallSubnet", "10.60.9.0/26", None)
        .unwrap();
    let table = fleet.default_route("out", "10.60.9.4").unwrap();
    let front = format!("{network}/subnets/front");
    let routed = json!({ "addressPrefix": "10.60.1.0/24", "routeTable": { "id": table } });
    fleet.put(&front, json!({ "properties": routed })).unwrap();
    let everybody = [inbound("ssh", 3000, "Allow", "*", "22")];
    let machine = fleet.machine("behind", &front, &everybody, &json!({})).unwrap();
    fleet
        .firewall("classic", &inside, json!({ "natRuleCollections": rules }))
        .unwrap();
    machine.machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_needs_at_firewalls_what_is_printed_for_them() {
    let role = actions("server").await;
    let mut fleet = Fleet::start(Arc::new(postern_sim::SystemClock)).await.unwrap();
    fleet.gate = Some(Gate::build(&fleet.arm).unwrap());
    let behind = classic(&fleet.arm.fleet().in_group("edge"), &json!([]));
    let machines = [behind, fleet.gate.as_ref().unwrap().machine.clone()];
    fleet.arm.set_firewall_duration(Duration::ZERO);
    fleet.arm.calls().reset();
    limit(&fleet, &role);
    let stage = Stage::over(
        fleet,
        Keeping::Nothing,
        0,
        Arc::new(SystemClock),
        Arc::new(RandomIds),
        NotifyConfig::default(),
    )
    .await
    .unwrap();
    let (olga, ada) = (stage.client("olga").unwrap(), stage.client("ada").unwrap());
    let assignment = RoleAssignmentCreate {
        role: "requester".to_owned(),
        principal: "user:demo/ada".to_owned(),
        scope: "/azure".to_owned(),
        ..RoleAssignmentCreate::default()
    };
    olga.create_role_assignment(None, &assignment).await.unwrap();
    let document: JitPolicyWrite = serde_json::from_value(json!({
        "name": "doors", "scope": "/azure",
        "guards": [{ "ports": "22", "allowed_sources": ["203.0.113.0/24"], "max_duration_seconds": 3600 }],
    }))
    .unwrap();
    olga.create_jit_policy(None, &document).await.unwrap();
    let mut found = 0;
    for _ in 0..600 {
        let all = olga.machines(&MachineQuery::default()).await.unwrap().items;
        found = all.iter().filter(|one| machines.contains(&one.id)).count();
        if found == machines.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(found, machines.len(), "the machines are found");
    let wanted = AccessRequestCreate {
        targets: machines
            .iter()
            .map(|machine| AskedTarget {
                machine: machine.clone(),
                ports: vec!["22".to_owned()],
                sources: Some(vec!["203.0.113.7/32".to_owned()]),
            })
            .collect(),
        duration_seconds: 600,
        reason: "story: doors".to_owned(),
        ticket: None,
        starts_at: None,
        mode: None,
    };
    let wait = AccessRequestCreateQuery {
        wait: Some(50),
        ..AccessRequestCreateQuery::default()
    };
    let request = ada.create_access_request(None, &wait, &wanted).await.unwrap();
    for grant in &request.grants {
        assert_eq!(grant.status, "open", "{request:?}");
        ada.revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
    for grant in &request.grants {
        let mut status = String::new();
        for _ in 0..600 {
            status = ada.grant(&grant.id).await.unwrap().status;
            if status == "closed" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(status, "closed");
    }
    assert_besides("server", &role, &stage.fleet).await;
    stage.stop().await.unwrap();
}

/// A collection of ours with a rule for each grant that is named here, as a policy's or a classic firewall's.
fn doors(grants: &[(u8, &str)], in_policy: bool) -> Value {
    let rules: Vec<Value> = grants
        .iter()
        .map(|(grant, end)| {
            let mut rule = json!({
                "name": format!("postern-swept-{grant:032x}d22-0a3c01090a3c0901"),
                "description": crate::sweep::mark(*grant, end),
                "sourceAddresses": ["203.0.113.7"], "destinationAddresses": ["20.0.0.9"],
                "destinationPorts": [format!("{}", 50_000 + u16::from(*grant))],
                "translatedAddress": "10.60.1.9", "translatedPort": "22",
            });
            let protocols = if in_policy { "ipProtocols" } else { "protocols" };
            rule[protocols] = json!(["TCP"]);
            if in_policy {
                rule["ruleType"] = json!("NatRule");
            }
            rule
        })
        .collect();
    if in_policy {
        json!({
            "name": "postern-swept-nat", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 100,
            "action": { "type": "DNAT" }, "rules": rules,
        })
    } else {
        json!({
            "name": "postern-swept-nat",
            "properties": { "priority": 100, "action": { "type": "Dnat" }, "rules": rules },
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweeper_needs_at_firewalls_what_is_printed_for_them() {
    use crate::sweep::{FUTURE, PAST};

    let role = actions("sweeper").await;
    let fleet = Fleet::start(Arc::new(postern_sim::SystemClock)).await.unwrap();
    let edge = fleet.arm.fleet().in_group("edge");
    classic(&edge, &json!([doors(&[(1, PAST), (2, FUTURE)], false)]));
    for (name, grants) in [("one", &[(3, PAST)][..]), ("two", &[(4, PAST), (5, FUTURE)])] {
        let policy = edge.firewall_policy(name).unwrap();
        let collections = json!({ "priority": 200, "ruleCollections": [doors(grants, true)] });
        let group = format!("{policy}/ruleCollectionGroups/postern-swept");
        edge.put(&group, json!({ "properties": collections })).unwrap();
    }
    fleet.arm.set_firewall_duration(Duration::ZERO);
    fleet.arm.calls().reset();
    limit(&fleet, &role);
    let rig = crate::rig::Rig::new("swept", &fleet, "");
    let output = rig.run(&["sweep", "--apply", "--json"]).await;
    let (document, told) = said(&output);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(crate::sweep::count(&report, "removed"), 3, "{report}");
    assert_besides("sweeper", &role, &fleet).await;
}
