//! What the firewall's planner promises, case by case; on many drawn ones in [`drawn`].

mod drawn;
mod shapes;

use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    enforcer::{Change, Plan, Verb},
    firewall::{Door, Firewall},
    testing::{an_id, at, ports},
};
use serde_json::{Value, json};

use super::{
    document::{Edit, Form},
    plan::{Bands, Entry, ObservedFirewall, Passage, Wanted, Way},
};

const FRONT: &str = "20.0.0.1";
const SIDE: &str = "20.0.0.2";
const GROUP: &str = "/firewallPolicies/p/ruleCollectionGroups/postern-test";
const MACHINES: [(&str, &str); 3] = [("10.1.0.4", "22"), ("10.1.0.4", "3389"), ("10.1.0.5", "22")];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A classic firewall, or a policy with somebody's groups and perhaps ours.
#[derive(Debug, Clone)]
struct Model {
    form: Form,
    document: Value,
    others: Vec<Value>,
    bands: Bands,
}

impl Model {
    fn classic(nat: &[Value], network: &[Value]) -> Self {
        let document = json!({
            "id": "/azureFirewalls/Edge", "etag": "W/\"1\"", "novelty": [1.5, null],
            "properties": {
                "provisioningState": "Succeeded", "threatIntelMode": "Alert", "natRuleCollections": nat,
                "networkRuleCollections": network, "applicationRuleCollections": [{ "name": "apps" }],
            },
        });
        Self {
            form: Form::Classic,
            document,
            others: Vec::new(),
            bands: Bands::default(),
        }
    }

    /// The same rules in a group of a policy that is not ours.
    fn policy(nat: &[Value], network: &[Value]) -> Self {
        let inner = |collections: &[Value], kind: &str, rule_type: &str| -> Vec<Value> {
            collections
                .iter()
                .map(|collection| {
                    let mut inner = collection["properties"].clone();
                    let name = collection["name"].as_str().unwrap();
                    inner["name"] = json!(format!("{kind}-{name}"));
                    inner["ruleCollectionType"] = json!(kind);
                    for rule in inner["rules"].as_array_mut().unwrap() {
                        rule["ruleType"] = json!(rule_type);
                        rule["ipProtocols"] = rule["protocols"].clone();
                    }
                    inner
                })
                .collect()
        };
        let mut collections = inner(nat, "FirewallPolicyNatRuleCollection", "NatRule");
        collections.extend(inner(
            network,
            "FirewallPolicyFilterRuleCollection",
            "NetworkRule",
        ));
        let theirs =
            json!({ "name": "theirs", "properties": { "priority": 100, "ruleCollections": collections } });
        Self {
            form: Form::Group,
            document: Value::Null,
            others: vec![theirs],
            bands: Bands::default(),
        }
    }

    fn observed(&self) -> ObservedFirewall {
        let public = vec![ip(FRONT), ip(SIDE)];
        let inside: Vec<IpNet> = vec!["10.0.0.0/26".parse().unwrap()];
        if self.form == Form::Classic {
            return ObservedFirewall::classic(self.document.clone(), public, inside, self.bands.clone())
                .unwrap();
        }
        let edge = Firewall {
            id: "/azurefirewalls/edge".to_owned(),
            public_addresses: public,
            private_addresses: vec![ip("10.0.0.4")],
            inside,
            collections: Vec::new(),
        };
        let mut groups = self.others.clone();
        groups.extend((!self.document.is_null()).then(|| self.document.clone()));
        ObservedFirewall::group(GROUP, &edge, &[groups], &[], self.bands.clone())
    }

    fn apply(&mut self, change: &Change) {
        let edit: Edit = serde_json::from_value(change.operation.clone()).unwrap();
        self.document = edit.apply(self.document.clone()).unwrap();
        assert_eq!(
            edit.apply(self.document.clone()),
            Some(self.document.clone()),
            "once is as good as twice"
        );
        if self.document.is_object() {
            self.document["properties"]["provisioningState"] = json!("Succeeded");
            if self.form == Form::Group {
                self.document["name"] = json!("postern-test");
            }
        }
    }

