//! Azure Firewalls on the ARM simulator: their rules, what is refused, and what gets through.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use postern_sim::arm::{ArmHandle, Fleet, inbound};
use postern_sim::{Effect, FaultRule, Protocol, SteppedClock, When};
use serde_json::{Value, json};

use crate::client::{Client, SUBSCRIPTION};
use crate::started::stepped;

mod limits;
mod policy;
mod routes;

const ADMIN: &str = "203.0.113.7";
const STRANGER: &str = "198.51.100.1";
const OFFICE: &str = "192.168.1.5";
/// The firewall's private address: the first that its subnet gives.
const APPLIANCE: &str = "10.0.9.4";

struct Scene {
    sim: ArmHandle,
    clock: Arc<SteppedClock>,
    client: Client,
    fleet: Fleet,
    machine: String,
    firewall_subnet: String,
    front: String,
}

impl Scene {
    /// A machine without a public address, behind an NSG with these rules, in a subnet that sends everything out
    /// through the firewall to come.
    async fn with(rules: &[Value]) -> Self {
        let (clock, sim, client) = stepped().await;
        let fleet = sim.fleet();
        fleet.group().unwrap();
        let network = fleet.network("net", "10.0.0.0/16").unwrap();
        let firewall_subnet = fleet
            .subnet(&network, "AzureFirewallSubnet", "10.0.9.0/26", None)
            .unwrap();
        let table = fleet.default_route("out", APPLIANCE).unwrap();
        let front = format!("{network}/subnets/front");
        let body = json!({"properties": {"addressPrefix": "10.0.1.0/24", "routeTable": {"id": table}}});
        fleet.put(&front, body).unwrap();
        let group = fleet.security_group("inner", rules).unwrap();
        let interface = fleet.interface("nic", &front, Some(&group), None).unwrap();
        let machine = fleet.virtual_machine("vm", &[&interface], &json!({})).unwrap();
        Self {
            sim,
            clock,
            client,
            fleet,
            machine,
            firewall_subnet,
            front,
        }
    }

    /// Adds the firewall; its id and public address.
    fn firewall(&self, properties: Value) -> (String, String) {
        let id = self
            .fleet
            .firewall("fw", &self.firewall_subnet, properties)
            .unwrap();
        let address = self
            .fleet
            .get(&self.fleet.id("Microsoft.Network/publicIPAddresses/fw-ip"))
            .unwrap();
        (
            id,
            address["properties"]["ipAddress"].as_str().unwrap().to_owned(),
        )
    }

    /// The address that the firewall to come will be called at.
    fn reserve(&self) -> String {
        let id = self.fleet.public_address("fw-ip").unwrap();
        let address = self.fleet.get(&id).unwrap();
        address["properties"]["ipAddress"].as_str().unwrap().to_owned()
    }

    fn from(&self, source: &str, port: u16) -> bool {
        let source = source.parse().unwrap();
        self.sim
            .reachable(&self.machine, source, port, Protocol::Tcp, None)
    }

    fn body(&self, properties: Value) -> Value {
        let mut properties = properties;
        properties["ipConfigurations"] = json!([{ "name": "configuration", "properties": {
            "subnet": { "id": self.firewall_subnet },
            "publicIPAddress": { "id": self.fleet.id("Microsoft.Network/publicIPAddresses/fw-ip") },
        }}]);
        json!({ "location": "westeurope", "properties": properties })
    }
}

fn from_the_firewall() -> [Value; 2] {
    [
        inbound("firewall", 100, "Allow", "10.0.9.0/26", "22"),
        inbound("closed", 200, "Deny", "*", "*"),
    ]
}

/// A NAT rule: to `address:50022`, on to the machine's port 22.
fn translation(address: &str) -> Value {
    json!({
        "name": "ssh", "protocols": ["TCP"], "sourceAddresses": [ADMIN], "destinationAddresses": [address],
        "destinationPorts": ["50022"], "translatedAddress": "10.0.1.4", "translatedPort": "22",
    })
}

fn collection(name: &str, priority: u32, action: &str, rules: &[Value]) -> Value {
    json!({ "name": name, "properties": { "priority": priority, "action": { "type": action }, "rules": rules } })
}

fn passage(source: &str, destination: &str, ports: &str) -> Value {
    json!({
        "name": "pass", "protocols": ["TCP"], "sourceAddresses": [source], "destinationAddresses": [destination],
        "destinationPorts": [ports],
    })
}

