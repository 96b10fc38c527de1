//! The simulated firewall of a fleet: how it is built, and its rules as one list, whichever document has them.

use anyhow::Context as _;
use postern_sim::arm::Fleet;
use serde_json::{Map, Value, json};

use crate::{
    edit::MARK,
    script::{ApplicationCollection, FirewallAction, FirewallCollection, FirewallPlan, FirewallRule},
};

/// What a firewall is called, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its name; its policy's and its public address's begin with it.
    name: &'static str,
    /// The name of the route table that leads to it.
    table: &'static str,
    /// The prefix of its subnet.
    subnet: &'static str,
    /// The address that it gets there, which routes name.
    private: &'static str,
}

/// In the machines' network.
pub const FIRST: Place = Place {
    name: "edge",
    table: "to-edge",
    subnet: "10.20.250.0/26",
    private: "10.20.250.4",
};

/// In a network of its own.
pub const SECOND: Place = Place {
    name: "hub",
    table: "to-hub",
    subnet: "10.21.250.0/26",
    private: "10.21.250.4",
};

/// The prefix of the second firewall's network.
pub const HUB: &str = "10.21.0.0/16";

/// The firewall and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Its resource id.
    pub firewall: String,
    /// Its policy, where that has its rules.
    pub policy: Option<String>,
    /// The public address that it answers at.
    pub public: String,
    /// The route table that leads to it.
    pub table: String,
}

impl Gate {
    /// The document with the rules of others.
    pub fn theirs(&self) -> String {
        self.document("theirs")
    }

    /// The document with ours.
    pub fn ours(&self) -> String {
        self.document("postern-test")
    }

    fn document(&self, group: &str) -> String {
        self.policy.as_ref().map_or_else(
            || self.firewall.clone(),
            |policy| format!("{policy}/ruleCollectionGroups/{group}"),
        )
    }

    /// What the firewall, or its policy, is as a whole.
    pub fn whole(&self) -> &str {
        self.policy.as_ref().unwrap_or(&self.firewall)
    }
}

/// The route table that leads to the firewall which is built later.
pub fn routes(fleet: &Fleet, place: Place) -> anyhow::Result<String> {
    Ok(fleet.default_route(place.table, place.private)?)
}

/// Builds the firewall. `machines` are the machines' private addresses.
pub fn build(
    fleet: &Fleet,
    (place, plan): (Place, &FirewallPlan),
    network: &str,
    table: String,
    machines: &[String],
) -> anyhow::Result<Gate> {
    let Place { name, subnet, .. } = place;
    let subnet = fleet.subnet(network, "AzureFirewallSubnet", subnet, None)?;
    let policy = plan
        .policy
        .then(|| fleet.firewall_policy(&format!("{name}-rules")))
        .transpose()?;
    let properties = policy.as_ref().map_or_else(
        || json!({}),
        |policy| json!({ "firewallPolicy": { "id": policy } }),
    );
    let firewall = fleet.firewall(name, &subnet, properties)?;
    let address = fleet.id(&format!("Microsoft.Network/publicIPAddresses/{name}-ip"));
    let address = fleet.get(&address)?;
    let public = address
        .pointer("/properties/ipAddress")
        .and_then(Value::as_str)
        .context("a public address without an address")?;
    let gate = Gate {
        public: public.to_owned(),
        firewall,
        policy,
        table,
    };
    let shelves = shelves(&plan.collections, &gate, machines);
    let mut document = if gate.policy.is_some() {
        json!({ "properties": { "priority": 200 } })
    } else {
        fleet.get(&gate.firewall)?
    };
    write(&mut document, gate.policy.is_some(), shelves)?;
    for collection in &plan.applications {
        names_mut(&mut document, gate.policy.is_some())?.push(names_of(collection, gate.policy.is_some()));
    }
    fleet.put(&gate.theirs(), document)?;
    Ok(gate)
}

/// The collections that can stand side by side.
fn shelves(collections: &[FirewallCollection], gate: &Gate, machines: &[String]) -> Vec<Shelf> {
    let mut shelves: Vec<Shelf> = Vec::new();
    for collection in collections {
        let shelf = Shelf::of(collection, gate, machines);
        if !shelves
            .iter()
            .any(|other| other.collides(&shelf, gate.policy.is_some()))
        {
            shelves.push(shelf);
        }
    }
    shelves
}

/// What an inherited policy is called, after the one that inherits it.
pub const PARENT: &str = "-above";

