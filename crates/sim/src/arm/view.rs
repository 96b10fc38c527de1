//! What a `GET` shows of a resource, in the shapes of recorded traffic (Azure/azure-cli, network recordings).

use serde_json::{Map, Value, json};

use super::default_rule;
use super::firewall::COLLECTIONS;
use super::id::{ChildKind, Id, Kind};
use super::load_balancer::LISTS;
use super::references::{BackReferences, Pointer};
use super::state::{Group, Properties, Provisioning, Resource};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// A subscription.
pub(super) fn subscription((id, name): &(String, String), tenant: &str) -> Value {
    json!({
        "id": format!("/subscriptions/{id}"),
        "authorizationSource": "RoleBased",
        "subscriptionId": id,
        "tenantId": tenant,
        "displayName": name,
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "PayAsYouGo_2014-09-01",
            "spendingLimit": "Off",
        },
    })
}

/// A resource group.
pub(super) fn group(group: &Group) -> Value {
    let Group {
        subscription,
        name,
        location,
        tags,
    } = group;
    let mut shown = object(json!({
        "id": format!("/subscriptions/{subscription}/resourceGroups/{name}"),
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": location,
        "properties": { "provisioningState": "Succeeded" },
    }));
    if let Some(tags) = tags {
        shown.insert("tags".to_owned(), tags.clone());
    }
    Value::Object(shown)
}

/// A whole resource with its parts and what points at it.
pub(super) fn resource(resource: &Resource, references: &BackReferences) -> Value {
    let id = &resource.id;
    let compute = id.kind == Kind::VirtualMachine;
    let mut properties = (*resource.goal).clone();
    properties.insert(
        "provisioningState".to_owned(),
        json!(resource.provisioning.word()),
    );
    if compute {
        properties.insert("vmId".to_owned(), json!(resource.guid));
        properties.insert("timeCreated".to_owned(), json!(resource.created));
    } else if !matches!(id.kind, Kind::AzureFirewall | Kind::FirewallPolicy) {
        properties.insert("resourceGuid".to_owned(), json!(resource.guid));
    }
    if id.kind == Kind::AzureFirewall {
        for member in COLLECTIONS {
            dress(&mut properties, resource, member, member);
        }
        let addresses = ChildKind::FirewallIpConfiguration.segment();
        dress(&mut properties, resource, "ipConfigurations", addresses);
    }
    if id.kind == Kind::LoadBalancer {
        for member in LISTS {
            dress(&mut properties, resource, member, member);
        }
    }
    if id.kind == Kind::FirewallPolicy {
        let groups = resource
            .shown()
            .map(|(group, _)| json!({ "id": id.child(ChildKind::RuleCollectionGroup, &group.name).text() }));
        properties.insert("ruleCollectionGroups".to_owned(), groups.collect());
    } else if let Some(kind) = id.kind.child() {
        let parts = resource
            .shown()
            .map(|(part, goal)| child(resource, kind, &part.name, goal, part.provisioning, references));
        properties.insert(kind.segment().to_owned(), Value::Array(parts.collect()));
    }
    if id.kind == Kind::NetworkSecurityGroup {
        properties.insert(
            "defaultSecurityRules".to_owned(),
            Value::Array(default_rules(resource)),
        );
    }
    add_references(&mut properties, id, references);

    let mut shown = resource.top.clone();
    shown.insert("name".to_owned(), json!(id.name));
    shown.insert("id".to_owned(), json!(id.text()));
    shown.insert("type".to_owned(), json!(id.kind.type_name()));
    shown.insert("location".to_owned(), json!(resource.location));
    if !compute {
        shown.insert("etag".to_owned(), json!(resource.etag_text()));
    }
    if let Some(tags) = &resource.tags {
        shown.insert("tags".to_owned(), tags.clone());
    }
    shown.insert("properties".to_owned(), Value::Object(properties));
    Value::Object(shown)
}

/// Gives the items of a firewall's list what only an answer shows: id, etag, type and state.
fn dress(properties: &mut Map<String, Value>, firewall: &Resource, member: &str, segment: &str) {
    let list = properties.get_mut(member).and_then(Value::as_array_mut);
    for item in list.into_iter().flatten().filter_map(Value::as_object_mut) {
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
        let id = format!("{}/{segment}/{name}", firewall.id.text());
        let kind = format!("{}/{segment}", firewall.id.kind.type_name());
        item.insert("id".to_owned(), json!(id));
        item.insert("etag".to_owned(), json!(firewall.etag_text()));
        item.insert("type".to_owned(), json!(kind));
        if let Some(inner) = item.get_mut("properties").and_then(Value::as_object_mut) {
            inner.insert(
                "provisioningState".to_owned(),
                json!(firewall.provisioning.word()),
            );
        }
    }
}

/// A security rule, subnet or IP configuration. Its etag is its parent's.
pub(super) fn child(
    parent: &Resource,
    kind: ChildKind,
    name: &str,
    goal: &Properties,
    provisioning: Provisioning,
    references: &BackReferences,
) -> Value {
    let id = parent.id.child(kind, name);
    let mut properties = (**goal).clone();
    properties.insert("provisioningState".to_owned(), json!(provisioning.word()));
    add_references(&mut properties, &id, references);
    json!({
        "name": name,
        "id": id.text(),
        "etag": parent.etag_text(),
        "type": kind.type_name(),
        "properties": properties,
    })
}

/// The default rules of an NSG.
pub(super) fn default_rules(nsg: &Resource) -> Vec<Value> {
    default_rule::all()
        .into_iter()
        .map(|(name, mut properties)| {
            properties.insert("provisioningState".to_owned(), json!(nsg.provisioning.word()));
            json!({
                "name": name,
                "id": default_rule::id(&nsg.id, name).text(),
                "etag": nsg.etag_text(),
                "type": ChildKind::DefaultSecurityRule.type_name(),
                "properties": properties,
            })
        })
        .collect()
}

fn add_references(properties: &mut Map<String, Value>, id: &Id, references: &BackReferences) {
    for Pointer { member, from, .. } in references.get(&id.key()).into_iter().flatten() {
        match *member {
            "" => {}
            "ipConfiguration" | "virtualMachine" => {
                properties.insert((*member).to_owned(), json!({ "id": from }));
            }
            list => {
                let list = properties.entry(list.to_owned()).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(json!({ "id": from }));
                }
            }
        }
    }
}

/// A machine's instance view.
pub(super) fn instance(machine: &Resource) -> Value {
    let (code, words) = machine.power.status();
    let provisioning = machine.provisioning.word();
    json!({
        "computerName": machine.id.name,
        "statuses": [
            {
                "code": format!("ProvisioningState/{}", provisioning.to_ascii_lowercase()),
                "level": "Info",
                "displayStatus": format!("Provisioning {}", provisioning.to_ascii_lowercase()),
                "time": machine.created,
            },
            { "code": code, "level": "Info", "displayStatus": words },
        ],
    })
}
