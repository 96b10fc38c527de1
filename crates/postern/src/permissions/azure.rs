//! Azure custom roles.
//!
//! The actions are those of the Azure documentation, "Azure permissions for Compute", "… for Networking" and "… for
//! Management and governance". Azure's conditions on role assignments know no action of these, so that a role is as
//! narrow as its actions and its scopes.

use serde_json::{Value, json};

use super::Bearer;

/// An action of a role, with its reason.
#[derive(Debug, Clone, Copy)]
pub struct Action {
    /// Its name, as Azure spells it.
    pub name: &'static str,
    /// Why it is there.
    pub why: &'static str,
}

const fn action(name: &'static str, why: &'static str) -> Action {
    Action { name, why }
}

const READ_NSG: Action = action(
    "Microsoft.Network/networkSecurityGroups/read",
    "the rules, before and after each change, and wherever marks may be",
);
const DELETE_RULE: Action = action(
    "Microsoft.Network/networkSecurityGroups/securityRules/delete",
    "closing",
);
const WRITE_RULE: &str = "Microsoft.Network/networkSecurityGroups/securityRules/write";
const OPERATIONS: Action = action(
    "Microsoft.Network/locations/operations/read",
    "whether a write has been carried out, which takes Azure a while",
);
const OPERATION_RESULTS: Action = action(
    "Microsoft.Network/locations/operationResults/read",
    "the same, where Azure answers a write with `Location` alone",
);
const SUBSCRIPTIONS: Action = action(
    "Microsoft.Resources/subscriptions/read",
    "which subscriptions there are, where the configuration names none",
);

const READ_FIREWALL: Action = action(
    "Microsoft.Network/azureFirewalls/read",
    "which firewalls there are, their rules, and wherever marks may be",
);
const READ_FIREWALL_POLICY: Action = action(
    "Microsoft.Network/firewallPolicies/read",
    "which firewalls have the policy, and what it inherits",
);

const SERVER: &[Action] = &[
    action(
        "Microsoft.Compute/virtualMachines/read",
        "discovery: machines and their power",
    ),
    action(
        "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action",
        "Azure asks for it when an NSG is written in which a rule of others names an application security group",
    ),
    READ_FIREWALL,
    OPERATION_RESULTS,
    OPERATIONS,
    action(
        "Microsoft.Network/networkInterfaces/effectiveNetworkSecurityGroups/action",
        "what filters at an interface, before a grant is called open or closed; only with `azure.effective_rules`",
    ),
    action(
        "Microsoft.Network/networkInterfaces/read",
        "discovery, and where a machine is when it is opened",
    ),
    READ_NSG,
    DELETE_RULE,
    action(WRITE_RULE, "opening and locking down, rule by rule"),
    action(
        "Microsoft.Network/networkSecurityGroups/write",
        "many changes in one write; an NSG's associations are no part of it",
    ),
    action(
        "Microsoft.Network/publicIPAddresses/read",
        "discovery: which machines the internet can reach",
    ),
    action(
        "Microsoft.Network/virtualNetworks/read",
        "discovery: subnets, their NSGs and address spaces",
    ),
    SUBSCRIPTIONS,
];

const SWEEPER: &[Action] = &[
    READ_FIREWALL,
    READ_FIREWALL_POLICY,
    OPERATION_RESULTS,
    OPERATIONS,
    READ_NSG,
    DELETE_RULE,
    action(
        WRITE_RULE,
        "taking a grant that is over out of a rule that it shares with one that is not",
    ),
    SUBSCRIPTIONS,
];

const READ_GROUPS: Action = action(
    "Microsoft.Network/firewallPolicies/ruleCollectionGroups/read",
    "the rules of a policy, before and after each change, and wherever marks may be",
);
const DELETE_GROUP: Action = action(
    "Microsoft.Network/firewallPolicies/ruleCollectionGroups/delete",
    "closing the last door of a policy: our group goes",
);
const JOIN_GROUPS: Action = action(
    "Microsoft.Network/ipGroups/join/action",
    "Azure asks for it when a firewall is written in which a rule of others names an IP group",
);
const JOIN_PUBLIC: Action = action(
    "Microsoft.Network/publicIPAddresses/join/action",
    "Azure asks for it when a firewall is written, for the addresses that it has",
);
const JOIN_SUBNET: Action = action(
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Azure asks for it when a firewall is written, for the subnet that it is in",
);
const WRITE_FIREWALL: &str = "Microsoft.Network/azureFirewalls/write";
const WRITE_GROUP: &str = "Microsoft.Network/firewallPolicies/ruleCollectionGroups/write";