/// Gives the firewall's policy another one to inherit, with these collections in a group of others.
pub fn inherit(
    fleet: &Fleet,
    gate: &Gate,
    collections: &[FirewallCollection],
    machines: &[String],
) -> anyhow::Result<Gate> {
    let policy = gate.policy.as_ref().context("a firewall without a policy")?;
    let name = policy.rsplit('/').next().unwrap_or_default();
    let above = fleet.firewall_policy(&format!("{name}{PARENT}"))?;
    let parent = Gate {
        policy: Some(above.clone()),
        ..gate.clone()
    };
    let mut document = json!({ "properties": { "priority": 300 } });
    write(&mut document, true, shelves(collections, &parent, machines))?;
    fleet.put(&parent.theirs(), document)?;
    let mut child = fleet.get(policy)?;
    child
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .context("a policy without properties")?
        .insert("basePolicy".to_owned(), json!({ "id": above }));
    fleet.put(policy, child)?;
    Ok(parent)
}

/// A collection of rules for names, as it is written.
pub fn names_of(collection: &ApplicationCollection, of_policy: bool) -> Value {
    let rules: Vec<Value> = collection
        .rules
        .iter()
        .map(|rule| {
            let mut written = json!({
                "name": rule.name,
                "sourceAddresses": [rule.source],
                "protocols": [{ "protocolType": "Https", "port": rule.port }],
                "targetFqdns": [rule.target],
            });
            if let (true, Some(members)) = (of_policy, written.as_object_mut()) {
                members.insert("ruleType".to_owned(), json!("ApplicationRule"));
            }
            written
        })
        .collect();
    let action = json!({ "type": if collection.denies { "Deny" } else { "Allow" } });
    if of_policy {
        json!({
            "name": collection.name,
            "ruleCollectionType": "FirewallPolicyFilterRuleCollection",
            "priority": collection.priority,
            "action": action,
            "rules": rules,
        })
    } else {
        json!({
            "name": collection.name,
            "properties": { "priority": collection.priority, "action": action, "rules": rules },
        })
    }
}

/// The list of a document that has collections of rules for names; in a policy among others.
pub fn names_mut(document: &mut Value, of_policy: bool) -> anyhow::Result<&mut Vec<Value>> {
    let list = if of_policy {
        "ruleCollections"
    } else {
        "applicationRuleCollections"
    };
    document
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .context("a document without properties")?
        .entry(list)
        .or_insert_with(|| json!([]))
        .as_array_mut()
        .context("a list of collections")
}

/// Whether a collection, of either form, has rules for names.
pub fn is_of_names(collection: &Value) -> bool {
    let inner = collection.get("properties").unwrap_or(collection);
    let rules = inner.get("rules").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .any(|rule| rule.get("targetFqdns").is_some())
}

/// A rule collection, the same for both documents.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// Its name.
    pub name: String,
    /// What its rules do.
    pub action: FirewallAction,
    /// Priority, action, rules, and in a policy its type.
    pub content: Map<String, Value>,
}

impl Shelf {
    /// A collection of others, as it is written.
    pub fn of(collection: &FirewallCollection, gate: &Gate, machines: &[String]) -> Self {
        let (word, kind) = match collection.action {
            FirewallAction::Nat => ("DNAT", "FirewallPolicyNatRuleCollection"),
            FirewallAction::Allow => ("Allow", "FirewallPolicyFilterRuleCollection"),
            FirewallAction::Deny => ("Deny", "FirewallPolicyFilterRuleCollection"),
        };
        let word = if gate.policy.is_none() && word == "DNAT" {
            "Dnat"
        } else {
            word
        };
        let mut content = Map::new();
        content.insert("priority".to_owned(), json!(collection.priority));
        content.insert("action".to_owned(), json!({ "type": word }));
        if gate.policy.is_some() {
            content.insert("ruleCollectionType".to_owned(), json!(kind));
        }
        let mut shelf = Self {
            name: collection.name.clone(),
            action: collection.action,
            content,
        };
        let rules: Vec<Value> = collection
            .rules
            .iter()
            .filter_map(|rule| shelf.rule(rule, gate, machines))
            .collect();
        shelf.content.insert("rules".to_owned(), Value::Array(rules));
        shelf
    }

