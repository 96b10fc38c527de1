//! The roles that every tenant has.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::json;

use super::{Authorization, Definition};

impl Default for Authorization {
    fn default() -> Self {
        let mut own = Self {
            assignments: BTreeMap::new(),
            definitions: BTreeMap::new(),
            denies: BTreeMap::new(),
            groups: BTreeMap::new(),
            above: BTreeMap::new(),
        };
        // "Azure built-in roles" (Azure RBAC documentation); of the last, what has to do with machines.
        let no_access = [
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
            "Microsoft.Blueprint/blueprintAssignments/write",
            "Microsoft.Blueprint/blueprintAssignments/delete",
        ];
        let machines = [
            "Microsoft.Authorization/*/read",
            "Microsoft.Compute/availabilitySets/*",
            "Microsoft.Compute/locations/*",
            "Microsoft.Compute/virtualMachines/*",
            "Microsoft.Compute/virtualMachineScaleSets/*",
            "Microsoft.Compute/disks/read",
            "Microsoft.Network/locations/*",
            "Microsoft.Network/networkInterfaces/*",
            "Microsoft.Network/networkSecurityGroups/join/action",
            "Microsoft.Network/networkSecurityGroups/read",
            "Microsoft.Network/publicIPAddresses/join/action",
            "Microsoft.Network/publicIPAddresses/read",
            "Microsoft.Network/virtualNetworks/read",
            "Microsoft.Network/virtualNetworks/subnets/join/action",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
        ];
        let built_in: [(&str, &str, &[&str], &[&str]); 4] = [
            ("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Owner", &["*"], &[]),
            (
                "b24988ac-6180-42a0-ab88-20f7382dd24c",
                "Contributor",
                &["*"],
                &no_access,
            ),
            ("acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", &["*/read"], &[]),
            (
                "9980e02c-c2be-4d73-94e8-173b1dc7cf3c",
                "Virtual Machine Contributor",
                &machines,
                &[],
            ),
        ];
        for (name, role_name, actions, not_actions) in built_in {
            let definition = Definition {
                name: name.to_owned(),
                role_name: role_name.to_owned(),
                description: String::new(),
                built_in: true,
                permissions: json!([{
                    "actions": actions, "notActions": not_actions, "dataActions": [], "notDataActions": [],
                }]),
                assignable: vec!["/".to_owned()],
                at: DateTime::UNIX_EPOCH,
            };
            own.definitions.insert(name.to_owned(), definition);
        }
        own
    }
}