/// What the server needs besides where firewalls stand before machines.
const SERVER_AT_FIREWALLS: &[Action] = &[
    action(
        WRITE_FIREWALL,
        "opening and closing at a classic firewall, whose rules are part of it",
    ),
    READ_FIREWALL_POLICY,
    DELETE_GROUP,
    READ_GROUPS,
    action(WRITE_GROUP, "opening and closing at a policy, in a group of ours"),
    JOIN_GROUPS,
    JOIN_PUBLIC,
    action(
        "Microsoft.Network/loadBalancers/read",
        "discovery: by which other addresses a firewall's packets get to machines",
    ),
    action(
        "Microsoft.Network/routeTables/read",
        "discovery: which subnets' packets pass a firewall",
    ),
    JOIN_SUBNET,
    action(
        "Microsoft.Network/virtualNetworks/subnets/read",
        "the prefixes that machines see a firewall's packets come from",
    ),
];

/// What the sweeper needs besides there.
const SWEEPER_AT_FIREWALLS: &[Action] = &[
    action(
        WRITE_FIREWALL,
        "closing at a classic firewall, whose rules are part of it",
    ),
    DELETE_GROUP,
    READ_GROUPS,
    action(WRITE_GROUP, "closing at a policy, in a group of ours"),
    JOIN_GROUPS,
    JOIN_PUBLIC,
    JOIN_SUBNET,
];

/// What the server needs besides to read requesters' own role assignments. They are read at machines, and what is
/// assigned above a machine is listed there too.
const SERVER_FOR_RBAC: &[Action] = &[
    action(
        "Microsoft.Authorization/denyAssignments/read",
        "what is taken from requesters whatever their roles; for `azure.rbac`",
    ),
    action(
        "Microsoft.Authorization/roleAssignments/read",
        "which roles requesters have themselves; for `azure.rbac`",
    ),
    action(
        "Microsoft.Authorization/roleDefinitions/read",
        "what those roles allow; for `azure.rbac`",
    ),
];

/// What is asked of Azure besides network security groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Besides {
    /// Azure Firewalls stand before machines.
    pub firewalls: bool,
    /// Requesters' own role assignments are demanded: `azure.rbac`.
    pub rbac: bool,
}

/// The actions of the bearer's role, by name.
pub fn actions(bearer: Bearer, besides: Besides) -> Vec<Action> {
    let (own, more) = match bearer {
        Bearer::Server => (SERVER, SERVER_AT_FIREWALLS),
        Bearer::Sweeper => (SWEEPER, SWEEPER_AT_FIREWALLS),
    };
    let mut all = own.to_vec();
    if besides.firewalls {
        all.extend_from_slice(more);
    }
    if besides.rbac && bearer == Bearer::Server {
        all.extend_from_slice(SERVER_FOR_RBAC);
    }
    all.sort_by_key(|action| action.name.to_lowercase());
    all
}

/// The custom role, as `az role definition create --role-definition` takes it, for whole subscriptions.
pub fn role(bearer: Bearer, besides: Besides, subscriptions: &[String]) -> Value {
    let (name, description) = match bearer {
        Bearer::Server => (
            "Postern",
            "Opens and closes ports in network security groups for just-in-time access",
        ),
        Bearer::Sweeper => (
            "Postern sweeper",
            "Closes what just-in-time access left open past its end",
        ),
    };
    let names: Vec<&str> = actions(bearer, besides)
        .iter()
        .map(|action| action.name)
        .collect();
    let scopes: Vec<String> = subscriptions
        .iter()
        .map(|subscription| format!("/subscriptions/{subscription}"))
        .collect();
    json!({
        "Name": name,
        "IsCustom": true,
        "Description": description,
        "Actions": names,
        "NotActions": [],
        "DataActions": [],
        "NotDataActions": [],
        "AssignableScopes": scopes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_sorted_and_name_no_wildcard() {
        for (bearer, firewalls) in [
            (Bearer::Server, false),
            (Bearer::Server, true),
            (Bearer::Sweeper, false),
            (Bearer::Sweeper, true),
        ] {
            let besides = Besides {
                firewalls,
                rbac: firewalls,
            };
            let names: Vec<&str> = actions(bearer, besides)
                .iter()
                .map(|action| action.name)
                .collect();
            let mut sorted = names.clone();
            sorted.sort_by_key(|name| name.to_lowercase());
            sorted.dedup();
            assert_eq!(names, sorted);
            assert!(names.iter().all(|name| !name.contains('*')), "{names:?}");
        }
    }

    #[test]
    fn the_sweepers_role_writes_single_rules_and_nothing_else() {
        let writes: Vec<&str> = actions(Bearer::Sweeper, Besides::default())
            .iter()
            .map(|action| action.name)
            .filter(|name| !name.ends_with("/read"))
            .collect();
        assert_eq!(
            writes,
            [
                "Microsoft.Network/networkSecurityGroups/securityRules/delete",
                "Microsoft.Network/networkSecurityGroups/securityRules/write",
            ]
        );
    }
}