    fn converge(&mut self, wanted: &Wanted) -> Plan {
        let plan = self.observed().plan(wanted);
        assert!(plan.changes.len() <= 1, "one write");
        for change in &plan.changes {
            self.apply(change);
        }
        let again = self.observed().plan(wanted);
        assert_eq!(again.changes, [], "one pass is enough");
        plan
    }

    fn rules(&mut self) -> Vec<&mut Value> {
        let mut found = Vec::new();
        if let Some(members) = self.document.get_mut("properties").and_then(Value::as_object_mut) {
            for (member, collections) in members {
                if member.ends_with("Collections") && member != "applicationRuleCollections" {
                    for collection in collections.as_array_mut().unwrap() {
                        let own = collection["name"].as_str().unwrap().starts_with("postern-test-");
                        if own {
                            found.push(collection);
                        }
                    }
                }
            }
        }
        found
    }

    /// Everything that is not ours.
    fn foreign(&self) -> Value {
        let mut rest = self.document.clone();
        if let Some(members) = rest.get_mut("properties").and_then(Value::as_object_mut) {
            for (member, collections) in members {
                if member.ends_with("Collections") {
                    collections
                        .as_array_mut()
                        .unwrap()
                        .retain(|one| !one["name"].as_str().unwrap().starts_with("postern-test-"));
                }
            }
        }
        if self.form == Form::Group {
            Value::Null
        } else {
            rest
        }
    }

    fn doors(&self, machine: &str, port: &str) -> Vec<Door> {
        self.observed().whole().doors(ip(machine), ports(port))
    }
}

fn nat(name: &str, source: &str, address: &str, port: &str, to: (&str, &str)) -> Value {
    json!({
        "name": name, "protocols": ["TCP"], "sourceAddresses": [source], "destinationAddresses": [address],
        "destinationPorts": [port], "translatedAddress": to.0, "translatedPort": to.1,
    })
}

fn network(name: &str, source: &str, to: &str, port: &str) -> Value {
    json!({
        "name": name, "protocols": ["Any"], "sourceAddresses": [source], "destinationAddresses": [to],
        "destinationPorts": [port],
    })
}

fn collection(name: &str, priority: u16, action: &str, rules: &[Value]) -> Value {
    json!({ "name": name, "properties": { "priority": priority, "action": { "type": action }, "rules": rules } })
}

