//! The demo's machine behind an Azure Firewall with a policy, in which somebody else has a rule already. It has a public
//! address of its own, too, as machines have that were there before their firewall.

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use postern_core::nsg;
use postern_sim::{Protocol, arm, arm::ArmHandle};
use serde_json::{Value, json};

/// How long a write to the firewall takes in the demo; in Azure it is minutes.
const WRITE: Duration = Duration::from_secs(5);

/// The machine and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// SSH is open to everybody by a rule of its NIC's NSG; its subnet's route leads to the firewall.
    pub machine: String,
    /// The NSG's id.
    pub security_group: String,
    /// The firewall's policy, by id.
    pub policy: String,
    /// The firewall's public address.
    pub door: IpAddr,
    /// The machine's own public address.
    pub own: IpAddr,
}

impl Gate {
    /// Builds it.
    pub fn build(arm: &ArmHandle) -> anyhow::Result<Self> {
        let fleet = arm.fleet().in_group("hub");
        fleet.group()?;
        let network = fleet.network("hub", "10.40.0.0/16")?;
        let inside = fleet.subnet(&network, "AzureFirewallSubnet", "10.40.9.0/26", None)?;
        // The first address of a subnet that Azure leaves to its resources.
        let table = fleet.default_route("out", "10.40.9.4")?;
        let vault = format!("{network}/subnets/vault");
        let routed = json!({ "addressPrefix": "10.40.1.0/24", "routeTable": { "id": table } });
        fleet.put(&vault, json!({ "properties": routed }))?;
        let everybody = arm::inbound("ssh-from-everywhere", 300, "Allow", "*", "22");
        let machine = fleet.machine(
            "vault-1",
            &vault,
            &[everybody],
            &json!({ "env": "prod", "tier": "vault" }),
        )?;
        let address = |id: &str| -> anyhow::Result<IpAddr> {
            let shown = fleet.get(id)?;
            let text = shown.pointer("/properties/ipAddress").and_then(Value::as_str);
            Ok(text.context("a public address has no address")?.parse()?)
        };
        let policy = fleet.firewall_policy("edge-rules")?;
        fleet.firewall("edge", &inside, json!({ "firewallPolicy": { "id": policy } }))?;
        let door = address(&fleet.id("Microsoft.Network/publicIPAddresses/edge-ip"))?;
        // What somebody else publishes.
        let rule = json!({
            "name": "https", "ruleType": "NatRule", "sourceAddresses": ["*"], "destinationAddresses": [door],
            "destinationPorts": ["443"], "ipProtocols": ["TCP"],
            "translatedAddress": machine.private_address, "translatedPort": "443",
        });
        let collection = json!({
            "name": "published", "ruleCollectionType": "FirewallPolicyNatRuleCollection", "priority": 100,
            "action": { "type": "DNAT" }, "rules": [rule],
        });
        fleet.put(
            &format!("{policy}/ruleCollectionGroups/published"),
            json!({ "properties": { "priority": 200, "ruleCollections": [collection] } }),
        )?;
        arm.set_firewall_duration(WRITE);
        Ok(Self {
            own: address(&machine.public_address)?,
            machine: machine.machine,
            security_group: machine.security_group,
            policy,
            door,
        })
    }

    /// The machine's port that a TCP packet to a public address comes to, as the cloud has it now.
    pub fn lands(&self, arm: &ArmHandle, source: IpAddr, address: IpAddr, port: u16) -> Option<u16> {
        let (machine, port) = arm.lands(source, address, port, Protocol::Tcp)?;
        machine.eq_ignore_ascii_case(&self.machine).then_some(port)
    }

    /// The rules of the policy, each with its group and collection; `keep` is asked whether rules with the mark are, and
    /// those without.
    pub fn rules(&self, arm: &ArmHandle, keep: impl Fn(bool) -> bool) -> anyhow::Result<Vec<String>> {
        let fleet = arm.fleet();
        let shown = fleet.get(&self.policy)?;
        let groups = listed(&shown, "/properties/ruleCollectionGroups");
        let mut texts = Vec::new();
        for group in groups.filter_map(|group| group.get("id")?.as_str()) {
            let shown = fleet.get(group)?;
            for collection in listed(&shown, "/properties/ruleCollections") {
                for rule in listed(collection, "/rules") {
                    let mark = rule.get("description").and_then(Value::as_str);
                    if keep(mark.is_some_and(nsg::is_marked)) {
                        let above = ["name", "priority", "action"].map(|member| collection.get(member));
                        texts.push(json!([group, above, rule]).to_string());
                    }
                }
            }
        }
        texts.sort();
        Ok(texts)
    }
}

fn listed<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten()
}
