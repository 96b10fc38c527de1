//! Firewalls, classic and with a policy: what a grant's packets do, and what becomes of others' rules.

use std::{net::IpAddr, time::Duration};

use postern_azure::firewall::plan::{Bands, ObservedFirewall, Passage, Wanted, Way};
use postern_core::{
    approach::entrances,
    enforcer::{Bindings, Change, Desired, EnforceError, Enforcer as _, Member, Verb, WantedGrant},
    machine::MachineId,
    testing::{an_id, at, ports},
};
use postern_sim::{
    Protocol, When,
    arm::{ArmHandle, ArmSim, Fleet, inbound},
};
use serde_json::{Value, json};

use crate::scene::{Scene, config, enforcer, fault, status};

pub(crate) const ADA: &str = "203.0.113.7";
pub(crate) const BOB: &str = "198.51.100.1";
pub(crate) const OFFICE: &str = "192.168.1.5";
const MACHINE: &str = "10.0.1.4";
const LONG: Duration = Duration::from_mins(1);

/// A machine without a public address behind a firewall that its subnet's route leads to.
pub(crate) struct Gate {
    pub(crate) sim: ArmHandle,
    pub(crate) fleet: Fleet,
    pub(crate) machine: String,
    pub(crate) firewall: String,
    pub(crate) policy: Option<String>,
    pub(crate) public: IpAddr,
}

