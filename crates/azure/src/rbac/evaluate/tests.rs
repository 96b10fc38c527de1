//! Who holds what, case by case, by the built-in roles as Azure defines them.

use proptest::prelude::*;

use super::{super::pattern::tests::naive, *};

const SUBSCRIPTION: &str = "/subscriptions/00000000-0000-0000-0000-000000000001";
const VM: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/Prod/providers/Microsoft.Compute/virtualMachines/web-1";
const ADA: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const SRE: &str = "bbbbbbbb-0000-0000-0000-000000000001";

/// What Defender demands of whoever asks for just-in-time access.
const DEFENDER: [&str; 5] = [
    "Microsoft.Security/locations/jitNetworkAccessPolicies/initiate/action",
    "Microsoft.Security/locations/jitNetworkAccessPolicies/*/read",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Network/networkInterfaces/*/read",
    "Microsoft.Network/publicIPAddresses/read",
];

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::of(text)).collect()
}

fn role(name: &str, actions: &[&str], not_actions: &[&str]) -> RoleDefinition {
    RoleDefinition {
        id: format!("/roles/{name}"),
        name: name.to_owned(),
        permissions: vec![Permission {
            actions: patterns(actions),
            not_actions: patterns(not_actions),
            conditional: false,
        }],
    }
}

/// The documented built-in roles ("Azure built-in roles", Azure RBAC documentation).
fn built_in(name: &str) -> RoleDefinition {
    match name {
        "Owner" => role(name, &["*"], &[]),
        "Contributor" => role(
            name,
            &["*"],
            &[
                "Microsoft.Authorization/*/Delete",
                "Microsoft.Authorization/*/Write",
                "Microsoft.Authorization/elevateAccess/Action",
                "Microsoft.Blueprint/blueprintAssignments/write",
                "Microsoft.Blueprint/blueprintAssignments/delete",
                "Microsoft.Compute/galleries/share/action",
                "Microsoft.Purview/consents/write",
                "Microsoft.Purview/consents/delete",
            ],
        ),
        "Reader" => role(name, &["*/read"], &[]),
        "Virtual Machine Contributor" => role(
            name,
            &[
                "Microsoft.Authorization/*/read",
                "Microsoft.Compute/availabilitySets/*",
                "Microsoft.Compute/locations/*",
                "Microsoft.Compute/virtualMachines/*",
                "Microsoft.Compute/virtualMachineScaleSets/*",
                "Microsoft.Compute/disks/write",
                "Microsoft.Compute/disks/read",
                "Microsoft.Compute/disks/delete",
                "Microsoft.DevTestLab/schedules/*",
                "Microsoft.Insights/alertRules/*",
                "Microsoft.Network/applicationGateways/backendAddressPools/join/action",
                "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
                "Microsoft.Network/loadBalancers/inboundNatPools/join/action",
                "Microsoft.Network/loadBalancers/inboundNatRules/join/action",
                "Microsoft.Network/loadBalancers/probes/join/action",
                "Microsoft.Network/loadBalancers/read",
                "Microsoft.Network/locations/*",
                "Microsoft.Network/networkInterfaces/*",
                "Microsoft.Network/networkSecurityGroups/join/action",
                "Microsoft.Network/networkSecurityGroups/read",
                "Microsoft.Network/publicIPAddresses/join/action",
                "Microsoft.Network/publicIPAddresses/read",
                "Microsoft.Network/virtualNetworks/read",
                "Microsoft.Network/virtualNetworks/subnets/join/action",
                "Microsoft.RecoveryServices/locations/*",
                "Microsoft.ResourceHealth/availabilityStatuses/read",
                "Microsoft.Resources/deployments/*",
                "Microsoft.Resources/subscriptions/resourceGroups/read",
                "Microsoft.SerialConsole/serialPorts/connect/action",
                "Microsoft.Storage/storageAccounts/listKeys/action",
                "Microsoft.Storage/storageAccounts/read",
                "Microsoft.Support/*",
            ],
            &[],
        ),
        _ => panic!("{name}"),
    }
}

fn assigned(role: &str, scope: &str, principal: &str) -> RoleAssignment {
    RoleAssignment {
        id: format!("{scope}/assignments/{role}"),
        scope: scope.to_owned(),
        role: role.to_owned(),
        principal: principal.to_owned(),
        is_group: principal == SRE,
        conditional: false,
    }
}