fn with<const N: usize>(rule: &Value, changes: [(&str, Value); N]) -> Value {
    let mut rule = rule.clone();
    for (member, value) in changes {
        rule[member] = value;
    }
    rule
}

#[tokio::test]
async fn a_translated_packet_reaches_the_machine_from_the_firewalls_subnet() {
    let scene = Scene::with(&from_the_firewall()).await;
    let address = scene.reserve();
    let (_, public) = scene
        .firewall(json!({"natRuleCollections": [collection("nat", 100, "Dnat", &[translation(&address)])]}));
    assert_eq!(public, address);
    assert!(scene.from(ADMIN, 22));
    assert!(!scene.from(STRANGER, 22), "the rule names another source");
    assert!(!scene.from(ADMIN, 50022), "that is the firewall's port");
    let at = |port, source: &str| {
        let (source, public): (IpAddr, IpAddr) = (source.parse().unwrap(), public.parse().unwrap());
        scene.sim.lands(source, public, port, Protocol::Tcp)
    };
    assert_eq!(at(50022, ADMIN), Some((scene.machine.to_lowercase(), 22)));
    assert_eq!(at(22, ADMIN), None);
    assert_eq!(at(50022, STRANGER), None);
}

#[tokio::test]
async fn a_rule_for_everybody_translates_nothing_of_the_other_family() {
    let scene = Scene::with(&from_the_firewall()).await;
    let address = scene.reserve();
    let everybody = with(&translation(&address), [("sourceAddresses", json!(["*"]))]);
    scene.firewall(json!({"natRuleCollections": [collection("nat", 100, "Dnat", &[everybody])]}));
    assert!(scene.from(STRANGER, 22));
    assert!(!scene.from("2001:db8::7", 22));
}

#[tokio::test]
async fn what_the_fleet_builds_is_in_force_whatever_completions_fail() {
    let scene = Scene::with(&from_the_firewall()).await;
    scene.sim.completions().add(FaultRule {
        operation: "*".to_owned(),
        when: When::Always,
        effect: Effect::Status {
            status: 500,
            code: "InternalServerError".to_owned(),
            message: String::new(),
            retry_after: None,
        },
    });
    let address = scene.reserve();
    let rules = [translation(&address)];
    scene.firewall(json!({"natRuleCollections": [collection("nat", 100, "Dnat", &rules)]}));
    assert!(scene.from(ADMIN, 22));
}

#[tokio::test]
async fn an_nsg_behind_a_translation_does_not_see_the_client() {
    for source in [ADMIN, APPLIANCE] {
        let rules = [
            inbound("narrow", 100, "Allow", source, "22"),
            inbound("closed", 200, "Deny", "*", "*"),
        ];
        let scene = Scene::with(&rules).await;
        let address = scene.reserve();
        scene.firewall(
            json!({"natRuleCollections": [collection("nat", 100, "Dnat", &[translation(&address)])]}),
        );
        assert!(
            !scene.from(ADMIN, 22),
            "packets come from an instance's address, not from {source}"
        );
    }
}

#[tokio::test]
async fn a_network_rule_can_deny_what_a_nat_rule_translates() {
    let scene = Scene::with(&from_the_firewall()).await;
    let address = scene.reserve();
    let denied = collection("stop", 100, "Deny", &[passage("*", "10.0.1.0/24", "22")]);
    let (id, _) = scene.firewall(json!({
        "natRuleCollections": [collection("nat", 100, "Dnat", &[translation(&address)])],
        "networkRuleCollections": [denied],
    }));
    assert!(!scene.from(ADMIN, 22));
    let body =
        scene.body(json!({"natRuleCollections": [collection("nat", 100, "Dnat", &[translation(&address)])]}));
    assert_eq!(scene.client.put(&id, body).await.status, 200);
    assert!(scene.from(ADMIN, 22));
}