impl Gate {
    /// With one translating rule of somebody else's, to another machine's port.
    pub(crate) async fn new(with_policy: bool) -> Self {
        let sim = ArmSim::start(Scene::options()).await.unwrap();
        let fleet = sim.fleet();
        fleet.group().unwrap();
        let network = fleet.network("net", "10.0.0.0/16").unwrap();
        let subnet = fleet
            .subnet(&network, "AzureFirewallSubnet", "10.0.9.0/26", None)
            .unwrap();
        let table = fleet.default_route("out", "10.0.9.4").unwrap();
        let front = format!("{network}/subnets/front");
        let body = json!({ "properties": { "addressPrefix": "10.0.1.0/24", "routeTable": { "id": table } } });
        fleet.put(&front, body).unwrap();
        let rules = [
            inbound("firewall", 100, "Allow", "10.0.9.0/26", "22"),
            inbound("office", 110, "Allow", "192.168.0.0/16", "22"),
            inbound("closed", 200, "Deny", "*", "*"),
        ];
        let nsg = fleet.security_group("inner", &rules).unwrap();
        let interface = fleet.interface("nic", &front, Some(&nsg), None).unwrap();
        let machine = fleet.virtual_machine("vm", &[&interface], &json!({})).unwrap();
        let address = fleet.public_address("Edge-ip").unwrap();
        let public = fleet.get(&address).unwrap()["properties"]["ipAddress"]
            .as_str()
            .unwrap()
            .to_owned();
        let rule = json!({
            "name": "web", "sourceAddresses": ["*"], "destinationAddresses": [public], "destinationPorts": ["50000"],
            "translatedAddress": "10.0.1.9", "translatedPort": "443", "protocols": ["TCP"],
        });
        let mut policy = None;
        let properties = if with_policy {
            let id = fleet.firewall_policy("rules").unwrap();
            let mut rule = rule;
            rule["ruleType"] = json!("NatRule");
            rule["ipProtocols"] = json!(["TCP"]);
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
        let firewall = fleet.firewall("Edge", &subnet, {
            let mut properties = properties;
            properties["novelty"] = json!([1.5, null]);
            properties
        });
        let firewall = firewall.unwrap();
        let edge = fleet
            .get(&fleet.id("Microsoft.Network/publicIPAddresses/Edge-ip"))
            .unwrap();
        let public = edge["properties"]["ipAddress"].as_str().unwrap().parse().unwrap();
        Self {
            sim,
            fleet,
            machine,
            firewall,
            policy,
            public,
        }
    }

    async fn observed(&self) -> ObservedFirewall {
        let installation = "test".parse().unwrap();
        enforcer(config(&self.sim))
            .read_firewall(&self.firewall, &installation, Bands::default())
            .await
            .unwrap()
    }

    async fn write(&self, change: &Change, within: Duration) -> Result<Value, EnforceError> {
        enforcer(config(&self.sim)).write_firewall(change, within).await
    }

    async fn converge(&self, wanted: &Wanted) {
        let plan = self.observed().await.plan(wanted);
        assert_eq!((plan.changes.len(), plan.obstacles.len()), (1, 0), "{plan:?}");
        self.write(&plan.changes[0], LONG).await.unwrap();
        assert_eq!(self.observed().await.plan(wanted).changes, []);
    }

    fn door(&self) -> Passage {
        passage(1, ADA, Way::Translated { address: self.public })
    }

    /// Where a packet to the firewall's port gets to.
    fn lands(&self, source: &str, port: u16) -> Option<u16> {
        let (machine, inner) = self
            .sim
            .lands(source.parse().unwrap(), self.public, port, Protocol::Tcp)?;
        assert_eq!(machine, self.machine.to_lowercase());
        Some(inner)
    }

    /// Everything of the firewall and its policy but what changes with each write.
    fn shown(&self) -> Vec<Value> {
        let mut ids = vec![self.firewall.clone()];
        if let Some(policy) = &self.policy {
            ids.extend([policy.clone(), format!("{policy}/ruleCollectionGroups/theirs")]);
        }
        let mut all: Vec<Value> = ids.iter().map(|id| self.fleet.get(id).unwrap()).collect();
        all.iter_mut().for_each(strip);
        all
    }
}

pub(crate) fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("etag");
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn passage(grant: u128, source: &str, way: Way) -> Passage {
    Passage {
        grant: an_id(grant),
        not_after: at(600),
        sources: vec![source.parse().unwrap()],
        machine: MACHINE.parse().unwrap(),
        ports: ports("22"),
        way,
        beside: Vec::new(),
        fronts: Vec::new(),
        unread: Vec::new(),
        opening: false,
    }
}

fn wanted(passages: Vec<Passage>) -> Wanted {
    Wanted {
        installation: "test".parse().unwrap(),
        passages,
        unsettled: false,
    }
}

#[tokio::test]
async fn a_door_lets_in_the_grants_client_alone_and_closing_leaves_everything_as_it_was() {
    for with_policy in [false, true] {
        let gate = Gate::new(with_policy).await;
        let before = gate.shown();
        let wish = wanted(vec![gate.door()]);
        gate.converge(&wish).await;
        let observed = gate.observed().await;
        let entries = observed.entries(&wish);
        assert_eq!(entries.len(), 1);
        let (address, port) = (entries[0].address, entries[0].mapped_port);
        assert_eq!(address, gate.public);
        assert_eq!(gate.lands(ADA, port), Some(22));
        assert_eq!(gate.lands(BOB, port), None);
        assert!(observed.evidence(&wish)[&an_id(1)].complete);
        gate.converge(&wanted(vec![])).await;
        assert_eq!(gate.lands(ADA, port), None);
        assert_eq!(gate.observed().await.evidence(&wish).len(), 0);
        assert_eq!(gate.shown(), before);
    }
}

#[tokio::test]
async fn what_somebody_emptied_is_removed_when_nothing_is_wanted_there_any_more() {
    for with_policy in [false, true] {
        let gate = Gate::new(with_policy).await;
        let before = gate.shown();
        gate.converge(&wanted(vec![gate.door()])).await;
        let id = match &gate.policy {
            None => gate.firewall.clone(),
            Some(policy) => format!("{policy}/ruleCollectionGroups/postern-test"),
        };
        let mut document = gate.fleet.get(&id).unwrap();
        let collections = if with_policy {
            &mut document["properties"]["ruleCollections"]
        } else {
            &mut document["properties"]["natRuleCollections"]
        };
        for collection in collections.as_array_mut().unwrap() {
            if collection["name"] == json!("postern-test-nat") {
                let rules = if with_policy {
                    &mut collection["rules"]
                } else {
                    &mut collection["properties"]["rules"]
                };
                *rules = json!([]);
            }
        }
        gate.fleet.put(&id, document).unwrap();
        gate.converge(&wanted(vec![])).await;
        assert_eq!(gate.shown(), before);
        if let Some(policy) = &gate.policy {
            let group = format!("{policy}/ruleCollectionGroups/postern-test");
            assert!(gate.fleet.get(&group).is_err(), "the group stands");
        }
    }
}

#[tokio::test]
async fn a_collection_of_ours_without_rules_goes_from_where_somebody_copied_it() {
    let gate = Gate::new(true).await;
    let group = format!("{}/ruleCollectionGroups/copied", gate.policy.as_ref().unwrap());
    let collection = |name: &str, priority: u16| {
        json!({
            "name": name, "priority": priority, "action": { "type": "DNAT" }, "rules": [],
            "ruleCollectionType": "FirewallPolicyNatRuleCollection",
        })
    };
    let both = json!([collection("postern-test-nat", 110), collection("theirs", 120)]);
    let document = json!({ "properties": { "priority": 410, "ruleCollections": both } });
    gate.fleet.put(&group, document).unwrap();
    gate.converge(&wanted(vec![])).await;
    let left = gate.fleet.get(&group).unwrap();
    let left = left["properties"]["ruleCollections"].as_array().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["name"], "theirs");
}