fn facts(assignments: Vec<RoleAssignment>, roles: Vec<RoleDefinition>) -> Facts {
    Facts {
        assignments,
        definitions: roles.into_iter().map(|role| (role.name.clone(), role)).collect(),
        denies: Vec::new(),
    }
}

fn ada() -> Who {
    Who {
        object_id: ADA.to_owned(),
        groups: BTreeSet::new(),
        chosen_by_azure: true,
    }
}

fn deny(scope: &str, principals: &[&str], actions: &[&str], not_actions: &[&str]) -> DenyAssignment {
    DenyAssignment {
        id: format!("{scope}/deny"),
        name: "stack".to_owned(),
        scope: scope.to_owned(),
        permissions: vec![Permission {
            actions: patterns(actions),
            not_actions: patterns(not_actions),
            conditional: false,
        }],
        principals: principals.iter().map(|id| (*id).to_owned()).collect(),
        excluded: BTreeSet::new(),
        only_there: false,
        assigned: false,
    }
}

fn missing(findings: &Findings) -> Vec<&str> {
    findings
        .lacks
        .iter()
        .map(|lack| match lack {
            Lack::Missing { action } | Lack::Denied { action, .. } => action.as_str(),
        })
        .collect()
}

#[test]
fn the_built_in_roles_hold_what_their_documentation_says() {
    let demanded = [
        "Microsoft.Compute/virtualMachines/read",
        "Microsoft.Compute/virtualMachines/start/action",
        "Microsoft.Network/networkInterfaces/*/read",
        "Microsoft.Network/networkSecurityGroups/write",
        "Microsoft.Security/locations/jitNetworkAccessPolicies/initiate/action",
        "Microsoft.Authorization/roleAssignments/write",
        "Microsoft.Authorization/roleAssignments/read",
    ];
    for (name, held) in [
        ("Owner", [true, true, true, true, true, true, true]),
        ("Contributor", [true, true, true, true, true, false, true]),
        ("Reader", [true, false, true, false, false, false, true]),
        (
            "Virtual Machine Contributor",
            [true, true, true, false, false, false, true],
        ),
    ] {
        for (action, held) in demanded.iter().zip(held) {
            assert_eq!(
                allows(&built_in(name), &Pattern::of(action)),
                held,
                "{name} {action}"
            );
        }
    }
}

#[test]
fn what_defender_demands_needs_more_than_reader_and_less_than_owner() {
    for (name, expected) in [
        ("Owner", vec![]),
        ("Contributor", vec![]),
        ("Reader", vec![DEFENDER[0]]),
        ("Virtual Machine Contributor", vec![DEFENDER[0], DEFENDER[1]]),
    ] {
        let facts = facts(vec![assigned(name, SUBSCRIPTION, ADA)], vec![built_in(name)]);
        let findings = evaluate(&patterns(&DEFENDER), &facts, &ada(), VM);
        assert_eq!(missing(&findings), expected, "{name}");
    }
}

#[test]
fn roles_add_up_and_each_action_names_what_allows_it() {
    let jit = role("JIT", &[DEFENDER[0], DEFENDER[1]], &[]);
    let facts = facts(
        vec![
            assigned("Virtual Machine Contributor", SUBSCRIPTION, ADA),
            assigned("JIT", VM, SRE),
        ],
        vec![built_in("Virtual Machine Contributor"), jit],
    );
    let findings = evaluate(&patterns(&DEFENDER), &facts, &ada(), VM);
    assert_eq!(missing(&findings), Vec::<&str>::new());
    assert_eq!(findings.held[0].role_name, "JIT");
    assert_eq!(findings.held[0].assignment, format!("{VM}/assignments/JIT"));
    assert_eq!(findings.held[2].role, "/roles/Virtual Machine Contributor");
}

