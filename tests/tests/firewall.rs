//! A machine behind an Azure Firewall, from discovery to the address that the requester connects to: packets are judged
//! by the simulator, which knows nothing of ours.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail by panicking"
)]

use std::{net::IpAddr, time::Duration};

use postern_api::{
    access_request::AccessRequestCreateQuery,
    grant::{Entrance, Grant, GrantRevoke},
    jit_policy::ReachChange,
    machine::MachineQuery,
};
use postern_sim::{Protocol, arm::inbound};
use postern_tests::{
    Person, World, WorldOptions,
    world::{CLIENT, a_policy, a_request},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);
const STRANGER: [u8; 4] = [198, 51, 100, 1];
/// Longer than the server waits for one change.
const SLOW: Duration = Duration::from_secs(3);

/// A machine whose subnet's route leads to a firewall, which has a rule of somebody else's.
struct Gate {
    world: World,
    fleet: postern_sim::arm::Fleet,
    machine: String,
    firewall: String,
    policy: Option<String>,
    nsg: String,
}

impl Gate {
    async fn new(with_policy: bool) -> Self {
        let world = World::new(
            WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with("discovery_interval_seconds = 5"),
        )
        .await;
        let fleet = world.fleet.arm.fleet().in_group("hub");
        fleet.group().unwrap();
        let network = fleet.network("hub", "10.60.0.0/16").unwrap();
        let inside = fleet
            .subnet(&network, "AzureFirewallSubnet", "10.60.9.0/26", None)
            .unwrap();
        let table = fleet.default_route("out", "10.60.9.4").unwrap();
        let front = format!("{network}/subnets/front");
        let body =
            json!({ "properties": { "addressPrefix": "10.60.1.0/24", "routeTable": { "id": table } } });
        fleet.put(&front, body).unwrap();
        let nsg = fleet
            .security_group("gate", &[inbound("ssh", 3000, "Allow", "*", "22")])
            .unwrap();
        let interface = fleet.interface("nic", &front, Some(&nsg), None).unwrap();
        let machine = fleet
            .virtual_machine("behind", &[&interface], &json!({}))
            .unwrap();
        let address = fleet.public_address("Edge-ip").unwrap();
        let public = fleet.get(&address).unwrap()["properties"]["ipAddress"].clone();
        let mut rule = foreign_rule("web", &public, "50000");
        let mut policy = None;
        let mut properties = if with_policy {
            let id = fleet.firewall_policy("rules").unwrap();
            rule["ruleType"] = json!("NatRule");
            let group = json!({ "properties": { "priority": 100, "ruleCollections": [
                { "name": "theirs", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 100,
                  "action": { "type": "DNAT" }, "rules": [rule] },
            ] } });
            fleet
                .put(&format!("{id}/ruleCollectionGroups/theirs"), group)
                .unwrap();
            let properties = json!({ "firewallPolicy": { "id": id } });
            policy = Some(id);
            properties
        } else {
            json!({ "natRuleCollections": [
                { "name": "theirs", "properties": { "priority": 100, "action": { "type": "Dnat" }, "rules": [rule] } },
            ] })
        };
        properties["novelty"] = json!([1.5, null]);
        let firewall = fleet.firewall("Edge", &inside, properties).unwrap();
        Self {
            world,
            fleet,
            machine,
            firewall,
            policy,
            nsg,
        }
    }

    /// The document that others' rules are in.
    fn theirs(&self) -> String {
        self.policy.as_ref().map_or_else(
            || self.firewall.clone(),
            |policy| format!("{policy}/ruleCollectionGroups/theirs"),
        )
    }

    /// Everything that somebody else may care about, but for what changes with each write.
    fn shown(&self) -> Vec<Value> {
        let mut ids = vec![self.firewall.clone(), self.theirs(), self.nsg.clone()];
        ids.extend(self.policy.clone());
        let mut all: Vec<Value> = ids.iter().map(|id| self.fleet.get(id).unwrap()).collect();
        all.iter_mut().for_each(strip);
        all
    }