    /// A rule as it is written here; none where there is no machine.
    pub fn rule(&self, rule: &FirewallRule, gate: &Gate, machines: &[String]) -> Option<Value> {
        let machine = machines.get(rule.machine.checked_rem(machines.len())?)?;
        let mut written = json!({
            "name": rule.name,
            "sourceAddresses": [rule.source],
        });
        let of_policy = gate.policy.is_some();
        let members = written.as_object_mut()?;
        let protocols = if of_policy { "ipProtocols" } else { "protocols" };
        members.insert(protocols.to_owned(), json!(["TCP"]));
        let translates = self.action == FirewallAction::Nat;
        if of_policy {
            let kind = if translates { "NatRule" } else { "NetworkRule" };
            members.insert("ruleType".to_owned(), json!(kind));
        }
        if translates {
            members.insert("destinationAddresses".to_owned(), json!([gate.public]));
            members.insert("destinationPorts".to_owned(), json!([rule.mapped.to_string()]));
            members.insert("translatedAddress".to_owned(), json!(machine));
            members.insert("translatedPort".to_owned(), json!(rule.port.to_string()));
        } else {
            members.insert("destinationAddresses".to_owned(), json!([machine]));
            members.insert("destinationPorts".to_owned(), json!([rule.port.to_string()]));
        }
        Some(written)
    }

    /// Its rules.
    pub fn rules(&self) -> &[Value] {
        self.content
            .get("rules")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Its rules, to be changed.
    pub fn rules_mut(&mut self) -> anyhow::Result<&mut Vec<Value>> {
        self.content
            .entry("rules")
            .or_insert_with(|| json!([]))
            .as_array_mut()
            .context("rules that are no list")
    }

    /// Whether it is one that Postern makes, which has no rules of others.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with("postern-test-")
    }

    /// Whether the two cannot be in one document.
    fn collides(&self, other: &Self, of_policy: bool) -> bool {
        let priority = |shelf: &Self| shelf.content.get("priority").cloned();
        let same_list = (self.action == FirewallAction::Nat) == (other.action == FirewallAction::Nat);
        self.name == other.name || ((of_policy || same_list) && priority(self) == priority(other))
    }
}

/// Whether a rule carries our mark.
pub fn is_marked(rule: &Value) -> bool {
    rule.get("description")
        .and_then(Value::as_str)
        .is_some_and(|text| text.starts_with(MARK))
}

/// The lists of collections in a document's properties; those of applications' rules are nobody's here.
const LISTS: [&str; 3] = ["natRuleCollections", "networkRuleCollections", "ruleCollections"];

/// The collections of a document, of either form.
pub fn read(document: &Value) -> Vec<Shelf> {
    let mut shelves = Vec::new();
    for list in LISTS {
        let collections = document
            .get("properties")
            .and_then(|properties| properties.get(list)?.as_array());
        for collection in collections.into_iter().flatten() {
            let inner = collection.get("properties").unwrap_or(collection);
            if is_of_names(collection) {
                continue;
            }
            let (Some(name), Some(content)) =
                (collection.get("name").and_then(Value::as_str), inner.as_object())
            else {
                continue;
            };
            let mut content = content.clone();
            content.remove("name");
            content.remove("provisioningState");
            let word = inner
                .pointer("/action/type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let action = match word.to_ascii_lowercase().as_str() {
                "dnat" => FirewallAction::Nat,
                "deny" => FirewallAction::Deny,
                _ => FirewallAction::Allow,
            };
            shelves.push(Shelf {
                name: name.to_owned(),
                action,
                content,
            });
        }
    }
    shelves
}

/// Puts the collections in place of those of the document; those of rules for names stay.
pub fn write(document: &mut Value, of_policy: bool, shelves: Vec<Shelf>) -> anyhow::Result<()> {
    let mut lists: Map<String, Value> = Map::new();
    let wanted: &[&str] = if of_policy {
        &["ruleCollections"]
    } else {
        &["natRuleCollections", "networkRuleCollections"]
    };
    for list in wanted {
        let there = document
            .get("properties")
            .and_then(|properties| properties.get(list)?.as_array());
        let names = there.into_iter().flatten().filter(|one| is_of_names(one));
        lists.insert((*list).to_owned(), names.cloned().collect());
    }
    for Shelf {
        name,
        action,
        mut content,
    } in shelves
    {
        let (list, collection) = if of_policy {
            content.insert("name".to_owned(), json!(name));
            ("ruleCollections", Value::Object(content))
        } else {
            let list = match action {
                FirewallAction::Nat => "natRuleCollections",
                FirewallAction::Allow | FirewallAction::Deny => "networkRuleCollections",
            };
            (list, json!({ "name": name, "properties": content }))
        };
        lists
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .context("a list of collections")?
            .push(collection);
    }
    let properties = document
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .context("a document without properties")?;
    properties.extend(lists);
    Ok(())
}
