//! Whom others' rules at firewalls lead to a machine's port.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use postern_sim::truth::{Judge, Probe, World};

use super::cut::{
    Writers, firewall_subnets, is_firewall, with_bare_firewalls, with_nsgs_for_firewall_alone,
    with_other_firewalls_denied, without_marked_at_firewalls, without_ours_at_firewalls,
};

/// What others' rules at firewalls lead to a machine's port.
///
/// Behind a translating rule an NSG sees the firewall, not the client. So where somebody makes a rule there while a
/// grant on the port is open, or widens ours, theirs and the NSG's allow of ours let others in. That is said of the
/// product (`foreign_rule_opens`), and reported by it; a grant that comes after such a rule is refused, and is judged
/// as everywhere. Where it is ours that somebody widened, its grant was there before, also when it is not open yet:
/// the NSG waits for the firewall, and is written on a reading of it from before.
///
/// An NSG is opened for the firewall that a grant comes by: others' rules at another one lead nobody in.
#[derive(Debug, Default)]
pub(super) struct OthersAtFirewalls {
    /// By the packet's number and the subnet of the firewall that leads it.
    led: BTreeMap<(usize, String), Led>,
    stale: bool,
}

/// That others' rules at a firewall lead a packet on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) since: DateTime<Utc>,
    /// By nothing else than rules of ours that somebody widened.
    pub(super) widened: bool,
}

impl OthersAtFirewalls {
    /// Takes note that a resource changed, which may change what a firewall does with packets, or who stands behind it.
    pub(super) fn note(&mut self, resource: &str) {
        self.stale |= is_firewall(resource) || !self.led.is_empty() || resource.contains("/subnets/");
    }

    /// Looks whom they lead now.
    pub(super) fn look(
        &mut self,
        world: &World,
        writers: &Writers,
        probes: &[Probe],
        inner: &dyn Judge,
        at: DateTime<Utc>,
    ) {
        if !std::mem::take(&mut self.stale) || !world.keys().any(|key| is_firewall(key)) {
            return;
        }
        let (theirs, unmarked) = (
            without_ours_at_firewalls(world, writers),
            without_marked_at_firewalls(world),
        );
        let subnets = firewall_subnets(world);
        self.led
            .retain(|(_, subnet), _| subnets.iter().any(|one| one == subnet));
        for subnet in subnets {
            let theirs = with_nsgs_for_firewall_alone(&theirs, &subnet);
            let of_their_own = with_nsgs_for_firewall_alone(&unmarked, &subnet);
            for (number, probe) in probes.iter().enumerate() {
                let key = (number, subnet.clone());
                if inner.allows(&theirs, probe) {
                    let widened = !inner.allows(&of_their_own, probe);
                    let led = self.led.entry(key).or_insert(Led { since: at, widened });
                    led.widened = widened;
                } else {
                    self.led.remove(&key);
                }
            }
        }
    }

