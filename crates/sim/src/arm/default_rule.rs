//! The security rules that every NSG has, below all others.

use serde_json::{Map, Value, json};

use super::id::{ChildKind, Id, Kind};

/// The rules that every NSG has (recorded with each NSG that Azure answers).
pub(super) fn all() -> Vec<(&'static str, Map<String, Value>)> {
    let rows = [
        (
            "AllowVnetInBound",
            "Allow inbound traffic from all VMs in VNET",
            "VirtualNetwork",
            "VirtualNetwork",
            "Allow",
            65000,
            "Inbound",
        ),
        (
            "AllowAzureLoadBalancerInBound",
            "Allow inbound traffic from azure load balancer",
            "AzureLoadBalancer",
            "*",
            "Allow",
            65001,
            "Inbound",
        ),
        (
            "DenyAllInBound",
            "Deny all inbound traffic",
            "*",
            "*",
            "Deny",
            65500,
            "Inbound",
        ),
        (
            "AllowVnetOutBound",
            "Allow outbound traffic from all VMs to all VMs in VNET",
            "VirtualNetwork",
            "VirtualNetwork",
            "Allow",
            65000,
            "Outbound",
        ),
        (
            "AllowInternetOutBound",
            "Allow outbound traffic from all VMs to Internet",
            "*",
            "Internet",
            "Allow",
            65001,
            "Outbound",
        ),
        (
            "DenyAllOutBound",
            "Deny all outbound traffic",
            "*",
            "*",
            "Deny",
            65500,
            "Outbound",
        ),
    ];
    rows.into_iter()
        .map(
            |(name, description, source, destination, access, priority, direction)| {
                let properties = json!({
                    "description": description,
                    "protocol": "*",
                    "sourcePortRange": "*",
                    "destinationPortRange": "*",
                    "sourceAddressPrefix": source,
                    "destinationAddressPrefix": destination,
                    "access": access,
                    "priority": priority,
                    "direction": direction,
                    "sourcePortRanges": [],
                    "destinationPortRanges": [],
                    "sourceAddressPrefixes": [],
                    "destinationAddressPrefixes": [],
                });
                (name, properties.as_object().cloned().unwrap_or_default())
            },
        )
        .collect()
}

/// The id of a default rule.
pub(super) fn id(nsg: &Id, name: &str) -> Id {
    debug_assert_eq!(nsg.kind, Kind::NetworkSecurityGroup);
    nsg.child(ChildKind::DefaultSecurityRule, name)
}
