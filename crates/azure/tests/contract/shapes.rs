//! Network shapes: several interfaces and addresses, application security groups, a subnet that machines share.

use std::net::IpAddr;

use postern_core::{
    enforcer::Enforcer,
    id::GrantId,
    inventory::{Layer, Machine},
    machine::MachineId,
    mark::Purpose,
    net::Source,
    reach::{Verdict, reach_machine},
    testing::{an_id, ports},
};
use postern_sim::{Protocol, arm::inbound};
use serde_json::{Value, json};

use crate::scene::{Scene, config, enforcer, grant, guard};

const ADA: &str = "203.0.113.7";
const BOB: &str = "198.51.100.1";

impl Scene {
    fn reaches(&self, machine: &MachineId, source: &str, port: u16) -> bool {
        self.sim.reachable(
            &machine.to_string(),
            source.parse().unwrap(),
            port,
            Protocol::Tcp,
            None,
        )
    }

    /// The scene with few numbers above the rule that holds SSH open.
    async fn tight(first: u16) -> Self {
        let mut scene = Self::new().await;
        let mut config = config(&scene.sim);
        config.band.first = first;
        scene.enforcer = enforcer(config);
        scene
    }

    async fn machines(&self) -> Vec<Machine> {
        let account = self.web.account();
        self.enforcer.discover(&account, None).await.unwrap().machines
    }

    async fn machine(&self, name: &str) -> Machine {
        let all = self.machines().await;
        all.into_iter().find(|machine| machine.name == name).unwrap()
    }
}

#[tokio::test]
async fn grants_that_share_a_rule_open_and_close_apart_and_the_sweeper_tells_them_apart() {
    let scene = Scene::tight(2998).await;
    let mut wanted = scene.desired().await;
    let (ada, bob) = (grant(1, &["22"], &[ADA]), grant(2, &["22"], &[BOB]));
    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22"]);
        scene.grants(one, &[&ada]);
    }
    scene.converge(&wanted).await;
    let alone = scene.rules();
    assert!(scene.reachable(ADA, 22) && !scene.reachable(BOB, 22));
    for one in &mut wanted {
        scene.grants(one, &[&ada, &bob]);
    }
    scene.converge(&wanted).await;
    assert!(scene.reachable(ADA, 22) && scene.reachable(BOB, 22));
    assert!(!scene.reachable("203.0.113.8", 22));
    let evidence = scene.evidence(&wanted[0]).await;
    assert_eq!(evidence.len(), 2);
    assert!(evidence.values().all(|evidence| evidence.complete));

    let account = wanted[0].point.account();
    let installation = &wanted[0].installation.clone();
    let found = scene.enforcer.marked(&account, installation).await.unwrap();
    let of = |grant: GrantId| {
        found
            .iter()
            .filter(|marked| matches!(marked.mark.purpose, Purpose::Grant { grant: one, .. } if one == grant))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!((of(ada.grant).len(), of(bob.grant).len()), (2, 2));
    for marked in of(bob.grant) {
        scene.enforcer.remove(&marked).await.unwrap();
        scene.enforcer.remove(&marked).await.unwrap();
    }
    assert!(scene.reachable(ADA, 22) && !scene.reachable(BOB, 22));
    assert_eq!(scene.rules(), alone, "what is left is the rule as it was");
    scene.converge(&wanted).await;
    assert!(scene.reachable(BOB, 22), "what is wanted comes back");
    for one in &mut wanted {
        scene.grants(one, &[&bob]);
    }
    scene.converge(&wanted).await;
    assert!(!scene.reachable(ADA, 22) && scene.reachable(BOB, 22));
    for marked in scene.enforcer.marked(&account, installation).await.unwrap() {
        let Purpose::Grant { grant, .. } = marked.mark.purpose else {
            continue;
        };
        assert_eq!(grant, bob.grant);
        scene.enforcer.remove(&marked).await.unwrap();
        scene.enforcer.remove(&marked).await.unwrap();
    }
    assert!(!scene.reachable(BOB, 22));
}

/// Puts the IP configurations of the machine's interface into these groups, one each.
fn join_groups(scene: &Scene, groups: &[Option<&str>]) {
    let nic = scene.fleet.id("Microsoft.Network/networkInterfaces/web-nic");
    let mut body = scene.fleet.get(&nic).unwrap();
    let mut first = body["properties"]["ipConfigurations"][0].clone();
    first["properties"]["applicationSecurityGroups"] = json!([]);
    let configurations: Vec<Value> = groups
        .iter()
        .enumerate()
        .map(|(at, group)| {
            let mut one = if at == 0 {
                first.clone()
            } else {
                let subnet = first["properties"]["subnet"].clone();
                json!({ "name": format!("more{at}"), "properties": { "subnet": subnet } })
            };
            if let Some(group) = group {
                let id = scene
                    .fleet
                    .id(&format!("Microsoft.Network/applicationSecurityGroups/{group}"));
                scene
                    .fleet
                    .put(&id, json!({ "location": "westeurope", "properties": {} }))
                    .unwrap();
                one["properties"]["applicationSecurityGroups"] = json!([{ "id": id }]);
            }
            one
        })
        .collect();
    body["properties"]["ipConfigurations"] = json!(configurations);
    scene.fleet.put(&nic, body).unwrap();
}

