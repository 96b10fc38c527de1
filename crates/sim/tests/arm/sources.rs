//! What a rule of the ARM simulator may name besides addresses: application security groups and service tags.

use std::collections::BTreeMap;

use postern_sim::Protocol;
use postern_sim::arm::{ArmHandle, ArmOptions, Fleet, inbound};
use serde_json::{Value, json};

use crate::client::{Client, SUBSCRIPTION};
use crate::started::start;

async fn with_a_group(options: ArmOptions) -> (ArmHandle, Client, Fleet) {
    let (sim, client) = start(options).await;
    let fleet = sim.fleet();
    fleet.group().unwrap();
    (sim, client, fleet)
}

/// An application security group.
fn group(fleet: &Fleet, name: &str) -> String {
    let id = fleet.id(&format!("Microsoft.Network/applicationSecurityGroups/{name}"));
    fleet.put(&id, json!({"location": "westeurope"})).unwrap();
    id
}

/// The body of an interface whose IP configurations are in these groups.
fn interface(subnet: &str, security_group: Option<&str>, configurations: &[&[&str]]) -> Value {
    let configurations: Vec<Value> = configurations
        .iter()
        .enumerate()
        .map(|(index, groups)| {
            let groups: Vec<Value> = groups.iter().map(|id| json!({"id": id})).collect();
            let properties = json!({"subnet": {"id": subnet}, "applicationSecurityGroups": groups});
            json!({"name": format!("c{index}"), "properties": properties})
        })
        .collect();
    let mut properties = json!({"ipConfigurations": configurations});
    if let Some(id) = security_group {
        properties["networkSecurityGroup"] = json!({"id": id});
    }
    json!({"location": "westeurope", "properties": properties})
}

/// A rule of these groups to those.
fn between(from: &[&str], to: &[&str]) -> Value {
    let ids = |groups: &[&str]| -> Value { groups.iter().map(|id| json!({"id": id})).collect() };
    let mut rule = inbound("web", 100, "Allow", "", "443");
    rule["properties"]["sourceApplicationSecurityGroups"] = ids(from);
    rule["properties"]["destinationApplicationSecurityGroups"] = ids(to);
    rule["properties"]["destinationAddressPrefix"] = json!("");
    rule
}

#[tokio::test]
async fn members_of_one_group_reach_those_of_another() {
    let (sim, client, fleet) = with_a_group(ArmOptions::default()).await;
    let network = fleet.network("net", "10.0.0.0/16").unwrap();
    let subnet = fleet.subnet(&network, "front", "10.0.1.0/24", None).unwrap();
    let (web, db) = (group(&fleet, "web"), group(&fleet, "db"));
    let rules = [between(&[&web], &[&db]), inbound("closed", 200, "Deny", "*", "*")];
    let nsg = fleet.security_group("nsg", &rules).unwrap();
    let path = |name: &str| fleet.id(&format!("Microsoft.Network/networkInterfaces/{name}"));
    fleet
        .put(&path("a"), interface(&subnet, Some(&nsg), &[&[&web]]))
        .unwrap();
    fleet
        .put(&path("b"), interface(&subnet, Some(&nsg), &[&[&db]]))
        .unwrap();
    let front = fleet.virtual_machine("front", &[&path("a")], &json!({})).unwrap();
    let back = fleet.virtual_machine("back", &[&path("b")], &json!({})).unwrap();
    let reach = |machine: &str, source: &str| {
        sim.reachable(machine, source.parse().unwrap(), 443, Protocol::Tcp, None)
    };
    assert!(reach(&back, "10.0.1.4"));
    assert!(!reach(&back, "10.0.1.9"), "no member has that address");
    assert!(!reach(&front, "10.0.1.5"), "the rule is for the other group");

    let accepted = client
        .post(&format!("{}/effectiveNetworkSecurityGroups", path("b")))
        .await;
    let location = accepted.header("location").unwrap();
    let shown = client.get(location.strip_prefix(&sim.url()).unwrap()).await;
    let rule = &shown.body["value"][0]["effectiveSecurityRules"][0];
    assert_eq!(
        (
            &rule["sourceAddressPrefixes"],
            &rule["destinationAddressPrefixes"]
        ),
        (&json!(["10.0.1.4/32"]), &json!(["10.0.1.5/32"]))
    );
    client
        .delete(&web)
        .await
        .refused(400, "ApplicationSecurityGroupInUse");
    client
        .put(&path("b"), interface(&subnet, Some(&nsg), &[&[]]))
        .await;
    assert!(!reach(&back, "10.0.1.4"), "it left the group");
}

