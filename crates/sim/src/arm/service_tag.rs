//! Service tags: their names, and the ranges that a simulator is told for them.
//!
//! Names from "Virtual network service tags" (learn.microsoft.com), shortened to what firewalls near machines
//! use. Their ranges change each week and are not known here: what [`super::ArmOptions::service_tags`] gives
//! stands in the truth log from the start, one entry a tag, and is answered at `serviceTags`
//! (`ServiceTagsListResult`, Microsoft.Network 2024-05-01, `serviceTags.json`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::truth::Entry;

/// Service tags that an address prefix may be; most also take a region after a dot (`Storage.WestEurope`).
const SERVICE_TAGS: [&str; 38] = [
    "VirtualNetwork",
    "AzureLoadBalancer",
    "Internet",
    "ActionGroup",
    "ApiManagement",
    "AppConfiguration",
    "AppService",
    "AzureActiveDirectory",
    "AzureAdvancedThreatProtection",
    "AzureArcInfrastructure",
    "AzureBackup",
    "AzureBotService",
    "AzureCloud",
    "AzureConnectors",
    "AzureContainerRegistry",
    "AzureCosmosDB",
    "AzureDatabricks",
    "AzureDevOps",
    "AzureDigitalTwins",
    "AzureEventGrid",
    "AzureFrontDoor",
    "AzureIoTHub",
    "AzureKeyVault",
    "AzureMonitor",
    "AzurePlatformDNS",
    "AzurePlatformIMDS",
    "AzurePlatformLKM",
    "AzureResourceManager",
    "AzureSiteRecovery",
    "AzureTrafficManager",
    "BatchNodeManagement",
    "EventHub",
    "GatewayManager",
    "GuestAndHybridManagement",
    "MicrosoftContainerRegistry",
    "ServiceBus",
    "Sql",
    "Storage",
];

/// Whether a text is a tag that Azure knows, perhaps with a region.
pub(super) fn is_service_tag(text: &str) -> bool {
    let (tag, region) = text.split_once('.').unwrap_or((text, "x"));
    SERVICE_TAGS.iter().any(|known| known.eq_ignore_ascii_case(tag))
        && !region.is_empty()
        && region.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
}

/// The entry of the truth log that holds a tag's ranges.
pub(super) fn key(tag: &str) -> String {
    format!(
        "/providers/microsoft.network/servicetags/{}",
        tag.to_ascii_lowercase()
    )
}

/// The entries of the truth log for tags with ranges.
pub(super) fn entries(tags: &BTreeMap<String, Vec<IpNet>>, now: DateTime<Utc>) -> Vec<Entry> {
    tags.iter()
        .map(|(tag, ranges)| Entry {
            at: now,
            cloud: "azure",
            operation: "ServiceTags.Publish".to_owned(),
            resource: key(tag),
            before: None,
            after: Some(json!({ "name": tag, "properties": { "addressPrefixes": ranges } })),
            request_id: String::new(),
            caller: "azure".to_owned(),
        })
        .collect()
}

/// The answer of `serviceTags` in a region.
pub(super) fn list(tags: &BTreeMap<String, Vec<IpNet>>, subscription: &str, location: &str) -> Value {
    let values: Vec<Value> = tags
        .iter()
        .map(|(tag, ranges)| {
            let (service, region) = tag.split_once('.').unwrap_or((tag, ""));
            json!({
                "name": tag,
                "id": tag,
                "properties": {
                    "changeNumber": "1",
                    "region": region.to_ascii_lowercase(),
                    "systemService": service,
                    "addressPrefixes": ranges,
                },
            })
        })
        .collect();
    json!({
        "name": "Public",
        "id": format!(
            "/subscriptions/{subscription}/providers/Microsoft.Network/locations/{location}/serviceTags/Public"
        ),
        "type": "Microsoft.Network/serviceTags",
        "changeNumber": "1",
        "cloud": "Public",
        "values": values,
    })
}