#[test]
fn what_one_role_takes_from_itself_another_may_give() {
    let action = "Microsoft.Compute/virtualMachines/read";
    let but = role(
        "But",
        &["Microsoft.Compute/*"],
        &["Microsoft.Compute/virtualMachines/*"],
    );
    let alone = facts(vec![assigned("But", SUBSCRIPTION, ADA)], vec![but.clone()]);
    assert_eq!(
        missing(&evaluate(&patterns(&[action]), &alone, &ada(), VM)),
        [action]
    );
    let both = facts(
        vec![
            assigned("But", SUBSCRIPTION, ADA),
            assigned("Reader", SUBSCRIPTION, ADA),
        ],
        vec![but, built_in("Reader")],
    );
    assert_eq!(evaluate(&patterns(&[action]), &both, &ada(), VM).held.len(), 1);
}

#[test]
fn a_wildcard_that_is_demanded_is_not_held_where_some_of_it_is_taken() {
    let but = role(
        "But",
        &["*"],
        &["Microsoft.Network/networkInterfaces/tapConfigurations/read"],
    );
    let facts = facts(vec![assigned("But", SUBSCRIPTION, ADA)], vec![but]);
    let demanded = patterns(&["Microsoft.Network/networkInterfaces/*/read"]);
    assert_eq!(evaluate(&demanded, &facts, &ada(), VM).lacks.len(), 1);
}

#[test]
fn a_scope_reaches_what_is_below_it_in_any_case_of_letters() {
    let group = format!("{SUBSCRIPTION}/resourcegroups/PROD");
    for (scope, reaches) in [
        ("/", true),
        ("/providers/Microsoft.Management/managementGroups/corp", true),
        (SUBSCRIPTION, true),
        (&SUBSCRIPTION.to_uppercase(), true),
        (&group, true),
        (&format!("{group}/"), true),
        (VM, true),
        (&VM.to_lowercase(), true),
        (&format!("{SUBSCRIPTION}/resourceGroups/Pro"), false),
        (&format!("{SUBSCRIPTION}/resourceGroups/Prod-2"), false),
        (&format!("{VM}/extensions/x"), false),
        (&VM.replace("web-1", "web-10"), false),
        ("/subscriptions/00000000-0000-0000-0000-00000000000", false),
        ("/subscriptions/00000000-0000-0000-0000-000000000002", false),
    ] {
        assert_eq!(covers(scope, VM), reaches, "{scope}");
    }
}

#[test]
fn an_assignment_with_a_condition_is_not_counted_and_said() {
    let mut facts = facts(
        vec![assigned("Owner", SUBSCRIPTION, ADA)],
        vec![built_in("Owner")],
    );
    facts.assignments[0].conditional = true;
    let findings = evaluate(&patterns(&DEFENDER), &facts, &ada(), VM);
    assert_eq!(missing(&findings), DEFENDER);
    assert!(findings.notes[0].contains("condition"), "{:?}", findings.notes);

    let mut conditional = built_in("Owner");
    conditional.permissions[0].conditional = true;
    facts.assignments[0].conditional = false;
    facts.definitions = [("Owner".to_owned(), conditional)].into();
    assert_eq!(
        missing(&evaluate(&patterns(&DEFENDER), &facts, &ada(), VM)),
        DEFENDER
    );
}

#[test]
fn an_assignment_to_somebody_else_is_none() {
    let owner = vec![built_in("Owner")];
    let others = facts(vec![assigned("Owner", SUBSCRIPTION, "cccccccc")], owner.clone());
    assert_eq!(evaluate(&patterns(&DEFENDER), &others, &ada(), VM).lacks.len(), 5);
    // A group that Azure did not choose for them counts only where they are known to be in it.
    let group = facts(vec![assigned("Owner", SUBSCRIPTION, SRE)], owner);
    let mut who = ada();
    who.chosen_by_azure = false;
    assert_eq!(evaluate(&patterns(&DEFENDER), &group, &who, VM).lacks.len(), 5);
    who.groups.insert(SRE.to_owned());
    assert_eq!(evaluate(&patterns(&DEFENDER), &group, &who, VM).lacks.len(), 0);
}