#[tokio::test]
async fn a_groups_members_are_in_one_network() {
    let (_sim, client, fleet) = with_a_group(ArmOptions::default()).await;
    let subnets = ["10.0.0.0/16", "10.1.0.0/16"].map(|space| {
        let network = fleet.network(&format!("net{}", &space[3..4]), space).unwrap();
        fleet
            .subnet(&network, "front", &space.replace("/16", "/24"), None)
            .unwrap()
    });
    let (web, db) = (group(&fleet, "web"), group(&fleet, "db"));
    let path = |name: &str| fleet.id(&format!("Microsoft.Network/networkInterfaces/{name}"));
    fleet
        .put(&path("a"), interface(&subnets[0], None, &[&[&web]]))
        .unwrap();
    client
        .put(&path("b"), interface(&subnets[1], None, &[&[&web]]))
        .await
        .refused(400, "ApplicationSecurityGroupMembersMustBeFromSameVnet");
    client
        .put(&path("b"), interface(&subnets[0], None, &[&[&web], &[]]))
        .await
        .refused(
            400,
            "AllIpConfigurationsOnANicMustBelongToTheSameApplicationSecurityGroups",
        );
    fleet
        .put(&path("b"), interface(&subnets[1], None, &[&[&db]]))
        .unwrap();
    let nsg = fleet.security_group("nsg", &[]).unwrap();
    client
        .put(&format!("{nsg}/securityRules/web"), between(&[&web], &[&db]))
        .await
        .refused(
            400,
            "AllApplicationSecurityGroupsInSecurityRuleMustBeFromSameVnet",
        );
    let same = client
        .put(&format!("{nsg}/securityRules/web"), between(&[&web], &[&web]))
        .await;
    assert_eq!(same.status, 201);
    let mut both = between(&[&web], &[&web]);
    both["properties"]["sourceAddressPrefix"] = json!("10.0.0.0/8");
    client
        .put(&format!("{nsg}/securityRules/web"), both)
        .await
        .refused(400, "SecurityRuleParametersConflict");
    client
        .put(
            &format!("{nsg}/securityRules/web"),
            between(&[&format!("{web}x")], &[&web]),
        )
        .await
        .refused(400, "InvalidResourceReference");
}

#[tokio::test]
async fn a_service_tag_holds_the_ranges_that_the_simulator_was_told() {
    let tags = BTreeMap::from([
        ("AzureCloud".to_owned(), vec!["203.0.113.0/25".parse().unwrap()]),
        (
            "Storage.WestEurope".to_owned(),
            vec!["198.51.100.0/24".parse().unwrap()],
        ),
    ]);
    let options = ArmOptions {
        service_tags: tags,
        ..ArmOptions::default()
    };
    let (sim, client, fleet) = with_a_group(options).await;
    let network = fleet.network("net", "10.0.0.0/16").unwrap();
    let subnet = fleet.subnet(&network, "front", "10.0.1.0/24", None).unwrap();
    let rules = [
        inbound("cloud", 100, "Allow", "azurecloud", "22"),
        inbound("storage", 110, "Allow", "Storage.WestEurope", "22"),
        inbound("sql", 120, "Allow", "Sql", "22"),
    ];
    let machine = fleet.machine("vm", &subnet, &rules, &json!({})).unwrap();
    let reach =
        |source: &str| sim.reachable(&machine.machine, source.parse().unwrap(), 22, Protocol::Tcp, None);
    assert!(reach("203.0.113.7"));
    assert!(!reach("203.0.113.200"));
    assert!(reach("198.51.100.1"));
    assert!(!reach("192.0.2.1"), "a tag without ranges holds no address");
    let wrong = format!("{}/securityRules/wrong", machine.security_group);
    client
        .put(&wrong, inbound("wrong", 130, "Allow", "NoSuchTag", "22"))
        .await
        .refused(400, "SecurityRuleInvalidAddressPrefix");
    let path =
        format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Network/locations/westeurope/serviceTags");
    let listed = client.get(&path).await;
    assert_eq!(listed.body["values"][0]["name"], "AzureCloud");
    assert_eq!(
        listed.body["values"][1]["properties"],
        json!({
            "changeNumber": "1", "region": "westeurope", "systemService": "Storage",
            "addressPrefixes": ["198.51.100.0/24"],
        })
    );
}