/// An inbound rule whose destination is a group.
fn to_group(scene: &Scene, name: &str, priority: u16, access: &str, group: &str) -> Value {
    let mut rule = inbound(name, priority, access, "*", "22");
    let properties = rule["properties"].as_object_mut().unwrap();
    properties.remove("destinationAddressPrefix");
    let id = scene
        .fleet
        .id(&format!("Microsoft.Network/applicationSecurityGroups/{group}"));
    properties.insert(
        "destinationApplicationSecurityGroups".to_owned(),
        json!([{ "id": id }]),
    );
    rule
}

#[tokio::test]
async fn discovery_knows_the_groups_of_an_interface() {
    let scene = Scene::new().await;
    let memberships = |machine: &Machine| {
        let Layer::Nsg {
            memberships,
            possible_memberships,
            ..
        } = &machine.interfaces[0].layers[0]
        else {
            panic!("{machine:?}");
        };
        (memberships.len(), possible_memberships.len())
    };
    assert_eq!(memberships(&scene.machine("web").await), (0, 0));
    join_groups(&scene, &[Some("web"), Some("web")]);
    let web = scene.machine("web").await;
    assert_eq!(memberships(&web), (1, 0));
    assert_eq!(web.interfaces[0].addresses.len(), 2);

    // What is known of the groups decides what is said of a rule.
    let id = format!("{}/securityRules/no-web", scene.nsg_id(&scene.inner));
    scene
        .fleet
        .put(&id, to_group(&scene, "no-web", 200, "Deny", "web"))
        .unwrap();
    let source: Source = ADA.parse().unwrap();
    let verdict = reach_machine(&scene.machine("web").await, source, ports("22")).verdict;
    assert_eq!(verdict, Verdict::Denied);
    assert!(!scene.reachable(ADA, 22));
    join_groups(&scene, &[None, None]);
    let verdict = reach_machine(&scene.machine("web").await, source, ports("22")).verdict;
    assert_eq!(verdict, Verdict::Allowed, "a rule for a group that it is not in");
    assert!(scene.reachable(ADA, 22));
}

#[tokio::test]
async fn a_deny_for_a_group_may_block_a_grant_and_an_allow_for_one_is_locked_out() {
    let scene = Scene::new().await;
    join_groups(&scene, &[Some("web")]);
    let inner = scene.nsg_id(&scene.inner);
    let put = |name: &str, priority: u16, access: &str| {
        let rule = to_group(&scene, name, priority, access, "web");
        scene
            .fleet
            .put(&format!("{inner}/securityRules/{name}"), rule)
            .unwrap();
    };
    put("open-web", 2000, "Allow");
    let mut wanted = scene.desired().await;
    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22"]);
    }
    scene.converge(&wanted).await;
    assert!(
        !scene.reachable(ADA, 22),
        "the deny stands above the group's allow"
    );
    put("no-web", 1000, "Deny");
    for one in &mut wanted {
        scene.grants(one, &[&grant(1, &["22"], &[ADA])]);
    }
    scene.converge(&wanted).await;
    assert!(!scene.reachable(ADA, 22), "nobody's deny is overruled");
    let observed = scene.enforcer.observe(&wanted[1]).await.unwrap();
    let findings = observed.plan(&wanted[1]).findings;
    assert_eq!(findings[0].code, "foreign_rule_may_block");
    assert!(
        findings[0].message.contains("`no-web` (priority 1000)"),
        "{findings:?}"
    );
    assert_eq!(findings[0].grants, [an_id(1001)]);
}