#[test]
fn a_deny_assignment_wins() {
    let mut facts = facts(
        vec![assigned("Owner", SUBSCRIPTION, ADA)],
        vec![built_in("Owner")],
    );
    let read = "Microsoft.Compute/virtualMachines/read";
    let mut lacks = |deny: DenyAssignment| {
        facts.denies = vec![deny];
        let findings = evaluate(&patterns(&[read]), &facts, &ada(), VM);
        findings.lacks.len() == 1
    };
    assert!(lacks(deny(SUBSCRIPTION, &[EVERYBODY], &["*"], &[])));
    assert!(lacks(deny(SUBSCRIPTION, &[ADA], &["*/read"], &[])));
    assert!(!lacks(deny(SUBSCRIPTION, &[SRE], &["*"], &[])));
    assert!(lacks(DenyAssignment {
        assigned: true,
        ..deny(SUBSCRIPTION, &[SRE], &["*"], &[])
    }));
    assert!(!lacks(deny(SUBSCRIPTION, &[ADA], &["*/write", "*/delete"], &[])));
    assert!(!lacks(deny(SUBSCRIPTION, &[ADA], &["*"], &["*/read"])));
    assert!(lacks(deny(
        SUBSCRIPTION,
        &[ADA],
        &["*"],
        &["Microsoft.Network/*/read"]
    )));
    let excluded = DenyAssignment {
        excluded: [ADA.to_owned()].into(),
        ..deny(SUBSCRIPTION, &[EVERYBODY], &["*"], &[])
    };
    assert!(!lacks(excluded));
    let there = |scope: &str| DenyAssignment {
        only_there: true,
        ..deny(scope, &[ADA], &["*"], &[])
    };
    assert!(!lacks(there(SUBSCRIPTION)));
    assert!(lacks(there(&VM.to_lowercase())));
    let mut conditional = deny(SUBSCRIPTION, &[ADA], &["*"], &[]);
    conditional.permissions[0].conditional = true;
    assert!(lacks(conditional));
}

#[test]
fn a_deny_of_some_of_a_wildcard_denies_it() {
    let mut facts = facts(
        vec![assigned("Owner", SUBSCRIPTION, ADA)],
        vec![built_in("Owner")],
    );
    facts.denies = vec![deny(
        SUBSCRIPTION,
        &[ADA],
        &["Microsoft.Network/networkInterfaces/ipConfigurations/read"],
        &[],
    )];
    let findings = evaluate(&patterns(&DEFENDER), &facts, &ada(), VM);
    assert!(
        matches!(&findings.lacks[..], [Lack::Denied { action, name, .. }] if action == DEFENDER[3] && name == "stack")
    );
}

/// Actions of a small world, so that patterns meet often.
fn action() -> impl Strategy<Value = String> {
    "[ab]/[ab]/[rw]"
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![action(), "[ab*]/[ab*]/[rw*]", Just("*".to_owned()), "\\*/[rw]"]
}

fn permission() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    (
        prop::collection::vec(pattern(), 0..3),
        prop::collection::vec(pattern(), 0..2),
    )
}

fn refs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn holds(list: &[String], action: &str) -> bool {
    list.iter()
        .any(|pattern| naive(pattern.as_bytes(), action.as_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// One action is held exactly where some role has it among its actions and not among its own `notActions`,
    /// and no deny assignment has it.
    #[test]
    fn one_action_is_held_as_the_naive_model_says(
        roles in prop::collection::vec(permission(), 0..4),
        denies in prop::collection::vec(permission(), 0..2),
        action in action(),
    ) {
        let definitions: Vec<RoleDefinition> = roles
            .iter()
            .enumerate()
            .map(|(at, (actions, not))| {
                RoleDefinition {
                    id: at.to_string(),
                    name: at.to_string(),
                    permissions: vec![Permission { actions: patterns(&refs(actions)), not_actions: patterns(&refs(not)), conditional: false }],
                }
            })
            .collect();
        let mut facts = facts(
            definitions.iter().map(|role| assigned(&role.name, SUBSCRIPTION, ADA)).collect(),
            definitions,
        );
        facts.denies = denies
            .iter()
            .map(|(actions, not)| {
                deny(SUBSCRIPTION, &[EVERYBODY], &refs(actions), &refs(not))
            })
            .collect();
        let held = roles.iter().any(|(actions, not)| holds(actions, &action) && !holds(not, &action));
        let denied = denies.iter().any(|(actions, not)| holds(actions, &action) && !holds(not, &action));
        let findings = evaluate(&[Pattern::of(&action)], &facts, &ada(), VM);
        prop_assert_eq!(findings.lacks.is_empty(), held && !denied);
    }
}