    /// Since when others' rules lead a packet to where it gets in, at each firewall that it gets in by; none where it
    /// gets in past every firewall too, or by one where they do not.
    pub(super) fn led(
        &self,
        number: usize,
        probe: &Probe,
        world: &World,
        inner: &dyn Judge,
    ) -> Option<Vec<Led>> {
        if self.led.is_empty() || inner.allows(&with_bare_firewalls(world), probe) {
            return None;
        }
        firewall_subnets(world)
            .into_iter()
            .filter(|subnet| inner.allows(&with_other_firewalls_denied(world, subnet), probe))
            .map(|subnet| self.led.get(&(number, subnet)).copied())
            .collect::<Option<Vec<Led>>>()
            .filter(|led| !led.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use postern_sim::{
        arm::ArmJudge,
        truth::{Change, Protocol},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::edit::MARK;

    const NETWORK: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.network";
    const MACHINE: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.compute/virtualmachines/vm";

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    /// A state, who wrote it, and what is known of others' rules.
    struct Scene {
        world: World,
        writers: Writers,
        others: OthersAtFirewalls,
        probes: Vec<Probe>,
    }

    impl Scene {
        /// A machine in a network with a firewall of its own; its routes lead to another network's.
        fn new() -> Self {
            let probe = Probe {
                machine: MACHINE.to_owned(),
                source: "203.0.113.200".parse().unwrap(),
                port: 22,
                protocol: Protocol::Tcp,
            };
            let mut scene = Self {
                world: World::new(),
                writers: Writers::default(),
                others: OthersAtFirewalls::default(),
                probes: vec![probe],
            };
            let interfaces =
                json!({ "networkInterfaces": [{ "id": format!("{NETWORK}/networkinterfaces/nic") }] });
            scene.enter(MACHINE, json!({ "networkProfile": interfaces }));
            let nsg = format!("{NETWORK}/networksecuritygroups/nsg");
            scene.enter(&nsg, json!({}));
            let nic = format!("{NETWORK}/networkinterfaces/nic");
            scene.enter(&nic, json!({ "networkSecurityGroup": { "id": nsg } }));
            let subnet = format!("{NETWORK}/virtualnetworks/net/subnets/s0");
            let address = json!({ "privateIPAddress": "10.20.0.4", "subnet": { "id": subnet } });
            scene.enter(&format!("{nic}/ipconfigurations/one"), address);
            let table = format!("{NETWORK}/routetables/out");
            scene.enter(&table, json!({}));
            let out = json!({
                "addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.21.250.4",
            });
            scene.enter(&format!("{table}/routes/out"), out);
            for (network, second) in [("net", 20), ("hub", 21)] {
                let space = json!({ "addressSpace": { "addressPrefixes": [format!("10.{second}.0.0/16")] } });
                scene.enter(&format!("{NETWORK}/virtualnetworks/{network}"), space);
                let prefix = json!({ "addressPrefix": format!("10.{second}.250.0/26") });
                let subnet = format!("{NETWORK}/virtualnetworks/{network}/subnets/azurefirewallsubnet");
                scene.enter(&subnet, prefix);
                let public = json!({ "ipAddress": format!("198.18.0.{second}") });
                scene.enter(&format!("{NETWORK}/publicipaddresses/{network}"), public);
            }
            let of_machine = json!({ "addressPrefix": "10.20.0.0/24", "routeTable": { "id": table } });
            scene.enter(&subnet, of_machine);
            scene
        }

        fn enter(&mut self, key: &str, properties: Value) {
            self.write(0, key, properties, "fleet");
        }

        fn write(&mut self, second: i64, key: &str, properties: Value, caller: &str) {
            let mut after = json!({});
            after["properties"] = properties;
            self.writers.note(&Change {
                seq: 0,
                at: at(second),
                cloud: "azure".to_owned(),
                operation: "CreateOrUpdate".to_owned(),
                resource: key.to_owned(),
                before: self.world.get(key).cloned(),
                after: Some(after.clone()),
                request_id: "r".to_owned(),
                caller: caller.to_owned(),
            });
            self.world.insert(key.to_owned(), after);
            self.others.note(key);
            let Self {
                world,
                writers,
                others,
                probes,
            } = self;
            others.look(world, writers, probes, &ArmJudge::default(), at(second));
        }

        /// A firewall with one rule that leads to port 22, ours where it is marked.
        fn firewall(&mut self, second: i64, network: &str, source: &str, marked: bool, caller: &str) {
            let number = if network == "net" { 20 } else { 21 };
            let subnet = format!("{NETWORK}/virtualnetworks/{network}/subnets/azurefirewallsubnet");
            let rule = json!({
                "name": "one", "protocols": ["TCP"], "sourceAddresses": [source],
                "description": if marked { format!("{MARK}grant=1") } else { String::new() },
                "destinationAddresses": [format!("198.18.0.{number}")], "destinationPorts": ["50000"],
                "translatedAddress": "10.20.0.4", "translatedPort": "22",
            });
            let rules = json!({ "priority": 100, "action": { "type": "Dnat" }, "rules": [rule] });
            let properties = json!({
                "natRuleCollections": [{ "name": "in", "properties": rules }],
                "ipConfigurations": [{ "name": "configuration", "properties": {
                    "privateIPAddress": format!("10.{number}.250.4"),
                    "subnet": { "id": subnet },
                    "publicIPAddress": { "id": format!("{NETWORK}/publicipaddresses/{network}") },
                } }],
            });
            self.write(
                second,
                &format!("{NETWORK}/azurefirewalls/{network}"),
                properties,
                caller,
            );
        }

        /// Our NSG rule for what comes from the other network's firewall.
        fn allow_hub(&mut self, second: i64) {
            let rule = json!({
                "description": format!("{MARK}grant=1"), "priority": 200, "direction": "Inbound", "access": "Allow",
                "protocol": "Tcp", "sourcePortRange": "*", "sourceAddressPrefix": "10.21.250.0/26",
                "destinationAddressPrefix": "10.20.0.4", "destinationPortRange": "22",
            });
            let deny = json!({
                "description": MARK, "priority": 300, "direction": "Inbound", "access": "Deny", "protocol": "*",
                "sourcePortRange": "*", "sourceAddressPrefix": "*", "destinationAddressPrefix": "*",
                "destinationPortRange": "22",
            });
            let rules = format!("{NETWORK}/networksecuritygroups/nsg/securityrules");
            self.write(second, &format!("{rules}/deny"), deny, "postern");
            self.write(second, &format!("{rules}/allow"), rule, "postern");
        }

        fn gets_in(&self) -> bool {
            ArmJudge::default().allows(&self.world, &self.probes[0])
        }

        fn led(&self) -> Option<Vec<Led>> {
            self.others
                .led(0, &self.probes[0], &self.world, &ArmJudge::default())
        }
    }

    #[test]
    fn who_is_led_at_one_firewall_is_not_led_at_another() {
        let mut scene = Scene::new();
        scene.firewall(1, "net", "*", false, "fleet");
        scene.firewall(2, "hub", "203.0.113.7", true, "postern");
        scene.allow_hub(3);
        assert!(!scene.gets_in());

        // Somebody widens our rule there: it leads since then, whatever the other firewall's did before.
        scene.firewall(4, "hub", "*", true, "fleet");
        assert!(scene.gets_in());
        let widened = Led {
            since: at(4),
            widened: true,
        };
        assert_eq!(scene.led(), Some(vec![widened]));

        // Written so by us, nobody else's rule leads the packet in.
        scene.firewall(5, "hub", "203.0.113.7", true, "postern");
        scene.firewall(6, "hub", "*", true, "postern");
        assert!(scene.gets_in());
        assert_eq!(scene.led(), None);
    }

    #[test]
    fn a_rule_of_others_leads_from_when_it_was_made() {
        let mut scene = Scene::new();
        scene.allow_hub(1);
        scene.firewall(2, "hub", "*", false, "fleet");
        assert!(scene.gets_in());
        let theirs = Led {
            since: at(2),
            widened: false,
        };
        assert_eq!(scene.led(), Some(vec![theirs]));
    }
}
