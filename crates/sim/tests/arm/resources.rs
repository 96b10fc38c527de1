//! Networks, interfaces, machines and groups on the ARM simulator: what they refer to, show, and take with them.

use postern_sim::arm::inbound;
use serde_json::json;

use crate::client::SUBSCRIPTION;
use crate::started::{NSG, furnished};

#[tokio::test]
async fn references_must_exist_and_be_shown_where_they_lead() {
    let (sim, client) = furnished().await;
    let fleet = sim.fleet();
    let (nsg, subnet) = (
        fleet.id(NSG),
        fleet.id("Microsoft.Network/virtualNetworks/net/subnets/front"),
    );
    let nic = fleet.id("Microsoft.Network/networkInterfaces/nic");
    let body = |nsg: &str, subnet: &str| {
        json!({"location": "westeurope", "properties": {
            "networkSecurityGroup": {"id": nsg},
            "ipConfigurations": [{"name": "one", "properties": {"subnet": {"id": subnet}}}],
        }})
    };
    client
        .put(&nic, body(&format!("{nsg}x"), &subnet))
        .await
        .refused(400, "InvalidResourceReference");
    client
        .put(&nic, body(&nsg, &format!("{subnet}x")))
        .await
        .refused(400, "InvalidResourceReference");
    client
        .put(&nic, body("web", &subnet))
        .await
        .refused(400, "LinkedInvalidPropertyId");
    client
        .put(&nic, body(&subnet, &subnet))
        .await
        .refused(400, "InvalidResourceReference");
    let before = client.get(&nsg).await.body["etag"].clone();
    let made = client.put(&nic, body(&nsg.to_uppercase(), &subnet)).await;
    assert_eq!(made.body["properties"]["networkSecurityGroup"]["id"], nsg);
    let address = &made.body["properties"]["ipConfigurations"][0]["properties"];
    assert_eq!(
        address["privateIPAddress"], "10.0.1.4",
        "Azure keeps the first four for itself"
    );
    let shown = client.get(&nsg).await.body;
    assert_eq!(shown["properties"]["networkInterfaces"], json!([{"id": nic}]));
    assert_ne!(shown["etag"], before, "an association is a change of the NSG too");
    client
        .delete(&nsg)
        .await
        .refused(400, "InUseNetworkSecurityGroupCannotBeDeleted");
    client
        .delete(&subnet)
        .await
        .refused(400, "InUseSubnetCannotBeDeleted");
    client
        .delete(&fleet.id("Microsoft.Network/virtualNetworks/net"))
        .await
        .refused(400, "InUseSubnetCannotBeDeleted");
    let vm = fleet.virtual_machine("vm", &[&nic], &json!({})).unwrap();
    assert_eq!(
        client.get(&nic).await.body["properties"]["virtualMachine"],
        json!({"id": vm})
    );
    client.delete(&nic).await.refused(400, "NicInUse");
    assert_eq!(
        fleet
            .virtual_machine("vm2", &[&nic], &json!({}))
            .unwrap_err()
            .code,
        "NicInUse"
    );
    for (id, status) in [(&vm, 202), (&nic, 202), (&subnet, 202), (&nsg, 202), (&nsg, 204)] {
        assert_eq!(client.delete(id).await.status, status, "{id}");
    }
}