#[tokio::test]
async fn routed_packets_need_a_network_rule_and_keep_their_source() {
    let rules = [
        inbound("office", 100, "Allow", "192.168.1.0/24", "22"),
        inbound("closed", 200, "Deny", "*", "*"),
    ];
    let scene = Scene::with(&rules).await;
    let (id, _) = scene.firewall(json!({}));
    assert!(!scene.from(OFFICE, 22), "no rule of the firewall lets it through");
    let pass = collection(
        "in",
        200,
        "Allow",
        &[passage("192.168.1.1-192.168.1.9", "10.0.1.4", "20-30")],
    );
    let body = scene.body(json!({"networkRuleCollections": [pass]}));
    assert_eq!(scene.client.put(&id, body).await.status, 200);
    assert!(scene.from(OFFICE, 22));
    assert!(!scene.from("192.168.1.10", 22));
    assert!(
        !scene.from(ADMIN, 22),
        "nothing public is routed to a private address"
    );
    let stop = collection("first", 100, "Deny", &[passage("*", "*", "*")]);
    let pass = collection("in", 200, "Allow", &[passage("192.168.1.5", "10.0.1.4", "22")]);
    let body = scene.body(json!({"networkRuleCollections": [pass, stop]}));
    assert_eq!(scene.client.put(&id, body).await.status, 200);
    assert!(!scene.from(OFFICE, 22), "the lower number decides");
}

#[tokio::test]
async fn a_firewall_is_one_write_at_a_time_and_in_force_when_it_completes() {
    let scene = Scene::with(&from_the_firewall()).await;
    let address = scene.reserve();
    let (id, _) = scene.firewall(json!({}));
    scene.sim.set_firewall_duration(Duration::from_mins(3));
    let before = scene.client.get(&id).await;
    let body =
        scene.body(json!({"natRuleCollections": [collection("nat", 100, "Dnat", &[translation(&address)])]}));
    let stale = [("if-match", "W/\"11111111-1111-1111-1111-111111111111\"")];
    let refused = scene.client.put_with(&id, body.clone(), &stale).await;
    refused.refused(412, "PreconditionFailed");
    let etag = before.body["etag"].as_str().unwrap();
    let taken = scene
        .client
        .put_with(&id, body.clone(), &[("if-match", etag)])
        .await;
    assert_eq!(
        (taken.status, &taken.body["properties"]["provisioningState"]),
        (200, &json!("Updating"))
    );
    assert!(taken.header("azure-asyncoperation").is_some());
    scene
        .client
        .put(&id, body)
        .await
        .refused(409, "AnotherOperationInProgress");
    assert!(!scene.from(ADMIN, 22), "shown, and not in force yet");
    scene.clock.advance(TimeDelta::seconds(180));
    assert!(scene.from(ADMIN, 22));
    let after = scene.client.get(&id).await;
    assert_eq!(after.body["properties"]["provisioningState"], "Succeeded");
    let shown = &after.body["properties"]["natRuleCollections"][0];
    assert!(
        shown["id"]
            .as_str()
            .unwrap()
            .ends_with("/azureFirewalls/fw/natRuleCollections/nat")
    );
    assert_eq!(shown["properties"]["rules"][0]["translatedPort"], "22");
    let all = format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Network/azureFirewalls");
    let listed = scene.client.get(&all).await;
    assert_eq!(listed.body["value"][0]["name"], "fw");
    assert_eq!(scene.client.delete(&id).await.status, 202);
    assert!(scene.from(ADMIN, 22), "in force until it is gone");
    scene.clock.advance(TimeDelta::seconds(180));
    scene.client.get(&id).await.refused(404, "ResourceNotFound");
    assert!(!scene.from(ADMIN, 22));
}