#[tokio::test]
async fn two_interfaces_of_two_subnets_with_secondary_addresses_and_both_families() {
    let scene = Scene::new().await;
    let network = scene.fleet.id("Microsoft.Network/virtualNetworks/net");
    let mut body = scene.fleet.get(&network).unwrap();
    body["properties"]["addressSpace"]["addressPrefixes"] = json!(["10.0.0.0/16", "fd00:1::/48"]);
    scene.fleet.put(&network, body).unwrap();
    let ssh = [inbound("ssh", 3000, "Allow", "*", "22")];
    let back = scene.fleet.security_group("back-nsg", &ssh).unwrap();
    let side = scene.fleet.security_group("side-nsg", &ssh).unwrap();
    let subnet = |name: &str, v4: &str, v6: &str| {
        let id = format!("{network}/subnets/{name}");
        let group = json!({ "id": back });
        scene
            .fleet
            .put(
                &id,
                json!({ "properties": { "addressPrefixes": [v4, v6], "networkSecurityGroup": group } }),
            )
            .unwrap();
        id
    };
    let (one, two) = (
        subnet("one", "10.0.2.0/24", "fd00:1:0:2::/64"),
        subnet("two", "10.0.3.0/24", "fd00:1:0:3::/64"),
    );
    let interface = |name: &str, subnet: &str, group: Option<&str>| {
        let id = scene
            .fleet
            .id(&format!("Microsoft.Network/networkInterfaces/{name}"));
        let configuration = |name: &str, version: &str| json!({ "name": name, "properties": { "subnet": { "id": subnet }, "privateIPAddressVersion": version } });
        let mut properties = json!({ "ipConfigurations": [
            configuration("first", "IPv4"), configuration("second", "IPv4"), configuration("six", "IPv6"),
        ] });
        if let Some(group) = group {
            properties["networkSecurityGroup"] = json!({ "id": group });
        }
        scene
            .fleet
            .put(&id, json!({ "location": "westeurope", "properties": properties }))
            .unwrap();
        id
    };
    let (eth0, eth1) = (
        interface("eth0", &one, Some(&side)),
        interface("eth1", &two, None),
    );
    let vm: MachineId = scene
        .fleet
        .virtual_machine("twin", &[&eth0, &eth1], &json!({}))
        .unwrap()
        .parse()
        .unwrap();

    let machine = scene.machine("twin").await;
    assert_eq!(machine.interfaces.len(), 2);
    assert_eq!(machine.addresses().len(), 6);
    assert_eq!(
        machine
            .addresses()
            .iter()
            .filter(|address| address.is_ipv6())
            .count(),
        2
    );
    let points: Vec<String> = machine.grant_points().iter().map(ToString::to_string).collect();
    assert_eq!(points.len(), 2, "{points:?}");

    let (v4, v6) = (ADA, "2001:db8::7");
    let mut wanted = Vec::new();
    for point in machine.grant_points() {
        wanted.push(scene.desired_at(&point).await);
    }
    assert_eq!(
        wanted[0].members[0].addresses.len(),
        6,
        "both interfaces are behind the subnets' NSG"
    );
    assert_eq!(wanted[1].members[0].addresses.len(), 3, "one is behind its own");
    for one in &mut wanted {
        guard(one, &vm, 1, &["22"]);
    }
    assert!(scene.reaches(&vm, v4, 22) && scene.reaches(&vm, v6, 22));
    scene.converge(&wanted).await;
    assert!(!scene.reaches(&vm, v4, 22) && !scene.reaches(&vm, v6, 22));
    let one = grant(1, &["22"], &[v4, v6]);
    for desired in &mut wanted {
        for member in &mut desired.members {
            member.grants = vec![one.clone()];
        }
    }
    scene.converge(&wanted).await;
    assert!(scene.reaches(&vm, v4, 22) && scene.reaches(&vm, v6, 22));
    assert!(!scene.reaches(&vm, BOB, 22));
    let machine = scene.machine("twin").await;
    for source in [v4, v6] {
        let found = reach_machine(&machine, source.parse().unwrap(), ports("22"));
        assert_eq!(
            found.verdict,
            Verdict::Allowed,
            "every address of both interfaces"
        );
    }
    for desired in &wanted {
        assert!(scene.evidence(desired).await[&one.grant].complete);
    }
}

#[tokio::test]
async fn a_subnets_nsg_opens_for_one_machine_and_keeps_its_neighbours_closed() {
    let scene = Scene::new().await;
    let machines = scene.machines().await;
    let db = machines.iter().find(|machine| machine.name == "db").unwrap();
    let mut wanted = vec![
        scene.desired_at(&scene.outer).await,
        scene.desired_at(&scene.inner).await,
        scene.desired_at(&scene.db).await,
    ];
    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22"]);
        guard(one, &db.id, 1, &["22"]);
        scene.grants(one, &[&grant(1, &["22"], &[ADA])]);
    }
    scene.converge(&wanted).await;
    assert!(scene.reaches(&scene.web, ADA, 22) && !scene.reaches(&db.id, ADA, 22));
    // The neighbour's own NSG being open does not open the subnet's.
    for member in &mut wanted[2].members {
        member.guard = None;
    }
    scene.converge(&wanted).await;
    assert!(!scene.reaches(&db.id, ADA, 22));
    let addresses: Vec<IpAddr> = machines.iter().flat_map(Machine::addresses).collect();
    assert_eq!(addresses.len(), 2);
}