#[tokio::test]
async fn subnets_lie_inside_their_network_and_apart() {
    let (sim, client) = furnished().await;
    let network = sim.fleet().id("Microsoft.Network/virtualNetworks/net");
    let subnet = |prefix: &str| json!({"properties": {"addressPrefix": prefix}});
    let cases = [
        ("10.1.0.0/24", "NetcfgInvalidSubnet"),
        ("10.0.1.128/25", "NetcfgSubnetRangesOverlap"),
        ("10.0.2.1/24", "InvalidCIDRNotation"),
        ("10.0.2.0", "InvalidAddressPrefixFormat"),
    ];
    for (prefix, code) in cases {
        client
            .put(&format!("{network}/subnets/back"), subnet(prefix))
            .await
            .refused(400, code);
    }
    assert_eq!(
        client
            .put(&format!("{network}/subnets/back"), subnet("10.0.2.0/24"))
            .await
            .status,
        201
    );
    let space = json!({"addressPrefixes": ["10.0.0.0/16"]});
    let kept = client
        .put(
            &network,
            json!({"location": "westeurope", "properties": {"addressSpace": space}}),
        )
        .await;
    assert_eq!(
        kept.body["properties"]["subnets"].as_array().unwrap().len(),
        2,
        "a body without subnets keeps them"
    );
}

#[tokio::test]
async fn a_machine_tells_its_power_and_effective_rules_want_it_running() {
    let (sim, client) = furnished().await;
    let fleet = sim.fleet();
    let subnet = fleet.id("Microsoft.Network/virtualNetworks/net/subnets/front");
    let ssh = [inbound("ssh", 100, "Allow", "VirtualNetwork", "22")];
    let made = fleet
        .machine("vm", &subnet, &ssh, &json!({"env": "test"}))
        .unwrap();
    let power = async || {
        let shown = client
            .get(&format!(
                "{}?api-version=2024-05-01&$expand=instanceView",
                made.machine
            ))
            .await;
        let statuses = shown.body["properties"]["instanceView"]["statuses"].clone();
        statuses[1]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(power().await, "PowerState/running");
    let all = format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachines");
    let listed = client
        .get(&format!("{all}?api-version=2024-05-01&statusOnly=true"))
        .await
        .body;
    assert_eq!(
        listed["value"][0]["properties"]["instanceView"]["statuses"][1]["code"],
        "PowerState/running"
    );
    let plain = client.get(&all).await.body;
    assert_eq!(plain["value"][0]["properties"].get("instanceView"), None);
    let effective = format!("{}/effectiveNetworkSecurityGroups", made.interface);
    let accepted = client.post(&effective).await;
    assert_eq!(accepted.status, 202);
    let location = accepted
        .header("location")
        .unwrap()
        .strip_prefix(&sim.url())
        .unwrap()
        .to_owned();
    let group = client.get(&location).await.body["value"][0].clone();
    assert_eq!(group["networkSecurityGroup"]["id"], made.security_group);
    assert_eq!(group["effectiveSecurityRules"][0]["name"], "securityRules/ssh");
    assert_eq!(
        group["effectiveSecurityRules"][0]["destinationPortRange"],
        "22-22"
    );
    assert_eq!(
        group["effectiveSecurityRules"][0]["expandedSourceAddressPrefix"],
        json!(["10.0.0.0/16"])
    );
    assert_eq!(
        client.post(&format!("{}/deallocate", made.machine)).await.status,
        202
    );
    assert_eq!(power().await, "PowerState/deallocated");
    client
        .post(&effective)
        .await
        .refused(400, "NetworkInterfaceMustBeAttachedToRunningVm");
    let tagged = client
        .patch(&made.machine, json!({"tags": {"env": "prod"}}))
        .await;
    assert_eq!(
        (tagged.status, &tagged.body["tags"]),
        (200, &json!({"env": "prod"}))
    );
    client
        .get(&fleet.id("Microsoft.Compute/virtualMachines/none"))
        .await
        .refused(404, "ResourceNotFound");
}

#[tokio::test]
async fn a_resource_group_takes_its_resources_with_it() {
    let (sim, client) = furnished().await;
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/fleet");
    let gone = client.delete(&group).await;
    assert_eq!(gone.status, 202);
    assert!(gone.header("azure-asyncoperation").is_none());
    client
        .get(&sim.fleet().id(NSG))
        .await
        .refused(404, "ResourceGroupNotFound");
    assert_eq!(sim.state()["resources"], json!([]));
    client.delete(&group).await.refused(404, "ResourceGroupNotFound");
}