#[tokio::test]
async fn a_firewall_is_refused_what_azure_refuses() {
    let scene = Scene::with(&[]).await;
    let address = scene.reserve();
    let id = scene.fleet.id("Microsoft.Network/azureFirewalls/fw");
    let nat = translation(&address);
    let pass = passage("*", "10.0.1.4", "22");
    let natted = |rule: Value| json!({"natRuleCollections": [collection("a", 100, "Dnat", &[rule])]});
    let passed = |rule: Value| json!({"networkRuleCollections": [collection("a", 100, "Allow", &[rule])]});
    let cases = [
        (
            natted(with(&nat, [("translatedPort", json!("22-23"))])),
            "AzureFirewallRuleInvalidDnatPortOrRangeFormat",
        ),
        (
            natted(with(&nat, [("translatedPort", json!("*"))])),
            "AzureFirewallRuleInvalidDnatPortOrRangeFormat",
        ),
        (
            natted(with(&nat, [("translatedAddress", json!("10.0.1.0/24"))])),
            "AzureFirewallRuleInvalidDnatAddress",
        ),
        (
            natted(with(&nat, [("destinationAddresses", json!(["*"]))])),
            "AzureFirewallRuleInvalidDnatAddress",
        ),
        (
            natted(with(&nat, [("protocols", json!(["ICMP"]))])),
            "AzureFirewallRuleInvalidProtocol",
        ),
        (
            natted(with(&nat, [("name", json!(""))])),
            "AzureFirewallRuleNameConflict",
        ),
        (
            passed(with(&pass, [("sourceAddresses", json!(["clouddrive"]))])),
            "AzureFirewallRuleInvalidAddressPrefix",
        ),
        (
            passed(with(&pass, [("sourceAddresses", json!([]))])),
            "AzureFirewallRuleParameterMissing",
        ),
        (
            passed(with(&pass, [("destinationPorts", json!(["90-80"]))])),
            "AzureFirewallRuleInvalidPortOrRangeFormat",
        ),
        (
            json!({"networkRuleCollections": [collection("a", 99, "Allow", &[])]}),
            "AzureFirewallRuleCollectionInvalidPriority",
        ),
        (
            json!({"networkRuleCollections": [collection("a", 65001, "Allow", &[])]}),
            "AzureFirewallRuleCollectionInvalidPriority",
        ),
        (
            json!({"networkRuleCollections": [collection("a", 100, "Allow", &[]), collection("b", 100, "Deny", &[])]}),
            "AzureFirewallRuleCollectionPriorityConflict",
        ),
        (
            json!({"natRuleCollections": [collection("a", 100, "Allow", &[])]}),
            "InvalidRequestFormat",
        ),
    ];
    for (properties, code) in cases {
        let answer = scene.client.put(&id, scene.body(properties.clone())).await;
        assert_eq!(answer.body["error"]["code"], code, "{properties}");
    }
    let mut elsewhere = scene.body(json!({}));
    elsewhere["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] = json!(scene.front);
    scene
        .client
        .put(&id, elsewhere)
        .await
        .refused(400, "AzureFirewallIpConfigurationSubnetInvalid");
    let both = json!({
        "networkRuleCollections": [collection("n", 100, "Allow", &[pass])],
        "natRuleCollections": [collection("d", 100, "Dnat", &[nat])],
    });
    assert_eq!(
        scene.client.put(&id, scene.body(both)).await.status,
        201,
        "a number is taken once among collections of one kind"
    );
    let network = scene.fleet.id("Microsoft.Network/virtualNetworks/net");
    scene
        .client
        .delete(&format!("{network}/subnets/AzureFirewallSubnet"))
        .await
        .refused(400, "InUseSubnetCannotBeDeleted");
    let address = scene.fleet.id("Microsoft.Network/publicIPAddresses/fw-ip");
    scene
        .client
        .delete(&address)
        .await
        .refused(400, "PublicIPAddressCannotBeDeleted");
}

#[tokio::test]
async fn a_packet_to_a_machines_own_public_address_comes_past_the_firewalls_translations() {
    let scene = Scene::with(&from_the_firewall()).await;
    let own = scene.fleet.public_address("own-ip").unwrap();
    let group = scene.fleet.id("Microsoft.Network/networkSecurityGroups/inner");
    scene
        .fleet
        .interface("nic", &scene.front, Some(&group), Some(&own))
        .unwrap();
    let own = scene.fleet.get(&own).unwrap()["properties"]["ipAddress"].clone();
    let public = scene.reserve();
    scene.firewall(json!({"natRuleCollections": [collection("nat", 100, "Dnat", &[translation(&public)])]}));
    let asked = async |address: &str, port: u16| {
        let url = format!(
            "{}/_sim/lands?source={ADMIN}&address={address}&port={port}",
            scene.sim.url()
        );
        let http = reqwest::Client::builder().build().unwrap();
        let answer = http.get(url).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let landed = json!({ "machine": scene.machine.to_lowercase(), "port": 22 });
    assert_eq!(asked(&public, 50022).await, landed);
    let own = own.as_str().unwrap();
    assert_eq!(
        asked(own, 22).await,
        Value::Null,
        "the NSG lets the firewall in alone"
    );
    let open = [inbound("everybody", 100, "Allow", "*", "22")];
    scene.fleet.security_group("inner", &open).unwrap();
    assert_eq!(asked(own, 22).await, landed);
    assert_eq!(asked(own, 50022).await, Value::Null);
}