#[tokio::test]
async fn a_routed_client_passes_while_its_grant_is_open() {
    for with_policy in [false, true] {
        let gate = Gate::new(with_policy).await;
        let reaches = |source: &str| {
            let source = source.parse().unwrap();
            gate.sim.reachable(&gate.machine, source, 22, Protocol::Tcp, None)
        };
        assert!(!reaches(OFFICE));
        let wish = wanted(vec![passage(1, OFFICE, Way::Routed)]);
        gate.converge(&wish).await;
        assert!(reaches(OFFICE));
        assert!(!reaches("192.168.1.6"));
        gate.converge(&wanted(vec![])).await;
        assert!(!reaches(OFFICE));
    }
}

#[tokio::test]
async fn somebodys_edit_between_look_and_write_is_kept() {
    let gate = Gate::new(false).await;
    let wish = wanted(vec![gate.door()]);
    let stale = gate.observed().await.plan(&wish).changes.remove(0);
    let mut theirs = gate.fleet.get(&gate.firewall).unwrap();
    theirs["properties"]["threatIntelMode"] = json!("Deny");
    theirs["tags"] = json!({ "by": "somebody" });
    gate.fleet.put(&gate.firewall, theirs).unwrap();
    let before = gate.shown();
    let error = gate.write(&stale, LONG).await.unwrap_err();
    assert!(matches!(error, EnforceError::Conflict { .. }), "{error}");
    assert_eq!(gate.shown(), before);
    gate.converge(&wish).await;
    let after = gate.fleet.get(&gate.firewall).unwrap();
    assert_eq!(after["properties"]["threatIntelMode"], json!("Deny"));
    assert_eq!(after["tags"], json!({ "by": "somebody" }));
    gate.converge(&wanted(vec![])).await;
    assert_eq!(gate.shown(), before);
}

#[tokio::test]
async fn a_write_is_done_when_the_firewall_is_and_nothing_is_confirmed_before() {
    for with_policy in [false, true] {
        let gate = Gate::new(with_policy).await;
        let wish = wanted(vec![gate.door()]);
        gate.sim.set_firewall_duration(Duration::from_millis(300));
        let observed = gate.observed().await;
        let port = observed.entries(&wish)[0].mapped_port;
        gate.write(&observed.plan(&wish).changes[0], LONG).await.unwrap();
        assert_eq!(gate.lands(ADA, port), Some(22), "in force, not just accepted");
        gate.sim.set_firewall_duration(Duration::from_hours(1));
        let observed = gate.observed().await;
        assert!(observed.settled());
        let close = observed.plan(&wanted(vec![])).changes.remove(0);
        let error = gate.write(&close, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, EnforceError::Unavailable { .. }), "{error}");
        let observed = gate.observed().await;
        assert_eq!(gate.lands(ADA, port), Some(22), "the closing is under way");
        assert!(!observed.settled());
    }
}

#[tokio::test]
async fn an_accepted_write_that_fails_is_made_again() {
    let gate = Gate::new(false).await;
    let wish = wanted(vec![gate.door()]);
    let change = gate.observed().await.plan(&wish).changes.remove(0);
    gate.sim.completions().add(fault(
        "AzureFirewalls.CreateOrUpdate",
        When::Next(1),
        status(400, "OutOfLuck", None),
    ));
    let error = gate.write(&change, LONG).await.unwrap_err();
    assert!(matches!(error, EnforceError::Conflict { .. }), "{error}");
    let observed = gate.observed().await;
    assert!(!observed.settled());
    let again = observed.plan(&wish).changes.remove(0);
    assert_eq!(again.verb, Verb::Repair);
    gate.write(&again, LONG).await.unwrap();
    let observed = gate.observed().await;
    assert_eq!(gate.lands(ADA, observed.entries(&wish)[0].mapped_port), Some(22));
}

#[tokio::test]
async fn what_is_no_firewall_is_not_asked_for() {
    let gate = Gate::new(false).await;
    let error = enforcer(config(&gate.sim))
        .read_firewall(&gate.machine, &"test".parse().unwrap(), Bands::default())
        .await
        .unwrap_err();
    assert!(matches!(error, EnforceError::Malformed(_)), "{error}");
    assert_eq!(gate.sim.calls().of("VirtualMachines.Get"), 0);
}