    /// Somebody adds a rule; the documents as they are then.
    async fn edit(&self) {
        let id = self.theirs();
        self.world
            .eventually("somebody's edit is taken", PATIENCE, async || {
                let mut document = self.fleet.get(&id).unwrap();
                let rules = if self.policy.is_some() {
                    &mut document["properties"]["ruleCollections"][0]["rules"]
                } else {
                    let all = document["properties"]["natRuleCollections"]
                        .as_array_mut()
                        .unwrap();
                    let theirs = all.iter_mut().find(|one| one["name"] == "theirs").unwrap();
                    &mut theirs["properties"]["rules"]
                };
                let rules = rules.as_array_mut().unwrap();
                let mut rule = rules[0].clone();
                rule["name"] = json!("late");
                rule["destinationPorts"] = json!(["50009"]);
                rules.push(rule);
                self.fleet.put(&id, document).ok()
            })
            .await;
    }

    /// Where a packet to the entrance gets to.
    fn lands(&self, source: [u8; 4], host: IpAddr, port: u16) -> Option<(String, u16)> {
        self.world
            .fleet
            .arm
            .lands(source.into(), host, port, Protocol::Tcp)
    }

    async fn revoke(&self, grant: &Grant) {
        let ada = self.world.client(Person::Ada);
        ada.revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
}

fn foreign_rule(name: &str, public: &Value, port: &str) -> Value {
    json!({
        "name": name, "sourceAddresses": ["*"], "destinationAddresses": [public], "destinationPorts": [port],
        "translatedAddress": "10.60.1.9", "translatedPort": "443", "protocols": ["TCP"], "ipProtocols": ["TCP"],
    })
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("etag");
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn only(grant: &Grant) -> (IpAddr, u16) {
    let [Entrance { leads_to, host, port }] = grant.entrances.as_slice() else {
        panic!("{grant:#?}");
    };
    assert_eq!(leads_to, "22/tcp");
    (host.parse().unwrap(), *port)
}

async fn story(with_policy: bool) {
    let gate = Gate::new(with_policy).await;
    let world = &gate.world;
    let server = world.serve(&[]).await;
    world.lock_down().await;
    world
        .eventually("the machine is found", PATIENCE, async || {
            let olga = world.client(Person::Olga);
            olga.machine(&gate.machine).await.ok()
        })
        .await;
    world.quiet().await;
    let locked = gate.shown();

    let dry = world
        .client(Person::Ada)
        .dry_run_access_request(&a_request(&[&gate.machine], 600))
        .await
        .unwrap();
    let foretold: Vec<_> = dry
        .writes
        .iter()
        .filter(|point| point.point.starts_with("azure:firewall"))
        .flat_map(|point| &point.changes)
        .collect();
    let [change] = foretold.as_slice() else {
        panic!("{dry:#?}");
    };
    let rules = change.after.clone().unwrap();
    assert_eq!(rules[0]["translatedPort"], "22");
    let told = serde_json::to_string(&dry.writes).unwrap();
    assert!(
        !told.contains("10.60.1.9"),
        "others' machines are nobody's business"
    );

    let granted = world.request(&[&gate.machine], 600, 30).await;
    let [grant] = granted.grants.as_slice() else {
        panic!("{granted:#?}");
    };
    assert_eq!(grant.status, "open", "{grant:#?}\n{}", server.log_tail());
    let (host, port) = only(grant);
    assert_ne!(port, 50000, "where somebody else's rule leads elsewhere from");
    assert_eq!(
        gate.lands(CLIENT, host, port),
        Some((gate.machine.to_lowercase(), 22))
    );
    assert_eq!(gate.lands(STRANGER, host, port), None);
    assert_eq!(gate.lands(CLIENT, host, port + 1), None);
    assert!(!world.reachable(&gate.machine, CLIENT, 3389));

    // Somebody else's edit, and a second grant for the same port: one mapped port, told to both.
    gate.edit().await;
    let second = world.request(&[&gate.machine], 600, 30).await;
    assert_eq!(only(&second.grants[0]), (host, port));
    gate.revoke(grant).await;
    world.until(&grant.id, "closed", PATIENCE).await;
    assert!(
        gate.lands(CLIENT, host, port).is_some(),
        "the second grant is open"
    );
    gate.revoke(&second.grants[0]).await;
    world.until(&second.grants[0].id, "closed", PATIENCE).await;
    assert_eq!(gate.lands(CLIENT, host, port), None);
    world.quiet().await;

    // What stands is what stood, with their rule.
    let mut expected = locked;
    for document in &mut expected {
        let members = ["natRuleCollections", "ruleCollections"];
        for member in members {
            let Some(all) = document["properties"].get_mut(member) else {
                continue;
            };
            for one in all.as_array_mut().unwrap() {
                let rules = match one.get_mut("rules") {
                    Some(rules) => rules,
                    None => &mut one["properties"]["rules"],
                };
                let rules = rules.as_array_mut().unwrap();
                let mut late = rules[0].clone();
                late["name"] = json!("late");
                late["destinationPorts"] = json!(["50009"]);
                rules.push(late);
            }
        }
    }
    assert_eq!(gate.shown(), expected);
    if let Some(policy) = &gate.policy {
        let groups = gate
            .fleet
            .get(&format!("{policy}/ruleCollectionGroups/postern-test"));
        assert!(groups.is_err(), "our group is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_classic_firewall_lets_in_the_grants_client_alone_and_is_left_as_it_was() {
    story(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firewall_policy_lets_in_the_grants_client_alone_and_is_left_as_it_was() {
    story(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_waits_for_a_slow_firewall_and_the_nsg_stays_shut_meanwhile() {
    let gate = Gate::new(false).await;
    let world = &gate.world;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    world.fleet.arm.set_firewall_duration(SLOW);
    let granted = world
        .client(Person::Ada)
        .create_access_request(
            None,
            &AccessRequestCreateQuery::default(),
            &a_request(&[&gate.machine], 600),
        )
        .await
        .unwrap();
    let id = granted.grants[0].id.clone();
    let waiting = world
        .eventually("the firewall is asked", PATIENCE, async || {
            let grant = world.client(Person::Ada).grant(&id).await.ok()?;
            grant
                .hops
                .iter()
                .any(|hop| hop.state == "unknown")
                .then_some(grant)
        })
        .await;
    let firewall = waiting.waits_for.clone().unwrap_or_default();
    assert!(firewall.starts_with("azure:firewall:"), "{waiting:#?}");
    let nsg = waiting
        .hops
        .iter()
        .find(|hop| hop.point.starts_with("azure:nsg:"))
        .unwrap();
    assert_eq!(nsg.state, "absent", "{waiting:#?}");
    assert_eq!(waiting.entrances, [], "what is not there is not told");
    let open = world.until(&id, "open", PATIENCE).await;
    let (host, port) = only(&open);
    assert!(gate.lands(CLIENT, host, port).is_some());
    gate.revoke(&open).await;
    world
        .eventually("the way is shut", PATIENCE, async || {
            gate.lands(CLIENT, host, port).is_none().then_some(())
        })
        .await;
    world.until(&id, "closed", PATIENCE).await;
}

/// Others' NAT rule leads an office to SSH, which the machine's NSG lets in, and their network rule lets a site through that
/// a route leads there: a policy that shuts it takes it from both, and is told so before and gives it back after. Of
/// somebody else nothing is told for certain.
async fn a_plan_tells_whom_a_nat_rule_leads_in(with_policy: bool) {
    let gate = Gate::new(with_policy).await;
    let world = &gate.world;
    let mut document = gate.fleet.get(&gate.theirs()).unwrap();
    let theirs = if with_policy {
        "/properties/ruleCollections/0/rules"
    } else {
        "/properties/natRuleCollections/0/properties/rules"
    };
    let rules = document.pointer_mut(theirs).unwrap().as_array_mut().unwrap();
    let mut office = rules[0].clone();
    let host: IpAddr = office["destinationAddresses"][0]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let nic = gate.machine.replace(
        "Microsoft.Compute/virtualMachines/behind",
        "Microsoft.Network/networkInterfaces/nic",
    );
    let interface = gate.fleet.get(&nic).unwrap();
    office["name"] = json!("office");
    office["sourceAddresses"] = json!(["198.51.100.0/24"]);
    office["destinationPorts"] = json!(["50022"]);
    office["translatedAddress"] =
        interface["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"].clone();
    office["translatedPort"] = json!("22");
    rules.push(office);
    let site = json!({
        "name": "site", "ruleType": "NetworkRule", "protocols": ["TCP"], "ipProtocols": ["TCP"],
        "sourceAddresses": ["192.168.7.0/24"], "destinationAddresses": ["10.60.1.0/24"], "destinationPorts": ["22"],
    });
    if with_policy {
        let collections = document["properties"]["ruleCollections"].as_array_mut();
        collections.unwrap().push(json!({
            "name": "sites", "ruleCollectionType": "FirewallPolicyFilterRuleCollection", "priority": 200,
            "action": { "type": "Allow" }, "rules": [site],
        }));
    } else {
        document["properties"]["networkRuleCollections"] = json!([
            { "name": "sites", "properties": { "priority": 200, "action": { "type": "Allow" }, "rules": [site] } },
        ]);
    }
    gate.fleet.put(&gate.theirs(), document).unwrap();
    let office_gets_in = || gate.lands(STRANGER, host, 50022).is_some();
    let from = |site: u8| {
        let source = IpAddr::from([192, 168, site, 5]);
        let arm = &world.fleet.arm;
        arm.reachable(&gate.machine, source, 22, Protocol::Tcp, None)
    };

    let _server = world.serve(&[]).await;
    let olga = world.client(Person::Olga);
    world
        .eventually("the machine is found", PATIENCE, async || {
            let page = olga.machines(&MachineQuery::default()).await.ok()?;
            (page.items.len() >= 5 && olga.machine(&gate.machine).await.is_ok()).then_some(())
        })
        .await;
    assert!(office_gets_in() && gate.lands(CLIENT, host, 50022).is_none());
    assert!(from(7) && !from(8), "the other site passes no network rule");

    let certain = |changes: &[ReachChange]| -> Vec<(Vec<String>, String, Option<String>)> {
        let here = changes
            .iter()
            .filter(|one| one.machine == gate.machine && one.certain);
        here.map(|one| (one.sources.clone(), one.ports.clone(), one.nat_rule.clone()))
            .collect()
    };
    let told = [
        // Its own network comes past the firewall, the site through it.
        (
            vec!["10.60.0.0/16".to_owned(), "192.168.7.0/24".to_owned()],
            "22/tcp".to_owned(),
            None,
        ),
        (
            vec!["198.51.100.0/24".to_owned()],
            "22/tcp".to_owned(),
            Some("office".to_owned()),
        ),
    ];
    let is_told = |changes: &[ReachChange]| {
        let found = certain(changes);
        for (sources, ports, nat) in &told {
            let is_it = |one: &(Vec<String>, String, Option<String>)| {
                one.0 == *sources && one.1 == *ports && one.2.is_some() == nat.is_some() && {
                    let rule = one.2.as_deref().unwrap_or_default();
                    rule.ends_with(nat.as_deref().unwrap_or_default())
                }
            };
            assert!(found.iter().any(is_it), "{sources:?}: {changes:#?}");
        }
        let ssh = found.iter().filter(|(_, ports, _)| ports == "22/tcp");
        assert_eq!(ssh.count(), told.len(), "{changes:#?}");
    };
    let wish = a_policy("everything", "/");
    let plan = olga.plan_create_jit_policy(&wish).await.unwrap();
    assert_eq!((plan.machines_not_foreseen, plan.points_not_read), (0, 0));
    is_told(&plan.losses);
    let made = olga.create_jit_policy(None, &wish).await.unwrap();
    world
        .eventually("both are shut out", PATIENCE, async || {
            (!office_gets_in() && !from(7)).then_some(())
        })
        .await;
    world.quiet().await;
    let plan = olga.plan_delete_jit_policy(&made.id, made.version).await.unwrap();
    is_told(&plan.gains);
    assert!(plan.losses.is_empty(), "{:#?}", plan.losses);
    olga.delete_jit_policy(&made.id, made.version).await.unwrap();
    world
        .eventually("both get in again", PATIENCE, async || {
            (office_gets_in() && from(7)).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tells_whom_a_classic_firewall_leads_in() {
    a_plan_tells_whom_a_nat_rule_leads_in(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tells_whom_a_firewall_with_a_policy_leads_in() {
    a_plan_tells_whom_a_nat_rule_leads_in(true).await;
}
