//! What an Azure Firewall and its policy hold, on the ARM simulator.

use postern_sim::arm::{ArmOptions, ArmSim, Fleet};
use serde_json::{Value, json};

async fn fleet() -> (Fleet, String) {
    let sim = ArmSim::start(ArmOptions::default()).await.unwrap();
    let fleet = sim.fleet();
    fleet.group().unwrap();
    let network = fleet.network("net", "10.0.0.0/16").unwrap();
    let subnet = fleet
        .subnet(&network, "AzureFirewallSubnet", "10.0.9.0/26", None)
        .unwrap();
    (fleet, subnet)
}

fn translations(ports: std::ops::Range<u32>, protocols: &[&str]) -> Vec<Value> {
    let rule = |port: u32| {
        json!({
            "name": format!("to-{port}"), "ruleType": "NatRule", "sourceAddresses": ["*"],
            "destinationAddresses": ["20.0.0.1"], "destinationPorts": [port.to_string()],
            "translatedAddress": "10.0.1.9", "translatedPort": "443", "protocols": protocols,
            "ipProtocols": protocols,
        })
    };
    ports.map(rule).collect()
}

fn classic(rules: &[Value]) -> Value {
    json!({ "natRuleCollections": [
        { "name": "in", "properties": { "priority": 100, "action": { "type": "Dnat" }, "rules": rules } },
    ] })
}

fn group(priority: u32, rules: &[Value]) -> Value {
    json!({ "properties": { "priority": priority, "ruleCollections": [
        { "name": "in", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 100,
          "action": { "type": "DNAT" }, "rules": rules },
    ] } })
}

#[tokio::test]
async fn a_firewalls_addresses_and_unique_destinations_are_250_at_most() {
    let (fleet, subnet) = fleet().await;
    let code = |rules: &[Value]| {
        fleet
            .firewall("fw", &subnet, classic(rules))
            .map_err(|error| error.code)
    };
    code(&translations(1000..1249, &["TCP"])).unwrap();
    let mut shared = translations(1000..1249, &["TCP"]);
    let mut twin = shared[0].clone();
    twin["name"] = json!("twin");
    twin["sourceAddresses"] = json!(["203.0.113.7"]);
    shared.push(twin);
    code(&shared).unwrap();
    let limit = "AzureFirewallNatRulesLimitExceeded";
    assert_eq!(code(&translations(1000..1250, &["TCP"])).unwrap_err(), limit);
    assert_eq!(
        code(&translations(1000..1125, &["TCP", "UDP"])).unwrap_err(),
        limit
    );
}

#[tokio::test]
async fn a_policys_destinations_count_at_the_firewalls_that_have_it() {
    let (fleet, subnet) = fleet().await;
    let policy = fleet.firewall_policy("rules").unwrap();
    let put = |name: &str, priority: u32, rules: &[Value]| {
        let id = format!("{policy}/ruleCollectionGroups/{name}");
        fleet.put(&id, group(priority, rules)).map_err(|error| error.code)
    };
    put("one", 100, &translations(1000..1200, &["TCP"])).unwrap();
    put("two", 200, &translations(1200..1250, &["TCP"])).unwrap();
    let limit = "AzureFirewallNatRulesLimitExceeded";
    let with_it = || json!({ "firewallPolicy": { "id": policy } });
    let refused = fleet.firewall("fw", &subnet, with_it()).unwrap_err();
    assert_eq!(refused.code, limit);
    put("two", 200, &translations(1200..1249, &["TCP"])).unwrap();
    fleet.firewall("fw", &subnet, with_it()).unwrap();
    assert_eq!(
        put("two", 200, &translations(1200..1250, &["TCP"])).unwrap_err(),
        limit
    );
}

#[tokio::test]
async fn a_policy_has_90_groups_of_two_megabytes_at_most() {
    let (fleet, _) = fleet().await;
    let policy = fleet.firewall_policy("rules").unwrap();
    let put = |at: u32, body: Value| {
        let id = format!("{policy}/ruleCollectionGroups/group-{at}");
        fleet.put(&id, body).map_err(|error| error.code)
    };
    let of_bytes = |bytes: usize| {
        let mut rules = translations(1000..1001, &["TCP"]);
        rules[0]["description"] = json!("x".repeat(bytes));
        group(5000, &rules)
    };
    put(0, of_bytes(1_990_000)).unwrap();
    assert_eq!(
        put(0, of_bytes(2_000_000)).unwrap_err(),
        "FirewallPolicyRuleCollectionGroupSizeLimitExceeded"
    );
    for at in 1..90 {
        put(at, group(100 + at, &[])).unwrap();
    }
    put(7, group(107, &[])).unwrap();
    assert_eq!(
        put(90, group(300, &[])).unwrap_err(),
        "FirewallPolicyRuleCollectionGroupLimitExceeded"
    );
}