fn passage(grant: u128, sources: &[&str], machine: &str, port: &str, way: Way) -> Passage {
    Passage {
        grant: an_id(grant),
        not_after: at(600),
        sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
        machine: ip(machine),
        ports: ports(port),
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

const fn by_door(address: IpAddr) -> Way {
    Way::Translated { address }
}

fn told(model: &Model, wanted: &Wanted) -> Vec<(IpAddr, u16)> {
    let entries = model.observed().entries(wanted);
    entries
        .into_iter()
        .map(|entry| (entry.address, entry.mapped_port))
        .collect()
}

#[test]
fn a_grant_is_a_rule_of_ours_and_its_requester_is_told_the_mapped_port() {
    for mut model in [Model::classic(&[], &[]), Model::policy(&[], &[])] {
        let wish = wanted(vec![
            passage(1, &["203.0.113.7"], "10.1.0.4", "22", by_door(ip(FRONT))),
            passage(2, &["192.168.0.0/16"], "10.1.0.4", "20-30", Way::Routed),
        ]);
        let plan = model.converge(&wish);
        assert_eq!(
            (plan.changes[0].verb, plan.changes[0].grants.len()),
            (Verb::Open, 2)
        );
        assert_eq!(told(&model, &wish), [(ip(FRONT), 50000)]);
        let doors = model.doors("10.1.0.4", "22");
        assert_eq!(doors.len(), 1);
        assert_eq!((doors[0].ports.first, doors[0].certain), (50000, true));
        let evidence = model.observed().evidence(&wish);
        assert!(
            evidence.len() == 2 && evidence.values().all(|one| one.complete),
            "{evidence:?}"
        );
        model.document["properties"]["provisioningState"] = json!("Updating");
        assert!(
            model.observed().evidence(&wish).values().all(|one| !one.complete),
            "not in force yet"
        );
        // In the order of their names, whether or not serde_json keeps another for somebody's sake.
        insta::with_settings!({ sort_maps => true }, {
            insta::assert_json_snapshot!(format!("{:?}", model.form), model.document);
        });
    }
}

#[test]
fn the_port_that_people_know_is_used_unless_it_leads_elsewhere_too() {
    let known = nat("ssh", "203.0.113.7", FRONT, "50022", ("10.1.0.4", "22"));
    let wish = wanted(vec![passage(
        1,
        &["203.0.113.0/24"],
        "10.1.0.4",
        "22",
        by_door(ip(FRONT)),
    )]);
    let mut model = Model::classic(
        &[collection("in", 200, "Dnat", std::slice::from_ref(&known))],
        &[],
    );
    model.converge(&wish);
    assert_eq!(told(&model, &wish), [(ip(FRONT), 50022)]);
    let elsewhere = nat("other", "203.0.113.9", FRONT, "50000-50022", ("10.1.0.5", "22"));
    let mut model = Model::classic(&[collection("in", 200, "Dnat", &[known, elsewhere])], &[]);
    model.converge(&wish);
    assert_eq!(
        told(&model, &wish),
        [(ip(FRONT), 50023)],
        "the next that nobody uses"
    );
}

#[test]
fn the_port_that_was_told_stays_while_a_grant_is_open() {
    let mut model = Model::classic(&[], &[]);
    let one = |grant, machine| passage(grant, &["203.0.113.7"], machine, "22", by_door(ip(FRONT)));
    model.converge(&wanted(vec![one(1, "10.1.0.5")]));
    let both = wanted(vec![one(1, "10.1.0.5"), one(2, "10.1.0.4"), one(3, "10.1.0.5")]);
    model.converge(&both);
    let mapped: Vec<u16> = told(&model, &both).into_iter().map(|(_, port)| port).collect();
    assert_eq!(mapped, [50000, 50001, 50000]);
}

#[test]
fn a_door_of_others_to_the_port_is_in_the_way_unless_the_grant_lets_in_all_of_them() {
    let theirs = collection(
        "in",
        200,
        "Dnat",
        &[nat("ssh", "198.51.100.0/24", SIDE, "50022", ("10.1.0.4", "22"))],
    );
    let mut model = Model::classic(std::slice::from_ref(&theirs), &[]);
    let before = model.document.clone();
    let narrow = wanted(vec![passage(
        1,
        &["198.51.100.1"],
        "10.1.0.4",
        "22",
        by_door(ip(FRONT)),
    )]);
    let plan = model.converge(&narrow);
    assert_eq!(plan.obstacles[0].code, "foreign_rule_in_the_way");
    assert!(
        plan.obstacles[0].message.contains("in/ssh"),
        "{}",
        plan.obstacles[0].message
    );
    assert_eq!(model.document, before);
    let wide = wanted(vec![passage(
        1,
        &["198.51.0.0/16"],
        "10.1.0.4",
        "22",
        by_door(ip(FRONT)),
    )]);
    assert_eq!(model.converge(&wide).obstacles, []);
    // One that comes later is told of, and the grant stays open.
    let mut model = Model::classic(&[], &[]);
    model.converge(&narrow);
    model.document["properties"]["natRuleCollections"]
        .as_array_mut()
        .unwrap()
        .push(theirs);
    let plan = model.converge(&narrow);
    assert_eq!(
        (plan.obstacles.len(), plan.findings[0].code.as_str()),
        (0, "foreign_rule_opens")
    );
    assert!(model.observed().evidence(&narrow)[&an_id(1)].complete);
}

#[test]
fn what_cannot_be_had_is_refused_and_nothing_is_written() {
    let refused = |passage: Passage| {
        let mut model = Model::classic(&[], &[]);
        model.bands = Bands {
            collections: 100..=100,
            ports: 50000..=50001,
        };
        let before = model.document.clone();
        let plan = model.converge(&wanted(vec![passage]));
        assert_eq!(model.document, before);
        plan.obstacles[0].code.clone()
    };
    let from = ["203.0.113.7"];
    assert_eq!(
        refused(passage(1, &["2001:db8::1"], "10.1.0.4", "22", Way::Routed)),
        "no_ipv4"
    );
    assert_eq!(
        refused(passage(1, &from, "fd00::4", "22", Way::Routed)),
        "no_ipv4"
    );
    let nowhere = by_door(ip("20.0.0.9"));
    assert_eq!(
        refused(passage(1, &from, "10.1.0.4", "22", nowhere)),
        "machine_not_behind_point"
    );
    assert_eq!(
        refused(passage(1, &from, "10.1.0.4", "1000-2000", by_door(ip(FRONT)))),
        "too_many_mapped_ports"
    );
    assert_eq!(
        refused(passage(1, &from, "10.1.0.4", "22-24", by_door(ip(FRONT)))),
        "no_free_port"
    );
    let taken = [collection("theirs", 100, "Allow", &[])];
    let mut model = Model::classic(&[], &taken);
    model.bands.collections = 100..=100;
    let plan = model.converge(&wanted(vec![passage(1, &from, "10.1.0.4", "22", Way::Routed)]));
    assert_eq!(plan.obstacles[0].code, "no_free_priority");
}

#[test]
fn a_denying_rule_that_is_asked_before_ours_blocks_routed_packets_and_is_named() {
    let denies = [collection(
        "no",
        100,
        "Deny",
        &[network("lab", "192.168.0.0/16", "*", "*")],
    )];
    let mut model = Model::classic(&[], &denies);
    let wish = wanted(vec![passage(1, &["192.168.1.1"], "10.1.0.4", "22", Way::Routed)]);
    model.converge(&wish);
    let found = &model.observed().evidence(&wish)[&an_id(1)];
    assert!(!found.complete);
    assert!(found.blocked_by.as_ref().unwrap().contains("no/lab"), "{found:?}");
}

#[test]
fn a_strangers_rule_in_our_collection_and_another_installations_stay() {
    let mut model = Model::classic(&[], &[]);
    let wish = wanted(vec![passage(1, &["192.168.1.1"], "10.1.0.4", "22", Way::Routed)]);
    model.converge(&wish);
    let theirs = network("theirs", "192.168.7.7", "10.1.0.4", "22");
    let mut other = network("postern-test-2-x", "192.168.8.8", "10.1.0.4", "22");
    other["description"] =
        json!("postern:test-2 grant=00000000000000000000000000000001 end=2026-01-01T00:00:00Z");
    let mut stray = other.clone();
    stray["name"] = json!("copied");
    stray["description"] =
        json!("postern:test grant=00000000000000000000000000000009 end=2026-01-01T00:00:00Z");
    let rules = model.rules().remove(0)["properties"]["rules"]
        .as_array_mut()
        .unwrap();
    rules.extend([theirs.clone(), other.clone()]);
    let site = collection("site", 5000, "Allow", &[stray]);
    model.document["properties"]["networkRuleCollections"]
        .as_array_mut()
        .unwrap()
        .push(site);
    let plan = model.converge(&wanted(vec![]));
    assert_eq!(plan.changes[0].verb, Verb::Close);
    assert_eq!(
        model.document["properties"]["networkRuleCollections"],
        json!([
            collection("postern-test-network", 100, "Allow", &[theirs, other]),
            collection("site", 5000, "Allow", &[]),
        ])
    );
}

#[test]
fn a_document_that_did_not_come_into_force_is_written_again() {
    let mut model = Model::classic(&[], &[]);
    let wish = wanted(vec![passage(1, &["192.168.1.1"], "10.1.0.4", "22", Way::Routed)]);
    model.converge(&wish);
    model.document["properties"]["provisioningState"] = json!("Failed");
    assert_eq!(model.converge(&wish).changes[0].verb, Verb::Repair);
    model.converge(&wanted(vec![]));
    model.document["properties"]["provisioningState"] = json!("Failed");
    assert_eq!(
        model.converge(&wanted(vec![])).changes,
        [],
        "nothing of it is ours"
    );
    let unsettled = Wanted {
        unsettled: true,
        ..wanted(vec![])
    };
    assert_eq!(
        model.converge(&unsettled).changes.len(),
        1,
        "a closing may still be in force"
    );
}
