//! Load balancers on the ARM simulator: what is refused of them, and whom they send on to machines.

use std::net::IpAddr;

use postern_sim::Protocol;
use postern_sim::arm::{ArmHandle, ArmOptions, ArmSim, Fleet, inbound};
use serde_json::{Value, json};

struct Scene {
    sim: ArmHandle,
    fleet: Fleet,
    subnet: String,
    interface: String,
    machine: String,
}

/// A machine at 10.0.1.4 in a network with a firewall that translates port 50022 to 10.0.1.5, port 2222.
async fn scene() -> Scene {
    let sim = ArmSim::start(ArmOptions::default()).await.unwrap();
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let network = fleet.network("net", "10.0.0.0/16").unwrap();
    let edge = fleet
        .subnet(&network, "AzureFirewallSubnet", "10.0.9.0/26", None)
        .unwrap();
    let subnet = fleet.subnet(&network, "front", "10.0.1.0/24", None).unwrap();
    let rules = [
        inbound("firewall", 100, "Allow", "10.0.9.0/26", "22"),
        inbound("closed", 200, "Deny", "*", "*"),
    ];
    let group = fleet.security_group("inner", &rules).unwrap();
    let interface = fleet.interface("nic", &subnet, Some(&group), None).unwrap();
    let machine = fleet.virtual_machine("vm", &[&interface], &json!({})).unwrap();
    let rule = json!({
        "name": "in", "sourceAddresses": ["*"], "destinationAddresses": ["20.0.0.1"],
        "destinationPorts": ["50022"], "translatedAddress": "10.0.1.5", "translatedPort": "2222",
        "protocols": ["TCP"],
    });
    let mut rule = rule;
    fleet.firewall("fw", &edge, json!({})).unwrap();
    let address = fleet
        .get(&fleet.id("Microsoft.Network/publicIPAddresses/fw-ip"))
        .unwrap();
    rule["destinationAddresses"] = json!([address["properties"]["ipAddress"]]);
    let collections = json!({ "natRuleCollections": [
        { "name": "in", "properties": { "priority": 100, "action": { "type": "Dnat" }, "rules": [rule] } },
    ] });
    fleet.firewall("fw", &edge, collections).unwrap();
    Scene {
        sim,
        fleet,
        subnet,
        interface,
        machine,
    }
}

impl Scene {
    fn id(&self) -> String {
        self.fleet.id("Microsoft.Network/loadBalancers/ilb")
    }

    /// A balancer at 10.0.1.5, with a rule as given.
    fn balancer(&self, list: &str, rule: &Value) -> Result<Value, String> {
        let id = self.id();
        let mut rule = rule.clone();
        rule["frontendIPConfiguration"] = json!({ "id": format!("{id}/frontendIPConfigurations/inside") });
        if list == "loadBalancingRules" {
            rule["backendAddressPool"] = json!({ "id": format!("{id}/backendAddressPools/all") });
        }
        let mut properties = json!({
            "frontendIPConfigurations": [{ "name": "inside", "properties": { "subnet": { "id": self.subnet } } }],
            "backendAddressPools": [{ "name": "all" }],
        });
        properties[list] = json!([{ "name": "one", "properties": rule }]);
        let body = json!({ "location": "westeurope", "properties": properties });
        self.fleet.put(&id, body).map_err(|error| error.code)
    }

    fn join(&self, member: &str, part: &str) -> Result<Value, String> {
        let mut interface = self.fleet.get(&self.interface).unwrap();
        interface["properties"]["ipConfigurations"][0]["properties"][member] =
            json!([{ "id": format!("{}/{part}", self.id()) }]);
        self.fleet
            .put(&self.interface, interface)
            .map_err(|error| error.code)
    }

    fn reachable(&self) -> bool {
        let source: IpAddr = "198.51.100.1".parse().unwrap();
        self.sim.reachable(&self.machine, source, 22, Protocol::Tcp, None)
    }
}

fn to(frontend: u32, backend: u32) -> Value {
    json!({ "protocol": "Tcp", "frontendPort": frontend, "backendPort": backend })
}

#[tokio::test]
async fn what_is_translated_to_a_frontend_gets_to_the_members_of_its_pool() {
    for (list, member, part) in [
        (
            "loadBalancingRules",
            "loadBalancerBackendAddressPools",
            "backendAddressPools/all",
        ),
        (
            "inboundNatRules",
            "loadBalancerInboundNatRules",
            "inboundNatRules/one",
        ),
    ] {
        let scene = scene().await;
        let made = scene.balancer(list, &to(2222, 22)).unwrap();
        let frontend = &made["properties"]["frontendIPConfigurations"][0];
        assert_eq!(frontend["properties"]["privateIPAddress"], "10.0.1.5");
        assert!(
            frontend["id"]
                .as_str()
                .unwrap()
                .ends_with("/frontendIPConfigurations/inside")
        );
        assert!(!scene.reachable(), "the machine is no member");
        scene.join(member, part).unwrap();
        assert!(scene.reachable());
        scene.balancer(list, &to(2223, 22)).unwrap();
        assert!(!scene.reachable(), "from another port");
        scene.balancer(list, &to(2222, 23)).unwrap();
        assert!(!scene.reachable(), "to another port");
        let mut floating = to(2222, 22);
        floating["enableFloatingIP"] = json!(true);
        scene.balancer(list, &floating).unwrap();
        assert!(!scene.reachable(), "the port stays 2222");
    }
}

#[tokio::test]
async fn a_balancer_is_refused_what_it_has_not() {
    let scene = scene().await;
    let refused = |rule: &Value| scene.balancer("loadBalancingRules", rule).unwrap_err();
    assert_eq!(refused(&to(0, 22)), "InvalidRequestFormat");
    assert_eq!(refused(&to(2222, 65535)), "InvalidRequestFormat");
    assert_eq!(
        scene
            .join("loadBalancerBackendAddressPools", "backendAddressPools/all")
            .unwrap_err(),
        "InvalidResourceReference"
    );
    scene.balancer("loadBalancingRules", &to(2222, 22)).unwrap();
    assert_eq!(
        scene
            .join("loadBalancerBackendAddressPools", "backendAddressPools/none")
            .unwrap_err(),
        "InvalidResourceReference"
    );
    let id = scene.id();
    let body = json!({ "location": "westeurope", "properties": {
        "frontendIPConfigurations": [{ "name": "nowhere", "properties": {} }],
    } });
    assert_eq!(
        scene.fleet.put(&id, body).unwrap_err().code,
        "LoadBalancerFrontendIPConfigMustReferenceSubnetOrPublicIP"
    );
    let subnet = scene.fleet.delete(&scene.subnet).unwrap_err();
    assert_eq!(subnet.code, "InUseSubnetCannotBeDeleted");
}