/// What the loop wants of the firewall's point for the gate's machine, as discovered.
async fn desired(gate: &Gate, grants: Vec<WantedGrant>) -> Desired {
    let machine: MachineId = gate.machine.parse().unwrap();
    let enforcer = enforcer(config(&gate.sim));
    let page = enforcer.discover(&machine.account(), None).await.unwrap();
    let found = page.machines.iter().find(|one| one.id == machine).unwrap();
    let approach = found.interfaces[0].approach().unwrap().clone();
    assert_eq!(approach.inside, ["10.0.9.0/26".parse().unwrap()]);
    assert_eq!(approach.doors, [gate.public]);
    Desired {
        installation: "test".parse().unwrap(),
        point: approach.point.clone(),
        members: vec![Member {
            machine,
            addresses: found.interfaces[0].addresses.clone(),
            interfaces: vec![found.interfaces[0].id.clone()],
            guard: None,
            approach: Some(approach),
            grants,
        }],
        displaced: Vec::new(),
        unsettled: false,
    }
}

pub(crate) fn want(grant: u128, source: &str) -> WantedGrant {
    WantedGrant {
        grant: an_id(grant),
        ports: vec![ports("22")],
        sources: vec![source.parse().unwrap()],
        not_after: at(600),
        opening: false,
    }
}

#[tokio::test]
async fn through_the_enforcer_a_discovered_firewall_opens_and_closes_in_one_write_each() {
    for with_policy in [false, true] {
        let gate = Gate::new(with_policy).await;
        let enforcer = enforcer(config(&gate.sim));
        let before = gate.shown();
        let wanted = desired(&gate, vec![want(1, ADA), want(2, OFFICE), want(3, "10.0.1.77")]).await;
        let pass = async |wanted: &Desired| {
            let plan = enforcer.observe(wanted).await.unwrap().plan(wanted);
            assert_eq!((plan.changes.len(), plan.obstacles.len()), (1, 0), "{plan:?}");
            let mut bindings = Bindings::new();
            enforcer
                .apply(&wanted.point, &plan.changes[0], &mut bindings)
                .await
                .unwrap();
            let observed = enforcer.observe(wanted).await.unwrap();
            assert!(observed.settled());
            assert_eq!(observed.plan(wanted).changes, []);
            observed.evidence(wanted)
        };
        let evidence = pass(&wanted).await;
        assert!(evidence.values().all(|one| one.complete), "{evidence:?}");
        assert_eq!(evidence.len(), 3);
        let told = entrances(&evidence[&an_id(1)].rules);
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].host, gate.lands(ADA, told[0].port)),
            (gate.public, Some(22))
        );
        assert_eq!(gate.lands(BOB, told[0].port), None);
        assert!(
            entrances(&evidence[&an_id(2)].rules).is_empty(),
            "routed, not mapped"
        );
        // In the machine's own network nothing passes the firewall, so that nothing is written for it.
        assert_eq!(evidence[&an_id(3)].rules, json!([]));
        let evidence = pass(&desired(&gate, Vec::new()).await).await;
        assert!(evidence.is_empty());
        assert_eq!(gate.shown(), before);
    }
}

#[tokio::test]
async fn the_sweeper_finds_rules_of_firewalls_by_their_marks_and_takes_them_out_alone() {
    for with_policy in [false, true] {
        let gate = Gate::new(with_policy).await;
        let enforcer = enforcer(config(&gate.sim));
        let before = gate.shown();
        let wanted = desired(&gate, vec![want(1, ADA), want(2, OFFICE)]).await;
        let plan = enforcer.observe(&wanted).await.unwrap().plan(&wanted);
        gate.write(&plan.changes[0], LONG).await.unwrap();
        let account = wanted.members[0].machine.account();
        let marked = enforcer.marked(&account, &wanted.installation).await.unwrap();
        assert_eq!(marked.len(), 2, "{marked:?}");
        for one in &marked {
            enforcer.remove(one).await.unwrap();
            enforcer.remove(one).await.unwrap();
        }
        assert_eq!(gate.shown(), before);
        assert_eq!(enforcer.marked(&account, &wanted.installation).await.unwrap(), []);
        let other = "other".parse().unwrap();
        assert_eq!(enforcer.marked(&account, &other).await.unwrap(), []);
    }
}
